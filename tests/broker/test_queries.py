"""Queries: their answers, and that no query can do harm."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import Broker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import COUNTER, program

from rota.broker.effects import QUERY, FromProducer, FromQuery, Subscribed
from rota.common import wire
from rota.common.errors import ProtocolError
from rota.common.events import LanePaused, Watching
from rota.common.messages import QUERIES, Answer, ModelNumbers, Query, Refused, SetPaused

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
    assert (status["assignments"], status["connections_known"]) == (1, 2)
    (lane,) = status["lanes"]
    facts = {
        key: lane[key] for key in ("window", "stamped", "waiting", "line", "completed", "retired", "failed", "dead")
    }
    assert facts == {
        "window": 3, "stamped": 6, "waiting": 1, "line": 3, "completed": 1, "retired": 2, "failed": 1, "dead": 1
    }  # fmt: skip
    assert busy.ask("lanes") == status["lanes"]
    assert busy.ask("workers") == status["workers"]


def test_agents_by_name_and_address(busy: Broker) -> None:
    """Goal: an address names its agent. Method: all of a name, one address, an address without an agent."""
    assert [
        [agent["address"] for agent in busy.ask("agents", name=name)] for name in ("counter", "counter/a", "counter/z")
    ] == [["counter/a", "counter/b", "counter/c"], ["counter/a"], []]


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
    assert [agent["address"] for agent in busy.ask("agents", name="counter/b")] == ["counter/b"]
    assert busy.ask("agents", name="counter/other") == []
    assert [row["name"] for row in busy.ask("deploys")] == ["counter"]
    assert busy.ask("deploys")[0]["digest"] == COUNTER.digest
    # Bound to counter, and tasks 3 and 5 of the line have no outcome yet.
    assert busy.ask("uses", digest=COUNTER.digest.hex()) == [
        {"lane": "main", "names": ["counter"], "tasks": 2, "calls": 0}
    ]
    assert busy.ask("uses", digest="00" * 32) == []
    (dead,) = busy.ask("dead")
    assert (dead["seq"], dead["kind"], dead["log"]) == (2, "error", ["why"])
    assert busy.ask("digest") == {"lane": "main", "retired": 2, "digest": busy.lane().digest}


def test_what_is_not_there(busy: Broker) -> None:
    """Goal: a typed refusal for each thing that is not there. Method: ask for one of each."""
    assert busy.ask("digest", lane="nowhere").code == "unknown_lane"
    assert busy.ask("agent", address="counter/z").code == "unknown_task"
    assert busy.ask("task", seq=7).code == "unknown_task"
    assert busy.ask("task", seq=True).code == "unknown_task"
    assert busy.ask("uses", digest="short").code == "bad_payload"
    assert busy.ask("uses").code == "bad_payload"


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


def test_an_answer_says_at_which_event_it_is_true() -> None:
    """Goal: a query followed by events has no gap and no repetition. Method: ask before, between and after
    things that are told, all in one step as well; what the answer shows is what the events up to its number told.
    """
    broker = Broker()
    producer = broker.producer()
    asked = FromQuery(b"q", Query(1, "lanes", {}))
    pauses = [FromProducer(producer.identity, SetPaused(number, "main", number % 2 == 1)) for number in (1, 2, 3)]
    broker.step(asked, pauses[0], asked, pauses[1], pauses[2], asked)
    broker.step(asked)
    answers = [sent.message for sent in broker.sent if isinstance(sent.message, Answer) and sent.socket == QUERY]
    told = {news.number: news.what for news in broker.news}
    assert list(told) == list(range(1, len(told) + 1))
    for answer in answers:
        (lane,) = answer.value
        known = [what.paused for number, what in told.items() if number <= answer.event and type(what) is LanePaused]
        assert lane["paused"] == (known[-1] if known else False)
        assert answer.boot == 1
    assert [answer.event - answers[0].event for answer in answers] == [0, 1, 3, 3]


def test_a_subscription_is_told_to_whoever_made_it() -> None:
    """Goal: a watcher knows from when on it sees all. Method: a subscription; its event has the next number."""
    broker = Broker()
    broker.step(Subscribed("worker"))
    assert [(news.number, news.what) for news in broker.news][-1:] == [(1, Watching("worker"))]


def test_a_worker_says_what_its_models_did(broker: Broker) -> None:
    """Goal: operators see where models run, why, and how full their batches are. Method: a heartbeat with numbers, the
    questions `workers` and `status`; the next heartbeat replaces them.
    """
    numbers = ModelNumbers("model:m@2", bytes(32), "cpu", "no driver", "A", 1 << 20, 4, 30, 0, 0, 0)
    worker = broker.worker("g1", pool="gpu", assignments_max=18)
    worker.heartbeat(models=(numbers,))
    (row,) = broker.ask("workers")
    assert row["models"] == [numbers._asdict()]
    assert row["assignments_max"] == 18
    assert broker.ask("status")["workers"][0]["models"] == row["models"]
    worker.heartbeat(models=())
    assert broker.ask("workers")[0]["models"] == []
