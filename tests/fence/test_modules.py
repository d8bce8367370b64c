"""Modules that are refused, or that attack the compiler: a typed error each, and the worker goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attacks
import pytest
from sandbox_kit import ALLOC, World
from wasmtime import wat2wasm

from rota.common.errors import CodeError
from rota.cpu_worker import one_shot

MEMORY = '(memory (export "memory") 1)'

PROPOSALS = {
    "shared memory": ('(memory (export "memory") 1 1 shared)', ""),
    "atomics": (MEMORY, "(func (drop (i32.atomic.load (i32.const 0))))"),
    "64-bit memory": ('(memory (export "memory") i64 1)', ""),
    "64-bit table": (MEMORY, "(table i64 1 funcref)"),
    "several memories": (MEMORY + "(memory 1)", ""),
    "page sizes": ('(memory (export "memory") 1 (pagesize 1))', ""),
    "structures": (MEMORY, "(type $s (struct (field i32))) (func (drop (struct.new_default $s)))"),
    "small integers": (MEMORY, "(func (drop (ref.i31 (i32.const 1))))"),
    "foreign references": (MEMORY, "(table 1 externref)"),
    "exceptions": (MEMORY, "(tag $e) (func (throw $e))"),
    "catching": (MEMORY, "(tag $e) (func (block $h (try_table (catch $e $h))))"),
    "typed references": (MEMORY, "(type $f (func)) (func (param (ref null $f)) (call_ref $f (local.get 0)))"),
    "stack switching": (MEMORY, "(type $f (func)) (type $c (cont $f)) (func (drop (cont.new $c (ref.null $f))))"),
    "wide arithmetic": (
        MEMORY,
        "(func (drop (drop (i64.add128 (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0)))))",
    ),
}


@pytest.fixture
def worker(world: World) -> Any:
    executor = world.executor()
    neighbour = world.agent(attacks.NEIGHBOUR)
    before = attacks.run(executor, neighbour, b"")
    yield executor
    assert attacks.run(executor, neighbour, b"") == before


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_refused_proposals(world: World, worker: Any, proposal: str) -> None:
    """Goal: what is off in the profile is off, at the deploy and for a worker that was never asked before.

    Method: one module of each.
    """
    memory, more = PROPOSALS[proposal]
    code = world.function(
        f'(module {memory} {ALLOC} (func (export "rota_call") (param i32 i32) (result i64) (i64.const 0)) {more})'
    )
    with pytest.raises(CodeError) as refused:
        worker.prepare(code, "a/b")
    result = attacks.run(worker, code, b"")
    assert (result.stopped, result.reason, tuple(result.outcomes)) == ("refused", refused.value.message, ())


def leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def vector(*items: bytes) -> bytes:
    return leb(len(items)) + b"".join(items)


def section(number: int, body: bytes) -> bytes:
    return bytes([number]) + leb(len(body)) + body


def function_of(*bodies: bytes) -> bytes:
    """Return a valid function with more functions of these bodies, which nobody calls."""
    types = vector(b"\x60\x01\x7f\x01\x7f", b"\x60\x02\x7f\x7f\x01\x7e", b"\x60\x00\x00")
    names = ((b"memory", b"\x02\x00"), (b"rota_alloc", b"\x00\x00"), (b"rota_call", b"\x00\x01"))
    exports = vector(*[leb(len(name)) + name + what for name, what in names])
    codes = vector(*[leb(len(body)) + body for body in (b"\x00\x41\x00\x0b", b"\x00\x42\x00\x0b", *bodies)])
    functions = vector(b"\x00", b"\x01", *[b"\x02"] * len(bodies))
    parts = ((1, types), (3, functions), (5, vector(b"\x00\x01")), (7, exports), (10, codes))
    return b"\0asm\x01\0\0\0" + b"".join(section(number, body) for number, body in parts)


def many_locals(functions: int) -> bytes:
    """50,000 locals in each function, in 8 bytes: 2,000 functions take seconds."""
    return function_of(*[b"\x01" + leb(50_000) + b"\x7f\x0b"] * functions)


def many_loops(loops: int) -> bytes:
    """One function of so many loops: 40,000 take seconds and a gigabyte."""
    return function_of(b"\x01\x01\x7f" + b"\x03\x40\x20\x00\x0d\x00\x0b" * loops + b"\x0b")


def test_a_bomb_of_time(world: World, worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: compiling ends at its bound, with its process. Method: 160 kB that would take minutes, a bound of 1 s."""
    monkeypatch.setattr("rota.cpu_worker.compile_main.COMPILE_MS_MAX", 1_000)
    with pytest.raises(CodeError, match="took longer than 1000 ms"):
        worker.prepare(world.function(many_locals(20_000)), "a/b")


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited by ulimit")
def test_a_bomb_of_memory(world: World, worker: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goal: a compiler that takes too much memory ends alone. Method: a bomb, in a process that may have little."""
    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -v 400000\nexec "{sys.executable}" "$@"\n')
    limited.chmod(0o700)
    monkeypatch.setattr(one_shot.sys, "executable", str(limited))
    with pytest.raises(CodeError, match="make the module smaller") as refused:
        worker.prepare(world.function(many_loops(40_000)), "a/b")
    assert "/" not in refused.value.message  # no path of this host


@pytest.mark.parametrize("garbage", [b"", b"\0asm", b"\0asm\x01\0\0\0", b"#!/bin/sh\nexit 0\n", b"\x7fELF" + bytes(60)])
def test_what_is_no_module(world: World, worker: Any, garbage: bytes) -> None:
    """Goal: any bytes are refused with a reason. Method: nothing, heads, other programs."""
    with pytest.raises(CodeError):
        worker.prepare(world.function(garbage), "a/b")


def test_long_names_are_refused(world: World, worker: Any) -> None:
    """Goal: no name makes traps costly. Method: 40 MB of it, which took 0.7 s for each trap."""
    name = b"a" * 40_000_000
    part = vector(leb(0) + leb(len(name)) + name)
    named = bytes(wat2wasm(attacks.NEIGHBOUR)) + section(0, b"\x04name\x01" + leb(len(part)) + part)
    with pytest.raises(CodeError, match="strip the names"):
        worker.prepare(world.deploy(named, "agent"), "a/b")
