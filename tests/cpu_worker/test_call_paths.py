"""The raw call path and the one on the public API: the same guests with the same inputs must agree in everything."""

from __future__ import annotations

from typing import Any

import pytest

from rota.common.work import FoldResult


def both(world: Any, run: Any, code: Any, *tasks: Any, **settings: Any) -> tuple[FoldResult, FoldResult]:
    raw, public = world.executor(raw_calls=True, **settings), world.executor(raw_calls=False, **settings)
    return run(raw, code, *tasks), run(public, code, *tasks)


@pytest.mark.parametrize("reuse", [False, True])
def test_agree_on_every_mischief(world: Any, guests: Any, run: Any, reuse: bool) -> None:
    """Goal: outcome, message, fuel and bytes agree, whatever the guest does.

    Method: all its tricks in one fold, twice over.
    """
    code = world.function(guests["mischief"], reuse=reuse, fuel=10_000_000, memory_bytes=6 << 20)
    payloads = [bytes([what]) for what in (0, 1, 2, 3, 5, 6, 7, 8, 10, 32)] * 2
    raw, public = both(world, run, code, *payloads)
    assert raw == public
    assert len(raw.outcomes) == len(payloads)


def test_agree_on_a_fault_of_the_host(world: Any, guests: Any, run: Any) -> None:
    """Goal: what cannot be done here stops both, for the same reason. Method: a stack overflow."""
    raw, public = both(world, run, world.function(guests["mischief"]), b"\x20", b"\x04")
    assert raw == public
    assert raw.stopped == "faulted"


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 60_000])
def test_agree_on_bytes(world: Any, guests: Any, run: Any, size: int) -> None:
    """Goal: no byte is lost at any size, up to the end of the memory. Method: an echo of a pattern."""
    payload = bytes(index % 251 for index in range(size))
    raw, public = both(world, run, world.function(guests["echo"]), payload)
    assert raw == public
    assert raw.outcomes[0].result == payload  # type: ignore[union-attr]


@pytest.mark.parametrize("reuse", [False, True])
def test_agree_on_a_memory_without_pages(world: Any, guests: Any, run: Any, reuse: bool) -> None:
    """Goal: a memory of no page is a memory. Method: nothing in and out, twice; a byte has no room."""
    text = guests["echo"].replace('(memory (export "memory") 1)', '(memory (export "memory") 0)')
    text = text.replace("i32.const 1024", "i32.const 0")
    raw, public = both(world, run, world.function(text, reuse=reuse), b"", b"", b"x")
    assert raw == public
    first, second, full = raw.outcomes
    assert (first.result, second.result, full.kind) == (b"", b"", "memory")  # type: ignore[union-attr]


# Answers by its first byte: 0 the input, 1 the rest in upper case, other bytes an error with the rest as its text; a
# rest that begins with "!" lies outside the memory.
STATUS = """(module (memory (export "memory") 1) (global $size (mut i32) (i32.const 0))
  (func (export "alloc") (param i32) (result i32) (global.set $size (local.get 0)) i32.const 64)
  (func (export "format") {params} (result i32) (i32.load8_s (i32.const 64)))
  (func (export "output_ptr") (result i32)
    (if (result i32) (i32.eq (i32.load8_u (i32.const 65)) (i32.const 33)) (then i32.const -1) (else i32.const 65)))
  (func (export "output_len") (result i32) (i32.sub (global.get $size) (i32.const 1))))"""


@pytest.mark.parametrize("params", ["", "(param i32 i32)"])
def test_agree_on_a_function_with_an_output_of_its_own(world: Any, run: Any, params: str) -> None:
    """Goal: status, answer and error of such a function, by both paths. Method: each status, in both shapes of call."""
    roles = tuple({"alloc": "alloc", "call": "format", "output_ptr": "output_ptr", "output_len": "output_len"}.items())
    code = world.function(STATUS.format(params=params), exports=roles)
    payloads = [b"\0same", b"\1answer", b"\2bad \xff", b"\xff", b"\1!"]
    raw, public = both(world, run, code, *payloads)
    assert raw == public
    same, answer, bad, silent, outside = raw.outcomes
    assert (same.result, answer.result) == (b"\0same", b"answer")  # type: ignore[union-attr]
    assert (bad.kind, bad.message) == ("error", "format: bad \ufffd")  # type: ignore[union-attr]
    assert (silent.kind, silent.message) == ("error", "format: status -1")  # type: ignore[union-attr]
    assert (outside.kind, outside.message.partition(":")[0]) == ("bad_output", "format")  # type: ignore[union-attr]


def test_agree_on_agents(world: Any, guests: Any, run: Any, task: Any) -> None:
    """Goal: state, errors and traps agree. Method: the counter."""
    tasks = [task(turn=turn, kind=kind) for turn, kind in enumerate(["tell", "ask", "tell", "timer", "tell"], 1)]
    raw, public = both(world, run, world.agent(guests["counter"]), *tasks)
    assert raw == public


@pytest.mark.parametrize(
    "table",
    [
        "(table 1048577 funcref)",
        "(table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref)",
    ],
)
def test_agree_on_tables_past_the_bounds(world: Any, guests: Any, run: Any, table: str) -> None:
    """Goal: too large a table and too many of them are refused by both, with a reason. Method: one module of each."""
    text = guests["echo"][:-1] + table + ")"
    raw, public = both(world, run, world.function(text), b"x")
    assert raw == public
    assert raw.stopped == "refused"
    assert "table" in raw.reason


def test_addresses_above_two_gib(world: Any, guests: Any, run: Any) -> None:
    """Goal: addresses and lengths are unsigned.

    Method: a guest whose input lies in the upper half of a 4 GiB memory.
    """
    text = (
        guests["echo"]
        .replace(
            '(memory (export "memory") 1)',
            '(memory (export "memory") 1) (func $grow (drop (memory.grow (i32.const 40000)))) (start $grow)',
        )
        .replace("i32.const 1024", "i32.const 0x90000000")
    )
    raw, public = both(world, run, world.function(text, memory_bytes=4 << 30), b"high")
    assert raw == public
    assert raw.outcomes[0].result == b"high"  # type: ignore[union-attr]


def test_agree_on_the_stack_of_a_trap(world: Any, guests: Any, run: Any) -> None:
    """Goal: a trap says where it was: names of the module, or numbers without them, the innermost first.

    Method: three functions deep, one name that is no text for a screen, one function without a name; by an instruction,
    and out of fuel in a loop.
    """
    text = f"""(module (memory (export "memory") 1) {guests["alloc"]} {guests["pack"]}
      (func $inner (param i32) (if (i32.eqz (local.get 0)) (then unreachable)) (loop $again (br $again)))
      (func $"two\\nlines" (param i32) (call $inner (local.get 0)))
      (func (export "rota_call") (param $p i32) (param $n i32) (result i64)
        (call $"two\\nlines" (i32.load8_u (local.get $p))) (i64.const 0)))"""
    raw, public = both(world, run, world.function(text, fuel=10_000), b"\0", b"\1")
    assert raw == public
    trap, spin = raw.outcomes
    assert [line.split(" (module+0x")[0] for line in trap.log] == ["  at inner", "  at two?lines", "  at function 4"]
    assert spin.kind == "fuel"  # type: ignore[union-attr]
    assert [line.split(" (")[0] for line in spin.log] == ["  at inner", "  at two?lines", "  at function 4"]
