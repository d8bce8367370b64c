"""Faults of the core found by the simulator (tests/simulation/), each in the fewest steps that show it.

The seed of each is named, but its run changes with the simulator; the steps here do not.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import scripted
from core_kit import Broker

from rota.broker import records
from rota.broker.journal import Journal
from rota.common.events import OutcomesDiffer


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
    assert broker.told(OutcomesDiffer, worker="late")
    assert broker.counter("counter/a") == 1


def test_of_several_early_outcomes_each_is_compared(broker: Broker) -> None:
    """Goal: an honest early report does not hide a changed one (seed 1213526734). Method: two workers are given up in
    turn; the first reports as it is, the second something else, and a third does the task.
    """
    producer = broker.producer()
    workers = [broker.worker("honest")]
    producer.submit("counter/a", scripted.program(["add", 1]))
    for number, name in enumerate(("liar", "last"), start=2):
        workers.append(broker.worker(name, pid=number))
        for _ in range(8):
            workers[-1].heartbeat()
            broker.advance(500)
        assert workers[-1].orders, "the work was not handed out again"
    honest, liar, last = workers
    honest.say(honest.compute(honest.orders[0]))
    completed = liar.compute(liar.orders[0])
    (fold,) = completed.folds
    (outcome,) = fold.outcomes
    liar.say(completed._replace(folds=(fold._replace(outcomes=(outcome._replace(result=b"changed"),)),)))
    last.finish()
    assert [divergence.worker for divergence in broker.recorded(records.Diverged)] == ["liar"]


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


# --- the run file --------------------------------------------------------------------------------------------------

_SECTOR = 512


def _opened(path: Path, records_there: int) -> Journal:
    journal = Journal.open(path)
    assert len(list(journal.read())) == records_there
    return journal


def _epochs(first: int, count: int) -> list[records.Record]:
    return [records.Epoch(boot, 1, (("padding", "x" * 3_000),)) for boot in range(first, first + count)]


def _cut_power(journal: Journal, folder: Path, batch: list[records.Record]) -> Path:
    """The power goes during a commit: of all the sectors that it wrote only the first is lost."""
    wal = Path(f"{journal.log.path}-wal")
    before = wal.read_bytes()
    journal.append(batch)
    after = bytearray(wal.read_bytes())
    lost = next(at for at in range(0, len(after), _SECTOR) if after[at : at + _SECTOR] != before[at : at + _SECTOR])
    after[lost : lost + _SECTOR] = before[lost : lost + _SECTOR].ljust(_SECTOR, b"\0")
    folder.mkdir()
    image = folder / "run.rota"
    image.write_bytes(journal.log.path.read_bytes())
    Path(f"{image}-wal").write_bytes(after)
    journal.close()
    return image


def test_a_run_file_survives_one_power_cut_after_another(tmp_path: Path) -> None:
    """Goal: what two crashes in a row leave is not taken for damage. Method: a large commit is cut off, the next broker
    writes a little, a smaller commit is cut off: all that was confirmed is there.
    """
    journal = _opened(tmp_path / "run.rota", 0)
    journal.append(_epochs(1, 1))
    path = _cut_power(journal, tmp_path / "second", _epochs(2, 30))
    journal = _opened(path, 1)
    journal.append(_epochs(2, 1))
    journal.append(_epochs(3, 1))
    path = _cut_power(journal, tmp_path / "third", _epochs(4, 8))
    with contextlib.closing(_opened(path, 3)) as journal:
        journal.append(_epochs(4, 1))
    _opened(path, 4).close()
