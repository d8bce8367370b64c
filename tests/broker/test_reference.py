"""The core against the sequential reference (reference.py), under random work and random faults (chaos.py).

Every run is named by its seed: `pytest 'tests/broker/test_reference.py::test_...[7]'` repeats it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from chaos import Chaos, deploy_all, random_runs
from core_kit import Broker, fold_journal
from reference import Reference, run_reference

from rota.broker import records
from rota.common.digests import digest
from rota.common.work import Done, Outcome

MakeBroker = Callable[..., Broker]


def refer(broker: Broker) -> dict[str, Reference]:
    """Run the reference on the inputs that a broker has journaled, up to where its lanes stand."""
    journal = [records.decode(body) for body in broker.journal]
    world = broker.core.world
    turn_of = {task.seq: task.turn for task in world.results.kept()}
    for lane in world.lanes.values():
        turn_of |= {task.seq: task.turn for task in lane.line()}
        turn_of |= {ask.seq: ask.turn for ask in lane.open.values()}
        for run in lane.waiting_runs():
            turn_of |= {run.first_seq + index: run.first_turn + index for index in range(len(run.payloads))}
    derived = {name: lane.retired for name, lane in world.lanes.items() if lane.settings.policy == "derived"}
    kept = [record for record in journal if getattr(record, "lane", None) in derived]
    return run_reference(kept, turn_of, derived)


def assert_same(broker: Broker, references: dict[str, Reference]) -> None:
    """Compare outcomes first, because they say more than a digest."""
    for name, reference in references.items():
        lane = broker.lane(name)
        for task in broker.core.world.results.kept():
            if task.run.lane == name and task.turn in reference.done:
                if task.turn in reference.answered:
                    assert (task.turn, effect(task.outcome)) == (task.turn, effect(reference.answered[task.turn]))
                else:
                    assert (task.turn, task.outcome) == (task.turn, reference.done[task.turn].outcome)
        assert (lane.retired, lane.digest) == (reference.retired, reference.digest)
        assert [dead.turn for dead in lane.dead.values()] == list(reference.dead)
        assert [task.turn for task in lane.line()] == [task.turn for task in reference.line]
        assert sorted(lane.timers) == sorted(reference.timers)
        owners = {turn: (ask.owner, ask.owes) for turn, ask in lane.open.items()}
        assert owners == {turn: (ask.owner, ask.owes) for turn, ask in reference.open.items()}
        assert sorted(lane.agents) == sorted(reference.agents)


def effect(outcome: Outcome | None) -> Any:
    """What an outcome says to whoever asked."""
    if isinstance(outcome, Done):
        return outcome.result
    return None if outcome is None else outcome[:2]


def settings_of(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    return {
        "window": rng.choice((1, 2, 7, 50)),
        "tasks_max": rng.choice((40, 80, 100_000)),
        "starvation_passes": rng.choice((1, 3, 64)),
        "bytes_max": rng.choice((6_000, 20_000, 1 << 28)),
        "agents_max": rng.choice((3, 1_000)),
        "seed": digest(b"%d" % seed),
    }


def pinned_run(broker: Broker, seed: int, workers: int) -> bytes:
    """Run a seed's work with all inputs at fixed positions; faults are only in workers, network, disk and broker."""
    chaos = Chaos(broker, seed, workers)
    producer, work = chaos.producer, random.Random(seed)
    producer.open_lane("pinned", paused=True, **settings_of(seed))
    chaos.lanes = ["pinned"]
    deploy_all(producer, "pinned", timeout_ms=3_600_000)  # so that no worker counts as stuck, which could be a verdict
    first = broker.core.world.next_seq
    for _ in range(4):
        producer.submit_runs(*random_runs(work), lane="pinned", now_ms=77)
    for seq in work.sample(range(first, broker.core.world.next_seq), 2):
        assert producer.cancel(seq) is True
    broker.now_ms = 77  # timers are due when the lane is idle, so their positions are fixed too
    producer.release("pinned")
    chaos.run(150)
    chaos.settle()
    return broker.lane("pinned").digest


@pytest.mark.parametrize("seed", range(20))
def test_the_digest_is_the_reference_s_for_1_2_and_8_workers(seed: int, make_broker: MakeBroker) -> None:
    """Goal: the promise of the execution model. Method: one seed's work at 1, 2, 4 and 8 workers under random deaths,
    losses, duplicates, late answers, slow disk and broker kills; each digest equals the sequential reference's.
    """
    found = {}
    for workers in (1, 2, 4, 8):
        broker = make_broker()
        found[workers] = pinned_run(broker, seed, workers)
        assert_same(broker, refer(broker))
        assert broker.core.world.divergences == 0
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("seed", range(40))
def test_inputs_at_any_moment_mean_what_the_reference_says(seed: int, make_broker: MakeBroker) -> None:
    """Goal: the journal's inputs and positions determine everything, verdicts included. Method: random inputs in the
    middle of random trouble; the reference, fed with inputs and positions only, agrees at the end and midway.
    """
    broker = make_broker()
    chaos = Chaos(broker, seed, (1, 2, 8)[seed % 3], inputs=True)
    chaos.lanes = ["main", "small"]
    deploy_all(chaos.producer, "main")
    chaos.producer.open_lane("small", deploys_from="main", **settings_of(seed))
    chaos.run(200)
    broker.sync()
    assert_same(broker, refer(broker))
    broker.check()
    chaos.settle()
    assert_same(broker, refer(broker))
    assert broker.core.world.divergences == 0


@pytest.mark.parametrize("seed", range(12))
def test_a_recorded_lane_is_what_its_journal_says(seed: int, make_broker: MakeBroker) -> None:
    """Goal: replay follows the order that a recorded lane wrote down, from any moment on. Method: random inputs and
    trouble; after every stretch a new world is folded from the journal and compared in full.
    """
    broker = make_broker()
    chaos = Chaos(broker, seed, 2 + seed % 3, inputs=True)
    deploy_all(chaos.producer, "main")
    chaos.producer.open_lane("recorded", policy="recorded", deploys_from="main", **settings_of(seed))
    chaos.lanes = ["recorded"]
    for _ in range(5):
        chaos.run(40)
        broker.check()
    chaos.settle()
    assert fold_journal(broker.journal).lanes["recorded"].digest == broker.lane("recorded").digest
    assert broker.core.world.divergences == 0


@pytest.mark.parametrize("seed", range(6))
def test_what_was_acknowledged_survives_every_kill(seed: int, make_broker: MakeBroker) -> None:
    """Goal: no acknowledged submit and no delivered result is ever contradicted. Method: random trouble with many
    kills; afterwards every Accepted number stands in the journal and every result equals the final one.
    """
    broker = make_broker()
    chaos = Chaos(broker, seed, 3, inputs=True)
    deploy_all(chaos.producer, "main")
    told: dict[int, Any] = {}
    for _ in range(30):
        chaos.run(8)
        for seq, item in chaos.producer.results.items():
            assert told.setdefault(seq, (item.turn, item.ok, item.result, item.kind)) == (
                item.turn, item.ok, item.result, item.kind
            )  # fmt: skip
        if chaos.random.random() < 0.3:
            broker.restart()
    chaos.settle()
    for task in broker.core.world.results.kept():
        if task.seq in told:
            result = task.outcome.result if type(task.outcome) is Done else None
            assert (task.turn, type(task.outcome) is Done, result) == told[task.seq][:3]
    stamped = {submitted.origin.number for submitted in broker.recorded(records.Submitted)}
    accepted = {reply.number for reply in chaos.producer.inbox if type(reply).__name__ == "Accepted" and reply.tasks}
    assert accepted <= stamped
    assert accepted
