"""The whole world as bytes, and back: what a snapshot holds. PURE.

`take` notes what may still change, in one go between two records; `encode` turns that into bytes part by part, so that
a broker can go on in between; `load` makes a world of the bytes, in which the records that follow have the effects that
they have in the first one. The bytes are a function of the records folded so far and of how many results are kept.

Not in it: connections, who awaits what, and what dispatch knows of tasks (attempts, deaths). Of a kept result only what
answers a question is in it. The bytes are a row of canonical MessagePack arrays `[tag, field, ...]`; docs/JOURNAL.md
lists them. Whoever changes what the world holds changes this file, `LAYOUT` and that page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, ClassVar, Final, NamedTuple

import msgpack

from rota.broker.lane import Lane, LaneImage, predecessor
from rota.broker.tasks import Agent, DeadTask, Run, Task, Timer
from rota.broker.world import World
from rota.common import checks, limits
from rota.common.errors import JournalError
from rota.common.messages import Accepted, Answer, LaneSettings
from rota.common.shown import told
from rota.common.targets import is_target
from rota.common.wire import outcome_fields
from rota.common.work import MESSAGE_KINDS, TELL, Code, Emit, ReplyTo

LAYOUT: Final = 2
PART_BYTES: Final = 1 << 20
_SHOWN_CHARS: Final = 200  # of what an error of another sort says; it may hold a whole value

_pack: Final = msgpack.Packer(autoreset=True).pack

Row = tuple[Any, ...]


class Tag(IntEnum):
    """The first element of every item, in the order in which they come."""

    HEAD = 0
    FINGERPRINT = 1
    PRODUCER = 2
    CODE = 3
    LANE = 4
    RUN = 5
    LINE = 6
    AGENT = 7
    TIMER = 8
    DEAD = 9
    OLD_RUN = 10  # from here on to the end in any order
    SINGLE = 11
    RESULT = 12
    END = 13


class Picture(NamedTuple):
    """A world between two records, in values that nobody changes any more. Rows are items without their tag."""

    head: Row
    fingerprints: list[Row]
    producers: list[tuple[str, int | None, list[tuple[bytes, Accepted | Answer]]]]
    codes: list[Code]
    lanes: list[Row]
    runs: list[tuple[Run, int, int, Row | None]]  # those that a waiting task or one of a line belongs to
    line: list[Row]
    agents: list[Row]
    timers: list[tuple[int, Timer]]
    dead: list[tuple[int, DeadTask]]
    results: list[Task]
    unretired: dict[int, None]  # the seqs of the results whose tasks still stand in a line


# --- take ---------------------------------------------------------------------------------------------------------


def take(world: World) -> Picture:
    """Note the state of a world. Call it between two records; the world may go on at once."""
    codes: dict[Code, int] = {}
    lanes = list(enumerate(world.lanes.values()))
    lines = [(place, task) for place, lane in lanes for task in lane.line()]
    return Picture(
        head=(LAYOUT, world.boot, world.next_seq, world.divergences),
        fingerprints=[(number, pool, facts) for (pool, facts), number in world.fingerprints.items()],
        producers=world.producers.image(),
        lanes=[_lane_row(lane.image(), codes) for _, lane in lanes],
        runs=[(run, run.finished, run.issued, _verdicts(run)) for run in _open_runs(world)],
        line=[_line_row(place, task, codes) for place, task in lines],
        agents=[_agent_row(place, agent) for place, lane in lanes for agent in lane.agents.values()],
        timers=[(place, timer) for place, lane in lanes for timer in lane.timers.values()],
        dead=[(place, dead) for place, lane in lanes for dead in lane.dead.values()],
        results=world.results.kept(),
        unretired={task.seq: None for _, task in lines if task.outcome is not None},
        codes=list(codes),  # last: the rows above have filled it
    )


def _open_runs(world: World) -> list[Run]:
    """The runs that a waiting task or a task of a line belongs to, in the order of their numbers. All others are
    through, so they do not change any more.
    """
    runs: dict[int, Run] = {}
    for lane in world.lanes.values():
        runs.update([(task.run.first_seq, task.run) for task in lane.line()])
        runs.update([(run.first_seq, run) for run in lane.waiting_runs()])
    return [runs[first_seq] for first_seq in sorted(runs)]


def _verdicts(run: Run) -> Row | None:
    return tuple(sorted(run.verdicts.items())) if run.verdicts else None


def _lane_row(image: LaneImage, codes: dict[Code, int]) -> Row:
    deploys = tuple([(name, codes.setdefault(code, len(codes))) for name, code in image.deploys])
    return (*image[:4], deploys, *image[5:])


def _line_row(place: int, task: Task, codes: dict[Code, int]) -> Row:
    code = None if task.code is None else codes.setdefault(task.code, len(codes))
    outcome = None if task.outcome is None else outcome_fields(task.outcome)
    before = predecessor(task) if task.outcome is None else None
    return (
        place, task.run.first_seq, task.index, code, task.emits_max, task.growth_bytes, task.issued_at, outcome,
        task.state_digest, task.provenance, None if before is None else before.turn,
    )  # fmt: skip


def _agent_row(place: int, agent: Agent) -> Row:
    """`newest` may be a task that was caught and has even retired; what counts is the one before it that still runs."""
    newest = agent.newest
    if newest is not None and newest.outcome is not None:
        newest = predecessor(newest)
    turn = None if newest is None else newest.turn
    return place, agent.address, agent.state, agent.state_digest, agent.completed, agent.counted_bytes, turn


# --- encode -------------------------------------------------------------------------------------------------------


def encode(picture: Picture) -> Iterator[bytes]:
    """Yield the bytes of a snapshot in parts of `PART_BYTES`, the last one shorter."""
    packed = bytearray()
    for item in _items(picture):
        packed += _pack(item)
        if len(packed) >= PART_BYTES:
            end = len(packed) - len(packed) % PART_BYTES
            yield from [bytes(packed[at : at + PART_BYTES]) for at in range(0, end, PART_BYTES)]
            del packed[:end]
    if packed:
        yield bytes(packed)


def _items(picture: Picture) -> Iterator[Row]:
    count = 0
    for item in _content(picture):
        count += 1
        yield item
    yield Tag.END, count


def _content(picture: Picture) -> Iterator[Row]:
    """Every item but the last. The order is part of the format: what an item names has come before it."""
    yield Tag.HEAD, *picture.head
    for row in picture.fingerprints:
        yield Tag.FINGERPRINT, *row
    for name, dropped, answers in picture.producers:
        yield Tag.PRODUCER, name, dropped, [_answer_row(request, reply) for request, reply in answers]
    for code in picture.codes:
        yield Tag.CODE, code
    for row in picture.lanes:
        yield Tag.LANE, *row
    names = {row[0]: place for place, row in enumerate(picture.lanes)}
    for run, finished, issued, verdicts in picture.runs:
        yield Tag.RUN, *_run_row(run, names), finished, issued, verdicts
    for row in picture.line:
        yield Tag.LINE, *row
    for row in picture.agents:
        yield Tag.AGENT, *row
    for place, timer in picture.timers:
        yield Tag.TIMER, place, *timer
    for place, dead in picture.dead:
        yield Tag.DEAD, place, *dead[:-1]  # how often it was handed out is not in the journal either
    yield from _results(picture, names)


def _results(picture: Picture, names: dict[str, int]) -> Iterator[Row]:
    """The kept results, oldest first, each behind its run; a run of one and its result are one item."""
    met = {run.first_seq: None for run, *_ in picture.runs}
    for task in picture.results:
        run = task.run
        if task.seq in picture.unretired:
            yield Tag.RESULT, run.first_seq, task.index, None, None
            continue
        assert task.outcome is not None
        ending = (outcome_fields(task.outcome), task.provenance)
        if run.first_seq not in met and len(run.payloads) == 1:
            yield (
                Tag.SINGLE, names[run.lane], run.first_seq, run.first_turn, task.address, run.priority, run.kind,
                run.sender, run.now_ms, run.parent, run.reply_to, run.payloads[0],
                None if run.tensors is None else run.tensors[0], *ending,
            )  # fmt: skip
            continue
        if run.first_seq not in met:
            met[run.first_seq] = None
            yield Tag.OLD_RUN, *_run_row(run, names)
        yield Tag.RESULT, run.first_seq, task.index, *ending


def _run_row(run: Run, names: dict[str, int]) -> Row:
    return (
        names[run.lane], run.first_seq, run.first_turn, run.targets, run.priority, run.kind, run.sender,
        run.now_ms, run.parent, run.reply_to, run.payloads, run.tensors,
    )  # fmt: skip


def _answer_row(request: bytes, reply: Accepted | Answer) -> Row:
    if type(reply) is Answer:
        return reply.number, request, tuple(sorted(reply.value.items()))
    assert type(reply) is Accepted
    return reply.number, request, reply.first_seq, reply.tasks


# --- load ---------------------------------------------------------------------------------------------------------


def load(
    parts: Iterable[bytes],
    results_max: int = limits.RESULTS_KEPT_MAX,
    results_bytes: int = limits.RESULTS_KEPT_BYTES,
) -> World:
    """Return the world that a snapshot was taken of.

    Raises `JournalError` for anything that `encode` cannot have made. A digest proves that bytes are what was written,
    not that this version of rota wrote them.
    """
    loader = _Loader(World(results_max, results_bytes))
    try:
        unpacker = msgpack.Unpacker(strict_map_key=True, max_buffer_size=(1 << 31) - 1)
        size = end = 0
        for part in parts:
            unpacker.feed(part)
            size += len(part)
            for item in unpacker:
                loader.take(item)
                end = unpacker.tell()
        loader.finish()
        _want(end == size, "bytes follow the last item")
    except Exception as error:  # msgpack's errors, ValueError, TypeError, LookupError, AssertionError
        raise JournalError(f"a snapshot that no rota of this version wrote: {told(error)}") from None
    return loader.world


def clone(world: World) -> World:
    """Return a world of its own in which the same records have the same effects."""
    return load(encode(take(world)), *world.results.bounds)


_turn: Final = checks.integer(1, limits.NOW_MS_MAX)
_pair: Final = checks.record(tuple, checks.count, checks.count)
_facts: Final = checks.array(checks.record(tuple, checks.text(1 << 16), checks.text(1 << 16)), 1 << 16)
_outcome: Final = checks.optional(checks.check_outcome)
_provenance: Final = checks.optional(checks.provenance)
_digest: Final = checks.optional(checks.digest)
_failed: Final = checks.failed
_bound: Final = checks.array(checks.record(tuple, checks.code_name, checks.count), limits.DEPLOYS_MAX)
_passes: Final = checks.array(checks.record(tuple, checks.priority, checks.count), 1 << 8)
_verdict: Final = checks.record(tuple, checks.count, _failed)
_reply_to: Final = checks.record(ReplyTo._make, checks.count, checks.count, checks.count)
_all_tensors: Final = checks.array(checks.tensors, limits.RUN_TASKS_MAX)
_header: Final = (
    checks.priority, checks.one_of(*MESSAGE_KINDS), checks.optional(checks.target), checks.now,
    checks.optional(_pair), checks.optional(_reply_to),
)  # fmt: skip
_run: Final = (
    checks.count, _turn, _turn, checks.targets, *_header, checks.payloads, checks.optional(_all_tensors)
)  # fmt: skip
_any_single: Final = checks.record(
    tuple, checks.count, _turn, _turn, checks.target, *_header, checks.blob(limits.PAYLOAD_BYTES_MAX),
    checks.optional(checks.tensors), checks.check_outcome, _provenance,
)  # fmt: skip


def _single(value: list[Any]) -> Row:
    """Check a finished run of one; the common one, whose task came from outside, by a short way."""
    if len(value) == 14 and value[6] is value[8] is value[9] is value[11] is value[13] is None:
        place, seq, turn, address, priority, kind, _, now_ms, _, _, payload, _, outcome, _ = value
        if (
            type(place) is type(seq) is type(turn) is type(priority) is type(now_ms) is int
            and place >= 0
            and min(seq, turn) >= 1
            and max(place, seq, turn, now_ms) <= limits.NOW_MS_MAX
            and now_ms >= 0
            and limits.PRIORITY_MIN <= priority <= limits.PRIORITY_MAX
            and kind == TELL
            and type(address) is str
            and is_target(address)
            and type(payload) is bytes
            and len(payload) <= limits.PAYLOAD_BYTES_MAX
        ):
            ended = checks.check_outcome(outcome)
            return place, seq, turn, address, priority, kind, None, now_ms, None, None, payload, None, ended, None
    whole: Row = _any_single(value)
    return whole


_SHAPES: Final[dict[int, checks.Check]] = {
    Tag.HEAD: checks.record(tuple, checks.integer(LAYOUT, LAYOUT), checks.count, _turn, checks.count),
    Tag.FINGERPRINT: checks.record(tuple, _turn, checks.text(1 << 16), _facts),
    Tag.PRODUCER: checks.record(
        tuple, checks.producer, checks.optional(checks.number), checks.array(checks.anything, limits.NUMBERS_KEPT_MAX)
    ),
    Tag.CODE: checks.record(tuple, checks.code),
    Tag.LANE: checks.record(
        tuple, checks.name, checks.settings, checks.integer(1, limits.WINDOW_TASKS_MAX), checks.flag, _bound,
        _turn, checks.count, checks.count, checks.digest, _passes,
    ),
    Tag.RUN: checks.record(
        tuple, *_run, checks.count, checks.count, checks.optional(checks.array(_verdict, limits.RUN_TASKS_MAX))
    ),
    Tag.LINE: checks.record(
        tuple, checks.count, _turn, checks.count, checks.optional(checks.count),
        checks.integer(0, limits.EMITS_MAX), checks.integer(0, limits.GROWTH_BYTES_MAX), checks.count, _outcome,
        _digest, _provenance, checks.optional(_turn),
    ),
    Tag.AGENT: checks.record(
        tuple, checks.count, checks.target, checks.optional(checks.module_or_state), _digest, checks.count,
        checks.integer(0, limits.MESSAGE_BYTES_MAX), checks.optional(_turn),
    ),
    Tag.TIMER: checks.record(
        tuple, checks.count, _turn, checks.count, checks.integer(0, 2 * limits.NOW_MS_MAX), checks.target, checks.emit
    ),
    Tag.DEAD: checks.record(
        tuple, checks.count, _turn, _turn, checks.target, checks.priority, checks.blob(limits.PAYLOAD_BYTES_MAX),
        checks.tensors, checks.now, _failed,
    ),
    Tag.OLD_RUN: checks.record(tuple, *_run),
    Tag.SINGLE: _single,
    Tag.RESULT: checks.record(tuple, _turn, checks.count, _outcome, _provenance),
    Tag.END: checks.record(tuple, checks.count),
}  # fmt: skip


class _Loader:
    """Takes items in their order and makes a world of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._codes: list[Code] = []
        self._lanes: list[Lane] = []
        self._runs: dict[int, Run] = {}
        self._lines: list[dict[int, Task]] = []  # by turn, in issue order
        self._line_by_seq: dict[int, Task] = {}
        self._items = 0
        self._tag = -1

    def take(self, item: list[Any]) -> None:
        """Take one item; raises one of many kinds of error if it cannot be one."""
        tag = item[0]
        last = min(self._tag, Tag.OLD_RUN) if self._tag != Tag.END else self._tag
        _want(type(tag) is int and last <= tag, f"an item {tag!r} after one {self._tag}")
        _want((self._items == 0) == (tag == Tag.HEAD) and self._tag != Tag.END, f"an item {tag} out of its place")
        if tag != self._tag and self._tag <= Tag.LINE < tag:
            self._place_tasks()
        self._tag = tag
        self._items += 1
        self._TAKE[tag](self, *_SHAPES[tag](item[1:]))

    def finish(self) -> None:
        """See that nothing is missing and that all of it fits together."""
        _want(self._tag == Tag.END, "it has no end")
        for lane in self._lanes:
            lane.recount()
        self.world.check_invariants()

    # --- one method per tag -----------------------------------------------------------------------------------------

    def _head(self, _layout: int, boot: int, next_seq: int, divergences: int) -> None:
        self.world.restore(boot, next_seq, divergences)

    def _fingerprint(self, number: int, pool: str, facts: tuple[tuple[str, str], ...]) -> None:
        _want(number == len(self.world.fingerprints) + 1, f"fingerprint {number} out of its place")
        self.world.fingerprints[(pool, facts)] = number

    def _producer(self, name: str, dropped: int | None, rows: tuple[list[Any], ...]) -> None:
        self.world.producers.restore(name, dropped, [_answer(row) for row in rows])

    def _code(self, code: Code) -> None:
        self._codes.append(code)

    def _lane(self, name: str, settings: LaneSettings, window: int, paused: bool, bound: Row, *rest: Any) -> None:
        _want(name not in self.world.lanes and settings.seed is not None, "a lane twice, or without a seed")
        deploys = tuple([(called, self._codes[code]) for called, code in bound])
        self._lanes.append(self.world.restore_lane(LaneImage(name, settings, window, paused, deploys, *rest)))
        self._lines.append({})

    def _run(self, *fields: Any) -> None:
        *row, finished, issued, verdicts = fields
        run = self._new_run(*row)
        count = len(run.payloads)
        _want(finished <= issued <= count, f"a run of {count}, {issued} issued, {finished} finished")
        run.finished, run.issued = finished, issued
        run.verdicts = None if verdicts is None else dict(verdicts)
        if finished < count:
            self.world.runs.add(run)

    def _new_run(self, place: int, first_seq: int, first_turn: int, *rest: Any) -> Run:
        targets, priority, kind, sender, now_ms, parent, reply_to, payloads, tensors = rest
        count = len(payloads)
        _want(type(targets) is str or len(targets) == count, "not a target for each payload")
        _want(tensors is None or len(tensors) == count, "not a list of tensors for each payload")
        _want(count > 0 and first_seq not in self._runs, "a run of nothing, or twice")
        run = self._runs[first_seq] = Run(
            lane=self._lanes[place].name,
            first_seq=first_seq,
            first_turn=first_turn,
            targets=targets,
            priority=priority,
            kind=kind,
            sender=sender,
            now_ms=now_ms,
            parent=parent,
            reply_to=reply_to,
            payloads=payloads,
            tensors=tensors,
        )
        return run

    def _line(self, place: int, first_seq: int, index: int, code: int | None, *rest: Any) -> None:
        emits_max, growth_bytes, issued_at, outcome, state_digest, provenance, before = rest
        run = self._runs[first_seq]
        _want(index < run.issued and run.lane == self._lanes[place].name, "a task in line that was not issued there")
        task = Task(run, index, None if code is None else self._codes[code], emits_max, growth_bytes)
        task.issued_at, task.outcome, task.state_digest, task.provenance = issued_at, outcome, state_digest, provenance
        task.before = None if before is None else self._lines[place][before]
        self._lines[place][task.turn] = task
        self._line_by_seq[task.seq] = task

    def _place_tasks(self) -> None:
        """Runs and lines are complete: give each lane what waits in it and what was issued."""
        waiting: dict[str, list[Run]] = {lane.name: [] for lane in self._lanes}
        for run in self._runs.values():
            if run.issued < len(run.payloads):
                waiting[run.lane].append(run)
        for lane, line in zip(self._lanes, self._lines, strict=True):
            lane.restore_tasks(waiting[lane.name], list(line.values()))

    def _agent(self, place: int, address: str, *rest: Any) -> None:
        lane = self._lanes[place]
        _want(address not in lane.agents, "an agent twice")
        agent = lane.agents[address] = Agent(address)
        agent.state, agent.state_digest, agent.completed, agent.counted_bytes, newest = rest
        agent.newest = None if newest is None else lane.line_by_turn[newest]

    def _timer(self, place: int, turn: int, index: int, due_ms: int, sender: str, emit: Emit) -> None:
        self._lanes[place].timers[(turn, index)] = Timer(turn, index, due_ms, sender, emit)

    def _dead(self, place: int, seq: int, *rest: Any) -> None:
        self._lanes[place].dead.keep(DeadTask._make([seq, *rest, 0]))

    def _result(self, first_seq: int, index: int, outcome: Any, provenance: Any) -> None:
        if outcome is None:
            task = self._line_by_seq[first_seq + index]
            _want(task.outcome is not None, "a result without an outcome")
        else:
            run = self._runs[first_seq]
            _want(index < run.issued, "a result of a task that was not issued")
            task = Task(run, index, None, 0, 0)
            task.outcome, task.provenance = outcome, provenance
        self.world.results.keep(task)

    def _old_run(self, *row: Any) -> None:
        run = self._new_run(*row)
        run.finished = run.issued = len(run.payloads)

    def _single(self, place: int, seq: int, turn: int, address: str, *rest: Any) -> None:
        *header, payload, refs, outcome, provenance = rest
        tensors = None if refs is None else (refs,)
        self._old_run(place, seq, turn, address, *header, (payload,), tensors)
        self._result(seq, 0, outcome, provenance)

    def _end(self, items: int) -> None:
        _want(items == self._items - 1, f"{self._items - 1} items of {items}")

    _TAKE: ClassVar[dict[int, Any]] = {
        Tag.HEAD: _head,
        Tag.FINGERPRINT: _fingerprint,
        Tag.PRODUCER: _producer,
        Tag.CODE: _code,
        Tag.LANE: _lane,
        Tag.RUN: _run,
        Tag.LINE: _line,
        Tag.AGENT: _agent,
        Tag.TIMER: _timer,
        Tag.DEAD: _dead,
        Tag.OLD_RUN: _old_run,
        Tag.SINGLE: _single,
        Tag.RESULT: _result,
        Tag.END: _end,
    }


def _want(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _answer(row: list[Any]) -> tuple[bytes, Accepted | Answer]:
    """A request's digest with what it was answered: see `_answer_row`."""
    if len(row) == 4:
        number, request, first_seq, tasks = checks.record(tuple, *[checks.count] * 4)([row[0], 0, *row[2:]])
        return checks.digest(row[1]), Accepted(number, first_seq, tasks)
    number, request, pairs = row
    value = {checks.text(64)(key): item for key, item in pairs}
    return checks.digest(request), Answer(checks.number(number), value)
