"""Guests that attack, each with its documented outcome (docs/FENCE.md), as a table.

Run as a script, it is another process that runs all of them: `attacks.py ARTEFACTS raw|public` prints, as JSON, the
digest of everything that each attack came to, fuel and log included. Outcomes are derived, so all processes agree.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_kit import ALLOC, COUNTER, LANE_SEED, MIRROR, PACK, World, make_task
from wasi_caller import caller_of_all, garbage

from rota.common.digests import digest_of
from rota.common.work import AGENT, FUNCTION, Code, Fold, FoldResult, tagged
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.tensor_access import StoreTensors
from rota.tensors.store import TensorStore

DONE = "done"
NEIGHBOUR = COUNTER
LOG = '(import "rota" "log" (func $log (param i32 i32)))'
FAIL = '(import "rota" "fail" (func $fail (param i32 i32 i32 i32)))'


@dataclass(frozen=True)
class Attack:
    """One guest with one payload. `outcome` is a kind of failure or DONE, `message` a part of the text of a failure, or
    what the guest comes to. `result`: of a success; None: any.
    """

    name: str
    text: str
    outcome: str
    message: str = ""
    payload: bytes = b""
    kind: str = FUNCTION
    limits: Mapping[str, int] = field(default_factory=dict)
    result: bytes | None = None


def module(body: str, *, imports: str = "", pages: int = 1, more: str = "", alloc: str = ALLOC) -> str:
    """Return a function whose `rota_call` is `body`; $p and $n are the address and the length of its payload."""
    return f"""(module {imports} (memory (export "memory") {pages}) {alloc} {PACK} {more}
      (func (export "rota_call") (param $p i32) (param $n i32) (result i64) (local $i i32)
        {body}))"""


def _agent(pages: int, body: str) -> str:
    """Return an agent whose step is `body`; $d is the address of its payload, of up to 255 bytes."""
    return f"""(module (memory (export "memory") {pages}) {ALLOC} {PACK}
      (func (export "rota_step") (param $p i32) (param $n i32) (result i64) (local $d i32) (local $at i32)
        (local.set $d (i32.add (local.get $p) (i32.const 11))) {body}))"""


# Its output is one byte, many times: the payload is the byte, and how often, in four bytes.
FILLER = _agent(
    258,
    """(local.set $at (i32.load offset=1 (local.get $d)))
       (memory.fill (i32.const 65536) (i32.load8_u (local.get $d)) (local.get $at))
       (call $pack (i32.const 65536) (local.get $at))""",
)

# It emits to "a": the payload is how often, and how many bytes each time, in four bytes each.
EMITTER = _agent(
    128,
    f"""(i64.store (i32.const 65536) (i64.const 0xDCC0C0000195))
       (i32.store8 (i32.const 65542) (i32.load8_u offset=1 (local.get $d)))
       (i32.store8 (i32.const 65543) (i32.load8_u (local.get $d)))
       (local.set $at (i32.const 65544))
       (loop $again
         (i32.store (local.get $at) (i32.const {0xC561A192 - (1 << 32)}))
         (i32.store8 offset=4 (local.get $at) (i32.load8_u offset=5 (local.get $d)))
         (i32.store8 offset=5 (local.get $at) (i32.load8_u offset=4 (local.get $d)))
         (local.set $at (i32.add (i32.add (local.get $at) (i32.const 6)) (i32.load offset=4 (local.get $d))))
         (i32.store (local.get $d) (i32.sub (i32.load (local.get $d)) (i32.const 1)))
         (br_if $again (i32.load (local.get $d))))
       (call $pack (i32.const 65536) (i32.sub (local.get $at) (i32.const 65536)))""",
)

# Its answer is where its payload says: address and length.
POINTER = "(call $pack (i32.load (local.get $p)) (i32.load offset=4 (local.get $p)))"


RECURSION = "(func $deep (param i64) (result i64) (i64.add (call $deep (local.get 0)) (i64.const 1)))"
_FOREVER = "(loop $again (br $again)) (i64.const 0)"
_GROW = """(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
  (i32.store (i32.const 0) (memory.size)) (call $pack (i32.const 0) (i32.const 4))"""
_GROW_TABLE = """(loop $again
    (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 65536)) (i32.const -1))))
  (i32.store (i32.const 0) (table.size $t)) (call $pack (i32.const 0) (i32.const 4))"""
_OUTSIDE = "pointer + length is outside the memory of 65536 bytes"
_SMALL = {"fuel": 10_000_000}


def attacks() -> Sequence[Attack]:
    """Return all attacks, in a fixed order."""
    return [*_computing(), *_memory(), *_outputs(), *_pointers(), *_host_calls(), *_starts()]


def _computing() -> Iterator[Attack]:
    yield Attack("endless loop", module(_FOREVER), "fuel", "out of fuel in rota_call", limits=_SMALL)
    tail = "(func $on (param i64) (result i64) (return_call $on (i64.add (local.get 0) (i64.const 1))))"
    yield Attack(
        "endless tail calls", module("(call $on (i64.const 0))", more=tail), "fuel", "out of fuel", limits=_SMALL
    )
    alloc = ALLOC.replace("i32.const 1024", "(loop $again (br $again)) i32.const 0")
    yield Attack(
        "endless alloc", module("(i64.const 0)", alloc=alloc), "fuel", "out of fuel in rota_alloc", limits=_SMALL
    )
    nan = "(i64.store (i32.const 0) (i64.reinterpret_f64 (f64.div (f64.const 0) (f64.const 0))))"
    yield Attack(
        "bits of a NaN",
        module(f"{nan} (call $pack (i32.const 0) (i32.const 8))"),
        DONE,
        "the same on every machine",
        result=struct.pack("<Q", 0x7FF8 << 48),
    )


def _memory() -> Iterator[Attack]:
    small = {"memory_bytes": 4 << 20}
    yield Attack("memory bomb", module(_GROW), DONE, "-1 at memory_bytes", limits=small, result=struct.pack("<I", 64))
    yield Attack(
        "memory at the start", module("(i64.const 0)", pages=65_536), "memory", "over memory_bytes", limits=small
    )
    table = "(table $t 0 funcref)"
    most = struct.pack("<I", 1 << 20)
    yield Attack("table bomb", module(_GROW_TABLE, more=table), DONE, "-1 at 1048576 elements", result=most)
    four = "(table $t 0 funcref)" + "(table 1048576 funcref)" * 3
    yield Attack("four tables", module(_GROW_TABLE, more=four), DONE, "-1 at 1048576 elements", result=most)
    clear = "(memory.fill (i32.const 0) (i32.const 0) (i32.const -1)) (i64.const 0)"
    yield Attack("fill past the end", module(clear), "trap", "memory_out_of_bounds in rota_call")
    huge = "(loop $again (memory.fill (i32.const 0) (i32.const 1) (i32.const 4000000)) (br $again)) (i64.const 0)"
    yield Attack("endless fill", module(huge, pages=64), "fuel", "out of fuel in rota_call", limits=_SMALL)


def _outputs() -> Iterator[Attack]:
    for name, byte, size, message in (
        ("nested arrays", 0x91, 16 << 20, "output: 16777216 bytes that are not one MessagePack value"),
        ("nested maps", 0x81, 1 << 20, "output: 1048576 bytes that are not one MessagePack value"),
        ("deep and short", 0x91, 60_000, "output: 60000 bytes that are not one MessagePack value"),
        ("empty arrays", 0x90, 200_000, "output: 200000 bytes that are not one MessagePack value"),
        ("a sea of nils", 0xC0, 16 << 20, "output: 16777216 bytes that are not one MessagePack value"),
        ("output too large", 0xC0, (16 << 20) + 1, "rota_step: 16777217 bytes returned, at most 16777216"),
    ):
        yield Attack(name, FILLER, "bad_output", message, struct.pack("<BI", byte, size), AGENT)
    for name, output, message in (
        ("an array of 4 billion", b"\xdd\xff\xff\xff\xff", "output: 5 bytes that are not one MessagePack value"),
        ("many arrays", b"\xdd\x00\x00\xea\x60" + b"\x90" * 60_000, "version: array of 0, not 1"),
        ("a map for an array", b"\x81\x01\x00", "output: not an array that starts with version and status"),
        ("text that is no text", b"\x96\x01\x00\xc0\xc0\x90\x91\xa2\xff\xfe", "log[0]: a str that is not UTF-8"),
        ("an extension", b"\x94\x01\x00\xd4\x01\x00\xc0", "state: a MessagePack extension, not bin"),
        ("a timestamp", b"\x94\x01\x00\xd6\xff\x00\x00\x00\x00\xc0", "state: 0.0, not bin"),
        ("a float for a version", b"\x94\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00\x00\xc0\xc0", "version: 1.0, not 1"),
        ("false for a status", b"\x94\x01\xc2\xc0\xc0", "status: False, not 0 or 1"),
        ("bytes behind the end", b"\x94\x01\x00\xc0\xc0\xc0", "output: 6 bytes that are not one MessagePack value"),
        (
            "an emit to a path",
            b"\x95\x01\x00\xc0\xc0\x91\x92\xa9../../etc\xc4\x00",
            "emits[0].target: '../../etc', not",
        ),
        (
            "a timer for others",
            b"\x95\x01\x00\xc0\xc0\x91\x96\xa1x\xc4\x00\x00\xa5timer\x90\x01",
            "emits[0].target: 'x', but a timer goes to the agent itself",
        ),
    ):
        yield Attack(name, MIRROR, "bad_output", message, output, AGENT)
    for name, count, size, message in (
        (
            "emit flood",
            4_096,
            1,
            "emits: 4096, at most 64 (emits_max)",
        ),
        (
            "more emits than an outcome has",
            65_000,
            0,
            "emits: 65000, at most 64 (emits_max)",
        ),
        ("emit bytes", 64, 60_000, "131072 and 8 of its own content (growth_bytes)"),
    ):
        outcome = "overflow"
        yield Attack(name, EMITTER, outcome, message, struct.pack("<II", count, size), AGENT)


def _pointers() -> Iterator[Attack]:
    for name, pointer, size in (
        ("an answer past the end", 65_535, 2),
        ("an answer of 4 GiB", 0, 0xFFFF_FFFF),
        ("an answer that wraps", 0xFFFF_FFFF, 0xFFFF_FFFF),
    ):
        where = struct.pack("<II", pointer, size)
        yield Attack(name, module(POINTER), "bad_output", f"rota_call: {_OUTSIDE}", where)
    for name, address, outcome, message in (
        ("alloc past the end", "0xffffffff", "bad_output", f"rota_alloc: {_OUTSIDE}"),
        ("alloc without room", "0", "memory", "rota_alloc returned 0 for 1 bytes"),
    ):
        text = module("(i64.const 0)", alloc=ALLOC.replace("1024", address))
        yield Attack(name, text, outcome, message, payload=b"x")


def _host_calls() -> Iterator[Attack]:
    line = "(loop $again (call $log (i32.const 0) (i32.const 60000)) (br $again)) (i64.const 0)"
    yield Attack("millions of log lines", module(line, imports=LOG), "fuel", "out of fuel in rota_call", limits=_SMALL)
    empty = "(loop $again (call $log (i32.const 0) (i32.const 0)) (br $again)) (i64.const 0)"
    yield Attack("empty log lines", module(empty, imports=LOG), "fuel", "out of fuel in rota_call", limits=_SMALL)
    outside = "(call $log (i32.const 0) (i32.const -1)) (i64.const 0)"
    yield Attack("a line of 4 GiB", module(outside, imports=LOG), "bad_output", "rota.log: pointer + length is outside")
    fail = "(call $fail (i32.const 65535) (i32.const 2) (i32.const 0) (i32.const 0)) (i64.const 0)"
    yield Attack("a failure of nothing", module(fail, imports=FAIL), "bad_output", "rota.fail: code: pointer + length")
    exit_ = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
    yield Attack(
        "exit of a function",
        module("(call $exit (i32.const 0)) (i64.const 0)", imports=exit_),
        "trap",
        "proc_exit(0) in rota_call",
    )
    every = caller_of_all()
    for seed in range(4):
        yield Attack(f"garbage for WASI {seed}", every, DONE, "error numbers", garbage(seed), limits={"fuel": 1 << 40})


def _starts() -> Iterator[Attack]:
    start = "(func $start {}) (start $start)"
    yield Attack(
        "a trap at the start",
        module("(i64.const 0)", more=start.format("unreachable")),
        "trap",
        "unreachable in instantiation",
    )
    outside = '(data (i32.const 65535) "ab")'
    yield Attack(
        "data past the end", module("(i64.const 0)", more=outside), "trap", "memory_out_of_bounds in instantiation"
    )
    elements = "(table 1 funcref) (elem (i32.const 1) func $pack)"
    yield Attack(
        "elements past the end", module("(i64.const 0)", more=elements), "trap", "table_out_of_bounds in instantiation"
    )
    exit_ = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
    yield Attack(
        "exit at the start",
        module("(i64.const 0)", imports=exit_, more=start.format("(call $exit (i32.const 7))")),
        "trap",
        "proc_exit(7) in instantiation",
    )
    log = start.format("(call $log (i32.const 0) (i32.const 70000))")
    yield Attack(
        "a lie at the start",
        module("(i64.const 0)", imports=LOG, more=log),
        "bad_output",
        "rota.log: pointer + length is outside",
    )


def run(executor: WasmExecutor, code: Code, *payloads: bytes) -> FoldResult:
    return executor.run(Fold(LANE_SEED, code, "counter/alice", None, tuple(make_task(each) for each in payloads)))


def deployed(world: World, attack: Attack) -> Code:
    return world.deploy(attack.text, attack.kind, **attack.limits)


def digest_of_result(result: FoldResult) -> str:
    """Return a digest of all that came out, with fuel and log."""
    return digest_of([[tagged(outcome) for outcome in result.outcomes], result.state, result.stopped]).hex()


def all_digests(world: World, *, raw: bool, backwards: bool = False) -> dict[str, str]:
    """Run all attacks in one executor; return the digest of each by its name."""
    executor = world.executor(raw_calls=raw, tensors=StoreTensors(TensorStore(world.modules_dir / "tensors")))
    found = {}
    for attack in reversed(attacks()) if backwards else attacks():
        found[attack.name] = digest_of_result(run(executor, deployed(world, attack), attack.payload))
    return found


def main() -> None:
    artefacts, path = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=".") as modules:
        world = World(Path(modules), Path(artefacts))
        try:
            print(json.dumps(all_digests(world, raw=path == "raw", backwards=True)))
        finally:
            for executor in world.executors:
                executor.close()


if __name__ == "__main__":
    main()
