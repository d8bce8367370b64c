"""Verify for unusual runs: several lanes, recorded order, missing files, cut records.

Real runs by a `Broker` of core_kit.py with real modules (divergence_kit.py); each test says what must come out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from divergence_kit import Bench, module, output, with_outcome

from rota.broker.tasks import Run, Task, task_input
from rota.common.digests import digest
from rota.common.errors import UnknownTask
from rota.common.work import MODEL, Code, Done, Fold, Provenance
from rota.engine.executors import Executors, Folders
from rota.proof.changed import ChangePlan
from rota.proof.continuation import Change
from rota.proof.fork import fork
from rota.proof.model_answers import Remembered
from rota.proof.upgrade import check_upgrade
from rota.proof.verify import VerifyOptions, verify
from rota.runs.open import open_run


@pytest.fixture
def executors(tmp_path: Path) -> Iterator[Executors]:
    """Executors of a folder with nothing in it."""
    folders = Folders(
        modules=tmp_path / "modules", artefacts=tmp_path / "a", models=tmp_path / "models", tensors=tmp_path / "t"
    )
    with Executors(folders, device="cpu") as made:
        yield made


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, tmp_path / "artefacts")
    made.worker()
    made.deploy("counter")
    yield made
    made.close()


def test_the_fork_of_a_second_lane_verifies(bench: Bench, tmp_path: Path) -> None:
    """Goal: inputs that name tasks by seq do not contradict themselves in a fork, where turns are seqs.

    Method: a lane whose seqs are not its turns, with its deploys from another one, with a cancel, a retry and a dropped
    dead letter; fork it at its begin and in its middle, and verify what came.
    """
    producer, broker = bench.producer, bench.broker
    bench.submit("counter/z", b"", b"")
    producer.open_lane("two", deploys_from="main")
    bench.submit("counter/a", b"", b"", lane="two")
    bench.submit("nobody/a", b"", lane="two")
    producer.pause("two")
    assert producer.cancel(producer.submit("counter/q", b"", lane="two").first_seq)
    producer.release("two")
    unknown, cancelled = broker.lane("two").dead
    producer.submit_runs(lane="two", retry_of=unknown)
    producer.drop_dead(cancelled, lane="two")
    broker.run()
    bench.save()
    assert bench.verify().equal
    for turn in (0, 2):
        folder = tmp_path / f"fork{turn}"
        with open_run(bench.path) as source:
            assert fork(source, ChangePlan("two", turn, Change()), [], folder, "nothing", device="cpu").same
        with open_run(folder) as source, Executors(source.folders(), device="cpu") as runner:
            report = verify(source, runner, VerifyOptions())
        assert report.equal, [lane.fault for lane in report.lanes]
        assert [lane.compared for lane in report.lanes] == [5]


def test_a_recorded_lane_without_its_module_is_blocked(bench: Bench) -> None:
    """Goal: what cannot be computed is no divergence, in lanes of either policy. Method: remove the module."""
    bench.producer.open_lane("free", policy="recorded", deploys_from="main")
    bench.submit("counter/a", b"", b"", lane="free")
    bench.submit("counter/a", b"", b"")
    bench.save()
    assert bench.verify().equal
    for path in bench.folder.modules.iterdir():
        path.unlink()
    report = bench.verify()
    assert [(lane.mismatch, lane.fault) for lane in report.lanes] == [(None, None)] * 2
    assert [lane.blocked is not None and "is not in" in lane.blocked.reason for lane in report.lanes] == [True] * 2


def test_a_last_turn_in_a_lane_without_kept_records_is_refused(bench: Bench) -> None:
    """Goal: no EQUAL for a turn that was not compared. Method: cut all records of a lane, ask for a turn of it."""
    bench.producer.open_lane("two", deploys_from="main")
    bench.submit("counter/z", b"", lane="two")
    cut = len(bench.broker.journal)
    bench.submit("counter/z", b"")
    bench.save(cut_after=cut)
    report = bench.verify()
    assert report.equal
    assert {lane.lane: (lane.retired > 0, lane.compared) for lane in report.lanes}["two"] == (True, 0), "it is named"
    with pytest.raises(UnknownTask, match="turn 77 of lane 'two' is not among the 0 turns"):
        bench.verify(VerifyOptions("two", None, 77))


def test_code_that_was_bound_before_the_cut_can_be_upgraded(bench: Bench) -> None:
    """Goal: a deploy counts whose record is gone. Method: cut it off, check the same module and another one."""
    bench.submit("counter/z", b"", b"")
    cut = len(bench.broker.journal)
    bench.submit("counter/z", b"", b"")
    bench.save(cut_after=cut)
    with open_run(bench.path) as source:
        (came,) = check_upgrade(source, "counter", module("counter"), device="cpu")
        assert came.same
        (came,) = check_upgrade(source, "counter", module("echo"), device="cpu")
        assert not came.same


def test_what_completed_and_never_retired_is_executed_too(bench: Bench) -> None:
    """Goal: a result that was handed out before its turn retired cannot be forged.

    Method: a journal that ends while the head of the line runs; change the outcome of the task behind it, and then take
    its module away.
    """
    bench.deploy("mirror")
    bench.submit("counter/z", b"")
    bench.submit("mirror/a", output(b"1"), run=False)
    behind = bench.worker("w2")
    bench.submit("mirror/b", output(b"2"), run=False)
    assert behind.finish()
    bench.save()
    lane = bench.broker.lane()
    assert (lane.retired, [task.outcome is not None for task in lane.line()]) == (1, [False, True])
    assert bench.verify().equal
    bench.forge(with_outcome(3, result=b"forged"))
    report, (found,) = bench.judge()
    (checked,) = report.lanes
    assert (checked.retired, checked.mismatch is not None) == (1, True)
    assert (found.turn, found.cause, found.differs) == (3, "corrupt record", ("result",))
    assert found.command.endswith("--lane main")
    bench.forge(with_outcome(3, result=b"2"))
    assert bench.verify().equal
    (bench.folder.modules / f"{digest(module('mirror')).hex()}.wasm").unlink()
    (checked,) = bench.verify().lanes
    assert checked.blocked is not None
    assert checked.blocked.task.turn == 3


def test_a_timer_that_the_journal_never_fired_waits_in_a_changed_lane_too(bench: Bench) -> None:
    """Goal: the same module changes nothing. Method: a producer pins times far ahead, so a timer is due by a later
    input and not by the broker's clock.
    """
    bench.deploy("reminder")
    bench.submit("reminder/r", b"500 wake", now_ms=3_000_000_000_000)
    bench.submit("counter/a", b"", now_ms=3_000_000_001_000)
    bench.save()
    assert bench.broker.lane().timers
    with open_run(bench.path) as source:
        (came,) = check_upgrade(source, "counter", module("counter"), device="cpu")
    assert (came.same, came.left_out) == (True, ())


def test_a_call_that_was_answered_twice_has_each_answer_at_its_turn(executors: Executors) -> None:
    """Goal: a model that answers the same call in two ways changes nothing by itself.

    Method: remember both, ask at both turns, and at another.
    """
    model = Code(b"m" * 32, MODEL)
    remembered = Remembered(executors)
    run = Run(
        lane="main", first_seq=1, first_turn=1, targets="model:m", priority=0, kind="tell", sender=None, now_ms=0,
        parent=None, reply_to=None, payloads=(b"x", b"x"), tensors=None,
    )  # fmt: skip
    for index, result in enumerate([b"one", b"other"]):
        task = Task(run, index, model, 0, 0)
        task.outcome = Done(result, None, (), (), 0, ())
        task.provenance = Provenance("recorded", "cpu", b"f" * 32)
        remembered.remember(task)
    seen = [task_input(Task(run, index, model, 0, 0)) for index in (0, 1)]
    asked = [*seen, seen[0]._replace(turn=9)]
    (came,) = remembered.run_all([Fold(bytes(32), model, "model:m", None, tuple(asked))])
    assert [outcome.result for outcome in came.outcomes] == [b"one", b"other", b"one"]
