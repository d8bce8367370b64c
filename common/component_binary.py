"""Reads the names that a WebAssembly component imports and exports, and checks whether Rota can run it. PURE.

The broker, which has no engine, reads a component at deploy, so that the producer learns at once what is wrong. Only
the outermost imports and exports are read; the worker's engine validates the rest, and compares the type of `handle`.

Quoted titles are from the component model's design/mvp/Binary.md, https://github.com/WebAssembly/component-model.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rota.common.errors import CodeError
from rota.common.wasm_binary import Reader
from rota.common.wasm_names import PARTS_WITH_MODULES, check_names_within

WORLD: Final = "agent of rota:agent@2.0.0"  # sdk/wit/agent.wit
HANDLER: Final = "rota:agent/handler@2.0.0"
HANDLE: Final = "handle"

PREAMBLE: Final = b"\0asm\x0d\0\x01\0"  # "Component Definitions": version 13, layer 1; a core module has layer 0
_SECTIONS_MAX: Final = 100_000
_SECTION_LAST: Final = 12
_IMPORTS, _EXPORTS = 10, 11  # "Component Definitions": ids of sections
_SHOWN_CHARS: Final = 120
_SHOWN_IMPORTS: Final = 3

# "Import and Export Definitions": the sorts, by the byte that begins an external description.
_SORTS: Final = ("core module", "func", "value", "type", "component", "instance")


class Named(NamedTuple):
    name: str
    sort: str


class ComponentInterface(NamedTuple):
    imports: tuple[Named, ...]
    exports: tuple[Named, ...]


def is_component(data: bytes) -> bool:
    """Return whether these bytes begin as a component does, of any version."""
    return data[:4] == b"\0asm" and data[6:8] == b"\x01\0"


def inspect_component(data: bytes) -> ComponentInterface:
    """Return the interface of a component. Raises `CodeError` for other bytes."""
    if data[: len(PREAMBLE)] != PREAMBLE:
        raise CodeError(_why_no_component(data), offset=0)
    reader = Reader(data, len(PREAMBLE), len(data))
    imports: list[Named] = []
    exports: list[Named] = []
    sections = names = 0
    while reader.position < reader.end:
        start = reader.position
        section = reader.byte("a section id")
        body = reader.sub(reader.count("a section's size"), "a section")
        sections += 1
        if section > _SECTION_LAST or sections > _SECTIONS_MAX:
            raise reader.error(f"unknown section {section}, or more than {_SECTIONS_MAX} sections", start)
        if section in PARTS_WITH_MODULES:
            names = check_names_within(body, names)
        elif section == _IMPORTS:
            _read_imports(body, imports)
        elif section == _EXPORTS:
            _read_exports(body, exports)
    return ComponentInterface(tuple(imports), tuple(exports))


def check_component(interface: ComponentInterface) -> None:
    """Raise `CodeError`, with the reason and the remedy, if a component is not of our world."""
    if interface.imports:
        names = [one.name[:_SHOWN_CHARS] for one in interface.imports]
        shown = ", ".join(names[:_SHOWN_IMPORTS])
        more = f" and {len(names) - _SHOWN_IMPORTS} more" if len(names) > _SHOWN_IMPORTS else ""
        raise CodeError(
            f"the component imports {shown}{more}, and it may import nothing: {_import_remedy(names)}",
            **{"import": names[0]},
        )
    if Named(HANDLER, "instance") not in interface.exports:
        has = ", ".join([one.name[:_SHOWN_CHARS] for one in interface.exports][:_SHOWN_IMPORTS]) or "nothing"
        raise CodeError(
            f"the component exports {has}, and the interface {HANDLER} is needed: build it for the world {WORLD}, "
            "which is sdk/wit/agent.wit",
            export=HANDLER,
        )


def _why_no_component(data: bytes) -> str:
    if is_component(data):
        return f"component version {int.from_bytes(data[4:6], 'little')} is unknown: version 13 is"
    if data[:4] == b"\0asm":
        return (
            "this is a core WebAssembly module, and a component is needed: deploy it as kind agent, function or command"
        )
    return "this is no WebAssembly component: it does not start with \\0asm"


def _import_remedy(names: list[str]) -> str:
    if any(name.startswith("wasi:") for name in names):
        return "build with --stub-wasi (componentize-py, componentize-qjs), or for wasm32-unknown-unknown"
    return f"the world {WORLD} has no imports, and what an agent wants done goes into its outcome"


def _read_imports(body: Reader, found: list[Named]) -> None:
    # import ::= importname' externdesc
    for _ in range(body.items("imports")):
        found.append(Named(_read_name(body), _read_description(body)))
    body.expect_end("the import section")


def _read_exports(body: Reader, found: list[Named]) -> None:
    # export ::= exportname' sortidx externdesc?
    for _ in range(body.items("exports")):
        name = _read_name(body)
        sort = _read_sort(body)
        body.count("an index")
        if body.byte("whether an export has a description"):
            _read_description(body)
        found.append(Named(name, sort))
    body.expect_end("the export section")


def _read_name(body: Reader) -> str:
    # importname' ::= 0x00 or 0x01, then the name
    start = body.position
    if body.byte("the form of a name") > 1:
        raise body.error("a name with options is not known here", start)
    return body.name("a name")


def _read_sort(body: Reader) -> str:
    start = body.position
    sort = body.byte("a sort")
    if sort >= len(_SORTS):
        raise body.error(f"0x{sort:02x} is no sort of import or export", start)
    if sort == 0 and body.byte("a core sort") != 0x11:
        raise body.error("a core item that is no module", start)
    return _SORTS[sort]


def _read_description(body: Reader) -> str:
    # externdesc
    start = body.position
    sort = _read_sort(body)
    if sort == "value":
        raise body.error("imports and exports of values are not known here", start)
    if sort != "type" or body.byte("the bound of a type") == 0:  # 0: equal to an index, 1: any resource
        body.count("an index")
    return sort
