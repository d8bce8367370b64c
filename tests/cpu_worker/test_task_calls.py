"""`rota.log` and `rota.fail`: what is kept, how a task ends, fuel, and what lies of the guest come to."""

from __future__ import annotations

from typing import Any

import pytest

from rota.common.work import Done, Failed
from rota.cpu_worker.executor import WasmExecutor
from rota.wasi.costs import CALL_FUEL

# A function that logs payload[4:4 + payload[1]], then, by payload[0]: returns nothing, traps, fails with the code
# payload[4:4 + payload[2]] and the message payload[4:4 + payload[3]], or names memory that it does not have.
TALKER = """(module
  (import "rota" "log" (func $log (param i32 i32)))
  (import "rota" "fail" (func $fail (param i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "rota_call") (param $p i32) (param $n i32) (result i64) (local $what i32) (local $text i32)
    (local.set $what (i32.load8_u (local.get $p)))
    (local.set $text (i32.add (local.get $p) (i32.const 4)))
    (if (i32.eq (local.get $what) (i32.const 3)) (then (call $log (i32.const 65530) (i32.const 7))))
    (if (i32.eq (local.get $what) (i32.const 4)) (then (call $log (i32.const -1) (i32.const 16))))
    (call $log (local.get $text) (i32.load8_u offset=1 (local.get $p)))
    (if (i32.eq (local.get $what) (i32.const 1)) (then unreachable))
    (if (i32.eq (local.get $what) (i32.const 2))
      (then (call $fail (local.get $text) (i32.load8_u offset=2 (local.get $p))
        (local.get $text) (i32.load8_u offset=3 (local.get $p)))))
    (if (i32.eq (local.get $what) (i32.const 5))
      (then (call $fail (local.get $text) (i32.const 1) (i32.const 65530) (i32.const 7))))
    (i64.const 0)))"""


@pytest.fixture(params=[True, False], ids=["raw", "public"])
def outcome(world: Any, run: Any, task: Any, request: pytest.FixtureRequest) -> Any:
    """Runs one task of the guest."""
    executor: WasmExecutor = world.executor(raw_calls=request.param)

    def run_one(payload: bytes, **limits: int) -> Done | Failed:
        result = run(executor, world.function(TALKER, **limits), task(payload))
        assert result.stopped is None, result.reason
        (found,) = result.outcomes
        return found

    return run_one


def test_a_line_is_kept_with_every_outcome(outcome: Any) -> None:
    """Goal: the log holds what was written before the end. Method: a result, a trap and a failure behind one line."""
    assert outcome(b"\0\5\0\0hello").log == ("hello",)
    trap = outcome(b"\1\5\0\0hello")
    assert (trap.kind, trap.log[0]) == ("trap", "hello")
    failed = outcome(b"\2\5\2\5hello")
    assert (failed.kind, failed.message, failed.log) == ("error", "he: hello", ("hello",))


def test_text_that_is_not_utf8(outcome: Any) -> None:
    """Goal: no line is lost for a bad byte. Method: bytes of no text, in the log and in a failure."""
    assert outcome(b"\0\3\0\0a\xff\n").log == ("a\ufffd\n",)
    assert outcome(b"\2\0\1\2a\xff").message == "a: a\ufffd"


@pytest.mark.parametrize(("what", "named"), [(3, "rota.log"), (4, "rota.log"), (5, "rota.fail: message")])
def test_lies_about_pointers(outcome: Any, what: int, named: str) -> None:
    """Goal: memory that is not there is told by name. Method: one byte too far, around the end, in the message."""
    failed = outcome(bytes([what, 0, 0, 0]) + b"x")
    assert (failed.kind, failed.message) == ("bad_output", f"{named}: pointer + length is outside the memory")


def test_a_failure_needs_a_code(outcome: Any) -> None:
    """Goal: as in the array of an error. Method: an empty code."""
    failed = outcome(b"\2\0\0\1x")
    assert (failed.kind, failed.message) == ("bad_output", "rota.fail: code is empty")


def test_each_byte_costs(outcome: Any) -> None:
    """Goal: host work is paid for, also where it is dropped. Method: fuel of longer lines, with a log and without."""
    base = outcome(b"\0\0\0\0").fuel
    for limits in ({}, {"log_bytes": 0}):
        assert outcome(b"\0\x64\0\0" + bytes(100), **limits).fuel == base + 100
    assert outcome(b"\0\0\0\0", fuel=CALL_FUEL - 1).kind == "fuel"


def test_a_full_log_drops(outcome: Any) -> None:
    """Goal: the bound holds, and a lie is seen behind it too. Method: a line over the bound; a lie with no log."""
    assert outcome(b"\0\5\0\0hello", log_bytes=3).log == ("hel",)
    assert outcome(b"\3\0\0\0", log_bytes=0).kind == "bad_output"
