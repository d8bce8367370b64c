"""A runtime of a few hundred bytes, written for Rota: the language `tiny`, whose source is one letter and a text.

While it loads, the letter decides: `k` keeps the text, and further letters misbehave, see `LOAD`. A task answers with
the text, how often the instance has answered (a byte in memory, and one from a global), eight bytes of chance and the
time in nanoseconds; a text that begins with a capital letter misbehaves in the task, see `STEP`.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from wasmtime import wat2wasm

from rota.common.bundle import Bundle, encode_bundle, new_bundle
from rota.common.digests import digest

LOAD: Final = {
    "loop": "l", "grow": "g", "print": "p", "trap": "t", "exit": "x", "error": "e", "table": "s", "large": "b",
    "recursion": "r",
}  # fmt: skip
STEP: Final = {"loop": "L", "grow": "G", "trap": "T", "outside": "O", "fill": "F", "recursion": "R", "pages": "P"}

_TEXT: Final = f"""(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $print (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (global $stack (mut i32) (i32.const 65536))
  (global $answered (mut i64) (i64.const 0x7fff_ffff_ffff_ff00))
  (global $ratio (mut f64) (f64.const nan:0x8000000000001))
  (table 8 funcref) (elem (i32.const 3) $double)
  (type $one (func (param i32) (result i32)))
  (data (i32.const 64) "\\96\\01\\00\\c0\\c4")
  (data $text "not in an image: it is copied when the code says so")
  (func $double (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
  (func $deeper (param i64) (result i64) (i64.add (i64.const 1) (call $deeper (i64.add (local.get 0) (i64.const 1)))))
  (func $pack (param $pointer i32) (param $size i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $pointer)) (i64.const 32)) (i64.extend_i32_u (local.get $size))))
  (func $spin (loop $again (br $again)))
  (func $grow (loop $again
    (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))))
  (func $print_all
    (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 1000))
    (loop $again (drop (call $print (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24))) (br $again)))
  (func (export "_initialize") (i32.store (i32.const 32) (i32.add (i32.load (i32.const 32)) (i32.const 1))))
  (func (export "rota_alloc") (param i32) (result i32)
    (select (i32.const 4096) (i32.const 0) (i32.lt_u (local.get 0) (i32.const 60000))))
  (func (export "rota_load") (param $p i32) (param $n i32) (result i64) (local $what i32)
    (local.set $what (i32.load8_u (local.get $p)))
    (if (i32.eq (local.get $what) (i32.const {ord("l")})) (then (call $spin)))
    (if (i32.eq (local.get $what) (i32.const {ord("g")})) (then (call $grow) unreachable))
    (if (i32.eq (local.get $what) (i32.const {ord("p")})) (then (call $print_all)))
    (if (i32.eq (local.get $what) (i32.const {ord("t")})) (then unreachable))
    (if (i32.eq (local.get $what) (i32.const {ord("x")})) (then (call $exit (i32.const 3))))
    (if (i32.eq (local.get $what) (i32.const {ord("r")})) (then (drop (call $deeper (i64.const 0)))))
    (if (i32.eq (local.get $what) (i32.const {ord("s")})) (then (table.set (i32.const 5) (ref.func $double))))
    (if (i32.eq (local.get $what) (i32.const {ord("b")}))
      (then (memory.fill (i32.mul (memory.grow (i32.const 160)) (i32.const 65536)) (i32.const 7) (i32.const 10485760))))
    (if (i32.eq (local.get $what) (i32.const {ord("e")}))
      (then (return (call $pack (i32.add (local.get $p) (i32.const 1)) (i32.sub (local.get $n) (i32.const 1))))))
    (i32.store (i32.const 80000) (i32.sub (local.get $n) (i32.const 1)))
    (memory.copy (i32.const 80004) (i32.add (local.get $p) (i32.const 1)) (i32.sub (local.get $n) (i32.const 1)))
    (global.set $stack (i32.const 70000))
    (global.set $answered (i64.add (global.get $answered) (i64.const 1)))
    (drop (call $random (i32.const 40) (i32.const 8)))
    (i64.const 0))
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64) (local $what i32) (local $size i32)
    (local.set $what (i32.load8_u (i32.const 80004)))
    (local.set $size (i32.load (i32.const 80000)))
    (if (i32.eq (local.get $what) (i32.const {ord("L")})) (then (call $spin)))
    (if (i32.eq (local.get $what) (i32.const {ord("G")})) (then (call $grow) unreachable))
    (if (i32.eq (local.get $what) (i32.const {ord("T")})) (then unreachable))
    (if (i32.eq (local.get $what) (i32.const {ord("O")})) (then (return (i64.const -1))))
    (if (i32.eq (local.get $what) (i32.const {ord("R")})) (then (drop (call $deeper (i64.const 0)))))
    (if (i32.eq (local.get $what) (i32.const {ord("F")}))
      (then (memory.fill (i32.const 90000) (i32.const 9) (i32.const 40000))))
    (if (i32.eq (local.get $what) (i32.const {ord("P")})) (then (drop (memory.grow (i32.const 1)))))
    (global.set $answered (i64.add (global.get $answered) (i64.const 1)))
    (global.set $ratio (f64.div (f64.const 0) (f64.const 0)))
    (i32.store8 (i32.const 36) (i32.add (i32.load8_u (i32.const 36)) (i32.const 1)))
    (i32.store8 (i32.const 69) (i32.add (local.get $size) (i32.const 26)))
    (memory.copy (i32.const 70) (i32.const 80004) (local.get $size))
    (local.set $size (i32.add (local.get $size) (i32.const 70)))
    (i32.store8 offset=0 (local.get $size) (i32.load8_u (i32.const 36)))
    (i64.store8 offset=1 (local.get $size) (global.get $answered))
    (i32.store8 offset=2 (local.get $size) (i32.load8_u (i32.const 32)))
    (i32.store8 offset=3 (local.get $size)
      (call_indirect (type $one) (i32.div_u (global.get $stack) (i32.const 1000)) (i32.const 3)))
    (i32.store8 offset=4 (local.get $size) (i32.load8_u (i32.const 129999)))
    (i32.store8 offset=5 (local.get $size) (memory.size))
    (memory.init $text (i32.add (local.get $size) (i32.const 6)) (i32.const 0) (i32.const 4))
    (drop (call $random (i32.add (local.get $size) (i32.const 10)) (i32.const 8)))
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.add (local.get $size) (i32.const 18))))
    (i32.store16 offset=26 (local.get $size) (i32.const 0x9090))
    (call $pack (i32.const 64) (i32.sub (local.get $size) (i32.const 36)))))"""


@cache
def tiny_runtime() -> bytes:
    """Return the module."""
    return bytes(wat2wasm(_TEXT))


def tiny_bundle(source: str) -> Bundle:
    """Return the bundle of a source."""
    return new_bundle(digest(tiny_runtime()), entry="agent.tiny", files={"agent.tiny": source.encode()})


def tiny_contents(source: str) -> tuple[bytes, bytes]:
    """Return the runtime and the bytes of a source's bundle, the two contents that a deploy needs."""
    return tiny_runtime(), encode_bundle(tiny_bundle(source))
