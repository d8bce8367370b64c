"""The bounds that the bench compares with: disk, memory, the sandbox, a plain session.run loop.

A bound is the cost of the work alone: no other process, no queue, no order, no journal. Each function measures once and
returns one number; the bench calls it in each round, so that bound and value are measured under the same conditions.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from rota.broker.journal import Journal
from rota.common.digests import digest
from rota.common.work import AGENT, TELL, Code, Done, Fold, TaskInput
from rota.cpu_worker.executor import WasmExecutor

FSYNC_BYTES = 256
FOLD_TASKS = 200
NOW_MS = 1_700_000_000_000


def fsync_seconds(folder: Path, times: int) -> float:
    """Return the median time of an append of 256 bytes and its fsync."""
    path = folder / "fsync.tmp"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            started = time.perf_counter()
            file.write(bytes(FSYNC_BYTES))
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    path.unlink()
    return statistics.median(taken)


def write_seconds(folder: Path, array: np.ndarray[Any, Any]) -> float:
    """Return the time to write an array to a new file and fsync it."""
    path = folder / "write.tmp"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        file.write(array.data.cast("B"))
        os.fsync(file.fileno())
    taken = time.perf_counter() - started
    path.unlink()
    return taken


def copy_seconds(array: np.ndarray[Any, Any]) -> float:
    """Return the time to copy an array into allocated memory."""
    target = np.ones_like(array)
    started = time.perf_counter()
    np.copyto(target, array)
    return time.perf_counter() - started


def hash_seconds(array: np.ndarray[Any, Any]) -> float:
    """Return the time of BLAKE3 over an array, on one thread."""
    data = array.data.cast("B")
    started = time.perf_counter()
    blake3(data).digest()
    return time.perf_counter() - started


# --- the sandbox ----------------------------------------------------------------------------------


class Sandbox:
    """The executor of a CPU worker, run in this process without a worker."""

    def __init__(self, folder: Path) -> None:
        self._modules, artefacts = folder / "sandbox-modules", folder / "sandbox-artefacts"
        self._modules.mkdir()
        artefacts.mkdir()
        self._executor = WasmExecutor(self._modules, artefacts, None, lambda: time.monotonic() * 1_000)

    def tasks_per_second(self, module: Path, kind: str, reuse: bool, tasks: int, payload: bytes) -> float:
        """Return the executor's tasks per second, in folds of 200 as a worker gets them."""
        data = module.read_bytes()
        code = Code(digest(data), kind, reuse)
        (self._modules / f"{code.digest.hex()}.wasm").write_bytes(data)
        self._executor.prepare(code, "bench")
        inputs = [TaskInput(turn, TELL, None, payload, NOW_MS, None, (), 0, 0) for turn in range(1, FOLD_TASKS + 1)]
        fold = Fold(bytes(32), code, "bench/0" if kind == AGENT else "bench", None, tuple(inputs))
        result = self._executor.run(fold)
        assert all(type(outcome) is Done and outcome.result == payload for outcome in result.outcomes), result
        folds = max(1, tasks // FOLD_TASKS)
        started = time.perf_counter()
        for _ in range(folds):
            self._executor.run(fold)
        return folds * FOLD_TASKS / (time.perf_counter() - started)

    def close(self) -> None:
        self._executor.close()


@contextmanager
def sandbox(folder: Path) -> Iterator[Sandbox]:
    """Yield a sandbox over a folder, and close it."""
    opened = Sandbox(folder)
    try:
        yield opened
    finally:
        opened.close()


# --- inference and the run file -------------------------------------------------------------------


class PlainSession:
    """A session of ONNX Runtime with default settings."""

    def __init__(self, model: Path, provider: str, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        names = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
        self._session = ort.InferenceSession(str(model), options, providers=names[provider])

    def run_seconds(self, inputs: dict[str, np.ndarray[Any, Any]], runs: int) -> list[float]:
        """Return the time of each of some runs."""
        seconds = []
        for _ in range(runs):
            started = time.perf_counter()
            self._session.run(None, inputs)
            seconds.append(time.perf_counter() - started)
        return seconds

    def runs_per_second(self, inputs: dict[str, np.ndarray[Any, Any]], runs: int) -> float:
        """Call `session.run` in a loop."""
        started = time.perf_counter()
        for _ in range(runs):
            self._session.run(None, inputs)
        return runs / (time.perf_counter() - started)


def read_seconds(run_file: Path) -> float:
    """Return the time to read and decode every record of a run file and check its chain, without applying them."""
    started = time.perf_counter()
    journal = Journal.open(run_file, read_only=True)
    for _ in journal.read():
        pass
    taken = time.perf_counter() - started
    journal.close()
    return taken
