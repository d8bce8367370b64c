"""Requests of producers: inputs, answers, refusals, and idempotency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from core_kit import Broker
from scripted import COUNTER, FUNCTION_CODE, MODEL_CODE, code, program

from rota.broker import records
from rota.common import errors, limits, messages
from rota.common.events import JournalChanged, TaskFailure
from rota.common.messages import Accepted, Answer, LaneSettings, Prepared, Refused, TaskRun

MakeBroker = Callable[..., Broker]
ADD = program(["add", 1])


def refused(reply: Any) -> str:
    """The code of a refusal."""
    assert isinstance(reply, Refused), reply
    assert reply.code in errors.CODES
    return reply.code


# --- conversations --------------------------------------------------------------------------------


def test_hello_is_answered_with_the_boot(broker: Broker) -> None:
    """Goal: a producer can tell a new broker from an old one. Method: Hello before and after a restart."""
    alice = broker.producer()
    broker.restart()
    welcomes = [message for message in alice.inbox if isinstance(message, messages.Welcome)]
    assert [welcome.boot for welcome in welcomes] == [1, 2]


def test_requests_need_a_hello(broker: Broker) -> None:
    """Goal: nothing takes effect for an unknown connection. Method: every request before Hello."""
    alice = broker.producer()
    alice.vanish()
    broker.producers[alice.identity] = alice
    run = TaskRun.of("counter/a", 0, (ADD,), None)
    for request in (
        messages.Submit(1, "main", (run,), True, None, None),
        messages.OpenLane(2, "l", LaneSettings(), False, None),
        messages.Deploy(3, "main", "counter", COUNTER, False),
        messages.Keep(8, bytes(32), b"code"),
        messages.Cancel(4, 1),
        messages.SetPaused(5, "main", True),
        messages.SetWindow(6, "main", 5),
        messages.DeadDrop(7, "main", ()),
    ):
        assert refused(alice.send(request)) == errors.NotGreeted.code
    assert broker.core.world.next_seq == 1


def test_code_that_was_stored_is_acknowledged_and_else_refused(broker: Broker) -> None:
    """Goal: an accepted Keep is stored, a refused one is not, and neither is an input. Method: as the shell says, also
    while draining; the number is free again.
    """
    alice = broker.producer()
    before = list(broker.journal)
    keep = messages.Keep(9, bytes(32), b"code")
    assert refused(alice.send(keep, errors.CodeError("no code"))) == errors.CodeError.code
    assert refused(alice.send(keep, errors.StorageFull("no room"))) == errors.StorageFull.code
    alice.drain()
    assert alice.send(keep) == Accepted(9, 0, 0)
    assert alice.send(keep) == Accepted(9, 0, 0)
    assert broker.journal == before
    alice.drain(False)
    missing = errors.NotKept("not here", missing=["ab"])
    deploy = messages.Deploy(1, "main", "counter", COUNTER, False)
    reply = alice.send(deploy, missing)
    assert (refused(reply), reply.fields) == (errors.NotKept.code, {"missing": ["ab"]})
    assert alice.send(deploy) == Answer(1, {})
    assert alice.send(deploy, missing) == Answer(1, {})  # it took effect, so it is answered as before


def test_draining_takes_no_more_tasks(broker: Broker) -> None:
    """Goal: a draining broker finishes what it has and refuses the rest. Method: drain on, drain off."""
    alice = broker.producer()
    alice.submit("counter/a", ADD)
    assert alice.drain() == Answer(alice.number, {"draining": True})
    assert refused(alice.submit("counter/a", ADD)) == "draining"
    broker.worker()
    broker.run()
    assert broker.counter("counter/a") == 1
    alice.drain(False)
    assert isinstance(alice.submit("counter/a", ADD), Accepted)


# --- nothing twice --------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_the_same_number_gets_the_same_answer(restart: bool, broker: Broker) -> None:
    """Goal: a request that is sent again has no second effect, also after a restart. Method: repeat each kind."""
    alice = broker.producer()
    alice.submit("ghost/1")
    alice.submit("ghost/2")
    alice.pause()
    run = TaskRun.of("counter/a", 0, (ADD, ADD), None)
    requests = [
        messages.Submit(11, "main", (run,), False, None, None),
        messages.OpenLane(12, "l", LaneSettings(), False, "main"),
        messages.Deploy(13, "main", "other", COUNTER, False),
        messages.Cancel(14, 3),
        messages.SetPaused(15, "l", True),
        messages.SetWindow(16, "main", 5),
        messages.DeadDrop(17, "main", (1,)),
        messages.Submit(18, "main", (), False, None, 2),
    ]
    first = [alice.send(request) for request in requests]
    assert not any(isinstance(reply, Refused) for reply in first), first
    if restart:
        broker.restart()
    before = len(broker.journal)
    assert [alice.send(request) for request in requests] == first
    assert len(broker.journal) == before


def test_other_content_under_a_number_is_refused(broker: Broker) -> None:
    """Goal: a number names one request for ever. Method: the same number with another payload, time, kind."""
    alice = broker.producer()
    alice.submit("counter/a", ADD, number=5)
    assert refused(alice.submit("counter/a", program(["add", 2]), number=5)) == "number_reused"
    assert refused(alice.submit("counter/a", ADD, number=5, now_ms=1)) == "number_reused"
    assert refused(alice.send(messages.SetPaused(5, "main", True))) == "number_reused"
    bob = broker.producer("bob")
    assert bob.submit("counter/a", ADD, number=5) == Accepted(5, 2, 1)
    assert broker.core.world.next_seq == 3


def test_a_number_whose_answer_is_gone_is_stale(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an old request is never carried out again because its answer was dropped. Method: keep two answers."""
    monkeypatch.setattr("rota.broker.producers.NUMBERS_KEPT_MAX", 2)
    alice = broker.producer()
    for number in (1, 2, 3):
        alice.submit("counter/a", ADD, number=number)
    assert refused(alice.submit("counter/a", ADD, number=1)) == "stale_number"
    assert alice.submit("counter/a", ADD, number=2) == Accepted(2, 2, 1)
    assert broker.core.world.next_seq == 4


def test_a_refused_request_leaves_its_number_free(broker: Broker) -> None:
    """Goal: a refusal is no answer that is kept. Method: the same number and content, first refused, then accepted."""
    alice = broker.producer()
    assert refused(alice.submit("counter/a", ADD, lane="l", number=9)) == "unknown_lane"
    alice.open_lane("l")
    assert isinstance(alice.submit("counter/a", ADD, lane="l", number=9), Accepted)


def test_acknowledgements_wait_for_the_disk(broker: Broker) -> None:
    """Goal: no Accepted before its record is durable, but work starts at once. Method: a disk that lags."""
    alice, worker = broker.producer(), broker.worker()
    broker.disk_works = False
    assert alice.submit("counter/a", ADD) is None
    assert worker.orders
    worker.finish()
    assert not alice.results
    broker.sync()
    assert isinstance(alice.inbox[-2], Accepted) or isinstance(alice.inbox[-1], Accepted)
    assert 1 in alice.results


@pytest.mark.parametrize("closed_by", ["drain", "full disk"])
def test_a_repeat_is_answered_while_new_inputs_are_refused(closed_by: str, broker: Broker) -> None:
    """Goal: an accepted request is never refused on repeat, which would make the producer use a new number. Method:
    submit before the broker closes, where the disk failed before the record was written; repeat it.
    """
    alice = broker.producer()
    broker.disk_works = closed_by == "drain"
    alice.submit("counter/a", ADD, number=7)
    if closed_by == "drain":
        alice.drain()
    else:
        broker.storage(full=True)
    alice.submit("counter/a", ADD, number=7, wait=False)
    alice.submit("counter/a", ADD, number=8)
    broker.sync()
    replies = {reply.number: reply for reply in alice.inbox if isinstance(reply, Accepted | Refused)}
    assert replies[7] == Accepted(7, 1, 1)
    assert refused(replies[8]) == ("draining" if closed_by == "drain" else "storage_full")
    assert broker.core.world.next_seq == 2


def test_what_was_not_acknowledged_never_happened(broker: Broker) -> None:
    """Goal: a crash before the fsync leaves nothing, and the same request may come again. Method: crash in between."""
    alice, worker = broker.producer(), broker.worker()
    broker.disk_works = False
    alice.submit("counter/a", ADD, number=7)
    worker.finish()
    broker.restart()
    assert broker.core.world.next_seq == 1
    assert alice.submit("counter/a", ADD, number=7) == Accepted(7, 1, 1)
    broker.run()
    assert broker.counter("counter/a") == 1


# --- refusals -------------------------------------------------------------------------------------


def test_a_full_lane_is_busy(broker: Broker) -> None:
    """Goal: a submit that does not fit is refused whole. Method: a lane of 10 whose tasks may emit nothing."""
    alice = broker.producer()
    alice.open_lane("l", tasks_max=10)
    alice.deploy("counter", code("counter", emits_max=0), lane="l")
    assert isinstance(alice.submit("counter/a", *[ADD] * 8, lane="l"), Accepted)
    reply = alice.submit("counter/a", *[ADD] * 3, lane="l")
    assert refused(reply) == "busy"
    assert (reply.fields["lane"], reply.fields["load"], reply.fields["tasks_max"]) == ("l", 8, 10)
    assert isinstance(alice.submit("counter/a", *[ADD] * 2, lane="l"), Accepted)
    broker.worker()
    broker.run()
    assert isinstance(alice.submit("counter/a", *[ADD] * 10, lane="l"), Accepted)


def test_refusals_name_what_is_wrong(broker: Broker) -> None:
    """Goal: each wrong request has its code and no effect. Method: one of each; the journal does not grow."""
    alice = broker.producer()
    before = len(broker.journal)
    too_many = (b"",) * (limits.RUN_TASKS_MAX // 2 + 1)
    both = TaskRun.of("counter/a", 0, too_many, None)
    assert refused(alice.submit("counter/a", lane="nowhere")) == "unknown_lane"
    assert refused(alice.pause("nowhere")) == "unknown_lane"
    assert refused(alice.submit_runs(both, both)) == "bad_payload"
    assert refused(alice.submit_runs()) == "bad_payload"
    assert refused(alice.submit_runs(retry_of=3)) == "unknown_task"
    assert refused(alice.submit("counter/a", retry_of=3)) == "bad_payload"
    assert refused(alice.open_lane("main")) == "bad_payload"
    assert refused(alice.open_lane("l", deploys_from="nowhere")) == "unknown_lane"
    assert refused(alice.deploy("model:x", COUNTER)) == "bad_code"
    assert refused(alice.deploy("x", MODEL_CODE)) == "bad_code"
    assert refused(alice.cancel(1)) == "unknown_task"
    assert refused(alice.cancel(0)) == "unknown_task"
    assert refused(alice.await_results(1)) == "unknown_task"
    assert refused(alice.await_results(1, limits.RUN_TASKS_MAX + 1)) == "bad_payload"
    assert len(broker.journal) == before


def test_a_full_disk_refuses_inputs_and_keeps_what_was_acknowledged(broker: Broker) -> None:
    """Goal: nothing is accepted while the journal cannot be written; what was accepted goes on. Method: fill the disk
    between submit and completion, free it again.
    """
    alice, worker = broker.producer(), broker.worker()
    alice.submit("counter/a", ADD)
    broker.storage(full=True)
    assert refused_later(broker, alice) == "storage_full"
    worker.finish()
    assert not alice.results
    broker.storage(full=False)
    assert alice.results[1].ok
    assert isinstance(alice.submit("counter/a", ADD), Accepted)
    broker.run()
    assert broker.counter("counter/a") == 2
    assert [told.full for told in broker.told(JournalChanged)] == [True, False]


def refused_later(broker: Broker, alice: Any) -> str:
    """The core refuses at once; the kit holds the refusal back with everything else, the shell does not."""
    alice.submit("counter/a", ADD)
    return refused(broker.held[-1].message)


# --- cancel ---------------------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled_in_its_place(broker: Broker) -> None:
    """Goal: a cancelled task keeps its turn and is not run, and its producer is told at once, and once. Method: cancel
    behind a pause, twice; look before and after the release.
    """
    alice = broker.producer()
    alice.pause()
    alice.submit("counter/a", ADD, ADD, ADD)
    assert alice.cancel(2) is True
    assert alice.cancel(2) is False
    assert [(seq, item.kind) for seq, item in alice.results.items()] == [(2, "cancelled")]
    alice.results.clear()
    alice.release()
    broker.worker()
    broker.run()
    assert {seq: item.kind for seq, item in alice.results.items()} == {1: "", 3: ""}
    assert [told.seq for told in broker.told(TaskFailure)] == [2]
    assert broker.counter("counter/a") == 2


@pytest.mark.parametrize("restart", [False, True])
def test_the_outcome_of_a_task_caught_while_it_waits_can_be_asked_for(broker: Broker, restart: bool) -> None:
    """Goal: a cancelled task has an outcome though its lane is paused for ever. Method: submit without `wait`, cancel,
    perhaps restart; ask for it, again after its issue, and for others.
    """
    alice = broker.producer()
    alice.pause()
    alice.submit("counter/a", ADD, ADD, ADD, wait=False)
    alice.cancel(2)
    if restart:
        broker.restart()
    alice.results.clear()
    alice.await_results(1, 3)
    assert {seq: item.kind for seq, item in alice.results.items()} == {2: "cancelled"}
    alice.results.clear()
    broker.worker()
    alice.release()
    broker.run()
    assert {seq: item.kind for seq, item in alice.results.items()} == {1: "", 3: ""}
    alice.await_results(1, 3)
    assert {seq: item.kind for seq, item in alice.results.items()} == {1: "", 2: "cancelled", 3: ""}


def test_an_issued_task_is_cancelled_before_a_worker_has_it(broker: Broker) -> None:
    """Goal: it is not handed out any more. Method: cancel while no worker is there."""
    alice = broker.producer()
    alice.submit("counter/a", ADD, ADD)
    assert alice.cancel(1) is True
    assert alice.results[1].kind == "cancelled"
    worker = broker.worker()
    assert worker.turns() == [2]
    broker.run()
    assert broker.counter("counter/a") == 1


def test_a_dispatched_task_is_revoked_and_its_companions_run_again(broker: Broker) -> None:
    """Goal: a cancel catches a running task, and no other. Method: cancel the middle one of a fold of three."""
    alice, worker = broker.producer(), broker.worker()
    alice.submit("counter/a", *[ADD] * 6)
    order = worker.orders[0]
    assert worker.turns() == [1, 2, 3]
    assert alice.cancel(2) is True
    assert messages.Revoke(order.assignment) in worker.inbox
    broker.run()
    assert broker.counter("counter/a") == 5
    assert alice.results[2].kind == "cancelled"


def test_a_completed_task_cannot_be_caught(broker: Broker) -> None:
    """Goal: what has completed stands, retired or not. Method: cancel a completed task behind an unfinished head."""
    alice = broker.producer()
    first, second = broker.worker("w1", slots=1), broker.worker("w2", slots=1)
    alice.submit_runs(TaskRun.of(("counter/a", "counter/b"), 0, (ADD, ADD), None))
    second.finish()
    before = len(broker.journal)
    assert alice.cancel(2) is False
    first.finish()
    assert alice.cancel(1) is False
    assert all(item.ok for item in alice.results.values())
    assert len(broker.recorded(records.Cancelled)) == 0
    assert len(broker.journal) == before + 1


# --- results --------------------------------------------------------------------------------------


def test_results_come_to_who_asked(broker: Broker) -> None:
    """Goal: `wait` sends results unasked, Await later, others do not get them. Method: two producers."""
    alice, bob = broker.producer("alice"), broker.producer("bob")
    alice.submit("counter/a", ADD, wait=True)
    bob.submit("counter/b", ADD, wait=False)
    broker.worker()
    broker.run()
    assert sorted(alice.results) == [1]
    assert not bob.results
    bob.await_results(1, 2)
    assert sorted(bob.results) == [1, 2]


def test_await_before_the_end(broker: Broker) -> None:
    """Goal: an Await over finished, running and waiting tasks gets each result once. Method: await midway."""
    alice = broker.producer()
    alice.window(2)
    worker = broker.worker(slots=1)
    alice.submit("counter/a", *[ADD] * 5, wait=False)
    worker.finish()
    alice.await_results(1, 5)
    assert sorted(alice.results) == [1]
    broker.run()
    assert sorted(alice.results) == [1, 2, 3, 4, 5]


def test_results_survive_a_restart(broker: Broker) -> None:
    """Goal: what was durable is told again after a restart. Method: restart, await."""
    alice = broker.producer()
    alice.submit("counter/a", ADD, ADD, wait=False)
    worker = broker.worker(slots=1)
    worker.finish()
    broker.restart()
    alice.await_results(1, 2)
    assert sorted(alice.results) == [1]
    broker.run()
    assert sorted(alice.results) == [1, 2]


def test_results_that_are_not_kept_have_expired(make_broker: MakeBroker) -> None:
    """Goal: retention is bounded, and an Await says what is gone. Method: keep two results."""
    broker = make_broker(results_max=2)
    alice = broker.producer()
    alice.deploy("counter")
    broker.worker()
    alice.submit("counter/a", *[ADD] * 4, wait=False)
    broker.run()
    reply = alice.await_results(1, 4)
    assert refused(reply) == "expired"
    assert reply.fields["seqs"] == [1, 2]
    assert sorted(alice.results) == [3, 4]


def test_large_results_push_out_others(make_broker: MakeBroker) -> None:
    """Goal: retention is bounded in bytes. Method: results of 400 bytes where 2000 are kept."""
    broker = make_broker(results_bytes=2_000)
    alice = broker.producer()
    alice.deploy("counter")
    broker.worker()
    alice.submit("counter/a", *[program(["size", 400])] * 6, wait=False)
    broker.run()
    assert 1 <= len(broker.core.world.results) <= 3
    assert refused(alice.await_results(1)) == "expired"


# --- lanes and deploys ----------------------------------------------------------------------------


def test_a_lane_opens_with_the_names_of_another(broker: Broker) -> None:
    """Goal: `deploys_from` copies what is bound now, later deploys go their own way. Method: compare both lanes."""
    alice = broker.producer()
    alice.open_lane("l", deploys_from="main")
    alice.open_lane("bare")
    alice.deploy("function", FUNCTION_CODE)
    assert sorted(broker.lane("l").deploys) == ["counter"]
    assert broker.lane("bare").deploys == {}
    assert sorted(broker.lane("main").deploys) == ["counter", "function"]


def test_a_checked_deploy_waits_for_a_worker(broker: Broker) -> None:
    """Goal: with `check` a name is bound when a worker has seen the code. Method: no worker yet; then one that says
    yes, and one that says no.
    """
    alice = broker.producer()
    assert alice.deploy("other", COUNTER, check=True) is None
    worker = broker.worker()
    prepare = worker.prepares.popleft()
    assert (prepare.address, prepare.code) == ("other", COUNTER)
    assert "other" not in broker.lane().deploys
    worker.say(Prepared("w1", prepare.number, True, {"exports": 3}, ""))
    assert alice.inbox[-1] == Answer(alice.number, {"exports": 3})
    assert "other" in broker.lane().deploys
    alice.deploy("bad", COUNTER, check=True)
    worker.say(Prepared("w1", worker.prepares.popleft().number, False, {}, "no export rota_step"))
    assert refused(alice.inbox[-1]) == "bad_code"
    assert "bad" not in broker.lane().deploys


def test_a_checked_deploy_outlives_the_worker_that_was_asked(broker: Broker) -> None:
    """Goal: a dead worker does not keep a deploy waiting. Method: it dies, another one joins; a late answer of the
    first is not taken for the second's.
    """
    alice = broker.producer()
    first = broker.worker("w1")
    alice.deploy("other", COUNTER, check=True)
    first.die()
    second = broker.worker("w2")
    broker.live(500)
    assert len(second.prepares) == 1
    second.say(Prepared("w2", second.prepares[0].number, True, {}, ""))
    assert isinstance(alice.inbox[-1], Answer)


def test_a_checked_deploy_outlives_the_connection_it_was_asked_on(broker: Broker) -> None:
    """Goal: no deploy waits for ever for an order that was lost. Method: the worker registers again without having read
    it; then another process registers under its name.
    """
    alice = broker.producer()
    worker = broker.worker("w1")
    alice.deploy("other", COUNTER, check=True)
    for registration in ({}, {"pid": 2}):
        worker.prepares.clear()
        worker.register(**registration)
        assert len(worker.prepares) == 1
    worker.say(Prepared("w1", worker.prepares[0].number, True, {}, ""))
    assert "other" in broker.lane().deploys


def test_a_deploy_whose_check_kills_every_worker_is_refused(broker: Broker) -> None:
    """Goal: bad code does not kill workers for ever. Method: every worker dies that is asked; one that says goodbye
    does not count. The producer hears why, and the next worker is not asked.
    """
    alice = broker.producer()
    alice.deploy("other", COUNTER, check=True)
    polite = broker.worker("polite")
    polite.goodbye(draining=False)
    polite.leave_silently()
    for attempt in range(limits.POISON_DEATHS_MAX):
        worker = broker.worker(f"w{attempt}")
        broker.live(500)
        assert len(worker.prepares) == 1
        assert not [reply for reply in alice.inbox if isinstance(reply, Refused)]
        worker.die()
    assert refused(alice.inbox[-1]) == "bad_code"
    assert "died while they checked 'other'" in alice.inbox[-1].message
    assert not broker.worker("next").prepares
    assert "other" not in broker.lane().deploys


def test_a_deploy_beside_one_that_kills_workers_is_not_refused_with_it(broker: Broker) -> None:
    """Goal: the cap counts the deploy that kills. Method: two are asked at the same worker, which dies of the first;
    from then on they are asked one at a time, and a deploy of another pool does not wait for them.
    """
    alice = broker.producer()
    for name in ("killer", "neighbour"):
        alice.deploy(name, COUNTER, check=True)
    for attempt in range(limits.POISON_DEATHS_MAX):
        worker = broker.worker(f"w{attempt}")
        broker.live(500)
        asked = [prepare.address for prepare in worker.prepares]
        assert asked == (["killer"] if attempt else ["killer", "neighbour"])
        worker.die()
    last = broker.worker("last")
    last.say(Prepared("last", last.prepares[-1].number, True, {}, ""))
    assert sorted(broker.lane().deploys) == ["counter", "neighbour"]


@pytest.mark.parametrize("ok", [True, False])
def test_a_deploy_that_comes_again_without_check_takes_effect_once(broker: Broker, ok: bool) -> None:
    """Goal: one number has one effect and one answer. Method: the worker says yes or no after the repeat has bound the
    name.
    """
    alice, worker = broker.producer(), broker.worker()
    request = messages.Deploy(alice.next_number(), "main", "other", COUNTER, True)
    assert alice.send(request) is None
    assert isinstance(alice.send(request._replace(check=False)), Answer)
    before = len(broker.journal)
    worker.say(Prepared("w1", worker.prepares[0].number, ok, {}, "" if ok else "odd"))
    assert len(broker.journal) == before
    assert alice.inbox[-1] == Answer(request.number, {})


def test_deploys_that_wait_for_ever_do_not_close_the_door(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what a producer gave up on does not refuse others. Method: models without a GPU worker, two may wait; then
    an agent, for which a worker is there.
    """
    monkeypatch.setattr("rota.broker.pending_deploys.PENDING_DEPLOYS_MAX", 2)
    alice, worker = broker.producer(), broker.worker()
    for name in ("model:a", "model:b"):
        assert alice.deploy(name, MODEL_CODE, check=True) is None
    alice.deploy("other", COUNTER, check=True)
    assert [(reply.number, reply.code) for reply in alice.inbox if isinstance(reply, Refused)] == [(1, "busy")]
    assert len(worker.prepares) == 1


def test_a_model_is_checked_by_a_gpu_worker(broker: Broker) -> None:
    """Goal: code goes to the pool that can run it. Method: deploy a model beside a cpu worker."""
    alice = broker.producer()
    cpu, gpu = broker.worker("c"), broker.worker("g", pool="gpu")
    alice.deploy("model:net", MODEL_CODE, check=True)
    assert not cpu.prepares
    assert len(gpu.prepares) == 1


# --- dead letters ---------------------------------------------------------------------------------


def test_dead_letters_are_kept_retried_and_dropped(broker: Broker) -> None:
    """Goal: a failed task keeps what is needed to run it again; a retry is a new task. Method: fail three, retry one,
    drop one, drop all.
    """
    alice = broker.producer()
    broker.worker()
    alice.submit("counter/a", *[program(["log", "why"], ["fail", "no"])] * 3, priority=4)
    broker.run()
    dead = broker.lane().dead
    assert [(letter.seq, letter.failure.kind, letter.failure.log, letter.attempts) for letter in dead.values()] == [
        (seq, "error", ("why",), 1) for seq in (1, 2, 3)
    ]
    assert alice.submit_runs(retry_of=2) == Accepted(alice.number, 4, 1)
    assert sorted(dead) == [1, 3]
    assert refused(alice.submit_runs(retry_of=2)) == "unknown_task"
    broker.run()
    assert sorted(dead) == [1, 3, 4]
    assert dead[4].priority == 4
    count = len(broker.journal)
    assert refused(alice.drop_dead(3, 99)) == "unknown_task"
    assert len(broker.journal) == count
    assert sorted(dead) == [1, 3, 4]
    assert alice.drop_dead(3) == Answer(alice.number, {"dropped": 1})
    assert alice.drop_dead() == Answer(alice.number, {"dropped": 2})
    assert dead == {}


def test_the_oldest_dead_letters_go_first(monkeypatch: pytest.MonkeyPatch, broker: Broker) -> None:
    """Goal: the set is bounded. Method: keep two."""
    monkeypatch.setattr("rota.broker.dead_letters.DEAD_TASKS_MAX", 2)
    alice = broker.producer()
    alice.submit("ghost/1", *[ADD] * 4)
    assert sorted(broker.lane().dead) == [3, 4]
