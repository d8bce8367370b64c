"""Encodes and loads the whole world as a snapshot. PURE.

`take` copies what may still change, at once between two records; `encode` makes bytes of that part by part, so that a
broker can go on in between; `load` makes a world in which the following records have the same effects. The bytes are a
function of the records folded so far and of the bounds on kept results.

Connections, Awaits, and what dispatch knows about tasks (attempts, deaths) are not included; of a kept result only what
answers a query is. The bytes are a series of MessagePack byte strings with one item each: a canonical array `[tag,
field, ...]` (snapshot_rows.py; docs/JOURNAL.md lists them). With the world's content, change the rows, this file,
`LAYOUT` and that page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final, NamedTuple

import msgpack

from rota.broker import snapshot_rows as rows
from rota.broker.asks import OpenAsk
from rota.broker.calls import FlowCall
from rota.broker.lane import Lane, LaneImage
from rota.broker.snapshot_rows import LAYOUT, SCHEMA, Ending, RowTag
from rota.broker.tasks import Agent, DeadTask, Run, Task, Timer, predecessor
from rota.broker.world import World
from rota.common import limits
from rota.common.columns import check_sparse
from rota.common.digests import pack
from rota.common.errors import JournalError
from rota.common.messages import Accepted, Answer
from rota.common.shown import told
from rota.common.work import Code, Failed, Provenance

PART_BYTES: Final = 1 << 20


class Picture(NamedTuple):
    """A world between two records, in immutable values."""

    head: rows.Head
    fingerprints: list[rows.FingerprintRow]
    producers: list[tuple[str, int | None, list[tuple[bytes, Accepted | Answer]]]]
    codes: list[Code]
    lanes: list[rows.LaneRow]
    # Runs with a task that waits or is in a line, with finished, issued and the decisions on waiting tasks.
    runs: list[tuple[Run, int, int, tuple[tuple[int, Failed], ...]]]
    line: list[rows.LineRow]
    agents: list[rows.AgentRow]
    asks: list[tuple[Run, str, str, int]]  # asked task, its address, who owes the answer, under which turn
    deadlines: list[rows.DeadlineRow]
    timers: list[tuple[int, Timer]]
    dead: list[tuple[int, DeadTask]]
    results: list[Task]
    unretired: dict[int, None]  # the seqs of kept results whose tasks are still in a line


# --- take ---------------------------------------------------------------------------------------------------------


def take(world: World) -> Picture:
    """Copy the state of a world. Call it between two records; the world may change afterwards."""
    codes: dict[Code, int] = {}
    lanes = list(enumerate(world.lanes.values()))
    lines = [(place, task) for place, lane in lanes for task in lane.line()]
    return Picture(
        head=rows.Head(LAYOUT, world.boot, world.next_seq, world.divergences),
        fingerprints=[rows.FingerprintRow(number, pool, facts) for (pool, facts), number in world.fingerprints.items()],
        producers=world.producers.image(),
        lanes=[_lane_row(lane.image(), codes) for _, lane in lanes],
        runs=[(run, run.finished, run.issued, _verdicts(run)) for run in _open_runs(world)],
        line=[_line_row(place, task, codes) for place, task in lines],
        agents=[
            _agent_row(place, agent, codes)
            for place, lane in lanes
            for agent in (*lane.agents.values(), *lane.ended.values())
        ],
        asks=[(ask.run, ask.address, ask.owner, ask.owes) for _, lane in lanes for ask in lane.open.values()],
        deadlines=[rows.DeadlineRow(place, *one) for place, lane in lanes for one in lane.deadlines.items()],
        timers=[(place, timer) for place, lane in lanes for timer in lane.timers.values()],
        dead=[(place, dead) for place, lane in lanes for dead in lane.dead.values()],
        results=world.results.kept(),
        unretired={task.seq: None for _, task in lines if task.outcome is not None},
        codes=list(codes),  # last: the rows above have filled it
    )


def _open_runs(world: World) -> list[Run]:
    """Return the runs with a task that waits or is in a line, in seq order. All others never change any more."""
    runs: dict[int, Run] = {}
    for lane in world.lanes.values():
        runs.update([(task.run.first_seq, task.run) for task in lane.line()])
        runs.update([(run.first_seq, run) for run in lane.waiting_runs()])
    return [runs[first_seq] for first_seq in sorted(runs)]


def _verdicts(run: Run) -> tuple[tuple[int, Failed], ...]:
    return tuple(sorted(run.verdicts.items())) if run.verdicts else ()


def _lane_row(image: LaneImage, codes: dict[Code, int]) -> rows.LaneRow:
    deploys = tuple([(name, codes.setdefault(code, len(codes))) for name, code in image.deploys])
    fields: dict[str, Any] = {**image._asdict(), "deploys": deploys}
    return rows.LaneRow(**fields)


def _line_row(place: int, task: Task, codes: dict[Code, int]) -> rows.LineRow:
    code = None if task.code is None else codes.setdefault(task.code, len(codes))
    ending = None if task.outcome is None else Ending.of(task.outcome)
    before = predecessor(task) if task.outcome is None else None
    assert task.issued_at is not None
    return rows.LineRow(
        place, task.run.first_seq, task.index, code, task.emits_max, task.growth_bytes, task.issued_at, ending,
        task.state_digest, task.provenance, None if before is None else before.turn, _own_address(task),
        None if task.ends is None else task.ends[:2],
    )  # fmt: skip


def _own_address(task: Task) -> str | None:
    """Return the address of the call that a task began; None if it ran at its target."""
    return None if task.address == task.run.target(task.index) else task.address


def _agent_row(place: int, agent: Agent, codes: dict[Code, int]) -> rows.AgentRow:
    """Return an agent's row. `newest` may be caught, even retired; then the one before it that still runs counts."""
    newest = agent.newest
    if newest is not None and newest.outcome is not None:
        newest = predecessor(newest)
    turn = None if newest is None else newest.turn
    call = None if agent.call is None else _call_row(agent.call, codes)
    return rows.AgentRow(
        place, agent.address, agent.state, agent.state_digest, agent.completed, agent.counted_bytes, turn, agent.open,
        call,
    )  # fmt: skip


def _call_row(call: FlowCall, codes: dict[Code, int]) -> rows.CallRow:
    return rows.CallRow(
        codes.setdefault(call.code, len(codes)), call.turn, tuple(call.steps), call.fuel, tuple(call.asked),
        tuple(call.timers), call.end, call.ended, call.counted_bytes, call.waits,
    )  # fmt: skip


# --- encode -------------------------------------------------------------------------------------------------------


def encode(picture: Picture) -> Iterator[bytes]:
    """Yield the bytes of a snapshot in parts of `PART_BYTES`, the last one shorter."""
    packed = bytearray()
    for tag, row in _items(picture):
        packed += pack(pack((int(tag), *row)))
        if len(packed) >= PART_BYTES:
            end = len(packed) - len(packed) % PART_BYTES
            yield from [bytes(packed[at : at + PART_BYTES]) for at in range(0, end, PART_BYTES)]
            del packed[:end]
    if packed:
        yield bytes(packed)


def _items(picture: Picture) -> Iterator[tuple[RowTag, tuple[Any, ...]]]:
    count = 0
    for item in _content(picture):
        count += 1
        yield item
    yield RowTag.END, rows.End(count)


def _content(picture: Picture) -> Iterator[tuple[RowTag, tuple[Any, ...]]]:
    """Yield every item except the last. The order is part of the format: an item refers only to earlier ones."""
    yield RowTag.HEAD, picture.head
    yield from [(RowTag.FINGERPRINT, row) for row in picture.fingerprints]
    for name, dropped, answers in picture.producers:
        answered = tuple([rows.AnswerRow.of(request, reply) for request, reply in answers])
        yield RowTag.PRODUCER, rows.ProducerRow(name, dropped, answered)
    yield from [(RowTag.CODE, rows.CodeRow(code)) for code in picture.codes]
    yield from [(RowTag.LANE, row) for row in picture.lanes]
    names = {row.name: place for place, row in enumerate(picture.lanes)}
    for run, finished, issued, verdicts in picture.runs:
        yield RowTag.RUN, rows.RunRow(_stamped(run, names), finished, issued, verdicts)
    yield from [(RowTag.LINE, row) for row in picture.line]
    yield from [(RowTag.AGENT, row) for row in picture.agents]
    for run, address, owner, owes in picture.asks:
        yield RowTag.ASK, rows.AskRow(_stamped(run, names), address, owner, owes)
    yield from [(RowTag.DEADLINE, row) for row in picture.deadlines]
    for place, timer in picture.timers:
        yield RowTag.TIMER, rows.TimerRow(place, timer)
    for place, dead in picture.dead:
        # The number of attempts is not in the journal either.
        yield RowTag.DEAD, rows.DeadRow(place, dead._replace(attempts=0))
    yield from _results(picture, names)


def _results(picture: Picture, names: dict[str, int]) -> Iterator[tuple[RowTag, tuple[Any, ...]]]:
    """Yield the kept results, oldest first, each after its run; a run of one and its result are one item.

    A task that was postponed has a run of its own, which may begin where another one does.
    """
    met = {run.first_seq: None for run, *_ in picture.runs}
    for task in picture.results:
        run = task.run
        if task.seq in picture.unretired:
            yield RowTag.RESULT, rows.ResultRow(run.first_seq, task.index, None, None, None)
            continue
        assert task.outcome is not None
        ending = Ending.of(task.outcome)
        if len(run.payloads) == 1:
            yield RowTag.SINGLE, rows.SingleRow(_stamped(run, names), ending, task.provenance, _own_address(task))
            continue
        if run.first_seq not in met:
            met[run.first_seq] = None
            yield RowTag.OLD_RUN, rows.OldRunRow(_stamped(run, names))
        yield RowTag.RESULT, rows.ResultRow(run.first_seq, task.index, ending, task.provenance, _own_address(task))


def _stamped(run: Run, names: dict[str, int]) -> rows.StampedRun:
    return rows.StampedRun(
        names[run.lane], run.first_seq, run.first_turn, run.targets, run.priority, run.kind, run.sender,
        run.now_ms, run.parent, run.reply_to, run.payloads, run.tensors, run.answers,
    )  # fmt: skip


# --- load ---------------------------------------------------------------------------------------------------------


def load(
    parts: Iterable[bytes],
    results_max: int = limits.RESULTS_KEPT_MAX,
    results_bytes: int = limits.RESULTS_KEPT_BYTES,
) -> World:
    """Return the world that a snapshot was taken of.

    Raises `JournalError` for anything that `encode` cannot have made. A digest proves that the bytes are unchanged, not
    that this version of rota wrote them.
    """
    loader = _Loader(World(results_max, results_bytes))
    try:
        unpacker = msgpack.Unpacker(strict_map_key=True, max_buffer_size=(1 << 31) - 1)
        size = end = 0
        for part in parts:
            unpacker.feed(part)
            size += len(part)
            for item in unpacker:
                _want(type(item) is bytes, "an item is no byte string")
                loader.take(item)
                end = unpacker.tell()
        loader.finish()
        _want(end == size, "bytes follow the last item")
    except Exception as error:  # msgpack's and msgspec's errors, ValueError, LookupError, AssertionError
        contradicts = isinstance(error, AssertionError | LookupError)
        why = "its parts contradict each other" if contradicts else told(error).partition(": ")[2]
        raise JournalError(f"a snapshot that no rota of this version wrote: {why}") from None
    return loader.world


def clone(world: World) -> World:
    """Return an independent copy in which the same records have the same effects."""
    return load(encode(take(world)), *world.results.bounds)


class _Loader:
    """Makes a world of items, taken in order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._codes: list[Code] = []
        self._lanes: list[Lane] = []
        self._runs: dict[int, Run] = {}
        self._lines: list[dict[int, Task]] = []  # by turn, in issue order
        self._line_by_seq: dict[int, Task] = {}
        self._items = 0
        self._tag = -1

    def take(self, item: bytes) -> None:
        """Take one item; raises errors of several types for a bad one."""
        tag = item[1]
        last = min(self._tag, RowTag.OLD_RUN) if self._tag != RowTag.END else self._tag
        _want(last <= tag, f"an item {tag} after one {self._tag}")
        _want((self._items == 0) == (tag == RowTag.HEAD) and self._tag != RowTag.END, f"an item {tag} out of its place")
        if tag != self._tag and self._tag <= RowTag.LINE < tag:
            self._place_tasks()
        self._tag = tag
        self._items += 1
        self._TAKE[tag](self, SCHEMA[tag].decode(item))

    def finish(self) -> None:
        """Check that nothing is missing and that everything is consistent."""
        _want(self._tag == RowTag.END, "it has no end")
        for lane in self._lanes:
            lane.recount()
        self.world.restore_pending()
        self.world.check_invariants()

    # --- one method per tag -----------------------------------------------------------------------------------------

    def _head(self, row: rows.Head) -> None:
        self.world.restore(row.boot, row.next_seq, row.divergences)

    def _fingerprint(self, row: rows.FingerprintRow) -> None:
        _want(row.number == len(self.world.fingerprints) + 1, f"fingerprint {row.number} out of its place")
        self.world.fingerprints[(row.pool, row.facts)] = row.number

    def _producer(self, row: rows.ProducerRow) -> None:
        self.world.producers.restore(row.name, row.dropped, [(one.request, one.reply()) for one in row.answers])

    def _code(self, row: rows.CodeRow) -> None:
        self._codes.append(row.code)

    def _lane(self, row: rows.LaneRow) -> None:
        _want(row.name not in self.world.lanes and row.settings.seed is not None, "a lane twice, or without a seed")
        deploys = tuple([(called, self._codes[code]) for called, code in row.deploys])
        fields: dict[str, Any] = {**row._asdict(), "deploys": deploys}
        self._lanes.append(self.world.restore_lane(LaneImage(**fields)))
        self._lines.append({})

    def _run(self, row: rows.RunRow) -> None:
        run = self._named_run(row.run)
        count = len(run.payloads)
        _want(row.finished <= row.issued <= count, f"a run of {count}, {row.issued} issued, {row.finished} finished")
        run.finished, run.issued = row.finished, row.issued
        run.verdicts = dict(row.verdicts) if row.verdicts else None
        if row.finished < count:
            self.world.runs.add(run)

    def _named_run(self, row: rows.StampedRun) -> Run:
        """Return a run that later items refer to by its first seq."""
        _want(row.first_seq not in self._runs, "a run twice")
        run = self._runs[row.first_seq] = self._new_run(row)
        return run

    def _new_run(self, row: rows.StampedRun) -> Run:
        count = len(row.payloads)
        _want(type(row.targets) is str or len(row.targets) == count, "not a target for each payload")
        check_sparse("tensors", row.tensors, count)
        _want(count > 0, "a run of nothing")
        return Run(
            lane=self._lanes[row.place].name,
            first_seq=row.first_seq,
            first_turn=row.first_turn,
            targets=row.targets,
            priority=row.priority,
            kind=row.kind,
            sender=row.sender,
            now_ms=row.now_ms,
            parent=row.parent,
            reply_to=row.reply_to,
            payloads=row.payloads,
            tensors=row.tensors,
            answers=row.answers,
        )

    def _line(self, row: rows.LineRow) -> None:
        run = self._runs[row.first_seq]
        issued_there = row.index_in_run < run.issued and run.lane == self._lanes[row.place].name
        _want(issued_there, "a task in line that was not issued there")
        task = Task(
            run, row.index_in_run, None if row.code is None else self._codes[row.code], row.emits_max, row.growth_bytes
        )
        task.issued_at, task.state_digest, task.provenance = row.issued_at, row.state_digest, row.provenance
        task.outcome = None if row.ending is None else row.ending.outcome()
        task.address = row.address or task.address
        task.ends = None if row.ends is None else Failed(*row.ends, (), 0)
        task.before = None if row.before is None else self._lines[row.place][row.before]
        self._lines[row.place][task.turn] = task
        self._line_by_seq[task.seq] = task

    def _place_tasks(self) -> None:
        """Give each lane its waiting runs and its line, when runs and lines are complete."""
        waiting: dict[str, list[Run]] = {lane.name: [] for lane in self._lanes}
        for run in self._runs.values():
            if run.issued < len(run.payloads):
                waiting[run.lane].append(run)
        for lane, line in zip(self._lanes, self._lines, strict=True):
            lane.restore_tasks(waiting[lane.name], list(line.values()))

    def _agent(self, row: rows.AgentRow) -> None:
        lane = self._lanes[row.place]
        _want(lane.instance(row.address) is None, "an agent twice")
        agent = Agent(row.address)
        (lane.ended if row.call is not None and row.call.ended else lane.agents)[row.address] = agent
        agent.state, agent.state_digest, agent.completed = row.state, row.state_digest, row.completed
        agent.counted_bytes = row.counted_bytes
        agent.newest = None if row.newest is None else lane.line_by_turn[row.newest]
        agent.open = row.open
        agent.call = None if row.call is None else self._call(row.call)

    def _call(self, row: rows.CallRow) -> FlowCall:
        call = FlowCall(self._codes[row.code], row.turn)
        call.steps, call.fuel = list(row.steps), row.fuel
        call.asked, call.timers = dict.fromkeys(row.asked), dict.fromkeys(row.timers)
        call.end, call.ended, call.counted_bytes, call.waits = row.end, row.ended, row.counted_bytes, row.waits
        return call

    def _ask(self, row: rows.AskRow) -> None:
        run = self._new_old_run(row.run)
        _want(len(run.payloads) == 1, "an open ask of several tasks")
        self._lanes[row.run.place].asks.add(OpenAsk(run, row.address, row.owner, row.owes))

    def _deadline(self, row: rows.DeadlineRow) -> None:
        self._lanes[row.place].deadlines[row.turn] = row.due_ms

    def _timer(self, row: rows.TimerRow) -> None:
        self._lanes[row.place].timers[(row.timer.turn, row.timer.index_of_emit)] = row.timer

    def _dead(self, row: rows.DeadRow) -> None:
        self._lanes[row.place].dead.keep(row.dead)

    def _result(self, row: rows.ResultRow) -> None:
        if row.ending is None:
            task = self._line_by_seq[row.first_seq + row.index_in_run]
            _want(task.outcome is not None, "a result without an outcome")
        else:
            run = self._runs[row.first_seq]
            task = _retired(run, row.index_in_run, row.ending, row.provenance, row.address)
        self.world.results.keep(task)

    def _old_run(self, row: rows.OldRunRow) -> None:
        run = self._named_run(row.run)
        run.finished = run.issued = len(run.payloads)

    def _new_old_run(self, row: rows.StampedRun) -> Run:
        run = self._new_run(row)
        run.finished = run.issued = len(run.payloads)
        return run

    def _single(self, row: rows.SingleRow) -> None:
        run = self._new_old_run(row.run)
        self.world.results.keep(_retired(run, 0, row.ending, row.provenance, row.address))

    def _end(self, row: rows.End) -> None:
        _want(row.items == self._items - 1, f"{self._items - 1} items of {row.items}")

    _TAKE: ClassVar[dict[int, Any]] = {
        RowTag.HEAD: _head,
        RowTag.FINGERPRINT: _fingerprint,
        RowTag.PRODUCER: _producer,
        RowTag.CODE: _code,
        RowTag.LANE: _lane,
        RowTag.RUN: _run,
        RowTag.LINE: _line,
        RowTag.AGENT: _agent,
        RowTag.ASK: _ask,
        RowTag.DEADLINE: _deadline,
        RowTag.TIMER: _timer,
        RowTag.DEAD: _dead,
        RowTag.OLD_RUN: _old_run,
        RowTag.SINGLE: _single,
        RowTag.RESULT: _result,
        RowTag.END: _end,
    }


def _want(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _retired(run: Run, index: int, ending: Ending, provenance: Provenance | None, address: str | None) -> Task:
    """Return a task of which only the result is kept."""
    _want(index < run.issued, "a result of a task that was not issued")
    task = Task(run, index, None, 0, 0)
    task.outcome, task.provenance = ending.outcome(), provenance
    task.address = address or task.address
    return task
