"""Handles of submitted tasks, to get their outcomes.

As in the client, `result` raises a failure and `outcome` returns it; here both run the lane as far as needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from rota.common.results import Result

if TYPE_CHECKING:
    from rota.local.lane import LocalLane


class LocalHandle:
    """A submitted task. It can be passed wherever a turn is expected."""

    def __init__(self, lane: LocalLane, turn: int) -> None:
        self.turn = turn
        self._lane = lane

    def result(self) -> Result:
        """Run the lane until the task has its result, a postponed one its answer. Raises `TaskFailed` if it failed."""
        return self._lane.result(self.turn)

    def outcome(self) -> Result:
        """Run the lane until the task has its outcome, which may be a failure."""
        return self._lane.outcome(self.turn)

    def cancel(self) -> bool:
        """Cancel the task if it has no outcome yet; return whether it was cancelled."""
        return self._lane.cancel(self.turn)

    def __repr__(self) -> str:
        return f"<turn {self.turn} of {self._lane.name}>"


class LocalBatch(Sequence[LocalHandle]):
    """Tasks submitted together, in the order of their payloads."""

    def __init__(self, lane: LocalLane, turns: Sequence[int]) -> None:
        self.turns = turns
        self._lane = lane

    def results(self) -> list[Result]:
        """Run the lane until all have their results. Raises `TaskFailed` for the first that failed."""
        return [outcome.raise_if_failed() for outcome in self.outcomes()]

    def outcomes(self) -> list[Result]:
        """Run the lane until all have their outcomes, which may be failures."""
        return self._lane.outcomes(self.turns)

    def __len__(self) -> int:
        return len(self.turns)

    @overload
    def __getitem__(self, index: int) -> LocalHandle: ...

    @overload
    def __getitem__(self, index: slice) -> list[LocalHandle]: ...

    def __getitem__(self, index: int | slice) -> LocalHandle | list[LocalHandle]:
        if isinstance(index, slice):
            return [LocalHandle(self._lane, turn) for turn in self.turns[index]]
        return LocalHandle(self._lane, self.turns[index])

    def __repr__(self) -> str:
        return f"<{len(self.turns)} turns of {self._lane.name}>"
