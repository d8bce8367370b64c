"""The ends that a guest cannot move: fuel to the unit, the stack, the clock on the wall; in a host function, too."""

from __future__ import annotations

import threading
from typing import Any

import attacks
import pytest
from sandbox_kit import ALLOC, LANE_SEED, PACK, World, make_task
from wasi_caller import NAMES, caller_of_all, payload_of

from rota.common.rota_imports import OWN_IMPORTS, OWN_MODULE
from rota.common.wasi_imports import WASI_IMPORTS
from rota.common.work import Fold, FoldResult
from rota.cpu_worker.executor import WasmExecutor
from rota.wasi.costs import CALL_FUEL


@pytest.fixture
def workers(world: World) -> Any:
    """Both call paths; a neighbour's task gives the same before and after."""
    executors = [world.executor(raw_calls=raw) for raw in (True, False)]
    neighbour = world.agent(attacks.NEIGHBOUR)
    before = [attacks.run(executor, neighbour, b"") for executor in executors]
    yield executors
    assert [attacks.run(executor, neighbour, b"") for executor in executors] == before


def agreed(workers: Any, code: Any, payload: bytes) -> FoldResult:
    first, second = [attacks.run(executor, code, payload) for executor in workers]
    assert first == second
    return first


def test_fuel_ends_inside_every_function_of_wasi(world: World, workers: Any) -> None:
    """Goal: a host function that runs out of fuel stops the guest there, at exactly its limit, and does no more.

    Method: each function alone, with one unit less than the call needs, and with exactly enough.
    """
    for name in NAMES:
        payload = payload_of([(name, [3] * len(WASI_IMPORTS[name].params))])
        used = agreed(workers, world.function(caller_of_all()), payload).outcomes[0].fuel
        assert used > CALL_FUEL
        for fuel in (used - 1, used - CALL_FUEL // 2):
            (short,) = agreed(workers, world.function(caller_of_all(), fuel=fuel), payload).outcomes
            assert (name, short.kind, short.fuel) == (name, "fuel", fuel)  # type: ignore[union-attr]
        enough = agreed(workers, world.function(caller_of_all(), fuel=used), payload).outcomes[0]
        assert (enough.fuel, hasattr(enough, "result")) == (used, True)


@pytest.mark.parametrize("name", OWN_IMPORTS)
def test_fuel_ends_inside_our_own_functions(world: World, workers: Any, name: str) -> None:
    """Goal: the same for `rota.*`. Method: a call with less fuel than it costs; the log says where."""
    signature = OWN_IMPORTS[name]
    values = " ".join(f"({kind}.const 1)" for kind in signature.params)
    result = f"(result {' '.join(signature.results)})" if signature.results else ""
    text = f"""(module (import "{OWN_MODULE}" "{name}" (func $f (param {" ".join(signature.params)}) {result}))
      (memory (export "memory") 1) {ALLOC} {PACK}
      (func (export "rota_call") (param i32 i32) (result i64)
        {"(drop " if result else ""}(call $f {values}){")" if result else ""} (i64.const 0)))"""
    (outcome,) = agreed(workers, world.function(text, fuel=CALL_FUEL // 2), b"").outcomes
    assert (outcome.kind, outcome.message) == ("fuel", "out of fuel in rota_call")  # type: ignore[union-attr]
    assert (outcome.fuel, len(outcome.log)) == (CALL_FUEL // 2, 1)


def test_the_end_of_the_stack_is_no_outcome(world: World, workers: Any) -> None:
    """Goal: recursion past the stack, whose depth depends on the compiler, is a fault of the host and not a result.

    Method: endless recursion with much fuel; with little, the fuel ends first.
    """
    text = attacks.module("(call $deep (i64.const 0))", more=attacks.RECURSION)
    result = agreed(workers, world.function(text, fuel=1 << 40), b"")
    assert (tuple(result.outcomes), result.stopped) == ((), "faulted")
    assert "stack overflow in rota_call" in result.reason
    (short,) = agreed(workers, world.function(text, fuel=10_000), b"").outcomes
    assert short.kind == "fuel"  # type: ignore[union-attr]


@pytest.mark.parametrize("body", ["", "(call $log (i32.const 0) (i32.const 0))"], ids=["computing", "in host calls"])
def test_the_wall_clock_ends_everything(world: World, workers: Any, body: str) -> None:
    """Goal: more fuel than time ends at the time, as a verdict. Method: an endless loop with endless fuel, of plain
    instructions and of calls to the host; the outcomes of the tasks before it are kept.
    """
    loop = f"(loop $again {body} (br $again)) (i64.const 0)"
    text = attacks.module(f"(if (i32.eqz (local.get $n)) (then (return (i64.const 0)))) {loop}", imports=attacks.LOG)
    code = world.function(text, fuel=1 << 60, timeout_ms=200)
    for executor in workers:
        result = attacks.run(executor, code, b"", b"x", b"")
        assert (len(result.outcomes), result.stopped) == (1, "timeout")


def test_a_guest_in_host_calls_can_be_interrupted(world: World, workers: Any) -> None:
    """Goal: a worker that is told to stop stops. Method: an endless loop of host calls, interrupted from a thread that
    waits for nothing but its start.
    """
    loop = "(loop $again (call $log (i32.const 0) (i32.const 0)) (br $again)) (i64.const 0)"
    code = world.function(attacks.module(loop, imports=attacks.LOG), fuel=1 << 60, timeout_ms=60_000)
    executor: WasmExecutor = workers[0]
    stopping = threading.Event()

    def interrupt() -> None:
        while not stopping.wait(0.05):
            executor.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        result = executor.run(Fold(LANE_SEED, code, "a/b", None, (make_task(),)))
    finally:
        stopping.set()
        thread.join()
    assert (tuple(result.outcomes), result.stopped) == ((), "interrupted")
