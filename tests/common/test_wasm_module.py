"""common/wasm_module.py and wasm_binary.py: real modules, made from text by wasmtime, and damaged ones."""

from __future__ import annotations

import contextlib
import re

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.common.errors import CodeError
from rota.common.limits import WASM_ITEMS_MAX, WASM_NAME_BYTES_MAX, WASM_SECTION_BYTES_MAX
from rota.common.wasm_binary import FuncType, GlobalType, MemoryType, Reader, TableType
from rota.common.wasm_module import Export, Import, check_interface, inspect_module

AGENT_TEXT = """(module
  (import "rota" "tensor_read" (func (param i32 i64 i32 i32) (result i32)))
  (memory (export "memory") 2 16)
  (global $g (mut i32) (i32.const -5))
  (func (export "rota_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "rota_step") (param i32 i32) (result i64) (i64.const 0))
  (func (export "_initialize")))"""

EVERYTHING_TEXT = """(module
  (type $pair (func (param i32 f64 v128) (result externref i64)))
  (import "m" "f" (func (param f32)))
  (import "m" "t" (table 1 10 funcref))
  (import "m" "mem" (memory 1))
  (import "m" "g" (global (mut i64)))
  (table (export "table") 3 externref)
  (memory (export "memory") 1 2)
  (global (export "constant") f64 (f64.const 1.5))
  (global $sum i32 (i32.add (i32.const 1) (i32.const -70000)))
  (global v128 (v128.const i32x4 1 2 3 4))
  (global i64 (i64.const -9223372036854775808))
  (global f32 (f32.const 2))
  (global funcref (ref.func $two))
  (global externref (ref.null extern))
  (tag (export "thrown") (param i32))
  (func $two (export "two") (type $pair) unreachable)
  (func $begin)
  (start $begin)
  (elem (i32.const 0) func $two)
  (data (i32.const 0) "abc"))"""


def module(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


AGENT_MODULE = module(AGENT_TEXT)
EVERYTHING_MODULE = module(EVERYTHING_TEXT)


def section(number: int, body: bytes) -> bytes:
    return bytes([number]) + leb(len(body)) + body


def leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def raw(*sections: bytes) -> bytes:
    return b"\0asm\x01\0\0\0" + b"".join(sections)


def test_interface_of_an_agent() -> None:
    """Goal: what the broker needs of a real agent. Method: compare with what the text says."""
    interface = inspect_module(AGENT_MODULE)
    assert interface.imports == (
        Import("rota", "tensor_read", "func", FuncType(("i32", "i64", "i32", "i32"), ("i32",))),
    )
    assert interface.exports == {
        "memory": Export("memory", MemoryType(2, 16)),
        "rota_alloc": Export("func", FuncType(("i32",), ("i32",))),
        "rota_step": Export("func", FuncType(("i32", "i32"), ("i64",))),
        "_initialize": Export("func", FuncType((), ())),
    }
    assert interface.memories == (MemoryType(2, 16),)
    assert not interface.has_start
    check_interface(interface, "agent", {})


def test_every_kind_of_import_and_export() -> None:
    """Goal: index spaces start with imports, and every constant expression is passed over. Method: one of each."""
    interface = inspect_module(EVERYTHING_MODULE)
    assert [(found.name, found.kind, found.signature) for found in interface.imports] == [
        ("f", "func", FuncType(("f32",), ())),
        ("t", "table", TableType("funcref", 1, 10)),
        ("mem", "memory", MemoryType(1, None)),
        ("g", "global", GlobalType("i64", True)),
    ]
    assert interface.exports == {
        "table": Export("table", TableType("externref", 3, None)),
        "memory": Export("memory", MemoryType(1, 2)),
        "constant": Export("global", GlobalType("f64", False)),
        "thrown": Export("tag", FuncType(("i32",), ())),
        "two": Export("func", FuncType(("i32", "f64", "v128"), ("externref", "i64"))),
    }
    assert interface.memories == (MemoryType(1, None), MemoryType(1, 2))
    assert interface.has_start


def test_agrees_with_the_engine() -> None:
    """Goal: no reading of our own. Method: names, order and kinds of imports and exports as wasmtime sees them."""
    for data in (AGENT_MODULE, EVERYTHING_MODULE):
        config = wasmtime.Config()
        config.wasm_exceptions = True
        compiled = wasmtime.Module(wasmtime.Engine(config), data)
        interface = inspect_module(data)
        assert [(found.module, found.name) for found in interface.imports] == [
            (found.module, found.name) for found in compiled.imports
        ]
        assert list(interface.exports) == [found.name for found in compiled.exports]
        # wasmtime 50.0.1 aborts the process when it names a reference type, so only the agent's types are compared.
        for found in compiled.exports if data is AGENT_MODULE else ():
            if isinstance(found.type, wasmtime.FuncType):
                ours = interface.exports[found.name].signature
                assert isinstance(ours, FuncType)
                assert ours.params == tuple(str(value) for value in found.type.params)
                assert ours.results == tuple(str(value) for value in found.type.results)


@pytest.mark.parametrize("data", [AGENT_MODULE, EVERYTHING_MODULE], ids=["agent", "everything"])
def test_truncated_anywhere(data: bytes) -> None:
    """Goal: a cut module is taken for a whole one only where it is one. Method: cut at every byte.

    A module may end after any section, except between the function section and the code section that belongs to it.
    """
    wholes, seen, position = [8], [], 8
    while position < len(data):
        reader = Reader(data, position + 1, len(data))
        seen.append(data[position])
        position = reader.count("a size") + reader.position
        if not (3 in seen and 10 not in seen):
            wholes.append(position)
    assert wholes.pop() == len(data)
    assert [end for end in range(len(data)) if is_module(data[:end])] == wholes


def is_module(data: bytes) -> bool:
    try:
        inspect_module(data)
    except CodeError:
        return False
    return True


@settings(max_examples=300)
@given(st.data())
def test_any_bytes_give_an_interface_or_an_error(data: st.DataObject) -> None:
    """Goal: no other exception. Method: arbitrary bytes, arbitrary sections, and real modules with bytes changed."""
    kind = data.draw(st.sampled_from(["bytes", "body", "sections", "changed"]))
    if kind == "bytes":
        candidate = data.draw(st.binary(max_size=64))
    elif kind == "body":
        candidate = raw(data.draw(st.binary(max_size=64)))
    elif kind == "sections":
        numbers = data.draw(st.lists(st.integers(0, 14), max_size=4))
        candidate = raw(*(section(number, data.draw(st.binary(max_size=24))) for number in numbers))
    else:
        changed = bytearray(data.draw(st.sampled_from([AGENT_MODULE, EVERYTHING_MODULE])))
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(8, len(changed) - 1))] = data.draw(st.integers(0, 255))
        candidate = bytes(changed)
    with contextlib.suppress(CodeError):
        check_interface(inspect_module(candidate), "function", {"call": "two"})


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.sampled_from([32, 33, 64]))
def test_signed_integers(value: int, bits: int) -> None:
    """Goal: signed LEB128 within its bits, and nothing beyond. Method: encode by the definition and read back."""
    encoded, rest = bytearray(), value
    while True:
        encoded.append(rest & 0x7F)
        rest >>= 7
        if rest == (-1 if encoded[-1] & 0x40 else 0):
            break
        encoded[-1] |= 0x80
    reader = Reader(bytes(encoded), 0, len(encoded))
    if -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        assert reader.signed(bits, "a number") == value
        assert reader.position == len(encoded)
    else:
        with pytest.raises(CodeError, match="a number is over"):
            reader.signed(bits, "a number")


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"\x00", 0),
        (b"\x80\x00", 0),
        (b"\xff\xff\xff\xff\x0f", 0xFFFF_FFFF),
        (b"\xff\xff\xff\xff\x1f", None),
        (b"\x80\x80\x80\x80\x80\x00", None),
        (b"\x80", None),
    ],
)
def test_unsigned_integers(encoded: bytes, value: int | None) -> None:
    """Goal: u32 as "Integers" bounds it: at most five bytes, no bits beyond 32. Method: the edge cases."""
    reader = Reader(encoded, 0, len(encoded))
    if value is None:
        with pytest.raises(CodeError, match=r"offset 0|ends too early"):
            reader.count("a number")
    else:
        assert reader.count("a number") == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not start with"),
        (b"\x7fELF", "does not start with"),
        (b"(module)", "text, not a module"),
        (b"  ;; text\n(module)", "text, not a module"),
        (b"\0asm\x01", "ends at offset 5"),
        (b"\0asm\x02\0\0\0", "version 2 is unknown"),
        (b"\0asm\x0d\0\x01\0", "WebAssembly component"),
        (raw(section(14, b"")), "offset 8: unknown section 14"),
        (raw(section(3, b"\0"), section(1, b"\0")), "offset 11: section 1 is repeated or out of order"),
        (raw(section(1, b"\0"), section(1, b"\0")), "repeated or out of order"),
        (raw(b"\x01\x7f"), "a section ends too early"),
        (raw(section(1, b"\0\0")), "1 bytes too many"),
        (raw(section(1, b"\xff\xff\xff\xff\x0f")), "4294967295 types in 0 bytes"),
        (raw(section(1, leb(WASM_ITEMS_MAX + 1) + bytes(WASM_ITEMS_MAX + 1))), "over the limit"),
        (raw(section(1, bytes(WASM_SECTION_BYTES_MAX + 1))), "section 1 is over"),
        (raw(section(1, b"\x01\x5f\0")), "not a function type"),
        (raw(section(1, b"\x01\x60\x01\x40\0")), "0x40 is no value type"),
        (raw(section(3, b"\x01\0")), "type 0 does not exist"),
        (raw(section(1, b"\x01\x60\0\0"), section(3, b"\x01\0")), "function and code sections differ"),
        (raw(section(10, b"\x01\x02\x00\x0b")), "function and code sections differ"),
        (raw(section(5, b"\x01\x03\x01\x02")), "threads"),
        (raw(section(5, b"\x01\x04\x01")), "64-bit"),
        (raw(section(5, b"\x01\x01\x02\x01")), "not within"),
        (raw(section(5, b"\x01\x00\x81\x80\x04")), "not within"),
        (raw(section(7, b"\x01\x01\xff\x02\x00")), "not UTF-8"),
        (raw(section(7, b"\x01\x01a\x02\x00")), "memory 0 does not exist"),
        (raw(section(7, b"\x01\x01a\x05\x00")), "no kind of import or export"),
        (raw(section(5, b"\x01\0\0"), section(7, b"\x02\x01a\x02\0\x01a\x02\0")), "given twice"),
        (raw(section(6, b"\x01\x7f\x02\x41\0\x0b")), "whether a global can change"),
        (raw(section(6, b"\x01\x7f\x00\x10\0\x0b")), "instruction 0x10 in a constant expression"),
        (raw(section(4, b"\x01\x7f\x00\x00")), "a table cannot hold i32"),
        (raw(section(4, b"\x01\x40\x01")), "prefix is not"),
        (
            raw(section(1, b"\x01\x60\x01\x7f\0"), section(2, b"\x01\x01a\x01b\0\0"), section(8, b"\0")),
            "start function",
        ),
        (raw(section(0, b"\x00") * 1_001), "custom sections"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    """Goal: each rule is there and says where. Method: one hand-made module per rule."""
    with pytest.raises(CodeError, match=message) as caught:
        inspect_module(data)
    assert 0 <= caught.value.fields["offset"] <= len(data)


FUNCTION_TEXT = """(module (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 8))
  (func (export "format_impl") (param i32 i32) (result i64) (i64.const 0)))"""


def test_function_with_names_of_its_own() -> None:
    """Goal: existing modules run unmodified. Method: roles mapped to their exports, and what is said where they are
    not."""
    interface = inspect_module(module(FUNCTION_TEXT))
    check_interface(interface, "function", {"alloc": "alloc", "call": "format_impl"})
    with pytest.raises(CodeError, match=r"no export 'rota_call'.*another name can be given"):
        check_interface(interface, "function", {"alloc": "alloc"})
    with pytest.raises(CodeError, match=r"'format_impl' is func \(i32, i32\) -> \(i64\) and func \(i32\) -> \(i32\)"):
        check_interface(interface, "function", {"alloc": "format_impl", "call": "format_impl"})
    with pytest.raises(CodeError, match=r"'memory' is memory and func"):
        check_interface(interface, "function", {"alloc": "memory", "call": "format_impl"})


@pytest.mark.parametrize("call", ["(result i32)", "(param i32 i32) (result i32)"])
def test_function_with_an_output_of_its_own(call: str) -> None:
    """Goal: a module that keeps its answer runs unmodified. Method: both shapes of its call; then one fault each."""
    text = f"""(module (memory (export "memory") 1)
      (func (export "alloc") (param i32) (result i32) (i32.const 8)) (func (export "format") {call} (i32.const 0))
      (func (export "output_ptr") (result i32) (i32.const 0))
      (func (export "output_len") (result i32) (i32.const 0)))"""
    interface = inspect_module(module(text))
    roles = {role: role for role in ("alloc", "output_ptr", "output_len")} | {"call": "format"}
    check_interface(interface, "function", roles)
    with pytest.raises(CodeError, match="go together: name the export for 'output_len' too"):
        check_interface(interface, "function", {**dict(list(roles.items())[:2]), "call": "format"})
    with pytest.raises(CodeError, match=r"'alloc' is func \(i32\) -> \(i32\) and func \(\) -> \(i32\) is needed"):
        check_interface(interface, "function", {**roles, "output_len": "alloc"})
    with pytest.raises(CodeError, match=r"'format' is func .* and func \(i32, i32\) -> \(i64\) is needed"):
        check_interface(interface, "function", {"alloc": "alloc", "call": "format"})


def test_usual_names_of_a_function() -> None:
    """Goal: the defaults are rota_alloc and rota_call. Method: a module with them and no mapping."""
    text = FUNCTION_TEXT.replace('"alloc"', '"rota_alloc"').replace("format_impl", "rota_call")
    check_interface(inspect_module(module(text)), "function", {})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('(export "memory")', "", "no export 'memory'.*--export-memory"),
        ('"memory"', '"mem"', "no export 'memory'"),
        ('"rota_step"', '"step"', r"no export 'rota_step' \(func \(i32, i32\) -> \(i64\) is needed\)"),
        ("(param i32 i32) (result i64) (i64.const 0)", "(param i32) (result i64) (i64.const 0)", "'rota_step' is func"),
        ('(func (export "_initialize"))', '(func (export "_initialize") (param i32))', "_initialize.*reactor"),
        (
            '"rota" "tensor_read"',
            '"rota" "clock"',
            r"imports 'rota.clock' \(func\), which is not offered: this version",
        ),
        ('"rota" "tensor_read"', '"wasi_snapshot_preview1" "fd_fly"', "preview 1 has no function of this name"),
        ('"rota" "tensor_read"', '"env" "puts"', "--allow-undefined"),
        ('"rota" "tensor_read"', '"__wbindgen_placeholder__" "x"', "wasm-bindgen"),
        ("(param i32 i64 i32 i32)", "(param i32 i32 i32 i32)", "'rota.tensor_read' as func .*declare it so"),
        ("(func (param i32 i64 i32 i32) (result i32))", "(global i32)", "'rota.tensor_read' as global"),
    ],
)
def test_agent_refused(old: str, new: str, message: str) -> None:
    """Goal: the error of a deploy names the wrong import or export and the remedy. Method: one fault at a time."""
    assert old in AGENT_TEXT
    interface = inspect_module(module(AGENT_TEXT.replace(old, new)))
    with pytest.raises(CodeError, match=message):
        check_interface(interface, "agent", {})


@pytest.mark.parametrize(
    ("module_name", "name", "flag"),
    [
        ("env", "abort", "--use abort="),
        ("env", "seed", "--use seed=~lib/rota/rotaSeed"),
        ("env", "trace", "ctx.log"),
        ("env", "Date.now", "AssemblyScript: there is no Date.now"),
        ("env", "console.log", "AssemblyScript: there is no console.log"),
        ("env", "memory", "--import-memory"),
        ("env", "__memory_base", "-fPIC"),
        ("GOT.mem", "errno", "-fPIC"),
        ("env", "emscripten_memcpy_js", "-sSTANDALONE_WASM"),
        ("a", "b", "-sSTANDALONE_WASM"),
        ("env", "rust_eh_personality", "panic=abort"),
        ("env", "a\nb", "--allow-undefined"),
        ("gojs", "runtime.wasmExit", "GOOS=wasip1"),
        ("wasi_unstable", "fd_write", "preview 0"),
        ("wasi:cli/environment@0.2.0", "get-environment", "wasm32-wasip1"),
        ("wasi_ephemeral_nn", "load", "wasm32-wasip1"),
        ("./planner_bg.js", "__wbg_now", "wasm-bindgen"),
        ("extism:host/env", "alloc", "SDK of Rota"),
        ("spectest", "print", "as emits"),
    ],
)
def test_refused_import_names_the_flag(module_name: str, name: str, flag: str) -> None:
    """Goal: whoever built the module learns what to build otherwise. Method: what each toolchain leaves in a module."""
    text = AGENT_TEXT.replace('"rota" "tensor_read"', f'"{module_name}" "{name}"'.replace("\n", "\\n"))
    with pytest.raises(CodeError, match="which is not offered: .*" + re.escape(flag)):
        check_interface(inspect_module(module(text)), "agent", {})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("(table 1048577 funcref)", "a table of the module starts with 1048577 elements, at most 1048576"),
        ("(table 1 funcref) " * 5, "the module has 5 tables, at most 4"),
    ],
)
def test_tables_past_the_bounds_are_refused(tables: str, message: str) -> None:
    """Goal: a module that no worker could start is refused at the deploy. Method: one too large, and one too many."""
    with pytest.raises(CodeError, match=message):
        check_interface(inspect_module(module(AGENT_TEXT.rstrip()[:-1] + tables + ")")), "agent", {})


@pytest.mark.parametrize(
    ("kind", "exports", "message"),
    [
        ("agent", {"step": "other"}, "fixed export names"),
        ("function", {"step": "other"}, "'step' is no role of kind function: use alloc, call, output_ptr, output_len"),
        ("function", {"call": 3}, "must be text"),
        ("model", {}, "cannot be deployed as 'model': use one of agent, function"),
    ],
)
def test_deploy_refused(kind: str, exports: dict[str, str], message: str) -> None:
    """Goal: roles and kinds are checked before the module. Method: a good module, wrong words."""
    with pytest.raises(CodeError, match=message):
        check_interface(inspect_module(AGENT_MODULE), kind, exports)


def names(*entries: tuple[int, bytes]) -> bytes:
    body = b"".join(leb(index) + leb(len(name)) + name for index, name in entries)
    part = leb(len(entries)) + body
    return section(0, b"\x04name\x01" + leb(len(part)) + part)


def test_names_of_functions_are_bounded() -> None:
    """Goal: the engine copies names at each trap, so none is long, and reading them is bounded.

    Method: at the bound and above, in a second section, behind damage, and too many in many small parts.
    """
    longest, longer = b"a" * WASM_NAME_BYTES_MAX, b"a" * (WASM_NAME_BYTES_MAX + 1)
    inspect_module(AGENT_MODULE + names((0, longest), (1, b"")))
    with pytest.raises(CodeError, match=r"the name of function 7 has 16385 bytes, at most 16384: strip the names"):
        inspect_module(AGENT_MODULE + names((0, b"")) + names((0, b"ok"), (7, longer)))
    inspect_module(AGENT_MODULE + section(0, b"\x04name\x01\x05\x02\x00\xff\xff\x7f"))
    for many in (names(*[(0, b"")] * (WASM_ITEMS_MAX + 1)), section(0, b"\x04name" + b"\x07\x00" * 200_000)):
        with pytest.raises(CodeError, match=r"names more than 100000 functions: strip"):
            inspect_module(AGENT_MODULE + many)
