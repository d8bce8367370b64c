"""Tiny ONNX models, built here with the `onnx` package, and an executor to run them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rota.common.model_call import Tensor, encode_call
from rota.common.work import MODEL, Code, Fold, FoldResult, Limits, TaskInput, TensorRef
from rota.gpu_worker.executor import OnnxExecutor
from rota.gpu_worker.repository import Repository
from rota.tensors.store import TensorStore

ROOT = Path(__file__).resolve().parents[2]
FETCH = ROOT / "scripts" / "fetch_magika.py"
NOT_FETCHED = 3  # the exit status of the script if the package index cannot be reached

ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}

Declared = tuple[str, str, Sequence[Any]]
"""Name, dtype and extents of an input or output."""


def build(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Declared],
    outputs: Sequence[Declared],
    weights: dict[str, Any] | None = None,
) -> Path:
    """Write a model of these nodes."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], extents) for name, dtype, extents in inputs],
        [helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], extents) for name, dtype, extents in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def multilayer(path: Path, seed: int = 0) -> Path:
    """x [n, 16] -> relu(x w1) w2 = y [n, 4]."""
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.standard_normal((16, 16), np.float32),
        "w2": random.standard_normal((16, 4), np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["y"]),
    ]
    return build(path, nodes, [("x", "float32", ["n", 16])], [("y", "float32", ["n", 4])], weights)


def endless(path: Path) -> Path:
    """count [] -> a loop of that many additions: y [1]."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["before", "one"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [1]),
        ],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    nodes = [helper.make_node("Loop", ["count", "yes", "zero"], ["y"], body=body)]
    weights = {"yes": np.array(True), "zero": np.zeros(1, np.float32)}
    return build(path, nodes, [("count", "int64", [])], [("y", "float32", [1])], weights)


def tensor(array: Any) -> Tensor:
    return Tensor(array.dtype.name, array.shape, array.tobytes())


def task(payload: bytes, tensors: tuple[TensorRef, ...] = ()) -> TaskInput:
    return TaskInput(1, "tell", None, payload, 0, None, tensors, 0, 0)


def call(**inputs: Any) -> TaskInput:
    return task(encode_call({name: tensor(array) for name, array in inputs.items()}))


class Bench:
    """A repository, a tensor store and an executor over them, in one folder."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.repository = Repository(folder / "models")
        self.store = TensorStore(folder / "tensors")
        self.executor = OnnxExecutor(folder / "models", self.store, **{"device": "cpu", **options})

    def add(self, make: Callable[[Path], Path], name: str = "m", **limits: Any) -> Code:
        entry = self.repository.add(make(self.folder / "sources" / f"{name}.onnx"), name)
        return Code(entry.digest, MODEL, limits=Limits(**limits))

    def run(self, code: Code, *tasks: TaskInput) -> FoldResult:
        return self.executor.run(Fold(bytes(32), code, "model:m", None, tasks))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.executor.close()


@pytest.fixture(scope="session")
def magika_folder() -> Path:
    """The real magika model, fetched into the cache of the checkout. Skips if the package index cannot be reached."""
    done = subprocess.run([sys.executable, str(FETCH)], capture_output=True, text=True, check=False)
    if done.returncode == NOT_FETCHED:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def kit() -> Any:
    """The builders above; test files cannot import a conftest."""
    return SimpleNamespace(
        build=build, multilayer=multilayer, endless=endless, tensor=tensor, task=task, call=call, Bench=Bench
    )
