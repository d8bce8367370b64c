"""Questions about single tasks and agents, answered from the records of a run. PURE.

Each question is one walk over the records, which keeps only what the answer needs and stops where the answer is
complete. What is not there is refused with what there is instead. How answers look is in cli/inspect_views.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final, NamedTuple, Protocol

from rota.broker import records
from rota.broker.lane import Lane
from rota.broker.world import World
from rota.common.errors import UnknownLane, UnknownTask
from rota.common.work import Failed
from rota.runs.traces import Progress, Trace, Tracer, waiting_timers, walk
from rota.runs.tree import Lineage, Root

_NAMES_SHOWN: Final = 8


class Kept(Protocol):
    """What is read: the records that a run still has, after the world as it was before them."""

    name: str

    def begin(self) -> World: ...

    def records(self) -> Iterator[tuple[int, records.Record]]: ...


class WorkerFacts(NamedTuple):
    """A Fingerprint record."""

    number: int
    pool: str
    facts: dict[str, str]


class Origin(NamedTuple):
    """The submit that a task descends from."""

    record: int
    now_ms: int
    producer: str
    number: int
    retry_of: int | None


class Family(NamedTuple):
    """A task with what is above and below it. `missing`: how many records were compacted away before the first."""

    trace: Trace
    below: dict[int, Trace]  # by turn; the task itself is in it
    left_out: int  # descendants that are not in `below`
    root: Root
    origin: Origin | None
    worker: WorkerFacts | None
    missing: int


def family(
    kept: Kept,
    seq: int,
    *,
    lane: str | None = None,
    depth_max: int = 1,
    traces_max: int | None = None,
    progress: Progress | None = None,
) -> Family:
    """Return everything about a task, and about its descendants down to a depth.

    Raises `UnknownTask` if the run has no such task, or has it no more; `UnknownLane` if it has no such lane.
    """
    world = kept.begin()
    tracer = Tracer(seqs=(seq,), depth_max=depth_max, traces_max=traces_max)
    lineage = Lineage()
    lineage.begin(world)
    first = 0
    found: Trace | None = None
    root = Root(None, ())
    for step in walk(world, kept.records(), tracer, progress):
        first = first or step.number
        if found is None:
            lineage.take(step)
        tracer.after(step)
        if found is None and seq in tracer.by_seq:
            found = tracer.by_seq[seq]
            root, lineage = lineage.root(found), Lineage()
        if found is not None and _is_told(tracer):
            break
    if found is None:
        raise _no_task(kept, world, seq, first)
    if lane is not None and found.lane != lane:
        lane_of(kept, world, lane)
        raise UnknownTask(f"task {seq} is in lane {found.lane!r}, not in {lane!r}: leave --lane away")
    below = {trace.turn: trace for trace in tracer.traces.values()}
    origin = None if root.record is None else _origin(kept, root.record)
    worker = _worker(world, found)
    return Family(found, below, tracer.left_out, root, origin, worker, max(first - 1, 0))


def story(
    kept: Kept, address: str, lane: str, turns: tuple[int | None, int | None], progress: Progress | None = None
) -> Iterator[Trace]:
    """Yield the tasks of an agent in the order in which they took effect, then those that have not retired.

    `turns` are the first and last turn of interest. Raises `UnknownLane`, `UnknownTask` for what is not there.
    """
    first, last = turns
    world = kept.begin()
    tracer = Tracer(address=address, lane=lane, forget_retired=True)
    told = 0
    for step in walk(world, kept.records(), tracer, progress):
        for trace in tracer.after(step):
            if (first is None or trace.turn >= first) and (last is None or trace.turn <= last):
                told += 1
                yield trace
    for trace in sorted(tracer.traces.values(), key=lambda one: one.turn):
        if (first is None or trace.turn >= first) and (last is None or trace.turn <= last):
            told += 1
            yield trace
    if not told:
        at = lane_of(kept, world, lane)
        check_agent(kept, at, address, met=tracer.met_address)
        for turn in turns:
            check_turn(kept, at, turn)


# --- what is not there ----------------------------------------------------------------------------


def check_agent(kept: Kept, lane: Lane, address: str, *, met: bool) -> None:
    """Raise `UnknownTask` if nothing in a lane was ever for this target."""
    if met or address in lane.agents:
        return
    names = sorted(lane.agents) or sorted(lane.deploys)
    close = get_close_matches(address, names, _NAMES_SHOWN, 0.5) or names[:_NAMES_SHOWN]
    there = f"agents there: {', '.join(close)}" if close else "no agent has run there"
    where = f"lane {lane.name!r} of {kept.name}"
    raise UnknownTask(f"no task in {where} was for {address!r} ({there}); name another, or a lane with --lane")


def check_turn(kept: Kept, lane: Lane, turn: int | None) -> None:
    """Raise `UnknownTask` if a lane has not stamped a turn."""
    if turn is not None and not 1 <= turn < lane.next_turn:
        there = f"turns 1 to {lane.next_turn - 1}" if lane.next_turn > 1 else "no turns yet"
        raise UnknownTask(f"lane {lane.name!r} of {kept.name} has no turn {turn}: it has {there}")


def lane_of(kept: Kept, world: World, lane: str) -> Lane:
    """Return a lane of a world whose records are all applied. Raises `UnknownLane`."""
    if lane not in world.lanes:
        known = ", ".join(sorted(world.lanes)[:_NAMES_SHOWN]) or "none"
        raise UnknownLane(f"{kept.name} has no lane {lane!r} (lanes: {known}); name one with --lane", lane=lane)
    return world.lanes[lane]


def _no_task(kept: Kept, world: World, seq: int, first: int) -> UnknownTask:
    last = world.next_seq - 1
    if seq <= last:
        return UnknownTask(
            f"task {seq} of {kept.name} had retired before record {first}, and the journal was compacted up to there: "
            "look into a copy from before, or export runs before compacting them"
        )
    there = f"it has tasks 1 to {last}" if last else "it has no tasks yet"
    return UnknownTask(f"{kept.name} has no task {seq}: {there}; `rota log` lists what happened")


# --- parts of answers -----------------------------------------------------------------------------


def _is_told(tracer: Tracer) -> bool:
    """Tell whether nothing that comes later can add to what is known of the tasks that are watched."""
    return not tracer.left_out and all(
        trace.retired_at is not None and type(trace.outcome) is not Failed and not waiting_timers(trace)
        for trace in tracer.traces.values()
    )


def _origin(kept: Kept, number: int) -> Origin | None:
    for found, record in kept.records():
        if found == number:
            assert isinstance(record, records.Submitted), "a chain of parents ends in a submit"
            return Origin(number, record.now_ms, record.origin.producer, record.origin.number, record.retry_of)
    return None


def _worker(world: World, trace: Trace) -> WorkerFacts | None:
    if trace.completion is None:
        return None
    for (pool, facts), number in world.fingerprints.items():
        if number == trace.completion.fingerprint:
            return WorkerFacts(number, pool, dict(facts))
    return None
