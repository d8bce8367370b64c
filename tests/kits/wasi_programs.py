"""WASI programs of a few hundred bytes, as text: what a deploy of a command needs, without a compiler."""

from __future__ import annotations

from typing import Final

from wasmtime import wat2wasm


def _program(body: str) -> bytes:
    return bytes(
        wat2wasm(f"""(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $put (param $to i32) (param $pointer i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $pointer)) (i32.store (i32.const 4) (local.get $size))
    (drop (call $write (local.get $to) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start") {body}))""")
    )


_READ: Final = """
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 32768))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))"""
_INPUT_SIZE: Final = "(i32.load (i32.const 8))"

CAT: Final = _program(f"{_READ} (call $put (i32.const 1) (i32.const 1024) {_INPUT_SIZE})")
"""Writes what it reads."""

TWICE: Final = _program(
    f"(local $size i32) {_READ} (local.set $size {_INPUT_SIZE})"
    + "(call $put (i32.const 1) (i32.const 1024) (local.get $size))" * 2
)
"""Writes what it reads, twice."""

FIRST_ARGUMENT: Final = _program("""
    (drop (call $args (i32.const 512) (i32.const 1024)))
    (call $put (i32.const 1) (i32.load (i32.const 516)) (i32.const 2))""")
"""Writes the first two bytes of its first argument."""

FAILS: Final = _program(f"{_READ} (call $put (i32.const 2) (i32.const 1024) {_INPUT_SIZE}) (call $exit (i32.const 3))")
"""Writes what it reads to stderr and exits with 3."""
