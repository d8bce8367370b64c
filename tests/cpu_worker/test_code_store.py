"""What a module must offer, and what is said to whoever brings one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from rota.common.errors import CodeError


def refusal(world: Any, text: str, kind: str = "function", **settings: Any) -> str:
    with pytest.raises(CodeError) as caught:
        world.executor().prepare(world.deploy(text, kind, **settings), "counter/alice")
    return caught.value.message


def test_description(world: Any, guests: Any) -> None:
    """Goal: `prepare` says how the code is called. Method: an agent."""
    assert world.executor().prepare(world.agent(guests["counter"]), "counter/alice") == {
        "kind": "agent", "alloc": "rota_alloc", "call": "rota_step", "initialize": False, "memory_bytes_min": 65_536,
    }  # fmt: skip


def test_exports_named_at_deploy(world: Any, guests: Any, run: Any) -> None:
    """Goal: an existing module runs under its own export names. Method: an echo with other names."""
    text = guests["echo"].replace("rota_alloc", "alloc").replace("rota_call", "format_impl")
    code = world.function(text, exports=(("alloc", "alloc"), ("call", "format_impl")))
    assert run(world.executor(), code, b"abc").outcomes[0].result == b"abc"


def test_import_outside_the_list(world: Any, guests: Any) -> None:
    """Goal: the message names the import, what is allowed, and the remedy.

    Method: WASI, and a wrong type of our own.
    """
    text = guests["echo"].replace(
        "(module", '(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))'
    )
    message = refusal(world, text)
    assert "imports wasi_snapshot_preview1.fd_write, which agents do not have; allowed: rota.tensor_read" in message
    assert "Link without it" in message
    wrong = guests["echo"].replace("(module", '(module (import "rota" "tensor_read" (func (param i32) (result i32)))')
    assert "imports rota.tensor_read as (i32) -> (i32); it is (i32, i64, i32, i32) -> (i32)" in refusal(world, wrong)
    memory = guests["echo"].replace("(module", '(module (import "rota" "tensor_read" (global i32))')
    assert "imports rota.tensor_read as global" in refusal(world, memory)


def test_exports_that_are_missing_or_wrong(world: Any, guests: Any) -> None:
    """Goal: each missing or wrong export is named with what it must be. Method: take one away at a time."""
    echo = guests["echo"]
    assert "exports no memory named 'memory'" in refusal(world, echo.replace('(export "memory") ', ""))
    assert "exports no rota_alloc: export a function rota_alloc(i32) -> (i32)" in refusal(
        world, echo.replace("rota_alloc", "x")
    )
    assert "exports no rota_step: export a function rota_step(i32, i32) -> (i64)" in refusal(world, echo, "agent")
    wrong = echo.replace("(param i32) (result i32) i32.const 1024", "(param i64) (result i32) i32.const 1024")
    assert "exports rota_alloc as (i64) -> (i32); it must be (i32) -> (i32)" in refusal(world, wrong)
    initialize = echo[:-1] + ' (global (export "_initialize") i32 (i32.const 0)))'
    assert "exports _initialize as global; it must be () -> ()" in refusal(world, initialize)


def test_roles_that_do_not_exist(world: Any, guests: Any) -> None:
    """Goal: a slip in a deploy is told, not ignored. Method: an unknown role, and roles for an agent."""
    assert "unknown export role 'free': the roles are alloc, call" in refusal(
        world, guests["echo"], exports=(("free", "free"),)
    )
    assert "kind agent has fixed export names" in refusal(world, guests["counter"], "agent", exports=(("call", "x"),))


def test_damaged_module_file(world: Any, guests: Any) -> None:
    """Goal: a file whose content is not its name's is never compiled. Method: append one byte."""
    code = world.function(guests["echo"])
    path = world.modules_dir / f"{code.digest.hex()}.wasm"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CodeError, match="is damaged"):
        world.executor().prepare(code, "echo")


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
