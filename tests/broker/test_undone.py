"""Tasks returned without an outcome, and live workers that do not work (broker/undone.py)."""

from __future__ import annotations

from collections.abc import Callable

from core_kit import Broker, SimWorker
from scripted import FUNCTION_CODE, MODEL_CODE, UNRUNNABLE, code, program

from rota.broker import records
from rota.common import limits, messages
from rota.common.events import TaskUndone, WorkerLeft, WorkerPreparing
from rota.common.messages import Revoke, TaskRun

MakeBroker = Callable[..., Broker]
ADD = program(["add", 1])
FAULT = program(["fault"])


# --- what cannot be done here, and what cannot be run at all ----------------------------------------


def test_a_task_that_cannot_be_done_fails_alone(make_broker: MakeBroker) -> None:
    """Goal: what one task asks too much is its own failure, whatever shared a fold with it. Method: 100 tasks of one
    agent and 40 of a function, one of each more than any worker can do, on 1, 2 and 4 workers with small folds and
    large ones: always one failure of each, the others done, one digest.
    """
    found = []
    for workers, slots in ((1, 256), (1, 3), (2, 256), (4, 8), (4, 256)):
        broker = make_broker()
        alice = broker.producer()
        alice.deploy("counter")
        alice.deploy("function", FUNCTION_CODE)
        for number in range(workers):
            broker.worker(f"w{number}", slots=slots)
        alice.submit("counter/a", *[ADD] * 10, FAULT, *[ADD] * 89, now_ms=1)
        alice.submit("function", *[ADD] * 5, FAULT, *[ADD] * 34, now_ms=2)
        broker.run()
        failed = [(item.seq, item.kind, item.message) for item in alice.results.values() if item.kind]
        assert sorted(failed) == [(seq, "faulted", "no worker could do it, in 3 tries") for seq in (11, 106)]
        assert [alice.results[seq].log for seq in (11, 106)] == [("out of memory",)] * 2
        assert len(alice.results) == 140
        assert {alice.results[seq].attempts for seq in (11, 106)} <= {3, 4, 5}  # and in the folds before it
        found.append(broker.lane().digest)
    assert found == found[:1] * 5


def test_a_fault_is_tried_elsewhere(broker: Broker) -> None:
    """Goal: a host that lacks memory is not the task's fault. Method: the first worker cannot do it, the other can;
    nobody gives it to the first again while the other is there.
    """
    alice = broker.producer()
    poor = broker.worker("poor")
    alice.submit("counter/a", ADD, ADD)
    rich = broker.worker("rich")
    poor.lie(outcomes=(), state=None, stopped="faulted", reason="out of memory")
    assert not poor.orders
    assert rich.turns() == [1]
    assert broker.told(TaskUndone, why="faulted")[0].reason == "out of memory"
    broker.run()
    assert [alice.results[seq].ok for seq in (1, 2)] == [True, True]
    assert broker.counter("counter/a") == 2


def test_a_fault_waits_for_the_worker_that_has_not_tried_it(broker: Broker) -> None:
    """Goal: it goes to another worker even if that one is busy, and others do not wait for it meanwhile. Method: the
    other worker holds all that it can when the task comes back.
    """
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE)
    poor, rich = broker.worker("poor", slots=1), broker.worker("rich", slots=1)
    alice.submit("counter/a", ADD)
    alice.submit("counter/b", ADD)
    alice.submit("counter/c", ADD)
    poor.lie(outcomes=(), state=None, stopped="faulted")
    assert (poor.turns(), rich.turns()) == ([3], [2])
    rich.finish()
    assert rich.turns() == [1]
    broker.run()
    assert broker.lane().retired == 3


def test_code_that_no_worker_can_run_is_refused(broker: Broker) -> None:
    """Goal: `refused` falls when no worker there can run the code, and hits every task of that code alike, with the
    worker's reason in the events and a fixed text in the lane. Method: two workers say so, one after the other.
    """
    alice = broker.producer()
    alice.deploy("odd", UNRUNNABLE)
    first = broker.worker("w1")
    second = broker.worker("w2")
    alice.submit("odd/a", *[ADD] * 6)
    assert first.turns()
    first.finish()
    assert not alice.results
    assert second.turns()[:1] == [1]
    broker.run()
    assert [alice.results[seq].kind for seq in range(1, 7)] == ["refused"] * 6
    assert {item.message for item in alice.results.values()} == {"no worker can run its code"}
    assert {item.log for item in alice.results.values()} == {("no such device",)}
    assert {undone.reason for undone in broker.told(TaskUndone, why="refused")} == {"no such device"}


def test_a_verdict_brings_the_last_reasons_of_workers(make_broker: MakeBroker) -> None:
    """Goal: a client learns why nobody could do a task, and the lane's digest does not. Method: three tries with other
    reasons each time, too long ones too; the log is there in results, dead letters and after a restart, the digest is
    that of a run whose workers said nothing.
    """
    found = []
    for reasons in (("no memory", "no memory", "x" * 5_000), ("first", "second", "first"), ("", "", "")):
        broker = make_broker()
        alice, worker = broker.producer(), broker.worker("w1")
        alice.deploy("counter")
        alice.submit("counter/a", ADD, now_ms=1)
        for reason in reasons:
            worker.lie(outcomes=(), state=None, stopped="faulted", reason=reason)
        told = tuple(dict.fromkeys(reason[: limits.MESSAGE_CHARS_MAX] for reason in reversed(reasons) if reason))[::-1]
        assert alice.results[1].log == told
        assert alice.results[1].message == "no worker could do it, in 3 tries"
        broker.restart()
        assert broker.lane().dead[1].failure.log == told
        assert [record.log for record in broker.recorded(records.Verdict)] == [told]
        found.append(broker.lane().digest)
    assert found == found[:1] * 3


def test_a_verdict_keeps_only_the_newest_reasons(broker: Broker) -> None:
    """Goal: the log of a verdict is bounded. Method: five workers refuse a model for five reasons."""
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    workers = [broker.worker(f"w{number}", pool="gpu") for number in range(5)]
    alice.submit("model:net", ADD)
    for number in range(5):
        (holder,) = [worker for worker in workers if worker.turns()]
        holder.lie(outcomes=(), state=None, stopped="refused", reason=f"reason {number}")
    assert alice.results[1].log == ("reason 2", "reason 3", "reason 4")


def test_code_that_one_worker_refuses_runs_on_another(broker: Broker) -> None:
    """Goal: a worker that lacks something does not decide for all. Method: it refuses a fold, another one is there."""
    alice = broker.producer()
    alice.deploy("model:net", MODEL_CODE)
    poor = broker.worker("poor", pool="gpu")
    alice.submit("model:net", *[ADD] * 2)
    held = poor.orders[0].folds[0].segments[0].turns
    rich = broker.worker("rich", pool="gpu")
    poor.lie(outcomes=(), state=None, stopped="refused", reason="no such device")
    assert held[0] in rich.turns()
    assert not set(held) & set(poor.turns())
    broker.run()
    assert all(item.ok for item in alice.results.values())


def test_a_refusal_of_the_last_worker_to_leave_waits_for_another(broker: Broker) -> None:
    """Goal: no worker present differs from no worker able. Method: the only worker refuses while it drains."""
    alice, worker = broker.producer(), broker.worker("w1")
    alice.submit("counter/a", ADD)
    worker.goodbye(draining=True)
    worker.lie(outcomes=(), state=None, stopped="refused")
    assert not alice.results
    broker.worker("w2")
    broker.run()
    assert alice.results[1].ok


# --- alive, and not at work -------------------------------------------------------------------------


def overrun(broker: Broker, worker: SimWorker) -> None:
    """Keep a worker alive without an answer until the broker has removed it."""
    for _ in range(20):
        broker.live(500)
        if worker.name not in broker.core.dispatcher.workers:
            return
    raise AssertionError(f"{worker.name} is there after 10 s")


def test_a_worker_that_does_not_come_back_is_sent_away(broker: Broker) -> None:
    """Goal: heartbeats alone do not keep work for ever, and this counts as no death. Method: a worker that lives
    and never answers; its task runs on another one.
    """
    alice = broker.producer()
    alice.deploy("counter", code("counter", timeout_ms=1_000))
    stuck = broker.worker("w1", slots=1)
    alice.submit("counter/a", ADD)
    broker.live(1_000 + limits.TIMEOUT_GRACE_MS)
    assert "w1" in broker.core.dispatcher.workers
    overrun(broker, stuck)
    assert [message.code for message in stuck.inbox if isinstance(message, messages.Refused)] == ["stuck"]
    broker.worker("w2").finish()
    assert alice.results[1].attempts == 2


def test_the_task_that_nobody_comes_back_from_is_a_timeout(broker: Broker) -> None:
    """Goal: without a death nothing is `lost`: a task that holds up each worker that has it alone ends as `timeout`,
    and what stood beside it is done. Method: workers that live and never answer while they hold it.
    """
    alice = broker.producer()
    alice.deploy("counter", code("counter", timeout_ms=1_000))
    alice.submit_runs(TaskRun.of(("counter/a", "counter/b"), 0, (ADD, ADD), None))
    for number in range(10):
        worker = broker.worker(f"w{number}")
        while worker.orders and 1 not in worker.turns():
            worker.finish()
        if 1 in worker.turns():
            overrun(broker, worker)
    broker.run()
    assert [alice.results[seq].kind for seq in (1, 2)] == ["timeout", ""]
    assert [verdict.failure for verdict in broker.recorded(records.Verdict)] == ["timeout"]


def test_a_worker_that_says_it_is_stuck_takes_nothing(broker: Broker) -> None:
    """Goal: an executor that does not come out of a task costs that task a `timeout` and nobody else anything. Method:
    the worker says so, answers what is done, and later says that it is free.
    """
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE)
    worker = broker.worker("w1", slots=8)
    alice.submit("function", *[ADD] * 4)
    first, second = worker.orders
    worker.heartbeat(stuck=(first.assignment,))
    assert [message.assignment for message in worker.inbox if isinstance(message, Revoke)] == [second.assignment]
    worker.lie(outcomes=(), state=None, stopped="timeout")
    assert alice.results[1].kind == "timeout"
    assert not worker.orders
    broker.live(10_000)  # without a word of it: the kit's heartbeats carry what was said last
    assert not worker.orders
    assert broker.ask("workers")[0]["stuck"] == [first.assignment]
    worker.heartbeat(stuck=())
    broker.run()
    assert [alice.results[seq].ok for seq in (2, 3, 4)] == [True] * 3
    assert [verdict.failure for verdict in broker.recorded(records.Verdict)] == ["timeout"]


def test_the_time_of_a_task_does_not_run_while_its_code_is_compiled(broker: Broker) -> None:
    """Goal: compiling is not running, is seen, and does not last for ever. Method: a worker that says for a minute
    that it prepares the code of a task with one second to run.
    """
    alice = broker.producer()
    alice.deploy("counter", code("counter", timeout_ms=1_000))
    worker = broker.worker("w1")
    alice.submit("counter/a", ADD)
    number = worker.orders[0].assignment
    worker.heartbeat(preparing=(messages.Preparation(number, "counter/a", 0),))
    assert broker.told(WorkerPreparing, targets=("counter/a",))
    broker.live(60_000)
    assert broker.ask("workers")[0]["preparing"] == [["counter/a", 0]]
    worker.heartbeat(preparing=())
    assert broker.told(WorkerPreparing, targets=())
    worker.finish()
    assert alice.results[1].attempts == 1
    alice.submit("counter/a", ADD)
    worker.heartbeat(preparing=(messages.Preparation(worker.orders[0].assignment, "counter/a", 0),))
    broker.live(limits.PREPARE_MS_MAX + 10_000, step_ms=1_000)
    assert broker.told(WorkerLeft, worker="w1")
