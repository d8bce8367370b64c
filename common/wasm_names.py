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
