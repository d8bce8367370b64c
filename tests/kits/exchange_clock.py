"""A client's exchanges with a simulated clock and without sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rota.client.exchanges import Exchanges, Pause, Timeouts
from rota.client.questions import Questions
from rota.client.session import Session
from rota.client.texts import Texts
from rota.common.errors import NotReachable
from rota.common.messages import ResultItem, Results, Welcome
from rota.common.wire import encode


class Clock:
    def __init__(self) -> None:
        self.now_ms = 0
        self.session = Session("p", 1)
        self.session.receive(encode(Welcome(0, 1, "test")), 0)
        self.texts = Texts()
        decoder: Any = None  # results are not decoded here
        self.exchanges = Exchanges(
            self.session, Questions(), self.texts, decoder, limits=Timeouts(1_000, 1_000), now_ms=lambda: self.now_ms,
            chance=lambda: 0.5, not_reachable=NotReachable,
        )  # fmt: skip

    def hear(self) -> None:
        """The broker gives a sign of life."""
        self.session.receive(encode(Welcome(0, 1, "test")), self.now_ms)

    def deliver(self, seq: int) -> None:
        self.session.receive(encode(Results.of((ResultItem(seq, "main", seq, 1, True, b"", (), "", "", (), None),))), 0)

    def run(self, stream: Any, on_turn: Callable[[], None]) -> list[Any]:
        """Run an exchange or stream; at each turn time passes until its deadline. Returns what it gives."""
        given = []
        for step in stream:
            if isinstance(step, Pause):
                assert step.until_ms is not None, "it would wait for ever"
                on_turn()
                self.now_ms = max(self.now_ms, step.until_ms)
            else:
                given.append(step)
        return given

    def returned(self, exchange: Any, on_turn: Callable[[], None]) -> Any:
        """Run an exchange as `run` does; return what it returns."""
        while True:
            try:
                step = next(exchange)
            except StopIteration as end:
                return end.value
            on_turn()
            self.now_ms = max(self.now_ms, step.until_ms)
