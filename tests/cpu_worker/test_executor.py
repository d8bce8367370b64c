"""Folds through the whole executor, on both call paths: the outcome of everything that a guest can do."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from wasmtime import Instance, Module, Store

from rota.common.digests import digest, entropy
from rota.common.errors import CodeError
from rota.common.work import MODEL, Code, Done, Failed
from rota.cpu_worker.executor import WasmExecutor


@pytest.fixture(params=[True, False], ids=["raw", "public"])
def executor(world: Any, request: pytest.FixtureRequest) -> Iterator[WasmExecutor]:
    return world.executor(raw_calls=request.param)


@pytest.mark.parametrize("reuse", [False, True])
def test_function_returns_its_bytes(world: Any, guests: Any, run: Any, executor: WasmExecutor, reuse: bool) -> None:
    """Goal: plain bytes in, plain bytes out, for none, few and many bytes.

    Method: an echo, one fold of several payloads.
    """
    code = world.function(guests["echo"], reuse=reuse)
    payloads = [b"", b"a", b"rota" * 1000, bytes(range(256))]
    result = run(executor, code, *payloads)
    assert [outcome.result for outcome in result.outcomes] == payloads
    assert (result.state, result.stopped) == (None, None)
    assert len({outcome.fuel for outcome in result.outcomes}) == 1


def test_agent_threads_its_state_and_failures_leave_it(
    world: Any, guests: Any, run: Any, task: Any, executor: WasmExecutor
) -> None:
    """Goal: each task sees what the one before left; error and trap leave the state.

    Method: a counter, failing twice between.
    """
    code = world.agent(guests["counter"])
    result = run(executor, code, task(), task(kind="ask"), task(), task(kind="timer"), task(), state=b"\x05")
    first, error, second, trap, third = result.outcomes
    assert [first.result, second.result, third.result] == [b"\x06", b"\x07", b"\x08"]
    assert first.state_digest == digest(b"\x06")
    assert (error.kind, error.message) == ("error", "no: stop")
    assert (trap.kind, trap.message) == ("trap", "unreachable in rota_step")
    assert (result.state, result.stopped) == (b"\x08", None)


def test_agent_without_state_starts_from_nil(
    world: Any, guests: Any, run: Any, task: Any, executor: WasmExecutor
) -> None:
    """Goal: no state reaches the guest as nil, and a fold in which all fail reports no new state.

    Method: the counter.
    """
    code = world.agent(guests["counter"])
    assert run(executor, code, task()).state == b"\x01"
    assert run(executor, code, task(kind="ask"), state=b"\x05").state is None


def test_agent_sees_every_field(
    world: Any, guests: Any, run: Any, task: Any, tensor: Any, lane_seed: bytes, executor: WasmExecutor
) -> None:
    """Goal: the guest gets exactly the fields of the ABI. Method: an agent that returns the whole input."""
    ref = tensor(b"abc")
    given = task(b"payload", turn=7, kind="reply", sender="other/x", reply_to=3, tensors=(ref,))
    outcome = run(executor, world.agent(guests["whole"]), given, state=b"before").outcomes[0]
    assert msgpack.unpackb(outcome.result) == [
        1, b"before", "reply", "other/x", b"payload", 7, 1_700_000_000_000, entropy(lane_seed, 7), 3,
        [[ref.digest, "uint8", [3]]], "counter/alice",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        (0, "trap", "unreachable in rota_call"),
        (1, "trap", "integer_division_by_zero in rota_call"),
        (2, "trap", "memory_out_of_bounds in rota_call"),
        (3, "fuel", "out of fuel in rota_call"),
        (5, "bad_output", "rota_call: pointer + length is outside the memory of 65536 bytes"),
        (7, "trap", "indirect_call_to_null in rota_call"),
    ],
)
def test_every_way_to_fail(
    world: Any, guests: Any, run: Any, executor: WasmExecutor, what: int, kind: str, message: str
) -> None:
    """Goal: each failure has its kind and a message that is the same everywhere, and the next task is not hurt by it.

    Method: a guest that does what it is told, in one fold with a healthy task before and behind, fresh and reused.
    """
    for reuse in (False, True):
        code = world.function(guests["mischief"], fuel=1_000_000, reuse=reuse)
        before, failed, after = run(executor, code, b"\x20ok", bytes([what]), b"\x20ok").outcomes
        assert isinstance(failed, Failed)
        assert (failed.kind, failed.message) == (kind, message)
        assert (before.result, after.result) == (b"\x20ok", b"\x20ok")
        assert 0 < failed.fuel <= 1_000_000
        assert before.fuel == after.fuel


def test_fuel_is_exact(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: a task may use all its fuel and not one unit more.

    Method: measure, then allow exactly that, and one less.
    """
    used = run(executor, world.function(guests["echo"]), b"abc").outcomes[0].fuel
    assert isinstance(run(executor, world.function(guests["echo"], fuel=used), b"abc").outcomes[0], Done)
    short = run(executor, world.function(guests["echo"], fuel=used - 1), b"abc").outcomes[0]
    assert (short.kind, short.fuel) == ("fuel", used - 1)


def test_fuel_is_what_the_engine_counts(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: the fuel in an outcome is the engine's own count. Method: plain wasmtime with no limit near, same calls."""
    used = run(executor, world.function(guests["echo"]), b"abc").outcomes[0].fuel
    store = Store(executor._engine)
    store.set_fuel(1000)
    store.set_epoch_deadline(1)
    exports = Instance(store, Module(executor._engine, guests["echo"]), []).exports(store)
    before = store.get_fuel()
    exports["rota_call"](store, exports["rota_alloc"](store, 3), 3)
    assert used == before - store.get_fuel()


def test_a_large_answer_costs_fuel(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: what the host copies is paid for. Method: answers at the free size and above, and exactly enough fuel."""
    text = guests["echo"].replace(
        "(call $pack (local.get 0) (local.get 1))", "(call $pack (i32.const 0) (i32.load (local.get 0)))"
    )
    text = text.replace('"memory") 1', '"memory") 3')
    free, more = [struct.pack("<I", size) for size in (65_536, 65_536 + 1_000)]
    first, second = run(executor, world.function(text), free, more).outcomes
    assert second.fuel == first.fuel + 1_000
    assert len(run(executor, world.function(text, fuel=second.fuel), more).outcomes[0].result) == 66_536
    short = run(executor, world.function(text, fuel=second.fuel - 1), more).outcomes[0]
    assert (short.kind, short.fuel) == ("fuel", second.fuel - 1)


def test_memory_limit(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: a module that starts over its limit fails with `memory`; growing past it is refused, growing to it is not.

    Method: two limits.
    """
    code = world.function(guests["mischief"], memory_bytes=65_535)
    outcome = run(executor, code, b"\x20").outcomes[0]
    assert (outcome.kind, outcome.fuel) == ("memory", 0)
    assert outcome.message == "the module starts with 65536 bytes of memory, over memory_bytes = 65535"
    refused, grown = (world.function(guests["mischief"], memory_bytes=pages * 65_536) for pages in (100, 101))
    assert run(executor, refused, b"\x06").outcomes[0].result == b"\xff\xff\xff\xff"
    assert run(executor, grown, b"\x06").outcomes[0].result == b"\x01\0\0\0"


def test_answer_in_grown_memory(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: memory that grew during the call can hold the answer.

    Method: grow by three pages, answer from the last bytes.
    """
    assert run(executor, world.function(guests["mischief"]), b"\x0a").outcomes[0].result == bytes(4)


def test_alloc_that_has_no_room(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: an allocator's 0 is the outcome `memory`, a pointer outside is `bad_output`.

    Method: two guests with such allocators.
    """
    zero = guests["echo"].replace("i32.const 1024", "i32.const 0")
    outside = guests["echo"].replace("i32.const 1024", "i32.const 65535")
    assert run(executor, world.function(zero), b"ab").outcomes[0][:2] == ("memory", "rota_alloc returned 0 for 2 bytes")
    outcome = run(executor, world.function(outside), b"ab").outcomes[0]
    assert outcome[:2] == ("bad_output", "rota_alloc: pointer + length is outside the memory of 65536 bytes")


def test_result_over_its_limit(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: `result_bytes` holds for functions, to the byte. Method: an echo of as much and of one more."""
    code = world.function(guests["echo"], result_bytes=3)
    good, bad = run(executor, code, b"abc", b"abcd").outcomes
    assert good.result == b"abc"
    assert bad[:2] == ("bad_output", "result: 4 bytes, at most 3 (result_bytes)")


def test_stack_overflow_is_a_fault_of_the_host(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: how deep the stack is can never be a result (execution model, part 5).

    Method: recurse without end, between two tasks.
    """
    result = run(executor, world.function(guests["mischief"]), b"\x20", b"\x04", b"\x20")
    assert (len(result.outcomes), result.stopped) == (1, "faulted")
    assert result.reason.startswith("stack overflow in rota_call")


def test_timeout_stops_one_task(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: a task past its wall-clock limit ends the fold there, and the executor goes on.

    Method: spin with endless fuel.
    """
    code = world.function(guests["mischief"], timeout_ms=30, fuel=1 << 60)
    result = run(executor, code, b"\x20", b"\x03", b"\x20")
    assert (len(result.outcomes), result.stopped) == (1, "timeout")
    assert run(executor, code, b"\x20").stopped is None


def test_interrupt_from_another_thread(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: `interrupt` stops what runs, and is forgotten by the next fold.

    Method: spin in a thread, interrupt until it ends.
    """
    code = world.function(guests["mischief"], timeout_ms=60_000, fuel=1 << 60)
    executor.interrupt()  # nothing runs: harmless
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run(executor, code, b"\x20", b"\x03")))
    thread.start()
    while thread.is_alive():
        executor.interrupt()
        thread.join(0.01)
    assert (len(results[0].outcomes), results[0].stopped) in [(1, "interrupted"), (0, "interrupted")]
    assert run(executor, code, b"\x20").stopped is None


def test_task_that_was_stopped_by_mistake_runs_again(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: an epoch step that was meant for an earlier task cannot be seen.

    Method: step the epoch once while a task runs.
    """
    code = world.function(guests["mischief"], reuse=True)
    undisturbed = run(executor, code, b"\x08", b"\x09").outcomes[1]
    finished = threading.Event()

    def step_now_and_then() -> None:
        while not finished.wait(0.02):
            executor._engine.increment_epoch()

    # A run of the guest takes far longer than 0.02 s in its first tries; each is stopped, so end the steps after a few.
    thread = threading.Thread(target=step_now_and_then)
    timer = threading.Timer(0.1, finished.set)
    timer.start()
    thread.start()
    again = run(executor, code, b"\x09")
    thread.join()
    timer.join()
    assert (again.stopped, again.outcomes[0]) == (None, undisturbed)


def test_reuse_and_fresh_agree(world: Any, guests: Any, run: Any, task: Any, executor: WasmExecutor) -> None:
    """Goal: code that keeps nothing between calls cannot tell which way it runs.

    Method: the same fold both ways, all compared.
    """
    tasks = [task(turn=turn, kind=kind) for turn, kind in enumerate(["tell", "ask", "tell", "timer", "tell"] * 4, 1)]
    fresh = run(executor, world.agent(guests["counter"]), *tasks)
    assert run(executor, world.agent(guests["counter"], reuse=True), *tasks) == fresh


def test_fresh_instances_share_nothing_and_reused_ones_do(
    world: Any, guests: Any, run: Any, executor: WasmExecutor
) -> None:
    """Goal: no byte leaks from task to task by default; `reuse` keeps the instance, across folds, until a trap.

    Method: count calls.
    """
    fresh, reused = world.function(guests["mischief"]), world.function(guests["mischief"], reuse=True)
    assert [outcome.result for outcome in run(executor, fresh, *[b"\x08"] * 3).outcomes] == [b"\1\0\0\0"] * 3
    counts = [outcome.result[0] for outcome in run(executor, reused, *[b"\x08"] * 3).outcomes]
    counts += [outcome.result[0] for outcome in run(executor, reused, b"\x08").outcomes]
    assert counts == [1, 2, 3, 4]
    assert run(executor, reused, b"\x00", b"\x08").outcomes[1].result == b"\1\0\0\0"


def test_at_the_edge_of_fuel_reuse_changes_nothing(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: room that one task made is never found by the next.

    Method: a guest that grows once and for that needs more fuel, with just as much as a used instance would need.
    """
    text = guests["echo"].replace(
        "(call $pack (local.get 0) (local.get 1))))",
        """(if (i32.eq (memory.size) (i32.const 1)) (then (drop (memory.grow (i32.const 1)))))
           (call $pack (local.get 0) (local.get 1))))""",
    )
    used = [outcome.fuel for outcome in run(executor, world.function(text, reuse=True), b"x", b"x", b"x").outcomes]
    assert len({*used}) == 1
    short = world.function(text, reuse=True, fuel=used[0] - 1)
    assert [outcome.kind for outcome in run(executor, short, b"x", b"x").outcomes] == ["fuel", "fuel"]


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="these bits are of x86-64")
@pytest.mark.parametrize("bits", [0x8040, 0x2000, 0x4000, 0x6000], ids=["tiny numbers", "down", "up", "to zero"])
def test_floats_are_the_same_however_the_thread_is_set(world: Any, run: Any, executor: WasmExecutor, bits: int) -> None:
    """Goal: what a library did to this thread's floats shows in no result, and is there again afterwards.

    Method: set each bit that changes results; halve the smallest normal number, and add and subtract a little.
    """
    text = """(module (memory (export "memory") 1)
      (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
      (func (export "rota_call") (param $p i32) (param $n i32) (result i64)
        (f64.store (i32.const 0) (f64.mul (f64.load (local.get $p)) (f64.const 0.5)))
        (f64.store (i32.const 8) (f64.add (f64.const 1) (f64.load (local.get $p))))
        (f64.store (i32.const 16) (f64.sub (f64.const 1) (f64.load (local.get $p))))
        (i64.const 24)))"""
    smallest = struct.pack("<d", sys.float_info.min)
    libm = ctypes.PyDLL("libm.so.6")
    before, changed, after = ((ctypes.c_uint32 * 8)() for _ in range(3))
    libm.fegetenv(before)
    ctypes.memmove(changed, before, 32)
    changed[7] |= bits
    libm.fesetenv(changed)
    try:
        (outcome,) = run(executor, world.function(text), smallest).outcomes
        libm.fegetenv(after)
    finally:
        libm.fesetenv(before)
    assert struct.unpack("<3d", outcome.result) == (sys.float_info.min / 2, 1.0, 1.0)
    assert after[7] & 0xE040 == changed[7] & 0xE040


def test_reuse_of_what_keeps_something_is_refused_at_deploy(
    world: Any, guests: Any, run: Any, executor: WasmExecutor
) -> None:
    """Goal: a deploy with `reuse` that breaks its promise on an empty message is refused, and no other.

    Method: an answer that counts calls; fuel for the first call only; a second call that traps; memory that grows, a
    first call that fails and a module that keeps nothing pass. None of it leaves an instance behind.
    """
    echo, pack = guests["echo"], "(call $pack (local.get 0) (local.get 1))"
    state = "(if (i32.eqz (i32.load (i32.const 0))) {} ) (i32.store (i32.const 0) (i32.const 1)) " + pack
    counts = echo.replace(pack, "(i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1)))"
                                "(i64.const 1)")  # fmt: skip
    lazy = echo.replace(pack, state.format("(then (drop (i32.add (i32.const 1) (i32.const 2))))"))
    spent = echo.replace(pack, state.format("(then) (else unreachable)"))
    for text, message in (
        (counts, "two different answers"),
        (lazy, "units of fuel and then"),
        (spent, "two different"),
    ):
        with pytest.raises(CodeError, match=f"keeps something between calls: .*{message}.*without reuse"):
            executor.prepare(world.function(text, reuse=True), "echo")
        executor.prepare(world.function(text), "echo")
    grows = echo.replace(pack, state.format("(then (drop (memory.grow (i32.const 1))))"))
    for text in (echo, grows, echo.replace(pack, "unreachable")):
        executor.prepare(world.function(text, reuse=True), "echo")
    executor.prepare(world.agent(guests["counter"], reuse=True), "counter/alice")
    counted = world.function(guests["mischief"], reuse=True)
    executor.prepare(counted, "mischief")
    assert run(executor, counted, b"\x08").outcomes[0].result == b"\1\0\0\0"


def test_initialize_runs_first_and_is_not_metered(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: `_initialize` runs in each fresh instance and costs the task nothing.

    Method: an initializer that works and writes.
    """
    text = guests["echo"].replace(
        '(func (export "rota_call") (param i32 i32)',
        '(func (export "_initialize") (local i32) (i32.store8 (i32.const 1) (i32.const 42))'
        " (local.set 0 (i32.const 1000)) (loop $l (local.set 0 (i32.sub (local.get 0) (i32.const 1)))"
        " (br_if $l (local.get 0))))"
        ' (func (export "rota_call") (param i32 i32)',
    )
    returns_byte_1 = text.replace(
        "(call $pack (local.get 0) (local.get 1))", "(call $pack (i32.const 1) (i32.const 1))"
    )
    assert run(executor, world.function(returns_byte_1), b"x").outcomes[0].result == b"\x2a"
    with_it = run(executor, world.function(text), b"x").outcomes[0]
    assert with_it == run(executor, world.function(guests["echo"]), b"x").outcomes[0]


def test_initialize_that_fails(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: a start that traps is the task's outcome, whether in `_initialize` or in the start function.

    Method: one of each.
    """
    initialize = guests["echo"][:-1] + ' (func (export "_initialize") unreachable))'
    start = guests["echo"][:-1] + " (func $start unreachable) (start $start))"
    assert run(executor, world.function(initialize), b"x").outcomes[0][:2] == ("trap", "unreachable in _initialize")
    assert run(executor, world.function(start), b"x").outcomes[0][:2] == ("trap", "unreachable in instantiation")


def test_code_that_cannot_be_used_is_refused(world: Any, guests: Any, run: Any, executor: WasmExecutor) -> None:
    """Goal: `prepare` raises and `run` refuses, with the same reason.

    Method: a module that was never put into the folder.
    """
    missing = Code(bytes(32), "function")
    with pytest.raises(CodeError, match="deploy it again"):
        executor.prepare(missing, "a/b")
    result = run(executor, missing, b"x")
    assert (tuple(result.outcomes), result.stopped) == ((), "refused")
    assert "deploy it again" in result.reason
    with pytest.raises(CodeError, match=r"kinds agent, function, .*, not model"):
        executor.prepare(Code(bytes(32), MODEL), "model:a")


def test_code_that_starts_with_too_much_memory_is_refused(world: Any, guests: Any, executor: WasmExecutor) -> None:
    """Goal: a deploy that no task could run under is refused. Method: two pages at the start, allowed one, then two."""
    small, enough = [world.agent(guests["mirror"], memory_bytes=pages << 16) for pages in (1, 2)]
    with pytest.raises(CodeError, match="starts with 131072 bytes of memory, over memory_bytes = 65536: no task could"):
        executor.prepare(small, "mirror/a")
    executor.prepare(enough, "mirror/a")


def test_two_executors_agree(world: Any, guests: Any, run: Any, task: Any, tmp_path: Any) -> None:
    """Goal: outcome and fuel are the same in another engine with code that was compiled by itself.

    Method: compare whole folds.
    """
    code = world.agent(guests["counter"])
    tasks = [task(turn=turn, kind="ask" if turn % 3 == 0 else "tell") for turn in range(1, 20)]
    one, other = world.executor(), world.executor(artefacts_dir=tmp_path / "other")
    assert run(one, code, *tasks) == run(other, code, *tasks)
    assert one.fingerprint() == other.fingerprint()
