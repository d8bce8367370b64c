"""Call agents and flows without a sandbox, for unit tests in the host's Python.

    from rota.agent.testing import call, run_flow
    import planner, trip

    def test_it_counts():
        first = call(planner.agent, "x")
        assert call(planner.agent, "x", state=first.state).text == "2"

    def test_it_asks():
        assert run_flow(trip.flow, "Rome", lambda ask: f"{ask.target} says yes").text == "yes"

The handler runs in this process: with the host's clock and files, without fuel or memory limits. Only `asyncio.sleep`
takes no time, as in the sandbox. `rota.local` runs the same source in the sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from rota.agent.context import Context, ReplyTo, text_of, value_of
from rota.agent.event_loop import EventLoop, TimersOnly
from rota.agent.flow import NO_SLEEP, AskFailed, Flow, FlowCall
from rota.agent.messagepack import pack, unpack
from rota.agent.step import Handler, step

ENTROPY: Final = bytes(range(32))


class Emit(NamedTuple):
    """What a handler sent. `kind`: tell, ask or timer; reply or failure settle the turn `answers`, an ask with it hands
    that turn on. `delay_ms`: of a timer its delay, of an ask its deadline.
    """

    target: str
    payload: bytes
    priority: int
    kind: str
    tensors: list[int]
    delay_ms: int = 0
    answers: int = 0

    @property
    def text(self) -> str:
        """The payload as UTF-8. Raises `UnicodeDecodeError`."""
        return text_of(self.payload)

    @property
    def value(self) -> Any:
        """The payload as one MessagePack value. Raises `ValueError`."""
        return value_of(self.payload)


class Answer(NamedTuple):
    """What came of a call. `state`: after it; `failure`: (code, message) if the task failed, with the state before;
    `postponed`: it will be answered later. `emits` of a flow: all of its steps.
    """

    state: Any
    result: bytes | None
    emits: list[Emit]
    failure: tuple[str, str] | None = None
    postponed: bool = False

    @property
    def text(self) -> str:
        """The result as text. Raises `AssertionError` with the failure if there is one, or if there is no result."""
        assert self.failure is None, f"{self.failure[0]}: {self.failure[1]}"
        assert self.result is not None, "the handler did not reply"
        return text_of(self.result)

    @property
    def value(self) -> Any:
        """The result as a MessagePack value. Raises as `text` does."""
        assert self.failure is None, f"{self.failure[0]}: {self.failure[1]}"
        assert self.result is not None, "the handler did not reply"
        return value_of(self.result)


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
    fields = (given, kind, sender, _encoded(payload), turn, now_ms, entropy, reply_to, list(tensors), address)
    output = unpack(step(lambda ctx: _at_once(handler(ctx)), fields))
    if output[1]:
        return Answer(state, None, [], (output[2], output[3]))
    after = output[2] if output[2] is not None else given
    emits = [Emit(*fields) for fields in output[4]]
    return Answer(None if after is None else unpack(after), output[3], emits, postponed=len(output) > 7)


class Waiting(NamedTuple):
    """An ask or a timer of a flow without an answer: emit `place` of `turn`, which had the time `now_ms`."""

    emit: Emit
    turn: int
    place: int
    now_ms: int

    @property
    def due_ms(self) -> int:
        """When a timer comes, or the deadline of an ask is."""
        return self.now_ms + self.emit.delay_ms


class FlowTest:
    """A call of a flow that a test gives its answers one by one. Close it, or use it in a `with` block."""

    def __init__(
        self, flow: Flow, payload: Any = b"", *, kind: str = "ask", sender: str | None = None, now_ms: int = 0,
        entropy: bytes = ENTROPY, tensors: Iterable[tuple[bytes, str, tuple[int, ...]]] = (), address: str = "test/~1",
    ) -> None:  # fmt: skip
        """Begin the call; the arguments are those of `call`. What it does until it first waits is done then."""
        self._call = FlowCall(flow)
        self._address, self._entropy = address, entropy
        self.turn = 0
        """Of the last message; the first has 1, and each one more."""
        self.now_ms = now_ms
        """Of the last message. A timer has the time at which it is due; an answer that of the step which asked."""
        self.emits: list[Emit] = []
        """What all steps have sent."""
        self.waiting: list[Waiting] = []
        """Asks and timers without an answer, in order."""
        self.waits: str | None = None
        """The lines at which the flow waits, or None: it is over."""
        self.end: Answer | None = None
        """What came of the call when it is over."""
        self._step(kind, sender, _encoded(payload), None, tensors)

    @property
    def asks(self) -> list[Emit]:
        """The asks without an answer, in order."""
        return [one.emit for one in self.waiting if one.emit.kind == "ask"]

    def answer(
        self, payload: Any = b"", place: int = 0, *, tensors: Iterable[tuple[bytes, str, tuple[int, ...]]] = ()
    ) -> None:
        """Answer the ask at a place of `asks`, the oldest by default. `payload` is encoded as a verb's."""
        self._reply("reply", _encoded(payload), place, tensors)

    def fail(self, message: str = "", place: int = 0, *, kind: str = "error") -> None:
        """Have the ask at a place of `asks` fail."""
        self._reply("failure", pack([kind, message]), place, ())

    def wake(self) -> None:
        """Let the next timer come, which moves `now_ms`."""
        timers = [one for one in self.waiting if one.emit.kind == "timer"]
        assert timers, f"the flow has no timer; it waits at {self.waits}"
        first = min(timers, key=lambda one: one.due_ms)
        self.now_ms = first.due_ms
        self.waiting.remove(first)
        self._step("timer", self._address, first.emit.payload, None, ())

    def close(self) -> None:
        """End the call if it has not ended."""
        self._call.close()

    def __enter__(self) -> FlowTest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _reply(self, kind: str, payload: bytes, place: int, tensors: Iterable[Any]) -> None:
        asks = [one for one in self.waiting if one.emit.kind == "ask"]
        assert asks, f"the flow has asked nothing that has no answer; it waits at {self.waits}"
        asked = asks[place]
        self.waiting.remove(asked)
        self.now_ms = asked.now_ms
        self._step(kind, asked.emit.target, payload, (asked.turn + 1, asked.turn, asked.place), tensors)

    def _step(
        self, kind: str, sender: str | None, payload: bytes, reply_to: tuple[int, int, int] | None,
        tensors: Iterable[Any],
    ) -> None:  # fmt: skip
        self.turn += 1
        fields = (kind, sender, payload, self.turn, self.now_ms, self._entropy, reply_to, list(tensors), self._address)
        with _no_sleep():
            output = unpack(self._call.step((None, *fields)))
        if output[1]:
            self._over(Answer(None, None, self.emits, (output[2], output[3])))
            return
        for place, emit in enumerate([Emit(*one) for one in output[4]]):
            self.emits.append(emit)
            if emit.kind in ("ask", "timer"):
                self.waiting.append(Waiting(emit, self.turn, place, self.now_ms))
        if len(output) <= 7:
            self._over(Answer(None, output[3], self.emits))
        else:
            self.waits = output[7]

    def _over(self, end: Answer) -> None:
        self.end, self.waits = end, None
        self.waiting.clear()
        self.close()


def run_flow(
    flow: Flow, payload: Any = b"", answer: Callable[[Emit], Any] = lambda ask: ask.payload, **more: Any
) -> Answer:
    """Run a call of a flow to its end and return what came of it. `answer(ask)` returns the payload that each ask is
    answered with, by default its own, or raises `AskFailed(kind, message)`; `ask` is an `Emit`. Answers come in the
    order of the asks, timers when nothing is asked. `more`: as for `FlowTest`.
    """
    with FlowTest(flow, payload, **more) as test:
        while test.end is None:
            if not test.asks:
                test.wake()
                continue
            failure = None
            try:
                found = answer(test.asks[0])
            except AskFailed as error:
                failure = error.kind, error.message
            if failure is None:
                test.answer(found)
            else:  # here, since else what the flow raises would have its exception as context
                test.fail(failure[1], kind=failure[0])
        return test.end


@contextlib.contextmanager
def _no_sleep() -> Iterator[None]:
    """Have `time.sleep` of this thread say that it does not wait in a flow, as in the sandbox."""
    sleep, thread = time.sleep, threading.get_ident()

    def checked(seconds: Any) -> None:
        if threading.get_ident() == thread:
            raise RuntimeError(NO_SLEEP)
        sleep(seconds)

    time.sleep = checked
    try:
        yield
    finally:
        time.sleep = sleep


def _encoded(payload: Any) -> bytes:
    return payload if isinstance(payload, bytes) else payload.encode() if isinstance(payload, str) else pack(payload)


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


__all__ = ["Answer", "AskFailed", "Context", "Emit", "FlowTest", "Waiting", "call", "run_flow"]
