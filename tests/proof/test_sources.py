"""Verify and fork of runs with sources, whose images each process makes for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from divergence_kit import Bench
from tiny_runtime import tiny_contents, tiny_runtime

from rota.broker.modules import ModuleStore
from rota.common.code_kinds import IS_MODULE, content_file
from rota.common.digests import digest
from rota.common.work import SOURCE, Code
from rota.engine.executors import Executors
from rota.proof.changed import ChangePlan
from rota.proof.continuation import Change
from rota.proof.fork import fork
from rota.proof.verify import VerifyOptions, verify
from rota.runs.open import open_run
from rota.runtimes.folder import FOLDER_VARIABLE


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A run in which a source of the language `tiny` is deployed."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "runtimes"))
    made = Bench(tmp_path, tmp_path / "artefacts")
    made.worker()
    runtime, bundle = tiny_contents("khello")
    store = ModuleStore(made.folder.modules)
    for content in (runtime, bundle):
        store.keep(digest(content), content)
    made.producer.deploy("planner", Code(digest(bundle), SOURCE))
    yield made
    made.close()


def test_a_source_verifies(bench: Bench, tmp_path: Path) -> None:
    """Goal: a run with a source is proved without the images of its workers. Method: verify and fork without them."""
    bench.submit("planner/a", b"", b"")
    bench.submit("planner/b", b"")
    bench.save()
    for path in (tmp_path / "artefacts").glob("*.image"):
        path.unlink()
    report = bench.verify()
    assert report.equal
    assert [lane.compared for lane in report.lanes] == [3]
    with open_run(bench.path) as source:
        assert fork(source, ChangePlan("main", 1, Change()), [], tmp_path / "fork", "nothing", device="cpu").same
    with open_run(tmp_path / "fork") as source, Executors(source.folders(), device="cpu") as runner:
        assert verify(source, runner, VerifyOptions()).equal


def test_a_source_without_its_runtime_is_blocked(bench: Bench) -> None:
    """Goal: a missing runtime is no divergence, and is named. Method: remove the module, keep the bundle."""
    bench.submit("planner/a", b"")
    bench.save()
    module = bench.folder.modules / content_file(digest(tiny_runtime()), IS_MODULE)
    module.unlink()
    for path in (bench.folder.root.parent / "runtimes").rglob("*.program"):
        path.unlink()
    report = bench.verify()
    (lane,) = report.lanes
    assert lane.blocked is not None
    assert module.name in lane.blocked.reason
