"""Streams of text: who gets which piece, what a late subscriber gets, and what is ignored."""

from __future__ import annotations

import pytest
from core_kit import Broker, SimWorker
from scripted import MODEL_CODE, program

from rota.broker import streams
from rota.broker.effects import Subscribed, Unsubscribed
from rota.common.events import TextStreamed, Watching
from rota.common.messages import Assign, Streamed, StreamedPiece

CALL = program(["size", 9])


@pytest.fixture
def worker(broker: Broker) -> SimWorker:
    """A GPU worker that holds four calls, one assignment each."""
    broker.producer("setup2").deploy("model:net", MODEL_CODE)
    made = broker.worker("g1", pool="gpu", assignments_max=8)
    broker.producer().submit("model:net", *[CALL] * 4)
    assert made.turns() == [1, 2, 3, 4]
    return made


def say(worker: SimWorker, *pieces: tuple[Assign, int, int, str]) -> None:
    worker.say(Streamed(worker.name, tuple([StreamedPiece(one.assignment, *rest) for one, *rest in pieces])))


def follow(broker: Broker, seq: int) -> None:
    broker.step(Subscribed(f"text.{seq}."))


def told(broker: Broker) -> list[tuple[int, int, str]]:
    """What was published of texts: seq, offset and text."""
    return [(one.seq, one.offset, one.text) for one in broker.told(TextStreamed)]


def test_a_text_goes_to_those_who_follow_its_task(broker: Broker, worker: SimWorker) -> None:
    """Goal: a text costs no event unless it is asked for. Method: follow one of two; then nobody."""
    first, second, *_ = worker.orders
    follow(broker, 2)
    say(worker, (first, 1, 0, "one"), (second, 2, 0, "two"), (second, 2, 3, " more"))
    assert told(broker) == [(2, 0, "two"), (2, 3, " more")]
    assert [news.number for news in broker.news if isinstance(news.what, TextStreamed)] == [0, 0]
    assert {(news.lane, news.what.turn) for news in broker.news if isinstance(news.what, TextStreamed)} == {("main", 2)}
    broker.step(Unsubscribed("text.2."))
    say(worker, (second, 2, 8, "!"))
    assert len(told(broker)) == 2


def test_who_comes_later_gets_the_text_so_far(broker: Broker, worker: SimWorker) -> None:
    """Goal: nothing of a running text is lost to a late subscriber. Method: subscribe after two pieces, before a third;
    the answer to the subscription comes first.
    """
    first, *_ = worker.orders
    say(worker, (first, 1, 0, "Once "), (first, 1, 5, "upon"))
    follow(broker, 1)
    say(worker, (first, 1, 9, " a time"))
    assert told(broker) == [(1, 0, "Once upon"), (1, 9, " a time")]
    kinds = [type(news.what) for news in broker.news if isinstance(news.what, TextStreamed | Watching)]
    assert kinds == [Watching, TextStreamed, TextStreamed]
    follow(broker, 1)
    assert told(broker)[-1] == (1, 0, "Once upon a time")


def test_text_of_work_that_a_worker_does_not_hold_is_ignored(broker: Broker, worker: SimWorker) -> None:
    """Goal: nobody speaks for another's task. Method: a worker streams for an assignment of another one, one that it
    had, one that never was, and a turn that is not in its assignment; an agent's worker streams too.
    """
    other = broker.worker("g2", pool="gpu")
    cpu = broker.worker("c1")
    broker.producer("bob").submit("counter/a", CALL)
    first, second, *_ = worker.orders
    for seq in range(1, 6):
        follow(broker, seq)
    say(other, (first, 1, 0, "foreign"))
    say(worker, (first._replace(assignment=77), 1, 0, "unknown"), (first, 2, 0, "wrong turn"))
    say(cpu, (cpu.orders[0], 5, 0, "an agent"))
    worker.answer(second)
    say(worker, (second, 2, 0, "too late"))
    broker.producer("carol").cancel(1)
    say(worker, (first, 1, 0, "cancelled"))
    assert told(broker) == []


def test_a_task_that_runs_again_begins_again(broker: Broker, worker: SimWorker) -> None:
    """Goal: a text is whole after its worker died. Method: another one streams it from 0; apply each piece as told."""
    follow(broker, 1)
    say(worker, (worker.orders[0], 1, 0, "Once upon a "))
    worker.die()
    heir = broker.worker("g2", pool="gpu")
    assert heir.turns() == [1]
    say(heir, (heir.orders[0], 1, 0, "Once "), (heir.orders[0], 1, 5, "upon a time"))
    text = ""
    for _, offset, piece in told(broker):
        assert offset <= len(text)
        text = text[:offset] + piece
    assert text == "Once upon a time"
    follow(broker, 1)
    assert told(broker)[-1] == (1, 0, text)


def test_what_is_kept_is_bounded(broker: Broker, worker: SimWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: texts cost bounded memory. Method: small bounds for one text and for all; what is published goes on, and a
    late subscriber gets a beginning without a hole. The end of a task makes room.
    """
    monkeypatch.setattr(streams, "STREAM_CHARS_MAX", 10)
    monkeypatch.setattr(streams, "STREAMS_CHARS_MAX", 15)
    first, second, *_ = worker.orders
    follow(broker, 1)
    say(worker, (first, 1, 0, "12345678"), (first, 1, 8, "9abc"), (first, 1, 12, "d"), (second, 2, 0, "12345678"))
    assert [text for _, _, text in told(broker)] == ["12345678", "9abc", "d"]
    follow(broker, 1)
    follow(broker, 2)
    assert told(broker)[3:] == [(1, 0, "12345678"), (2, 0, "")]
    worker.answer(first)
    say(worker, (second, 2, 0, "12345678"))
    follow(broker, 2)
    assert told(broker)[-1] == (2, 0, "12345678")
    broker.check()


def test_the_topics_that_are_followed_are_bounded(
    broker: Broker, worker: SimWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: subscriptions to tasks that never are cost nothing for ever. Method: a bound of two; the oldest goes."""
    monkeypatch.setattr(streams, "STREAMS_FOLLOWED_MAX", 2)
    for seq in (1, 900, 2):
        follow(broker, seq)
    say(worker, (worker.orders[0], 1, 0, "a"), (worker.orders[1], 2, 0, "b"))
    assert told(broker) == [(2, 0, "b")]


def test_many_small_pieces_are_kept_in_few_parts(broker: Broker, worker: SimWorker) -> None:
    """Goal: a long text of single characters is kept as text. Method: 3,000 pieces; the kept one equals them."""
    first = worker.orders[0]
    for start in range(0, 3_000, 1_000):
        say(worker, *[(first, 1, at, "abc"[at % 3]) for at in range(start, start + 1_000)])
    follow(broker, 1)
    assert told(broker) == [(1, 0, "abc" * 1_000)]
    assert len(broker.core.streams._texts[1].parts) < 2_000


def test_no_text_is_told_while_the_journal_cannot_be_written(broker: Broker, worker: SimWorker) -> None:
    """Goal: events that wait for the disk are bounded. Method: a full disk; afterwards a new piece shows the gap."""
    follow(broker, 1)
    broker.storage(full=True)
    say(worker, (worker.orders[0], 1, 0, "lost "))
    broker.storage(full=False)
    say(worker, (worker.orders[0], 1, 5, "kept"))
    assert told(broker) == [(1, 5, "kept")]
    follow(broker, 1)
    assert told(broker)[-1] == (1, 0, "lost kept")
