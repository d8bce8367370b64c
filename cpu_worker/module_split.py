"""Splits a runtime's module into its program and its memory, so that many memories can be run by one program. PURE.

Compiling an interpreter takes seconds, a memory with one data segment takes milliseconds. So the program is rewritten
once to import its memory, and each image is a tiny module that holds a memory and nothing else. `split_module` makes
the program and the memory that it begins with; `memory_module` makes a module of any memory.

What else an instance holds is its globals and tables. Mutable globals are exported, to be read and set. Tables cannot
be set from outside; image_guest.py checks that they are as at the start. Data segments that the program copies itself
(passive ones) stay in the program; those that are copied at instantiation become empty there, which is what a used
segment is, so that the others keep their numbers.

The program calls the host and is called by names of ours, which no compiler makes, for they have a colon. Quoted titles
are from the core specification, chapter "Binary Format", part "Modules":
https://webassembly.github.io/spec/core/binary/modules.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from rota.common.errors import CodeError
from rota.common.wasm_binary import FuncType, GlobalType, MemoryType, Reader, read_global_type, skip_constant
from rota.common.wasm_module import inspect_module
from rota.runtimes.driver import TABLE_ARGUMENTS_MAX

FORMAT: Final = 1  # part of the artefacts' names: raise it when the rewriting changes
MEMORY_IMPORT: Final = ("rota:image", "memory")
START: Final = "rota:start"
INITIALIZE: Final = "_initialize"  # of reactors; kept wherever it is
GLOBALS_MAX: Final = 256  # each task sets them, some 10 microseconds each; the interpreters here have one
_NUMBERS: Final = ("i32", "i64", "f32", "f64")

_TYPE, _IMPORT, _FUNCTION, _MEMORY, _GLOBAL, _EXPORT, _START = 1, 2, 3, 5, 6, 7, 8
_CODE, _DATA, _DATA_COUNT = 10, 11, 12
_FUNC_KIND, _TABLE_KIND, _MEMORY_KIND, _GLOBAL_KIND = 0, 1, 2, 3
_I32: Final = 0x7F


class SplitProgram(NamedTuple):
    """What a host must know of a program beside its code. Globals and tables are exported under `global_export` and
    `table_export` of their place here.
    """

    memory: MemoryType
    globals: tuple[str, ...]  # value types of the mutable globals
    stack_global: int | None  # the place among these of the first i32, LLVM's stack pointer
    tables: int
    has_start: bool  # exported as START
    exports: tuple[tuple[str, FuncType], ...]


class Split(NamedTuple):
    wasm: bytes  # the program as a module
    program: SplitProgram
    memory: bytes  # the module of the memory that it begins with


def global_export(place: int) -> str:
    return f"rota:global:{place}"


def table_export(place: int) -> str:
    return f"rota:table:{place}"


def table_call_export(arguments: int) -> str:
    """Return the name of the export (index, arguments...) -> i32 that calls table 0."""
    return f"rota:call:{arguments}"


def split_module(wasm: bytes, exports: Iterable[str]) -> Split:
    """Split a module that has a memory of its own; the program keeps `exports`, all functions.

    Raises `CodeError` if the module is malformed, or is none that can be split: then no source can run on it.
    """
    interface = inspect_module(wasm)
    if len(interface.memories) != 1 or any(wanted.kind != "func" for wanted in interface.imports):
        raise CodeError("the runtime has to have one memory of its own and to import functions only: rebuild it")
    memory = interface.memories[0]
    kept: list[tuple[str, FuncType]] = []
    for name in (*exports, *([INITIALIZE] if INITIALIZE in interface.exports else [])):
        found = interface.exports.get(name)
        if found is None or not isinstance(found.signature, FuncType) or found.kind != "func":
            raise CodeError(f"the runtime exports no function {name!r}, which its driver calls: take another build")
        kept.append((name, found.signature))
    sections = list(_sections(wasm))
    bodies = {section: body for section, body in sections if section}
    segments = _data_segments(bodies.get(_DATA))
    global_types = _globals(bodies.get(_GLOBAL))
    numbered = [(index, value) for index, (value, mutable) in enumerate(global_types) if mutable]
    values = tuple([value for _, value in numbered])
    if any(table.element != "funcref" for table in interface.tables):
        raise CodeError("the runtime has a table of other things than functions, which no image can hold: rebuild it")
    if len(values) > GLOBALS_MAX:
        raise CodeError(f"the runtime has {len(values)} globals that change, at most {GLOBALS_MAX}: rebuild it")
    if not all(value in _NUMBERS for value in values):
        raise CodeError("the runtime has a global that changes and is no number, which no image can hold: rebuild it")
    program = SplitProgram(
        memory, values, values.index("i32") if "i32" in values else None, len(interface.tables), interface.has_start,
        tuple(kept),
    )  # fmt: skip
    changed = _changed_sections(bodies, program, [index for index, _ in numbered], segments)
    out = bytearray(wasm[:8])
    for section in _ORDER:
        if section in changed:
            out += _section(section, changed[section])
    for section, body in sections:
        if section == 0 and _custom_name(body) == "name":  # the names of functions, for stacks of traps
            out += _section(0, body.data[body.position : body.end])
    active = [segment for segment in segments if segment.offset is not None]
    return Split(bytes(out), program, _memory_module(memory, [(s.offset or 0, s.data) for s in active]))


def memory_module(memory: MemoryType, data: Sequence[tuple[int, bytes | memoryview]]) -> bytes:
    """Return a module that exports a memory as `memory`, with (offset, bytes) in it."""
    return _memory_module(memory, data)


# --- the sections that change -----------------------------------------------------------------------------------------

_ORDER: Final = (1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11)


class _DataSegment(NamedTuple):
    offset: int | None  # None: passive
    data: bytes


def _changed_sections(
    bodies: Mapping[int, Reader],
    program: SplitProgram,
    global_indices: Sequence[int],
    segments: Sequence[_DataSegment],
) -> dict[int, bytes]:
    changed = {section: body.data[body.position : body.end] for section, body in bodies.items()}
    del changed[_MEMORY]
    start = changed.pop(_START, None)
    arities = range(TABLE_ARGUMENTS_MAX + 1) if program.tables else ()
    types, functions, code = _count(bodies.get(_TYPE)), _functions(bodies), _count(bodies.get(_CODE))
    changed[_IMPORT] = _append(bodies.get(_IMPORT), [_memory_import(program.memory)])
    called, calling = [_func_type(arity) for arity in arities], [_func_type(arity + 1) for arity in arities]
    changed[_TYPE] = _append(bodies.get(_TYPE), called + calling)
    changed[_FUNCTION] = _append(bodies.get(_FUNCTION), [_u32(types + len(arities) + arity) for arity in arities])
    changed[_CODE] = _append(bodies.get(_CODE), [_call_body(types + arity, arity) for arity in arities])
    assert code == _count(bodies.get(_FUNCTION)), "the interface was read, so these agree"
    indices = _export_indices(bodies.get(_EXPORT))
    entries = [_export(name, _FUNC_KIND, indices[name]) for name, _ in program.exports]
    entries += [_export(global_export(place), _GLOBAL_KIND, index) for place, index in enumerate(global_indices)]
    entries += [_export(table_export(place), _TABLE_KIND, place) for place in range(program.tables)]
    entries += [_export(table_call_export(arity), _FUNC_KIND, functions + arity) for arity in arities]
    if start is not None:
        entries.append(_name(START) + bytes([_FUNC_KIND]) + start)
    changed[_EXPORT] = _u32(len(entries)) + b"".join(entries)
    if _DATA_COUNT in changed:
        changed[_DATA] = _u32(len(segments)) + b"".join(
            [b"\x01" + _blob(segment.data if segment.offset is None else b"") for segment in segments]
        )
    else:
        changed.pop(_DATA, None)  # without a count, no instruction names a segment
    return changed


def _call_body(type_index: int, arity: int) -> bytes:
    """Return the body of a function (index, arguments...) -> i32: `call_indirect` on table 0."""
    loads = b"".join([b"\x20" + _u32(local) for local in (*range(1, arity + 1), 0)])  # local.get; the index comes last
    return _blob(b"\x00" + loads + b"\x11" + _u32(type_index) + b"\x00\x0b")


def _memory_import(memory: MemoryType) -> bytes:
    module, name = MEMORY_IMPORT
    return _name(module) + _name(name) + bytes([_MEMORY_KIND]) + _memory_limits(memory)


def _memory_limits(memory: MemoryType) -> bytes:
    most = memory.pages_max
    return b"\x00" + _u32(memory.pages_min) if most is None else b"\x01" + _u32(memory.pages_min) + _u32(most)


def _memory_module(memory: MemoryType, data: Sequence[tuple[int, bytes | memoryview]]) -> bytes:
    heads = [b"\x00\x41" + _s32(offset) + b"\x0b" + _u32(len(part)) for offset, part in data]
    count = _u32(len(data))
    size = len(count) + sum([len(head) + len(part) for head, (_, part) in zip(heads, data, strict=True)])
    out: list[bytes | memoryview] = [
        b"\0asm\x01\0\0\0",
        _section(_MEMORY, b"\x01" + _memory_limits(memory)),
        _section(_EXPORT, b"\x01" + _name("memory") + bytes([_MEMORY_KIND, 0])),
        bytes([_DATA]) + _u32(size) + count,
    ]
    for head, (_, part) in zip(heads, data, strict=True):
        out += head, part  # joined once: a part may have many megabytes
    return b"".join(out)


# --- reading; inspect_module has found the sections well formed -------------------------------------------------------


def _sections(wasm: bytes) -> Iterable[tuple[int, Reader]]:
    reader = Reader(wasm, 8, len(wasm))
    while reader.position < reader.end:
        section = reader.byte("a section id")
        yield section, reader.sub(reader.count("a section's size"), "a section")


def _fresh(body: Reader) -> Reader:
    return Reader(body.data, body.position, body.end)


def _count(body: Reader | None) -> int:
    return 0 if body is None else _fresh(body).items("items", 1 << 31)


def _custom_name(body: Reader) -> str:
    return _fresh(body).name("a custom section's name")


def _functions(bodies: Mapping[int, Reader]) -> int:
    """Return the number of functions, imported ones included: nothing else is imported."""
    return _count(bodies.get(_IMPORT)) + _count(bodies.get(_FUNCTION))


def _globals(section: Reader | None) -> list[GlobalType]:
    if section is None:
        return []
    body = _fresh(section)
    found: list[GlobalType] = []
    for _ in range(body.items("globals")):
        found.append(read_global_type(body))
        skip_constant(body)
    return found


def _export_indices(section: Reader | None) -> dict[str, int]:
    if section is None:
        return {}
    body, found = _fresh(section), {}
    for _ in range(body.items("exports")):
        name = body.name("an export's name")
        body.byte("an export's kind")
        found[name] = body.count("an export's index")
    return found


def _data_segments(section: Reader | None) -> list[_DataSegment]:
    """Read the "Data Section"; inspect_module does not, so all of it is checked here."""
    if section is None:
        return []
    body = _fresh(section)
    found: list[_DataSegment] = []
    for _ in range(body.items("data segments")):
        start = body.position
        form = body.count("a data segment")
        offset = None
        if form == 0:
            if body.byte("a data segment's offset") != 0x41:
                raise body.error("the offset of a data segment is no i32.const", start)
            offset = body.signed(32, "a data segment's offset") & 0xFFFF_FFFF
            if body.byte("a data segment's offset") != 0x0B:
                raise body.error("the offset of a data segment is no i32.const", start)
        elif form != 1:
            raise body.error(f"form {form} of a data segment is not known", start)
        found.append(_DataSegment(offset, body.take(body.count("a data segment's size"), "a data segment")))
    body.expect_end("the data section")
    return found


# --- writing ----------------------------------------------------------------------------------------------------------


def _section(section: int, body: bytes) -> bytes:
    return bytes([section]) + _blob(body)


def _append(body: Reader | None, items: Sequence[bytes]) -> bytes:
    """Return a vector with further items."""
    rest, count = b"", 0
    if body is not None:
        reader = _fresh(body)
        count = reader.count("the number of items")
        rest = reader.data[reader.position : reader.end]
    return _u32(count + len(items)) + rest + b"".join(items)


def _func_type(arity: int) -> bytes:
    return b"\x60" + _blob(bytes([_I32] * arity)) + bytes([1, _I32])


def _export(name: str, kind: int, index: int) -> bytes:
    return _name(name) + bytes([kind]) + _u32(index)


def _name(text: str) -> bytes:
    return _blob(text.encode())


def _blob(data: bytes) -> bytes:
    return _u32(len(data)) + data


def _u32(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _s32(value: int) -> bytes:
    """Encode an unsigned 32-bit value as the i32 of the same bits."""
    signed = value - (1 << 32) if value >= 1 << 31 else value
    out = bytearray()
    while True:
        part = signed & 0x7F
        signed >>= 7
        if (signed == 0 and not part & 0x40) or (signed == -1 and part & 0x40):
            out.append(part)
            return bytes(out)
        out.append(part | 0x80)
