"""A dialogue with a model, kept as a chain of messages: a task is sent the head of the chain and what is new. PURE.

`Chat` is for the blocking client and for `rota.local`, and is given their `generate`. The asyncio client has its own,
over the same `ChatState`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from rota.common.arguments import several
from rota.common.errors import BadPayload
from rota.common.results import Result
from rota.common.shown import shown
from rota.common.text_calls import DIGEST_BYTES, NEW_CONVERSATION
from rota.common.text_requests import head_bytes
from rota.common.text_results import GenerateResult, decode_text_result


class Receiving(Protocol):
    """A generate task that was submitted."""

    @property
    def received(self) -> Result | None: ...


class Answering(Receiving, Protocol):
    """One whose outcome can be waited for."""

    def outcome(self) -> Result: ...


Last = TypeVar("Last", bound=Receiving)
Answer = TypeVar("Answer", bound=Answering)


class ChatState(Generic[Last]):
    """A dialogue and the last answer in it; the base of the chats of all clients."""

    def __init__(self, model: str, dialogue: Dialogue) -> None:
        self.model = model
        self._dialogue = dialogue
        self._last: Last | None = None

    @property
    def head(self) -> bytes | None:
        """The head after the last answer whose result was received; None before the first."""
        return self._dialogue_here().head

    def _dialogue_here(self) -> Dialogue:
        """Return the dialogue, past an answer that has been received."""
        if self._last is not None and self._last.received is not None:
            self._dialogue.settle(self._last.received)
            self._last = None
        return self._dialogue

    def __repr__(self) -> str:
        head = self.head
        return f"<chat with {self.model}{'' if head is None else f' at {head.hex()[:8]}'}>"


class Chat(ChatState[Answer]):
    """A dialogue with a model, kept as a chain of messages of which only the head is sent (docs/INFERENCE.md).

    `say` sends the next message and returns the answer. What was said before an answer that failed or was cancelled
    stays; that message does not.
    """

    def __init__(self, generate: Callable[..., Answer], model: str, dialogue: Dialogue) -> None:
        super().__init__(model, dialogue)
        self._generate = generate

    def say(self, content: str | Sequence[Mapping[str, Any]], **options: Any) -> Answer:
        """Send text as the user, or the given messages, for example those of tools, and return the answer.

        Waits for the answer before. `options` go before those of the chat.
        """
        if self._last is not None:
            self._last.outcome()
        names = self._dialogue_here().turn(content, options)
        self._last = self._generate(self.model, **names)
        return self._last

    def fork(self) -> Chat[Answer]:
        """Return another dialogue that goes on from here. Costs nothing."""
        if self._last is not None:
            self._last.outcome()
        return Chat(self._generate, self.model, self._dialogue_here().fork())


class Dialogue:
    """A head that moves with each answer. `system` is sent as the first message of a new chain."""

    def __init__(self, head: bytes | str | None, system: str | None, options: Mapping[str, Any]) -> None:
        head = head_bytes(head)
        if head is not None and (not isinstance(head, bytes) or len(head) != DIGEST_BYTES):
            raise BadPayload(
                f"conversation={shown(head)}: a head has {DIGEST_BYTES} bytes, or as hex digits {2 * DIGEST_BYTES}"
            )
        if head is not None and system is not None:
            raise BadPayload("system: the conversation has its first messages already")
        self.head: bytes | None = head
        self._system = system
        self._options = dict(options)

    def turn(self, content: str | Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the named arguments of the generate task that says this."""
        said = [{"role": "user", "content": content}] if isinstance(content, str) else list(several("content", content))
        if self.head is None and self._system is not None:
            said = [{"role": "system", "content": self._system}, *said]
        head = NEW_CONVERSATION if self.head is None else self.head
        return {**self._options, **options, "messages": said, "conversation": head}

    def settle(self, outcome: Result) -> None:
        """Move the head behind an answer. After a failure it stays."""
        if outcome.ok:
            self.head = generated(outcome).conversation or self.head

    def fork(self) -> Dialogue:
        """Return a dialogue that goes on from here."""
        return Dialogue(self.head, None if self.head else self._system, self._options)


def generated(outcome: Result) -> GenerateResult:
    """Return what a generate task gave. Raises `TaskFailed`, and `BadPayload` for the result of another task."""
    outcome.raise_if_failed()
    result = decode_text_result(outcome.payload or b"", outcome.tensors)
    if not isinstance(result, GenerateResult):
        raise BadPayload(f"the result of task {outcome.seq} is not that of a generate task")
    return result
