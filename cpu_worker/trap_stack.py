"""The stack of a guest at a trap, as lines for its log.

Names and offsets come from the module, so the lines are the same on every host with this engine profile. A module
without a name section has the numbers of its functions.
"""

from __future__ import annotations

import ctypes
import re
from typing import Final

from wasmtime import Frame, Trap, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime._trap import FrameList

NAME_CHARS_MAX: Final = 120
_OFFSET_UNKNOWN: Final = ctypes.c_size_t(-1).value
_UNPRINTABLE: Final = re.compile("[\0-\x1f\x7f-\x9f]")


def stack_of(ended: Trap | WasmtimeError) -> tuple[str, ...]:
    """Return the stack of a guest that trapped, or that a host function stopped, which the engine calls an error.

    One line for each of the innermost frames (the engine keeps 20), the innermost first.
    """
    lines: list[str] = []
    for frame in ended.frames if isinstance(ended, Trap) else _frames_of_error(ended):
        name = _UNPRINTABLE.sub("?", frame.func_name or f"function {frame.func_index}")[:NAME_CHARS_MAX]
        offset = frame.module_offset
        lines.append(f"  at {name}" if offset == _OFFSET_UNKNOWN else f"  at {name} (module+0x{offset:x})")
    return tuple(lines)


def _frames_of_error(error: WasmtimeError) -> list[Frame]:
    """Return what `Trap.frames` gives of a trap; the library leaves it out for errors."""
    frames = FrameList(error)
    ffi.wasmtime_error_wasm_trace(error.ptr(), ctypes.byref(frames.vec))
    return [Frame._from_ptr(frames.vec.data[index], frames) for index in range(frames.vec.size)]


def error_at(address: int) -> WasmtimeError:
    """Return the error at an address of the C API; from now on the object frees it."""
    return WasmtimeError._from_ptr(ctypes.cast(address, ctypes.POINTER(ffi.wasmtime_error_t)))


def trap_at(address: ctypes.c_void_p) -> Trap:
    """Return the trap at an address of the C API; from now on the trap frees it."""
    return Trap._from_ptr(ctypes.cast(address, ctypes.POINTER(ffi.wasm_trap_t)))
