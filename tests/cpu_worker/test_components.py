"""Components: values in and out, outcomes, limits, and everything that a hostile one can answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from components import MISCHIEF, component_of
from wasmtime import Config, Engine

from rota.common.errors import CodeError
from rota.common.work import COMPONENT, Code, Emit, Fold, ReplyTo, TensorRef
from rota.cpu_worker import guest_memory, profile
from rota.cpu_worker.component_values import HANDLE_TYPE
from rota.cpu_worker.guest_memory import WatchedMemories
from rota.cpu_worker.host_limits import open_memory

ROOT = Path(__file__).resolve().parents[2]
TENSOR = TensorRef(bytes(range(32)), "uint8", (2, 3))


@pytest.fixture(scope="module")
def mischief() -> bytes:
    return component_of(MISCHIEF)


def deploy(world: Any, component: bytes, **settings: Any) -> Code:
    code: Code = world.deploy(component, COMPONENT, **settings)
    return code


@pytest.mark.parametrize(
    ("payload", "kind", "message"),
    [
        (b"0", "trap", "unreachable in handle"),
        (b"1", "fuel", "out of fuel in handle"),
        (b"3", "bad_output", "handle: invalid utf-8 sequence of 1 bytes from index 0"),
        (b"4", "bad_output", "handle: string pointer/length out of bounds of memory"),
        (b"5", "bad_output", "handle: 2 outcomes for 1 message"),
        (b"6", "bad_output", "handle: 0 outcomes for 1 message"),
        (b"7 it says", "error", "no: 7 it says"),
        (b"8", "bad_output", "handle: discriminant 7 out of range [0..2)"),
        (b"a", "overflow", "emits: 20000, at most 64 (emits_max)"),
        (b"b", "bad_output", "result: a character above U+00FF in a binary, which has one for each byte"),
        (b"d", "bad_output", "handle: more than 16777216 bytes returned"),
        (b"e", "trap", "unreachable in handle"),
        (b"f", "bad_output", "handle: list pointer/length out of bounds of memory"),
        (b"h", "bad_output", "tensors: array of 1000, not an array of at most 256 indices"),
    ],
)
def test_each_way_to_fail(world: Any, run: Any, mischief: bytes, payload: bytes, kind: str, message: str) -> None:
    """Goal: whatever a component does is an outcome, the same each time. Method: each of its tricks, twice."""
    code = deploy(world, mischief, fuel=1_000_000)
    first, second = run(world.executor(), code, payload, payload).outcomes
    assert (first.kind, first.message) == (kind, message)
    assert first == second


def test_a_trap_ends_the_log_with_the_stack(world: Any, run: Any, mischief: bytes) -> None:
    """Goal: the stack of a component is in the log. Method: a trap in a function without a name."""
    outcome = run(world.executor(), deploy(world, mischief), b"0").outcomes[0]
    assert [line.partition(" (module+0x")[0] for line in outcome.log] == ["  at function 4"]


def test_the_engine_bounds_what_it_copies(world: Any, run: Any, mischief: bytes) -> None:
    """Goal: an answer as large as the memory costs no time without fuel. Method: six million log lines."""
    outcome = run(world.executor(), deploy(world, mischief), b"g").outcomes[0]
    assert outcome.kind == "bad_output"
    assert "too much data is being copied" in outcome.message


def test_log_lines_are_bounded(world: Any, run: Any, mischief: bytes) -> None:
    """Goal: a component that logs without end gets what others get. Method: a million empty lines."""
    outcome = run(world.executor(), deploy(world, mischief), b"c").outcomes[0]
    assert outcome.log == ("",) * 256


def test_a_stack_overflow_is_no_result(world: Any, run: Any, mischief: bytes) -> None:
    """Goal: it depends on the compiler, so it is a fault of the host. Method: recursion without end."""
    result = run(world.executor(), deploy(world, mischief), b"x", b"2")
    assert (len(result.outcomes), result.stopped) == (1, "faulted")
    assert result.reason.startswith("stack overflow in handle")


def test_an_endless_component_is_stopped(world: Any, run: Any, mischief: bytes) -> None:
    """Goal: the timeout holds for the second engine too. Method: more fuel than time."""
    result = run(world.executor(), deploy(world, mischief, fuel=1 << 60, timeout_ms=50), b"1")
    assert (tuple(result.outcomes), result.stopped) == ((), "timeout")


def test_everything_of_an_outcome(world: Any, run: Any, task: Any, mischief: bytes) -> None:
    """Goal: state, emits, log and tensors arrive as they were given. Method: one outcome with each of them."""
    made = task(b"9 all", tensors=(TENSOR,))
    result = run(world.executor(), deploy(world, mischief), made)
    outcome = result.outcomes[0]
    assert (outcome.result, result.state, outcome.log, outcome.tensors) == (b"9 all", b"9 all", ("hi",), (TENSOR,))
    (emit,) = outcome.emits
    assert emit == ("counter/alice", b"\xff", -3, "timer", (TENSOR,), 5, 0)


def test_what_is_postponed_and_settled(world: Any, run: Any, task: Any, mischief: bytes, lane_seed: bytes) -> None:
    """Goal: a component may answer later, as other agents. Method: a task that it postpones, one that settles, one
    that settles the same again.
    """
    postponed = task(b"k", kind="ask", sender="other/x")
    executor, code = world.executor(), deploy(world, mischief)
    first = run(executor, code, postponed).outcomes[0]
    assert (first.waits, first.result) == ("hi", None)
    settling = Fold(lane_seed, code, "counter/alice", None, (task(b"l fine"), task(b"l again")), (6,))
    settles, again = executor.run(settling).outcomes
    assert settles.emits == (Emit("counter/alice", b"l fine", 0, "reply", (), 0, 6),)
    assert again.kind == "bad_settle"


@pytest.mark.parametrize("payload", [b"", b"x", "über".encode(), bytes(range(256)), b"\xed\xa0\x80", b"z" * 100_000])
def test_any_bytes_travel(world: Any, run: Any, mischief: bytes, payload: bytes) -> None:
    """Goal: a payload is text or, if it is no UTF-8, binary, and nothing is lost. Method: an echo."""
    outcome = run(world.executor(), deploy(world, mischief), payload).outcomes[0]
    assert outcome.result == payload


@pytest.mark.parametrize("state", [None, b"", b"text", b"\x81\xff"])
def test_any_state_travels(world: Any, run: Any, mischief: bytes, state: bytes | None) -> None:
    """Goal: a state comes in and goes out as it is. Method: a component that returns its state."""
    result = run(world.executor(), deploy(world, mischief), b"i", state=state)
    assert result.state == state
    assert result.outcomes[0].result is None


def test_a_reply_travels(world: Any, run: Any, task: Any, mischief: bytes) -> None:
    """Goal: every field of a message is lowered. Method: a message with all of them, echoed."""
    made = task(b"reply", kind="reply", sender="asked/one", reply_to=ReplyTo(3, 2, 1), tensors=(TENSOR, TENSOR))
    assert run(world.executor(), deploy(world, mischief), made).outcomes[0].result == b"reply"


def test_fuel_is_exact(world: Any, run: Any, mischief: bytes) -> None:
    """Goal: a task may use exactly its fuel. Method: what it needed, and one less."""
    needed = run(world.executor(), deploy(world, mischief), b"x").outcomes[0].fuel
    exact, less = (
        run(world.executor(), deploy(world, mischief, fuel=fuel), b"x").outcomes[0] for fuel in (needed, needed - 1)
    )
    assert (exact.result, exact.fuel) == (b"x", needed)
    assert (less.kind, less.fuel) == ("fuel", needed - 1)


def test_memory_is_bounded(world: Any, run: Any, mischief: bytes) -> None:
    """Goal: a component that starts with more memory than it may have is refused at the deploy; one that is redeployed
    with less ends as `memory`. Method: two pages, and one allowed.
    """
    code = deploy(world, mischief, memory_bytes=65536)
    executor = world.executor()
    with pytest.raises(CodeError, match=r"starts with more memory than memory_bytes = 65536: no task could run"):
        executor.prepare(code, "a/b")
    assert run(executor, code, b"x").outcomes[0].kind == "memory"
    assert executor.prepare(code._replace(limits=code.limits._replace(memory_bytes=131072)), "a/b")["call"] == "handle"


def test_the_host_that_refuses_memory_is_at_fault(
    world: Any, run: Any, mischief: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a growth that the host refuses is never seen in a result. Method: a source of memory that refuses it."""
    monkeypatch.setattr("rota.cpu_worker.executor.guest_memories", WatchedMemories)
    executor, code = world.executor(), deploy(world, mischief)
    assert run(executor, code, b"x").outcomes[0].result == b"x"
    monkeypatch.setattr(guest_memory, "open_memory", lambda base, size: size <= 2 << 16 and open_memory(base, size))
    result = run(executor, code, b"d")
    assert (tuple(result.outcomes), result.stopped) == ((), "faulted")
    assert "refused memory" in result.reason


def test_another_world_is_refused(world: Any) -> None:
    """Goal: a component whose `handle` has another type is refused with both. Method: a world of an older shape."""
    text = """(component
      (core module $m (func (export "handle")))
      (core instance $i (instantiate $m))
      (func $handle (canon lift (core func $i "handle")))
      (instance $handler (export "handle" (func $handle)))
      (export "rota:agent/handler@2.0.0" (instance $handler)))"""
    with pytest.raises(CodeError, match=r"handle is func\(\) -> none, and another type is needed"):
        world.executor().prepare(world.deploy(text, COMPONENT), "a/b")


def test_what_no_worker_can_run_is_refused(world: Any, run: Any, guests: Any) -> None:
    """Goal: broken components are refused with a reason. Method: a core module, and a component that is not valid."""
    executor = world.executor()
    with pytest.raises(CodeError, match="core WebAssembly module, and a component is needed"):
        executor.prepare(world.deploy(guests["echo"], COMPONENT), "a/b")
    broken = component_of(b"\0asm\x01\0\0\0\x0a\x01\x01")
    with pytest.raises(CodeError, match="not WebAssembly of the profile"):
        executor.prepare(world.deploy(broken, COMPONENT), "a/b")
    assert run(executor, world.deploy(broken, COMPONENT), b"x").stopped == "refused"


def test_agents_and_components_side_by_side(world: Any, run: Any, guests: Any, mischief: bytes) -> None:
    """Goal: the two engines do not disturb each other. Method: folds of both, in turn, in one executor."""
    executor, component, function = world.executor(), deploy(world, mischief), world.function(guests["echo"])
    for _ in range(3):
        assert run(executor, component, b"x", b"1", b"y").outcomes[2].result == b"y"
        assert run(executor, function, b"z").outcomes[0].result == b"z"


def test_the_wit_file_is_the_type_in_the_code(mischief: bytes) -> None:
    """Goal: sdk/wit/agent.wit and what the worker checks are one. Method: each name of the type is in the file."""
    text = (ROOT / "sdk/wit/agent.wit").read_text(encoding="utf-8")
    names = {word.strip("{}<>(),:") for word in HANDLE_TYPE.replace("(", " ").replace("{", " ").split()}
    assert not [name for name in names if name.isidentifier() and name not in text]


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is only tried where it was seen")
def test_settings_reach_the_engine() -> None:
    """Goal: no setting is lost by a change of wasmtime's package. Method: two engines, and the profile's own list."""
    names = [name for name, _ in profile.COMPONENT_SETTINGS]
    assert dict(profile.COMPONENT_SETTINGS)["wasm_multi_memory"], "off, the component compiler would abort the process"
    assert len(set(names)) == len(names)
    assert isinstance(profile.new_component_engine(), Engine)
    assert isinstance(Engine(Config()), Engine)
