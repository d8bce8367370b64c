"""Dispatch of agents that owe answers and of calls of flows: what a fold takes along, and which worker gets it."""

from __future__ import annotations

import pytest
from core_kit import Broker, SimWorker
from scripted import FLOW, program

from rota.common.assignments import FoldAssignment
from rota.common.messages import Assign
from rota.common.work import NO_STEPS, Past

ASK = program(["await", [["ask", "counter/x", [["add", 1]]]], 1], ["await", [["ask", "counter/y", [["add", 1]]]], 1])


@pytest.fixture
def flows(broker: Broker) -> Broker:
    """A broker with the flow `trip`, too."""
    broker.producer("flows").deploy("trip", FLOW)
    return broker


def held(worker: SimWorker) -> list[FoldAssignment]:
    return [fold for order in worker.orders for fold in order.folds]


def given(worker: SimWorker, address: str) -> list[FoldAssignment]:
    """Return the folds of an address that a worker has been given so far."""
    orders = [message for message in worker.inbox if isinstance(message, Assign)]
    return [fold for order in orders for fold in order.folds if fold.address == address]


def test_a_fold_of_an_agent_takes_along_what_it_owes(broker: Broker) -> None:
    """Goal: a worker can judge a settle. Method: two turns are postponed, then one is settled."""
    alice, worker = broker.producer(), broker.worker()
    opened = []
    for steps in ([["postpone"]], [["postpone"]], [["settle", 1, 5]], []):
        alice.submit("counter/a", program(*steps))
        opened.append(held(worker)[0].open)
        worker.finish()
    assert opened == [(), (1,), (1, 2), (2,)]


def test_a_fold_of_a_call_takes_along_its_messages(flows: Broker) -> None:
    """Goal: any worker can make the guest of a call. Method: the folds of a call with two asks, step by step."""
    worker = flows.worker()
    flows.producer().submit("trip", ASK)
    flows.run()
    pasts = [fold.past for fold in given(worker, "trip/~1")]
    assert pasts[0] == Past(NO_STEPS, 1, 0)
    assert [[(step.task.turn, step.task.kind) for step in past.steps] for past in pasts if past is not None] == [
        [], [(1, "tell")], [(1, "tell"), (3, "reply")]
    ]  # fmt: skip
    last = pasts[-1]
    assert last is not None
    assert [step.path.split(" ")[:2] for step in last.steps] == [["ask", "counter/x"], ["ask", "counter/y"]]
    assert last.fuel > 0
    assert not flows.lane().open


def test_a_call_goes_to_the_worker_that_ran_it_last(flows: Broker) -> None:
    """Goal: the worker that has the guest gets the next message. Method: a call begins at the second of two workers,
    since the first had a task; later both are free, and the first would come first.
    """
    alice, first, second = flows.producer(), flows.worker("w1"), flows.worker("w2")
    alice.submit("counter/a")
    alice.submit("trip", ASK)
    assert [fold.address for fold in held(second)] == ["trip/~2"]
    second.finish()
    flows.run()
    assert len(given(second, "trip/~2")) == 3
    assert not given(first, "trip/~2")


def test_an_assignment_leaves_calls_to_the_workers_that_have_them(flows: Broker) -> None:
    """Goal: replies that come together go to the workers that have the guests. Method: twelve calls, in turns at two
    workers; their asks are answered by one agent in one fold, so that several replies fit into one assignment.
    """
    alice, workers = flows.producer(), [flows.worker(name, assignments_max=16) for name in ("w1", "w2")]
    for _ in range(12):
        alice.submit("trip", ASK)
    assert [len(worker.orders) for worker in workers] == [6, 6]
    flows.run()
    assert max(len(message.folds) for message in workers[0].inbox if isinstance(message, Assign)) > 1
    for turn in range(1, 13):
        counts = [len(given(worker, f"trip/~{turn}")) for worker in workers]
        assert counts == ([3, 0] if turn % 2 else [0, 3])


@pytest.mark.parametrize("how", ["dies", "drains"])
def test_a_call_whose_worker_is_gone_goes_elsewhere(flows: Broker, how: str) -> None:
    """Goal: a call is bound to no worker. Method: the one that ran it dies, or drains, before the next message."""
    alice, other, home = flows.producer(), flows.worker("w1"), flows.worker("w2")
    alice.submit("counter/a")
    alice.submit("trip", ASK)
    home.finish()
    if how == "dies":
        home.die()
    else:
        home.goodbye(draining=True)
    flows.run()
    assert len(given(other, "trip/~2")) == 2
    assert not flows.lane().open


def test_the_time_of_a_call_counts_its_steps(flows: Broker) -> None:
    """Goal: a worker that makes a guest again is not taken for one that hangs. Method: the time of each fold."""
    worker = flows.worker()
    flows.producer().submit("trip", ASK)
    limits = []
    while worker.orders:
        order = worker.orders[0]
        if order.folds[0].address == "trip/~1":
            limits.append(flows.core.dispatcher.assignments[order.assignment].limits_ms)
        worker.finish()
    assert limits == [steps * FLOW.limits.timeout_ms for steps in (1, 2, 3)]


def test_the_bytes_of_a_call_count(flows: Broker) -> None:
    """Goal: the messages of calls end an assignment as states do. Method: what is counted for each fold."""
    worker = flows.worker()
    flows.producer().submit("trip", ASK)
    counted = []
    while worker.orders:
        order = worker.orders[0]
        if order.folds[0].address == "trip/~1":
            assignment = flows.core.dispatcher.assignments[order.assignment]
            payload = sum(len(payload) for part in order.folds[0].segments for payload in part.payloads)
            counted.append(assignment.bytes - payload)
        worker.finish()
    assert counted[0] == 0
    assert 256 <= counted[1] < counted[2]
