"""Tiny ONNX models, built here with the `onnx` package, and an executor to run them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rota.common.errors import CodeError
from rota.common.model_call import Tensor, encode_call
from rota.common.work import MODEL, Code, Fold, FoldResult, Limits, TaskInput, TensorRef
from rota.gpu_worker.certificate_store import FOLDER
from rota.gpu_worker.executor import ModelExecutor
from rota.gpu_worker.repository import Repository
from rota.tensors.store import TensorStore
from rota.worker.executor import Ended, Look, Looked, Outside, Report, Work

ROOT = Path(__file__).resolve().parents[2]
FETCH = ROOT / "scripts" / "fetch_magika.py"
NOT_FETCHED = 3  # the exit status of the script if the package index cannot be reached

ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}

NEVER_BEGUN = FoldResult((), None, "interrupted")

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


def share_certificates(models: Path) -> None:
    """Keep the certificates of this model folder with those of all tests of the session: equal models, equal ones."""
    shared = models.parent.parent / "certificates"
    shared.mkdir(exist_ok=True)
    models.mkdir(parents=True, exist_ok=True)
    if not (models / FOLDER).exists():
        (models / FOLDER).symlink_to(shared)


class Bench:
    """A repository, a tensor store and an executor over them, in one folder."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        share_certificates(folder / "models")
        self.repository = Repository(folder / "models")
        self.store = TensorStore(folder / "tensors")
        self.open(**options)

    def open(self, **options: Any) -> None:
        """Make the executor, in the place of an earlier one."""
        self.woken = threading.Event()
        self.told: list[Report] = []
        outside = Outside(self.woken.set, self.told.append)
        store = options.pop("store", self.store)
        self.executor = ModelExecutor(self.folder / "models", store, outside, **{"device": "cpu", **options})
        self.reports: list[Report] = []
        self._number = 0

    def add(self, make: Callable[[Path], Path], name: str = "m", *, recorded: bool = True, **limits: Any) -> Code:
        """Add a model and return code that accepts its results, repeatable or not."""
        entry = self.repository.add(make(self.folder / "sources" / f"{name}.onnx"), name)
        return Code(entry.digest, MODEL, limits=Limits(**limits), recorded=recorded)

    def take(self, code: Code, *tasks: TaskInput, lane: int = 0, address: str = "model:m") -> int:
        """Give the executor a job of one fold; return its number."""
        self._number += 1
        fold = Fold(bytes([lane]) * 32, code, address, None, tasks)
        self.executor.take(Work(self._number, (fold,)))
        return self._number

    def end(self, *jobs: int) -> list[FoldResult]:
        """Step until these jobs have ended; return the result of each one's fold."""
        while True:
            ended = {report.job: report.results for report in self.reports if isinstance(report, Ended)}
            if all(job in ended for job in jobs):
                return [(ended[job] or (NEVER_BEGUN,))[0] for job in jobs]
            self.step()

    def step(self) -> list[Report]:
        """Do one step; if nothing came of it, wait until there is something to do."""
        self.woken.clear()
        reports = self.executor.step()
        self.reports += reports
        if not reports:
            assert self.woken.wait(60)
        return reports

    def run(self, code: Code, *tasks: TaskInput) -> FoldResult:
        return self.end(self.take(code, *tasks))[0]

    def prepare(self, code: Code) -> Mapping[str, Any]:
        """Return the description of a model. Raises `CodeError` as the worker answers it."""
        self._number += 1
        self.executor.take(Look(self._number, code, "model:m"))
        while True:
            for report in self.step():
                if isinstance(report, Looked) and report.job == self._number:
                    if report.info is None:
                        raise CodeError(report.message)
                    return report.info

    def loaded(self, code: Code) -> Any:
        """Return the `LoadedModel` of a model that is loaded."""
        return self.executor._lines[code.digest].resident.session


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
