"""The calls of wasmtime's C API that guests need, through our own ctypes prototypes.

Short calls that cannot block keep the interpreter lock (PyDLL), since each release may switch to another thread. Calls
that run guest code or map memory release it (CDLL), or a runaway guest would block the watchdog. The C API:
https://docs.wasmtime.dev/c-api/. When wasmtime is updated, compare `wasmtime/func.h`, `store.h`, `linker.h`, `global.h`
and `val.h`.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import (
    CFUNCTYPE,
    POINTER,
    addressof,
    byref,
    c_bool,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_uint64,
    c_void_p,
)
from typing import Any, Final

from wasmtime import _ffi as ffi

assert sys.byteorder == "little", "arguments are written as 64-bit words, which is only right on little-endian hosts"
assert ctypes.sizeof(ffi.wasmtime_val_raw_t) == 16, "a raw value must be two 64-bit words"

WORDS_PER_VALUE: Final = 2
_SHARED_VALUES: Final = 2  # no entry point of a guest takes more; drivers call functions with more, and nest calls
EXTERN_BYTES: Final = ctypes.sizeof(ffi.wasmtime_extern_t)
EXTERN_VALUE_OFFSET: Final[int] = ffi.wasmtime_extern_t.of.offset

# Our own handles on the library that the package has loaded: changing the prototypes of its handles would break it.
_releasing = ctypes.CDLL(ffi.dll._name)
_holding = ctypes.PyDLL(ffi.dll._name)


def _prototype(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function


store_new = _prototype(_releasing, "wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
store_delete = _prototype(_releasing, "wasmtime_store_delete", None, c_void_p)
instantiate = _prototype(
    _releasing, "wasmtime_instance_pre_instantiate", c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_void_p)
)
func_call = _prototype(
    _releasing, "wasmtime_func_call_unchecked", c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, POINTER(c_void_p)
)
store_context = _prototype(_holding, "wasmtime_store_context", c_void_p, c_void_p)
store_limiter = _prototype(_holding, "wasmtime_store_limiter", None, c_void_p, *(c_int64,) * 5)
set_fuel = _prototype(_holding, "wasmtime_context_set_fuel", c_void_p, c_void_p, c_uint64)
get_fuel = _prototype(_holding, "wasmtime_context_get_fuel", c_void_p, c_void_p, POINTER(c_uint64))
set_epoch_deadline = _prototype(_holding, "wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64)
export_get = _prototype(
    _holding, "wasmtime_instance_export_get", c_bool, c_void_p, c_void_p, c_char_p, c_size_t, c_void_p
)
memory_data = _prototype(_holding, "wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
memory_data_size = _prototype(_holding, "wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)
caller_export_get = _prototype(_holding, "wasmtime_caller_export_get", c_bool, c_void_p, c_char_p, c_size_t, c_void_p)
HostCallback: Final = CFUNCTYPE(c_size_t, c_void_p, c_void_p, POINTER(c_uint64), c_size_t)
NO_FINALIZER: Final = CFUNCTYPE(None, c_void_p)()
linker_define_func = _prototype(
    _holding,
    "wasmtime_linker_define_func_unchecked",
    *(c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, HostCallback, c_void_p),
    type(NO_FINALIZER),
)
trap_new = _prototype(_holding, "wasmtime_trap_new", c_void_p, c_char_p, c_size_t)
error_delete = _prototype(_holding, "wasmtime_error_delete", None, c_void_p)
linker_define = _prototype(
    _holding,
    "wasmtime_linker_define",
    *(c_void_p, c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p),
)
linker_instantiate = _prototype(
    _releasing, "wasmtime_linker_instantiate", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_void_p)
)
memory_grow = _prototype(_releasing, "wasmtime_memory_grow", c_void_p, c_void_p, c_void_p, c_uint64, POINTER(c_uint64))
global_get = _prototype(_holding, "wasmtime_global_get", None, c_void_p, c_void_p, c_void_p)
global_set = _prototype(_holding, "wasmtime_global_set", c_void_p, c_void_p, c_void_p, c_void_p)
table_size = _prototype(_holding, "wasmtime_table_size", c_uint64, c_void_p, c_void_p)
table_get = _prototype(_holding, "wasmtime_table_get", c_bool, c_void_p, c_void_p, c_uint64, c_void_p)


class CallCells:
    """Where calls of the C API find arguments and put results. They are read at once, so all guests of a thread share
    them: making them takes as long as a call.
    """

    def __init__(self) -> None:
        self.words = (c_uint64 * (_SHARED_VALUES * WORDS_PER_VALUE))()
        self.trap = c_void_p()
        self.trap_reference = byref(self.trap)
        self.fuel = c_uint64()
        self.fuel_reference = byref(self.fuel)
        self.instance = ffi.wasmtime_instance_t()
        self.instance_address = addressof(self.instance)


view_of_memory = ctypes.pythonapi.PyMemoryView_FromMemory
view_of_memory.restype = ctypes.py_object
view_of_memory.argtypes = (c_void_p, c_size_t, c_int)
WRITABLE: Final = 0x200  # PyBUF_WRITE
