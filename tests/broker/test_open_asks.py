"""Open asks in the lane: postponing, settling, handing on, and what each counts. Execution model, part 10."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import Broker
from later_kit import done, outcome
from scripted import code, program

from rota.broker.records import Cancelled
from rota.common.budget import TASK_BYTES
from rota.common.work import Done, Failed, Limits

SETTLED = b"[7]"


def test_an_agent_that_asked_gets_the_answer_as_from_one_task(broker: Broker, alice: Any) -> None:
    """Goal: who asks cannot tell from the message whether the answer came later, but for the turn. Method: the same
    question to one that answers at once, one that settles later and one that fails later; the replies are compared.
    """
    for target, wait in (("counter/x", []), ("counter/y", ["postpone"]), ("counter/z", ["postpone"])):
        done(broker, alice, "counter/a", ["ask", target, [wait] if wait else [], 3])
    done(broker, alice, "counter/y", ["settle", -1, 7], now_ms=99)
    done(broker, alice, "counter/z", ["log", "first"], ["settle_failure", -1, "no"])
    told = [
        (task.run.kind, task.run.sender, task.run.priority, task.run.reply_to, task.run.parent, task.address)
        for task in broker.core.world.results.kept()
        if task.run.kind in ("reply", "failure")
    ]
    assert told == [
        ("reply", "counter/x", 3, (2, 1, 0), (2, 0), "counter/a"),
        ("reply", "counter/y", 3, (8, 4, 0), (8, 0), "counter/a"),
        ("failure", "counter/z", 3, (10, 6, 0), (10, 0), "counter/a"),
    ]
    assert [(dead.turn, dead.target, dead.failure.message) for dead in broker.lane().dead.values()] == [
        (7, "counter/z", "no")
    ]


def test_only_what_is_open_can_be_settled_and_once(broker: Broker, alice: Any) -> None:
    """Goal: a wrong settle costs its task and changes nothing. Method: a turn of somebody else, the same turn twice in
    a task and in two, a task nobody asked for; then the right one.
    """
    done(broker, alice, "counter/a", ["postpone"])
    wrong = [
        done(broker, alice, "counter/b", ["add", 1], ["settle", 1, 7]),
        done(broker, alice, "counter/a", ["settle", 1, 7], ["settle", 1, 8]),
        done(broker, alice, "counter/a", ["settle", 0, 7], ["postpone"]),
    ]
    texts = [outcome(broker, seq)[:2] for seq in wrong]
    assert texts == [
        ("bad_settle", f"turn {turn} is none that {agent} has postponed and not settled")
        for turn, agent in ((1, "counter/b"), (1, "counter/a"), (4, "counter/a"))
    ]
    assert broker.counter("counter/b") == 0
    done(broker, alice, "counter/b", ["tell", "counter/a", [["postpone"]]])
    assert outcome(broker, 6)[:2] == (
        "bad_settle", "turn 6 asked for nothing: only an ask, or a task from outside, can be postponed"
    )  # fmt: skip
    done(broker, alice, "counter/a", ["settle", 1, 7])
    assert outcome(broker, 1) == Done(SETTLED, None, (), (), 0, ())
    assert broker.lane().agents["counter/a"].open == ()
    late = done(broker, alice, "counter/a", ["settle", 1, 7])
    assert outcome(broker, late).kind == "bad_settle"


def test_a_chain_of_hand_ons_keeps_one_ask(broker: Broker, alice: Any) -> None:
    """Goal: a chain of any length takes no more room, and its end answers the first asker. Method: twenty agents, each
    of which postpones and then hands on; the room after each, and the answer of the last.
    """
    done(broker, alice, "counter/0", ["postpone"])
    held = broker.lane().budget.held_bytes
    for number in range(20):
        done(broker, alice, f"counter/{number}", ["hand_on", -1, f"counter/{number + 1}", [["postpone"]]])
        (ask,) = broker.lane().open.values()
        assert (ask.turn, ask.owner) == (1, f"counter/{number + 1}")
        assert (broker.lane().budget.held_bytes, broker.lane().load) == (held, 1)
    broker.restart()
    broker.worker("w2")
    done(broker, alice, "counter/20", ["settle", -1, 7])
    assert outcome(broker, 1).result == SETTLED
    assert broker.lane().budget.ask_bytes == 0


@pytest.mark.parametrize(("target", "kind"), [("ghost/x", "unknown_agent"), ("counter/f", "error"), ("function", None)])
def test_what_is_handed_on_answers_as_it_ends(broker: Broker, alice: Any, target: str, kind: str | None) -> None:
    """Goal: a hand-on to whatever ends at once is an answer too. Method: the own turn, handed on to a name that is not
    deployed, to one that fails and to a function.
    """
    steps = [["fail", "no"]] if target == "counter/f" else []
    seq = done(broker, alice, "counter/a", ["hand_on", 0, target, steps])
    found = outcome(broker, seq)
    assert (found.kind if isinstance(found, Failed) else None) == kind
    assert broker.core.world.pending == {}
    assert broker.lane().agents["counter/a"].open == ()
    assert (seq in broker.lane().dead) == (kind is not None)


def test_a_dead_letter_of_an_ask_can_be_tried_again(broker: Broker, alice: Any) -> None:
    """Goal: a failure that came later is no worse than one at once, and its code sees the same message. Method: settle
    an ask with a failure, retry.
    """
    seq = done(broker, alice, "counter/a", ["postpone"], priority=4, kind="ask")
    done(broker, alice, "counter/a", ["settle_failure", -1, "later"])
    dead = broker.lane().dead[seq]
    assert (dead.target, dead.payload, dead.priority) == ("counter/a", program(["postpone"]), 4)
    again = alice.submit_runs(retry_of=seq).first_seq
    broker.run()
    assert again in broker.core.world.pending
    assert broker.lane().open[again].run.kind == "ask"


def test_open_asks_count_in_tasks_and_bytes(broker: Broker, alice: Any) -> None:
    """Goal: what waits is bounded like all else. Method: a lane of 4 tasks fills with open asks; bytes by hand."""
    alice.open_lane("small", deploys_from="main", tasks_max=8)
    alice.deploy("counter", code("counter", emits_max=1), lane="small")
    payload = program(["postpone"]).ljust(100)
    for count in range(1, 9):
        alice.submit("counter/a", payload, lane="small")
        broker.run()
        lane = broker.lane("small")
        assert (lane.load, lane.budget.ask_bytes) == (min(count, 7), min(count, 7) * (TASK_BYTES + 100))
    # The eighth found no room for an emit, which postponing counts as.
    assert [(one.turn, one.failure.kind) for one in lane.dead.values()] == [(8, "overflow")]
    assert broker.lane("small").agents["counter/a"].open == (1, 2, 3, 4, 5, 6, 7)


def test_an_agent_has_a_bounded_number_of_open_turns(broker: Broker, alice: Any) -> None:
    """Goal: one agent cannot keep everybody waiting. Method: `asks_max` of two; a third; a hand-on, which leaves none;
    a settle makes room.
    """
    alice.deploy("few", code("few")._replace(limits=Limits(asks_max=2)))
    found = [done(broker, alice, "few/a", ["postpone"]) for _ in range(3)]
    assert outcome(broker, found[2])[:2] == ("overflow", "over 2 postponed turns open (asks_max)")
    done(broker, alice, "few/a", ["hand_on", 0, "counter/b", [["postpone"]]])
    done(broker, alice, "few/a", ["postpone"], ["settle", -2, 7])
    assert broker.lane().agents["few/a"].open == (2, 6)


def test_a_postponed_task_counts_its_content_as_growth(broker: Broker, alice: Any) -> None:
    """Goal: what a lane keeps fits into what was reserved. Method: growth of nothing: it may be postponed, or emit as
    many bytes as it has, but not both.
    """
    alice.deploy("tight", code("tight")._replace(limits=Limits(growth_bytes=0)))
    assert outcome(broker, done(broker, alice, "tight/a", ["tell", "ghost", []])).result
    done(broker, alice, "tight/a", ["postpone"])
    both = done(broker, alice, "tight/a", ["postpone"], ["tell", "ghost", []])
    assert outcome(broker, both).kind == "overflow"
    broker.lane().check_invariants()


def test_a_cancel_between_completion_and_retire_takes_effect_at_the_retire(broker: Broker, alice: Any) -> None:
    """Goal: a cancel means the same wherever the replay stands. Method: a postponed task behind a slow one is
    cancelled; its effects stand.
    """
    slow, quick = broker.workers[b"w-w1"], broker.worker("w2", slots=1)
    alice.submit("function", program())
    alice.submit("counter/a", program(["add", 5], ["postpone"], ["tell", "counter/b", [["add", 1]]]))
    (held,) = [one for one in (slow, quick) if one.turns() == [2]]
    held.finish()
    assert alice.cancel(2) is True
    assert alice.cancel(2) is False
    assert [record.ends for record in broker.recorded(Cancelled)] == [True]
    assert outcome(broker, 2) is None
    broker.run()
    assert outcome(broker, 2)[:2] == ("cancelled", "cancelled on request")
    assert (broker.counter("counter/a"), broker.counter("counter/b")) == (5, 1)
    # The agent was not told, and settles in vain.
    late = done(broker, alice, "counter/a", ["settle", -1, 7])
    assert outcome(broker, late).result is not None
    assert outcome(broker, 2).kind == "cancelled"


def test_a_hand_on_can_only_bring_the_deadline_forward(broker: Broker, alice: Any) -> None:
    """Goal: an ask has one deadline. Method: hand on with a later one, then with an earlier one."""
    done(broker, alice, "counter/a", ["hand_on", 0, "counter/b", [["postpone"]], 0, 900], deadline_ms=500)
    due_ms = broker.lane().deadlines[1]
    assert due_ms == broker.now_ms + 500
    done(broker, alice, "counter/b", ["hand_on", -1, "counter/c", [["postpone"]], 0, 20])
    assert broker.lane().deadlines == {1: broker.now_ms + 20}
    done(broker, alice, "counter/c", ["settle", -1, 7])
    assert broker.lane().deadlines == {}
    assert outcome(broker, 1).result == SETTLED


def test_an_ask_from_outside_gets_no_message(broker: Broker, alice: Any) -> None:
    """Goal: `ask` from outside is a tell that says what it is. Method: no reply is stamped; the agent sees the kind."""
    seq = done(broker, alice, "counter/a", ["add", 1], kind="ask")
    assert b'"ask"' in outcome(broker, seq).result
    assert broker.lane().next_turn == 2
