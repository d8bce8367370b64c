"""Sending outcomes: bounded work per step and per connection, and everything owed is sent.

`broker.keeps_up = False` stops the kit after one step, where the shell would take the next one at once.
"""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import Broker
from scripted import FUNCTION_CODE, program

from rota.broker import awaits, debts
from rota.broker.effects import FRONTEND, FromProducer, Slow
from rota.common.messages import Await, Refused, Results
from rota.common.work import Limits

MANY = awaits.RESULTS_PER_MESSAGE * 3


@pytest.fixture
def full(broker: Broker) -> Any:
    """A broker with the results of many tasks, and who submitted them without asking for results."""
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE)
    alice.submit("function", *[program()] * MANY, wait=False)
    broker.worker(slots=10_000)
    broker.run()
    broker.sent.clear()
    return alice


def results_sent(broker: Broker) -> dict[bytes, int]:
    """How many results each connection was sent."""
    found: dict[bytes, int] = {}
    for send in broker.sent:
        if isinstance(send.message, Results):
            found[send.identity] = found.get(send.identity, 0) + len(list(send.message.items))
    return found


def test_a_flood_of_awaits_is_answered_part_by_part_and_in_turn(broker: Broker, full: Any) -> None:
    """Goal: a step is bounded whatever was asked for, and one who asks for little does not wait behind those who ask
    for all. Method: 20 connections ask for everything ten times over, in one step, then one for a single result.
    """
    crowd = [broker.producer("crowd", identity=b"c%d" % n) for n in range(20)]
    broker.sent.clear()
    broker.keeps_up = False
    asked = [FromProducer(one.identity, Await(n, 1, MANY)) for n in range(10) for one in crowd]
    broker.step(*asked)
    first = results_sent(broker)
    assert sum(first.values()) <= awaits.RESULTS_PER_STEP + awaits.RESULTS_PER_MESSAGE
    assert max(first.values()) <= awaits.RESULTS_PER_MESSAGE
    full.await_results(7)
    steps = 1
    while 7 not in full.results:
        broker.step()
        steps += 1
    assert steps <= len(crowd) + 1
    while broker.sequencer.is_behind:
        broker.step()
    found = results_sent(broker)
    assert {identity: found[identity] for identity in found if identity != full.identity} == {
        one.identity: 10 * MANY for one in crowd
    }


def test_looking_is_bounded_also_where_nothing_is_found(make_broker: Any) -> None:
    """Goal: an Await costs a step no more for results that are gone. Method: keep none; it is refused with every
    number, after some steps.
    """
    broker = make_broker(results_max=1)
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE)
    alice.submit("function", *[program()] * MANY, wait=False)
    broker.worker(slots=10_000)
    broker.run()
    broker.keeps_up = False
    assert alice.await_results(1, MANY) is None
    steps = 0
    while broker.sequencer.is_behind:
        broker.step()
        steps += 1
    assert steps >= 2
    refused = alice.inbox[-1]
    assert (refused.code, refused.fields["seqs"]) == ("expired", list(range(1, MANY)))
    assert list(alice.results) == [MANY]


def test_who_does_not_take_results_is_owed_numbers(broker: Broker) -> None:
    """Goal: a reader that never reads costs next to nothing. Method: it is slow while very many results come, of which
    few are kept as they are; when it reads again it gets all, once.
    """
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE)
    broker.step(Slow(alice.identity, True))
    alice.submit("function", *[program(["size", 1_000])] * MANY)
    broker.worker(slots=10_000)
    broker.run()
    assert alice.results == {}
    debt = broker.core.debts._by_identity[alice.identity]
    assert len(debt.outcomes) <= debts.OUTCOMES_MAX
    assert debt.outcome_bytes <= debts.OUTCOME_BYTES_MAX + 2_000
    assert len(debt.ranges) <= 2
    broker.sent.clear()
    broker.step(Slow(alice.identity, False))
    assert sorted(alice.results) == list(range(1, MANY + 1))
    assert results_sent(broker) == {alice.identity: MANY}


def test_results_that_went_meanwhile_are_refused_by_number(make_broker: Any) -> None:
    """Goal: who comes too late hears so. Method: a slow connection, more results than are kept."""
    broker = make_broker(results_max=5)
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE)
    broker.step(Slow(alice.identity, True))
    alice.submit("function", *[program(["size", 1_000])] * 2_000)
    broker.worker(slots=10_000)
    broker.run()
    broker.step(Slow(alice.identity, False))
    refused = [message for message in alice.inbox if isinstance(message, Refused)]
    gone = [seq for message in refused for seq in message.fields["seqs"]]
    assert {message.code for message in refused} == {"expired"}
    assert sorted([*alice.results, *gone]) == list(range(1, 2_001))
    assert 1_000 <= len(gone) <= 1_995


def test_who_is_owed_in_too_many_places_is_forgotten(monkeypatch: pytest.MonkeyPatch, broker: Broker) -> None:
    """Goal: numbers are bounded as well. Method: every second task of very many is awaited, with room for few ranges;
    after another Hello it may ask again.
    """
    monkeypatch.setattr(debts, "RANGES_MAX", 3)
    monkeypatch.setattr(debts, "OUTCOMES_MAX", 1)
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE)
    for _ in range(12):
        alice.submit("function", program())
        alice.submit("function", program(), wait=False)
    broker.step(Slow(alice.identity, True))
    broker.worker()
    broker.run()
    assert broker.core.producer(alice.identity) is None
    broker.step(Slow(alice.identity, False))
    alice.hello()
    alice.await_results(1, 24)
    assert sorted(alice.results) == list(range(1, 25))


def test_awaits_that_are_not_answered_are_bounded(broker: Broker, full: Any) -> None:
    """Goal: asking is bounded per connection. Method: as many as fit and one more from a slow one."""
    broker.step(Slow(full.identity, True))
    for _ in range(debts.AWAITS_MAX):
        assert full.await_results(1) is None
    busy = full.await_results(1)
    assert busy.code == "busy"
    full.vanish()
    assert broker.core.debts._by_identity == {}


def test_large_results_travel_alone(broker: Broker) -> None:
    """Goal: no message is much larger than a part. Method: results of 400 kB, asked for at once."""
    alice = broker.producer()
    alice.deploy("function", FUNCTION_CODE._replace(limits=Limits(result_bytes=1 << 20)))
    alice.submit("function", *[program(["size", 400_000])] * 10, wait=False)
    broker.worker()
    broker.run()
    broker.sent.clear()
    alice.await_results(1, 10)
    parts = [len(list(send.message.items)) for send in broker.sent if isinstance(send.message, Results)]
    assert parts == [3, 3, 3, 1]
    assert {send.socket for send in broker.sent} == {FRONTEND}
