"""The stack of a guest at a trap, as lines for its log.

Names and offsets come from the module, so the lines are the same on every host with this engine profile. A module
without a name section has the numbers of its functions.
"""

from __future__ import annotations

import ctypes
import re
from typing import Final

from wasmtime import Trap
from wasmtime import _ffi as ffi

NAME_CHARS_MAX: Final = 120
_OFFSET_UNKNOWN: Final = ctypes.c_size_t(-1).value
_UNPRINTABLE: Final = re.compile("[\0-\x1f\x7f-\x9f]")


def stack_of(trap: Trap) -> tuple[str, ...]:
    """Return one line for each of the innermost frames (the engine keeps 20), the innermost first."""
    lines: list[str] = []
    for frame in trap.frames:
        name = _UNPRINTABLE.sub("?", frame.func_name or f"function {frame.func_index}")[:NAME_CHARS_MAX]
        offset = frame.module_offset
        lines.append(f"  at {name}" if offset == _OFFSET_UNKNOWN else f"  at {name} (module+0x{offset:x})")
    return tuple(lines)


def trap_at(address: ctypes.c_void_p) -> Trap:
    """Return the trap at an address of the C API; from now on the trap frees it."""
    return Trap._from_ptr(ctypes.cast(address, ctypes.POINTER(ffi.wasm_trap_t)))
