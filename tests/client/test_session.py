"""The producer's half of the conversation as a pure state machine: frames and ticks in, frames and answers out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.client.session import (
    AWAY_MS,
    HELLO_MS,
    OPEN_REQUESTS_MAX,
    RENEW_MS,
    SILENCE_MS,
    Session,
)
from rota.common import limits, messages
from rota.common.errors import Busy, Expired, LocalError, NotGreeted, ProtocolError, UnknownTask, VersionMismatch
from rota.common.wire import FROM_PRODUCERS, decode, encode

FIRST = 5


def session() -> Session:
    return Session("loader", FIRST)


def sent(machine: Session) -> list[messages.Message]:
    """Return the frames sent now, decoded as by the broker."""
    return [decode(frame, FROM_PRODUCERS) for frame in machine.output().frames]


def submit(number: int, *payloads: bytes, wait: bool = True) -> messages.Submit:
    return messages.Submit(number, "main", (messages.TaskRun.of("echo", 0, payloads, None),), wait, None, None)


def item(seq: int, result: bytes = b"") -> messages.ResultItem:
    return messages.ResultItem(seq, "main", seq, 1, True, result, (), "", "", (), None)


def give(machine: Session, message: messages.Message, now_ms: int = 0) -> None:
    machine.receive(encode(message), now_ms)


def welcome(machine: Session, boot: int = 1, now_ms: int = 0) -> None:
    give(machine, messages.Welcome(0, boot, "0"), now_ms)


def test_a_request_follows_a_hello_and_is_answered() -> None:
    """Goal: the normal course. Method: one submit, its Accepted, its result."""
    machine = session()
    number = machine.take_number()
    machine.request(submit(number, b"a", b"b"), 0)
    hello, request = sent(machine)
    assert isinstance(hello, messages.Hello)
    assert hello.producer == "loader"
    assert request == submit(number, b"a", b"b")
    assert machine.answer(number) is None
    give(machine, messages.Accepted(number, 10, 2))
    give(machine, messages.Results.of((item(11, b"B"), item(10, b"A"))))
    assert machine.take_news() == [("answer", number), ("result", 11), ("result", 10)]
    assert machine.answer(number) == messages.Accepted(number, 10, 2)
    assert machine.take_result(10) == item(10, b"A")
    assert machine.take_result(11) == item(11, b"B")
    assert machine.take_result(11) is None
    assert not machine.is_busy
    assert machine.next_tick_ms() is None


def test_numbers_rise_past_a_number_that_was_given() -> None:
    """Goal: numbers of one producer never go back. Method: take numbers with one of the caller's own between them."""
    machine = session()
    assert [machine.take_number(), machine.take_number(40), machine.take_number(), machine.take_number(7)] == [
        FIRST, 40, 41, 7,
    ]  # fmt: skip
    assert machine.take_number() == 42
    assert machine.take_pair_number() > 1 << 52


def test_numbers_that_cannot_be_used_are_refused() -> None:
    """Goal: a wrong number of the caller's is told to the caller. Method: out of range, and in use."""
    machine = session()
    for number in (0, -1, 1 << 52):
        with pytest.raises(LocalError, match="is not in"):
            machine.take_number(number)
    machine.request(submit(machine.take_number(9), b""), 0)
    with pytest.raises(LocalError, match="in use"):
        machine.take_number(9)


def test_hellos_go_out_every_second_while_something_is_outstanding() -> None:
    """Goal: a client sees that its broker is gone, and an idle one is silent. Method: ticks."""
    machine = session()
    machine.tick(0)
    assert sent(machine) == []
    machine.request(submit(FIRST, b""), 0)
    sent(machine)
    welcome(machine)
    machine.tick(HELLO_MS - 1)
    assert sent(machine) == []
    assert machine.next_tick_ms() == HELLO_MS
    machine.tick(HELLO_MS)
    assert [type(one) for one in sent(machine)] == [messages.Hello]


def test_silence_makes_a_new_connection_with_the_same_numbers() -> None:
    """Goal: nothing is lost with a connection. Method: no Welcome for SILENCE_MS, with all kinds of things open."""
    machine = session()
    machine.request(submit(FIRST, b"a", b"b"), 0)
    give(machine, messages.Accepted(FIRST, 10, 2))
    give(machine, messages.Results.of((item(10),)))
    machine.request(messages.Cancel(FIRST + 1, 3), 0)
    machine.want(30, 2, 0)
    sent(machine)
    machine.tick(HELLO_MS)
    machine.tick(HELLO_MS + SILENCE_MS - 1)
    assert not machine.output().reconnect
    machine.tick(HELLO_MS + SILENCE_MS)
    output = machine.output()
    assert output.reconnect
    hello, *rest = [decode(frame) for frame in output.frames]
    assert isinstance(hello, messages.Hello)
    assert rest[0] == messages.Cancel(FIRST + 1, 3)
    assert [one[1:] for one in rest[1:]] == [(11, 1), (30, 2)]
    assert not machine.output().reconnect


def test_a_new_boot_makes_a_new_connection() -> None:
    """Goal: what went to a broker that died is sent to the next. Method: Welcome with another boot."""
    machine = session()
    machine.request(submit(FIRST, b""), 0)
    welcome(machine, boot=1)
    sent(machine)
    welcome(machine, boot=1)
    assert not machine.output().reconnect
    welcome(machine, boot=2)
    output = machine.output()
    assert output.reconnect
    assert [type(decode(frame)) for frame in output.frames] == [messages.Hello, messages.Submit]


def test_an_answer_beside_a_new_boot_does_not_lose_its_results() -> None:
    """Goal: an answer that comes over a connection that is given up takes its results along. Method: the Welcome of a
    new broker and the Accepted in one go: the submit goes out no more, so its results must be asked for.
    """
    machine = session()
    welcome(machine)
    machine.request(submit(FIRST, b"a", b"b"), 0)
    sent(machine)
    welcome(machine, boot=2)
    give(machine, messages.Accepted(FIRST, 10, 2))
    reconnect, frames = machine.output()
    asked = [decode(frame, FROM_PRODUCERS) for frame in frames]
    assert reconnect
    assert [(type(message), message[1:]) for message in asked[1:]] == [(messages.Await, (10, 2))]


def test_a_new_boot_does_not_matter_with_nothing_outstanding() -> None:
    """Goal: no connection is made for nothing. Method: the Welcome of a second boot after the last answer."""
    machine = session()
    machine.request(submit(FIRST, b"", wait=False), 0)
    welcome(machine, boot=1)
    give(machine, messages.Accepted(FIRST, 1, 1))
    machine.output()
    welcome(machine, boot=2)
    assert machine.output() == (False, ())


def test_a_broker_that_asks_for_a_hello_gets_one() -> None:
    """Goal: a request that overtook its Hello at a new broker is not lost, and does not go round for ever. Method:
    refuse it with `hello_first` again and again.
    """
    machine = session()
    machine.request(submit(FIRST, b""), 0)
    refused = messages.Refused(FIRST, NotGreeted.code, "say Hello first", {})
    for _ in range(2):
        sent(machine)
        give(machine, refused)
        assert [type(one) for one in sent(machine)] == [messages.Hello, messages.Submit]
    give(machine, refused)
    assert isinstance(machine.answer(FIRST), ProtocolError)


def test_results_before_their_accepted_are_kept() -> None:
    """Goal: order between Accepted and Results does not matter. Method: the wrong way round."""
    machine = session()
    machine.request(submit(FIRST, b""), 0)
    give(machine, messages.Results.of((item(10, b"early"), item(99, b"another's"))))
    give(machine, messages.Accepted(FIRST, 10, 1))
    assert machine.take_result(10) == item(10, b"early")
    assert machine.take_result(99) is None
    assert not machine.is_busy


def test_a_result_is_seen_once() -> None:
    """Goal: results that are sent twice count once. Method: send one before and after it was taken."""
    machine = session()
    machine.want(10, 1, 0)
    give(machine, messages.Results.of((item(10, b"1"), item(10, b"2"))))
    assert machine.take_result(10) == item(10, b"1")
    give(machine, messages.Results.of((item(10, b"3"),)))
    assert machine.take_result(10) is None


def test_a_refusal_is_the_answer() -> None:
    """Goal: typed errors reach the caller. Method: Busy."""
    machine = session()
    machine.request(submit(FIRST, b""), 0)
    give(machine, messages.Refused(FIRST, Busy.code, "full", {"load": 3}))
    answer = machine.answer(FIRST)
    assert isinstance(answer, Busy)
    assert answer.fields == {"load": 3}
    machine.request(submit(FIRST, b""), 0)  # the same number may try again
    assert machine.is_busy


@pytest.mark.parametrize("by_submit", [False, True])
def test_results_that_are_not_kept_become_errors(by_submit: bool) -> None:
    """Goal: no wait for what will not come. Method: Expired for two of three, to an Await and to an old submit."""
    machine = session()
    if by_submit:
        machine.request(submit(FIRST, b"", b"", b""), 0)
        give(machine, messages.Accepted(FIRST, 10, 3))
        number = FIRST
    else:
        machine.want(10, 3, 0)
        number = sent(machine)[-1].number  # type: ignore[union-attr]
    give(machine, messages.Refused(number, Expired.code, "gone", {"seqs": [10, 12]}))
    assert isinstance(machine.take_result(10), Expired)
    assert machine.is_pending(11)
    assert isinstance(machine.take_result(12), Expired)


def test_a_refused_ask_is_asked_again() -> None:
    """Goal: what was refused may be there later. Method: a whole Await refused, its refusals dropped untaken, want it
    again.
    """
    machine = session()
    machine.want(1, 3, 0)
    number = sent(machine)[-1].number  # type: ignore[union-attr]
    give(machine, messages.Refused(number, UnknownTask.code, "no task 3", {"seq": 3}))
    assert isinstance(machine.take_result(1), UnknownTask)
    machine.drop_refusals(range(1, 4))
    assert machine.take_result(2) is None
    machine.want(1, 3, 0)
    assert [one[1:] for one in sent(machine) if isinstance(one, messages.Await)] == [(1, 3)]


def test_wanting_what_is_on_its_way_sends_nothing() -> None:
    """Goal: one Await per task. Method: want overlapping ranges, and one that an Await may not hold at once."""
    machine = session()
    machine.want(10, 4, 0)
    machine.want(12, 4, 0)
    awaited = [one[1:] for one in sent(machine) if isinstance(one, messages.Await)]
    assert awaited == [(10, 4), (14, 2)]
    machine.want(100, limits.RUN_TASKS_MAX + 1, 0)
    assert [one[2] for one in sent(machine)] == [limits.RUN_TASKS_MAX, 1]


def test_a_client_that_was_away_awaits_again() -> None:
    """Goal: a subscription that the broker dropped as too slow is renewed. Method: a gap between ticks."""
    machine = session()
    machine.want(10, 2, 0)
    machine.tick(0)
    welcome(machine)
    sent(machine)
    machine.tick(AWAY_MS + 1)
    assert [one[1:] for one in sent(machine) if isinstance(one, messages.Await)] == [(10, 2)]


def test_everything_is_asked_for_again_after_a_while() -> None:
    """Goal: frames lost with a connection that healed by itself are made good. Method: a living broker that says
    nothing about a request.
    """
    machine = session()
    machine.request(submit(FIRST, b""), 0)
    machine.tick(0)
    sent(machine)
    for now_ms in range(HELLO_MS, RENEW_MS, HELLO_MS):
        machine.tick(now_ms)
        welcome(machine, now_ms=now_ms)
        assert not [one for one in sent(machine) if isinstance(one, messages.Submit)]
    machine.tick(RENEW_MS)
    output = machine.output()
    assert not output.reconnect
    assert submit(FIRST, b"") in [decode(frame) for frame in output.frames]


def test_a_request_that_was_given_up_is_gone() -> None:
    """Goal: a caller that timed out leaves nothing behind. Method: forget, then the late answer."""
    machine = session()
    machine.request(submit(FIRST, b""), 0)
    machine.forget(FIRST)
    assert not machine.is_busy
    give(machine, messages.Accepted(FIRST, 10, 1))
    give(machine, messages.Results.of((item(10),)))
    assert machine.answer(FIRST) is None
    assert machine.take_result(10) is None


def test_open_requests_are_bounded() -> None:
    """Goal: a number that is sent again is never too old. Method: fill up."""
    machine = session()
    for _ in range(OPEN_REQUESTS_MAX):
        assert not machine.is_full
        machine.request(messages.Cancel(machine.take_number(), 1), 0)
    assert machine.is_full


@pytest.mark.parametrize("bound", ["RESULTS_HELD_MAX", "RESULTS_HELD_BYTES"])
def test_results_nobody_takes_are_bounded(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """Goal: fire and forget does not eat the memory. Method: more results than are held, by number and by bytes; the
    oldest can be wanted again.
    """
    monkeypatch.setattr(f"rota.client.session.{bound}", 20)
    machine = session()
    machine.want(1, 23, 0)
    give(machine, messages.Results.of(tuple(item(seq, b"1") for seq in range(1, 24))))
    assert machine.missing(range(1, 10)) == [(1, 3)]
    assert machine.take_result(23) is not None


@pytest.mark.parametrize("fields", [{"seqs": [[1]]}, {"seqs": [{}, 1.5, None]}, {"message": 1, "self": 2}])
def test_odd_fields_of_a_refusal_do_no_harm(fields: dict[str, Any]) -> None:
    """Goal: what a refusal names is not believed to be numbers, nor to have other names than an error's own words.
    Method: fields that cannot be looked up, or are called as the parameters of the error are. Found by tests/fuzz.
    """
    machine = Session("p", 1)
    machine.want(1, 2, 0)
    for code in ("expired", "odd"):
        give(machine, messages.Refused(0, code, "no", fields))
    assert machine.failure is None
    assert machine.is_pending(1)


def test_unwanted_results_are_dropped() -> None:
    """Goal: a closed iterator leaves nothing. Method: unwant one result that is here and one that comes."""
    machine = session()
    machine.want(1, 2, 0)
    give(machine, messages.Results.of((item(1),)))
    machine.unwant([1, 2])
    give(machine, messages.Results.of((item(2),)))
    assert (machine.take_result(1), machine.take_result(2), machine.is_busy) == (None, None, False)


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (b"nonsense", ProtocolError),
        (encode(messages.Drain(1, True)), ProtocolError),
        (b"\x95\x63\x14\x00\x01\xa1x", VersionMismatch),
        (encode(messages.Refused(0, VersionMismatch.code, "another version", {})), VersionMismatch),
    ],
)
def test_a_peer_that_is_no_broker_of_ours_ends_the_conversation(frame: bytes, kind: type[Exception]) -> None:
    """Goal: callers hear of it instead of waiting. Method: frames that a broker of ours never sends."""
    machine = session()
    machine.receive(frame, 0)
    assert type(machine.failure) is kind
    assert machine.take_news() == [("all", 0)]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_frames_leave_it_consistent(frames: list[bytes]) -> None:
    """Goal: nothing from outside can raise. Method: any bytes, between real traffic."""
    machine = session()
    machine.request(submit(FIRST, b""), 0)
    for now_ms, frame in enumerate(frames):
        machine.receive(frame, now_ms)
        machine.tick(now_ms)
        machine.output()
    give(machine, messages.Accepted(FIRST, 1, 1))
    assert machine.answer(FIRST) == messages.Accepted(FIRST, 1, 1)
