"""Events in order, with gaps reported."""

from __future__ import annotations

import pytest

from rota.client.watch import EventFilter, Missed
from rota.common.errors import BadTarget
from rota.common.events import Happened, LanePaused, Watching, WorkerDraining
from rota.common.messages import Event
from rota.common.wire import encode

PAUSED = LanePaused(True)


def frame(boot: int, event: int, what: Happened = PAUSED) -> bytes:
    return encode(Event(boot, event, 0, "main", what))


def test_gaps_are_told() -> None:
    """Goal: a watcher knows what it missed. Method: numbers with a hole, then another boot."""
    watch = EventFilter(())
    told = [one for event in ((1, 7), (1, 8), (1, 11), (2, 1)) for one in watch.receive(frame(*event))]
    assert [one for one in told if isinstance(one, Missed)] == [Missed(1, 2), Missed(2, None)]
    assert [one.event for one in told if isinstance(one, Event)] == [7, 8, 11, 1]


def test_other_topics_are_counted_but_not_shown() -> None:
    """Goal: choosing topics makes no gaps. Method: an event of another topic in between."""
    watch = EventFilter(("worker",))
    assert watch.receive(frame(1, 1)) == ()
    assert [type(one) for one in watch.receive(frame(1, 2, WorkerDraining("w1")))] == [Event]
    assert watch.receive(frame(1, 4)) == (Missed(1, 1),)
    with pytest.raises(BadTarget, match="nonsense"):
        EventFilter(("nonsense",))


def test_what_an_answer_takes_account_of_is_not_given_again() -> None:
    """Goal: read, then follow, without a gap and without a doubt. Method: events before and after the number of an
    answer, of its boot, of an older and of a newer one; and one that is missing.
    """
    watch = EventFilter(())
    assert watch.receive(frame(3, 4)) != ()
    assert not watch.is_live
    assert watch.receive(frame(3, 5, Watching(""))) == ()
    assert watch.is_live
    watch.begin_at(3, 9)
    assert watch.receive(frame(2, 30)) == watch.receive(frame(3, 8)) == watch.receive(frame(3, 9)) == ()
    assert [type(one) for one in watch.receive(frame(3, 10))] == [Event]
    watch.begin_at(3, 12)
    assert watch.receive(frame(3, 15))[0] == Missed(3, 2)
    assert watch.receive(frame(4, 1))[0] == Missed(4, None)
