"""Read-only queries to the broker, as a state machine. PURE.

A query is open until it is answered or forgotten. After SILENCE_MS without an answer the connection counts as dead, and
all open queries are sent again on a new one, which is safe since they change nothing. The interface to the shell is
that of `Session`: receive, tick, output, next_tick_ms.
"""

from __future__ import annotations

from typing import Any, Final

from rota.client.session import ALL, SILENCE_MS, Key, Output
from rota.common.errors import ProtocolError, RotaError, error_from_wire
from rota.common.messages import Answer, Query, Refused
from rota.common.wire import decode, encode

_ALLOWED: Final = frozenset({Answer, Refused})


class Questions:
    """The open queries of one client."""

    def __init__(self) -> None:
        self.failure: RotaError | None = None
        self.is_heard = False
        self._next_number = 0
        self._open: dict[int, bytes] = {}
        self._answers: dict[int, Answer | RotaError] = {}
        self._out: list[bytes] = []
        self._reconnect = False
        self._news: list[Key] = []
        self._silent_since_ms: int | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an answer is outstanding."""
        return bool(self._open)

    def is_silent(self, now_ms: int) -> bool:
        """Return whether there is no sign of a broker; the only sign is an answer."""
        return True

    def ask(self, what: str, arguments: dict[str, Any], now_ms: int) -> int:
        """Send a query and return its number, for `answer`."""
        self._next_number += 1
        frame = encode(Query(self._next_number, what, arguments))
        self._open[self._next_number] = frame
        self._out.append(frame)
        if self._silent_since_ms is None:
            self._silent_since_ms = now_ms
        return self._next_number

    def answer(self, number: int) -> Answer | RotaError | None:
        """Return and remove the answer to a query; None while there is none."""
        return self._answers.pop(number, None)

    def forget(self, number: int) -> None:
        """Drop a query."""
        self._open.pop(number, None)
        self._answers.pop(number, None)

    def receive(self, frame: bytes, now_ms: int) -> None:
        """Take in one frame."""
        try:
            message = decode(frame, _ALLOWED)
        except ProtocolError as error:
            self.end(error)
            return
        assert isinstance(message, Answer | Refused)
        self._news += [("question", message.number)] if self.is_heard else [ALL]
        self.is_heard = True
        known = self._open.pop(message.number, None) is not None
        self._silent_since_ms = now_ms if self._open else None
        if isinstance(message, Refused):
            refusal = error_from_wire(message.code, message.message, message.fields)
            if known:
                self._answers[message.number] = refusal
            elif isinstance(refusal, ProtocolError):
                self.end(refusal)
        elif known:
            self._answers[message.number] = message

    def end(self, error: RotaError) -> None:
        """End the conversation: all open and later queries get this error."""
        self.failure = error
        self._news.append(ALL)

    def tick(self, now_ms: int) -> None:
        """Advance the time. The shell must read its socket first, so that arrived frames count as signs of life."""
        if not self._open:
            self._silent_since_ms = None
        elif self._silent_since_ms is not None and now_ms - self._silent_since_ms >= SILENCE_MS:
            self._reconnect = True
            self._silent_since_ms = now_ms
            self._out = list(self._open.values())

    def output(self) -> Output:
        """Return and clear what the shell must do now."""
        output = Output(self._reconnect, tuple(self._out))
        self._reconnect = False
        self._out.clear()
        return output

    def take_news(self) -> list[Key]:
        """Return the keys that arrived since the last call; their waiters can go on."""
        news, self._news = self._news, []
        return news

    def next_tick_ms(self) -> int | None:
        """Return when `tick` has something to do; None if no query is open."""
        return None if not self._open or self._silent_since_ms is None else self._silent_since_ms + SILENCE_MS
