"""A generate task that was submitted, for the blocking client.

A `Generation` is an iterator of text: the pieces as the model makes them, then what is left when the result is there.
Together they are the text of the result. aio_generation.py has the same for asyncio; a new method must be added to
both.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rota.client.texts import TextSoFar
from rota.common.chat import generated
from rota.common.results import Result
from rota.common.text_results import GenerateResult

if TYPE_CHECKING:
    from rota.client.client import Client


class Generation:
    """A submitted generate task. Iterate over it for the text as it comes; ask for the `result` at any time."""

    def __init__(self, client: Client, seq: int, timeout_s: float | None = None) -> None:
        self.seq = seq
        self._client = client
        self.timeout_s = timeout_s
        self._so_far = TextSoFar()

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        """Wait for more text. Raises `TaskFailed`, and `TimeoutError`, after which it can be asked again."""
        text = self._client._next_text(self.seq, self._so_far, self.timeout_s)
        if not text:
            raise StopIteration
        return text

    def result(self, timeout_s: float | None = None) -> GenerateResult:
        """Wait for the result: text, tokens, why it ended, usage, and what was asked for. Raises `TaskFailed`."""
        return generated(self.outcome(timeout_s))

    def outcome(self, timeout_s: float | None = None) -> Result:
        """Wait for the outcome, with the provenance of the result; a failure is returned, not raised."""
        if self._so_far.outcome is None:
            self._so_far.outcome = self._client.outcome(self.seq, self.timeout_s if timeout_s is None else timeout_s)
        return self._so_far.outcome

    @property
    def received(self) -> Result | None:
        """The outcome if it has been received; does not wait."""
        return self._so_far.outcome

    def cancel(self) -> bool:
        """Cancel the task if it has not completed; return whether it was cancelled."""
        return self._client.cancel(self.seq)

    def close(self) -> None:
        """Follow the text no longer. The task goes on: see `cancel`."""
        self._client._drop_text(self.seq)

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<generation {self.seq}>"
