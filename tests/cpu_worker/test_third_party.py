"""Modules that nobody here wrote, as functions: the formatters of the npm packages `@wasm-fmt/*`.

They are not in the repository. To run this, unpack the packages (`npm pack`, `tar`) and name the folder above them:
ROTA_WASM_FMT=FOLDER. test_call_paths.py runs a module of ours with the same shape.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rota.common.wasm_module import check_interface, inspect_module

_OUTPUT = {"alloc": "alloc", "call": "format", "output_ptr": "output_ptr", "output_len": "output_len"}
_PACKED = {"alloc": "alloc", "call": "format_impl"}


def module(name: str) -> bytes:
    folder = os.environ.get("ROTA_WASM_FMT")
    if not folder:
        pytest.skip("ROTA_WASM_FMT names no folder with the unpacked packages")
    return next(Path(folder).rglob(name)).read_bytes()


@pytest.mark.parametrize(
    ("name", "roles", "given", "formatted"),
    [
        ("gofmt.wasm", _OUTPUT, b"package a\nfunc  f( ) {\n}\n", b"package a\n\nfunc f() {\n}\n"),
        ("shfmt.wasm", _OUTPUT, b"if  true;then\necho 1;fi\n", b"if true; then\n\techo 1\nfi\n"),
        ("zig_fmt.wasm", _PACKED, b"fn f()void{ }\n", b"fn f() void {}\n"),
    ],
)
def test_a_formatter_runs_unmodified(
    world: Any, run: Any, name: str, roles: dict[str, str], given: bytes, formatted: bytes
) -> None:
    """Goal: such a module is deployed as it is, with its exports named. Method: bad layout, good layout, twice over."""
    wasm = module(name)
    check_interface(inspect_module(wasm), "function", roles)
    code = world.function(wasm, exports=tuple(roles.items()))
    executor = world.executor()
    outcomes = [*run(executor, code, given, formatted).outcomes, *run(executor, code, given, formatted).outcomes]
    assert [outcome.result for outcome in outcomes] == [formatted] * 4
    assert outcomes[0].fuel == outcomes[2].fuel


@pytest.mark.parametrize(("name", "text"), [("gofmt.wasm", b"package 1"), ("shfmt.wasm", b"if if if")])
def test_a_formatter_says_what_is_wrong(world: Any, run: Any, name: str, text: bytes) -> None:
    """Goal: its own message is the outcome. Method: a text that does not parse."""
    outcome = run(world.executor(), world.function(module(name), exports=tuple(_OUTPUT.items())), text).outcomes[0]
    assert outcome.kind == "error"
    assert outcome.message.startswith("format: 1:")
