"""An executor with the runtime of JavaScript, one for each file of tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_kit import javascript_runtime

from rota.broker.modules import ModuleStore
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.tensor_access import StoreTensors
from rota.runtimes.folder import runtime_bytes
from rota.tensors.store import TensorStore


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    runtime = javascript_runtime()
    ModuleStore(folder).keep(runtime.digest, runtime_bytes(runtime))
    return folder


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> TensorStore:
    return TensorStore(tmp_path_factory.mktemp("tensors"))


@pytest.fixture(scope="module")
def executor(modules: Path, tensors: TensorStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WasmExecutor]:
    artefacts = tmp_path_factory.mktemp("artefacts")
    made = WasmExecutor(modules, artefacts, StoreTensors(tensors), lambda: time.monotonic() * 1000)
    yield made
    made.close()
