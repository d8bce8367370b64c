"""Calls of flows and asks that are answered later, as the journal tells them: while they go on, at a turn, after."""

from __future__ import annotations

import pytest
from eventful import Broker, MemoryRun, program, scripted
from later_run import answered_later

from rota.common.errors import UnknownLane, UnknownTask
from rota.common.work import Done, Failed
from rota.runs.calls import CallTrace, call_at
from rota.runs.later import ANSWERED, ENDED, HANDED_ON, POSTPONED
from rota.runs.log import Concern, entry
from rota.runs.questions import family, story
from rota.runs.walk import Walk


@pytest.fixture(scope="module")
def run() -> MemoryRun:
    return MemoryRun(answered_later())


def waits(call: CallTrace) -> list[tuple[int, str, int | None, int | None]]:
    """Of each wait the turn of its step, whom it asked, in which turn, and the turn of the answer."""
    return [
        (
            wait.step.turn, wait.emit.target, None if wait.asked is None else wait.asked.turn,
            None if wait.answer is None else wait.answer.turn,
        )
        for wait in call.waits
    ]  # fmt: skip


# --- calls ----------------------------------------------------------------------------------------


def test_a_call_is_told_as_one_thing(run: MemoryRun) -> None:
    """Goal: a call that has ended is told from the journal. Method: the call with two asks, one of them handed on, and
    a sleep; its messages, what each wait took, fuel, end.
    """
    call = call_at(run, "order/~1", "main")
    assert [(trace.turn, trace.kind, trace.sender) for trace in call.messages] == [
        (1, "ask", None), (4, "reply", "counter/b"), (8, "reply", "clerk/x"), (9, "timer", "order/~1")
    ]  # fmt: skip
    assert waits(call) == [(1, "counter/b", 2, 4), (1, "desk/a", 3, 8), (8, "order/~1", None, 9)]
    assert [(wait.turns, wait.ms) for wait in call.waits] == [(2, 0), (6, 0), (0, 500)]
    assert call.fuel == sum(trace.outcome.fuel for trace in call.messages if trace.outcome is not None)
    assert (call.coming, call.before, call.open, call.waits_at) == ((), (), (), None)
    assert call.code is not None
    assert call.code.flow
    assert call.end is not None
    assert (call.end.turn, call.end.position, call.end.kind, call.mark) == (9, 9, "ok", "ok")
    assert type(call.end.outcome) is Done


def test_a_call_is_told_as_it_was_at_a_turn(run: MemoryRun) -> None:
    """Goal: the past is not told with what came later. Method: the same call after each turn of the lane: how many
    messages it had, what it waited for.
    """
    told = [call_at(run, "order/~1", "main", turn) for turn in range(1, 10)]
    assert [len(call.messages) for call in told] == [1, 1, 1, 2, 2, 2, 2, 3, 4]
    open_ones = [[wait.emit.target for wait in call.open] for call in told]
    both, one, sleeps = ["counter/b", "desk/a"], ["desk/a"], ["order/~1"]
    assert open_ones == [both, one, both, one, one, one, [], sleeps, []]
    assert [call.waits_at for call in told[6:]] == ["order/~1 after 2", "order/~1 after 3", None]
    assert [trace.turn for trace in told[6].coming] == [8], "stamped, and not given to it yet"
    assert [call.mark for call in told] == ["waits"] * 8 + ["ok"]


def test_a_call_that_fails_and_one_that_goes_on(run: MemoryRun) -> None:
    """Goal: each way to end, and none. Method: the call that failed in its first step, and the one that still waits."""
    failed, open_one = call_at(run, "order/~11", "main"), call_at(run, "order/~12", "main")
    assert failed.end is not None
    assert (failed.mark, failed.end.turn) == ("error", 11)
    assert type(failed.end.outcome) is Failed
    assert (open_one.end, open_one.mark, open_one.waits_at) == (None, "waits", "order/~12 after 1")
    assert [(wait.emit.target, wait.emit.delay_ms) for wait in open_one.open] == [("desk/b", 60_000)]
    assert open_one.open[0].asked is not None
    assert open_one.open[0].asked.later[-1].owner == "desk/b"


def test_a_call_that_an_input_ended() -> None:
    """Goal: what comes after the end is no message of the call. Method: a call of two asks is cancelled while one of
    its answers waits in a full line.
    """
    broker = Broker()
    alice = broker.producer()
    for name, code in (("counter", scripted.COUNTER), ("order", scripted.FLOW)):
        alice.deploy(name, code)
    broker.worker()
    asks = [["ask", "counter/a", [["postpone"]]], ["ask", "counter/b", [["add", 1]]]]
    first = alice.submit("order", program(["await", asks, 2]), kind="ask").first_seq
    broker.run()
    assert alice.cancel(first)
    alice.submit("counter/a", program(["settle", -1, 7]))
    broker.run()
    call = call_at(MemoryRun(broker), "order/~1", "main")
    assert call.end is not None
    assert (call.end.turn, call.end.outcome, call.mark) == (None, None, "cancelled")
    assert [trace.turn for trace in call.messages] == [1, 4]
    assert call.open == ()
    (asked,) = [wait.asked for wait in call.waits if wait.answer is None]
    assert asked is not None
    assert [later.what for later in asked.later] == [POSTPONED, ENDED]


def test_a_call_that_began_before_the_kept_records() -> None:
    """Goal: after a compaction a call is told from the messages that the snapshot has. Method: the call whose first two
    messages were cut; what it did before is there in short, the rest in full, and the fuel of all.
    """
    run = MemoryRun(answered_later(), cut_after=17)
    call = call_at(run, "order/~1", "main")
    assert [(step.task.turn, step.task.kind) for step in call.before] == [(1, "ask"), (4, "reply")]
    assert call.before[0].path.startswith("ask counter/b ")
    assert [trace.turn for trace in call.messages] == [8, 9]
    assert waits(call) == [(8, "order/~1", None, 9)]
    assert (call.fuel, call.mark) == (call_at(MemoryRun(answered_later()), "order/~1", "main").fuel, "ok")
    assert call_at(MemoryRun(answered_later(), cut_after=22), "order/~12", "main").messages[0].turn == 12
    with pytest.raises(UnknownTask):
        call_at(MemoryRun(answered_later(), cut_after=22), "order/~1", "main")


def test_what_is_no_call_is_said(run: MemoryRun) -> None:
    """Goal: a wrong question gets a remedy. Method: a turn that began no call, one that is not there, no such lane."""
    for address in ("order/~2", "desk/~3", "order/~99"):
        with pytest.raises(UnknownTask, match="no task in lane 'main' of the run was for"):
            call_at(run, address, "main")
    with pytest.raises(UnknownTask, match="has no turn 99"):
        call_at(run, "order/~1", "main", 99)
    with pytest.raises(UnknownLane):
        call_at(run, "order/~1", "other")


def test_the_story_of_a_call_and_of_a_flow(run: MemoryRun) -> None:
    """Goal: `order/~1` is one call, `order` are all calls. Method: the turns of both stories, and their marks."""
    both = [(trace.turn, trace.target, trace.mark) for trace in story(run, "order/~1", "main", (None, None))]
    call = "order/~1"
    assert both == [(1, call, "waits"), (4, call, "waits"), (8, call, "waits"), (9, call, "ok")]
    calls = [(trace.turn, trace.target) for trace in story(run, "order", "main", (None, None))]
    assert calls == [(1, call), (11, "order/~11"), (17, "order/~17"), (12, "order/~12")]  # the last one is open
    assert [trace.turn for trace in story(run, "order", "main", (12, 16))] == [12]


# --- asks that are answered later -----------------------------------------------------------------


def test_an_ask_is_followed_through_every_hand(run: MemoryRun) -> None:
    """Goal: who owed the answer, since when, and who gave it. Method: the ask that was postponed, handed on, postponed
    and settled; from its first task, and from the one that it was handed on to.
    """
    asked, handed = family(run, 3).trace, family(run, 6).trace
    told = [(later.what, later.turn, later.address, later.owner, later.position) for later in asked.later]
    assert told == [
        (POSTPONED, 3, "desk/a", "desk/a", 2),
        (HANDED_ON, 5, "desk/a", "clerk/x", 5),
        (POSTPONED, 6, "clerk/x", "clerk/x", 6),
        (ANSWERED, 7, "clerk/x", None, 7),
    ]
    assert handed.answers == 3
    assert handed.later == asked.later[1:]
    assert asked.answer is not None
    assert type(asked.answer.outcome) is Done
    assert asked.answer.outcome.result == b"[7]"


def test_an_answer_from_a_call_and_one_from_an_input(run: MemoryRun) -> None:
    """Goal: a producer's task has its final outcome. Method: the call from outside, and the task that was cancelled."""
    called, cancelled = family(run, 1).trace, family(run, 10).trace
    assert called.answer is not None
    assert (called.answer.what, called.answer.turn, called.answer.address) == (ANSWERED, 9, "order/~1")
    assert cancelled.answer is not None
    assert (cancelled.answer.what, cancelled.answer.turn) == (ENDED, None)
    assert type(cancelled.answer.outcome) is Failed
    assert cancelled.mark == "postponed"
    assert family(run, 13).trace.answer is None


def test_an_input_that_ends_an_inner_ask_tells_its_asker(run: MemoryRun) -> None:
    """Goal: the end of an ask by an input is a message like any other. Method: the failures that a cancel and a
    deadline stamped, long after the turn that they answer; where they were stamped, and from what.
    """
    for ended, turn, record, kind in ((15, 16, 32, "cancelled"), (18, 19, 37, "expired")):
        asked, told = family(run, ended).trace, family(run, turn)
        assert asked.answer is not None
        assert (asked.answer.what, asked.answer.record) == (ENDED, record)
        assert [child.turn for child in asked.children] == [turn]
        assert (told.trace.stamped, told.trace.stamped_at) == (record, turn - 1)
        assert kind.encode() in told.trace.payload
        assert [above.turn for above in told.root.chain] == [ended, ended - 1]


# --- the log --------------------------------------------------------------------------------------


def test_the_log_names_calls_and_answers(run: MemoryRun) -> None:
    """Goal: the log tells asks that are answered later. Method: lines and facts of the records that do something."""
    entries = {said.number: said for said in map(entry, Walk(run).steps())}
    texts = {number: said.text for number, said in entries.items()}
    assert texts[6].startswith("order is agent flow ")
    assert texts[8].startswith("1 ask, seq 1, to order, by alice")
    assert texts[9].startswith("1 waits of order/~1; retires 1 to position 1; stamps 2-3 for counter/b, desk/a")
    assert texts[17].startswith("1 ok of clerk/x; answers 3: 1 ok; retires 7 to position 7; stamps 8 for order/~1")
    assert texts[20].startswith("1 ok of order/~1; answers 1: 1 ok; retires 9")
    assert texts[23].startswith("task 10 cancelled, by alice #9; answers 10: 1 cancelled")
    assert entries[17].facts["answered"] == [{"seq": 3, "turn": 3, "target": "desk/a", "outcome": "ok"}]
    assert entries[8].facts["kind"] == "ask"


def test_the_log_of_a_call_begins_with_its_submit(run: MemoryRun) -> None:
    """Goal: `--agent` selects one call, or all calls of a flow. Method: the records that concern each."""

    def concerned(address: str) -> list[int]:
        concern = Concern(address, None)
        found = [step.number for step in Walk(run).steps() if concern(step)]
        assert concern.met_address
        return found

    one, all_calls = concerned("order/~1"), concerned("order")
    assert one == [6, 8, 9, 11, 12, 17, 18, 19, 20]
    assert all_calls == [*one, 24, 25, 26, 27, 34, 35, 37, 38]
