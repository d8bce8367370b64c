"""Queries for single tasks and agents, answered from the records of a run. PURE.

Each query walks over the records once, keeps only what the answer needs and stops when the answer is complete. An
error about an unknown task, turn or agent lists those that exist. cli/inspect_views.py formats the answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import NamedTuple

from rota.broker.asks import is_postponed
from rota.broker.lane import Lane
from rota.common.errors import UnknownTask
from rota.common.work import Failed
from rota.runs.traces import Trace, Tracer, waiting_timers
from rota.runs.tree import Ancestry, Root, RootInput, root_input
from rota.runs.walk import NAMES_SHOWN, Kept, Progress, Walk, lane_of, record_at, some_of


class WorkerFacts(NamedTuple):
    """A Fingerprint record."""

    number: int
    pool: str
    facts: dict[str, str]


class Family(NamedTuple):
    """A task with its ancestors and descendants. `missing`: how many records were compacted away before the first."""

    trace: Trace
    below: dict[int, Trace]  # by turn, the task itself included
    left_out: int  # descendants that are not in `below`
    root: Root
    origin: RootInput | None
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

    Raises `UnknownTask` if the run has no such task or it was compacted away, `UnknownLane` if there is no such lane.
    """
    walk, ancestry = Walk(kept), Ancestry()
    tracer = Tracer(seqs=(seq,), depth_max=depth_max, traces_max=traces_max)
    tracer.begin(walk.world)
    ancestry.begin(walk.world)
    found: Trace | None = None
    root = Root(None, ())
    for step in walk.steps(progress=progress):
        if found is None:
            ancestry.take(step)
        tracer.after(step)
        if found is None and seq in tracer.by_seq:
            found = tracer.by_seq[seq]
            root, ancestry = ancestry.root(found), Ancestry()
        if found is not None and _is_told(tracer):
            break
    tracer.end(walk.world)
    if found is None:
        raise _no_task(kept, walk, seq)
    if lane is not None and found.lane != lane:
        lane_of(walk.world, lane)
        raise UnknownTask(f"task {seq} is in lane {found.lane!r}, not in {lane!r}: leave --lane out")
    below = {trace.turn: trace for trace in tracer.traces.values()}
    return Family(
        found, below, tracer.left_out, root, _origin(kept, root), _worker(walk, found), max(walk.first - 1, 0)
    )


def story(
    kept: Kept, address: str, lane: str, turns: tuple[int | None, int | None], progress: Progress | None = None
) -> Iterator[Trace]:
    """Yield the tasks of an agent in the order in which they took effect, then those that have not retired.

    `turns` are the first and last turn wanted. Raises `UnknownLane` or `UnknownTask` for what does not exist.
    """
    first, last = turns
    walk, tracer, told = Walk(kept), Tracer(address=address, lane=lane, forget_retired=True), 0
    tracer.begin(walk.world)
    for step in walk.steps(progress=progress):
        for trace in tracer.after(step):
            if (first is None or trace.turn >= first) and (last is None or trace.turn <= last):
                told += 1
                yield trace
    tracer.end(walk.world)
    for trace in sorted(tracer.traces.values(), key=lambda one: one.turn):
        if (first is None or trace.turn >= first) and (last is None or trace.turn <= last):
            told += 1
            yield trace
    if not told:
        at = lane_of(walk.world, lane)
        check_agent(kept, at, address, met=tracer.met_address)
        for turn in turns:
            check_turn(kept, at, turn)


# --- errors ---------------------------------------------------------------------------------------


def check_agent(kept: Kept, lane: Lane, address: str, *, met: bool) -> None:
    """Raise `UnknownTask` if no task in a lane ever had this target."""
    if met or address in lane.agents:
        return
    names = sorted(lane.agents) or sorted(lane.deploys)
    close = get_close_matches(address, names, NAMES_SHOWN, 0.5)
    first = [*close, *[name for name in names if name not in close]]
    there = f"agents there: {some_of(first)}" if names else "no agent has run there"
    where = f"lane {lane.name!r} of {kept.name}"
    raise UnknownTask(f"no task in {where} was for {address!r} ({there}); name another, or a lane with --lane")


def check_turn(kept: Kept, lane: Lane, turn: int | None) -> None:
    """Raise `UnknownTask` if a lane has not stamped a turn."""
    if turn is not None and not 1 <= turn < lane.next_turn:
        there = f"turns 1 to {lane.next_turn - 1}" if lane.next_turn > 1 else "no turns yet"
        raise UnknownTask(f"lane {lane.name!r} of {kept.name} has no turn {turn}: it has {there}")


def _no_task(kept: Kept, walk: Walk, seq: int) -> UnknownTask:
    last = walk.world.next_seq - 1
    if seq <= last:
        return UnknownTask(
            f"task {seq} of {kept.name} had retired before record {walk.first}, and the journal was compacted up to "
            "there: look into a copy from before, or export runs before compacting them"
        )
    there = f"it has tasks 1 to {last}" if last else "it has no tasks yet"
    return UnknownTask(f"{kept.name} has no task {seq}: {there}; `rota log` lists what happened")


# --- parts of answers -----------------------------------------------------------------------------


def _is_told(tracer: Tracer) -> bool:
    """Return whether no later record can add to the traces being kept."""
    return not tracer.left_out and all(
        trace.retired_at is not None
        and type(trace.outcome) is not Failed
        and not waiting_timers(trace)
        and (not is_postponed(trace.outcome) or trace.call not in (None, trace.turn) or trace.answer is not None)
        for trace in tracer.traces.values()
    )


def _origin(kept: Kept, root: Root) -> RootInput | None:
    if root.record is None:
        return None
    record = record_at(kept, root.record)
    return None if record is None else root_input(root.record, record)


def _worker(walk: Walk, trace: Trace) -> WorkerFacts | None:
    if trace.completion is None:
        return None
    number = trace.completion.fingerprint
    pool, facts = walk.worker(number)
    return WorkerFacts(number, pool, dict(facts))
