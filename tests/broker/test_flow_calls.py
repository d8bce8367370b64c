"""Calls of flows in the lane: instances, bounds, and how they end. Execution model, part 11."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import Broker, SimWorker
from later_kit import done, outcome
from scripted import COUNTER, FLOW, FUNCTION_CODE, MODEL_CODE, code, program

from rota.broker.calls import STEP_BYTES
from rota.broker.records import Verdict
from rota.common.budget import TASK_BYTES
from rota.common.errors import CodeError
from rota.common.events import WorkerExpelled
from rota.common.messages import Refused
from rota.common.work import AFTER_END, FUNCTION, Limits


def asking(*targets: str, n: int | None = None, steps: Any = ()) -> list[Any]:
    """The step of a flow that asks each and waits for `n` answers."""
    return ["await", [["ask", target, list(steps)] for target in targets], len(targets) if n is None else n]


def flow(**limits: int) -> Any:
    return FLOW._replace(limits=Limits(**limits))


def calls(broker: Broker) -> list[str]:
    return [address for address in broker.lane().agents if "~" in address]


def test_each_task_for_a_flow_is_a_call(broker: Broker, alice: Any) -> None:
    """Goal: nothing interleaves, and what has ended is forgotten. Method: three calls at once of one name, who sent
    what to whom, and what the lane keeps afterwards.
    """
    alice.submit("flow", *[program(asking("counter/a", "function"))] * 3)
    broker.run()
    assert all(outcome(broker, seq).result for seq in (1, 2, 3))
    kept = broker.core.world.results.kept()
    asked = sorted([(task.run.sender, task.address) for task in kept if task.run.kind == "ask"])
    assert asked == [(f"flow/~{turn}", target) for turn in (1, 2, 3) for target in ("counter/a", "function")]
    lane = broker.lane()
    assert (calls(broker), lane.ended, lane.open, lane.budget.ask_bytes) == ([], {}, {}, 0)
    assert broker.core.world.pending == {}


def test_a_call_keeps_its_code(broker: Broker, alice: Any) -> None:
    """Goal: a deploy does not touch calls that run. Method: bind the name to other code, and to an agent, while one
    waits; the codes of its steps.
    """
    alice.submit("flow", program(asking("counter/a", steps=[["postpone"]]), asking("function")))
    broker.run()
    alice.deploy("flow", COUNTER)
    done(broker, alice, "counter/a", ["settle", -1, 7])
    assert outcome(broker, 1).result is not None
    codes = [task.code for task in broker.core.world.results.kept() if task.address == "flow/~1" and task.code]
    assert all(found is not None and found.digest == FLOW.digest for found in codes)
    assert done(broker, alice, "flow/a", ["add", 1])
    assert broker.counter("flow/a") == 1


def test_nobody_else_sends_to_a_call(broker: Broker, alice: Any) -> None:
    """Goal: an instance hears only what it asked for. Method: a submit to one, a call with a key, an agent that sends
    to one, and an answer for an agent whose name is bound to a flow by now.
    """
    refused = alice.submit("flow/~1", program())
    assert isinstance(refused, Refused)
    assert refused.code == "bad_target"
    keyed = done(broker, alice, "flow/key", ["add", 1])
    assert outcome(broker, keyed)[:2] == (
        "bad_input", "'flow' is a flow: send to 'flow', each call is an instance of its own"
    )  # fmt: skip
    alice.deploy("late", COUNTER)
    done(broker, alice, "late/a", ["ask", "counter/a", [["postpone"]]])
    alice.deploy("late", FLOW)
    done(broker, alice, "counter/a", ["settle", -1, 7])
    (dead,) = [one for one in broker.lane().dead.values() if one.target == "late/a"]
    assert dead.failure[:2] == (
        "unknown_agent", "'late' is bound to a flow now, so the agent 'late/a' gets nothing"
    )  # fmt: skip


def test_answers_after_the_end_are_dropped(broker: Broker, alice: Any) -> None:
    """Goal: a call that has returned gets nothing. Method: it waits for the first of three answers; one of the others
    is in the line already, one comes much later, and a timer of it is dropped.
    """
    alice.deploy("slow", code("slow", FUNCTION))
    first = ["await", [["ask", "function", []], ["ask", "function", []], ["ask", "counter/a", [["postpone"]]],
                       ["timer", 700, []]], 1]  # fmt: skip
    seq = done(broker, alice, "flow", first)
    assert outcome(broker, seq).result is not None
    assert broker.lane().timers == {}
    after = [task.outcome for task in broker.core.world.results.kept() if task.run.to_call]
    assert AFTER_END in after
    turns = broker.lane().next_turn
    done(broker, alice, "counter/a", ["settle", -1, 7])
    assert broker.lane().next_turn == turns + 1, "only the settling task was stamped"
    broker.advance(1_000)
    assert broker.lane().next_turn == turns + 1


def test_a_failed_step_fails_the_call(broker: Broker, alice: Any) -> None:
    """Goal: whatever ends a step badly is the outcome of the call. Method: failures of the first step, of a later one,
    and a verdict on a later one; who asked, and the dead letters, which hold the call.
    """
    found = [
        done(broker, alice, "flow", ["fail", "no"]),
        done(broker, alice, "flow", asking("function"), ["fail", "no"]),
        done(broker, alice, "flow", asking("function"), ["fault"]),
        done(broker, alice, "flow", ["settle", -1, 7]),
    ]
    assert [outcome(broker, seq).kind for seq in found] == ["error", "error", "faulted", "bad_settle"]
    assert [(one.seq, one.target) for one in broker.lane().dead.values()] == [(seq, "flow") for seq in found]
    assert broker.lane().failed == 4
    assert len(broker.recorded(Verdict)) == 1
    assert calls(broker) == []
    done(broker, alice, "counter/a", ["ask", "flow", [asking("function"), ["fail", "no"]]])
    assert broker.counter("counter/a") == 1_000


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"steps_max": 2}, "a call of over 2 messages (steps_max)"),
        ({"call_bytes": 80}, "a call whose messages have over 80 bytes (call_bytes)"),
        ({"call_fuel": 4}, ""),
    ],
)
def test_a_call_is_bounded(broker: Broker, alice: Any, limits: dict[str, int], text: str) -> None:
    """Goal: no call without end. Method: messages, their content, and fuel in all, each with a small bound."""
    alice.deploy("flow", flow(**limits))
    seq = done(broker, alice, "flow", asking("function"), asking("function"), asking("function"))
    found = outcome(broker, seq)
    assert found.kind == ("overflow" if text else "fuel")
    assert not text or found.message == text
    assert calls(broker) == []


def test_a_call_counts_its_messages(broker: Broker, alice: Any) -> None:
    """Goal: what a lane keeps for a call is in its budget. Method: the bytes by hand, after the first step and the
    second; the room that is left when it has ended.
    """
    payload = program(asking("function"), asking("counter/a", steps=[["postpone"]]))
    alice.submit("flow", payload)
    broker.run()
    call = broker.lane().agents["flow/~1"].call
    assert call is not None
    _, reply = [step.task for step in call.steps]
    held = TASK_BYTES + len(payload) + STEP_BYTES  # the ask, and its first step, which holds no content of its own
    held += STEP_BYTES + len(reply.payload)
    held += TASK_BYTES + len(program(["postpone"]))
    assert broker.lane().budget.ask_bytes == held
    assert broker.lane().load == 2
    done(broker, alice, "counter/a", ["settle", -1, 7])
    assert broker.lane().budget.ask_bytes == 0


def test_a_call_that_nobody_waits_for_is_open_all_the_same(broker: Broker, alice: Any) -> None:
    """Goal: a tell from an agent begins a call too. Method: it waits, can be cancelled, and nobody gets an answer."""
    waiting = [asking("counter/b", steps=[["postpone"]])]
    done(broker, alice, "counter/a", ["tell", "flow", waiting])
    (seq,) = [ask.seq for ask in broker.lane().open.values() if ask.owner.startswith("flow/~")]
    assert seq in broker.core.world.pending
    assert alice.cancel(seq) is True
    broker.run()
    assert (calls(broker), broker.counter("counter/a")) == ([], 0)


def test_a_handed_on_call_answers_the_first_asker(broker: Broker, alice: Any) -> None:
    """Goal: agents and flows mix. Method: an agent hands its own turn on to a flow, whose answer is the agent's; then
    the same, and the ask is cancelled while the flow waits.
    """
    seq = done(broker, alice, "counter/a", ["hand_on", 0, "flow", [asking("function")]])
    assert outcome(broker, seq).result is not None
    waiting = [asking("counter/b", steps=[["postpone"]])]
    seq = done(broker, alice, "counter/a", ["hand_on", 0, "flow", waiting])
    (ask,) = [one for one in broker.lane().open.values() if one.seq == seq]
    assert ask.owner == f"flow/~{ask.owes}"
    assert alice.cancel(seq) is True
    broker.run()
    assert (calls(broker), broker.lane().open, outcome(broker, seq).kind) == ([], {}, "cancelled")


def test_steps_in_the_line_of_a_cancelled_call_run_without_effects(make_broker: Any) -> None:
    """Goal: an end by an input depends on its position alone. Method: a call is cancelled while a step of it is in the
    line, behind a slow task, when that step has run and when it has not: nothing of it is stamped, the same digest.
    """
    assert _cancelled_with_a_step_in_the_line(make_broker(), ran=True) == (
        _cancelled_with_a_step_in_the_line(make_broker(), ran=False)
    )


def _cancelled_with_a_step_in_the_line(broker: Broker, *, ran: bool) -> bytes:
    alice = broker.producer()
    for name, bound in (("counter", COUNTER), ("function", FUNCTION_CODE), ("flow", FLOW)):
        alice.deploy(name, bound)
    workers: list[SimWorker] = [broker.worker(name, slots=1) for name in ("w1", "w2")]
    alice.submit("flow", program(asking("function", "function", n=1), ["tell", "counter/x", [["add", 1]]]), now_ms=5)
    for turn in (1, 2):  # the call, and the first of the two that it asks; the second one is slow
        (one,) = [worker for worker in workers if worker.turns() == [turn]]
        one.finish()
    (step,) = [task for task in broker.lane().line() if task.run.to_call]
    assert (broker.line(), step.outcome) == ([3, step.turn], None)
    if ran:
        (one,) = [worker for worker in workers if worker.turns() == [step.turn]]
        one.finish()
    assert (step.outcome is not None) == ran
    assert alice.cancel(1) is True
    broker.run()
    assert (broker.counter("counter/x"), calls(broker), broker.lane().ended) == (0, [], {})
    assert step.outcome.emits, "it ran"
    return broker.lane().digest


def test_calls_are_bounded_in_number(broker: Broker, alice: Any) -> None:
    """Goal: calls that are open count as agents, and those that ended do not. Method: three agents at most."""
    alice.open_lane("small", deploys_from="main", agents_max=3)
    waiting = program(asking("counter/a", steps=[["postpone"]]))
    seqs = []
    for _ in range(3):
        seqs.append(alice.submit("flow", waiting, lane="small").first_seq)
        broker.run()
    lane = broker.lane("small")
    assert len(lane.agents) == 3
    assert [(one.seq, one.failure.kind) for one in lane.dead.values()] == [(seqs[2], "overflow")]
    alice.cancel(seqs[0])
    broker.run()
    assert len(lane.agents) == 2


def test_code_that_cannot_wait_is_no_flow(broker: Broker, alice: Any) -> None:
    """Goal: a client in another language is told, too. Method: a function and a model that are deployed as flows."""
    for name, found in (("f", FUNCTION_CODE), ("model:m", MODEL_CODE)):
        reply = alice.deploy(name, found._replace(flow=True))
        assert isinstance(reply, Refused)
        assert reply.code == CodeError.code
    assert not {"f", "model:m"} & set(broker.lane().deploys)


@pytest.mark.parametrize("result", [None, b"late"])
def test_nothing_is_done_after_the_end(broker: Broker, alice: Any, result: bytes | None) -> None:
    """Goal: no worker can let a message behind the end of a call do anything. Method: two answers, of which the first
    ends the call, are in the line; the second has no outcome, as it has to be, or one.
    """
    alice.submit("flow", program(asking("counter/x", "counter/y", n=1)))
    worker = broker.workers[b"w-w1"]
    worker.finish()
    alice.pause("main")
    broker.run()
    alice.release("main")
    worker.finish()
    assert worker.turns() == [5]
    worker.lie(outcomes=(AFTER_END._replace(result=result),))
    assert bool(broker.told(WorkerExpelled, worker="w1")) == (result is not None)
