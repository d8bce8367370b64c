"""`rota diff`: the first turn at which two runs differ, what differs in it, why, and what follows.

Both journals are folded, nothing is executed. A lane digest covers all turns before it, so the first retire whose
digests differ is the first difference. If there is one, the journals are read a second time up to that turn, for what
folding does not keep: states, the chain of parents, the root input, the deploy that bound the code.

Behind the first difference lane digests always differ. There, turns of the same number are compared by what each did,
and tasks that only one run has are matched by content, since one dropped input shifts all numbers behind it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from itertools import chain, islice, zip_longest
from typing import Final, NamedTuple

from rota.broker import records
from rota.broker.lane import Lane
from rota.broker.tasks import Agent, Task
from rota.common.digests import digest_of
from rota.common.errors import JournalError
from rota.common.targets import MODEL_PREFIX, code_name
from rota.common.work import Code, was_decided
from rota.runs.differing import Part, content_of, part, turn_parts
from rota.runs.traces import Trace, Tracer
from rota.runs.tree import Ancestor, Ancestry, RootInput, root_input
from rota.runs.walk import Kept, Progress, Walk, lane_of, record_at

_SAMPLES_MAX: Final = 5
_KEY_BYTES: Final = 16
_STAMPED: Final = ("target", "kind", "sender", "priority", "payload", "tensors", "reply to")
_SEEN: Final = ("now ms", "entropy", "emits allowed")

_Pair = tuple[Task | None, Task | None]
_Ended = list[tuple[int, int, str]]  # asks that an input ended: position, turn, kind of failure


class RunEnd(NamedTuple):
    """Where a run ends."""

    retired: int
    unretired: int
    open: int  # asks that are postponed, and calls
    digest: bytes


class Side(NamedTuple):
    """The turn of one run, and its origin."""

    trace: Trace
    state: bytes | None  # after the turn; None: no state, or the journal has only a later one
    chain: tuple[Ancestor, ...]  # nearest first
    input: RootInput | None  # at the top of the chain; None: before the kept records
    deploy: int | None  # the record that bound its code
    worker: tuple[tuple[str, str], ...]  # facts of the worker that computed it


class First(NamedTuple):
    """The first retire that differs. A side is None if that run ends before; both are if the runs differ only in how an
    input ended an ask behind the last retire. `cause` is a word, `why` a sentence.
    """

    position: int
    sides: tuple[Side | None, Side | None]
    parts: tuple[Part, ...]
    circumstances: tuple[Part, ...]  # what can decide an outcome and is not in the digest
    cause: str
    why: str


class Sample(NamedTuple):
    """A task, by its number in its own run."""

    turn: int
    target: str


class TurnsAfter(NamedTuple):
    """Counts of the turns from the first difference on."""

    same: int  # turns in both runs with equal content
    differ: int  # turns in both runs with different content
    only: tuple[int, int]  # by run: turns that the other does not have
    tasks_only: tuple[int, int]  # by run: tasks (target, kind, sender, payload) that the other has at no turn
    samples: tuple[list[Sample], list[Sample]]  # of those, the first few


class Agents(NamedTuple):
    """The final states of the agents of both runs, compared."""

    same: int
    differ: list[str]
    only: tuple[list[str], list[str]]


class Diff(NamedTuple):
    """Two runs of one lane, compared. They are equal if `first` is None."""

    lane: str
    names: tuple[str, str]
    ends: tuple[RunEnd, RunEnd]
    shared: int  # how many retires are equal, from the start
    first: First | None
    later: TurnsAfter | None
    agents: Agents
    other_lanes: tuple[str, ...]  # of either run: not compared


def compare(one: Kept, other: Kept, lane: str, progress: Progress | None = None) -> Diff:
    """Compare a lane of two runs.

    Raises `UnknownLane` if a run has no such lane; `JournalError` for a journal that breaks off, or if the runs differ
    before the first record that both still have.
    """
    walks = Walk(one), Walk(other)
    ended: tuple[_Ended, _Ended] = ([], [])
    retires = _retires(walks[0], lane, progress, ended[0]), _retires(walks[1], lane, progress, ended[1])
    shared = _align(walks, retires, lane)
    parted: _Pair | None = None
    pair: _Pair
    for pair in zip_longest(*retires):
        if pair[0] is None or pair[1] is None or pair[0].turn_digest != pair[1].turn_digest:
            parted = pair
            break
        shared += 1
    # Those before the newest equal retire are in its digest.
    here = [[(turn, kind) for position, turn, kind in found if position == shared] for found in ended]
    lanes = lane_of(walks[0].world, lane), lane_of(walks[1].world, lane)
    first, later = None, None
    if here[0] != here[1]:
        first = First(shared + 1, (None, None), (), (), "decision", _why_ended(here[0], here[1]))
        later = None if parted is None else _later(_Rest(parted[0], retires[0]), _Rest(parted[1], retires[1]))
    elif parted is not None:
        rest = _Rest(parted[0], retires[0]), _Rest(parted[1], retires[1])
        later = _later(*rest)
        first = _first(shared + 1, parted, (one, other), lanes, _only_order(parted, rest))
    ends = _end(lanes[0]), _end(lanes[1])
    others = tuple([name for name in {**walks[0].world.lanes, **walks[1].world.lanes} if name != lane])
    return Diff(lane, (one.name, other.name), ends, shared, first, later, _agents(*lanes), others)


# --- both at once ---------------------------------------------------------------------------------


def _retires(walk: Walk, lane: str, progress: Progress | None, ended: _Ended) -> Iterator[Task]:
    """Yield the tasks that retire. `ended`: gets the asks that inputs end between the newest two of them."""
    for step in walk.steps(progress=progress):
        moved = step.lane_input
        if isinstance(moved, records.Cancelled | records.Verdict) and moved.lane == lane and moved.ends:
            if ended and ended[-1][0] < step.position:
                ended.clear()
            kind = moved.failure if isinstance(moved, records.Verdict) else "cancelled"
            ended.append((step.position, moved.seq, kind))
        yield from step.retired(lane)


def _align(walks: tuple[Walk, Walk], retires: tuple[Iterator[Task], Iterator[Task]], lane: str) -> int:
    """Bring both runs to the first position that both journals still have; return it."""
    begins = [walk.begin_of(lane) for walk in walks]
    position, digest = max(begins)
    for (behind, known), tasks in zip(begins, retires, strict=True):
        skipped = deque(islice(tasks, position - behind), maxlen=1)
        reached = skipped[0].turn_digest if skipped else known
        if reached != digest:
            raise JournalError(
                f"the runs differ, or one ends, before position {position}, which is where the records begin that both "
                "still have: compare copies from before they were compacted",
                lane=lane,
            )
    return position


def _end(lane: Lane) -> RunEnd:
    return RunEnd(lane.retired, lane.load - len(lane.open), len(lane.open), lane.digest)


def _agents(one: Lane, other: Lane) -> Agents:
    states = [{name: _state_of(agent) for name, agent in sorted(lane.agents.items())} for lane in (one, other)]
    both = [name for name in states[0] if name in states[1]]
    differ = [name for name in both if states[0][name] != states[1][name]]
    only = tuple([name for name in states[side] if name not in states[1 - side]] for side in (0, 1))
    return Agents(len(both) - len(differ), differ, (only[0], only[1]))


def _state_of(agent: Agent) -> bytes | None:
    """Return the digest of an agent's state; of a call, that of the messages that it was given and what it did."""
    if agent.call is None:
        return agent.state_digest
    return digest_of([(step.task.turn, step.task.kind, step.task.payload, step.path) for step in agent.call.steps])


# --- from the first difference on ------------------------------------------------------------------


class _Rest:
    """The turns of one run from the first difference on, in a few bytes each."""

    def __init__(self, first: Task | None, tasks: Iterator[Task]) -> None:
        self.did: dict[int, bytes] = {}  # by turn
        self.asked: dict[int, bytes] = {}  # by turn
        self.targets: dict[int, str] = {}  # by turn
        for task in chain(() if first is None else (first,), tasks):
            self.did[task.turn] = digest_of(content_of(task))[:_KEY_BYTES]
            asked = (task.address, task.run.kind, task.run.sender, task.payload)
            self.asked[task.turn] = digest_of(asked)[:_KEY_BYTES]
            self.targets[task.turn] = task.address

    def without(self, other: _Rest) -> tuple[int, list[Sample]]:
        """Return how many tasks the other run does not have at any turn, and the first of them."""
        left = Counter(self.asked.values()) - Counter(other.asked.values())
        count = left.total()
        samples: list[Sample] = []
        for turn in sorted(self.asked):
            if len(samples) == _SAMPLES_MAX or not left:
                break
            if left[self.asked[turn]] > 0:
                left[self.asked[turn]] -= 1
                samples.append(Sample(turn, self.targets[turn]))
        return count, samples


def _later(one: _Rest, other: _Rest) -> TurnsAfter:
    both = [turn for turn in one.did if turn in other.did]
    same = sum(one.did[turn] == other.did[turn] for turn in both)
    (count, samples), (other_count, other_samples) = one.without(other), other.without(one)
    only = (len(one.did) - len(both), len(other.did) - len(both))
    return TurnsAfter(same, len(both) - same, only, (count, other_count), (samples, other_samples))


def _only_order(parted: _Pair, rest: tuple[_Rest, _Rest]) -> bool:
    """Return whether both runs have both tasks at the same turns, so that only the order differs."""
    turns = [task.turn for task in parted if task is not None]
    return all(rest[0].asked.get(turn) == rest[1].asked.get(turn) is not None for turn in turns)


# --- the first difference -------------------------------------------------------------------------


def _first(
    position: int, tasks: _Pair, sources: tuple[Kept, Kept], lanes: tuple[Lane, Lane], only_order: bool
) -> First:
    one, other = (None if task is None else _side(source, task) for task, source in zip(tasks, sources, strict=True))
    if tasks[0] is None or tasks[1] is None or one is None or other is None:
        run = 1 if tasks[0] is None else 2
        end = _end(lanes[run - 1])
        why = f"run {run} ends here" + (f", with {end.unretired} tasks that have not retired" if end.unretired else "")
        why += f", with {end.open} open asks and calls" if end.open else ""
        return First(position, (one, other), (), (), "end", why)
    states = None if one.state is None or other.state is None else part("state", one.state, other.state)
    parts = (*turn_parts(tasks[0], tasks[1]), *(() if states is None else (states,)))
    settings = _circumstances(one, other, lanes)
    if tasks[0].turn != tasks[1].turn:
        cause, why = _why_another_turn(tasks[0].turn, tasks[1].turn, only_order)
    else:
        cause, why = _why(tasks[0], tasks[1], [each.name for each in parts], [each.name for each in settings])
    return First(position, (one, other), parts, tuple(settings), cause, why)


def _side(source: Kept, task: Task) -> Side:
    """Read a run again up to where a task retired."""
    walk, tracer, ancestry = Walk(source), Tracer(seqs=(task.seq,)), Ancestry()
    ancestry.begin(walk.world)
    tracer.begin(walk.world)
    deploys: dict[tuple[str, bytes], int] = {}
    state: bytes | None = None
    for step in walk.steps():
        ancestry.take(step)
        tracer.after(step)
        if step.lane is not None and step.lane.name == task.run.lane:
            _note_deploys(deploys, step.number, step.record)
            if any(done.seq == task.seq for done in step.notes.finished):
                state = _state_after(step.lane, task)
            if any(done.seq == task.seq for done in step.notes.retired):
                break
    trace = tracer.by_seq[task.seq]
    root = ancestry.root(trace)
    name = code_name(task.address)
    deploy = None if task.code is None else deploys.get((name, task.code.digest))
    worker = () if trace.completion is None else walk.worker(trace.completion.fingerprint)[1]
    return Side(trace, state, root.chain, _input(source, root.record), deploy, worker)


def _state_after(lane: Lane, task: Task) -> bytes | None:
    """Return the state that a task left, if its agent still has it: a completion has only the last state of a fold."""
    agent = lane.agents.get(task.address)
    return agent.state if agent is not None and agent.state_digest == task.state_digest else None


def _note_deploys(deploys: dict[tuple[str, bytes], int], number: int, record: records.Record) -> None:
    bound = record.deploys if isinstance(record, records.Opened) else ()
    if isinstance(record, records.Deployed):
        bound = ((record.name, record.code),)
    for name, code in bound:
        deploys[(name, code.digest)] = number


def _input(source: Kept, number: int | None) -> RootInput | None:
    record = None if number is None else record_at(source, number)
    return None if number is None or record is None else root_input(number, record)


# --- why ------------------------------------------------------------------------------------------


def _circumstances(one: Side, other: Side, lanes: tuple[Lane, Lane]) -> list[Part]:
    """Return the differences that the digest does not cover: what the task could see, its bindings, its worker."""
    traces = one.trace, other.trace
    found: list[Part | None] = [
        part("now ms", *(trace.now_ms for trace in traces)),
        part("entropy", *(trace.entropy for trace in traces)),
        part("emits allowed", *(trace.emits_max for trace in traces)),
        part("window at the end", *(lane.window for lane in lanes)),
        part("policy", *(lane.settings.policy for lane in lanes)),
        part("starvation passes", *(lane.settings.starvation_passes for lane in lanes)),
    ]
    bound = one.trace.code, other.trace.code
    if bound[0] is not None and bound[1] is not None:
        fields = zip(Code._fields[1:], bound[0][1:], bound[1][1:], strict=True)
        found += [part(f"code {name}", a, b) for name, a, b in fields]
    facts = dict(one.worker), dict(other.worker)
    found += [
        part(f"worker {name}", facts[0].get(name), facts[1].get(name)) for name in sorted({**facts[0], **facts[1]})
    ]
    found.append(part("provider", *(trace.provenance and trace.provenance.provider for trace in traces)))
    return [each for each in found if each is not None]


def _why_ended(one: list[tuple[int, str]], other: list[tuple[int, str]]) -> str:
    told = [", ".join([f"turn {turn} {kind}" for turn, kind in each]) or "none" for each in (one, other)]
    return f"a cancel or deadline ends asks here: {told[0]} in run 1, {told[1]} in run 2"


def _why_another_turn(one: int, other: int, only_order: bool) -> tuple[str, str]:
    text = f"turn {one} retires here in run 1, turn {other} in run 2"
    if only_order:
        return (
            "order",
            f"{text}: the same tasks, which a pause, a window, a priority or recorded order arranged differently",
        )
    return "input", f"{text}: one of the runs has inputs that the other has not"


def _why(one: Task, other: Task, parts: list[str], settings: list[str]) -> tuple[str, str]:
    """Return cause and reason, the first that fits: another task, other code, a decision, what it saw, who ran it."""
    if any(name in parts for name in _STAMPED):
        where = "from outside" if one.run.parent is None and other.run.parent is None else "at this number"
        names = ", ".join(name for name in parts if name in _STAMPED)
        return "input", f"another task came {where}: it differs in {names}"
    if "code digest" in parts:
        return "code", f"{code_name(one.address)} was bound to other code when the task was issued"
    if any(was_decided(task.outcome) for task in (one, other)):
        return "decision", "a cancel or a verdict caught the task in one of the runs, or another one did"
    seen = [name for name in settings if name in _SEEN or name.startswith("code ")]
    if seen:
        return "circumstances", f"same task, same code; what it saw or was allowed differs: {', '.join(seen)}"
    if one.address.startswith(MODEL_PREFIX):
        return "model", "same call, same model: results of models are recorded, and may differ between devices and runs"
    ran = [name for name in settings if name.startswith("worker ")]
    if ran:
        return "worker", f"same task, same code, computed by different workers: {', '.join(ran)}"
    return (
        "code or record",
        "same task, same code, same circumstances: the code is not deterministic, or a record was altered",
    )
