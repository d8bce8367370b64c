"""Bounds what the name section of a module can cost. PURE.

The engine copies the names of the innermost functions at each trap, which no fuel pays for. Quoted titles are from the
core specification, appendix "Custom Sections": https://webassembly.github.io/spec/core/appendix/custom.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rota.common.errors import CodeError
from rota.common.limits import WASM_ITEMS_MAX, WASM_NAME_BYTES_MAX
from rota.common.wasm_binary import Reader

NAME_SECTION: Final = "name"
PARTS_WITH_MODULES: Final = (1, 4)  # ids of sections of a component: a core module, a component

_PREAMBLE_BYTES, _LAYER_AT, _COMPONENT_LAYER = 8, 6, 1
_CUSTOM: Final = 0  # id of a section
_FUNCTION_NAMES: Final = 1  # "Function Names"
_REMEDY: Final = "strip the names (-Wl,--strip-all)"


def check_names(body: Reader, count: int) -> int:
    """Return `count` plus the number of functions that a name section names.

    Raises `CodeError` if a name is too long, or there are too many. Damage is no error, as in the engine: what comes
    before it counts.
    """
    sizes = _sizes(body)
    while True:
        try:
            function, size = next(sizes)
        except (CodeError, StopIteration):
            return count
        count += 1
        if size > WASM_NAME_BYTES_MAX:
            raise CodeError(
                f"the name of function {function} has {size} bytes, at most {WASM_NAME_BYTES_MAX}: {_REMEDY}"
            )
        if count > WASM_ITEMS_MAX:
            raise CodeError(f"the module names more than {WASM_ITEMS_MAX} functions: {_REMEDY}")


def check_names_within(part: Reader, count: int) -> int:
    """Do so for all modules in a part of a component: a core module, or a component with more of them.

    Damage ends the search; the engine finds it.
    """
    sections = _name_sections(part)
    while True:
        try:
            body = next(sections)
        except (CodeError, StopIteration):
            return count
        count = check_names(body, count)


def _name_sections(part: Reader) -> Iterator[Reader]:
    """Yield what each name section holds, behind its own name."""
    pending = [part]
    while pending:
        part = pending.pop()
        is_component = part.take(_PREAMBLE_BYTES, "a head")[_LAYER_AT] == _COMPONENT_LAYER
        while part.position < part.end:
            section = part.byte("a section id")
            body = part.sub(part.count("a section's size"), "a section")
            if is_component and section in PARTS_WITH_MODULES:
                pending.append(body)
            elif section == _CUSTOM and body.name("a custom section's name") == NAME_SECTION:
                yield body


def _sizes(body: Reader) -> Iterator[tuple[int, int]]:
    """Yield each named function with the size of its name in bytes, and (0, 0) for each other part."""
    while body.position < body.end:
        kind = body.byte("a part of the name section")
        part = body.sub(body.count("the size of a part"), "a part of the name section")
        if kind != _FUNCTION_NAMES:
            yield 0, 0
        else:
            for _ in range(part.count("the number of names")):
                function, size = part.count("a function's index"), part.count("the size of a name")
                part.skip(size, "a name")
                yield function, size
