"""How long an exchange waits, with a simulated clock."""

from __future__ import annotations

import pytest
from exchange_clock import Clock

from rota.client.exchanges import Patience
from rota.client.session import SILENCE_MS
from rota.common.errors import NotReachable


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
        clock.run(clock.exchanges.outcomes(((1, 3),), Patience(None, 500)), one_more)
    assert clock.now_ms == 3 * 500


def test_patience_for_all_ends_when_its_time_has_come() -> None:
    """Goal: a time that a call names is for all of it. Method: outcomes come, but not all in time."""
    clock = Clock()
    clock.deliver(1)
    with pytest.raises(TimeoutError):
        clock.run(clock.exchanges.as_completed(((1, 2),), Patience(700, None)), clock.hear)
    assert clock.now_ms == 700


def test_a_silent_broker_is_named_when_patience_ends() -> None:
    """Goal: not "ask again later" without a broker. Method: a broker that is heard once and never again."""
    clock = Clock()
    with pytest.raises(NotReachable, match="no sign of the broker"):
        clock.run(clock.exchanges.outcome(1, Patience(SILENCE_MS, None)), lambda: None)
