"""What a record would say if its lane were alone in its run file. PURE.

Sequence numbers run over all lanes, so they tell of the timing of other lanes; turns do not. A lane that is played
again is alone in its world, where the two are the same: inputs that name tasks by seq are given their turns. Ask before
the record is applied, because it may remove what it names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rota.broker import records
from rota.broker.world import World

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


def alone(record: Input, world: World) -> Input | None:
    """Return an input with turns for seqs; None if nothing is left of it. `world` is as it is before the record.

    What names a lane or a task that is not there stays as it is: `World.apply` refuses it.
    """
    translate = _TRANSLATE.get(type(record)) if record.lane in world.lanes else None
    moved: Input | None = record if translate is None else translate(record, world)
    return moved


def _submitted(record: records.Submitted, world: World) -> records.Submitted:
    lane = world.lanes[record.lane]
    dead = None if record.retry_of is None else lane.dead.get(record.retry_of)
    return record._replace(first_seq=lane.next_turn, retry_of=record.retry_of if dead is None else dead.turn)


def _decision(record: Any, world: World) -> Any:
    run = world.runs.find(record.seq)
    return record if run is None else record._replace(seq=run.first_turn + record.seq - run.first_seq)


def _dropped(record: records.DeadDropped, world: World) -> records.DeadDropped | None:
    dead = world.lanes[record.lane].dead
    turns = tuple([dead[seq].turn for seq in record.seqs if seq in dead])
    return None if record.seqs and not turns else record._replace(seqs=turns)


_TRANSLATE: Final[dict[type, Callable[[Any, World], Any]]] = {
    records.Submitted: _submitted,
    records.Cancelled: _decision,
    records.Verdict: _decision,
    records.DeadDropped: _dropped,
}
