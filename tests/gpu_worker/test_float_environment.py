"""Subnormal numbers: a library in the worker's process that flushes them to zero changes no bit of a result."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from rota.common.model_call import decode_result
from rota.common.work import MODEL, Code, TaskInput
from rota.tensors.arrays import array_of

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="sets the MXCSR register of x86-64"
)

MXCSR_AT = 28  # in the fenv_t of x86-64
FLUSHING = 0x8040  # flush-to-zero, denormals-are-zero
MATH = ctypes.CDLL("libm.so.6")


def environment() -> ctypes.Array[ctypes.c_char]:
    found = ctypes.create_string_buffer(32)
    assert MATH.fegetenv(found) == 0
    return found


def is_flushing() -> bool:
    (word,) = struct.unpack_from("<I", environment(), MXCSR_AT)
    return bool(word & FLUSHING)


@contextmanager
def flushing() -> Iterator[None]:
    """Do to this thread what loading a library compiled with -ffast-math does."""
    before = environment()
    changed = environment()
    (word,) = struct.unpack_from("<I", changed, MXCSR_AT)
    struct.pack_into("<I", changed, MXCSR_AT, word | FLUSHING)
    assert MATH.fesetenv(changed) == 0
    try:
        yield
    finally:
        MATH.fesetenv(before)


def products(kit: Any, path: Path) -> Path:
    """x [n, 1024] -> x * w = y, and the folded constant tiny * half = z."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("Mul", ["tiny", "half"], ["z"])]
    weights = {
        "w": np.full(1024, 0.75, np.float32),
        "tiny": np.full(4, 1e-39, np.float32),
        "half": np.full(4, 0.5, np.float32),
    }
    outputs = [("y", "float32", ["n", 1024]), ("z", "float32", [4])]
    path = kit.build(path, nodes, [("x", "float32", ["n", 1024])], outputs, weights)
    return Path(path)


def answer(kit: Any, folder: Path, model: Path, sent: TaskInput, threads: int) -> tuple[bytes, dict[str, bytes]]:
    """Load the model in a new worker's executor and run it; return the fingerprint and the outputs."""
    bench = kit.Bench(folder, threads=threads)
    try:
        code = Code(bench.repository.add(model, "m").digest, MODEL)
        result = bench.run(code, sent)
        (outcome,) = result.outcomes
        tensors = decode_result(outcome.result, outcome.tensors)
        held = {name: array_of(one, outcome.tensors, bench.store).tobytes() for name, one in tensors.items()}
        assert result.provenance is not None
        return result.provenance.fingerprint, held
    finally:
        bench.executor.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_flush_to_zero_of_the_process_changes_no_result(kit: Any, tmp_path: Path, threads: int) -> None:
    """Goal: workers with equal fingerprints give equal bits. Method: the same call where the thread flushes subnormal
    numbers when the session is built and run; its settings are unchanged afterwards.
    """
    model, sent = products(kit, tmp_path / "m.onnx"), kit.call(x=np.full((128, 1024), 3e-39, np.float32))
    plain = answer(kit, tmp_path / "plain", model, sent, threads)
    with flushing():
        other = answer(kit, tmp_path / "flushing", model, sent, threads)
        assert is_flushing()
    assert other == plain
    for name in ("y", "z"):
        assert np.frombuffer(plain[1][name], np.float32).all(), name
