"""A generate task that was submitted, and a dialogue made of such tasks, for the asyncio client.

generation.py documents what each method does and raises; a new method must be added to both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from rota.client.options import ChatNames
from rota.client.texts import TextSoFar
from rota.common.chat import ChatState, Dialogue, generated
from rota.common.results import Result
from rota.common.text_results import GenerateResult

if TYPE_CHECKING:
    from rota.client.aio import AsyncClient


class AsyncGeneration:
    """A submitted generate task. Iterate over it for the text as it comes; ask for the `result` at any time."""

    def __init__(self, client: AsyncClient, seq: int, timeout_s: float | None = None) -> None:
        self.seq = seq
        self._client = client
        self.timeout_s = timeout_s
        self._so_far = TextSoFar()

    def __aiter__(self) -> AsyncGeneration:
        return self

    async def __anext__(self) -> str:
        """Wait for more text. Raises `TaskFailed`, and `TimeoutError`, after which it can be asked again."""
        text = await self._client._next_text(self.seq, self._so_far, self.timeout_s)
        if not text:
            raise StopAsyncIteration
        return text

    async def result(self, timeout_s: float | None = None) -> GenerateResult:
        """Wait for the result: text, tokens, why it ended, usage, and what was asked for. Raises `TaskFailed`."""
        return generated(await self.outcome(timeout_s))

    async def outcome(self, timeout_s: float | None = None) -> Result:
        """Wait for the outcome, with the provenance of the result; a failure is returned, not raised."""
        if self._so_far.outcome is None:
            wait_s = self.timeout_s if timeout_s is None else timeout_s
            self._so_far.outcome = await self._client.outcome(self.seq, wait_s)
        return self._so_far.outcome

    @property
    def received(self) -> Result | None:
        """The outcome if it has been received; does not wait."""
        return self._so_far.outcome

    async def cancel(self) -> bool:
        """Cancel the task if it has not completed; return whether it was cancelled."""
        return await self._client.cancel(self.seq)

    def close(self) -> None:
        """Follow the text no longer. The task goes on: see `cancel`."""
        self._client._drop_text(self.seq)

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<generation {self.seq}>"


class AsyncChat(ChatState[AsyncGeneration]):
    """A dialogue with a model, kept as a chain of messages of which only the head is sent (docs/INFERENCE.md).

    `say` sends the next message and returns the answer. What was said before an answer that failed or was cancelled
    stays; that message does not.
    """

    def __init__(self, client: AsyncClient, model: str, dialogue: Dialogue) -> None:
        super().__init__(model, dialogue)
        self._client = client

    async def say(self, content: str | Sequence[Mapping[str, Any]], **options: Unpack[ChatNames]) -> AsyncGeneration:
        """Send text as the user, or the given messages, for example those of tools, and return the answer.

        Waits for the answer before. `options` go before those of the chat.
        """
        if self._last is not None:
            await self._last.outcome()
        names = self._dialogue_here().turn(content, options)
        self._last = await self._client.generate(self.model, **names)
        return self._last

    async def fork(self) -> AsyncChat:
        """Return another dialogue that goes on from here. Costs nothing."""
        if self._last is not None:
            await self._last.outcome()
        return AsyncChat(self._client, self.model, self._dialogue_here().fork())
