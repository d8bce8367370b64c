"""Answers that come later, as producers see them: pending tasks, awaits, cancels, deadlines, and who waits for whom."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import Broker
from later_kit import done
from scripted import FLOW, program

from rota.broker import schedule, sequencer, who_waits
from rota.broker.effects import Subscribed, Unsubscribed
from rota.broker.records import NOBODY, Cancelled, Verdict
from rota.common.events import AskAnswered, AskOpened, TaskFailure
from rota.common.messages import Refused, Results

POSTPONE = program(["postpone"])
SETTLE = program(["settle", -1, 7])
SETTLED = b"[7]"


def asking(target: str, *steps: Any) -> list[Any]:
    """The step of a flow that asks and waits for the answer."""
    return ["await", [["ask", target, list(steps)]], 1]


# --- results of pending tasks -----------------------------------------------------------------------------------------


def test_a_result_is_final_when_its_answer_is(broker: Broker, alice: Any) -> None:
    """Goal: whoever waits gets the answer, and not that there is none yet. Method: who submitted, who asks before the
    task has run, and who asks after that; a settle much later.
    """
    early, late = broker.producer("early"), broker.producer("late")
    alice.submit("counter/a", POSTPONE)
    early.await_results(1)
    broker.run()
    late.await_results(1)
    assert [one.results for one in (alice, early, late)] == [{}, {}, {}]
    assert broker.ask("task", seq=1)["state"] == "pending"
    assert broker.ask("status")["pending"] == 1
    done(broker, alice, "counter/a", ["settle", -1, 7])
    assert [one.results[1].result for one in (alice, early, late)] == [SETTLED] * 3
    assert broker.ask("task", seq=1)["result"]["result"] == SETTLED
    assert broker.ask("status")["pending"] == 0


def test_an_answer_may_come_with_the_record_of_its_task(broker: Broker, alice: Any) -> None:
    """Goal: nobody is told "no result" in between. Method: a postponed task and the settling one in one fold; a hand-on
    to a name that is not bound, which fails when the first task retires.
    """
    broker.step(Subscribed("ask"))
    done(broker, alice, "counter/a", ["hand_on", 0, "nobody", []])
    alice.submit("counter/b", POSTPONE, SETTLE)
    (order,) = broker.workers[b"w-w1"].orders
    assert len(order.folds) == 1
    broker.run()
    sent = [item for send in broker.sent if isinstance(send.message, Results) for item in send.message.items]
    found = [(item.seq, item.result, item.kind) for item in sent]
    assert found[:1] == [(1, None, "unknown_agent")]
    assert sorted(seq for seq, *_ in found) == [1, 3, 4]
    assert (3, SETTLED, "") in found
    assert [told.turn for told in broker.told(AskOpened)] == [told.turn for told in broker.told(AskAnswered)] == [1, 3]


def test_a_restart_loses_nobody_s_answer(broker: Broker, alice: Any) -> None:
    """Goal: an answer is found by its seq, from anywhere, after any restart. Method: restarts before and after it."""
    done(broker, alice, "counter/a", ["postpone"])
    broker.restart()
    bob = broker.producer("bob")
    bob.await_results(1)
    assert broker.ask("task", seq=1)["owner"] == "counter/a"
    done(broker, bob, "counter/a", ["settle", -1, 7])
    assert bob.results[1].result == SETTLED
    assert alice.results == {}, "awaits end with the boot"
    broker.restart()
    alice.await_results(1)
    assert alice.results[1].result == SETTLED


def test_a_task_is_pending_from_its_completion_on(broker: Broker, alice: Any) -> None:
    """Goal: no moment in which a task is neither running nor pending. Method: a postponed task that cannot retire yet,
    awaited, and awaited by one who connects then.
    """
    slow, quick = broker.workers[b"w-w1"], broker.worker("w2", slots=1)
    alice.submit("function", program())
    alice.submit("counter/a", POSTPONE)
    held = [one for one in (slow, quick) if one.turns() == [2]]
    assert len(held) == 1
    held[0].finish()
    assert broker.line() == [1, 2]
    bob = broker.producer("bob")
    bob.await_results(2)
    assert broker.ask("task", seq=2)["state"] == "pending"
    assert [row["seq"] for row in broker.ask("tasks", state="pending")] == [2]
    broker.run()
    assert (alice.results.keys(), bob.results) == ({1: 0}.keys(), {})
    done(broker, alice, "counter/a", ["settle", -1, 7])
    assert alice.results[2].result == bob.results[2].result == SETTLED


def test_others_of_a_run_do_not_wait_for_a_pending_one(broker: Broker, alice: Any) -> None:
    """Goal: one answer that takes days holds up nothing. Method: a run of many, one of which is postponed; what is left
    of it, and an Await over all.
    """
    alice.submit("counter/a", *[program()] * 500, POSTPONE, *[program()] * 500)
    broker.run()
    assert sorted(alice.results) == [seq for seq in range(1, 1_002) if seq != 501]
    assert broker.core.world.runs.find(501) is None
    bob = broker.producer("bob")
    bob.await_results(1, 1_001)
    assert sorted(bob.results) == sorted(alice.results)
    done(broker, alice, "counter/a", ["settle", -1, 7])
    assert alice.results[501].result == bob.results[501].result == SETTLED
    assert not [one for one in bob.inbox if isinstance(one, Refused)]


def test_a_task_that_hands_on_has_an_outcome_of_its_own(broker: Broker, alice: Any) -> None:
    """Goal: every task can be awaited and has one outcome. Method: one that was asked by a hand-on and postpones, and a
    step of a call that goes on; neither is the one whose answer is wanted.
    """
    broker.worker("w2")
    alice.submit("counter/a", program(["hand_on", 0, "counter/b", [["postpone"]]]))
    alice.submit("flow", program(asking("counter/c"), asking("counter/d", ["postpone"])))
    broker.run()
    steps = [task.seq for task in broker.core.world.results.newest() if task.outcome.waits is not None]
    assert len(steps) == 2
    alice.await_results(1, broker.core.world.next_seq - 1)
    assert not [one for one in alice.inbox if isinstance(one, Refused)]
    assert {(alice.results[seq].ok, alice.results[seq].result) for seq in steps} == {(True, None)}
    assert sorted({*range(1, broker.core.world.next_seq)} - {*alice.results}) == sorted(broker.core.world.pending)


def test_who_is_gone_is_not_remembered(broker: Broker, alice: Any) -> None:
    """Goal: waits that nobody waits any more cost nothing. Method: many connections await a pending task and vanish."""
    done(broker, alice, "counter/a", ["postpone"])
    for number in range(20):
        one = broker.producer("p", identity=b"c%d" % number)
        one.await_results(1)
        one.vanish()
    alice.vanish()
    assert broker.core.watchers._by_seq == {}
    broker.producer("bob")
    done(broker, broker.producers[b"p-bob"], "counter/a", ["settle", -1, 7])


def test_asks_are_told_of_while_somebody_watches(broker: Broker, alice: Any) -> None:
    """Goal: events for who wants them, none for who does not. Method: with a subscription to all, without any."""
    broker.step(Subscribed(""))
    done(broker, alice, "counter/a", ["postpone"])
    done(broker, alice, "counter/b", ["ask", "counter/a", [["postpone"], ["settle", -1, 7]]])
    done(broker, alice, "counter/a", ["settle_failure", -1, "no"])
    assert broker.told(AskOpened) == [AskOpened(1, 1, "counter/a", ""), AskOpened(3, 3, "counter/a", "counter/b")]
    assert [(told.turn, told.kind) for told in broker.told(AskAnswered)] == [(1, ""), (3, "error")]
    assert [told.turn for told in broker.told(TaskFailure)] == [3]
    broker.step(Unsubscribed(""))
    done(broker, alice, "counter/a", ["postpone"])
    done(broker, alice, "counter/a", ["settle", -1, 7])
    assert len(broker.told(AskOpened)) == len(broker.told(AskAnswered)) == 2


# --- cancels ----------------------------------------------------------------------------------------------------------


def test_a_cancel_ends_the_wait_for_a_pending_task(broker: Broker, alice: Any) -> None:
    """Goal: a producer can give up. Method: cancel; the owner, who was not told, settles in vain; cancel once more."""
    done(broker, alice, "counter/a", ["postpone"])
    assert alice.cancel(1) is True
    assert (alice.results[1].kind, alice.results[1].ok) == ("cancelled", False)
    assert [dead.seq for dead in broker.lane().dead.values()] == [1]
    assert [row["state"] for row in broker.ask("asks")["asks"]] == ["ended"]
    assert alice.cancel(1) is False
    seq = done(broker, alice, "counter/a", ["settle", -1, 7])
    assert alice.results[seq].ok
    assert alice.results[1].kind == "cancelled"
    assert broker.ask("asks")["asks"] == []


def test_cancelling_a_call_cancels_what_it_started(broker: Broker, alice: Any) -> None:
    """Goal: nothing goes on for nobody. Method: a flow that asked two flows, which asked agents, one of which has
    postponed its answer and one runs; another ask has its answer.
    """
    first = ["await", [["ask", "flow", [asking("counter/p", ["postpone"])]], ["ask", "counter/done", []]], 1]
    alice.submit("flow", program(first, ["await", [["ask", "flow", [asking("counter/slow")]]], 2]))
    worker = broker.workers[b"w-w1"]
    for _ in range(100):
        if "counter/slow" in [task.address for task in broker.lane().line()] or not worker.finish():
            break
    assert alice.cancel(1) is True
    assert alice.results[1].kind == "cancelled"
    closed = broker.recorded(Cancelled)
    assert [record.origin == NOBODY for record in closed] == [False, *[True] * (len(closed) - 1)]
    broker.run()
    assert broker.core.world.pending == {}
    assert [agent for agent in broker.lane().agents if "~" in agent] == []
    assert [row["state"] for row in broker.ask("asks")["asks"]] == ["ended"]
    assert [row["target"] for row in broker.ask("tasks") if row["seq"] == 1] == ["flow/~1"]  # as while it was open
    dead = [(one.target, one.failure.kind) for one in broker.lane().dead.values()]
    assert sorted(dead) == [(target, "cancelled") for target in ("counter/p", "counter/slow", "flow", "flow", "flow")]


def test_what_a_cancel_has_caused_is_durable_with_it(broker: Broker, alice: Any) -> None:
    """Goal: a crash cannot leave half of it. Method: the records of the step, none of which is on the disk alone."""
    done(broker, alice, "flow", asking("counter/a", ["postpone"]))
    broker.disk_works = False
    alice.cancel(1)
    assert len(broker.unwritten) == 2
    broker.restart()
    assert broker.core.world.pending.keys() == {1: 0, 2: 0}.keys()


def test_a_handed_on_task_on_its_way_is_cancelled_with_the_ask(broker: Broker, alice: Any) -> None:
    """Goal: as for calls, of an ask that moves on. Method: a hand-on to a task that has not run."""
    worker = broker.workers[b"w-w1"]
    alice.submit("counter/a", program(["hand_on", 0, "counter/b", [["log", "late"]]]))
    worker.finish()
    assert [row["state"] for row in broker.ask("asks")["asks"]] == ["handed on"]
    assert alice.cancel(1) is True
    broker.run()
    assert broker.counter("counter/b") == 0
    assert [record.seq for record in broker.recorded(Cancelled)] == [1, 2]
    assert alice.results[1].kind == "cancelled"


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_an_ask_expires_wherever_it_is(broker: Broker, alice: Any) -> None:
    """Goal: a deadline holds for the whole chain. Method: one that runs, one that is pending, one in a paused lane, one
    in time; all with the same deadline, two lanes.
    """
    alice.open_lane("still", paused=True)
    alice.submit("counter/w", program(), lane="still", kind="ask", deadline_ms=500)
    done(broker, alice, "counter/p", ["postpone"], kind="ask", deadline_ms=500)
    done(broker, alice, "counter/t", ["postpone"], kind="ask", deadline_ms=500)
    done(broker, alice, "counter/t", ["settle", -1, 7])
    alice.submit("counter/r", program(["add", 1]), kind="ask", deadline_ms=500)
    assert 500 + broker.now_ms == broker.sequencer.next_timer_ms()
    broker.advance(499)
    assert sorted(alice.results) == [3, 4]
    broker.advance(1)
    kinds = {seq: item.kind for seq, item in alice.results.items() if not item.ok}
    assert kinds == {1: "expired", 2: "expired", 5: "expired"}
    assert broker.counter("counter/r") == 0
    assert broker.sequencer.next_timer_ms() is None
    assert len(broker.recorded(Verdict)) == 3
    broker.run()
    assert broker.counter("counter/r") == 0


def test_a_deadline_outlives_a_restart_and_a_clock_that_goes_back(broker: Broker, alice: Any) -> None:
    """Goal: neither an early end nor a lost one. Method: a restart before it, a clock set back by an hour."""
    done(broker, alice, "counter/a", ["postpone"], kind="ask", deadline_ms=500)
    broker.restart()
    alice.await_results(1)
    broker.now_ms -= 3_600_000
    broker.advance(1_000)
    assert alice.results == {}
    broker.advance(3_600_000)
    assert alice.results[1].kind == "expired"


def test_many_deadlines_at_once_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch, broker: Broker, alice: Any) -> None:
    """Goal: a step stays short. Method: more asks than a step ends, due at the same time."""
    monkeypatch.setattr(sequencer, "TIMERS_PER_STEP", 10)
    alice.submit("counter/a", *[POSTPONE] * 35, kind="ask", deadline_ms=500)
    broker.run()
    assert len(broker.core.world.pending) == 35
    broker.keeps_up = False
    broker.advance(500)
    steps = 1
    while broker.core.world.pending:
        assert len(broker.core.world.pending) == 35 - 10 * steps
        assert broker.sequencer.next_timer_ms() == broker.now_ms
        broker.step()
        steps += 1
    assert steps == 4
    while broker.sequencer.is_behind:
        broker.step()
    assert {item.kind for item in alice.results.values()} == {"expired"}


def test_deadlines_that_are_met_leave_nothing(monkeypatch: pytest.MonkeyPatch, make_broker: Any) -> None:
    """Goal: a long deadline costs nothing once its answer is there. Method: very many that are met, behind an
    earlier one that is not.
    """
    monkeypatch.setattr(schedule, "_LOOK_FROM", 64)
    broker = make_broker()
    broker.worker()
    alice = broker.producer()
    alice.deploy("counter")
    done(broker, alice, "counter/p", ["postpone"], kind="ask", deadline_ms=5_000_000)
    due_ms = broker.now_ms + 5_000_000
    for _ in range(20):
        alice.submit("counter/a", *[program()] * 50, kind="ask", deadline_ms=10_000_000)
        broker.run()
        assert len(broker.core.schedule) < 4 * 64
    assert broker.sequencer.next_timer_ms() == due_ms
    assert broker.recorded(Verdict) == []


def test_the_deadline_of_an_agent_s_ask_gives_it_a_failure(broker: Broker, alice: Any) -> None:
    """Goal: as for producers. Method: an ask with a deadline to an agent that postpones, and one in time."""
    done(broker, alice, "counter/a", ["ask", "counter/b", [["postpone"]], 0, 500], ["ask", "counter/c", [], 0, 500])
    assert broker.counter("counter/a") == 100
    broker.advance(500)
    broker.run()
    assert broker.counter("counter/a") == 1_100
    assert [record.seq for record in broker.recorded(Verdict)] == [2]


def test_a_call_that_expires_ends_what_it_started(broker: Broker, alice: Any) -> None:
    """Goal: the same closure as of a cancel. Method: a flow with a deadline that waits for a flow that waits."""
    done(broker, alice, "flow", asking("flow", asking("counter/a", ["postpone"])), kind="ask", deadline_ms=500)
    assert len(broker.core.world.pending) == 3
    broker.advance(500)
    assert alice.results[1].kind == "expired"
    assert broker.core.world.pending == {}
    assert len(broker.recorded(Cancelled)) == 2


# --- who waits for whom -----------------------------------------------------------------------------------------------


def test_open_asks_say_who_owes_and_what_that_waits_for(broker: Broker, alice: Any) -> None:
    """Goal: a chain that stands still explains itself. Method: a flow that asks an agent that asks another and sets a
    timer; the table, its pages, and only the older ones.
    """
    done(broker, alice, "flow", asking("counter/a", ["postpone"], ["ask", "counter/b", [["postpone"]]],
                                       ["timer", 5_000, []]), kind="ask", deadline_ms=60_000)  # fmt: skip
    start_ms = broker.now_ms
    broker.advance(1_000)
    found = broker.ask("asks")
    assert (found["open"], found["next"], found["cycles"], found["searched"]) == (3, None, [], True)
    call, first, second = found["asks"]
    assert (call["turn"], call["owner"], call["state"], call["sender"]) == (1, "flow/~1", "waits", None)
    assert (call["since_ms"], call["age_ms"], call["due_ms"]) == (start_ms, 1_000, start_ms + 60_000)
    assert call["waits_for"] == [[2, "counter/a"]]
    assert call["waits"].startswith("flow/~1 after")
    assert (first["sender"], first["owner"], first["state"]) == ("flow/~1", "counter/a", "postponed")
    assert (first["waits_for"], first["timer_ms"]) == ([[3, "counter/b"]], start_ms + 5_000)
    assert (second["sender"], second["owner"], second["waits_for"]) == ("counter/a", "counter/b", [])
    page = broker.ask("asks", limit=2)
    assert ([row["turn"] for row in page["asks"]], page["next"]) == ([1, 2], 2)
    assert [row["turn"] for row in broker.ask("asks", after=2)["asks"]] == [3]
    assert len(broker.ask("asks", older_ms=1_000)["asks"]) == 3
    assert broker.ask("asks", older_ms=1_001)["asks"] == []
    assert isinstance(broker.ask("asks", after=-1), Refused)


def test_an_ask_of_a_call_that_has_ended_is_marked(broker: Broker, alice: Any) -> None:
    """Goal: what nobody waits for is seen. Method: a flow that ends while what it asked is open, and one that waits."""
    done(broker, alice, "flow", ["ask", "counter/a", [["postpone"]]])
    done(broker, alice, "flow", asking("counter/b", ["postpone"]))
    rows = {row["owner"]: (row["sender"], row["sender_ended"]) for row in broker.ask("asks")["asks"]}
    assert (rows["counter/a"], rows["counter/b"]) == (("flow/~1", True), ("flow/~3", False))


def test_an_agent_whose_name_became_a_flow_is_marked(broker: Broker, alice: Any) -> None:
    """Goal: one sees that an answer cannot come. Method: agents that postpone, and one of the names bound to a flow."""
    alice.deploy("other")
    for name in ("counter", "other"):
        done(broker, alice, name, ["postpone"], kind="ask")
    assert [row["waits"] for row in broker.ask("asks")["asks"]] == ["", ""]
    alice.deploy("counter", FLOW)
    said = [row["waits"] for row in broker.ask("asks")["asks"]]
    assert said == ["for nothing: counter is a flow now, so cancel this", ""]


def test_cycles_are_named(broker: Broker, alice: Any) -> None:
    """Goal: a deadlock is found by looking. Method: a waits for b, and b for a, by asks that are open; an agent that
    asks itself, by an ask that runs and by one that is not issued; one that waits for nobody.
    """
    back = ["ask", "counter/a", [["postpone"]]]
    done(broker, alice, "counter/a", ["postpone"], ["ask", "counter/b", [["postpone"], back]])
    done(broker, alice, "counter/c", ["postpone"])
    assert broker.ask("asks")["cycles"] == [["counter/a", "counter/b"]]
    worker = broker.workers[b"w-w1"]
    for held in ("line_count", "waiting_count"):
        alice.submit("counter/d", program(["ask", "counter/d", []]))
        if held == "waiting_count":
            alice.pause()
        worker.finish()
        assert getattr(broker.lane(), held) == 1
        assert broker.ask("asks")["cycles"] == [["counter/a", "counter/b"], ["counter/d"]]
        broker.run()
    alice.release()
    broker.run()
    assert broker.ask("asks")["cycles"] == [["counter/a", "counter/b"]]


def test_a_search_for_cycles_is_bounded(monkeypatch: pytest.MonkeyPatch, broker: Broker, alice: Any) -> None:
    """Goal: a question costs the broker little. Method: more waiting messages than are looked at."""
    monkeypatch.setattr(who_waits, "LOOKS_MAX", 3)
    alice.window(1)
    alice.submit("counter/a", program(["postpone"], ["ask", "counter/a", []]))
    alice.submit("counter/b", *[program()] * 2)
    broker.workers[b"w-w1"].finish()
    assert broker.ask("asks")["searched"]
    for _ in range(4):
        alice.submit("counter/b", program())
    found = broker.ask("asks")
    assert (found["searched"], found["cycles"], len(found["asks"])) == (False, [], 1)
