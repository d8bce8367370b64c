"""Components made from core modules, without a toolchain.

`agent_component.wasm` is a component of sdk/wit/agent.wit with one core module in it, made by
scripts/component_envelope.mjs. `component_of` puts another core module in that one's place. It exports `memory`,
`cabi_realloc` and `rota:agent/handler@2.0.0#handle`, and talks the canonical ABI: see `MISCHIEF`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from wasmtime import wat2wasm

from rota.common.component_binary import PREAMBLE
from rota.common.wasm_binary import Reader

_ENVELOPE: Final = (Path(__file__).parent / "agent_component.wasm").read_bytes()
_CORE_MODULE: Final = 1  # id of a section

# Where the parts of the answer are: at 1024 the list of outcomes, at 1040 one outcome.
# A `done` has its state at 1044 (some, case, pointer, length), its output at 1060, its emits at 1076, its log at 1084,
# its tensors at 1092 and its waits at 1100. An emit has 48 bytes: its kind at 21, its answers at 40. A
# message has its payload at 16 (case, pointer, length), its tensors at 88 and its address at 96.
_PARTS: Final = """
  (func $free_bytes (param $size i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
      (then (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.const 1)
          (i32.div_u (local.get $size) (i32.const 65536))))) (then unreachable))))
    (local.get $at))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (call $free_bytes (local.get 3)))
  (func $pair (param $at i32) (param $first i32) (param $second i32)
    (i32.store (local.get $at) (local.get $first)) (i32.store offset=4 (local.get $at) (local.get $second)))
  (func $deeper (param i64) (result i64) (i64.add (i64.const 1) (call $deeper (i64.add (local.get 0) (i64.const 1)))))
"""

# Echoes the payload as its output, and does what the payload's first byte says.
_CASES: Final = {
    "0": "unreachable",
    "1": "(loop $again (br $again))",
    "2": "(drop (call $deeper (i64.const 0)))",
    "3": "(call $pair (i32.const 1068) (i32.const 600) (i32.const 1))",  # 600: 0xFF, which is no UTF-8
    "4": "(call $pair (i32.const 1068) (i32.const 65000) (i32.const 0x7fffffff))",
    "5": "(i32.store (i32.const 1028) (i32.const 2))",  # two outcomes; the second one is all zeros
    "6": "(i32.store (i32.const 1028) (i32.const 0))",
    "7": "(i32.store8 (i32.const 1040) (i32.const 1)) (call $pair (i32.const 1044) (i32.const 610) (i32.const 2))"
    " (call $pair (i32.const 1052) (local.get $payload) (local.get $size))"
    " (call $pair (i32.const 1060) (i32.const 620) (i32.const 1))",
    "8": "(i32.store8 (i32.const 1040) (i32.const 7))",  # no such case
    # A state, an emit of each kind of field, a log line, and the task's first tensor.
    "9": "(i32.store (i32.const 1044) (i32.const 1)) (i32.store (i32.const 1048) (i32.const 0))"
    " (call $pair (i32.const 1052) (local.get $payload) (local.get $size))"
    " (call $pair (i32.const 1076) (i32.const 640) (i32.const 1))"
    " (call $pair (i32.const 640) (i32.load offset=96 (local.get $messages))"
    " (i32.load offset=100 (local.get $messages)))"
    " (i32.store (i32.const 648) (i32.const 1)) (call $pair (i32.const 652) (i32.const 616) (i32.const 2))"
    " (i32.store8 (i32.const 660) (i32.const -3)) (i32.store8 (i32.const 661) (i32.const 2))"
    " (call $pair (i32.const 664) (i32.const 680) (i32.const 1)) (i64.store (i32.const 672) (i64.const 5))"
    " (call $pair (i32.const 1084) (i32.const 620) (i32.const 1))"
    " (call $pair (i32.const 1092) (i32.const 680) (i32.const 1))",
    "a": "(call $pair (i32.const 1076) (call $free_bytes (i32.const 960000)) (i32.const 20000))",  # too many emits
    "b": "(i32.store (i32.const 1064) (i32.const 1)) (call $pair (i32.const 1068) (i32.const 630) (i32.const 3))",
    "c": "(call $pair (i32.const 1084) (call $free_bytes (i32.const 8000000)) (i32.const 1000000))",  # log lines
    "d": "(call $pair (i32.const 1068) (call $free_bytes (i32.const 0x1000001)) (i32.const 0x1000001))",  # 16 MiB + 1
    # What memory.grow says past the limit, as a trap.
    "e": "(if (i32.eq (i32.const -1) (memory.grow (i32.const 60000))) (then unreachable))",
    "f": "(call $pair (i32.const 1076) (i32.const 65536) (i32.const 0x00ffffff))",  # a list past the memory
    # As much as the memory holds: an answer that the engine refuses to copy.
    "g": "(call $pair (i32.const 1084) (call $free_bytes (i32.const 48000000)) (i32.const 6000000))",
    "h": "(call $pair (i32.const 1092) (call $free_bytes (i32.const 4000)) (i32.const 1000))",
    "k": "(i32.store (i32.const 1060) (i32.const 0)) (i32.store (i32.const 1100) (i32.const 1))"  # postponed
    " (call $pair (i32.const 1104) (i32.const 618) (i32.const 2))",
    "l": "(call $pair (i32.const 1076) (i32.const 640) (i32.const 1))"  # settles turn 6 with its payload
    " (call $pair (i32.const 640) (i32.load offset=96 (local.get $messages))"
    " (i32.load offset=100 (local.get $messages)))"
    " (call $pair (i32.const 652) (local.get $payload) (local.get $size))"
    " (i32.store8 (i32.const 661) (i32.const 3)) (i64.store (i32.const 680) (i64.const 6))",
    "j": "(i32.store (i32.const 1044) (i32.const 1)) (i32.store (i32.const 1048) (i32.const 0))"
    " (call $pair (i32.const 1052) (local.get $payload) (local.get $size))",
    "i": "(i32.store (i32.const 1060) (i32.const 0)) (i32.store (i32.const 1044) (local.get 0))"
    " (i32.store (i32.const 1048) (local.get 1)) (call $pair (i32.const 1052) (local.get 2) (local.get 3))",
}
MISCHIEF: Final = (
    '(module (memory (export "memory") 2) (global $free (mut i32) (i32.const 4096))'
    ' (data (i32.const 600) "\\ff") (data (i32.const 610) "no") (data (i32.const 616) "\\c3\\bf")'
    ' (data (i32.const 618) "hi")'
    ' (data (i32.const 620) "\\6a\\02\\00\\00\\02\\00\\00\\00") (data (i32.const 630) "\\c4\\80.")'
    + _PARTS
    + """
  (func (export "rota:agent/handler@2.0.0#handle") (param i32 i32 i32 i32) (param $messages i32) (param $count i32)
    (result i32) (local $payload i32) (local $size i32) (local $what i32)
    (local.set $payload (i32.load offset=20 (local.get $messages)))
    (local.set $size (i32.load offset=24 (local.get $messages)))
    (if (local.get $size) (then (local.set $what (i32.load8_u (local.get $payload)))))
    (call $pair (i32.const 1024) (i32.const 1040) (i32.const 1))
    (i32.store (i32.const 1060) (i32.const 1))
    (i32.store (i32.const 1064) (i32.load8_u offset=16 (local.get $messages)))
    (call $pair (i32.const 1068) (local.get $payload) (local.get $size))
"""
    + "\n".join(
        f"    (if (i32.eq (local.get $what) (i32.const {ord(byte)})) (then {code}))" for byte, code in _CASES.items()
    )
    + "\n    (i32.const 1024)))"
)


def component_of(core: str | bytes) -> bytes:
    """Return a component with this core module, or text of one, in it."""
    module = bytes(wat2wasm(core)) if isinstance(core, str) else core
    reader = Reader(_ENVELOPE, len(PREAMBLE), len(_ENVELOPE))
    assert reader.byte("the first section") == _CORE_MODULE
    reader.skip(reader.count("its size"), "it")
    return PREAMBLE + bytes([_CORE_MODULE]) + _count(len(module)) + module + _ENVELOPE[reader.position :]


def _count(value: int) -> bytes:
    """Return a u32 as it stands in WebAssembly."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
