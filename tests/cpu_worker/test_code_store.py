"""What a module must export, and the errors for modules that do not."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from wasmtime import FuncType, ValType

from rota.common.errors import CodeError
from rota.cpu_worker.code_store import check_type


def test_description(world: Any, guests: Any) -> None:
    """Goal: `prepare` says how the code is called. Method: an agent, and the same as a flow."""
    code = world.agent(guests["counter"])
    facts = world.executor().prepare(code, "counter/alice")
    assert facts == {
        "kind": "agent", "alloc": "rota_alloc", "call": "rota_step", "initialize": False, "memory_bytes_min": 65_536,
    }  # fmt: skip
    assert world.executor().prepare(code._replace(flow=True), "counter") == {**facts, "flow": True}


def test_exports_named_at_deploy(world: Any, guests: Any, run: Any) -> None:
    """Goal: an existing module runs under its own export names. Method: an echo with other names."""
    text = guests["echo"].replace("rota_alloc", "alloc").replace("rota_call", "format_impl")
    code = world.function(text, exports=(("alloc", "alloc"), ("call", "format_impl")))
    assert run(world.executor(), code, b"abc").outcomes[0].result == b"abc"


def test_rules_are_those_of_the_deploy(world: Any, guests: Any) -> None:
    """Goal: imports, exports and roles are held to common/wasm_module.py. Method: one breach each, and no compile."""
    executor, echo = world.executor(artefacts_dir=world.modules_dir / "own"), guests["echo"]
    wasi = '(module (import "wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32)))'
    breaches = [
        (world.function(echo.replace("(module", wasi)), "imports 'wasi_unstable.fd_write' .* not offered"),
        (world.function(echo.replace('(export "memory") ', "")), "has no export 'memory'"),
        (world.agent(echo), "has no export 'rota_step'"),
        (world.function(echo.replace("(param i32) (result i32)", "(param i64) (result i32)")), "'rota_alloc' is func"),
        (world.function(echo[:-1] + ' (global (export "_initialize") i32 (i32.const 0)))'), "'_initialize' is global"),
        (world.function(echo, exports=(("free", "free"),)), "'free' is no role of kind function"),
        (world.agent(guests["counter"], exports=(("step", "x"),)), "kind agent has fixed export names"),
    ]
    for code, message in breaches:
        with pytest.raises(CodeError, match=message):
            executor.prepare(code, "counter/alice")
    assert [path.suffix for path in (world.modules_dir / "own").iterdir()] == [".key"]


@pytest.mark.parametrize(
    ("found", "good"),
    [
        (FuncType([ValType.i32()], [ValType.i32()]), True),
        (FuncType([ValType.i64()], [ValType.i32()]), False),
        (FuncType([ValType.i32()], []), False),
        (None, False),
    ],
)
def test_types_are_compared_as_the_engine_sees_them(found: object, good: bool) -> None:
    """Goal: no function of another type ever reaches the raw call path. Method: the right type, wrong ones, none."""
    with nullcontext() if good else pytest.raises(CodeError, match="is not a function"):
        check_type(found, "rota_alloc", "(i32) -> (i32)")


def test_damaged_module_file(world: Any, guests: Any) -> None:
    """Goal: a file whose content is not its name's is never compiled. Method: append one byte."""
    code = world.function(guests["echo"])
    path = world.modules_dir / f"{code.digest.hex()}.wasm"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CodeError, match="is damaged"):
        world.executor().prepare(code, "echo")


def test_folder_in_place_of_a_module(world: Any, guests: Any, run: Any) -> None:
    """Goal: what cannot be read is refused with a remedy and ends no worker. Method: a folder of the module's name."""
    code = world.function(guests["echo"])
    path = world.modules_dir / f"{code.digest.hex()}.wasm"
    path.unlink()
    path.mkdir()
    result = run(world.executor(), code, b"x")
    assert (tuple(result.outcomes), result.stopped) == ((), "refused")
    assert result.reason.endswith("cannot be read: Is a directory; remove what is there and deploy it again")


def test_least_recently_used_code_makes_room(
    world: Any, guests: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the cache is bounded and what fell out comes back. Method: room for two, three modules in turn, twice."""
    monkeypatch.setattr("rota.cpu_worker.code_store.PREPARED_MAX", 2)
    executor = world.executor()
    codes = [world.function(guests["echo"]), world.function(guests["mischief"]), world.function(guests["reader"])]
    for code in codes * 2:
        assert run(executor, code, b"\x20\x00\x00\x00").stopped is None
        assert len(executor._codes._prepared) <= 2


def test_least_recently_used_instance_makes_room(
    world: Any, guests: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: only so many instances are kept for `reuse`.

    Method: room for one, two codes in turn; each comes back fresh.
    """
    monkeypatch.setattr("rota.cpu_worker.sandbox.REUSED_INSTANCES_MAX", 1)
    executor = world.executor()
    one, other = (world.function(guests["mischief"], reuse=True, result_bytes=size) for size in (100, 101))
    assert [run(executor, code, b"\x08").outcomes[0].result[0] for code in (one, one, other, one)] == [1, 2, 1, 1]


def test_large_instances_make_room(world: Any, guests: Any, run: Any) -> None:
    """Goal: what is kept for `reuse` is bounded in bytes. Method: two of 590 MB each; neither is lost where one is."""
    text = guests["mischief"].replace('(memory (export "memory") 1)', '(memory (export "memory") 9000)')
    executor = world.executor()
    one, other = (world.function(text, reuse=True, memory_bytes=1 << 30, result_bytes=size) for size in (100, 101))
    counts = [run(executor, code, b"\x08").outcomes[0].result[0] for code in (one, one, other, other, one)]
    assert counts == [1, 2, 1, 2, 1]


def test_large_code_makes_room(world: Any, guests: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: prepared code is bounded in bytes. Method: room for a byte, so that one code at a time is kept."""
    monkeypatch.setattr("rota.cpu_worker.code_store.PREPARED_BYTES_MAX", 1)
    executor = world.executor()
    for code in [world.function(guests["echo"]), world.function(guests["mischief"])] * 2:
        assert run(executor, code, b"\x20").stopped is None
        assert len(executor._codes._prepared) == 1
