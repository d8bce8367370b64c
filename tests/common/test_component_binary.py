"""What is read from a component at the deploy: its imports and exports, and whether it is of our world."""

from __future__ import annotations

import pytest
from components import MISCHIEF, component_of
from wasmtime import wat2wasm

from rota.common.component_binary import (
    HANDLER,
    ComponentInterface,
    Named,
    check_component,
    inspect_component,
    is_component,
)
from rota.common.errors import CodeError
from rota.common.limits import WASM_NAME_BYTES_MAX

AGENT = component_of(MISCHIEF)


def component(text: str) -> bytes:
    return bytes(wat2wasm(text))


def test_a_component_of_our_world() -> None:
    """Goal: what the toolchains make is accepted. Method: a component that one of them made, around our module."""
    interface = inspect_component(AGENT)
    assert interface == ComponentInterface((), (Named(HANDLER, "instance"),))
    check_component(interface)
    assert is_component(AGENT)
    assert not is_component(component("(module)"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('(component (import "wasi:cli/environment@0.2.0" (instance)))', "imports wasi:cli/environment.*--stub-wasi"),
        (
            '(component (import "a" (func)) (import "b" (type (sub resource))) (import "c" (type (eq 0))) '
            '(import "d" (core module)))',
            "imports a, b, c and 1 more, .*has no imports",
        ),
        ('(component (import "a" (component)))', "imports a, and"),
        ("(component)", "exports nothing, and the interface rota:agent/handler@2.0.0 is needed"),
        (
            f'(component (core module $m) (export "{HANDLER}" (core module $m)))',
            f"exports {HANDLER}, and the interface",
        ),
    ],
)
def test_refused(text: str, message: str) -> None:
    """Goal: the error of a deploy names the import or export and the remedy. Method: one fault at a time."""
    interface = inspect_component(component(text))
    with pytest.raises(CodeError, match=message):
        check_component(interface)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no WebAssembly component"),
        (b"\x7fELF", "no WebAssembly component"),
        (component("(module)"), "core WebAssembly module.*kind agent"),
        (b"\0asm\x0c\0\x01\0", "version 12 is unknown"),
        (AGENT[:8] + b"\x0d\0", "unknown section 13"),
        (AGENT[:8] + b"\x0a\x01\x01", "1 imports in 0 bytes"),
        (AGENT[:8] + b"\x0a\x04\x01\x02\x01a", "a name with options"),
        (AGENT[:8] + b"\x0a\x05\x01\x00\x01a\x09", "0x09 is no sort"),
        (AGENT[:8] + b"\x0a\x06\x01\x00\x01a\x00\x01", "a core item that is no module"),
        (AGENT[:8] + b"\x0a\x06\x01\x00\x01a\x02\x00", "values are not known"),
        (AGENT[:8] + b"\x0a\x07\x01\x00\x01a\x01\x00\x00", "1 bytes too many"),
    ],
)
def test_other_bytes(data: bytes, message: str) -> None:
    """Goal: any bytes give an interface or an error with the reason. Method: one of each kind."""
    with pytest.raises(CodeError, match=message):
        inspect_component(data)


def test_every_beginning_is_refused_or_read() -> None:
    """Goal: no bytes make it raise anything else or read past the end. Method: each prefix of a component."""
    for end in range(len(AGENT)):
        try:
            inspect_component(AGENT[:end])
        except CodeError:
            continue


@pytest.mark.parametrize(
    "text", ["(component (core module {}))", "(component (component (component (core module) (core module {}))))"]
)
def test_names_of_functions_are_bounded(text: str) -> None:
    """Goal: as in modules, no name makes traps costly. Method: a name at the bound and above it, at any depth."""
    inspect_component(component(text.format(f"(func ${'a' * WASM_NAME_BYTES_MAX})")))
    with pytest.raises(CodeError, match="has 16385 bytes, at most 16384: strip the names"):
        inspect_component(component(text.format(f"(func ${'a' * (WASM_NAME_BYTES_MAX + 1)})")))
    inspect_component(component("(component)") + b"\x01\x03\0as")  # damage inside is for the engine to find
