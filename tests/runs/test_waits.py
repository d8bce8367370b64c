"""What a call waits for, from its messages and their outcomes."""

from __future__ import annotations

from rota.broker.asks import is_postponed
from rota.common.calls import call_of
from rota.common.work import ASK, FAILURE, REPLY, TELL, TIMER, Done, Emit, Failed, ReplyTo
from rota.engine.waits import Seen, outcome_word, waits_of


def step(*emits: Emit, waits: str | None = "") -> Done:
    """The outcome of a step that emits these, and goes on."""
    return Done(None, None, emits, (), 1, (), 0, waits)


def emit(kind: str, target: str) -> Emit:
    return Emit(target, b"", 0, kind, (), 0)


def test_each_answer_ends_the_wait_that_it_names() -> None:
    """Goal: answers come in any order, mixed with timers. Method: two asks, a tell and a timer in one step; the timer
    first, then the second ask, whose step asks again; one ask stays open.
    """
    first = step(emit(ASK, "a"), emit(TELL, "t"), emit(TIMER, "f/~5"), emit(ASK, "b"))
    messages = [
        Seen(5, TELL, None, None, first),
        Seen(9, TIMER, (5, 2), None, step()),
        Seen(11, FAILURE, (8, 0), ReplyTo(8, 5, 3), step(emit(ASK, "c"))),
        Seen(14, REPLY, (13, 0), ReplyTo(13, 11, 0), None),
    ]
    found = [(wait.step, wait.emit_index, wait.emit.target, wait.answered_by) for wait in waits_of(messages)]
    assert found == [(0, 0, "a", None), (0, 2, "f/~5", 1), (0, 3, "b", 2), (2, 0, "c", 3)]


def test_a_call_that_an_agent_began_is_no_answer_to_itself() -> None:
    """Goal: the message that begins a call has a parent too. Method: it is an ask of a turn whose number is that of the
    call's own first emit.
    """
    assert [wait.answered_by for wait in waits_of([Seen(5, ASK, (5, 0), None, step(emit(ASK, "a")))])] == [None]


def test_outcomes_in_a_word() -> None:
    """Goal: a step that goes on is told from an agent's postponed turn. Method: each outcome with both addresses."""
    over, failed = Done(b"", None, (), (), 1, ()), Failed("fuel", "", (), 1)
    words = [outcome_word(outcome, "desk/a") for outcome in (over, step(), failed)]
    assert words == ["ok", "postponed", "fuel"]
    assert outcome_word(step(), "order/~5") == "waits"
    assert [is_postponed(outcome) for outcome in (over, step(), failed, None)] == [False, True, False, False]


def test_only_an_instance_names_a_call() -> None:
    """Goal: the turn of a call is read from its address alone. Method: addresses that are one, and near misses."""
    assert [call_of(address) for address in ("order/~5", "a.b/~120")] == [5, 120]
    assert [call_of(address) for address in ("order", "order/5", "order/~", "order/~5a", "order/a~5", "~5")] == [
        None
    ] * 6
