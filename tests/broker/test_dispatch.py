"""Dispatch: which tasks share an assignment, which worker gets it, and that no task is lost."""

from __future__ import annotations

import pytest
from core_kit import Broker, SimWorker
from scripted import FUNCTION_CODE, MODEL_CODE, code, program

from rota.common import limits
from rota.common.messages import Revoke, TaskRun

ADD = program(["add", 1])


def test_short_tasks_travel_together_once_their_pace_is_known(broker: Broker) -> None:
    """Goal: assignments grow to about 10 ms of work. Method: a worker that reports 1 ms per order; watch the sizes."""
    alice, worker = broker.producer(), broker.worker()
    alice.submit_runs(TaskRun.of(tuple(f"counter/{key}" for key in range(900)), 0, (ADD,) * 900, None))
    sizes = []
    while worker.orders:
        sizes.append(sum(len(part.turns) for fold in worker.orders[0].folds for part in fold.segments))
        worker.finish()
    assert sizes[0] == 4
    assert max(sizes) > 30
    assert max(sizes) <= limits.FOLD_TASKS_MAX
    assert sum(sizes) == 900


def test_long_tasks_travel_alone(broker: Broker) -> None:
    """Goal: a task that takes longer than an assignment should does not hold others up. Method: report 50 ms each."""
    alice, worker = broker.producer(), broker.worker()
    alice.submit_runs(TaskRun.of(tuple(f"counter/{key}" for key in range(20)), 0, (ADD,) * 20, None))
    for _ in range(3):
        order = worker.orders[0]
        worker.forget(order.assignment)
        tasks = sum(len(part.turns) for fold in order.folds for part in fold.segments)
        worker.say(worker.compute(order)._replace(elapsed_us=50_000 * tasks))
    assert [len(order.folds) for order in worker.orders] == [1, 1]


def test_credit_in_tasks(broker: Broker) -> None:
    """Goal: a worker never holds more tasks than its slots. Method: slots 3."""
    alice, worker = broker.producer(), broker.worker(slots=3)
    alice.submit_runs(TaskRun.of(tuple(f"counter/{key}" for key in range(20)), 0, (ADD,) * 20, None))
    while worker.orders:
        assert len(worker.turns()) <= 3
        worker.finish()
    assert broker.lane().retired == 20


def test_credit_in_bytes_counts_states(broker: Broker) -> None:
    """Goal: large states and payloads end an assignment, and one task always fits. Method: agents of 100 kB each, a
    worker that takes 250 kB at once; every fold has a task.
    """
    alice, worker = broker.producer(), broker.worker(bytes_max=250_000)
    targets = tuple(f"counter/{key}" for key in range(8))
    alice.submit_runs(TaskRun.of(targets, 0, (program(["grow", 100_000]),) * 8, None))
    broker.run()
    alice.submit_runs(TaskRun.of(targets, 0, (ADD,) * 8, None))
    while worker.orders:
        for order in worker.orders:
            assert all(part.turns for fold in order.folds for part in fold.segments)
        held = sum(len(fold.state or b"") for order in worker.orders for fold in order.folds)
        assert held <= 250_000 + 100_001
        worker.finish()
    assert broker.lane().retired == 16


def test_work_is_shared(broker: Broker) -> None:
    """Goal: many workers all get something, and functions of one name run side by side. Method: 40 tasks, 4 workers."""
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE)
    for number in range(4):
        broker.worker(f"w{number}")
    alice.submit("function", *[ADD] * 40)
    assert all(worker.orders for worker in broker.workers.values())
    broker.run()
    assert broker.lane().retired == 40


def test_lanes_take_turns(broker: Broker) -> None:
    """Goal: a lane with much work does not starve another. Method: 300 tasks in one, then one in another."""
    alice, worker = broker.producer(), broker.worker(slots=4)
    alice.open_lane("l", deploys_from="main")
    alice.submit("counter/a", *[ADD] * 300)
    alice.submit("counter/b", ADD, lane="l")
    for _ in range(4):
        worker.finish()
    assert broker.lane("l").retired == 1
    broker.run()


def test_a_suspect_is_not_starved_by_other_lanes(broker: Broker) -> None:
    """Goal: a task whose worker died gets its turn under steady load elsewhere. Method: one worker; a suspect in one
    lane, always something ready in another.
    """
    alice = broker.producer()
    alice.open_lane("l", deploys_from="main")
    first = broker.worker("w1")
    alice.submit("counter/a", ADD)
    first.die()
    alice.submit("counter/b", *[ADD] * 10, lane="l")
    broker.worker("w2", slots=2)
    for round_number in range(20):
        alice.submit(f"counter/{round_number}", *[ADD] * 2, lane="l")
        for worker in list(broker.workers.values()):
            worker.finish()
        if broker.lane().retired:
            break
    assert broker.lane().retired == 1
    broker.run()


def test_a_function_s_queue_may_end_while_a_new_one_waits(broker: Broker) -> None:
    """Goal: no task of a function is forgotten. Method: the invariants, after its queue ended and began again while an
    assignment was out.
    """
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE)
    worker = broker.worker(slots=1)
    alice.submit("function", ADD)
    alice.submit("function", ADD)
    worker.finish()
    broker.core.check_invariants()
    alice.submit("function", ADD)
    broker.core.check_invariants()
    broker.run()
    assert broker.lane().retired == 3


def test_a_fold_ends_where_the_code_changes(broker: Broker) -> None:
    """Goal: one fold has one code. Method: a redeploy between two tasks of one agent, both in the line."""
    alice = broker.producer()
    alice.submit("counter/a", ADD)
    alice.deploy("counter", code("new"))
    alice.submit("counter/a", ADD)
    worker = broker.worker()
    assert worker.turns() == [1]
    worker.finish()
    assert worker.turns() == [2]
    assert worker.orders[0].codes == (code("new"),)
    broker.run()


def test_tasks_that_were_caught_everywhere_cost_nothing(broker: Broker) -> None:
    """Goal: ready queues that hold only caught tasks are passed over, however many. Method: cancel one task in each of
    very many lanes before a worker comes.
    """
    alice = broker.producer()
    lanes = limits.LANES_MAX - 1
    for number in range(lanes):
        alice.open_lane(f"l{number}", deploys_from="main", bytes_max=1 << 20)
        alice.submit("counter/a", ADD, lane=f"l{number}", wait=False)
    for seq in range(1, lanes):
        alice.cancel(seq)
    worker = broker.worker()
    assert len(worker.turns()) == 1
    broker.run()


def test_numbers_of_orders_fit_the_wire_after_very_many_starts(broker: Broker) -> None:
    """Goal: a run folder does not wear out. Method: open the millionth epoch and hand out work; the kit sends it
    through the wire.
    """
    alice = broker.producer()
    broker.core.world.boot = 1_000_000
    dispatcher = type(broker.core.dispatcher)(1_000_000)
    broker.core.dispatcher = dispatcher
    worker = broker.worker()
    alice.submit("counter/a", ADD)
    assert worker.orders
    broker.run()
    broker.core.world.boot = 1


def test_what_waits_behind_a_slow_head_is_bounded(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: outcomes that cannot retire do not fill the memory, and nothing stalls. Method: one worker keeps the first
    task; another does tasks of 1,000 bytes each until it gets no more, then the first task comes.
    """
    monkeypatch.setattr("rota.broker.dispatch.UNRETIRED_BYTES_MAX", 10_000)
    alice, slow = broker.producer(), broker.worker("slow")
    alice.submit("counter/first", ADD)
    assert slow.turns() == [1]
    worker = broker.worker("fast")
    alice.submit_runs(
        TaskRun.of(tuple(f"counter/{key}" for key in range(200)), 0, (program(["size", 1_000]),) * 200, None)
    )
    while worker.orders:
        worker.finish()
    held = broker.lane().budget.unretired_bytes
    assert 10_000 < held < 10_000 + limits.ASSIGNMENTS_PER_WORKER * limits.FOLD_TASKS_MAX * 1_100 / 4
    assert broker.lane().retired == 0
    slow.finish()
    broker.run()
    assert broker.lane().retired == 201
    assert broker.lane().budget.unretired_bytes == 0


# --- workers that advance many calls together ---------------------------------------------------------------------


def _held(worker: SimWorker) -> list[int]:
    """How many tasks each of its orders has."""
    return [sum(len(part.turns) for fold in order.folds for part in fold.segments) for order in worker.orders]


def test_a_worker_holds_as_many_assignments_as_it_says(broker: Broker) -> None:
    """Goal: a worker that advances many calls together gets them all at once, one each while nobody knows how long they
    take, and the next when one ends. Method: one GPU worker with 5 assignments; calls that take seconds.
    """
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    worker = broker.worker("g1", pool="gpu", assignments_max=5)
    alice.submit("model:net", *[ADD] * 40)
    assert _held(worker) == [1] * 5
    last = worker.orders[-1]  # they end in any order
    worker.forget(last.assignment)
    worker.say(worker.compute(last)._replace(elapsed_us=3_000_000))
    assert _held(worker) == [1] * 5
    assert last not in worker.orders
    broker.run()
    assert broker.lane().retired == 40


def test_quick_calls_travel_together_however_many_assignments_a_worker_takes(broker: Broker) -> None:
    """Goal: places for long calls do not cut short ones into small messages. Method: 1 us per call, 100 waiting; each
    assignment has half of what waits, as for a worker that takes two.
    """
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    worker = broker.worker("g1", pool="gpu", assignments_max=5)
    alice.submit("model:net", ADD)
    order = worker.orders[0]
    worker.forget(order.assignment)
    worker.say(worker.compute(order)._replace(elapsed_us=1))
    alice.submit("model:net", *[ADD] * 100)
    assert _held(worker) == [50, 25, 13, 6, 3]
    broker.run()
    assert broker.lane().retired == 101


def test_many_assignments_stay_within_the_bytes_of_a_worker(broker: Broker) -> None:
    """Goal: what a worker holds is bounded in bytes, however many assignments it takes. Method: calls of 400 bytes for
    one that takes 1,000.
    """
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    worker = broker.worker("g1", pool="gpu", assignments_max=64, bytes_max=1_000)
    alice.submit("model:net", *[ADD.ljust(400)] * 40)
    assert _held(worker) == [1] * 3
    broker.run()
    assert broker.lane().retired == 40


def test_a_cancelled_call_frees_its_place(broker: Broker) -> None:
    """Goal: a cancel of a running call stops that call only, and the next one takes its place. Method: cancel the third
    of five.
    """
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    worker = broker.worker("g1", pool="gpu", assignments_max=5)
    alice.submit("model:net", *[ADD] * 7)
    third = worker.orders[2]
    assert alice.cancel(3) is True
    assert [one.assignment for one in worker.inbox if isinstance(one, Revoke)] == [third.assignment]
    assert sorted(worker.turns()) == [1, 2, 4, 5, 6]
    broker.run()
    assert [alice.results[seq].ok for seq in range(1, 8)] == [True, True, False, True, True, True, True]


def test_the_one_of_many_calls_that_kills_is_found(broker: Broker) -> None:
    """Goal: a death with many assignments blames none of them; each runs alone, and only the killer is lost. Method:
    five at once, the fourth kills.
    """
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    worker = broker.worker("g1", pool="gpu", assignments_max=5)
    alice.submit("model:net", ADD, ADD, ADD, program(["die"]), ADD)
    assert len(worker.orders) == 5
    worker.die()
    for number in range(2, 6):
        worker = broker.worker(f"g{number}", pool="gpu", assignments_max=5)
        while worker.orders:
            assert len(worker.turns()) == 1, "a suspect runs alone"
            worker.finish()
    broker.run()
    outcomes = [alice.results[seq] for seq in range(1, 6)]
    assert [one.kind for one in outcomes] == ["", "", "", "lost", ""]
    assert outcomes[3].attempts == 1 + limits.POISON_DEATHS_MAX


def test_calls_of_a_dead_worker_run_again_in_their_order(broker: Broker) -> None:
    """Goal: a death does not make the oldest call the last one. Method: five assignments, then another worker; and one
    that forgot them all.
    """
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    worker = broker.worker("g1", pool="gpu", assignments_max=5)
    alice.submit("model:net", *[ADD] * 5)
    worker.orders.clear()
    worker.register()
    assert worker.turns() == [1, 2, 3, 4, 5]
    worker.die()
    heir = broker.worker("g2", pool="gpu")
    ran: list[int] = []
    while heir.orders:
        ran += heir.turns()
        heir.finish()
    assert ran == [1, 2, 3, 4, 5]
