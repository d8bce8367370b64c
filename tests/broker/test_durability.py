"""broker/durability.py: which messages leave before and after the disk, and what happens when writing fails."""

from __future__ import annotations

from typing import Any

import pytest

from rota.broker import records
from rota.broker.durability import STORAGE_RETRY_MS, Durability
from rota.broker.effects import FRONTEND, QUERY, Effects, News, Send
from rota.common.events import LanePaused
from rota.common.messages import Accepted, Answer, Event, Refused, Results, Welcome

RECORD = records.Diverged("main", 1, "counter/a", b"", b"", "w1")  # any record without an effect
PAUSED = LanePaused(True)


def effects(**fields: Any) -> Effects:
    made = Effects()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def to_producer(message: Any) -> Send:
    return Send(FRONTEND, b"p", message)


def test_what_waits_leaves_once_it_is_written() -> None:
    """Goal: sends and events leave after their record, once. Method: take, write, and write nothing more."""
    waiting = Durability()
    accepted = to_producer(Accepted(1, 1, 1))
    waiting.take(effects(records=[RECORD], after=[accepted], news=[News(1, "main", PAUSED)]))
    assert list(waiting.unwritten) == [RECORD]
    sends, events = waiting.written(7, 1_000)
    assert sends == [accepted]
    assert events == [Event(7, 1, 1_000, "main", PAUSED)]
    assert (list(waiting.unwritten), waiting.written(7, 1_001)) == ([], ([], []))


def test_inputs_are_refused_and_results_wait_while_nothing_can_be_written() -> None:
    """Goal: nothing leaves that a crash could contradict. Method: one send of each kind, and a write that fails."""
    waiting = Durability()
    sends = [
        to_producer(Accepted(1, 1, 1)), to_producer(Answer(2, {"caught": True})), to_producer(Results.of(())),
        to_producer(Welcome(3, 1, "test")), Send(QUERY, b"q", Answer(4, {})),
    ]  # fmt: skip
    waiting.take(effects(records=[RECORD], after=sends))
    left = waiting.failed("full", 10)
    assert [(type(send.message), send.message.number) for send in left] == [  # type: ignore[union-attr]
        (Refused, 1), (Refused, 2), (Welcome, 3), (Refused, 4)
    ]  # fmt: skip
    assert left[0].message.fields == {"reason": "full", "pending": True}  # type: ignore[union-attr]
    assert list(waiting.unwritten) == [RECORD]
    assert waiting.written(1, 1)[0] == [sends[2]]


def test_questions_are_answered_once_the_core_knows_that_writing_fails() -> None:
    """Goal: status can be asked on a full disk. Method: the same answer in the turn of the failure, and after it."""
    waiting = Durability()
    answer = Send(QUERY, b"q", Answer(4, {}))
    waiting.take(effects(records=[RECORD], after=[answer]))
    assert isinstance(waiting.failed("full", 10)[0].message, Refused)
    waiting.take(effects(after=[answer]))
    assert waiting.refuse("full") == [answer]


def test_a_failed_write_is_tried_again_after_a_while() -> None:
    """Goal: a full disk is not hammered. Method: ask before and at the end of the pause."""
    waiting = Durability()
    assert waiting.may_try(0)
    waiting.take(effects(records=[RECORD]))
    waiting.failed("full", 10)
    waiting.take(effects(records=[RECORD]))
    assert not waiting.may_try(9 + STORAGE_RETRY_MS)
    assert waiting.may_try(10 + STORAGE_RETRY_MS)
    assert list(waiting.unwritten) == [RECORD, RECORD]


def test_what_is_held_is_bounded_and_a_gap_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a watcher can tell what it missed, and results do not pile up. Method: bounds of three and two."""
    monkeypatch.setattr("rota.broker.durability.NEWS_HELD_MAX", 3)
    monkeypatch.setattr("rota.broker.durability.RESULTS_HELD_MAX", 2)
    waiting = Durability()
    news = [News(number, "main", PAUSED) for number in range(1, 6)]
    results = [to_producer(Results.of(())) for _ in range(4)]
    waiting.take(effects(records=[RECORD], after=results, news=news))
    waiting.failed("full", 0)
    sends, events = waiting.written(1, 1)
    assert [event.event for event in events] == [3, 4, 5]
    assert len(sends) == 2
