"""A generate task of a local lane: the methods of a client's, but its text comes at once, when it was executed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rota.common.chat import generated
from rota.common.results import Result
from rota.common.text_results import GenerateResult

if TYPE_CHECKING:
    from rota.local.texts import LocalTexts


class LocalGeneration:
    """A submitted generate task. Iterating gives its text in one piece."""

    def __init__(self, lane: LocalTexts, turn: int) -> None:
        self.turn = turn
        self._lane = lane
        self._received: Result | None = None

    def __iter__(self) -> Iterator[str]:
        text = self.result().text
        return iter((text,) if text else ())

    def result(self) -> GenerateResult:
        """Run the lane until the task has its result: text, tokens, usage. Raises `TaskFailed` if it failed."""
        return generated(self.outcome())

    def outcome(self) -> Result:
        """Run the lane until the task has its outcome, which may be a failure."""
        self._received = self._lane.outcome(self.turn)
        return self._received

    @property
    def received(self) -> Result | None:
        """The outcome if it was asked for before; runs nothing."""
        return self._received

    def cancel(self) -> bool:
        """Cancel the task if it has no outcome yet; return whether it was cancelled."""
        return self._lane.cancel(self.turn)

    def __repr__(self) -> str:
        return f"<generation {self.turn} of {self._lane.name}>"
