"""A GPU worker whose device is lost while it runs: the process ends, others do its work, nothing is lost.

The device is a stand-in (kits/cuda_stand_in.py) that raises the library's own text; worker, broker and client are real
processes. The probe's process has no such device and finds class D, so the deploys accept recorded results.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.client import Client
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import RunFolder
from rota.host.service import Exit

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

STAND_IN = Path(__file__).resolve().parents[1] / "kits" / "cuda_stand_in.py"
WAIT_SECONDS = 60
LOST = (
    "Error in execution: Non-zero status code returned while running Add node. Name:'' Status Message: "
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=here ; file=cuda_call.cc ; line=7 ; "
    "expr=x; "
)


@pytest.mark.parametrize("passed", [0, 1], ids=["warm-up", "call"])
def test_the_worker_ends_and_its_tasks_run_elsewhere(
    rota_up: Callable[..., Any], start_process: Callable[..., Any], run_dir: Path, tmp_path: Path, passed: int
) -> None:
    """Goal: a sticky error ends the process with its own code, as a death: the task runs again and gets its result.
    Method: a worker whose device is lost in the warm-up of a model, or at its first call; a second one that works.
    """
    rota_up(run_dir, cpu_workers=0, gpu_workers=0)
    trigger = tmp_path / "error"
    trigger.write_text(f"{passed}\n{LOST}", encoding="utf-8")
    worker = start_process(str(STAND_IN), str(trigger), "--dir", str(run_dir), "--require", "cuda")
    worker.wait_for("^ready gpu-worker")
    with Client(run_dir) as client:
        client.deploy_model("double", _add_model(run_dir, tmp_path), check=False, recorded=True)
        task = client.submit("model:double", {"x": np.ones(3, np.float32)})
        assert worker.wait() == Exit.DEVICE
        assert "ending: the device is lost" in worker.text
        assert "CUDA failure 700: an illegal memory access was encountered" in worker.text
        assert "Traceback" not in worker.text
        trigger.unlink()
        start_process(str(STAND_IN), str(trigger), "--dir", str(run_dir)).wait_for("^ready gpu-worker")
        result = task.result(WAIT_SECONDS)
        assert result.arrays["y"].tolist() == [2, 2, 2]
        assert result.attempts == 2
        assert result.provenance is not None
        assert result.provenance.provider == "cuda"


def test_a_task_that_costs_three_devices_is_lost(
    rota_up: Callable[..., Any], start_process: Callable[..., Any], run_dir: Path, tmp_path: Path
) -> None:
    """Goal: a model that breaks the device does not end workers for ever. Method: the death after which it runs alone,
    and three more.
    """
    rota_up(run_dir, cpu_workers=0, gpu_workers=0)
    trigger = tmp_path / "error"
    trigger.write_text(f"1\n{LOST}", encoding="utf-8")
    with Client(run_dir) as client:
        client.deploy_model("double", _add_model(run_dir, tmp_path), check=False, recorded=True)
        task = client.submit("model:double", {"x": np.ones(3, np.float32)})
        for _ in range(4):
            worker = start_process(str(STAND_IN), str(trigger), "--dir", str(run_dir))
            assert worker.wait() == Exit.DEVICE
        assert task.outcome(WAIT_SECONDS).kind == "lost"


def _add_model(run_dir: Path, folder: Path) -> bytes:
    """Add y = x + x to the run's repository, and return its digest."""
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "double", shape[:1], shape[1:])
    path = folder / "double.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return Repository(RunFolder(run_dir).models).add(path, "double").digest
