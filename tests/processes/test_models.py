"""Models on a real GPU worker process with the CPU provider: inline, by tensor reference, and asked by an agent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.client import Client, TaskFailed
from rota.common.errors import CodeError
from rota.common.limits import INLINE_BYTES_MAX
from rota.common.model_call import Tensor, decode_result, encode_call
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import RunFolder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper = onnx.helper
BOOL, FLOAT, INT64 = onnx.TensorProto.BOOL, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

ASKER = Path(__file__).resolve().parents[2] / "examples" / "agents" / "asker.wasm"

RotaUp = Callable[..., Any]


def test_model_inline_by_reference_and_asked_by_an_agent(rota_up: RotaUp, run_dir: Path, tmp_path: Path) -> None:
    """Goal: the whole way of a model task. Method: a model that doubles and adds one, called by a producer with a small
    and with a large array, and by an agent; each result says that it ran on the CPU.
    """
    rota_up(run_dir, cpu_workers=1, gpu_workers=1, ROTA_REQUIRE="cpu")
    with Client(run_dir) as client:
        client.deploy_model("double", _add_model(run_dir, tmp_path))
        small = np.arange(6, dtype=np.float32).reshape(2, 3)
        large = np.arange(INLINE_BYTES_MAX, dtype=np.float32).reshape(1, -1)
        inline, referenced = client.submit_many("model:double", [{"x": small}, {"x": large}]).results(60)
        np.testing.assert_array_equal(inline.arrays["y"], small * 2 + 1)
        assert inline.tensors == ()
        np.testing.assert_array_equal(referenced.arrays["y"], large * 2 + 1)
        assert len(referenced.tensors) == 1, "so large an output travels through the tensor store"
        for result in (inline, referenced):
            assert result.provenance is not None
            assert result.provenance.provider == "cpu"

        client.deploy("asker", ASKER)
        call = encode_call({"x": Tensor("float32", small.shape, small.tobytes())})
        client.submit("asker/a", b"model:double " + call).result(60)
        client.wait_idle(timeout_s=60)
        answer = client.submit("asker/a", b"get").result(60).payload
        assert answer is not None
        turn, _, payload = answer.partition(b": ")
        assert int(turn) > 3
        assert decode_result(payload, ())["y"].data == (small * 2 + 1).tobytes()


def test_wrong_input_and_unknown_model_are_outcomes(rota_up: RotaUp, run_dir: Path, tmp_path: Path) -> None:
    """Goal: a bad call costs its task only. Method: an input of the wrong rank, one of a wrong name, and a model that
    is not there, between good ones.
    """
    rota_up(run_dir, cpu_workers=0, gpu_workers=1, ROTA_REQUIRE="cpu")
    good = {"x": np.ones((1, 2), np.float32)}
    with Client(run_dir) as client:
        client.deploy_model("double", _add_model(run_dir, tmp_path))
        batch = client.submit_many(
            ["model:double", "model:double", "model:double", "model:none", "model:double"],
            [good, {"x": np.ones(3, np.float32)}, {"z": good["x"]}, good, good],
        )
        outcomes = batch.outcomes(60)
        assert [outcome.kind for outcome in outcomes] == ["", "bad_input", "bad_input", "unknown_model", ""]
        with pytest.raises(TaskFailed, match="bad_input"):
            outcomes[1].raise_if_failed()


def test_killed_gpu_worker_loses_no_call(rota_up: RotaUp, run_dir: Path, tmp_path: Path) -> None:
    """Goal: the death of the only GPU worker costs time only. Method: 40 calls of a model that counts in a loop, kill
    the worker after five results; every call has its result once, and some were begun twice.
    """
    up = rota_up(run_dir, cpu_workers=0, gpu_workers=1, ROTA_REQUIRE="cpu")
    with Client(run_dir) as client:
        client.deploy_model("count", _add_loop(run_dir, tmp_path))
        batch = client.submit_many("model:count", [{"turns": np.array(20_000 + n)} for n in range(40)])
        results = []
        for result in batch.as_completed(timeout_s=60):
            results.append(result)
            if len(results) == 5:
                os.kill(up.pids()["gpu-1"], signal.SIGKILL)
        results.sort(key=lambda result: result.seq)
        assert [float(result.arrays["y"][0]) for result in results] == [20_000.0 + n for n in range(40)]
        assert {result.attempts for result in results} == {1, 2}


def test_a_model_that_draws_numbers_needs_a_word_of_its_producer(
    rota_up: RotaUp, run_dir: Path, tmp_path: Path
) -> None:
    """Goal: results that nobody can compute again enter a lane only where its producer says so. Method: a graph with
    RandomUniformLike: deployed with a check, without one, and with `recorded`.
    """
    rota_up(run_dir, gpu_workers=1, ROTA_REQUIRE="cpu")
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["n", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("RandomUniformLike", ["x"], ["y"])], "noise", [x], [y])
    digest = _add(run_dir, tmp_path, graph)
    call = {"x": np.zeros((1, 2), np.float32)}
    with Client(run_dir) as client:
        with pytest.raises(CodeError, match=r"RandomUniformLike.*--recorded"):
            client.deploy_model("noise", digest)
        client.deploy_model("noise", digest, check=False)
        with pytest.raises(TaskFailed, match="deploy the model with --recorded") as failed:
            client.submit("model:noise", call).result(60)
        assert failed.value.fields["kind"] == "refused"
        client.deploy_model("noise", digest, recorded=True)
        source = client.submit("model:noise", call).result(60).provenance
        assert source is not None
        assert (source.result_class, source.certificate) == ("recorded", "D")


def _add_model(run_dir: Path, folder: Path) -> bytes:
    """Add y = x * 2 + 1 to the model repository of a run folder, and return its digest."""
    shape = ["n", "m"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Add", ["twice", "one"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, shape)],
        [onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    return _add(run_dir, folder, graph)


def _add_loop(run_dir: Path, folder: Path) -> bytes:
    """Add y = 1 + 1 + ... (`turns` times) to the model repository of a run folder, and return its digest."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["before", "one"], ["after"]), helper.make_node("Identity", ["go_on"], ["still"])],
        "body",
        [
            value("turn", INT64, []),
            value("go_on", BOOL, []),
            value("before", FLOAT, [1]),
        ],
        [value("still", BOOL, []), value("after", FLOAT, [1])],
        [onnx.numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "yes", "zero"], ["y"], body=body)],
        "count",
        [value("turns", INT64, [])],
        [value("y", FLOAT, [1])],
        [
            onnx.numpy_helper.from_array(np.array(True), "yes"),
            onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
        ],
    )
    return _add(run_dir, folder, graph)


def _add(run_dir: Path, folder: Path, graph: Any) -> bytes:
    path = folder / f"{graph.name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return Repository(RunFolder(run_dir).models).add(path, graph.name).digest
