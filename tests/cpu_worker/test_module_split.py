"""Splitting a module into program and memory: what is refused, and that the two halves do what the whole did."""

from __future__ import annotations

from contextlib import suppress

import pytest
from wasmtime import Instance, Linker, Memory, Module, Store, wat2wasm

from rota.common.errors import CodeError
from rota.cpu_worker.module_split import (
    MEMORY_IMPORT,
    START,
    global_export,
    memory_module,
    split_module,
    table_call_export,
)
from rota.cpu_worker.profile import new_engine
from tests.kits.tiny_runtime import tiny_runtime

WHOLE = """(module
  (import "env" "twice" (func $twice (param i32) (result i32)))
  (memory (export "memory") 2 5)
  (global $limit i32 (i32.const 9))
  (global $stack (mut i32) (i32.const 1024))
  (global $wide (mut i64) (i64.const -1))
  (table $functions 4 funcref)
  (elem (table $functions) (i32.const 2) func $add)
  (data (i32.const 8) "active") (data $passive "passive") (data (i32.const 70000) "far")
  (func $add (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func $begin (global.set $stack (i32.const 2048)))
  (start $begin)
  (func (export "copy") (param i32) (memory.init $passive (local.get 0) (i32.const 0) (i32.const 7)))
  (func (export "stack") (result i32) (call $twice (global.get $stack)))
  (func (export "unused")))"""


def test_the_halves_do_what_the_whole_did() -> None:
    """Goal: a split program, with a memory of its image, is the module. Method: each kind of thing that it can hold."""
    split = split_module(bytes(wat2wasm(WHOLE)), ("copy", "stack"))
    assert split.program.globals == ("i32", "i64")
    assert split.program.stack_global == 0
    assert [name for name, _ in split.program.exports] == ["copy", "stack"]
    engine = new_engine()
    store, linker = Store(engine), Linker(engine)
    store.set_fuel(10_000)
    store.set_epoch_deadline(1)
    memory = Instance(store, Module(engine, split.memory), []).exports(store)["memory"]
    assert isinstance(memory, Memory)
    assert (memory.size(store), memory.read(store, 8, 14)) == (2, b"active")
    assert memory.read(store, 70000, 70003) == b"far"
    linker.define(store, *MEMORY_IMPORT, memory)
    linker.define_func("env", "twice", _one_to_one(), lambda value: 2 * value)
    program = linker.instantiate(store, Module(engine, split.wasm)).exports(store)
    assert program["stack"](store) == 2048  # the start function has not run
    program[START](store)
    assert program["stack"](store) == 4096
    assert program[global_export(0)].value(store) == 2048
    program["copy"](store, 100)
    assert memory.read(store, 100, 107) == b"passive"
    assert program[table_call_export(2)](store, 2, 40, 2) == 42
    assert program.get("unused") is None


def _one_to_one() -> object:
    from wasmtime import FuncType, ValType

    return FuncType([ValType.i32()], [ValType.i32()])


def test_a_memory_at_its_far_end() -> None:
    """Goal: offsets above 2 GiB are right, though the format's constants are signed. Method: the last page."""
    engine = new_engine()
    split = split_module(bytes(wat2wasm('(module (memory 1) (func (export "f")))')), ("f",))
    module = memory_module(split.program.memory._replace(pages_min=65536), [(65535 << 16, b"end")])
    store = Store(engine)
    store.set_fuel(10_000)
    memory = Instance(store, Module(engine, module), []).exports(store)["memory"]
    assert isinstance(memory, Memory)
    assert memory.read(store, 65535 << 16, (65535 << 16) + 3) == b"end"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('(module (func (export "f")))', "one memory of its own"),
        ('(module (import "env" "memory" (memory 1)) (func (export "f")))', "one memory of its own"),
        ('(module (import "env" "g" (global i32)) (memory 1) (func (export "f")))', "import functions only"),
        ("(module (memory 1))", "exports no function 'f'"),
        ('(module (memory (export "f") 1))', "exports no function 'f'"),
        ('(module (memory 1) (table 1 externref) (func (export "f")))', "table of other things"),
        ('(module (memory 1) (global (mut funcref) (ref.null func)) (func (export "f")))', "is no number"),
        (
            f'(module (memory 1) {"(global (mut i32) (i32.const 0))" * 257} (func (export "f")))',
            "257 globals",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(text: str, said: str) -> None:
    """Goal: what an image cannot hold is named. Method: one module for each."""
    with pytest.raises(CodeError, match=said):
        split_module(bytes(wat2wasm(text)), ("f",))


def test_any_bytes_are_refused_or_split() -> None:
    """Goal: a damaged runtime gives a `CodeError`, or a module that the engine judges. Method: each byte changed."""
    wasm = bytearray(tiny_runtime())
    for place in range(8, len(wasm)):
        wasm[place] ^= 0x55
        with suppress(CodeError):
            split_module(bytes(wasm), ("rota_step",))
        wasm[place] ^= 0x55
