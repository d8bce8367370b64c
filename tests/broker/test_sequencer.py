"""The step itself: the order of effects, results in bounded messages, marks, timers, the disk."""

from __future__ import annotations

import pytest
from core_kit import Broker
from scripted import FUNCTION_CODE, program

from rota.broker import records
from rota.broker.effects import FRONTEND, FromProducer, FromWorker, Tick, WorkerDied
from rota.broker.sequencer import MARK_EVERY_TASKS
from rota.common import limits, messages, wire
from rota.common.messages import HeartbeatAck, Results, TaskRun

ADD = program(["add", 1])


def test_what_may_leave_at_once_and_what_must_wait(broker: Broker) -> None:
    """Goal: orders to workers are in `now`, acknowledgements and results in `after`. Method: one step with a submit,
    one with its completion.
    """
    alice, worker = broker.producer(), broker.worker()
    run = TaskRun.of("counter/a", 0, (ADD,), None)
    effects = broker.sequencer.step(
        [FromProducer(alice.identity, messages.Submit(50, "main", (run,), True, None, None))], 1, 1
    )
    assert [type(send.message).__name__ for send in effects.now] == ["Assign"]
    assert [type(record).__name__ for record in effects.records] == ["Submitted"]
    assert [type(send.message).__name__ for send in effects.after] == ["Accepted"]
    broker.journal += [records.encode(record) for record in effects.records]
    worker.orders.append(effects.now[0].message)  # type: ignore[arg-type]
    broker.disk_works = False
    worker.finish()
    assert [type(send.message).__name__ for send in broker.held] == ["Results"]
    broker.sync()
    assert alice.results[1].ok


def test_a_step_without_events_does_nothing(broker: Broker) -> None:
    """Goal: an idle broker writes nothing. Method: ticks."""
    broker.worker()
    before = len(broker.journal)
    for _ in range(5):
        broker.live(500)
    assert len(broker.journal) == before


def test_the_last_words_of_a_worker_count(broker: Broker) -> None:
    """Goal: what arrived before a death in the same step is taken. Method: completion and death in one step."""
    alice, worker = broker.producer(), broker.worker()
    alice.submit("counter/a", ADD)
    answer = worker.compute(worker.orders[0])
    broker.step(FromWorker(worker.identity, answer), WorkerDied("w1"))
    assert alice.results[1].attempts == 1
    worker.leave_silently()


def test_results_travel_in_frames_of_bounded_size(broker: Broker) -> None:
    """Goal: no Results message exceeds what a frame may have, logs included. Method: many results with long logs."""
    alice, worker = broker.producer(), broker.worker()
    alice.deploy("function", FUNCTION_CODE)
    alice.submit("function", *[program(["log", "x" * 500_000])] * 80)
    while worker.finish():
        pass
    alice.results.clear()
    broker.sent.clear()
    alice.await_results(1, 80)
    frames = [len(wire.encode(send.message)) for send in broker.sent if isinstance(send.message, Results)]
    assert len(frames) > 1
    assert max(frames) < limits.MESSAGE_BYTES_MAX // 2
    assert len(alice.results) == 80


def test_results_for_a_connection_that_is_gone_are_not_sent(broker: Broker) -> None:
    """Goal: nothing piles up for a gone peer. Method: vanish between submit and completion; come back and ask."""
    alice = broker.producer()
    alice.submit("counter/a", ADD)
    alice.vanish()
    broker.worker()
    broker.sent.clear()
    broker.run()
    assert not [send for send in broker.sent if send.socket == FRONTEND]
    again = broker.producer("alice", identity=b"again")
    again.await_results(1)
    assert again.results[1].ok


def test_marks_pin_the_digest(broker: Broker) -> None:
    """Goal: a journal carries its lane digest now and then. Method: more tasks than lie between two marks."""
    alice = broker.producer()
    alice.submit("ghost", *[b""] * MARK_EVERY_TASKS)
    (mark,) = broker.recorded(records.Mark)
    assert (mark.lane, mark.retired, mark.digest) == ("main", MARK_EVERY_TASKS, broker.lane().digest)


def test_timers_that_are_due_together_fire_in_a_fixed_order(broker: Broker) -> None:
    """Goal: lane, turn and place among the emits decide, not the order of arrival. Method: three at one time."""
    alice = broker.producer()
    broker.worker()
    steps = [["timer", 100, [["log", "first"]]], ["timer", 100, [["log", "second"]]]]
    alice.submit("counter/b", program(*steps))
    alice.submit("counter/a", program(["timer", 100, [["log", "third"]]]))
    broker.run()
    broker.live(500)
    fired = [(record.turn, record.index_of_emit) for record in broker.recorded(records.TimerFired)]
    assert fired == [(1, 0), (1, 1), (2, 0)]
    broker.run()


def test_many_timers_do_not_keep_the_others_waiting(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a step stays short when an army of agents wakes. Method: five timers due, two per step; the shell is told
    to come back at once, and a heartbeat in between is answered.
    """
    monkeypatch.setattr("rota.broker.sequencer.TIMERS_PER_STEP", 2)
    alice, worker = broker.producer(), broker.worker()
    alice.submit("counter/a", program(*[["timer", 100, [["add", 1]]]] * 5))
    broker.run()
    broker.advance(100)
    assert len(broker.recorded(records.TimerFired)) == 2
    due_ms = broker.core.next_timer_ms()
    assert due_ms is not None
    assert due_ms <= broker.now_ms
    worker.heartbeat()
    assert isinstance(worker.inbox[-1], HeartbeatAck)
    broker.step()
    assert len(broker.recorded(records.TimerFired)) == 5
    broker.run()
    assert broker.counter("counter/a") == 5


def test_a_timer_without_delay_fires_at_once(broker: Broker) -> None:
    """Goal: due means due. Method: delay 0; no time passes."""
    alice = broker.producer()
    broker.worker()
    alice.submit("counter/a", program(["timer", 0, [["add", 5]]]))
    broker.run()
    assert broker.counter("counter/a") == 5


def test_nothing_new_begins_while_the_disk_is_full(broker: Broker) -> None:
    """Goal: what cannot be written down does not grow, and the shell may sleep. Method: an agent that would go on for
    ever by itself, and a timer that is due.
    """
    alice, worker = broker.producer(), broker.worker()
    alice.submit("counter/a", program(["timer", 10, []], ["tell", "counter/a", [["tell", "counter/a", [["add", 1]]]]]))
    broker.storage(full=True)
    for _ in range(5):
        worker.finish()
        broker.live(500)
    assert not worker.orders
    assert broker.core.next_timer_ms() is None
    assert len(broker.unwritten) == 1
    broker.storage(full=False)
    broker.run()
    assert broker.counter("counter/a") == 1
    assert broker.lane().load == 0


def test_the_shell_can_tick_at_any_time(broker: Broker) -> None:
    """Goal: clocks that stand still or go back do no harm. Method: ticks with the same, an earlier and a later time."""
    broker.worker()
    for now_ms, mono_ms in ((1, 1), (1, 1), (0, 2), (10, 3)):
        assert not broker.sequencer.step([Tick()], now_ms, mono_ms).records
    assert "w1" in broker.core.dispatcher.workers
