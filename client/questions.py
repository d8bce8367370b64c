"""Read-only questions to the broker, as a state machine. PURE.

A question is sent until it is answered or given up; after SILENCE_MS without a word the connection counts as dead and
all open questions go out again on a new one. Asking twice does no harm, so there is nothing to remember beyond that.
The same interface as `Session` has towards the shell: receive, tick, output, next_tick_ms.
"""

from __future__ import annotations

from typing import Any, Final

from rota.client.session import ALL, SILENCE_MS, Key, Output
from rota.common.errors import ProtocolError, RotaError, error_from_wire
from rota.common.messages import Answer, Query, Refused
from rota.common.wire import decode, encode

_ALLOWED: Final = frozenset({Answer, Refused})


class Questions:
    """The open questions of one client."""

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
        """Return whether there is no sign of a broker: to a question, the only sign is its answer."""
        return True

    def ask(self, what: str, arguments: dict[str, Any], now_ms: int) -> int:
        """Send a question and return its number, for `answer`."""
        self._next_number += 1
        frame = encode(Query(self._next_number, what, arguments))
        self._open[self._next_number] = frame
        self._out.append(frame)
        if self._silent_since_ms is None:
            self._silent_since_ms = now_ms
        return self._next_number

    def answer(self, number: int) -> Answer | RotaError | None:
        """Return the answer to a question and let go of it, or None while there is none."""
        return self._answers.pop(number, None)

    def forget(self, number: int) -> None:
        """Give a question up."""
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
        """End the conversation: whoever waits, and whoever asks from now on, gets this error."""
        self.failure = error
        self._news.append(ALL)

    def tick(self, now_ms: int) -> None:
        """Let time pass. The shell reads its socket first: what has arrived is no silence."""
        if not self._open:
            self._silent_since_ms = None
        elif self._silent_since_ms is not None and now_ms - self._silent_since_ms >= SILENCE_MS:
            self._reconnect = True
            self._silent_since_ms = now_ms
            self._out = list(self._open.values())

    def output(self) -> Output:
        """Return what the shell must do now, once."""
        output = Output(self._reconnect, tuple(self._out))
        self._reconnect = False
        self._out.clear()
        return output

    def take_news(self) -> list[Key]:
        """Return what has come since the last call: whoever waits for one of these can go on."""
        news, self._news = self._news, []
        return news

    def next_tick_ms(self) -> int | None:
        """Return when `tick` has something to do, or None while nothing is open."""
        return None if not self._open or self._silent_since_ms is None else self._silent_since_ms + SILENCE_MS
