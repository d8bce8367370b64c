"""Faults of the core that the simulator found (tests/simulation/), each in the fewest steps that show it.

The seed under which a fault was found is named, but its run changes with the simulator: the steps here stay.
"""

from __future__ import annotations

import scripted
from core_kit import Broker

from rota.broker import records


def _two_reports(broker: Broker, lie: bytes) -> None:
    """A worker is taken for dead, reports all the same, and only then another one does its work again."""
    producer = broker.producer()
    late = broker.worker("late")
    producer.submit("counter/a", scripted.program(["add", 1]))
    (order,) = late.orders
    other = broker.worker("other", pid=2)
    for _ in range(8):
        other.heartbeat()
        broker.advance(500)
    assert other.orders, "the work was not handed out again"
    completed = late.compute(order)
    (fold,) = completed.folds
    (outcome,) = fold.outcomes
    late.say(completed._replace(folds=(fold._replace(outcomes=(outcome._replace(result=outcome.result + lie),)),)))
    other.finish()


def test_an_outcome_that_comes_before_the_one_that_stands_is_compared(broker: Broker) -> None:
    """Goal: two outcomes of one task are reported whichever comes first (seed 14). Method: a worker that was given up
    reports a changed result before another one has done the task again.
    """
    _two_reports(broker, b" changed")
    (divergence,) = broker.recorded(records.Diverged)
    assert (divergence.turn, divergence.address, divergence.worker) == (1, "counter/a", "late")
    assert broker.told("divergence", worker="late")
    assert broker.counter("counter/a") == 1


def test_an_equal_outcome_that_comes_before_is_no_divergence(broker: Broker) -> None:
    """Goal: doing work twice with the same outcome is no news. Method: the same, with nothing changed."""
    _two_reports(broker, b"")
    assert not broker.recorded(records.Diverged)
    assert not broker.core.dispatcher.early


def test_what_was_built_on_a_task_that_was_caught_is_not_compared(broker: Broker) -> None:
    """Goal: no false report. Method: of two tasks of an agent that were reported early, the first is cancelled, so that
    the second comes to something else when it is done again.
    """
    producer = broker.producer()
    late = broker.worker("late")
    reply = producer.submit("counter/a", scripted.program(["add", 1]), scripted.program(["add", 1]))
    orders = list(late.orders)
    other = broker.worker("other", pid=2, slots=1)
    for _ in range(8):
        other.heartbeat()
        broker.advance(500)
    for order in orders:
        late.say(late.compute(order))
    assert broker.core.dispatcher.early
    assert producer.cancel(reply.first_seq) is True
    broker.run()
    assert broker.counter("counter/a") == 1
    assert not broker.recorded(records.Diverged)
