"""Call a handler without a sandbox, for unit tests in the host's Python.

    from rota.agent.testing import call
    import planner

    def test_it_counts():
        first = call(planner.agent, "x")
        assert call(planner.agent, "x", state=first.state).text == "2"

The handler runs in this process: with the host's clock and files, without fuel or memory limits. Only `asyncio.sleep`
takes no time, as in the sandbox. `rota.local` runs the same source in the sandbox.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from rota.agent.context import Context, ReplyTo
from rota.agent.event_loop import EventLoop, TimersOnly
from rota.agent.messagepack import pack, unpack
from rota.agent.step import Handler, step

ENTROPY: Final = bytes(range(32))


class Emit(NamedTuple):
    """What a handler sent. `kind`: tell, ask or timer."""

    target: str
    payload: bytes
    priority: int
    kind: str
    tensors: list[int]
    delay_ms: int = 0

    @property
    def text(self) -> str:
        return self.payload.decode()

    @property
    def value(self) -> Any:
        return unpack(self.payload)


class Answer(NamedTuple):
    """What came of a call. `state`: after it; `failure`: (code, message) if the task failed, with the state before."""

    state: Any
    result: bytes | None
    emits: list[Emit]
    failure: tuple[str, str] | None = None

    @property
    def text(self) -> str:
        """The result as text. Raises `AssertionError` with the failure if there is one, or if there is no result."""
        assert self.failure is None, f"{self.failure[0]}: {self.failure[1]}"
        assert self.result is not None, "the handler did not reply"
        return self.result.decode()

    @property
    def value(self) -> Any:
        """The result as a MessagePack value. Raises as `text` does."""
        assert self.failure is None, f"{self.failure[0]}: {self.failure[1]}"
        assert self.result is not None, "the handler did not reply"
        return unpack(self.result)


def call(
    handler: Handler,
    payload: Any = b"",
    *,
    state: Any = None,
    kind: str = "tell",
    sender: str | None = None,
    turn: int = 1,
    now_ms: int = 0,
    entropy: bytes = ENTROPY,
    reply_to: tuple[int, int, int] | ReplyTo | None = None,
    tensors: Iterable[tuple[bytes, str, tuple[int, ...]]] = (),
    address: str = "test/main",
) -> Answer:
    """Run `handler` on one message and return what came of it. `payload` is encoded as a verb's, `state` None is none;
    `tensors`: (digest, dtype, shape) of each.
    """
    given = None if state is None else pack(state)
    encoded = payload if isinstance(payload, bytes) else payload.encode() if isinstance(payload, str) else pack(payload)
    fields = (given, kind, sender, encoded, turn, now_ms, entropy, reply_to, list(tensors), address)
    output = unpack(step(lambda ctx: _at_once(handler(ctx)), fields))
    if output[1]:
        return Answer(state, None, [], (output[2], output[3]))
    after = output[2] if output[2] is not None else given
    emits = [Emit(*fields) for fields in output[4]]
    return Answer(None if after is None else unpack(after), output[3], emits)


class _Clock(TimersOnly):
    """Its waits move it, and take no time."""

    now = 0.0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            return super().select(timeout)
        self.now = math.nextafter(self.now + max(timeout, 0.0), math.inf)  # a timer is due when its time has passed
        return []


class _Loop(EventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._selector = self._clock = _Clock()

    def time(self) -> float:
        return self._clock.now


def _at_once(answer: Any) -> Any:
    """Return what a handler returned; of an `async` one, what it returns at its end."""
    if not inspect.iscoroutine(answer):
        return answer
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(answer)


__all__ = ["Answer", "Context", "Emit", "call"]
