"""What guests write during a call: log lines, new tensors, and `rota.fail`; and large results, which become tensors."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from rota.common.limits import LOG_LINES_MAX, PAYLOAD_BYTES_MAX, TENSORS_PER_TASK_MAX
from rota.common.rota_imports import OWN_IMPORTS
from rota.common.work import Done, Failed, FoldResult, Outcome, TensorRef
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.tensor_access import BAD_ADDRESS, BAD_ARGUMENT, NO_ROOM, StoreTensors
from rota.tensors.format import tensor_digest
from rota.tensors.store import TensorStore
from rota.wasi.costs import CALL_FUEL

INPUT_AT = 1024
TEXT_AT = INPUT_AT + 64  # behind eight numbers


def caller(guests: Any, name: str, *, times: int = 1, pages: int = 1) -> str:
    """Return a function that calls an import with the numbers in its payload; its result is the import's."""
    signature = OWN_IMPORTS[name]
    values = " ".join(f"({kind}.load offset={8 * index} (local.get $p))" for index, kind in enumerate(signature.params))
    call = f"(call $f {values})"
    keep = f"(i32.store (i32.const 0) {call})" if signature.results else call
    return f"""(module (import "rota" "{name}" (func $f (param {" ".join(signature.params)})
        (result {" ".join(signature.results)})))
      (memory (export "memory") {pages}) {guests["alloc"]} {guests["pack"]}
      (func (export "rota_call") (param $p i32) (param $n i32) (result i64) (local $left i32)
        (local.set $left (i32.const {times}))
        (loop $again {keep} (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if $again (local.get $left)))
        (call $pack (i32.const 0) (i32.const 4))))""".replace("(result )", "")


def numbers(*values: int, text: bytes = b"") -> bytes:
    return struct.pack("<8q", *(*values, *(0,) * 8)[:8]) + text


@pytest.fixture
def store(tmp_path: Path) -> TensorStore:
    return TensorStore(tmp_path / "tensors")


@pytest.fixture
def outcome(world: Any, run: Any, store: TensorStore) -> Callable[..., Any]:
    """Runs tasks of a function on both call paths, compares, and returns the outcome of the last."""
    executors = [world.executor(tensors=StoreTensors(store), raw_calls=raw) for raw in (True, False)]

    def outcome_of(code: Any, *tasks: Any) -> Outcome:
        first, second = [run(executor, code, *tasks) for executor in executors]
        assert first == second
        assert first.stopped is None, first.reason
        return first.outcomes[-1]

    return outcome_of


def answer(outcome: Done) -> int:
    return int.from_bytes(outcome.result or b"", "little", signed=True)


def test_log_is_kept_with_every_outcome(world: Any, guests: Any, outcome: Any) -> None:
    """Goal: what was logged before the end is there, whatever the end was. Method: each end, the stack last."""
    ends = {
        b"\x00": ("trap", "unreachable in rota_call"),
        b"\x01": ("fuel", "out of fuel in rota_call"),
        b"\x02": ("bad_output", "rota_call: pointer + length is outside the memory of 65536 bytes"),
        b"\x03": None,
    }
    text = f"""(module (import "rota" "log" (func $log (param i32 i32)))
      (memory (export "memory") 1) {guests["alloc"]} {guests["pack"]} (data (i32.const 0) "caf\\c3\\a9 \\ff\\nnext")
      (func (export "rota_call") (param $p i32) (param $n i32) (result i64) (local $what i32)
        (call $log (i32.const 0) (i32.const 12)) (call $log (i32.const 0) (i32.const 0))
        (local.set $what (i32.load8_u (local.get $p)))
        (if (i32.eqz (local.get $what)) (then unreachable))
        (if (i32.eq (local.get $what) (i32.const 1)) (then (loop $again (br $again))))
        (if (i32.eq (local.get $what) (i32.const 2)) (then (return (call $pack (i32.const 0) (i32.const 65537)))))
        (i64.const 0)))"""
    code = world.function(text, fuel=1_000_000)
    for payload, failure in ends.items():
        found = outcome(code, payload)
        assert found.log[0] == "café \ufffd\nnext"
        assert (found.kind, found.message) == failure if failure else type(found) is Done
        assert [line.split(" (module+")[0] for line in found.log[1:]] == (
            ["  at function 3"] if payload < b"\x02" else []
        )


def test_log_is_bounded(world: Any, guests: Any, outcome: Any) -> None:
    """Goal: millions of lines cost the guest its fuel and the host nothing that grows. Method: a line many times, one
    long line, and one past the end of the memory.
    """
    line = numbers(TEXT_AT, 4, text=b"line")
    few = outcome(world.function(caller(guests, "log", times=1000)), line)
    assert few.log == ("line",) * LOG_LINES_MAX
    assert few.fuel > 1000 * CALL_FUEL
    for log_bytes in (5, 6):
        long = numbers(TEXT_AT, 9, text="12345€78".encode())
        assert outcome(world.function(caller(guests, "log"), log_bytes=log_bytes), long).log == ("12345",)
    bad = outcome(world.function(caller(guests, "log")), numbers(65_536, 1))
    assert (bad.kind, bad.message) == ("bad_output", "rota.log: pointer + length is outside the memory")
    costly = outcome(world.function(caller(guests, "log", times=1 << 30), fuel=100 * CALL_FUEL), line)
    assert (costly.kind, len(costly.log), costly.fuel) == ("fuel", 99 + 1, 100 * CALL_FUEL)


def test_a_panic_ends_with_the_stack(world: Any, guests: Any, outcome: Any) -> None:
    """Goal: a program that gave up says where, one that fails on purpose needs no stack. Method: both codes."""
    code = world.function(caller(guests, "fail"))
    panic = outcome(code, numbers(TEXT_AT, 5, TEXT_AT + 5, 4, text=b"paniclost"))
    assert (panic.kind, panic.message) == ("error", "panic: lost")
    assert [line.split(" (module+")[0] for line in panic.log] == ["  at function 3"]
    assert outcome(code, numbers(TEXT_AT, 4, TEXT_AT + 4, 4, text=b"stoplost")).log == ()


def new(dtype: bytes, shape: tuple[int, ...], size: int, *, data_at: int = 0, rank: int | None = None) -> bytes:
    """Return the payload of a `tensor_new`: the shape lies behind the numbers, then the name of the dtype."""
    lengths = struct.pack(f"<{len(shape)}Q", *shape)
    name_at = TEXT_AT + len(lengths)
    where = numbers(name_at, len(dtype), TEXT_AT, len(shape) if rank is None else rank, data_at, size)
    return where + lengths + dtype


def test_a_function_makes_a_tensor(world: Any, guests: Any, outcome: Any, store: TensorStore) -> None:
    """Goal: dtype, shape and data of the guest are a tensor of the store, and part of the result.

    Method: what the guest's memory holds, read back; the index, which follows the task's own; the fuel.
    """
    code = world.function(caller(guests, "tensor_new"))
    payload = new(b"float32", (2, 3), 24, data_at=INPUT_AT)
    made = outcome(code, payload)
    assert answer(made) == 0
    (ref,) = made.tensors
    assert (ref.dtype, ref.shape) == ("float32", (2, 3))
    assert store.open(ref, verify=True).tobytes() == payload[:24]
    empty = outcome(code, new(b"float32", (0, 5), 0, data_at=INPUT_AT))
    assert (empty.tensors[0].shape, made.fuel - empty.fuel) == ((0, 5), 24)
    assert outcome(code, new(b"int64", (), 8)).tensors[0].shape == ()


@pytest.mark.parametrize(
    ("payload", "number"),
    [
        (new(b"float33", (2,), 8), BAD_ARGUMENT),
        (new(b"\xff", (2,), 8), BAD_ARGUMENT),
        (new(b"", (2,), 8), BAD_ARGUMENT),
        (new(b"uint8", (2,), 3), BAD_ARGUMENT),
        (new(b"uint8", (1 << 63, 2), 0), BAD_ARGUMENT),
        (new(b"uint8", (0, 1 << 63), 0), BAD_ARGUMENT),
        (new(b"uint8", (1,) * 33, 1), BAD_ARGUMENT),
        (new(b"bool", (8,), 8, data_at=INPUT_AT), BAD_ARGUMENT),  # the payload has other bytes than 0 and 1
        (new(b"x" * 33, (2,), 8), BAD_ARGUMENT),
        (new(b"uint8", (2,), 2, data_at=65_535), BAD_ADDRESS),
        (new(b"uint8", (2,), 2, data_at=-1), BAD_ADDRESS),
        (new(b"uint8", (2,), 2, rank=32), BAD_ARGUMENT),
        (numbers(65_536, 1, 0, 0, 0, 1), BAD_ADDRESS),
        (numbers(TEXT_AT, 5, 65_529, 1, 0, 1, text=b"uint8"), BAD_ADDRESS),
        (new(b"uint8", (1001,), 1001), NO_ROOM),
        (new(b"uint8", (1000,), 1000), 0),
    ],
    ids=lambda value: value if isinstance(value, int) else "lie",
)
def test_lies_about_a_tensor(
    world: Any, guests: Any, outcome: Any, store: TensorStore, payload: bytes, number: int
) -> None:
    """Goal: what is no tensor, or too large, gets an error number and leaves nothing. Method: one lie at a time."""
    found = outcome(world.function(caller(guests, "tensor_new"), tensor_bytes=1000), payload)
    assert answer(found) == number
    assert (len(found.tensors), store.stats().files) == ((1, 1) if number == 0 else (0, 0))


def test_tensors_of_a_task_are_counted(world: Any, guests: Any, outcome: Any, task: Any, store: TensorStore) -> None:
    """Goal: given and new tensors together are as many as a task may name, and their bytes are bounded.

    Method: a task with all but two makes two, and three; then one more than the bytes allow.
    """
    refs = (store.put(np.zeros(3)),) * (TENSORS_PER_TASK_MAX - 2)
    payload = new(b"uint8", (4,), 4)
    full = outcome(world.function(caller(guests, "tensor_new", times=2)), task(payload, tensors=refs))
    assert (answer(full), len(full.tensors)) == (TENSORS_PER_TASK_MAX - 1, 2)
    more = outcome(world.function(caller(guests, "tensor_new", times=3)), task(payload, tensors=refs))
    assert answer(more) == NO_ROOM
    code = world.function(caller(guests, "tensor_new", times=3), tensor_bytes=11)
    assert answer(outcome(code, new(b"uint8", (4,), 4))) == NO_ROOM


AGENT = """(module
  (import "rota" "tensor_new" (func $new (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "rota" "tensor_read" (func $read (param i32 i64 i32 i32) (result i32)))
  (memory (export "memory") 1) {alloc} {pack}
  (data (i32.const 0) "uint8") (data (i32.const 8) "\\04\\00\\00\\00\\00\\00\\00\\00") (data (i32.const 16) "abcdwxyz")
  (data (i32.const 64) "{output}")
  (func (export "rota_step") (param $p i32) (param $n i32) (result i64)
    (drop (call $new (i32.const 0) (i32.const 5) (i32.const 8) (i32.const 1) (i32.const 16) (i32.const 4)))
    (drop (call $new (i32.const 0) (i32.const 5) (i32.const 8) (i32.const 1) (i32.const 20) (i32.const 4)))
    (drop (call $read (i32.const 1) (i64.const 1) (i32.const {read_to}) (i32.const 3)))
    {then} (call $pack (i32.const 64) (i32.const {size}))))"""


def agent_of(guests: Any, output: Any, then: str = "", read_to: int = 512) -> str:
    """Return an agent that makes the tensors abcd and wxyz, reads three bytes of the second, and returns `output`."""
    packed = msgpack.packb(output)
    escaped = "".join(f"\\{byte:02x}" for byte in packed)
    return AGENT.format(**guests, output=escaped, size=len(packed), then=then, read_to=read_to)


def ref_of(data: bytes) -> TensorRef:
    return TensorRef(tensor_digest("uint8", (len(data),), data), "uint8", (len(data),))


def test_an_agent_names_its_new_tensors(world: Any, guests: Any, outcome: Any, store: TensorStore) -> None:
    """Goal: the indices of new tensors follow the task's; what is named is kept, what is not is not; and a task reads
    what it made. Method: one in an emit, one nowhere; then one in the result, read before.
    """
    emits = [["other/x", b"", 0, "tell", [1]]]
    code = world.agent(agent_of(guests, [1, 0, None, None, emits, [], []]))
    assert outcome(code, b"").emits[0].tensors == (ref_of(b"wxyz"),)
    assert store.stats().files == 1
    code = world.agent(agent_of(guests, [1, 0, None, b"???", [], [], [0]], read_to=64 + 6))
    named = outcome(code, b"")
    assert (named.result, named.tensors) == (b"xyz", (ref_of(b"abcd"),))
    assert bytes(store.open(named.tensors[0])) == b"abcd"
    code = world.agent(agent_of(guests, [1, 0, None, None, [], [], [2]]))
    assert outcome(code, b"").message == "tensors: 2, not an index into the task's 2 tensors"


@pytest.mark.parametrize("then", ["unreachable", "(loop $again (br $again))"])
def test_a_failed_task_leaves_no_tensor(world: Any, guests: Any, outcome: Any, store: TensorStore, then: str) -> None:
    """Goal: a task that fails writes nothing. Method: a trap, and too little fuel, behind two tensors."""
    code = world.agent(agent_of(guests, [1, 0, None, None, [], [], [0]], then), fuel=100_000)
    assert isinstance(outcome(code, b""), Failed)
    assert (store.stats().files, store.stats().drafts) == (0, 0)


def test_a_store_that_is_full(world: Any, guests: Any, run: Any, tmp_path: Path) -> None:
    """Goal: a tensor that cannot be kept is a fault of this host, and the tasks before it keep their outcomes.

    Method: a small store and no store; a task that needs none before.
    """
    small = StoreTensors(TensorStore(tmp_path / "small", store_bytes_max=100))
    code = world.function(caller(guests, "tensor_new"))
    for tensors, reason in ((small, "do not fit"), (None, "no tensor store")):
        executor: WasmExecutor = world.executor(tensors=tensors)
        result: FoldResult = run(executor, code, numbers(), new(b"uint8", (4,), 4))
        assert (len(result.outcomes), result.stopped) == (1, "faulted")
        assert reason in result.reason


@pytest.mark.parametrize("size", [PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1])
def test_a_large_result_becomes_a_tensor(world: Any, guests: Any, outcome: Any, store: TensorStore, size: int) -> None:
    """Goal: a result that no message could carry on is a tensor, of a function and of an agent. Method: at the bound
    and one byte over it; bytes of a pattern.
    """
    memory = f"""(memory (export "memory") 32) {guests["alloc"]} {guests["pack"]}
      (func $fill (param $at i32) (memory.fill (local.get $at) (i32.const 7) (i32.const {size})))"""
    function = f"""(module {memory} (func (export "rota_call") (param i32 i32) (result i64)
      (call $fill (i32.const 0)) (call $pack (i32.const 0) (i32.const {size}))))"""
    head = "".join(f"\\{byte:02x}" for byte in b"\x94\x01\x00\xc0\xc6" + size.to_bytes(4, "big"))
    agent = f"""(module {memory} (data (i32.const 0) "{head}") (func (export "rota_step") (param i32 i32) (result i64)
      (call $fill (i32.const 9)) (call $pack (i32.const 0) (i32.const {size + 9}))))"""
    for code in (world.function(function, result_bytes=2 << 20), world.agent(agent, result_bytes=2 << 20)):
        found = outcome(code, b"")
        if size <= PAYLOAD_BYTES_MAX:
            assert (found.result, found.tensors) == (b"\7" * size, ())
        else:
            assert (found.result, found.tensors) == (b"", (ref_of(b"\7" * size),))
            assert store.open(found.tensors[0]).tobytes() == b"\7" * size


def test_a_large_result_beside_too_many_tensors(world: Any, guests: Any, outcome: Any) -> None:
    """Goal: the number of tensors holds for the one that a result becomes, too. Method: 256, and a large result."""
    text = caller(guests, "tensor_new", times=TENSORS_PER_TASK_MAX, pages=32)
    text = text.replace("(i32.const 0) (i32.const 4))))", "(i32.const 0) (i32.const 1048577))))")
    found = outcome(world.function(text, result_bytes=2 << 20), new(b"uint8", (4,), 4))
    assert (found.kind, found.message) == (
        "bad_output", "result: 1048577 bytes become a tensor, and it has 256 tensors already"
    )  # fmt: skip
