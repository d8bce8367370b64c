"""Workers in the broker: joining, silence, death, lies, and late answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from core_kit import Broker, SimWorker
from scripted import MODEL_CODE, code, program

from rota.broker import records
from rota.common import limits, messages
from rota.common.digests import digest
from rota.common.events import OutcomesDiffer, WorkerExpelled, WorkerJoined, WorkerLeft
from rota.common.messages import Completed, Registered, Revoke, TaskRun
from rota.common.work import Done, Emit, Failed, Provenance, TensorRef

MakeBroker = Callable[..., Broker]
ADD = program(["add", 1])


def last_registered(worker: SimWorker) -> Registered:
    return [message for message in worker.inbox if isinstance(message, Registered)][-1]


# --- coming and going -----------------------------------------------------------------------------


def test_a_worker_registers_and_gets_work(broker: Broker) -> None:
    """Goal: registration is answered with boot and heartbeat, and work follows. Method: submit first, join later."""
    broker.producer().submit("counter/a", ADD)
    worker = broker.worker()
    assert last_registered(worker) == Registered(1, 1_000, ())
    assert worker.turns() == [1]
    assert broker.told(WorkerJoined, worker="w1")


def test_a_completion_says_who_when_and_how_long(make_broker: MakeBroker) -> None:
    """Goal: the journal tells the timing of a task, and no digest depends on it. Method: the same task twice, by other
    workers at other times; the record names them, the digests are equal.
    """
    found = []
    for name, wait_ms in (("w1", 0), ("w2", 700)):
        broker = make_broker()
        alice, worker = broker.producer(), broker.worker(name)
        alice.deploy("counter")
        alice.submit("counter/a", ADD, now_ms=7)
        broker.live(wait_ms)
        worker.say(worker.compute(worker.orders.popleft())._replace(elapsed_us=100 + wait_ms))
        (record,) = broker.recorded(records.Completion)
        assert record[:4] == ("main", broker.now_ms, name, 100 + wait_ms)
        found.append((broker.now_ms, broker.lane().digest))
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]


def test_a_reconnect_keeps_what_the_worker_holds(broker: Broker) -> None:
    """Goal: after a reconnect work goes on where it was; what got lost on the way is handed out again, what is no
    longer wanted is dropped. Method: register again naming one of two orders, and an invented one.
    """
    alice = broker.producer()
    worker = broker.worker(slots=2)
    alice.submit("counter/a", ADD)
    alice.submit("counter/b", ADD)
    kept, lost = worker.orders
    worker.forget(lost.assignment)
    worker.identity = b"new connection"
    broker.workers = {worker.identity: worker}
    worker.register(holds=(kept.assignment, 99))
    assert last_registered(worker).dropped == (99,)
    assert worker.turns() == [1, 2]
    broker.run()
    assert (broker.counter("counter/a"), broker.counter("counter/b")) == (1, 1)
    assert broker.core.late_completions == 0


def test_a_message_from_the_old_connection_is_late(broker: Broker) -> None:
    """Goal: a worker's older connection cannot answer for it. Method: answer from there after a reconnect."""
    alice, worker = broker.producer(), broker.worker()
    alice.submit("counter/a", ADD)
    answer = worker.compute(worker.orders[0])
    old, worker.identity = worker.identity, b"new connection"
    broker.workers[worker.identity] = worker
    worker.register()
    worker.identity = old
    worker.say(answer)
    assert broker.core.late_completions == 1
    assert broker.lane().retired == 0


def test_another_process_under_a_name_replaces_the_first(broker: Broker) -> None:
    """Goal: a restarted worker is not taken for the dead one. Method: the same name with another pid."""
    alice = broker.producer()
    broker.worker("w1", pid=1)
    alice.submit("counter/a", ADD)
    second = broker.worker("w1", pid=2, identity=b"second")
    assert second.turns() == [1]
    assert len(broker.core.dispatcher.workers) == 1
    assert broker.told(WorkerLeft, worker="w1")


def test_work_of_an_older_boot_is_not_taken(broker: Broker) -> None:
    """Goal: an answer to an order of the broker before this one changes nothing. Method: answer across a restart."""
    alice, worker = broker.producer(), broker.worker()
    alice.submit("counter/a", ADD)
    answer = worker.compute(worker.orders[0])
    broker.restart()
    worker.say(answer)
    assert broker.core.late_completions == 1
    assert broker.lane().retired == 0
    worker.finish()
    assert broker.counter("counter/a") == 1


def test_a_worker_of_an_older_boot_is_told_to_drop_what_it_holds(broker: Broker) -> None:
    """Goal: what was given before a restart is not wanted any more. Method: register with a hold of then."""
    alice, worker = broker.producer(), broker.worker()
    alice.submit("counter/a", ADD)
    held = worker.orders[0].assignment
    broker.restart()
    worker.register(boot=1, holds=(held,))
    assert last_registered(worker).dropped == (held,)


def test_an_unknown_worker_is_asked_to_register(broker: Broker) -> None:
    """Goal: a heartbeat finds out that the broker forgot. Method: restart without registration."""
    worker = broker.worker()
    del broker.workers[worker.identity]
    broker.restart()
    broker.workers[worker.identity] = worker
    worker.heartbeat()
    assert "w1" in broker.core.dispatcher.workers


def test_a_draining_worker_gets_nothing_and_may_finish(broker: Broker) -> None:
    """Goal: Goodbye(draining) stops the flow, Goodbye gives back the rest. Method: two workers, one says goodbye."""
    alice = broker.producer()
    first = broker.worker("w1", slots=1)
    alice.submit("counter/a", ADD)
    alice.submit("counter/b", ADD)
    first.goodbye(draining=True)
    first.finish()
    assert not first.orders
    assert broker.lane().retired == 1
    second = broker.worker("w2")
    assert second.turns() == [2]
    second.goodbye(draining=False)
    assert list(broker.core.dispatcher.workers) == ["w1"]
    third = broker.worker("w3")
    third.finish()
    assert broker.counter("counter/b") == 1
    assert not any(task.trouble for task in broker.core.world.results.kept())


def test_a_local_worker_s_process_is_watched(broker: Broker) -> None:
    """Goal: the shell is told which process to watch and when to stop. Method: register from the broker's host."""
    broker.core.host = "elsewhere"
    worker = broker.worker("w1", pid=77)
    assert broker.watched == {"w1": 77}
    worker.die()
    assert broker.watched == {"w1": 0}


# --- silence --------------------------------------------------------------------------------------


def test_a_silent_worker_is_given_up(broker: Broker) -> None:
    """Goal: three missed heartbeats are death, and its work goes elsewhere. Method: one of two workers falls silent."""
    alice = broker.producer()
    silent = broker.worker("w1", slots=1)
    alice.submit("counter/a", ADD)
    other = broker.worker("w2")
    silent.leave_silently()
    broker.live(3_000)
    assert "w1" in broker.core.dispatcher.workers
    broker.live(500)
    assert list(broker.core.dispatcher.workers) == ["w2"]
    other.finish()
    assert broker.counter("counter/a") == 1


def test_a_late_broker_blames_nobody(broker: Broker) -> None:
    """Goal: a broker that was stopped for a while does not take its own absence for the workers'. Method: a jump of
    an hour between two ticks, with work out whose time limit is over by then.
    """
    alice, worker = broker.producer(), broker.worker()
    alice.deploy("counter", code("counter", timeout_ms=100))
    broker.advance(100)
    alice.submit("counter/a", ADD)
    broker.advance(3_600_000)
    assert list(broker.core.dispatcher.workers) == ["w1"]
    worker.heartbeat()
    broker.advance(500)
    worker.finish()
    assert alice.results[1].attempts == 1


# --- verdicts -------------------------------------------------------------------------------------


def test_a_task_out_of_time_is_judged(broker: Broker) -> None:
    """Goal: `timeout` is a recorded verdict; what was before and after it in the fold is not touched. Method: the
    middle one of three hangs.
    """
    alice = broker.producer()
    alice.submit("counter/a", ADD, program(["hang"]), ADD)
    broker.worker()
    broker.run()
    assert [alice.results[seq].kind for seq in (1, 2, 3)] == ["", "timeout", ""]
    assert "10000 ms" in alice.results[2].message
    assert broker.counter("counter/a") == 2
    assert [(verdict.seq, verdict.failure) for verdict in broker.recorded(records.Verdict)] == [(2, "timeout")]


def test_an_interrupted_fold_goes_on_elsewhere(broker: Broker) -> None:
    """Goal: `interrupted` is no outcome: the rest runs again. Method: a worker that stops after the first task."""
    alice = broker.producer()
    worker = broker.worker("w1")
    alice.submit("counter/a", ADD, ADD, ADD)
    outcomes = worker.compute(worker.orders[0]).folds[0].outcomes
    worker.lie(outcomes=outcomes[:1], state=b"1", stopped="interrupted")
    assert broker.lane().retired == 1
    broker.run()
    assert broker.counter("counter/a") == 3


def test_death_by_itself_is_no_outcome(broker: Broker) -> None:
    """Goal: a task runs again elsewhere as often as workers die beside it. Method: five workers die, the sixth ends
    the work; of all that they held only what ran alone is counted, and nothing was alone three times.
    """
    alice = broker.producer()
    alice.submit("counter/a", *[ADD] * 3)
    for number in range(3):
        worker = broker.worker(f"w{number}")
        worker.die()
    broker.worker("last")
    broker.run()
    assert broker.counter("counter/a") == 3


def test_only_the_task_that_runs_alone_is_counted(broker: Broker) -> None:
    """Goal: the poison cap catches the right task. Method: four agents in one order; one of them kills each worker.
    The others end well, the poison is lost after three deaths alone.
    """
    alice = broker.producer()
    targets = ("counter/a", "counter/b", "counter/c", "counter/d")
    alice.submit_runs(TaskRun.of(targets, 0, (ADD, program(["die"]), ADD, ADD), None))
    workers = 0
    while broker.lane().line_count:
        if not broker.workers:
            workers += 1
            broker.worker(f"w{workers}")
        broker.run()
    assert [alice.results[seq].kind for seq in (1, 2, 3, 4)] == ["", "lost", "", ""]
    assert workers <= 1 + limits.POISON_DEATHS_MAX + 1  # one died beside others, the last one ended the work
    assert alice.results[2].message == "3 workers died running it alone"
    assert len(broker.recorded(records.Verdict)) == 1


def test_how_workers_died_is_not_in_the_digest(make_broker: MakeBroker) -> None:
    """Goal: neither when a verdict fell nor how its workers ended can be seen in a lane. Method: the same poison, its
    workers dead at once or silent, for some time or for longer.
    """
    digests = []
    for tick_ms in (0, 500, 700):
        broker = make_broker()
        alice = broker.producer()
        alice.deploy("counter")
        alice.submit("counter/a", ADD)
        while not alice.results:
            worker = broker.worker(f"w{len(broker.news)}")
            if not tick_ms:
                worker.die()
            worker.leave_silently()
            for _ in range(10):
                broker.advance(tick_ms)
        assert alice.results[1].kind == "lost"
        digests.append(broker.lane().digest)
    assert digests == digests[:1] * 3


def test_a_suspect_runs_alone_on_an_idle_worker(broker: Broker) -> None:
    """Goal: after a death its tasks travel one by one, with nothing else on that worker. Method: look at the orders."""
    alice = broker.producer()
    first = broker.worker("w1")
    alice.submit_runs(TaskRun.of(("counter/a", "counter/b", "counter/c"), 0, (ADD,) * 3, None))
    held = len(first.turns())
    assert held > 1
    first.die()
    second = broker.worker("w2")
    for _ in range(held):
        assert len(second.orders) == 1
        assert len(second.turns()) == 1
        second.finish()
    broker.run()
    assert broker.lane().retired == 3


# --- lies -----------------------------------------------------------------------------------------


def done(**changes: Any) -> Done:
    return Done(b"[1]", digest(b"1"), (), (), 1, (), 1)._replace(**changes)


TELL = Emit("counter/b", b"[]", 0, "tell", (), 0)
LIES: dict[str, dict[str, Any]] = {
    "too few outcomes": {"outcomes": ()},
    "too many outcomes": {"outcomes": (done(), done())},
    "all done, but stopped": {"stopped": "timeout"},
    "a state that is not the digest's": {"outcomes": (done(),), "state": b"2"},
    "a digest without a state": {"outcomes": (done(),), "state": None},
    "a state of another size": {"outcomes": (done(state_bytes=0),), "state": b"1"},
    "a size without a state": {"outcomes": (done(state_digest=None),), "state": None},
    "more growth than allowed": {"outcomes": (done(emits=(TELL._replace(payload=bytes(1 << 20)),)),), "state": b"1"},
    "a state without a digest": {"outcomes": (done(state_digest=None),), "state": b"1"},
    "more emits than allowed": {"outcomes": (done(emits=(TELL,) * 65),), "state": b"1"},
    "a timer for another": {"outcomes": (done(emits=(TELL._replace(kind="timer"),)),), "state": b"1"},
    "a delayed tell": {"outcomes": (done(emits=(TELL._replace(delay_ms=5),)),), "state": b"1"},
    "a provenance of an agent": {
        "outcomes": (done(),),
        "state": b"1",
        "provenance": Provenance("recorded", "cpu", bytes(32)),
    },
    "a verdict": {"outcomes": (Failed("lost", "", (), 0),), "state": None},
    "a failure of other code": {"outcomes": (Failed("bad_input", "", (), 0),), "state": None},
    "a failure with a state": {"outcomes": (Failed("error", "", (), 0),), "state": b"1"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_liar_is_expelled(lie: str, broker: Broker) -> None:
    """Goal: an answer that is not possible is not applied; its worker is sent away and the task runs elsewhere.
    Method: one lie of each kind.
    """
    alice = broker.producer()
    liar = broker.worker("liar")
    alice.submit("counter/a", ADD)
    liar.lie(**LIES[lie])
    assert broker.told(WorkerExpelled, worker="liar")
    assert isinstance(liar.inbox[-1], messages.Refused)
    assert broker.lane().retired == 0
    assert not broker.core.dispatcher.workers
    broker.worker("honest")
    broker.run()
    assert broker.counter("counter/a") == 1


SETTLE = Emit("counter/a", msgpack.packb(["error", "no: sorry"]), 0, "failure", (), 0, 1)
SETTLE_LIES: dict[str, dict[str, Any]] = {
    "kind": {"payload": msgpack.packb(["cancelled", "cancelled on request"])},
    "no kind": {"payload": msgpack.packb(["nonsense", ""])},
    "no texts": {"payload": msgpack.packb([1, 2])},
    "no array": {"payload": b""},
    "a long text": {"payload": msgpack.packb(["error", "x" * (limits.MESSAGE_CHARS_MAX + 1)])},
    "tensors": {"tensors": (TensorRef(bytes(32), "uint8", (1,)),)},
    "priority": {"priority": 1},
    "target": {"target": "counter/b"},
    "delay": {"delay_ms": 1},
    "turn": {"answers": 2},
    "no turn": {"answers": 0},
}


@pytest.mark.parametrize("lie", ["", *SETTLE_LIES])
def test_a_liar_settles_only_as_an_agent_can(lie: str, broker: Broker) -> None:
    """Goal: no worker can say that an ask was cancelled, expired or lost, or leave what no guest can. Method: one
    failure that is right, and one wrong in each field; the ask then stays open.
    """
    alice, liar = broker.producer(), broker.worker("liar")
    alice.submit("counter/a", program(["postpone"]), kind="ask")
    liar.finish()
    alice.submit("counter/a", ADD)
    liar.lie(outcomes=(done(emits=(SETTLE._replace(**SETTLE_LIES.get(lie, {})),)),), state=b"1")
    assert bool(broker.told(WorkerExpelled, worker="liar")) == bool(lie)
    assert list(broker.lane().open) == ([1] if lie else [])
    assert 1 in alice.results or lie


def test_a_wrong_number_of_folds_is_a_lie(broker: Broker) -> None:
    """Goal: one answer per fold. Method: none at all."""
    alice, liar = broker.producer(), broker.worker("liar")
    alice.submit("counter/a", ADD)
    liar.say(Completed("liar", liar.orders[0].assignment, (), 1))
    assert broker.told(WorkerExpelled, worker="liar")


def test_state_of_a_function_is_a_lie(broker: Broker) -> None:
    """Goal: what keeps no state cannot get one. Method: a model's result with a state."""
    alice, liar = broker.producer(), broker.worker("liar", pool="gpu")
    alice.deploy("model:net", MODEL_CODE)
    alice.submit("model:net", ADD)
    liar.lie(outcomes=(done(),), state=b"1")
    assert broker.told(WorkerExpelled, worker="liar")


def test_a_model_that_traps_is_a_lie(broker: Broker) -> None:
    """Goal: code fails only in the ways that its kind has. Method: a trap of a model, which has no sandbox."""
    alice, liar = broker.producer(), broker.worker("liar", pool="gpu")
    alice.deploy("model:net", MODEL_CODE)
    alice.submit("model:net", ADD)
    liar.lie(outcomes=(Failed("trap", "", (), 0),), state=None)
    assert broker.told(WorkerExpelled, worker="liar")
    assert broker.lane().retired == 0


def test_nobody_answers_for_another(broker: Broker) -> None:
    """Goal: an order can be answered only by who holds it. Method: another worker, and one that never registered."""
    alice = broker.producer()
    holder = broker.worker("w1")
    alice.submit("counter/a", ADD)
    other = broker.worker("w2")
    other.say(holder.compute(holder.orders[0])._replace(worker="w2"))
    stranger = SimWorker(broker, "w3")
    stranger.say(holder.compute(holder.orders[0])._replace(worker="w3"))
    stranger.say(holder.compute(holder.orders[0])._replace(worker="w1"))
    assert broker.lane().retired == 0
    assert broker.core.late_completions == 3
    holder.finish()
    assert broker.counter("counter/a") == 1


# --- too late -------------------------------------------------------------------------------------


def given_up(broker: Broker, *payloads: bytes, target: str = "counter/a") -> Completed:
    """A worker is removed while holding an order, and another does the work; returns the first one's answer."""
    alice = broker.producer()
    slow = broker.worker("slow", slots=8)
    alice.submit(target, *payloads)
    answer = slow.compute(slow.orders[0])
    slow.die()
    broker.worker("quick")
    broker.run()
    return answer


def test_a_late_answer_that_agrees_is_counted_only(broker: Broker) -> None:
    """Goal: work done twice is normal. Method: the first worker answers after the second."""
    answer = given_up(broker, ADD, ADD)
    SimWorker(broker, "slow").say(answer)
    assert (broker.core.late_completions, broker.core.world.divergences) == (1, 0)


def test_a_late_answer_that_differs_is_a_divergence(broker: Broker) -> None:
    """Goal: the first completion stands, the difference is reported and journaled. Method: change the late result."""
    answer = given_up(broker, *[ADD] * 4)
    fold = answer.folds[0]
    changed = fold._replace(outcomes=(fold.outcomes[0], fold.outcomes[1]._replace(result=b"other")))
    before = broker.lane().digest
    SimWorker(broker, "slow").say(answer._replace(folds=(changed,)))
    (report,) = broker.recorded(records.Diverged)
    assert (report.lane, report.turn, report.address, report.worker) == ("main", 2, "counter/a", "slow")
    assert report.kept != report.other
    assert broker.told(OutcomesDiffer, turn=2)
    assert broker.lane().digest == before
    assert broker.core.world.divergences == 1


def test_a_late_answer_is_compared_once(broker: Broker) -> None:
    """Goal: a repeated late answer is not a second divergence. Method: send it twice."""
    answer = given_up(broker, ADD)
    fold = answer.folds[0]
    changed = answer._replace(folds=(fold._replace(outcomes=(fold.outcomes[0]._replace(result=b"other"),)),))
    SimWorker(broker, "slow").say(changed)
    SimWorker(broker, "slow").say(changed)
    assert broker.core.world.divergences == 1


def test_what_followed_a_caught_task_is_not_compared(broker: Broker) -> None:
    """Goal: a worker that went on from a task that was cancelled meanwhile did nothing wrong. Method: it answers the
    whole fold after the cancel; what comes after the caught task differs of necessity.
    """
    alice, worker = broker.producer(), broker.worker()
    alice.submit("counter/a", *[ADD] * 6)
    assert worker.turns() == [1, 2, 3]
    answer = worker.compute(worker.orders[0])
    alice.cancel(2)
    assert any(isinstance(message, Revoke) for message in worker.inbox)
    broker.run()
    worker.say(answer)
    assert broker.core.late_completions == 1
    assert broker.core.world.divergences == 0


def test_provenance_reaches_the_producer(broker: Broker) -> None:
    """Goal: each result says where it came from, after a restart too. Method: a model result with its class."""
    alice, worker = broker.producer(), broker.worker("g", pool="gpu")
    alice.deploy("model:net", MODEL_CODE)
    alice.submit("model:net", ADD)
    source = Provenance("bitwise", "CPU", digest(b"fingerprint"), "B", "no driver")
    worker.lie(provenance=source)
    assert alice.results[1].provenance == source
    broker.restart()
    alice.results.clear()
    alice.await_results(1)
    assert alice.results[1].provenance == source
