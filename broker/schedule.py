"""What becomes due by the wall clock: timers, and deadlines of asks; the earliest first. PURE.

Entries are not removed when a timer is dropped or an ask is answered, since that would take a search: they are skipped
when their time comes, and all of them are looked through when most may be out of date. Volatile: a start makes it anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final, NamedTuple

from rota.broker.lane import Lane

DEADLINE: Final = -1  # in place of the index of an emit
_LOOK_FROM: Final = 1_024  # entries that may be out of date without anybody looking


class Due(NamedTuple):
    """A timer, by the turn and the emit that made it; or with `index_of_emit` DEADLINE the deadline of a turn."""

    due_ms: int
    lane: str
    turn: int
    index_of_emit: int


class Schedule:
    """The timers and deadlines of all lanes."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes
        self._heap: list[Due] = []
        self._look_at = _LOOK_FROM
        self._rebuild()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due: Due) -> None:
        """Add what became known with the last record."""
        if len(self._heap) >= self._look_at:
            self._rebuild()
        heapq.heappush(self._heap, due)

    def first(self) -> Due | None:
        """Return what is due next; None if there is nothing."""
        heap = self._heap
        while heap and not self._is_there(heap[0]):
            heapq.heappop(heap)
        return heap[0] if heap else None

    def take(self) -> Due:
        """Remove and return the first; there must be one."""
        first = self.first()
        assert first is not None
        return heapq.heappop(self._heap)

    def check_invariants(self) -> None:
        """Assert that nothing is missing, and that what is out of date is bounded."""
        there = self._all()
        assert sorted(there) == sorted(due for due in dict.fromkeys(self._heap) if self._is_there(due))
        assert len(self._heap) <= max(_LOOK_FROM, self._look_at)

    def _rebuild(self) -> None:
        self._heap = self._all()
        heapq.heapify(self._heap)
        self._look_at = max(_LOOK_FROM, 2 * len(self._heap))

    def _all(self) -> list[Due]:
        lanes = self._lanes.values()
        found = [Due(timer.due_ms, lane.name, *key) for lane in lanes for key, timer in lane.timers.items()]
        return found + [
            Due(due_ms, lane.name, turn, DEADLINE) for lane in lanes for turn, due_ms in lane.deadlines.items()
        ]

    def _is_there(self, due: Due) -> bool:
        lane = self._lanes[due.lane]
        if due.index_of_emit == DEADLINE:
            return lane.deadlines.get(due.turn) == due.due_ms
        return (due.turn, due.index_of_emit) in lane.timers
