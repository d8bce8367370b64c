"""The text of a generate task as a client shows it: whatever is lost, late or repeated, the pieces are the result's."""

from __future__ import annotations

import random
from typing import Any

import pytest
from exchange_clock import Clock

from rota.client.exchanges import Patience
from rota.client.texts import Subscription, Texts, TextSoFar
from rota.common.chat import Dialogue
from rota.common.errors import BadPayload, TaskFailed, TextReplaced
from rota.common.events import TextStreamed, Watching, text_topic
from rota.common.messages import Event, ResultItem
from rota.common.results import Result, result_of
from rota.common.text_calls import NEW_CONVERSATION
from rota.common.text_results import GenerateResult, Usage, encode_text_result
from rota.common.wire import encode

TEXT = "Grüße aus dem Wald 🌲, und gute Reise."
HEAD = bytes(range(32))


def piece(seq: int, offset: int, text: str) -> bytes:
    return encode(Event(1, 0, 5, "main", TextStreamed(seq, seq, offset, text)))


def outcome(text: str, *, seq: int = 7, conversation: bytes | None = None) -> Result:
    result = encode_text_result(GenerateResult(text, (1,), "stop", None, Usage(1, 1), conversation=conversation))
    decoder: Any = None
    return result_of(ResultItem(seq, "main", seq, 1, True, result, (), "", "", (), None), decoder)


def failure(seq: int = 7) -> Result:
    decoder: Any = None
    return result_of(ResultItem(seq, "main", seq, 1, False, None, (), "cancelled", "as asked", (), None), decoder)


def test_pieces_are_shown_once() -> None:
    """Goal: a piece that repeats or overlaps shows only what is new. Method: pieces of two executions, and of a task
    that nobody follows.
    """
    texts = Texts()
    texts.follow(7, 0)
    assert texts.changes() == [Subscription(True, "text.7.")]
    for frame in (
        piece(7, 0, "Grü"),
        piece(8, 0, "other"),
        piece(7, 3, "ße"),
        piece(7, 0, "Gr"),
        piece(7, 2, "üße aus"),
    ):
        texts.receive(frame)
    assert texts.take(7) == "Grüße aus"
    assert texts.take(7) == ""
    assert texts.take_news() == [("result", 7)] * 3
    assert texts.changes() == []
    texts.unfollow(7)
    assert texts.changes() == [Subscription(False, "text.7.")]
    assert not texts.is_busy


def test_a_lost_piece_is_asked_for_once() -> None:
    """Goal: a gap is closed by subscribing again, not with every piece behind it. Method: lose the second of four."""
    texts = Texts()
    texts.follow(7, 0)
    texts.changes()
    for frame in (piece(7, 0, "a"), piece(7, 2, "c"), piece(7, 3, "d")):
        texts.receive(frame)
    assert texts.take(7) == "a"
    assert texts.changes() == [Subscription(False, "text.7."), Subscription(True, "text.7.")]
    texts.receive(encode(Event(1, 9, 5, "", Watching(text_topic(7)))))
    texts.receive(piece(7, 0, "abcd"))
    assert texts.take(7) == "bcd"
    texts.receive(piece(7, 5, "f"))
    assert len(texts.changes()) == 2


def test_no_frame_can_stop_a_client() -> None:
    """Goal: the stream is advisory. Method: frames that are no events, and an event of another kind of topic."""
    texts = Texts()
    texts.follow(7, 0)
    for frame in (b"", b"\xc1", b"\x90", encode(Event(1, 9, 5, "", Watching("")))):
        texts.receive(frame)
    assert texts.take(7) == ""


@pytest.mark.parametrize("seed", range(30))
def test_pieces_and_rest_are_the_result(seed: int) -> None:
    """Goal: what is shown is the result's text, whatever is lost. Method: pieces of random lengths, from a run that
    begins again at random places; some are lost, and the broker's text so far is sent on a new subscription.
    """
    chance = random.Random(seed)
    texts, so_far, at, shown = Texts(), TextSoFar(), 0, []
    texts.follow(7, 0)
    texts.changes()
    while at < len(TEXT) and chance.random() > 0.05:
        length = chance.randrange(1, 6)
        if chance.random() > 0.3:
            texts.receive(piece(7, at, TEXT[at : at + length]))
        at = 0 if chance.random() < 0.05 else min(at + length, len(TEXT))
        if texts.changes() and chance.random() < 0.5:
            texts.receive(piece(7, 0, TEXT[:at]))
        if chance.random() < 0.5:
            shown.append(so_far.show(texts.take(7)))
    shown.append(so_far.show(texts.take(7)))
    shown.append(so_far.show_rest(outcome(TEXT)))
    assert "".join(shown) == TEXT


def test_text_that_another_execution_did_not_repeat_is_named() -> None:
    """Goal: nobody takes two halves of two answers for one. Method: a result that begins otherwise; and a failure."""
    so_far = TextSoFar()
    so_far.show("Grab")
    with pytest.raises(TextReplaced, match="not repeatable") as caught:
        so_far.show_rest(outcome(TEXT))
    assert caught.value.fields == {"seq": 7}
    with pytest.raises(TaskFailed, match="cancelled"):
        TextSoFar().show_rest(failure())


def test_a_result_that_is_not_of_a_generate_task_is_named() -> None:
    """Goal: a model of another kind is no crash. Method: the result of a model of tensors."""
    decoder: Any = None
    item = ResultItem(7, "main", 7, 1, True, b"\x81\xa7outputs\x80", (), "", "", (), None)
    with pytest.raises(BadPayload, match="one field of generate, embed, classify"):
        TextSoFar().show_rest(result_of(item, decoder))


def test_an_exchange_gives_pieces_and_then_the_outcome() -> None:
    """Goal: text is not held back until the result, nor the result by the text. Method: a piece comes in the first
    wait, the outcome in the second; afterwards nothing is followed.
    """
    clock = Clock()

    def on_turn() -> None:
        clock.hear()
        if clock.now_ms == 0:
            clock.texts.receive(piece(1, 0, "Grü"))
        else:
            clock.deliver(1)

    assert clock.returned(clock.exchanges.text_or_outcome(1, 0, Patience(None, 500)), on_turn) == "Grü"
    found = clock.returned(clock.exchanges.text_or_outcome(1, 3, Patience(None, 500)), on_turn)
    assert isinstance(found, Result)
    assert not clock.texts.is_busy


def test_an_exchange_of_text_that_does_not_come_ends() -> None:
    """Goal: no wait without an end, and it can go on. Method: a broker that is there, and a task that is slow."""
    clock = Clock()
    with pytest.raises(TimeoutError, match="task 1 has no outcome yet"):
        clock.returned(clock.exchanges.text_or_outcome(1, 0, Patience(None, 500)), clock.hear)
    clock.texts.receive(piece(1, 0, "late"))
    assert clock.returned(clock.exchanges.text_or_outcome(1, 0, Patience(None, 500)), clock.hear) == "late"


def test_a_dialogue_sends_what_is_new() -> None:
    """Goal: neither the history nor the system message goes twice, and a failed turn leaves no trace. Method: four
    turns, one of which fails, and a fork.
    """
    dialogue = Dialogue(None, "Be brief.", {"seed": 5, "max_tokens": 9})
    first = dialogue.turn("Hello", {"seed": 6})
    assert first == {
        "seed": 6, "max_tokens": 9, "conversation": NEW_CONVERSATION,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    }  # fmt: skip
    dialogue.settle(failure())
    assert dialogue.turn("Hello", {})["messages"] == first["messages"]
    dialogue.settle(outcome(TEXT, conversation=HEAD))
    said = [{"role": "user", "content": "More"}]
    assert dialogue.turn("More", {}) == {"seed": 5, "max_tokens": 9, "conversation": HEAD, "messages": said}
    fork = dialogue.fork()
    dialogue.settle(outcome(TEXT, conversation=HEAD[::-1]))
    assert (dialogue.head, fork.head) == (HEAD[::-1], HEAD)
