"""The divergence report for models: on another device, with another runtime."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from divergence_kit import Bench, with_outcome, with_record
from onnx import TensorProto, helper, numpy_helper

from rota.broker import records
from rota.common.model_call import Tensor, encode_call
from rota.common.work import MODEL, Code, Done
from rota.engine.executors import Executors
from rota.gpu_worker.certificate import alone, decode, encode
from rota.gpu_worker.certificate_store import FOLDER
from rota.gpu_worker.repository import Repository
from rota.proof.bisect import Predicate, find_first
from rota.proof.changed import ChangePlan
from rota.proof.continuation import Change
from rota.proof.fork import fork
from rota.proof.verify import VerifyOptions, verify
from rota.runs.open import CACHE_VARIABLE, open_run
from rota.runs.walk import Walk

LIVE = VerifyOptions(live_models=True)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A run with a model that adds one: three calls, each a turn."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    made = Bench(tmp_path, tmp_path / "cache" / "artefacts")
    entry = Repository(made.folder.models).add(adder(tmp_path / "m.onnx"), "m")
    made.worker("g1", "gpu")
    made.producer.deploy("model:m", Code(entry.digest, MODEL))
    for place in range(3):
        made.submit("model:m", call(float(place)))
    made.save()
    yield made
    made.close()


def adder(path: Path) -> Path:
    """x [1] -> y [1] = x + 1."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def call(value: float) -> bytes:
    array = np.array([value], np.float32)
    return encode_call({"x": Tensor(array.dtype.name, array.shape, array.tobytes())})


def result(value: float) -> Any:
    """Change the number in a result, and nothing of its form."""
    wanted = np.array([value], np.float32).tobytes()
    return lambda found: found[:-4] + wanted


def elsewhere(record: Any) -> Any:
    """The completion of another device."""
    folds = [
        one._replace(provenance=one.provenance._replace(provider="cuda", fingerprint=bytes(32))) for one in record.folds
    ]
    return record._replace(folds=tuple(folds))


def facts(**changes: str) -> Any:
    return lambda record: record._replace(
        facts=tuple([(name, changes.get(name, value)) for name, value in record.facts])
    )


def test_results_are_read_back_or_computed_again(bench: Bench) -> None:
    """Goal: an honest run is equal both ways."""
    for options in (VerifyOptions(), LIVE):
        report = bench.verify(options)
        assert report.equal
        assert report.lanes[0].counts.models_executed == 3
        assert (report.lanes[0].counts.models_read_back, report.lanes[0].elsewhere) == (0, ())


def test_results_of_another_fingerprint_are_read_back_and_named(bench: Bench) -> None:
    """Goal: what cannot be computed again here is counted by itself, and computed on demand. Method: a run on another
    device, a run whose models are gone, and one whose results are recorded.
    """
    bench.forge(with_record(records.Completion, 0, elsewhere))
    report = bench.verify()
    assert report.equal
    (lane,) = report.lanes
    assert (lane.counts.models_executed, lane.counts.models_elsewhere) == (2, 1)
    (named,) = lane.elsewhere
    assert (named.address, named.results, named.provenance.provider) == ("model:m", 1, "cuda")
    assert named.reason.startswith("here it has fingerprint ")
    assert bench.verify(LIVE).lanes[0].counts.models_executed == 3
    shutil.rmtree(bench.folder.models)
    (lane,) = bench.verify().lanes
    assert lane.equal
    assert (lane.counts.models_executed, lane.counts.models_elsewhere) == (0, 3)
    assert all(one.reason.startswith("it cannot be run here: ") for one in lane.elsewhere)


def test_a_bitwise_result_that_differs_is_found(bench: Bench) -> None:
    """Goal: a changed result of a model is found without a word of the user, and the report says by which
    certificate it is known. Method: another number in the record of the second turn.
    """
    bench.forge(with_outcome(2, result=result(7)))
    report, (found,) = bench.judge()
    assert not report.equal
    assert (found.turn, found.cause) == (2, "corrupt record")
    assert any("bitwise by certificate C under fingerprint " in one for one in found.evidence), found.evidence


def test_a_result_of_another_device(bench: Bench) -> None:
    """Goal: the device is named. Method: another result, from another provider with another fingerprint."""
    bench.forge(with_record(records.Completion, 1, elsewhere))
    bench.forge(with_outcome(2, result=result(2.0000002)))
    assert bench.verify().equal
    _, (found,) = bench.judge(LIVE)
    assert (found.turn, found.cause) == (2, "device")
    assert "the model ran on cuda" in found.why
    assert found.differs == ("result",)
    assert found.command.endswith("--from 2 --to 2 --live-models")


def test_a_result_of_another_runtime(bench: Bench) -> None:
    """Goal: another ONNX Runtime is named before the device. Method: its version in the worker's fingerprint."""
    bench.forge(with_record(records.Completion, 1, elsewhere))
    bench.forge(with_outcome(2, result=result(2.0000002)))
    bench.forge(with_record(records.Fingerprint, 0, facts(runtime="0.1.0")))
    _, (found,) = bench.judge(LIVE)
    assert (found.turn, found.cause) == (2, "runtime version")
    assert "had runtime '0.1.0'" in found.why


def test_a_result_of_the_same_device(bench: Bench) -> None:
    """Goal: where neither differs, the record is what is wrong."""
    bench.forge(with_outcome(3, result=result(4)))
    _, (found,) = bench.judge(LIVE)
    assert (found.turn, found.cause) == (3, "corrupt record")


def test_another_model_under_the_old_name(bench: Bench) -> None:
    """Goal: a model file that was changed is the code's fault, at its first turn."""
    (path,) = bench.folder.models.rglob("*.onnx")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(np.ones(1, np.float32).tobytes(), np.full(1, 2, np.float32).tobytes()))
    assert bench.verify().equal
    _, (found,) = bench.judge(LIVE)
    assert (found.turn, found.cause) == (1, "code")


def test_a_certificate_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a model that breaks its promise is named, and not the record. Method: one that draws numbers, with a
    certificate that says it does not; its generator begins with the same in each session, so only trials can tell.
    """
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    made = Bench(tmp_path, tmp_path / "cache" / "artefacts")
    code = Code(Repository(made.folder.models).add(drawing(tmp_path / "m.onnx"), "m").digest, MODEL)
    assert made.executors().prepare(code._replace(recorded=True), "model:m")["certificate"] == "D"
    (path,) = (made.folder.models / FOLDER).rglob("*.json")
    found, value = decode(path.read_text())
    path.write_text(encode(alone("a lie", found.probe), value["model"], value["conditions"]))
    made.worker("g1", "gpu")
    made.producer.deploy("model:m", code)
    for place in range(3):
        made.submit("model:m", call(float(place)))
    made.save()
    made.close()
    made.forge(with_outcome(2, result=result(7)))
    report, (divergence,) = made.judge()
    assert not report.equal
    assert (divergence.turn, divergence.cause) == (2, "certificate")
    assert "the model has certificate C under fingerprint " in divergence.why
    assert "rota model probe --again" in divergence.why


def test_what_a_result_claims_of_its_certificate_is_compared(bench: Bench) -> None:
    """Goal: a false claim in a result is told, though no digest covers it; and where bits differ, the fingerprint that
    the result names counts, and not the facts of its worker. Method: a certificate B, then a runtime that never was.
    """
    bench.forge(with_record(records.Completion, 1, claiming("B")))
    report = bench.verify()
    assert report.equal
    (note,) = bench.notes(report)
    assert (note.first_turn, note[2:5]) == (2, ("certificate", "B", "C"))
    bench.forge(with_record(records.Fingerprint, 0, facts(runtime="0.1.0")))
    bench.forge(with_outcome(2, result=result(7)))
    _, (found,) = bench.judge()
    assert (found.turn, found.cause) == (2, "corrupt record")


def claiming(certificate: str) -> Any:
    def changed(record: Any) -> Any:
        folds = [one._replace(provenance=one.provenance._replace(certificate=certificate)) for one in record.folds]
        return record._replace(folds=tuple(folds))

    return changed


def drawing(path: Path) -> Path:
    """x [1] -> y [1]: random numbers, in each session the same row."""
    nodes = [helper.make_node("RandomUniformLike", ["x"], ["y"], seed=3.0)]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in "xy"]
    graph = helper.make_graph(nodes, "test", *ports)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_proof_keeps_certificates_of_its_own(bench: Bench, tmp_path: Path) -> None:
    """Goal: verify changes nothing in a run. Method: a run without its certificates; it is proved, probed once, and
    has none afterwards.
    """
    shutil.rmtree(bench.folder.models / FOLDER)
    before = sorted(bench.path.rglob("*"))
    assert bench.verify().lanes[0].counts.models_executed == 3
    assert sorted(bench.path.rglob("*")) == before
    assert len(list((tmp_path / "cache" / FOLDER).rglob("*.json"))) == 1


def test_a_fork_and_a_bisection_compute_models(bench: Bench, tmp_path: Path) -> None:
    """Goal: what is bitwise is computed where a change needs it. Method: another input for the third call; the fork has
    its result, proves, and bisect finds in both runs the turn that has the number 3.
    """
    inputs = [number for number, one in enumerate(bench.records(), 1) if isinstance(one, records.Submitted)]
    forked = tmp_path / "forked"
    with open_run(bench.path) as source:
        plan = ChangePlan("main", 1, Change(edited=((inputs[2], 0, call(41.0)),)), inputs=True)
        came = fork(source, plan, [], forked, "another number", device="cpu")
    assert came.retired == 3
    with open_run(forked) as source, Executors(source.folders(), device="cpu") as runner:
        assert verify(source, runner, VerifyOptions()).equal
        last = [task for step in Walk(source).steps() for task in step.retired("main")][-1]
        assert isinstance(last.outcome, Done)
        assert (last.outcome.result or b"")[-4:] == np.float32(42).tobytes()
        assert last.provenance is not None
        assert last.provenance.result_class == "bitwise"
    for path, turn in ((bench.path, 3), (forked, None)):
        with open_run(path) as source, Executors(source.folders(), device="cpu") as runner:
            found = find_first(source, "main", Predicate(f"result[-4:] == {np.float32(3).tobytes()!r}"), runner)
            assert (None if found.task is None else found.task.turn) == turn
