"""What a lane's clock does: timers fire and deadlines pass. And what a cancel or a passed deadline ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import merge

from rota.broker import records
from rota.broker.lane import Lane
from rota.broker.verdicts import OVERDUE
from rota.engine.engine import Engine


class Endings:
    """The part of `LocalLane` for time, and for cancels."""

    name: str
    _engine: Engine
    _lane: Lane
    _orphans: deque[int]  # asks of calls that an input has ended
    _apply: Callable[[records.Record], None]

    def _end(self, record: records.Cancelled | records.Verdict) -> None:
        """Apply a cancel or a passed deadline; cancel what a call that it ended was still waiting for, and so on."""
        self._apply(record)
        while self._orphans:
            turn = self._orphans.popleft()
            ends = self._engine.world.decision(turn)
            if ends is not None:
                self._apply(records.Cancelled(*self._head(), records.NOBODY, turn, ends))

    def _advance_to(self, end_ms: int) -> int:
        """Fire timers, and let deadlines pass, up to a time, each at its own; return how many."""
        lane, count = self._lane, 0
        timers = sorted([(timer.due_ms, *key) for key, timer in lane.timers.items() if timer.due_ms <= end_ms])
        deadlines = sorted([(due_ms, turn, -1) for turn, due_ms in lane.deadlines.items() if due_ms <= end_ms])
        for due_ms, turn, index in merge(timers, deadlines):
            if (turn, index) not in lane.timers and (index >= 0 or turn not in lane.deadlines):
                continue  # what ended before it took it along
            self._engine.now_ms = max(self._engine.now_ms, due_ms)
            if index >= 0:
                self._apply(records.TimerFired(*self._head(), turn, index))
            else:
                self._expire(turn)
            count += 1
        self._engine.now_ms = end_ms
        return count

    def _expire(self, turn: int) -> None:
        ends = self._engine.world.decision(turn)  # seqs are turns here
        assert ends is not None, f"turn {turn} has a deadline and its answer"
        self._end(records.Verdict(*self._head(), turn, OVERDUE.kind, OVERDUE.message, (), ends))

    def _due_ms(self) -> int | None:
        """Return when the next timer or deadline is due."""
        due = [*[timer.due_ms for timer in self._lane.timers.values()], *self._lane.deadlines.values()]
        return min(due, default=None)

    def _head(self) -> tuple[str, int, int]:
        """Return the first fields of every input of the lane."""
        return self.name, self._lane.retired, self._engine.now_ms
