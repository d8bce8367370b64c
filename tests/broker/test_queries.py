"""Questions: what they tell, and that no question can hurt."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import Broker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import COUNTER, program

from rota.common import wire
from rota.common.errors import ProtocolError
from rota.common.messages import QUERIES, Answer, Query, Refused

ADD = program(["add", 1])


@pytest.fixture
def busy(broker: Broker) -> Broker:
    """A broker with a task in every state: turns 1 and 2 retired, 3 runs, 4 is completed, 5 ready, 6 waits."""
    alice = broker.producer()
    alice.window(3)
    worker = broker.worker("w1", slots=1)
    alice.submit("counter/a", ADD, program(["log", "why"], ["fail", "no"]))
    broker.run()
    alice.submit("counter/a", ADD)
    assert worker.turns() == [3]
    alice.submit("counter/b", ADD)
    alice.submit("counter/c", ADD, ADD)
    alice.cancel(4)
    return broker


def test_status(busy: Broker) -> None:
    """Goal: the broker in numbers. Method: compare with what was done."""
    status = busy.ask("status")
    assert (status["boot"], status["next_seq"], status["draining"], status["storage_full"]) == (1, 7, False, "")
    assert status["assignments"] == 1
    (lane,) = status["lanes"]
    facts = {
        key: lane[key] for key in ("window", "stamped", "waiting", "line", "completed", "retired", "failed", "dead")
    }
    assert facts == {
        "window": 3, "stamped": 6, "waiting": 1, "line": 3, "completed": 1, "retired": 2, "failed": 1, "dead": 1
    }  # fmt: skip
    assert busy.ask("lanes") == status["lanes"]
    assert busy.ask("workers") == status["workers"]


def test_tasks_by_state(busy: Broker) -> None:
    """Goal: every task is found in its state. Method: ask for each state, and for single tasks."""
    assert {state: [task["seq"] for task in busy.ask("tasks", state=state)] for state in (
        "waiting", "ready", "running", "completed", "retired"
    )} == {"waiting": [6], "ready": [5], "running": [3], "completed": [4], "retired": [2, 1]}  # fmt: skip
    for seq, state in {1: "retired", 3: "running", 4: "completed", 5: "ready", 6: "waiting"}.items():
        assert busy.ask("task", seq=seq)["state"] == state
    assert busy.ask("task", seq=2)["result"]["message"] == "no"
    assert len(busy.ask("tasks", limit=2)) == 2
    assert isinstance(busy.ask("tasks", state="lost"), Refused)


def test_agents_deploys_dead_and_digest(busy: Broker) -> None:
    """Goal: state, names, dead letters and digest can be read. Method: ask and compare with the lane."""
    assert busy.ask("agent", address="counter/a")["state"] == b"1"
    assert [agent["address"] for agent in busy.ask("agents", name="counter")] == ["counter/a", "counter/b", "counter/c"]
    assert busy.ask("agents", name="other") == []
    assert [row["name"] for row in busy.ask("deploys")] == ["counter"]
    assert busy.ask("deploys")[0]["digest"] == COUNTER.digest
    (dead,) = busy.ask("dead")
    assert (dead["seq"], dead["kind"], dead["log"]) == (2, "error", ["why"])
    assert busy.ask("digest") == {"lane": "main", "retired": 2, "digest": busy.lane().digest}


def test_what_is_not_there(busy: Broker) -> None:
    """Goal: a typed refusal for each thing that is not there. Method: ask for one of each."""
    assert busy.ask("digest", lane="nowhere").code == "unknown_lane"
    assert busy.ask("agent", address="counter/z").code == "unknown_task"
    assert busy.ask("task", seq=7).code == "unknown_task"
    assert busy.ask("task", seq=True).code == "unknown_task"


@given(
    what=st.sampled_from(QUERIES),
    arguments=st.dictionaries(
        st.sampled_from(("lane", "name", "address", "seq", "state", "limit", "x")),
        st.none() | st.integers(-1, 2**53) | st.text(max_size=8) | st.binary(max_size=8) | st.just("main")
        | st.lists(st.integers(0, 3), max_size=2) | st.dictionaries(st.text(max_size=2), st.none(), max_size=1)
        | st.floats(allow_nan=False) | st.booleans(),
        max_size=4,
    ),
)  # fmt: skip
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_question_can_hurt(busy: Broker, what: str, arguments: dict[str, Any]) -> None:
    """Goal: whatever is asked is answered or refused, and changes nothing. Method: random arguments."""
    frame = wire.encode(Query(1, what, arguments))
    try:
        query = wire.decode(frame, wire.QUERIES)
    except ProtocolError:
        return
    before = len(busy.journal)
    reply = busy.ask(query.what, **query.arguments)  # type: ignore[union-attr]
    assert isinstance(busy.sent[-1].message, Answer | Refused)
    assert reply is not None
    assert len(busy.journal) == before
