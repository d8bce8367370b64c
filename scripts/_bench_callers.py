"""Agents for the cases `asks` and `flows`, as WebAssembly text: the least that an agent or a flow does to ask.

What is measured is the system, so they decode only what they need and answer bytes that are fixed but for a few.
"""

from __future__ import annotations

from typing import Final

import msgpack
import wasmtime

ANSWER: Final = b"done"
ROOM: Final = 65536  # inputs are written from here on

_HEAD: Final = """(module (memory (export "memory") 4)
  (global $steps (mut i32) (i32.const 0))
  {data}
  (func (export "rota_alloc") (param i32) (result i32) (i32.const {room}))
  {body})"""

# The message of an ask is [how many asks there were, then the postponed turn as MessagePack]; whoever answers gives it
# back, so nothing is kept in a state. It reads version, state (nil), kind, sender, payload and turn of its input.
_BY_HAND: Final = """
  (func $skip (param $p i32) (result i32) (local $b i32)
    (local.set $b (i32.load8_u (local.get $p)))
    (if (i32.lt_u (local.get $b) (i32.const 0x80)) (then (return (i32.add (local.get $p) (i32.const 1)))))
    (if (i32.eq (i32.and (local.get $b) (i32.const 0xe0)) (i32.const 0xa0)) (then
      (return (i32.add (i32.add (local.get $p) (i32.const 1)) (i32.and (local.get $b) (i32.const 0x1f))))))
    (if (i32.eq (local.get $b) (i32.const 0xc0)) (then (return (i32.add (local.get $p) (i32.const 1)))))
    (if (i32.or (i32.eq (local.get $b) (i32.const 0xc4)) (i32.eq (local.get $b) (i32.const 0xd9))) (then
      (return (i32.add (i32.add (local.get $p) (i32.const 2)) (i32.load8_u offset=1 (local.get $p))))))
    (return (i32.add (i32.add (local.get $p) (i32.const 1))
      (i32.shl (i32.const 1) (i32.sub (local.get $b) (i32.const 0xcc))))))
  (func $put (param $at i32) (param $from i32) (param $n i32) (result i32)
    (memory.copy (local.get $at) (local.get $from) (local.get $n))
    (i32.add (local.get $at) (local.get $n)))
  (func (export "rota_step") (param $in i32) (param $n i32) (result i64)
    (local $sender i32) (local $payload i32) (local $turn i32) (local $size i32) (local $count i32)
    (local $is_reply i32) (local $out i32)
    (local.set $is_reply (i32.eq (i32.load8_u offset=3 (local.get $in)) (i32.const 0xa5)))
    (local.set $sender (call $skip (i32.add (local.get $in) (i32.const 3))))
    (local.set $payload (call $skip (local.get $sender)))
    (local.set $turn (call $skip (local.get $payload)))
    (local.set $size (i32.sub (call $skip (local.get $turn)) (local.get $turn)))
    (if (local.get $is_reply) (then
      (local.set $count (i32.load8_u offset=2 (local.get $payload)))
      (local.set $size (i32.sub (i32.load8_u offset=1 (local.get $payload)) (i32.const 1)))
      (local.set $turn (i32.add (local.get $payload) (i32.const 3)))))
    (local.set $out (i32.const 4096))
    (if (i32.eq (local.get $count) (i32.const {asks})) (then
      (local.set $out (call $put (local.get $out) (i32.const 1024) (i32.const {settle_bytes})))
      (local.set $out (call $put (local.get $out) (local.get $turn) (local.get $size)))
      (return (i64.or (i64.const {out}) (i64.extend_i32_u (i32.sub (local.get $out) (i32.const 4096)))))))
    (local.set $out (call $put (local.get $out) (i32.const 2048) (i32.const {ask_bytes})))
    (i32.store8 (i32.const 4097) (i32.const 0x01))
    (i32.store8 (local.get $out) (i32.const 0xc4))
    (i32.store8 offset=1 (local.get $out) (i32.add (local.get $size) (i32.const 1)))
    (i32.store8 offset=2 (local.get $out) (i32.add (local.get $count) (i32.const 1)))
    (local.set $out (call $put (i32.add (local.get $out) (i32.const 3)) (local.get $turn) (local.get $size)))
    (local.set $out (call $put (local.get $out) (i32.const 3072) (i32.const {tail_bytes})))
    (if (local.get $is_reply) (then (i32.store8 (i32.const 4096) (i32.const 0x95))
      (local.set $out (i32.sub (local.get $out) (i32.const 3)))))
    (i64.or (i64.const {out}) (i64.extend_i32_u (i32.sub (local.get $out) (i32.const 4096)))))"""

_FLOW: Final = """
  (func (export "rota_step") (param i32 i32) (result i64)
    (global.set $steps (i32.add (global.get $steps) (i32.const 1)))
    (select (i64.const {returns}) (i64.const {waits}) (i32.gt_u (global.get $steps) (i32.const {awaits}))))"""

_ALWAYS: Final = """
  (func (export "rota_step") (param i32 i32) (result i64) (i64.const {out}))"""


def by_hand(name: str, target: str, asks: int) -> bytes:
    """Return an agent `name` (without a key) that postpones an ask, asks `target` one after another `asks` times, which
    must answer what it is asked, and settles.
    """
    settle = b"\x95\x01\x00\xc0\xc0\x91\x97" + b"".join(map(_packed, (name, ANSWER, 0, "reply", [], 0)))
    ask = b"\x98\x01\x00\xc0\xc0\x91\x94" + _packed(target)
    tail = b"\x00" + _packed("ask") + b"\x90\x90\xa0"
    return _module(
        _BY_HAND.format(asks=asks, settle_bytes=len(settle), ask_bytes=len(ask), tail_bytes=len(tail), out=4096 << 32),
        {1024: settle, 2048: ask, 3072: tail},
    )


def flow(target: str, awaits: int) -> bytes:
    """Return a flow that asks `target` one after another `awaits` times, and returns."""
    ask = _packed([1, 0, None, None, [[target, b"\x01", 0, "ask"]], [], [], ""])
    end = _packed([1, 0, None, ANSWER])
    body = _FLOW.format(awaits=awaits, waits=1024 << 32 | len(ask), returns=2048 << 32 | len(end))
    return _module(body, {1024: ask, 2048: end})


def keeper_of_asks() -> bytes:
    """Return an agent that postpones everything and settles nothing."""
    out = _packed([1, 0, None, None, [], [], [], ""])
    return _module(_ALWAYS.format(out=1024 << 32 | len(out)), {1024: out})


def _module(body: str, data: dict[int, bytes]) -> bytes:
    segments = "\n  ".join(
        f'(data (i32.const {at}) "{"".join(f"{chr(92)}{byte:02x}" for byte in found)}")' for at, found in data.items()
    )
    return bytes(wasmtime.wat2wasm(_HEAD.format(data=segments, room=ROOM, body=body)))


def _packed(value: object) -> bytes:
    return bytes(msgpack.packb(value))
