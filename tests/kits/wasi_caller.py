"""A guest that calls any function of WASI with any arguments, as its payload says, and returns what they answered.

A record of the payload is one call: the number of the function and its nine arguments, eight bytes each. Texts lie
behind the records. The answer: a word for each call, then the bytes from OUT_AT on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

from sandbox_kit import PACK

from rota.common.wasi_imports import WASI_IMPORTS, WASI_MODULE

NAMES = tuple(name for name in WASI_IMPORTS if name != "proc_exit")
INPUT_AT = 131_072  # of the payload
OUT_AT = 65_536  # what calls write
OUT_BYTES = 32_768
_ANSWERS_AT = 1_024
_RECORD = struct.Struct("<10q")
_PAGES = 8


def caller_of_all() -> str:
    """Return the guest, a function."""
    imports, branches = [], []
    for number, name in enumerate(NAMES):
        kinds = WASI_IMPORTS[name].params
        values = " ".join(f"({kind}.load offset={8 * place} (local.get $r))" for place, kind in enumerate(kinds, 1))
        params = f"(param {' '.join(kinds)})" if kinds else ""
        imports.append(f'(import "{WASI_MODULE}" "{name}" (func $f{number} {params} (result i32)))')
        call = f"(i32.store (local.get $to) (call $f{number} {values}))"
        branches.append(f"(if (i32.eq (local.get $what) (i32.const {number})) (then {call}))")
    return f"""(module {" ".join(imports)} (memory (export "memory") {_PAGES}) {PACK}
      (func (export "rota_alloc") (param i32) (result i32) (i32.const {INPUT_AT}))
      (func (export "rota_call") (param $p i32) (param $n i32) (result i64)
        (local $r i32) (local $to i32) (local $what i32) (local $left i32)
        (local.set $left (i32.load (local.get $p)))
        (local.set $r (i32.add (local.get $p) (i32.const 8)))
        (local.set $to (i32.const {_ANSWERS_AT}))
        (block $done (loop $again
          (br_if $done (i32.eqz (local.get $left)))
          (local.set $what (i32.load (local.get $r)))
          {" ".join(branches)}
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (local.set $to (i32.add (local.get $to) (i32.const 4)))
          (local.set $r (i32.add (local.get $r) (i32.const {_RECORD.size}))) (br $again)))
        (call $pack (i32.const {_ANSWERS_AT}) (i32.const {OUT_AT + OUT_BYTES - _ANSWERS_AT}))))"""


def payload_of(calls: Sequence[tuple[str, Sequence[int]]], data: bytes = b"") -> bytes:
    """Return a payload with these calls, and data behind them (see `data_at`)."""
    records = [
        _RECORD.pack(NAMES.index(name), *[_signed(value) for value in (*values, *(0,) * 9)[:9]])
        for name, values in calls
    ]
    return struct.pack("<q", len(calls)) + b"".join(records) + data


def data_at(calls: int) -> int:
    """Return the address of the data behind so many calls."""
    return INPUT_AT + 8 + calls * _RECORD.size


def answers(result: bytes, calls: int) -> list[int]:
    """Return the errno of each call."""
    return list(struct.unpack_from(f"<{calls}I", result))


def written(result: bytes, at: int, size: int) -> bytes:
    """Return what calls have written at an address from OUT_AT on."""
    start = at - _ANSWERS_AT
    return result[start : start + size]


def garbage(seed: int, calls: int = 300) -> bytes:
    """Return calls of every function with chosen and random arguments, and texts that try to lead outside."""
    random = Random(seed)
    texts = b"../../etc/passwd\0/etc/passwd\0a/b/c\0..\0.\0\xff\xfe\0" + b"x/" * 200
    base = data_at(calls)
    places = [0, 1, base, base + 17, base + 29, OUT_AT, OUT_AT + 8, _PAGES * 65_536 - 4, _PAGES * 65_536, 0xFFFF_FFFF]
    small = [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 24, 255, 4_096, 65_536, 1 << 31, 0xFFFF_FFFF, (1 << 63), (1 << 64) - 1]
    made = []
    for number in range(calls):
        name = NAMES[number % len(NAMES)]
        count = len(WASI_IMPORTS[name].params)
        values = [random.choice(places if random.random() < 0.5 else small) for _ in range(count)]
        if count and name.startswith(("fd_", "path_")) and random.random() < 0.7:
            values[0] = random.choice((0, 1, 2, 3, 4, 5))
        made.append((name, values))
    return payload_of(made, texts)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
