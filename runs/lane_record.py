"""What a record would say if its lane were alone in its run file. PURE.

Seqs count the tasks of all lanes and so depend on the timing of other lanes; turns do not. A replayed lane is alone in
its world, where seq and turn are equal, so inputs that name tasks by seq get their turns instead. Call these functions
before the record is applied, since applying it may remove what it names.

A changed input is no longer what its producer asked for, so it names nobody (`records.NOBODY`); otherwise a fork, which
journals such inputs, would contradict itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rota.broker import records
from rota.broker.world import World
from rota.runs.record_checks import check_input

Input = (
    records.Submitted
    | records.Deployed
    | records.Cancelled
    | records.Verdict
    | records.TimerFired
    | records.WindowSet
    | records.PauseSet
    | records.SeedSet
    | records.DeadDropped
)
INPUTS: Final = (
    records.Submitted,
    records.Deployed,
    records.Cancelled,
    records.Verdict,
    records.TimerFired,
    records.WindowSet,
    records.PauseSet,
    records.SeedSet,
    records.DeadDropped,
)


def lane_input(record: Input, world: World) -> Input | None:
    """Return an input with turns for seqs; None if nothing of it remains. `world` is the world before the record.

    An input that names an unknown lane or task is returned unchanged; `World.apply` refuses it.
    """
    translate = _TRANSLATE.get(type(record)) if record.lane in world.lanes else None
    moved: Input | None = record if translate is None else translate(record, world)
    return moved


def lane_opening(record: records.Opened, world: World) -> records.Opened:
    """Return the opening of a lane, without its request if that names a lane to take deploys from."""
    is_alone = check_input(0, record, 1) is None or check_input(0, record, 1, world.lanes) is not None
    return record if is_alone else _unasked(record)


def _submitted(record: records.Submitted, world: World) -> records.Submitted:
    lane = world.lanes[record.lane]
    moved = record._replace(first_seq=lane.next_turn)
    dead = None if record.retry_of is None else lane.dead.get(record.retry_of)
    return moved if dead is None or dead.turn == record.retry_of else _unasked(moved._replace(retry_of=dead.turn))


def _decision(record: Any, world: World) -> Any:
    place = world.place_of(record.seq)
    if place is None or place.turn == record.seq:
        return record
    moved = record._replace(seq=place.turn)
    return _unasked(moved) if isinstance(moved, records.Cancelled) else moved


def _dropped(record: records.DeadDropped, world: World) -> records.DeadDropped | None:
    dead = world.lanes[record.lane].dead
    turns = tuple([dead[seq].turn for seq in record.seqs if seq in dead])
    if turns == record.seqs:
        return record
    return _unasked(record._replace(seqs=turns)) if turns else None


def _unasked(record: Any) -> Any:
    return record._replace(origin=records.NOBODY)


def named_target(record: Input, world: World) -> str | None:
    """Return the address of the task that an input names: a cancel, verdict, retry, timer. Ask as for `lane_input`."""
    lane = world.lanes.get(record.lane)
    if lane is None:
        return None
    match record:
        case records.Cancelled() | records.Verdict():
            return _address(record.seq, world)
        case records.Submitted(retry_of=int() as seq) if seq in lane.dead:
            return lane.dead[seq].target
        case records.TimerFired() if (record.turn, record.index_of_emit) in lane.timers:
            return lane.timers[(record.turn, record.index_of_emit)].sender
        case _:
            return None


def _address(seq: int, world: World) -> str | None:
    """Return the address of a task that is unfinished or pending."""
    run, place = world.runs.find(seq), world.place_of(seq)
    if run is not None:
        return run.target(seq - run.first_seq)
    if place is None:
        return None
    lane = world.lanes[place.lane]
    ask, task = lane.open.get(place.turn), lane.line_by_turn.get(place.turn)
    return ask.run.target(0) if ask is not None else None if task is None else task.run.target(task.index)


_TRANSLATE: Final[dict[type, Callable[[Any, World], Any]]] = {
    records.Submitted: _submitted,
    records.Cancelled: _decision,
    records.Verdict: _decision,
    records.DeadDropped: _dropped,
}
