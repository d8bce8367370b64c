"""`rota.tensor_read`: reading the task's tensors, error numbers, and fuel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rota.common.errors import TensorError
from rota.common.work import TensorRef
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.tensor_access import BAD_ADDRESS, BAD_ARGUMENT, BAD_INDEX, StoreTensors
from rota.tensors.store import TensorStore
from rota.wasi.costs import CALL_FUEL

DATA = bytes(range(100, 120))


class MemoryTensors:
    """Tensors in a dict: a small real access."""

    def __init__(self, tensors: dict[TensorRef, bytes]) -> None:
        self._tensors = tensors

    def open(self, ref: TensorRef) -> memoryview:
        if ref not in self._tensors:
            raise TensorError(f"tensor {ref.digest.hex()[:8]} is not in the store: submit it again")
        return memoryview(self._tensors[ref])

    def keep(self, ref: TensorRef, data: bytes) -> None:
        self._tensors[ref] = data


@pytest.fixture(params=[True, False], ids=["raw", "public"])
def executor(world: Any, tensor: Any, request: pytest.FixtureRequest) -> Iterator[WasmExecutor]:
    return world.executor(tensors=MemoryTensors({tensor(DATA): DATA}), raw_calls=request.param)


def read(run: Any, task: Any, executor: WasmExecutor, code: Any, ref: TensorRef, *arguments: int) -> tuple[int, bytes]:
    payload = bytes(argument & 0xFF for argument in (*arguments, 0, 0, 0, 0)[:4])
    result = run(executor, code, task(payload, tensors=(ref,))).outcomes[0].result
    return int.from_bytes(result[:4], "little", signed=True), result[4:]


def test_slices(world: Any, guests: Any, run: Any, task: Any, tensor: Any, executor: WasmExecutor) -> None:
    """Goal: exactly the slice that was asked for, short at the end.

    Method: from the start, the middle, over and at the end.
    """
    code, ref = world.function(guests["reader"]), tensor(DATA)
    assert read(run, task, executor, code, ref, 0, 0, 8) == (8, DATA[:8])
    assert read(run, task, executor, code, ref, 0, 5, 3) == (3, DATA[5:8] + bytes(5))
    assert read(run, task, executor, code, ref, 0, 18, 8) == (2, DATA[18:] + bytes(6))
    assert read(run, task, executor, code, ref, 0, 20, 8) == (0, bytes(8))
    assert read(run, task, executor, code, ref, 0, 0, 0) == (0, bytes(8))


def test_refusals(world: Any, guests: Any, run: Any, task: Any, tensor: Any, executor: WasmExecutor) -> None:
    """Goal: a wrong index, offset or address copies nothing and says which. Method: each just past its bound."""
    code, ref = world.function(guests["reader"]), tensor(DATA)
    assert read(run, task, executor, code, ref, 1, 0, 8) == (BAD_INDEX, bytes(8))
    assert read(run, task, executor, code, ref, -1, 0, 8) == (BAD_INDEX, bytes(8))
    assert read(run, task, executor, code, ref, 0, 21, 8) == (BAD_ARGUMENT, bytes(8))
    assert read(run, task, executor, code, ref, 0, -1, 8) == (BAD_ARGUMENT, bytes(8))
    assert read(run, task, executor, code, ref, 0, 0, 8, 1) == (BAD_ADDRESS, bytes(8))


def test_task_without_tensors(
    world: Any, guests: Any, run: Any, task: Any, tensor: Any, executor: WasmExecutor
) -> None:
    """Goal: a task reads its own tensors only, never those of the task before. Method: one with, one without."""
    for reuse in (False, True):
        code = world.function(guests["reader"], reuse=reuse)
        before, without = run(executor, code, task(bytes(4), tensors=(tensor(DATA),)), bytes(4)).outcomes
        assert int.from_bytes(before.result[:4], "little", signed=True) == 0
        assert int.from_bytes(without.result[:4], "little", signed=True) == BAD_INDEX


def test_reading_costs_fuel(world: Any, guests: Any, run: Any, task: Any, tensor: Any, executor: WasmExecutor) -> None:
    """Goal: a call and each byte cost fuel, so that reading is bounded like computing.

    Method: compare ten bytes with none, and with no tensor; then allow too little.
    """
    code = world.function(guests["reader"])
    none, ten = (
        run(executor, code, task(bytes([0, 0, size, 0]), tensors=(tensor(DATA),))).outcomes[0] for size in (0, 10)
    )
    assert ten.fuel == none.fuel + 10
    assert run(executor, code, bytes(4)).outcomes[0].fuel == none.fuel > CALL_FUEL
    short = world.function(guests["reader"], fuel=ten.fuel - 1)
    assert run(executor, short, task(bytes([0, 0, 10, 0]), tensors=(tensor(DATA),))).outcomes[0].kind == "fuel"


def test_tensor_that_this_host_cannot_read(
    world: Any, guests: Any, run: Any, task: Any, tensor: Any, executor: WasmExecutor
) -> None:
    """Goal: a missing tensor is a fault of the host, whatever the guest makes of the answer.

    Method: a guest that goes on.
    """
    code = world.function(guests["reader"])
    result = run(executor, code, task(bytes(4)), task(bytes(4), tensors=(tensor(b"gone"),)))
    assert (len(result.outcomes), result.stopped) == (1, "faulted")
    assert "is not in the store" in result.reason
    assert run(executor, code, task(b"\0\0\x08\0", tensors=(tensor(DATA),))).stopped is None


def test_worker_without_a_store(world: Any, guests: Any, run: Any, task: Any, tensor: Any) -> None:
    """Goal: the reason says what is missing. Method: no reader at all."""
    result = run(world.executor(), world.function(guests["reader"]), task(bytes(4), tensors=(tensor(DATA),)))
    assert (result.stopped, result.reason) == ("faulted", "this worker has no tensor store")


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (0, 3)])
def test_bytes_of_a_stored_tensor(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Goal: a stored tensor of any shape is its data bytes. Method: the real store; no, one and two axes, and empty."""
    array = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    store = TensorStore(tmp_path)
    assert bytes(StoreTensors(store).open(store.put(array))) == array.tobytes()


def test_guest_reads_from_the_store(world: Any, guests: Any, run: Any, task: Any, tmp_path: Path) -> None:
    """Goal: the whole way, from a file of the store into a guest. Method: four floats, read at an offset."""
    store = TensorStore(tmp_path / "tensors")
    array = np.array([1.5, -2.0, 3.0, 4.0], dtype=np.float32)
    executor = world.executor(tensors=StoreTensors(store))
    code = world.function(guests["reader"])
    assert read(run, task, executor, code, store.put(array), 0, 4, 8) == (8, array[1:3].tobytes())
    missing = run(executor, code, task(bytes(4), tensors=(TensorRef(bytes(32), "float32", (4,)),)))
    assert (tuple(missing.outcomes), missing.stopped) == ((), "faulted")


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "public"])
def test_large_reads(world: Any, guests: Any, run: Any, task: Any, tensor: Any, raw: bool) -> None:
    """Goal: a read of any size copies all of it, and nothing if it does not fit. Method: 2.5 MiB in one call, to the
    last byte of the memory and one past it.
    """
    data = bytes(index % 251 for index in range((5 << 20) // 2))
    text = f"""(module (import "rota" "tensor_read" (func $read (param i32 i64 i32 i32) (result i32)))
      (memory (export "memory") 48) {guests["alloc"]}
      (func (export "rota_call") (param $p i32) (param $n i32) (result i64) (local $at i32)
        (local.set $at (i32.add (i32.const {(48 << 16) - len(data)}) (local.get $n)))
        (i32.store (i32.const 4) (call $read (i32.const 0) (i64.const 0) (local.get $at) (i32.const {len(data)})))
        (if (i32.lt_s (i32.load (i32.const 4)) (i32.const 0)) (then (return (i64.const 0x4_0000_0004))))
        (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.const {len(data)}))))"""
    tensors = MemoryTensors({tensor(data): data})
    executor = world.executor(tensors=tensors, raw_calls=raw)
    code = world.function(text, result_bytes=4 << 20)
    fits, past = (task(payload, tensors=(tensor(data),)) for payload in (b"", b"x"))
    result = run(executor, code, fits, past)
    assert (result.outcomes[0].result, bytes(tensors.open(result.outcomes[0].tensors[0]))) == (b"", data)
    assert int.from_bytes(result.outcomes[1].result, "little", signed=True) == BAD_ADDRESS
