"""The package rota.agent under the host's Python: bytes, failures, programs."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk_cases import CASES, EXAMPLES, VALUES, entropy_of

from rota.agent import Context, context, pack, program, unpack
from rota.agent.step import step
from rota.agent.testing import call
from rota.common.work import TaskInput

FOLDER = Path(__file__).resolve().parents[2] / "sdk" / "python"
INTS = [
    sign * (1 << bits) + more for bits in (0, 5, 7, 8, 15, 16, 31, 32, 63) for sign in (1, -1) for more in (-1, 0, 1)
]
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
KEYS = st.text() | st.integers(-(2**63), 2**64 - 1)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fields(task: TaskInput, state: bytes | None, address: str) -> tuple[Any, ...]:
    head = (state, task.kind, task.sender, task.payload, task.turn, task.now_ms)
    return (*head, entropy_of(task.turn), task.reply_to, task.tensors, address)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_gives_the_agreed_bytes(name: str) -> None:
    """Goal: the SDK writes what all SDKs write. Method: the cases of the conformance suite, without a sandbox."""
    module = example(name)
    for case in CASES:
        if case.example == name and case.output is not None:
            assert step(module.agent, fields(case.task, case.state, f"{name}/case")) == case.packed, case.name


@given(TREES)
@settings(deadline=None, max_examples=150)
def test_messagepack_is_the_librarys(value: Any) -> None:
    """Goal: shortest forms, and all values come back. Method: against the library, in both directions."""
    packed = msgpack.packb(value)
    assert pack(value) == packed
    assert msgpack.packb(unpack(packed)) == packed


def test_the_edges_of_messagepack() -> None:
    """Goal: every form is taken. Method: sizes around each change of form, and what only others write (f32)."""
    sizes = (0, 15, 16, 31, 32, 255, 256, 65535, 65536)
    edges: list[Any] = [*VALUES, *(n for n in INTS if -(2**63) <= n < 2**64)]
    edges += ["x" * n for n in sizes] + [b"x" * n for n in sizes] + [[0] * n for n in sizes]
    edges += [dict.fromkeys(range(n)) for n in sizes]
    for value in edges:
        assert pack(value) == msgpack.packb(value)
        assert unpack(msgpack.packb(value)) == value
    assert unpack(msgpack.packb(1.5, use_single_float=True)) == 1.5


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=300)
def test_bytes_that_are_no_messagepack_are_refused(data: bytes) -> None:
    """Goal: a payload of anything raises `ValueError` or is a value. Method: random bytes; values are written again."""
    try:
        value = unpack(data)
    except ValueError:
        return
    assert unpack(pack(value)) == value or "nan" in repr(value)


@pytest.mark.parametrize(
    ("value", "error"),
    [({1}, TypeError), (1 << 64, OverflowError), (-(1 << 63) - 1, OverflowError), ("\ud800", UnicodeEncodeError)],
)
def test_what_messagepack_cannot_hold(value: Any, error: type[Exception]) -> None:
    """Goal: a clear error, named. Method: one value of each kind, and one that holds itself."""
    with pytest.raises(error):
        pack([value])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="deep"):
        pack(endless)
    with pytest.raises(ValueError, match="deep"):
        unpack(b"\x91" * 1000 + b"\x00")


def _swallows(ctx: Context) -> None:
    try:
        ctx.fail("no", "text")
    except BaseException:
        ctx.reply("went on")


async def _waits_for_others(ctx: Context) -> None:
    ctx.reply("later")


def _divides(ctx: Context) -> None:
    print(1 // (ctx.message.turn - 1))


def test_ways_to_fail(capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: an author sees what went wrong and where. Method: failures of handlers, and their texts."""
    assert call(_swallows).failure == ("no", "text")
    failure = call(_divides).failure
    assert failure is not None
    assert failure[0] == "ZeroDivisionError"
    assert failure[1].startswith("integer division or modulo by zero\n  File ")
    assert "in _divides\n    print(1 // (ctx.message.turn - 1))" in failure[1]
    assert "step.py" not in failure[1] + capsys.readouterr().err
    for handler, text in (
        (lambda ctx: 5, "use ctx.reply"),
        (lambda ctx: ctx.emit(5), "a target is a str"),
        (lambda ctx: ctx.emit("a", priority=8), "from -8 to 7"),
        (lambda ctx: ctx.reply(tensors=[3]), "not a tensor"),
        (lambda ctx: ctx.fail(""), "needs a code"),
        (lambda ctx: setattr(ctx, "state", {1, 2}), "set has no form"),
    ):
        failed = call(handler).failure
        assert failed is not None
        assert text in failed[1]


class _Mute(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise ValueError


def _raises(error: BaseException) -> Any:
    raise error


def test_a_failure_that_is_hard_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: whatever a handler raises is an `error`. Method: texts that cannot be had or sent, and no stderr."""
    for error, code, text in (
        (_Mute(), "_Mute", "its text cannot be had: ValueError"),
        (ValueError("\ud800"), "ValueError", "\\ud800"),
        (SystemExit(3), "SystemExit", "3"),
        (KeyboardInterrupt(), "KeyboardInterrupt", ""),
    ):
        failure = call(lambda ctx, error=error: _raises(error)).failure
        assert failure is not None
        assert failure[0] == code
        assert text in failure[1]
    assert call(lambda ctx: ctx.fail("\ud800", "\ud800")).failure == ("\\ud800", "\\ud800")
    monkeypatch.setattr("sys.stderr", 5)
    assert call(lambda ctx: json.loads("{")).failure == (
        "JSONDecodeError",
        "(no traceback can be made: AttributeError)",
    )


async def _sleeps_a_year(ctx: Context) -> None:
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(365 * 24 * 3600)
    ctx.reply(str(round(asyncio.get_running_loop().time() - began)))


def test_an_async_handler_runs() -> None:
    """Goal: `async def agent` works, and sleeping takes no time. Method: one that replies, one that sleeps a year."""
    assert call(_waits_for_others).text == "later"
    assert call(_sleeps_a_year).text == "31536000"


def test_state_is_written_back_when_its_encoding_changed() -> None:
    """Goal: reading costs nothing, and a change in place is kept. Method: the output's field for each way."""

    def state_of(handler: Any, state: Any) -> Any:
        return unpack(step(handler, (pack(state), "tell", None, b"", 1, 0, bytes(32), None, (), "a")))[2]

    assert state_of(lambda ctx: None, {"n": 1}) is None
    assert state_of(lambda ctx: ctx.reply(ctx.state), {"n": 1}) is None
    assert state_of(lambda ctx: ctx.state.update(n=2), {"n": 1}) == pack({"n": 2})
    assert state_of(lambda ctx: setattr(ctx, "state", None), {"n": 1}) == b"\xc0"


def test_a_program_and_what_comes_of_it() -> None:
    """Goal: a program is a value, and so is its end. Method: programs with each kind of input and end."""

    def end(source: str, **more: Any) -> dict[str, Any]:
        answer = call(program.agent, {"source": source, **more})
        found: dict[str, Any] = answer.value
        assert list(found) == ["stdout", "stderr", "value", "error", "exit"]
        return found

    assert end("print('hi'); 1 + 2") == {"stdout": "hi\n", "stderr": "", "value": 3, "error": None, "exit": 0}
    read = "import sys\nprint(*sys.argv, sys.stdin.read(), value, __name__)"
    assert end(read, args=["a"], stdin="in", value=[1], name="x.py")["stdout"] == "x.py a in [1] __main__\n"
    assert end("import sys; sys.exit('bye')") | {"value": None} == {
        "stdout": "", "stderr": "bye\n", "value": None, "error": None, "exit": 1,
    }  # fmt: skip
    assert end("exit(4)")["exit"] == 4
    failed = end("def f(n):\n    return 1 // n\nf(0)")
    assert failed["exit"] == 1
    assert failed["error"]["type"] == "ZeroDivisionError"
    assert 'File "program.py", line 2, in f\n    return 1 // n' in failed["error"]["traceback"]
    assert "rota" not in failed["error"]["traceback"]
    assert end("x = = 1")["error"]["message"] == "invalid syntax"
    assert end("{1}")["value"] == "{1}"
    ours: list[str] = []
    atexit.register(ours.append, "of this process")
    assert end("import atexit; atexit.register(print, 'at exit'); print('now')")["stdout"] == "now\nat exit\n"
    assert not ours, "what the process itself registered is not the program's"
    atexit.unregister(ours.append)
    assert end("import sys; sys.stdout.close()")["stdout"] == ""
    assert call(program.agent, b"6 * 7").value["value"] == 42


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({}, "source"), ({"source": "", "args": [1]}, "args"), ({"source": "", "files": [1]}, "files"),
        ({"source": "", "stdin": 1}, "stdin"), ({"sauce": ""}, "sauce"), (b"\xff", "neither"),
        ({"source": "", "files": {"a": 1}}, "files"), ({"source": "", "name": 1}, "name"),
    ],
)  # fmt: skip
def test_a_message_that_is_no_program(payload: Any, text: str) -> None:
    """Goal: the field is named. Method: one wrong field each."""
    failure = call(program.agent, payload).failure
    assert failure is not None
    assert failure[0] == "bad_program"
    assert text in failure[1]


def test_a_long_traceback_is_cut() -> None:
    """Goal: an endless recursion says so in few lines. Method: one, and the length of its description."""

    def deep(n: int) -> int:
        return deep(n + 1) + 1

    failure = call(lambda ctx: deep(0)).failure
    assert failure is not None
    assert failure[0] == "RecursionError"
    assert len(failure[1]) <= 2000
    assert failure[1].count("in deep") <= 20


def test_the_fields_of_a_context_are_documented() -> None:
    """Goal: an editor shows what each part is. Method: docstrings of all public members."""
    for name in ("state", "emit", "ask", "timer", "reply", "fail", "log", "tensor"):
        assert getattr(context.Context, name).__doc__
