"""A run of real processes with all features, verified beside its broker, elsewhere, and with dying workers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wasmtime import wat2wasm

from rota.client import Client, Limits
from rota.common.errors import ConfigError
from rota.common.model_call import Tensor, encode_call
from rota.common.work import FUNCTION
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import RunFolder
from rota.proof.verification import Proof, lane_of, prove
from rota.proof.verify import LaneReport, VerifyOptions
from rota.runs.open import open_run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

AGENTS = Path(__file__).resolve().parents[2] / "examples" / "agents"
ENDLESS = """(module (memory (export "memory") 1)
  (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "rota_call") (param i32 i32) (result i64) (loop $again (br $again)) i64.const 0))"""
LANES = ("main", "other", "recorded")


def test_a_run_with_everything_verifies_everywhere(rota_up: Callable[..., Any], run_dir: Path, tmp_path: Path) -> None:
    """Goal: a real run is equal to its repetition, wherever and by however many. Method: agents, asks, timers,
    priorities, failures, cancels, timeouts, retries, models, three lanes, one of them `recorded`; verified beside the
    live broker, then from a copy without models in one process and in two, of which some are killed.
    """
    up = rota_up(run_dir, cpu_workers=2, gpu_workers=1, ROTA_REQUIRE="cpu")
    with Client(run_dir) as client:
        _deploy(client, run_dir, tmp_path)
        for lane in LANES:
            _work(client, lane)
        digests = {lane: client.digest(lane) for lane in LANES}
    beside = _prove(run_dir, (0,), VerifyOptions())
    up.close()
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("models", "sockets", "s", "*.sock"))
    elsewhere = _prove(copy / "run.rota", (0, 2), VerifyOptions())
    wild = _prove(copy, (2,), VerifyOptions(), kill_seed=3)
    live = _prove(run_dir, (1,), VerifyOptions("main", live_models=True))

    for proof in (beside, elsewhere, wild):
        assert proof.verdict == "equal", proof.divergences
        for one in proof.rounds:
            found = {lane.lane: (lane.retired, lane.digest) for lane in one.report.lanes}
            assert found == {lane: (told["retired"], told["digest"]) for lane, told in digests.items()}
    assert wild.rounds[0].kills >= 1
    for lane in elsewhere.last.lanes:
        assert lane.compared == lane.retired
        assert (lane.counts.models_elsewhere, lane.counts.models_read_back) == (2, 0)
        assert lane.counts.models_executed == 0
        assert lane.counts.decisions == 2, "one cancel and one timeout"
        assert lane.counts.executed > 60
    assert [lane.counts.models_executed for lane in beside.last.lanes] == [2, 2, 2], "bitwise, under this fingerprint"
    (lane,) = live.last.lanes
    assert live.verdict == "equal", "the same machine computes the same"
    assert (lane.counts.models_read_back, lane.counts.models_executed) == (0, 2)

    _check_parts(copy, elsewhere.last.lanes[0])
    _no_lane_is_meant(copy)


def _check_parts(copy: Path, whole: LaneReport) -> None:
    """A part of a lane gives the same digests; the rest is believed or skipped."""
    end = _prove(copy, (0,), VerifyOptions("main", first_turn=50))
    (lane,) = end.last.lanes
    assert end.verdict == "equal"
    assert (lane.retired, lane.digest) == (whole.retired, whole.digest)
    assert lane.compared + lane.counts.believed == whole.retired
    assert 0 < lane.counts.executed < whole.counts.executed
    begin = _prove(copy, (0,), VerifyOptions("main", last_turn=50))
    assert begin.verdict == "equal"
    assert 0 < begin.last.lanes[0].retired < whole.retired


def _no_lane_is_meant(run: Path) -> None:
    """A part of a run needs a lane where several have tasks."""
    with (
        open_run(run) as source,
        pytest.raises(ConfigError, match=r"--lane \(lanes with tasks: main, other, recorded\)"),
    ):
        lane_of(source)


def _prove(run: Path, workers: tuple[int, ...], options: VerifyOptions, kill_seed: int | None = None) -> Proof:
    with open_run(run) as source:
        return prove(source, workers, options, kill_seed=kill_seed)


# --- the run --------------------------------------------------------------------------------------


def _deploy(client: Client, run_dir: Path, folder: Path) -> None:
    for name in ("relay", "counter", "asker", "reminder"):
        client.deploy(name, AGENTS / f"{name}.wasm")
    client.deploy("echo", AGENTS / "echo_function.wasm", FUNCTION, reuse=True)
    client.deploy("endless", bytes(wat2wasm(ENDLESS)), FUNCTION, code_limits=Limits(fuel=1 << 60, timeout_ms=100))
    client.deploy_model("double", _add_model(run_dir, folder))
    client.open_lane("other", window=3)
    client.open_lane("recorded", policy="recorded")


def _work(client: Client, lane: str) -> None:
    """Use all features in a lane, and wait until it is idle."""
    client.pause(lane)
    for priority in (0, 5, -3):
        client.submit_many("relay/0", [b"2 3 5"] * 2, lane=lane, priority=priority, wait=False)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    call = encode_call({"x": Tensor("float32", array.shape, array.tobytes())})
    client.submit_many(
        ["asker/a", "asker/a", "asker/b", "reminder/r", "counter/c", "relay/1", "nobody", "echo", "model:double"],
        [b"counter/c 1", b"model:double " + call, b"nobody x", b"5 later", b"", b"nonsense", b"", b"text", call],
        lane=lane,
        wait=False,
    )
    caught = client.submit("counter/c", b"never", lane=lane)
    assert caught.cancel()
    stuck = client.submit("endless", b"", lane=lane)
    client.release(lane)
    assert stuck.outcome(60).kind == "timeout"
    dead = next(one["seq"] for one in client.query("dead", lane=lane, limit=100) if one["target"] == "relay/1")
    client.retry(dead, lane=lane).outcome(60)
    client.wait_idle(lane, timeout_s=60)


def _add_model(run_dir: Path, folder: Path) -> bytes:
    """Add y = x + x to the model repository of a run folder, and return its digest."""
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [value("x", kind, ["n", "m"])],
        [value("y", kind, ["n", "m"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "double.onnx")
    return Repository(RunFolder(run_dir).models).add(folder / "double.onnx", "double").digest
