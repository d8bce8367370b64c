"""Calls of flows and answers that come later, executed again: verify, fork, upgrade, and what a forged path looks like.

Real runs by a `Broker` of core_kit.py (divergence_kit.py) with the SDK's examples in Rust: the flow `waits` asks three
agents `a`, which postpone and ask `echo` first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from divergence_kit import Bench, with_outcome

from rota.broker.records import Completion
from rota.common.digests import digest
from rota.common.work import AGENT, Code
from rota.engine.executors import Executors
from rota.proof.changed import ChangePlan
from rota.proof.continuation import Change
from rota.proof.fork import fork
from rota.proof.processes import Kills, Processes
from rota.proof.upgrade import check_upgrade
from rota.proof.verify import VerifyOptions, verify
from rota.runs.open import open_run

RUST = Path(__file__).resolve().parents[2] / "sdk" / "rust" / "examples"


def deploy(bench: Bench, name: str, module: str, *, flow: bool = False) -> Code:
    data = (RUST / f"{module}.wasm").read_bytes()
    code = Code(digest(data), AGENT, flow=flow)
    (bench.folder.modules / f"{digest(data).hex()}.wasm").write_bytes(data)
    bench.producer.deploy(name, code)
    return code


@pytest.fixture
def calls(bench: Bench) -> Bench:
    """Three calls of `waits`: one gathers, one takes answers as they come, one is cancelled while it waits."""
    bench.worker()
    deploy(bench, "waits", "waits", flow=True)
    deploy(bench, "a", "desk")
    deploy(bench, "echo", "echo")
    bench.submit("a/z", b"transfer")
    bench.submit("waits", b"all", kind="ask")
    bench.submit("waits", b"as they come", kind="ask", deadline_ms=60_000)
    call = bench.producer.submit("waits", b"all", kind="ask").first_seq
    for worker in list(bench.broker.workers.values()):
        worker.finish()
        worker.finish()
    assert bench.producer.cancel(call) is True
    bench.broker.run()
    assert bench.producer.results[call].kind == "cancelled"
    assert sum(item.ok for item in bench.producer.results.values()) == 3
    assert not bench.broker.lane().open
    return bench


def in_the_middle(bench: Bench) -> int:
    """The number of records after which calls are in the middle of their work."""
    done = [number for number, record in enumerate(bench.records(), 1) if isinstance(record, Completion)]
    return done[len(done) // 3]


def test_calls_are_executed_again(calls: Bench) -> None:
    """Goal: what calls did is proved, from the first record and from the middle of them. Method: verify a run, and the
    same with its first records replaced by a snapshot; each with the believed part ending in the middle of a call.
    """
    calls.save()
    report = calls.verify()
    assert report.equal
    assert report.lanes[0].compared > 30
    assert report.lanes[0].counts.decisions >= 3
    for turn in range(4, report.lanes[0].retired, 7):
        assert calls.verify(VerifyOptions("main", turn)).equal


def test_a_snapshot_in_the_middle_of_calls(calls: Bench) -> None:
    """Goal: a run that begins in the middle of calls is proved from there. Method: cut records at three places."""
    calls.save()
    middle = in_the_middle(calls)
    calls.folder.journal.unlink()
    calls.save(cut_after=middle)
    report = calls.verify()
    assert report.equal
    assert 10 < report.lanes[0].compared < report.lanes[0].retired


def test_a_fork_in_the_middle_of_calls(calls: Bench, tmp_path: Path) -> None:
    """Goal: a run may be continued inside a call. Method: fork after several turns, with nothing changed, and with
    other code for those that it asks; both can be verified.
    """
    calls.save()
    retired = calls.broker.lane().retired
    for turn in range(3, retired, 9):
        with open_run(calls.path) as source:
            came = fork(source, ChangePlan("main", turn, Change()), [], tmp_path / f"fork{turn}", "no", device="cpu")
        assert came.same, (turn, came.first, came.left_out)
        assert not came.left_out
    echo = calls.broker.lane().deploys["echo"]
    with open_run(calls.path) as source:
        plan = ChangePlan("main", 6, Change(deploys=(("a", echo),)))
        came = fork(source, plan, [], tmp_path / "other", "no", device="cpu")
    assert not came.same
    with open_run(tmp_path / "other") as source, Executors(source.folders(), device="cpu") as runner:
        assert verify(source, runner, VerifyOptions()).equal


def test_an_upgrade_of_a_flow(calls: Bench) -> None:
    """Goal: new code of a flow is proved against old calls. Method: the same code, and another flow."""
    calls.save()
    with open_run(calls.path) as source:
        (came,) = check_upgrade(source, "waits", (RUST / "waits.wasm").read_bytes(), device="cpu")
        assert came.same
        (came,) = check_upgrade(source, "waits", (RUST / "trip.wasm").read_bytes(), device="cpu")
        assert not came.same
        assert came.first is not None
        assert "emits" in came.first.fields


def _steps(bench: Bench) -> list[tuple[int, Any]]:
    """The turns and outcomes of the first call."""
    folds = [fold for record in bench.records() if isinstance(record, Completion) for fold in record.folds]
    address = next(fold.address for fold in folds if fold.address.startswith("waits/~"))
    return [step for fold in folds if fold.address == address for step in zip(fold.turns, fold.outcomes, strict=True)]


@pytest.mark.parametrize("believed", [False, True])
def test_a_forged_step_is_found_and_named(calls: Bench, believed: bool) -> None:
    """Goal: a call that takes another path is a divergence at the step that differs, with both paths. Method: forge
    what a step emitted; verify from the start, and with all before the next step believed.
    """
    calls.save()
    (turn, outcome), (second, _), *_ = _steps(calls)
    emits = tuple([emit._replace(payload=b"forged") for emit in outcome.emits])
    calls.forge(with_outcome(turn, emits=emits))
    report, found = calls.judge(VerifyOptions("main", second) if believed else None)
    assert not report.equal
    assert (found[0].turn, found[0].target) == (turn, f"waits/~{turn}")
    assert found[0].cause == "corrupt record"
    assert "emit 0 payload" in found[0].differs
    if believed:
        before, now = next(line for line in found[0].evidence if "takes another path" in line).split('" before, "')
        assert f"takes another path at turn {turn}: " in before
        assert before.partition(': "')[2] != now.removesuffix('" now')


def test_the_cancel_of_a_pending_task_of_a_second_lane(calls: Bench, tmp_path: Path) -> None:
    """Goal: inputs that end waits name their task by turn where the lane is alone. Method: a lane whose seqs are not
    its turns, with a cancelled pending task and one that expires; verify and fork it.
    """
    calls.producer.open_lane("two", deploys_from="main")
    for deadline_ms in (0, 500):
        calls.submit("a/q", b"wait", lane="two", kind="ask", deadline_ms=deadline_ms)
    first = min(calls.broker.core.world.pending)
    assert first != calls.broker.core.world.pending[first].turn
    assert calls.producer.cancel(first) is True
    calls.broker.live(600)
    calls.broker.run()
    assert not calls.broker.core.world.pending
    calls.save()
    assert calls.verify(VerifyOptions("two")).equal
    with open_run(calls.path) as source:
        came = fork(source, ChangePlan("two", 1, Change()), [], tmp_path / "fork", "no", device="cpu")
    assert came.same, (came.first, came.left_out)
    with open_run(tmp_path / "fork") as source, Executors(source.folders(), device="cpu") as runner:
        assert verify(source, runner, VerifyOptions()).equal


@pytest.mark.processes
def test_calls_run_the_same_in_any_number_of_processes_that_are_killed(calls: Bench) -> None:
    """Goal: a call moves from process to process, and its guest is made again wherever it is needed. Method: the run
    in 2 and 8 processes, some of which are killed in the middle of calls; every digest is equal.
    """
    calls.save()
    for count in (2, 8):
        kills = Kills(count)
        with open_run(calls.path) as source, Processes(source.folders(), count, device="cpu", kills=kills) as runner:
            report = verify(source, runner, VerifyOptions())
        assert report.equal, count
        assert report.lanes[0].digest == calls.broker.lane().digest
        assert kills.done >= 1


@pytest.mark.parametrize("flow", [True, False])
def test_a_cancel_before_the_retire_in_a_fork(bench: Bench, tmp_path: Path, flow: bool) -> None:
    """Goal: what a fork has not executed yet when a cancel ends the wait for it is executed, as in the run. Method: a
    task that postpones, or a call that asks, completes behind one that is not done, and is cancelled; fork before it.
    """
    workers = [bench.worker("w1"), bench.worker("w2")]
    deploy(bench, "waits", "waits", flow=True)
    deploy(bench, "a", "desk")
    deploy(bench, "echo", "echo")
    bench.submit("echo/head", b"slow", run=False)
    asked = bench.producer.submit("waits" if flow else "a/x", b"all" if flow else b"wait", kind="ask").first_seq
    (held,) = [one for one in workers if one.turns() == [asked]]
    held.finish()
    assert bench.producer.cancel(asked) is True
    bench.broker.run()
    assert bench.producer.results[asked].kind == "cancelled"
    bench.save()
    assert bench.verify().equal
    with open_run(bench.path) as source:
        came = fork(source, ChangePlan("main", 0, Change()), [], tmp_path / "fork", "no", device="cpu")
    assert came.same, (came.first, came.left_out)
    assert not came.left_out
