"""The ONNX executor on real models: results, bad calls, the tensor store, interrupts, and descriptions."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from _operator_graphs import FAMILIES
from onnx import helper
from smallest_model import SMALLEST_MODEL

from rota.common.errors import CodeError, ConfigError
from rota.common.model_call import Tensor, decode_result, encode_call
from rota.common.work import Code, Done, Failed, FoldResult, TensorRef
from rota.gpu_worker.certificate_store import CertificateStore
from rota.gpu_worker.executor import ModelExecutor
from rota.gpu_worker.loaded_model import KEPT_BYTES_MAX
from rota.gpu_worker.providers import why_not
from rota.tensors.arrays import decode_arrays, encode_arrays
from rota.worker.executor import Outside

NOBODY = Outside(lambda: None, lambda _: None)
ROOM_BYTES = KEPT_BYTES_MAX + (1 << 20)  # what a tiny model is estimated at, and a little
FOREVER = np.array(10**12)  # turns of a loop: hours


def outputs_of(bench: Any, result: FoldResult, index: int = 0) -> dict[str, Any]:
    assert result.stopped is None, result.reason
    done = result.outcomes[index]
    assert isinstance(done, Done), done
    return decode_arrays(done.result or b"", done.tensors, bench.store)


# --- results ------------------------------------------------------------------------------------------------------


def test_results_are_the_sessions_own_bits_for_any_mix_of_shapes(bench: Any, kit: Any) -> None:
    """Goal: the executor adds nothing to ONNX Runtime. Method: one fold of many shapes and repeats, compared bit by
    bit with `session.run` of the same session; no task may see another's buffers."""
    code = bench.add(kit.multilayer)
    random = np.random.default_rng(1)
    inputs = [random.standard_normal((rows, 16), np.float32) for rows in (1, 3, 1, 1, 8, 3, 1, 0, 1)]
    result = bench.run(code, *(kit.call(x=array) for array in inputs))
    session = bench.loaded(code).opened.session
    for index, array in enumerate(inputs):
        expected = session.run(None, {"x": array})[0]
        y = outputs_of(bench, result, index)["y"]
        assert (y.shape, y.tobytes()) == (expected.shape, expected.tobytes())
    assert result.provenance is not None
    assert result.provenance[:2] == ("bitwise", "cpu")
    assert len(result.provenance.fingerprint) == 32


@pytest.mark.parametrize("family", ["lstm", "gru"])
def test_a_call_without_rows_ends_no_worker(family: str, bench: Any, kit: Any) -> None:
    """Goal: bad input ends no process. Method: no rows for an operator for which ONNX Runtime calls std::terminate."""
    code = bench.add(lambda folder: FAMILIES[family]().save(folder / "model.onnx").parent)
    shapes = [(1, 10, 24), (0, 10, 24), (2, 10, 24)]
    result = bench.run(code, *[kit.call(x=np.ones(shape, np.float32)) for shape in shapes])
    assert [type(outcome) for outcome in result.outcomes] == [Done, Failed, Done]
    assert result.outcomes[1].kind == "bad_input"
    assert result.outcomes[1].message == (
        "model:m: input \"x\" has the shape [0, 10, 24], and this model cannot run with 'n' at 0: "
        "leave out calls without values"
    )


def test_only_the_wanted_outputs_come_back(bench: Any, kit: Any) -> None:
    """Goal: "outputs" selects and orders. Method: a model with two outputs, asked for one, for both, for none."""

    def two(path: Path) -> Path:
        nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["x"], ["n"])]
        return kit.build(path, nodes, [("x", "float32", [3])], [("r", "float32", [3]), ("n", "float32", [3])])

    code = bench.add(two)
    x = {"x": kit.tensor(np.array([-1, 0, 1], np.float32))}
    result = bench.run(code, *(kit.task(encode_call(x, wanted)) for wanted in (["n"], ["n", "r"], [])))
    assert [list(outputs_of(bench, result, index)) for index in range(3)] == [["n"], ["n", "r"], ["r", "n"]]
    assert outputs_of(bench, result)["n"].tolist() == [1, 0, -1]


def test_types_without_a_numpy_type_pass_both_ways(bench: Any, kit: Any) -> None:
    """Goal: bfloat16 goes in and comes out, inline and by reference. Method: a cast to and from it."""

    def there(path: Path) -> Path:
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        return kit.build(path, nodes, [("x", "bfloat16", ["n"])], [("y", "bfloat16", ["n"])])

    code = bench.add(there)
    small = np.arange(8).astype(ml_dtypes.bfloat16)
    large = np.arange(1 << 16).astype(ml_dtypes.bfloat16)
    for array in (small, large):
        payload, references = encode_arrays({"x": array}, store=bench.store)
        y = outputs_of(bench, bench.run(code, kit.task(payload, references)))["y"]
        assert (y.dtype, y.tobytes()) == (array.dtype, array.tobytes())


def test_scalars_and_empty_tensors_are_tensors(bench: Any, kit: Any) -> None:
    """Goal: rank 0 and extent 0 are no special cases. Method: an addition of both kinds."""

    def add(path: Path) -> Path:
        nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
        return kit.build(path, nodes, [("x", "float32", None)], [("y", "float32", None)])

    code = bench.add(add)
    arrays = [np.float32(2).reshape(()), np.empty((0, 7), np.float32), np.ones((2, 1, 2), np.float32)]
    result = bench.run(code, *(kit.call(x=array) for array in arrays))
    for index, array in enumerate(arrays):
        y = outputs_of(bench, result, index)["y"]
        assert (y.shape, y.tobytes()) == (array.shape, (array + array).tobytes())


# --- the tensor store ---------------------------------------------------------------------------------------------


def test_large_tensors_go_through_the_store(bench: Any, kit: Any) -> None:
    """Goal: above 64 KiB inputs are mapped and outputs land in the store, with equal bits. Method: an identity over
    256 KiB; the result's tensor must have the digest of the input's, so it is the same file."""

    def same(path: Path) -> Path:
        nodes = [helper.make_node("Identity", ["x"], ["y"])]
        return kit.build(path, nodes, [("x", "float32", ["n"])], [("y", "float32", ["n"])])

    code = bench.add(same)
    array = np.random.default_rng(2).standard_normal(1 << 16, np.float32)
    payload, references = encode_arrays({"x": array}, store=bench.store)
    result = bench.run(code, kit.task(payload, references))
    done = result.outcomes[0]
    assert isinstance(done, Done)
    assert done.tensors == references
    assert decode_result(done.result or b"", done.tensors)["y"] == Tensor("float32", (1 << 16,), 0)
    assert outputs_of(bench, result)["y"].tobytes() == array.tobytes()
    assert bench.store.stats().drafts == 0


def test_outputs_that_only_the_run_can_size(bench: Any, kit: Any) -> None:
    """Goal: a shape that depends on the data is right each time, small and large. Method: NonZero over inputs of one
    shape with different contents."""

    def where(path: Path) -> Path:
        nodes = [helper.make_node("NonZero", ["x"], ["y"])]
        return kit.build(path, nodes, [("x", "float32", ["n"])], [("y", "int64", [1, "found"])])

    code = bench.add(where)
    arrays = [np.zeros(1 << 14, np.float32) for _ in range(3)]
    arrays[0][[3, 5]] = 1
    arrays[1][:] = 1
    result = bench.run(code, *(kit.call(x=array) for array in arrays))
    for index, array in enumerate(arrays):
        y = outputs_of(bench, result, index)["y"]
        assert y.tolist() == [np.flatnonzero(array).tolist()]
    assert len(result.outcomes[1].tensors) == 1


def test_a_declaration_that_the_graph_does_not_keep_does_no_harm(bench: Any, kit: Any) -> None:
    """Goal: outputs are right even where the graph promises another shape. Method: a reshape to a shape that comes in
    as data, declared as the input's."""

    def liar(path: Path) -> Path:
        nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
        inputs = [("x", "float32", ["a", "b"]), ("to", "int64", [2])]
        return kit.build(path, nodes, inputs, [("y", "float32", ["a", "b"])])

    code = bench.add(liar)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    shapes = [[2, 3], [3, 2], [4, 4], [6, 1]]
    result = bench.run(code, *(kit.call(x=x, to=np.array(shape)) for shape in shapes))
    for index in (0, 1, 3):
        assert outputs_of(bench, result, index)["y"].tolist() == x.reshape(shapes[index]).tolist()
    assert isinstance(result.outcomes[2], Failed)
    assert result.outcomes[2].kind == "bad_input"


def test_without_a_store_everything_comes_inline(bench: Any, kit: Any) -> None:
    """Goal: an executor for one process needs no store, up to the limit of a result. Method: 128 KiB and 2 MiB."""
    code = bench.add(
        lambda path: kit.build(
            path, [helper.make_node("Neg", ["x"], ["y"])], [("x", "float32", ["n"])], [("y", "float32", ["n"])]
        )
    )
    alone = kit.Bench(bench.folder)
    alone.executor.close()
    alone.open(store=None)
    code = code._replace(limits=code.limits._replace(result_bytes=1 << 20))
    result = alone.run(code, *(kit.call(x=np.ones(n, np.float32)) for n in (1 << 15, 1 << 19)))
    alone.executor.close()
    assert len(outputs_of(bench, result)["y"]) == 1 << 15
    assert isinstance(result.outcomes[1], Failed)
    assert result.outcomes[1].kind == "bad_output"
    reference = TensorRef(bytes(32), "float32", (1,))
    alone.open(store=None)
    payload = encode_call({"x": Tensor("float32", (1,), 0)})
    failed = alone.run(code, kit.task(payload, (reference,))).outcomes[0]
    alone.executor.close()
    assert isinstance(failed, Failed)
    assert failed.kind == "bad_input"


def test_a_missing_tensor_is_the_workers_fault(bench: Any, kit: Any) -> None:
    """Goal: a lost file is no outcome of the task. Method: a reference to nothing after a task that works."""
    code = bench.add(kit.multilayer)
    reference = TensorRef(bytes(32), "float32", (1, 16))
    payload = encode_call({"x": Tensor("float32", (1, 16), 0)})
    result = bench.run(code, kit.call(x=np.ones((1, 16), np.float32)), kit.task(payload, (reference,)))
    assert (len(result.outcomes), result.stopped) == (1, "faulted")
    assert "is not in the store" in result.reason


# --- bad calls ----------------------------------------------------------------------------------------------------


def test_a_call_that_does_not_fit_names_what_was_expected(bench: Any, kit: Any) -> None:
    """Goal: every misfit is `bad_input` with the input, what it must be and what came; the next task is not hurt."""
    code = bench.add(kit.multilayer)
    good = kit.tensor(np.ones((1, 16), np.float32))
    cases = [
        (b"\xc1", "not one MessagePack value"),
        (encode_call({}), 'input "x" (float32 [n, 16]) is missing'),
        (encode_call({"z": good}), 'the model has no input "z"; it has "x"'),
        (encode_call({"x": good}, ["z"]), 'the model has no output "z"; it has "y"'),
        (encode_call({"x": kit.tensor(np.ones((1, 15), np.float32))}), "must be float32 [n, 16], got float32 [1, 15]"),
        (encode_call({"x": kit.tensor(np.ones(16, np.float32))}), "must be float32 [n, 16], got float32 [16]"),
        (encode_call({"x": kit.tensor(np.ones((1, 16)))}), "must be float32 [n, 16], got float64 [1, 16]"),
    ]
    result = bench.run(code, *(kit.task(payload) for payload, _ in cases), kit.task(encode_call({"x": good})))
    for (_, text), failed in zip(cases, result.outcomes, strict=False):
        assert isinstance(failed, Failed)
        assert failed.kind == "bad_input"
        assert failed.message.startswith("model:m: ")
        assert text in failed.message
    assert isinstance(result.outcomes[-1], Done)
    assert len(result.outcomes) == len(cases) + 1


def test_what_a_kernel_refuses_is_bad_input(bench: Any, kit: Any) -> None:
    """Goal: values and shapes that only a kernel can judge end as `bad_input`. Method: an index out of bounds, and a
    broadcast that cannot be."""

    def pick(path: Path) -> Path:
        nodes = [helper.make_node("Gather", ["table", "index"], ["row"]), helper.make_node("Add", ["row", "x"], ["y"])]
        inputs = [("index", "int64", []), ("x", "float32", ["n"])]
        return kit.build(path, nodes, inputs, [("y", "float32", ["n"])], {"table": np.ones((4, 3), np.float32)})

    code = bench.add(pick)
    three, two = np.ones(3, np.float32), np.ones(2, np.float32)
    result = bench.run(code, kit.call(index=np.array(9), x=three), kit.call(index=np.array(0), x=two))
    assert result.stopped is None, result.reason
    assert [outcome.kind for outcome in result.outcomes if isinstance(outcome, Failed)] == ["bad_input", "bad_input"]


# --- stops --------------------------------------------------------------------------------------------------------


def test_a_task_that_takes_too_long_ends_the_fold(bench: Any, kit: Any) -> None:
    """Goal: a timeout stops the run in the library, keeps what was done, and leaves the executor usable."""
    code = bench.add(kit.endless, timeout_ms=100)
    result = bench.run(code, kit.call(count=np.array(3)), kit.call(count=FOREVER), kit.call(count=np.array(1)))
    assert (len(result.outcomes), result.stopped) == (1, "timeout")
    assert "100 ms" in result.reason
    assert outputs_of(bench, bench.run(code, kit.call(count=np.array(5))))["y"].tolist() == [5]


def test_interrupt_stops_the_run_and_not_the_next_fold(bench: Any, kit: Any) -> None:
    """Goal: `interrupt` from another thread ends the fold soon. Method: a first fold loads the model; the second
    would run for hours, so it can only end by the interrupt, which is repeated until the fold has begun."""
    code = bench.add(kit.endless, timeout_ms=3_600_000)
    bench.executor.drop(1)  # nothing runs: no effect
    assert outputs_of(bench, bench.run(code, kit.call(count=np.array(2))))["y"].tolist() == [2]
    ended = threading.Event()
    job = bench.take(code, kit.call(count=FOREVER), kit.call(count=np.array(1)))

    def keep_interrupting() -> None:
        while not ended.wait(0.02):
            bench.executor.drop(job)

    thread = threading.Thread(target=keep_interrupting)
    thread.start()
    try:
        (result,) = bench.end(job)
    finally:
        ended.set()
        thread.join()
    assert (tuple(result.outcomes), result.stopped) == ((), "interrupted")
    assert outputs_of(bench, bench.run(code, kit.call(count=np.array(2))))["y"].tolist() == [2]


# --- models that cannot be used --------------------------------------------------------------------------------------


def test_a_model_that_is_missing_damaged_or_no_model_is_refused(bench: Any, kit: Any) -> None:
    """Goal: `prepare` raises `CodeError` that names file and remedy, `run` refuses with the same words."""
    absent = Code(bytes(32), "model")
    unknown = bench.add(lambda path: _write(path, SMALLEST_MODEL.replace(b"Relu", b"Bleu")), "unknown")
    damaged = bench.add(kit.multilayer, "damaged")
    file = bench.repository.show("damaged").model_path
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    newer = bench.add(lambda path: _too_new(kit.multilayer(path)), "newer")
    for code, words in (
        (absent, "rota model add"),
        (newer, "saved with IR version 99, and ONNX Runtime"),
        (unknown, "has no operator Bleu for opset 14"),
        (damaged, "is damaged"),
    ):
        with pytest.raises(CodeError, match=words):
            bench.prepare(code)
        result = bench.run(code, kit.call(x=np.ones((1, 16), np.float32)))
        assert (tuple(result.outcomes), result.stopped) == ((), "refused")
        assert words in result.reason


def test_a_model_with_huge_inputs_is_served_without_a_probe(bench: Any, kit: Any) -> None:
    """Goal: no declared shape ends a worker. Method: inputs of terabytes, one of which is empty; then a small model."""
    huge = 1 << 40

    def add(path: Path) -> Path:
        nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
        return kit.build(path, nodes, [("x", "float32", [huge])], [("y", "float32", [huge])])

    def empty(path: Path) -> Path:
        shape = [0, huge, huge]
        nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
        return kit.build(path, nodes, [("x", "float32", shape)], [("y", "float32", shape)])

    for name, make in (("add", add), ("empty", empty)):
        assert "at most 67108864" in bench.prepare(bench.add(make, name))["warm_up"]
    assert not bench.prepare(bench.add(kit.multilayer, "small"))["warm_up"]


def test_a_load_without_memory_is_refused(bench: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a load that the host has no memory for ends no worker. Method: memory runs out in the probe, which is only
    noted, and as the session is opened.
    """

    def no_memory(*_: object) -> None:
        raise MemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr("rota.gpu_worker.sessions.probe_input", no_memory)
        code = bench.add(kit.multilayer, "probe")
        assert bench.prepare(code)["warm_up"] == "not enough memory: no more"
    code = bench.add(lambda path: kit.multilayer(path, seed=1), "session")
    monkeypatch.setattr("rota.gpu_worker.sessions.open_session", lambda *_, **__: no_memory())
    with pytest.raises(CodeError, match="not enough memory to load"):
        bench.prepare(code)


def test_a_removed_version_is_served_no_more(bench: Any, kit: Any) -> None:
    """Goal: what a worker has loaded does not show. Method: remove a loaded version while a call of it waits, with and
    without another version of the same bytes; a deploy then finds that one, and its certificate is on file again.
    """
    code = bench.add(kit.multilayer, "first")
    x = kit.call(x=np.ones((1, 16), np.float32))
    answer = bench.run(code, x)
    certificates = CertificateStore(bench.repository.root)
    assert bench.add(kit.multilayer, "second") == code
    begun = bench.take(code, *[x] * 200)
    bench.step()  # one batch of several
    bench.repository.remove("first", 1)
    results = bench.end(begun, bench.take(code, x))
    assert [result.outcomes for result in results] == [answer.outcomes * 200, answer.outcomes]
    assert (bench.prepare(code)["model"], bench.prepare(code)["version"]) == ("second", 1)
    bench.repository.remove("second", 1)
    (result,) = bench.end(bench.take(code, x))
    assert (result.stopped, "add it on this host" in result.reason) == ("refused", True)
    assert list(certificates.all_of(code.digest.hex())) == []
    assert bench.add(kit.multilayer, "third") == code
    assert bench.prepare(code)["model"] == "third"
    assert len(list(certificates.all_of(code.digest.hex()))) == 1


def test_models_used_last_stay_within_the_budget_of_memory(bench: Any, kit: Any) -> None:
    """Goal: memory is bounded, and results do not show it. Method: room for two, three models in turn, twice; then all
    three at once in one job, so that the models that have work must close one after the other."""
    small = kit.Bench(bench.folder, memory_bytes=2 * ROOM_BYTES)
    codes = [small.add(lambda path, seed=seed: kit.multilayer(path, seed), f"m{seed}") for seed in range(3)]
    x = kit.call(x=np.ones((1, 16), np.float32))
    rounds = []
    for _ in range(2):
        rounds.append([small.run(code, x) for code in codes])
        assert len(list(small.executor._residents)) == 2
    rounds.append(small.end(*[small.take(code, x) for code in codes]))
    rounds.append(small.end(*[small.take(code, x, x, x) for code in codes]))
    small.executor.close()
    assert rounds[0] == rounds[1] == rounds[2]
    assert [result.outcomes for result in rounds[3]] == [result.outcomes * 3 for result in rounds[0]]
    assert rounds[0][0].outcomes != rounds[0][1].outcomes


def test_a_model_larger_than_the_budget_is_served_alone(bench: Any, kit: Any) -> None:
    """Goal: no budget makes a model unusable. Method: a budget of one byte, two models in turn and at once."""
    tight = kit.Bench(bench.folder, memory_bytes=1)
    codes = [tight.add(lambda path, seed=seed: kit.multilayer(path, seed), f"m{seed}") for seed in range(2)]
    x = kit.call(x=np.ones((1, 16), np.float32))
    alone = [tight.run(code, x) for code in codes]
    assert tight.end(*[tight.take(code, x) for code in codes * 3]) == alone * 3
    assert len(list(tight.executor._residents)) == 1
    tight.executor.close()


# --- providers ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not why_not("cuda"), reason="CUDA works here")
def test_falling_back_to_the_cpu_is_visible(
    bench: Any, kit: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Goal: without CUDA the worker says why, once, in the log and in the description, and not on stderr."""
    code = bench.add(kit.multilayer)
    with caplog.at_level(logging.WARNING):
        auto = kit.Bench(bench.folder, device="auto")
        description = auto.prepare(code)
    auto.executor.close()
    assert description["provider"] == "cpu"
    assert description["reason"] == auto.executor.reason
    assert "CUDA" in description["reason"]
    assert "\n" not in description["reason"]
    assert [record.getMessage() for record in caplog.records] == [f"model m 1 runs on the CPU: {description['reason']}"]
    assert "onnxruntime" not in capfd.readouterr().err
    assert bench.prepare(code)["reason"] == ""


@pytest.mark.skipif(not why_not("cuda"), reason="CUDA works here")
def test_a_required_cuda_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Goal: `require` never falls back. Method: a worker on a host without CUDA."""
    with pytest.raises(ConfigError, match="CUDA is required and cannot be had: "):
        ModelExecutor(tmp_path, None, NOBODY, device="cuda", require=True)
    with pytest.raises(ConfigError, match="must be named"):
        ModelExecutor(tmp_path, None, NOBODY, device="auto", require=True)
    with pytest.raises(ConfigError, match="no device 'tpu'"):
        ModelExecutor(tmp_path, None, NOBODY, device="tpu")


@pytest.mark.gpu
@pytest.mark.skipif(bool(why_not("cuda")), reason="no CUDA here")
def test_cuda_runs_strictly_and_repeats_its_bits(bench: Any, kit: Any) -> None:
    """Goal: on a CUDA host the model runs on CUDA alone and gives the same bits again, near the CPU's."""
    code = bench.add(kit.multilayer)
    x = kit.call(x=np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16))
    cuda = kit.Bench(bench.folder, device="cuda", require=True)
    result = cuda.run(code, x, x)
    nodes = cuda.loaded(code).facts["nodes"]
    cuda.executor.close()
    assert result.provenance is not None
    assert result.provenance.provider == "cuda"
    assert [name for name in nodes if name != "digest"] == ["CUDAExecutionProvider"]
    assert result.outcomes[0] == result.outcomes[1]
    expected = outputs_of(bench, bench.run(code, x))["y"]
    np.testing.assert_allclose(outputs_of(bench, result)["y"], expected, rtol=1e-5, atol=1e-6)


def _too_new(path: Path) -> Path:
    """Mark a model as saved by a later ONNX."""
    model = onnx.load(path)
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    return path


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
