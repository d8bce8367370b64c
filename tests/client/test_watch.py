"""Events in order, with the gaps named."""

from __future__ import annotations

import pytest

from rota.client.watch import Missed, Watch
from rota.common.errors import BadTarget
from rota.common.messages import Event
from rota.common.wire import encode


def frame(boot: int, event: int, topic: str = "lane") -> bytes:
    return encode(Event(boot, event, 0, topic, "main", {}))


def test_gaps_are_told() -> None:
    """Goal: a watcher knows what it missed. Method: numbers with a hole, then another boot."""
    watch = Watch(())
    told = [one for event in ((1, 7), (1, 8), (1, 11), (2, 1)) for one in watch.receive(frame(*event))]
    assert [one for one in told if isinstance(one, Missed)] == [Missed(1, 2), Missed(2, None)]
    assert [one.event for one in told if isinstance(one, Event)] == [7, 8, 11, 1]


def test_other_topics_are_counted_but_not_shown() -> None:
    """Goal: choosing topics makes no gaps. Method: an event of another topic in between."""
    watch = Watch(("worker",))
    assert watch.receive(frame(1, 1)) == ()
    assert [type(one) for one in watch.receive(frame(1, 2, "worker"))] == [Event]
    assert watch.receive(frame(1, 4)) == (Missed(1, 1),)
    with pytest.raises(BadTarget, match="nonsense"):
        Watch(("nonsense",))
