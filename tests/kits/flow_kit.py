"""A call of a flow on an executor, message after message, as a worker gets them from the lane."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack
from call_kit import call_fold, past_of
from sdk_cases import NOW_MS, task

from rota.common.calls import instance_address
from rota.common.work import ASK, FAILURE, REPLY, TIMER, Code, Done, Emit, Failed, Outcome, TaskInput

FIRST_TURN: Final = 7
TURNS_BETWEEN: Final = 3  # from one message of the call to the next


class Waiting(NamedTuple):
    """An ask or a timer that is on its way: emit `place` of the step of `turn`."""

    emit: Emit
    turn: int
    place: int


class FlowCall:
    """A call that goes on after each message until it returns or fails.

    `messages` are what it has been given, `outcomes` what its steps came to, `waiting` its asks and timers without an
    answer, in order. The executor decides whether a step continues a guest that it kept or runs all of them again.
    """

    def __init__(self, executor: Any, code: Code, payload: bytes = b"", **fields: Any) -> None:
        """Begin a call; `fields`: of its first message, beside the payload."""
        self.executor = executor
        self.code = code
        self.messages: list[TaskInput] = []
        self.outcomes: list[Outcome] = []
        self.waiting: list[Waiting] = []
        self._step(payload, {"kind": ASK, "sender": None, "now_ms": NOW_MS} | fields)

    @property
    def last(self) -> Outcome:
        """What the last step came to."""
        return self.outcomes[-1]

    @property
    def emits(self) -> tuple[Emit, ...]:
        """What the last step sent."""
        assert isinstance(self.last, Done), self.last
        return self.last.emits

    @property
    def result(self) -> bytes | None:
        """What it has returned."""
        assert isinstance(self.last, Done), self.last
        assert self.last.waits is None
        return self.last.result

    @property
    def waits(self) -> str | None:
        """Where it waits; None if it has ended."""
        return self.last.waits if isinstance(self.last, Done) else None

    @property
    def value(self) -> Any:
        """The MessagePack value that it has returned."""
        assert self.result is not None
        return msgpack.unpackb(self.result, strict_map_key=False)

    @property
    def failure(self) -> str:
        """Kind and message of the failure that it ended with."""
        assert isinstance(self.last, Failed), self.last
        return f"{self.last.kind}: {self.last.message}"

    @property
    def sent(self) -> list[tuple[str, str]]:
        """Kind and target of what the last step sent."""
        return [(emit.kind, emit.target) for emit in self.emits]

    def answer(self, payload: bytes = b"", place: int = 0, **fields: Any) -> FlowCall:
        """Answer the ask at a place among those that wait."""
        return self._end(self._taken(ASK, place), payload, {"kind": REPLY} | fields)

    def fail(self, kind: str = "error", message: str = "no", place: int = 0) -> FlowCall:
        """Have the ask at a place among those that wait fail."""
        return self._end(self._taken(ASK, place), msgpack.packb([kind, message]), {"kind": FAILURE})

    def wake(self, place: int = 0) -> FlowCall:
        """Let the timer at a place among those that wait come."""
        waiting = self._taken(TIMER, place)
        now_ms = self.messages[-1].now_ms + waiting.emit.delay_ms
        return self._step(waiting.emit.payload, {"kind": TIMER, "sender": self._address, "now_ms": now_ms})

    @property
    def _address(self) -> str:
        return instance_address("trip", FIRST_TURN)

    def _taken(self, kind: str, place: int) -> Waiting:
        waiting = [one for one in self.waiting if one.emit.kind == kind][place]
        self.waiting.remove(waiting)
        return waiting

    def _end(self, asked: Waiting, payload: bytes, fields: dict[str, Any]) -> FlowCall:
        reply_to = (asked.turn + 1, asked.turn, asked.place)
        now_ms = self.messages[0].now_ms
        return self._step(payload, {"sender": asked.emit.target, "reply_to": reply_to, "now_ms": now_ms} | fields)

    def _past(self) -> Any:
        return past_of(self.messages, self.outcomes, alive=1)

    def _step(self, payload: bytes, fields: dict[str, Any]) -> FlowCall:
        turn = FIRST_TURN + TURNS_BETWEEN * len(self.messages)
        message = task(payload, **({"turn": turn} | fields))
        result = self.executor.run(call_fold(self.code, [message], self._past(), self._address))
        assert result.stopped is None, result.reason
        (outcome,) = result.outcomes
        self.messages.append(message)
        self.outcomes.append(outcome)
        if isinstance(outcome, Done):
            emits = enumerate(outcome.emits)
            self.waiting += [Waiting(emit, turn, place) for place, emit in emits if emit.kind in (ASK, TIMER)]
        return self
