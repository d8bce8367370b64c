"""How long a flow waits, with a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rota.client.flows import Flows, Patience, Pause, Timeouts
from rota.client.questions import Questions
from rota.client.session import SILENCE_MS, Session
from rota.common.errors import NotReachable
from rota.common.messages import ResultItem, Results, Welcome
from rota.common.wire import encode


class Clock:
    def __init__(self) -> None:
        self.now_ms = 0
        self.session = Session("p", 1)
        self.session.receive(encode(Welcome(0, 1, "test")), 0)
        decoder: Any = None  # results are not decoded here
        self.flows = Flows(
            self.session, Questions(), decoder, limits=Timeouts(1_000, 1_000), now_ms=lambda: self.now_ms,
            chance=lambda: 0.5, not_reachable=NotReachable,
        )  # fmt: skip

    def hear(self) -> None:
        """The broker gives a sign of life."""
        self.session.receive(encode(Welcome(0, 1, "test")), self.now_ms)

    def deliver(self, seq: int) -> None:
        self.session.receive(encode(Results.of((ResultItem(seq, "main", seq, 1, True, b"", (), "", "", (), None),))), 0)

    def run(self, stream: Any, on_turn: Callable[[], None]) -> list[Any]:
        """Run a flow or stream; at each turn time passes until its deadline. Returns what it gives."""
        given = []
        for step in stream:
            if isinstance(step, Pause):
                assert step.until_ms is not None, "it would wait for ever"
                on_turn()
                self.now_ms = max(self.now_ms, step.until_ms)
            else:
                given.append(step)
        return given


def test_patience_for_each_outcome_begins_anew_with_each() -> None:
    """Goal: a long batch is no reason to give up, an outcome that does not come is. Method: three tasks, the last of
    which has none; each takes as long as may be.
    """
    clock = Clock()
    left = [1, 2]

    def one_more() -> None:
        clock.hear()
        if left:
            clock.deliver(left.pop(0))

    with pytest.raises(TimeoutError, match="task 3 has no outcome yet"):
        clock.run(clock.flows.outcomes(((1, 3),), Patience(None, 500)), one_more)
    assert clock.now_ms == 3 * 500


def test_patience_for_all_ends_when_its_time_has_come() -> None:
    """Goal: a time that a call names is for all of it. Method: outcomes come, but not all in time."""
    clock = Clock()
    clock.deliver(1)
    with pytest.raises(TimeoutError):
        clock.run(clock.flows.as_completed(((1, 2),), Patience(700, None)), clock.hear)
    assert clock.now_ms == 700


def test_a_silent_broker_is_named_when_patience_ends() -> None:
    """Goal: not "ask again later" without a broker. Method: a broker that is heard once and never again."""
    clock = Clock()
    with pytest.raises(NotReachable, match="no sign of the broker"):
        clock.run(clock.flows.outcome(1, Patience(SILENCE_MS, None)), lambda: None)
