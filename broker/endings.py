"""Ends tasks by an input: cancels, deadlines, and what the calls that these end had asked. PURE.

A task without an outcome is caught; the wait for the answer of one that has run ends, and what it did stands (execution
model, part 10). When an input ends a call of a flow, so does each ask that it still waited for: each is an input of
its own, recorded in the same step, since which of them were not complete is a matter of timing.
"""

from __future__ import annotations

from rota.broker.lane import Lane
from rota.broker.records import NOBODY, Cancelled, Origin, Verdict
from rota.broker.schedule import DEADLINE
from rota.broker.state import BrokerState
from rota.broker.verdicts import OVERDUE


def cancel(broker: BrokerState, seq: int, origin: Origin) -> bool:
    """Cancel a task whose outcome is not final; return whether it was cancelled."""
    ends, place = broker.world.decision(seq), broker.world.place_of(seq)
    if ends is None or place is None:
        return False
    lane = broker.world.lanes[place.lane]
    _withdraw(broker, lane, place.turn, ends)
    broker.commit(Cancelled(lane.name, lane.retired, broker.now_ms, origin, seq, ends))
    return True


def fire_due(broker: BrokerState) -> bool:
    """Fire one due timer, or end one task whose deadline has passed; return False if there is none."""
    due = broker.take_due()
    if due is None:
        return False
    if due.index_of_emit == DEADLINE:
        _expire(broker, broker.world.lanes[due.lane], due.turn)
    else:
        broker.fire_timer(due)
    return True


def end_orphans(broker: BrokerState) -> None:
    """Cancel what calls had asked that inputs have ended, and so on."""
    while (orphan := broker.take_orphan()) is not None:
        lane, turn = orphan
        seq = lane.seq_of(turn)
        if seq is not None:
            cancel(broker, seq, NOBODY)


def _expire(broker: BrokerState, lane: Lane, turn: int) -> None:
    """End a task whose deadline has passed; what has a deadline has no final outcome."""
    seq = lane.seq_of(turn)
    assert seq is not None
    ends = broker.world.decision(seq)
    assert ends is not None
    _withdraw(broker, lane, turn, ends)
    broker.commit(Verdict(lane.name, lane.retired, broker.now_ms, seq, OVERDUE.kind, OVERDUE.message, (), ends))


def _withdraw(broker: BrokerState, lane: Lane, turn: int, ends: bool) -> None:
    """Remove a task that is caught from dispatch, if it is there."""
    task = lane.line_by_turn.get(turn)
    if task is not None and not ends:
        broker.withdraw(task)
