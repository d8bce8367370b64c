"""A generate task that was submitted, and a dialogue made of such tasks, for the blocking client.

A `Generation` is an iterator of text: the pieces as the model makes them, then what is left when the result is there.
Together they are the text of the result. aio_generation.py has the same for asyncio; a new method must be added to
both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from rota.client.dialogue import Dialogue
from rota.client.options import ChatNames
from rota.client.texts import TextSoFar, generated
from rota.common.results import Result
from rota.common.text_results import GenerateResult

if TYPE_CHECKING:
    from rota.client.client import Client


class Generation:
    """A submitted generate task. Iterate over it for the text as it comes; ask for the `result` at any time."""

    def __init__(self, client: Client, seq: int, timeout_s: float | None = None) -> None:
        self.seq = seq
        self._client = client
        self._timeout_s = timeout_s
        self._so_far = TextSoFar()

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        """Wait for more text. Raises `TaskFailed`, and `TimeoutError`, after which it can be asked again."""
        text = self._client._next_text(self.seq, self._so_far, self._timeout_s)
        if not text:
            raise StopIteration
        return text

    def result(self, timeout_s: float | None = None) -> GenerateResult:
        """Wait for the result: text, tokens, why it ended, usage, and what was asked for. Raises `TaskFailed`."""
        return generated(self.outcome(timeout_s))

    def outcome(self, timeout_s: float | None = None) -> Result:
        """Wait for the outcome, with the provenance of the result; a failure is returned, not raised."""
        if self._so_far.outcome is None:
            self._so_far.outcome = self._client.outcome(self.seq, self._timeout_s if timeout_s is None else timeout_s)
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


class Chat:
    """A dialogue with a model, kept as a chain of messages of which only the head is sent (docs/INFERENCE.md).

    `say` sends the next message and returns the answer. What was said before an answer that failed or was cancelled
    stays; that message does not.
    """

    def __init__(self, client: Client, model: str, dialogue: Dialogue) -> None:
        self.model = model
        self._client = client
        self._dialogue = dialogue
        self._last: Generation | None = None

    def say(self, content: str | Sequence[Mapping[str, Any]], **options: Unpack[ChatNames]) -> Generation:
        """Send text as the user, or the given messages, for example those of tools, and return the answer.

        Waits for the answer before. `options` go before those of the chat.
        """
        if self._last is not None:
            self._last.outcome()
        names = self._dialogue_here().turn(content, options)
        self._last = self._client.generate(self.model, **names)
        return self._last

    @property
    def head(self) -> bytes | None:
        """The head after the last answer whose result was received; None before the first."""
        return self._dialogue_here().head

    def fork(self) -> Chat:
        """Return another dialogue that goes on from here. Costs nothing."""
        if self._last is not None:
            self._last.outcome()
        return Chat(self._client, self.model, self._dialogue_here().fork())

    def _dialogue_here(self) -> Dialogue:
        """Return the dialogue, past an answer that has been received."""
        if self._last is not None and self._last.received is not None:
            self._dialogue.settle(self._last.received)
            self._last = None
        return self._dialogue

    def __repr__(self) -> str:
        head = self.head
        return f"<chat with {self.model}{'' if head is None else f' at {head.hex()[:8]}'}>"
