"""A flow in WebAssembly text whose steps show what its guest kept, and folds of its calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
from sandbox_kit import ALLOC, LANE_SEED, PACK, World, make_task
from wasmtime import wat2wasm

from rota.common.bundle import encode_bundle, new_bundle
from rota.common.calls import path_of
from rota.common.digests import digest
from rota.common.work import (
    NO_STEPS,
    SOURCE,
    CallStep,
    CallSteps,
    Code,
    Fold,
    FoldResult,
    Limits,
    Outcome,
    Past,
    TaskInput,
)

# What a step does beside its answer.
NOTHING, GROW, SPIN, TRAP, LOOP, READ, SLOW = range(7)
SEEN_BYTES = 32

# Payload: what, where in the output `seen` goes, a parameter, the output. Seen: how many messages, pages of memory,
# what the parameter's tensor begins with, eight bytes of chance, the time. SPIN takes fuel by the number of messages.
# For messages of kind tell without a sender, of up to 65535 bytes.
DIARY = f"""(module
  (import "rota" "tensor_read" (func $read (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (memory (export "memory") 2) {ALLOC} {PACK}
  (func $spin (param $rounds i64)
    (loop $again (local.set $rounds (i64.sub (local.get $rounds) (i64.const 1)))
      (br_if $again (i64.ne (local.get $rounds) (i64.const 0)))))
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64)
    (local $size i32) (local $what i32) (local $place i32)
    (local.set $size (i32.load8_u offset=10 (local.get $p)))
    (local.set $p (i32.add (local.get $p) (i32.const 11)))
    (if (i32.eq (i32.load8_u (i32.sub (local.get $p) (i32.const 2))) (i32.const 0xc5)) (then
      (local.set $size (i32.or (i32.shl (local.get $size) (i32.const 8)) (i32.load8_u (local.get $p))))
      (local.set $p (i32.add (local.get $p) (i32.const 1)))))
    (local.set $what (i32.load8_u (local.get $p)))
    (local.set $place (i32.add (local.get $p) (i32.load8_u offset=1 (local.get $p))))
    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
    (if (i32.eq (local.get $what) (i32.const {GROW})) (then (drop (memory.grow (i32.const 1)))))
    (if (i32.eq (local.get $what) (i32.const {SPIN}))
      (then (call $spin (i64.mul (i64.const 1000) (i64.load32_u (i32.const 0))))))
    (if (i32.eq (local.get $what) (i32.const {TRAP})) (then unreachable))
    (if (i32.eq (local.get $what) (i32.const {LOOP})) (then (call $spin (i64.const 0))))
    (if (i32.eq (local.get $what) (i32.const {SLOW})) (then (call $spin (i64.const 100000000))))
    (if (i32.ne (i32.load8_u offset=1 (local.get $p)) (i32.const 255)) (then
      (i32.store (local.get $place) (i32.load (i32.const 0)))
      (i32.store offset=4 (local.get $place) (memory.size))
      (if (i32.eq (local.get $what) (i32.const {READ})) (then
        (i32.store offset=8 (local.get $place)
          (call $read (i32.load8_u offset=2 (local.get $p)) (i64.const 0)
            (i32.add (local.get $place) (i32.const 12)) (i32.const 4)))))
      (drop (call $random (i32.add (local.get $place) (i32.const 16)) (i32.const 8)))
      (drop (call $clock (i32.const 0) (i64.const 0) (i32.add (local.get $place) (i32.const 24))))))
    (call $pack (i32.add (local.get $p) (i32.const 3)) (i32.sub (local.get $size) (i32.const 3)))))"""

# The same as a runtime, whose source is empty.
_LOAD = '(func (export "rota_load") (param i32 i32) (result i64) (i64.const 0)))'


def diary_source(world: World, **limits: int) -> Code:
    """Deploy the flow as a source of a runtime of its own, and return its code."""
    runtime = bytes(wat2wasm(DIARY.strip()[:-1] + _LOAD))
    world.deploy(runtime, SOURCE)
    bundle = encode_bundle(new_bundle(digest(runtime), entry="flow.tiny", files={"flow.tiny": b""}))
    (world.modules_dir / f"{digest(bundle).hex()}.bundle").write_bytes(bundle)
    return Code(digest(bundle), SOURCE, limits=Limits(**limits), flow=True)


def goes_on(
    what: int = NOTHING, parameter: int = 0, *, target: str = "a/b", sends: Sequence[int] = (), **fields: Any
) -> TaskInput:
    """Return a message whose step asks `target` with what it has seen and these tensors, and goes on."""
    emit = [target, b"seen" + bytes(SEEN_BYTES), 0, "ask", list(sends)]
    output = msgpack.packb([1, 0, None, None, [emit], [], [], "x:1"])
    return _message(what, output, parameter, **fields)


def returns(what: int = NOTHING, parameter: int = 0, **fields: Any) -> TaskInput:
    """Return a message whose step returns what it has seen."""
    return _message(what, msgpack.packb([1, 0, None, b"seen" + bytes(SEEN_BYTES)]), parameter, **fields)


def answers(output: bytes, what: int = NOTHING, **fields: Any) -> TaskInput:
    """Return a message whose step gives this output."""
    return make_task(bytes([what, 255, 0]) + output, **fields)


def _message(what: int, output: bytes, parameter: int, **fields: Any) -> TaskInput:
    return make_task(bytes([what, 3 + output.index(b"seen") + 4, parameter]) + output, **fields)


def numbered(messages: Sequence[TaskInput], first: int = 5) -> list[TaskInput]:
    """Return the messages with turns and times that grow."""
    return [
        message._replace(turn=first + 3 * place, now_ms=1_700_000_000_000 + 1_000 * place)
        for place, message in enumerate(messages)
    ]


def past_of(messages: Sequence[TaskInput], outcomes: Sequence[Outcome], *, alive: int = 1_000) -> Past:
    """Return the past of a call that has had these messages and went on after each."""
    paths = [path_of(outcome.emits) for outcome in outcomes]  # type: ignore[union-attr]
    steps = [CallStep(message, path) for message, path in zip(messages, paths, strict=True)]
    return Past(CallSteps.of(steps), alive, sum([outcome.fuel for outcome in outcomes]))


def call_fold(code: Code, tasks: Sequence[TaskInput], past: Past | None = None, address: str = "diary/~5") -> Fold:
    return Fold(LANE_SEED, code, address, None, tuple(tasks), (), past or Past(NO_STEPS, len(tasks), 0))


def run_grouped(
    executor: Any, code: Code, messages: Sequence[TaskInput], sizes: Sequence[int], address: str = "diary/~5"
) -> list[FoldResult]:
    """Run the messages of one call in folds of these sizes; it goes on in all folds but the last."""
    results: list[FoldResult] = []
    done: list[Outcome] = []
    for size in sizes:
        before = len(done)
        past = past_of(messages[:before], done, alive=size)
        result = executor.run(call_fold(code, messages[before : before + size], past, address))
        results.append(result)
        done += result.outcomes
    return results
