"""Tiny guests in WebAssembly text, and the folder, executor and folds to run them with.

Compiled code is kept for the whole test run, since each compile starts a process; everything else is made per test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from rota.common.digests import digest
from rota.common.work import AGENT, FUNCTION, Code, Fold, FoldResult, Limits, TaskInput, TensorRef
from rota.cpu_worker.executor import WasmExecutor

LANE_SEED = bytes(range(32))

# Input always goes to address 1024.
ALLOC = '(func (export "rota_alloc") (param i32) (result i32) i32.const 1024)'
PACK = """(func $pack (param $pointer i32) (param $size i32) (result i64)
  (i64.or (i64.shl (i64.extend_i32_u (local.get $pointer)) (i64.const 32)) (i64.extend_i32_u (local.get $size))))"""

ECHO = f"""(module (memory (export "memory") 1) {ALLOC} {PACK}
  (func (export "rota_call") (param i32 i32) (result i64) (call $pack (local.get 0) (local.get 1))))"""

# An agent whose output is its task's payload (bin 8 or bin 16); for tasks of kind tell without state and sender.
MIRROR = f"""(module (memory (export "memory") 2) {ALLOC} {PACK}
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64)
    (if (i32.eq (i32.load8_u offset=9 (local.get $p)) (i32.const 0xc4))
      (then (return (call $pack (i32.add (local.get $p) (i32.const 11)) (i32.load8_u offset=10 (local.get $p))))))
    (call $pack (i32.add (local.get $p) (i32.const 12))
      (i32.or (i32.shl (i32.load8_u offset=10 (local.get $p)) (i32.const 8))
        (i32.load8_u offset=11 (local.get $p))))))"""

# An agent whose result is the whole input that it was given: [1, 0, nil, bin32(input)].
WHOLE = f"""(module (memory (export "memory") 2) {ALLOC} {PACK}
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64)
    (i64.store offset=1015 (i32.const 0) (i64.const 0x0000_00c6_c000_0194))
    (i32.store8 offset=1022 (i32.const 0) (i32.shr_u (local.get $n) (i32.const 8)))
    (i32.store8 offset=1023 (i32.const 0) (local.get $n))
    (call $pack (i32.const 1015) (i32.add (local.get $n) (i32.const 9)))))"""

# An agent whose state is one byte that counts its messages. It answers an `ask` with an error, a `timer` with a trap.
COUNTER = f"""(module (memory (export "memory") 1) {ALLOC} {PACK}
  (data (i32.const 0) "\\94\\01\\00\\c4\\01\\00\\c4\\01\\00")
  (data (i32.const 16) "\\94\\01\\01\\a2no\\a4stop")
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64) (local $count i32) (local $kind i32)
    (local.set $kind (i32.const 3))
    (if (i32.eq (i32.load8_u offset=2 (local.get $p)) (i32.const 0xc4))
      (then (local.set $count (i32.load8_u offset=4 (local.get $p))) (local.set $kind (i32.const 5))))
    (local.set $kind (i32.load8_u (i32.add (local.get $p) (local.get $kind))))
    (if (i32.eq (local.get $kind) (i32.const 0xa3)) (then (return (call $pack (i32.const 16) (i32.const 11)))))
    (if (i32.eq (local.get $kind) (i32.const 0xa5)) (then unreachable))
    (local.set $count (i32.add (local.get $count) (i32.const 1)))
    (i32.store8 (i32.const 5) (local.get $count))
    (i32.store8 (i32.const 8) (local.get $count))
    (call $pack (i32.const 0) (i32.const 9))))"""

# A function whose first payload byte selects what it does. It also counts its calls at address 0.
MISCHIEF = f"""(module (memory (export "memory") 1) {ALLOC} {PACK}
  (type $plain (func)) (table 1 funcref)
  (func $deeper (param i64) (result i64) (i64.add (i64.const 1) (call $deeper (i64.add (local.get 0) (i64.const 1)))))
  (func $spin (param $rounds i64)
    (loop $again (local.set $rounds (i64.sub (local.get $rounds) (i64.const 1)))
      (br_if $again (i64.ne (local.get $rounds) (i64.const 0)))))
  (func (export "rota_call") (param $p i32) (param $n i32) (result i64) (local $what i32)
    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
    (local.set $what (i32.load8_u (local.get $p)))
    (if (i32.eq (local.get $what) (i32.const 0)) (then unreachable))
    (if (i32.eq (local.get $what) (i32.const 1))
      (then (drop (i32.div_u (i32.const 1) (i32.load (i32.const 512))))))
    (if (i32.eq (local.get $what) (i32.const 2)) (then (drop (i32.load (i32.const 0x7fffffff)))))
    (if (i32.eq (local.get $what) (i32.const 3)) (then (call $spin (i64.const 0))))
    (if (i32.eq (local.get $what) (i32.const 4)) (then (drop (call $deeper (i64.const 0)))))
    (if (i32.eq (local.get $what) (i32.const 5)) (then (return (call $pack (i32.const 65530) (i32.const 7)))))
    (if (i32.eq (local.get $what) (i32.const 6))
      (then (i32.store (i32.const 4) (memory.grow (i32.const 100))) (return (call $pack (i32.const 4) (i32.const 4)))))
    (if (i32.eq (local.get $what) (i32.const 7)) (then (call_indirect (type $plain) (i32.const 0))))
    (if (i32.eq (local.get $what) (i32.const 8)) (then (return (call $pack (i32.const 0) (i32.const 4)))))
    (if (i32.eq (local.get $what) (i32.const 9)) (then (call $spin (i64.const 100000000))))
    (if (i32.eq (local.get $what) (i32.const 10))
      (then (drop (memory.grow (i32.const 3))) (return (call $pack (i32.const 0x3fffc) (i32.const 4)))))
    (call $pack (local.get $p) (local.get $n))))"""

# A function that calls tensor_read(payload[0], payload[1], 4096 or payload[3] * 65536, payload[2]); result: its
# answer, then the bytes.
READER = f"""(module (import "rota" "tensor_read" (func $read (param i32 i64 i32 i32) (result i32)))
  (memory (export "memory") 1) {ALLOC} {PACK}
  (func (export "rota_call") (param $p i32) (param $n i32) (result i64)
    (i32.store (i32.const 4092) (call $read
      (i32.load8_s (local.get $p)) (i64.load8_s offset=1 (local.get $p))
      (i32.add (i32.const 4096) (i32.mul (i32.const 65536) (i32.load8_u offset=3 (local.get $p))))
      (i32.load8_u offset=2 (local.get $p))))
    (call $pack (i32.const 4092) (i32.const 12))))"""


@dataclass
class World:
    """A worker's folders and what runs in them."""

    modules_dir: Path
    artefacts_dir: Path
    executors: list[WasmExecutor] = field(default_factory=list)

    def executor(self, **settings: Any) -> WasmExecutor:
        settings = {"tensors": None, "clock": monotonic_ms, "artefacts_dir": self.artefacts_dir, **settings}
        executor = WasmExecutor(self.modules_dir, settings.pop("artefacts_dir"), **settings)
        self.executors.append(executor)
        return executor

    def deploy(self, module: str | bytes, kind: str, **settings: Any) -> Code:
        """Put a module, or the text of one, into the folder and return the code that a deploy would bind."""
        wasm = module if isinstance(module, bytes) else bytes(wat2wasm(module))
        (self.modules_dir / f"{digest(wasm).hex()}.wasm").write_bytes(wasm)
        limits = {key: settings.pop(key) for key in list(settings) if key in Limits._fields}
        return Code(digest(wasm), kind, limits=Limits(**limits), **settings)

    def agent(self, text: str, **settings: Any) -> Code:
        return self.deploy(text, AGENT, **settings)

    def function(self, text: str | bytes, **settings: Any) -> Code:
        return self.deploy(text, FUNCTION, **settings)


def monotonic_ms() -> float:
    return time.monotonic() * 1000


@pytest.fixture(scope="session")
def compiled_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artefacts")


@pytest.fixture
def world(tmp_path: Path, compiled_dir: Path) -> Iterator[World]:
    modules_dir = tmp_path / "modules"
    modules_dir.mkdir()
    made = World(modules_dir, compiled_dir)
    yield made
    for executor in made.executors:
        executor.close()


@pytest.fixture
def guests() -> dict[str, str]:
    return {
        "alloc": ALLOC, "pack": PACK, "echo": ECHO, "mirror": MIRROR, "whole": WHOLE, "counter": COUNTER,
        "mischief": MISCHIEF, "reader": READER,
    }  # fmt: skip


def make_task(payload: bytes = b"", **fields: Any) -> TaskInput:
    values: dict[str, Any] = {
        "turn": 1, "kind": "tell", "sender": None, "payload": payload, "now_ms": 1_700_000_000_000, "reply_to": None,
        "tensors": (), "emits_max": 64, "growth_bytes": 128 << 10,
    }  # fmt: skip
    return TaskInput(**{**values, **fields})


@pytest.fixture
def task() -> Callable[..., TaskInput]:
    """Makes a task from a payload and the fields that matter to the test."""
    return make_task


@pytest.fixture
def run() -> Callable[..., FoldResult]:
    """Runs tasks (or payloads) as one fold of the address `counter/alice`."""

    def run_fold(
        executor: WasmExecutor, code: Code, *tasks: TaskInput | bytes, state: bytes | None = None
    ) -> FoldResult:
        made = tuple(make_task(entry) if isinstance(entry, bytes) else entry for entry in tasks)
        return executor.run(Fold(LANE_SEED, code, "counter/alice", state, made))

    return run_fold


@pytest.fixture
def lane_seed() -> bytes:
    return LANE_SEED


@pytest.fixture
def tensor() -> Callable[[bytes], TensorRef]:
    """Makes a reference to the tensor of these bytes."""
    return lambda data: TensorRef(digest(data), "uint8", (len(data),))
