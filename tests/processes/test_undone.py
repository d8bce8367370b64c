"""Work returned undone by real workers: tasks that need too much, tasks that do not stop, code being compiled.

How tasks share folds depends on the number of workers and their pace; outcomes and digests must not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wasmtime import wat2wasm

from rota.client import Client
from rota.common.work import Limits
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import RunFolder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper = onnx.helper
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

RotaUp = Callable[..., Any]
WAIT_SECONDS = 120

# Payload "!": recurse without end. Anything else comes back.
RECURSE = """(module (memory (export "memory") 1)
    (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
    (func $down (param i32) (result i32) (i32.add (call $down (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
    (func (export "rota_call") (param $at i32) (param $size i32) (result i64)
        (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33)) (then (drop (call $down (i32.const 0)))))
        (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $size)))))"""


def test_one_stack_overflow_fails_one_task(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: what one task asks too much is its own failure, however dispatch folded. Method: 100 tasks of which one
    recurses without end, thrice on 1, 2 and 4 workers: one failure each time, and lanes of one digest.
    """
    module = bytes(wat2wasm(RECURSE))
    digests = []
    for workers in (1, 2, 4):
        folder = run_dir / str(workers)
        up = rota_up(folder, cpu_workers=workers)
        with Client(folder) as client:
            for number in range(3):
                lane = f"lane{number}"
                client.open_lane(lane, seed=b"s" * 32)
                client.deploy("f", module, "function", lane=lane, code_limits=Limits(fuel=1 << 40))
                payloads = [b"!" if index == 10 else b"%d" % index for index in range(100)]
                outcomes = client.submit_many("f", payloads, lane=lane, now_ms=1).outcomes(WAIT_SECONDS)
                assert [(place, one.kind) for place, one in enumerate(outcomes) if not one.ok] == [(10, "faulted")]
                assert outcomes[10].attempts >= 3
                client.wait_idle(lane, timeout_s=WAIT_SECONDS)
                digests.append(client.digest(lane)["digest"])
        assert "stack overflow in rota_call" in up.text
        up.close()
    verify = [sys.executable, "-m", "rota.cli", "verify", str(run_dir / "2")]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0, "the verdicts are in the run"
    assert len(set(digests)) == 1


def test_one_call_too_large_fails_one_call(rota_up: RotaUp, run_dir: Path, tmp_path: Path) -> None:
    """Goal: as above, for models. Method: 40 calls whose input is the shape of what is made; one asks for 2^40 floats.
    On 1, 2 and 4 workers of one host, where the model gives the same bits, lanes have one digest.
    """
    digests = []
    for workers in (1, 2, 4):
        folder = run_dir / str(workers)
        up = rota_up(folder, cpu_workers=0, gpu_workers=workers, ROTA_REQUIRE="cpu")
        with Client(folder) as client:
            client.deploy_model("fill", _add(folder, tmp_path, _fill()))
            calls = [{"shape": np.array([1 << 40 if index == 5 else index + 1], np.int64)} for index in range(40)]
            outcomes = client.submit_many("model:fill", calls, now_ms=1).outcomes(WAIT_SECONDS)
            assert [(place, one.kind) for place, one in enumerate(outcomes) if not one.ok] == [(5, "faulted")]
            assert outcomes[5].message == "no worker could do it, in 3 tries"
            assert "Failed to allocate memory" in outcomes[5].log[-1]
            assert client.query("dead", lane="main")[0]["log"] == list(outcomes[5].log)
            client.wait_idle(timeout_s=WAIT_SECONDS)
            digests.append(client.digest()["digest"])
        up.close()
    assert len(set(digests)) == 1


def test_a_kernel_that_does_not_stop_costs_its_task_only(rota_up: RotaUp, run_dir: Path, tmp_path: Path) -> None:
    """Goal: no worker counts as dead, and the next task waits for the worker to be free. Method: one multiplication of
    large matrices with 200 ms, which the library cannot stop, and a small one behind it.
    """
    up = rota_up(run_dir, cpu_workers=0, gpu_workers=1, ROTA_REQUIRE="cpu")
    with Client(run_dir) as client:
        digest = _add(run_dir, tmp_path, _multiply(), "[ranges]\nshape = [3, 3]\n")
        client.deploy_model("multiply", digest, code_limits=Limits(timeout_ms=200))
        client.submit("model:multiply", {"shape": np.array([2, 2], np.int64)}).result(WAIT_SECONDS)
        large = client.submit("model:multiply", {"shape": np.array([4_000, 4_000], np.int64)})
        up.wait_for("was told to stop and does not")
        small = client.submit("model:multiply", {"shape": np.array([2, 2], np.int64)})
        assert large.outcome(WAIT_SECONDS).kind == "timeout"
        assert small.result(WAIT_SECONDS).attempts <= 2  # it may have been handed out while the news was on its way
        (worker,) = client.query("workers")
        assert (worker["pid"], worker["stuck"]) == (up.pids()["gpu-1"], [])
        assert [dead["kind"] for dead in client.query("dead")] == ["timeout"]


def test_others_are_served_while_code_is_compiled(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: a long compile holds up the tasks of that code only, and is seen. Method: bind a large module without a
    check, submit to it, then to a small one: the small one's result comes while the large one is being compiled.
    """
    rota_up(run_dir, cpu_workers=1)
    with Client(run_dir) as client:
        client.deploy("small", bytes(wat2wasm(RECURSE)), "function")
        client.deploy("large", _large_module(), "function", check=False, code_limits=Limits(timeout_ms=500))
        client.submit("small", b"x").result(WAIT_SECONDS)
        large = client.submit("large", b"x")
        while not client.query("workers")[0]["preparing"]:
            pass
        assert client.submit("small", b"y").result(WAIT_SECONDS).payload == b"y"
        ((address, _),) = client.query("workers")[0]["preparing"]
        assert address == "large"
        result = large.result(WAIT_SECONDS)
        assert (result.payload, result.attempts) == (b"x", 1)


def _large_module() -> bytes:
    """A module that takes seconds to compile: many functions of many operations."""
    steps = "".join(
        f"(local.set 0 (i32.mul (i32.add (local.get 0) (i32.const {n})) (local.get 0)))" for n in range(200)
    )
    functions = "".join(f"(func (param i32) (result i32) {steps} local.get 0)" for _ in range(600))
    return bytes(wat2wasm(RECURSE[:-1] + functions + ")"))


def _fill() -> Any:
    value = helper.make_tensor_value_info
    return helper.make_graph(
        [helper.make_node("ConstantOfShape", ["shape"], ["filled"]), helper.make_node("Size", ["filled"], ["y"])],
        "fill", [value("shape", INT64, [1])], [value("y", INT64, [])],
    )  # fmt: skip


def _multiply() -> Any:
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["x"]),
        helper.make_node("MatMul", ["x", "x"], ["product"]),
        helper.make_node("ReduceMax", ["product"], ["y"], keepdims=0),
    ]
    return helper.make_graph(nodes, "multiply", [value("shape", INT64, [2])], [value("y", FLOAT, [])])


def _add(run_dir: Path, folder: Path, graph: Any, settings: str = "") -> bytes:
    """Add a model with this model.toml."""
    path = folder / graph.name
    path.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path / "model.onnx")
    (path / "model.toml").write_text(settings)
    return Repository(RunFolder(run_dir).models).add(path, graph.name).digest
