"""Reads the imports and exports of a WebAssembly module, and checks whether Rota can run it. PURE.

The broker, which has no engine, reads a module at deploy, so that the producer learns at once which import or export is
wrong. This is not a validator: the worker's engine validates the instructions. Everything else is checked: any bytes
either give an interface or raise `CodeError` with the offset.

Quoted titles are from the core specification, chapter "Binary Format", part "Modules":
https://webassembly.github.io/spec/core/binary/modules.html. wasm_binary.py reads integers, names and types.
docs/AGENTS.md describes the ABI that `check_interface` checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Union

from rota.common.code_kinds import KINDS, OUTPUT_ROLES, PROGRAM_KINDS, KindFacts
from rota.common.errors import CodeError
from rota.common.import_remedies import remedy_for
from rota.common.limits import WASM_SECTION_BYTES_MAX, WASM_TABLE_ELEMENTS_MAX, WASM_TABLES_MAX
from rota.common.rota_imports import OWN_IMPORTS, OWN_MODULE
from rota.common.wasi_imports import WASI_IMPORTS, WASI_MODULE
from rota.common.wasm_binary import (
    FuncType,
    GlobalType,
    MemoryType,
    Reader,
    TableType,
    read_global_type,
    read_memory_type,
    read_table_type,
    read_value_types,
    skip_constant,
)
from rota.common.wasm_names import NAME_SECTION, check_names

External = Union[FuncType, MemoryType, TableType, GlobalType]  # noqa: UP007 - a runtime alias
_CUSTOM_SECTIONS_MAX: Final = 1_000  # compilers write fewer than 20
_SHOWN_CHARS: Final = 120  # of a name in a message
_KINDS: Final = ("func", "table", "memory", "global", "tag")  # "Import Section": the code is the place


class Import(NamedTuple):
    """An import of a module. A tag's signature is that of its exception."""

    module: str
    name: str
    kind: str
    signature: External


class Export(NamedTuple):
    kind: str
    signature: External


@dataclass(frozen=True, slots=True)
class WasmInterface:
    """Everything of a module that its host uses. `memories` and `tables` include imported ones."""

    imports: tuple[Import, ...]
    exports: Mapping[str, Export]
    memories: tuple[MemoryType, ...]
    tables: tuple[TableType, ...]
    has_start: bool


def inspect_module(data: bytes) -> WasmInterface:
    """Return the interface of a core WebAssembly module. Raises `CodeError` for other bytes."""
    reader = Reader(data, 0, len(data))
    _read_preamble(reader)
    module = _Module()
    previous = customs = names = 0
    while reader.position < reader.end:
        start = reader.position
        section = reader.byte("a section id")
        body = reader.sub(reader.count("a section's size"), "a section")
        if section == 0:
            if body.name("a custom section's name") == NAME_SECTION:  # "Custom Section"; others may hold anything
                names = check_names(body, names)
            customs += 1
            if customs > _CUSTOM_SECTIONS_MAX:
                raise reader.error(f"more than {_CUSTOM_SECTIONS_MAX} custom sections", start)
            continue
        # "Sections": each at most once, in the order of _SECTIONS.
        if section not in _SECTIONS:
            raise reader.error(f"unknown section {section}", start)
        order = tuple(_SECTIONS).index(section) + 1
        if order <= previous:
            raise reader.error(f"section {section} is repeated or out of order", start)
        previous = order
        read = _SECTIONS[section]
        if read is not None:
            if read is not _read_code and body.end - body.position > WASM_SECTION_BYTES_MAX:
                raise reader.error(f"section {section} is over {WASM_SECTION_BYTES_MAX} bytes", start)
            read(body, module)
            body.expect_end(f"section {section}")
    if module.function_bodies != len(module.spaces["func"]) - module.imported_functions:
        raise reader.error("the function and code sections differ in length", len(data))
    memories, tables = tuple(module.spaces["memory"]), tuple(module.spaces["table"])
    return WasmInterface(tuple(module.imports), module.exports, memories, tables, module.has_start)


# --- what Rota accepts ------------------------------------------------------------------------------------------------

_I32, _I64 = "i32", "i64"
_ALLOC: Final = FuncType((_I32,), (_I32,))
_CALL: Final = FuncType((_I32, _I32), (_I64,))
_INITIALIZE: Final = FuncType((), ())

IMPORTS_ALLOWED: Final[Mapping[tuple[str, str], FuncType]] = {
    **{(OWN_MODULE, name): signature for name, signature in OWN_IMPORTS.items()},
    **{(WASI_MODULE, name): signature for name, signature in WASI_IMPORTS.items()},
}
_SIGNATURES: Final[Mapping[str, tuple[FuncType, ...]]] = {
    "alloc": (_ALLOC,),
    "step": (_CALL,),
    "call": (_CALL,),
    "start": (_INITIALIZE, FuncType((), (_I32,))),
}
_STATUS_CALLS: Final = (FuncType((), (_I32,)), FuncType((_I32, _I32), (_I32,)))  # of a function with OUTPUT_ROLES
_OUTPUT: Final = FuncType((), (_I32,))


def check_interface(interface: WasmInterface, code_kind: str, exports: Mapping[str, str]) -> None:
    """Raise `CodeError`, with the reason and the remedy, if a module cannot run as this kind of code, or in a command.

    `exports` maps roles of kind `function` to the module's own names; other roles have their default names.
    """
    if code_kind not in PROGRAM_KINDS:
        raise CodeError(
            f"a core WebAssembly module cannot be deployed as {code_kind!r}: use one of {', '.join(PROGRAM_KINDS)}",
            kind=code_kind,
        )
    kind = KINDS[code_kind]
    check_roles(kind, exports)
    check_imports(interface)
    _check_tables(interface.tables)
    _check_export(interface, "memory", (), "the host passes messages through it: link with --export-memory")
    for role, usual in kind.roles:
        name = exports.get(role, usual)
        remedy = f"export a function of this name and type (role {role!r}"
        remedy += "; another name can be given at deploy" if kind.names_exports else ""
        signatures = _STATUS_CALLS if role == "call" and OUTPUT_ROLES[0] in exports else _SIGNATURES[role]
        _check_export(interface, name, signatures, f"{remedy}; docs/AGENTS.md has templates)")
    for role in kind.optional_roles:
        if role in exports:
            _check_export(
                interface, exports[role], (_OUTPUT,), f"name another export for role {role!r} or leave it out"
            )
    if "_initialize" in interface.exports:
        _check_export(
            interface, "_initialize", (_INITIALIZE,), "build a WASI reactor (-mexec-model=reactor), or leave it out"
        )


def check_roles(kind: KindFacts, exports: Mapping[str, str]) -> None:
    """Raise `CodeError` if a deploy of this kind cannot name these exports by role."""
    roles = [*[role for role, _ in kind.roles], *kind.optional_roles]
    for role, name in exports.items():
        if not kind.names_exports:
            text = f"kind {kind.name} has fixed export names and takes none for {role!r}: leave it out"
            raise CodeError(text, role=role)
        if role not in roles:
            raise CodeError(f"{role!r} is no role of kind {kind.name}: use {', '.join(roles)}", role=role)
        if not isinstance(name, str):
            raise CodeError(f"the export name of role {role!r} must be text, not {name!r}", role=role)
    missing = [role for role in kind.optional_roles if role not in exports]
    if missing and len(missing) < len(kind.optional_roles):
        raise CodeError(
            f"roles {' and '.join(kind.optional_roles)} go together: name the export for {missing[0]!r} too",
            role=missing[0],
        )


def check_imports(interface: WasmInterface) -> None:
    """Raise `CodeError`, with the remedy, for an import that no kind of code may have."""
    for wanted in interface.imports:
        _check_import(wanted)


def _check_import(wanted: Import) -> None:
    where = f"{wanted.module}.{wanted.name}"[:_SHOWN_CHARS]
    allowed = IMPORTS_ALLOWED.get((wanted.module, wanted.name))
    if allowed is None:
        raise CodeError(
            f"the module imports {where!r} ({wanted.kind}), which is not offered: "
            f"{remedy_for(wanted.module, wanted.name)}",
            **{"import": where},
        )
    if wanted.kind != "func" or wanted.signature != allowed:
        raise CodeError(
            f"the module imports {where!r} as {wanted.kind} {wanted.signature} and it is func {allowed}: declare it so",
            **{"import": where},
        )


def _check_tables(tables: Sequence[TableType]) -> None:
    if len(tables) > WASM_TABLES_MAX:
        raise CodeError(f"the module has {len(tables)} tables, at most {WASM_TABLES_MAX}: use fewer")
    for table in tables:
        if table.items_min > WASM_TABLE_ELEMENTS_MAX:
            raise CodeError(
                f"a table of the module starts with {table.items_min} elements, at most "
                f"{WASM_TABLE_ELEMENTS_MAX}: make it smaller"
            )


def _check_export(interface: WasmInterface, name: str, signatures: tuple[FuncType, ...], remedy: str) -> None:
    """Check that a function of one of these types is exported, or, without any, a memory."""
    wanted = " or ".join([f"func {signature}" for signature in signatures]) or "memory"
    found = interface.exports.get(name)
    if found is None:
        raise CodeError(f"the module has no export {name!r} ({wanted} is needed): {remedy}", export=name)
    if found.kind != ("func" if signatures else "memory") or (signatures and found.signature not in signatures):
        has = f"func {found.signature}" if found.kind == "func" else found.kind
        raise CodeError(f"the module's export {name!r} is {has} and {wanted} is needed: {remedy}", export=name)


# --- sections ---------------------------------------------------------------------------------------------------------


class _Module:
    """What was read from the sections so far. Each kind has its own index space, which starts with the imports."""

    def __init__(self) -> None:
        self.types: list[FuncType] = []
        self.imports: list[Import] = []
        self.spaces: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
        self.exports: dict[str, Export] = {}
        self.imported_functions = 0
        self.function_bodies = 0
        self.has_start = False


def _read_preamble(reader: Reader) -> None:
    """Check magic and version ("Modules")."""
    head = reader.data[:8]
    if head[:4] != b"\0asm":
        if head.lstrip()[:1] in (b"(", b";"):
            raise CodeError(
                "this is WebAssembly text, not a module: translate it first, with `wat2wasm`, or in Python with "
                "wasmtime.wat2wasm(text) (wasmtime is installed where CPU workers run)",
                offset=0,
            )
        raise CodeError("this is no WebAssembly module: it does not start with \\0asm", offset=0)
    if len(head) < 8:
        raise CodeError(f"the module ends at offset {len(head)}, within its version", offset=len(head))
    # A component has layer 1 where a core module has layer 0 (component-model, design/mvp/Binary.md, "Component
    # Definitions").
    if head[6:8] == b"\x01\x00":
        raise CodeError(
            "this is a WebAssembly component, and a core module is needed: deploy it as kind component",
            offset=6,
        )
    if head[4:8] != b"\x01\0\0\0":
        raise CodeError(f"WebAssembly version {int.from_bytes(head[4:8], 'little')} is unknown: version 1 is", offset=4)
    reader.position = 8


def _read_types(body: Reader, module: _Module) -> None:
    # "Type Section".
    for _ in range(body.items("types")):
        start = body.position
        form = body.byte("a type")
        if form != 0x60:  # 0x4E-0x50, 0x5E and 0x5F are recursive, structure and array types
            raise body.error(f"type form 0x{form:02x} is not a function type: build without garbage collection", start)
        module.types.append(FuncType(read_value_types(body), read_value_types(body)))


def _read_imports(body: Reader, module: _Module) -> None:
    # "Import Section".
    for _ in range(body.items("imports")):
        origin, name = body.name("an import's module"), body.name("an import's name")
        kind = _read_kind(body)
        signature = _TYPE_READERS[kind](body, module)
        module.imports.append(Import(origin, name, kind, signature))
        module.spaces[kind].append(signature)
    module.imported_functions = len(module.spaces["func"])


def _read_functions(body: Reader, module: _Module) -> None:
    # "Function Section".
    for _ in range(body.items("functions")):
        module.spaces["func"].append(_read_func_type(body, module))


def _read_tables(body: Reader, module: _Module) -> None:
    # "Table Section". The long form 0x40 0x00 carries an initial value.
    for _ in range(body.items("tables")):
        initialized = body.peek() == 0x40
        if initialized and body.take(2, "a table") != b"\x40\x00":
            raise body.error("a table's prefix is not 0x40 0x00", body.position - 2)
        module.spaces["table"].append(read_table_type(body))
        if initialized:
            skip_constant(body)


def _read_memories(body: Reader, module: _Module) -> None:
    # "Memory Section".
    for _ in range(body.items("memories")):
        module.spaces["memory"].append(read_memory_type(body))


def _read_tags(body: Reader, module: _Module) -> None:
    # "Tag Section".
    for _ in range(body.items("tags")):
        module.spaces["tag"].append(_read_tag_type(body, module))


def _read_globals(body: Reader, module: _Module) -> None:
    # "Global Section".
    for _ in range(body.items("globals")):
        module.spaces["global"].append(read_global_type(body))
        skip_constant(body)


def _read_exports(body: Reader, module: _Module) -> None:
    # "Export Section".
    for _ in range(body.items("exports")):
        start = body.position
        name = body.name("an export's name")
        if name in module.exports:
            raise body.error(f"export {name[:_SHOWN_CHARS]!r} is given twice", start)
        kind = _read_kind(body)
        module.exports[name] = Export(kind, body.index(module.spaces[kind], kind))


def _read_start(body: Reader, module: _Module) -> None:
    # "Start Section".
    start = body.position
    if body.index(module.spaces["func"], "func") != FuncType((), ()):
        raise body.error("the start function takes or returns something", start)
    module.has_start = True


def _read_code(body: Reader, module: _Module) -> None:
    # "Code Section": only the number of bodies and the end of each.
    module.function_bodies = body.items("function bodies")
    for _ in range(module.function_bodies):
        body.skip(body.count("a function body's size"), "a function body")


_SECTIONS: Final[dict[int, Callable[[Reader, _Module], None] | None]] = {
    1: _read_types,
    2: _read_imports,
    3: _read_functions,
    4: _read_tables,
    5: _read_memories,
    13: _read_tags,
    6: _read_globals,
    7: _read_exports,
    8: _read_start,
    9: None,  # elements
    12: None,  # data count
    10: _read_code,
    11: None,  # data
}


def _read_func_type(body: Reader, module: _Module) -> FuncType:
    return body.index(module.types, "type")


def _read_tag_type(body: Reader, module: _Module) -> FuncType:
    start = body.position
    if body.byte("a tag") != 0:
        raise body.error("a tag is not an exception", start)
    return _read_func_type(body, module)


def _read_kind(body: Reader) -> str:
    start = body.position
    kind = body.byte("the kind of an import or export")
    if kind >= len(_KINDS):
        raise body.error(f"0x{kind:02x} is no kind of import or export", start)
    return _KINDS[kind]


_TYPE_READERS: Final[dict[str, Callable[[Reader, _Module], External]]] = {
    "func": _read_func_type,
    "table": lambda body, module: read_table_type(body),
    "memory": lambda body, module: read_memory_type(body),
    "global": lambda body, module: read_global_type(body),
    "tag": _read_tag_type,
}
