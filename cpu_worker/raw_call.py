"""The fast call path: wasmtime's C API through our own ctypes prototypes.

The library's `Func.__call__` looks up the type, boxes each value and builds context managers: 25-40 us per call. Here
every pointer is prepared once and arguments go in one array, which takes 1-2 us. Calls of the C API are only in this
file; public_call.py does the same on the public API, and tests compare the two.

Rules. Short calls that cannot block keep the interpreter lock (PyDLL), since each release may switch to another thread.
Calls that run guest code or map memory release it (CDLL), or a runaway guest would block the watchdog. Every returned
error or trap pointer is freed here. Signatures have integers only, so no float or NaN passes through Python. The C API:
https://docs.wasmtime.dev/c-api/. When wasmtime is updated, compare `wasmtime/func.h`, `store.h` and `val.h`.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, addressof, byref, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint64, c_void_p
from functools import lru_cache
from typing import Any, Final

from wasmtime import Engine, TrapCode
from wasmtime import _ffi as ffi
from wasmtime._func import maybe_raise_last_exn

from rota.common.limits import WASM_TABLE_ELEMENTS_MAX, WASM_TABLES_MAX
from rota.cpu_worker.guest import (
    INITIALIZE,
    MEMORY,
    GuestStopped,
    PreparedCode,
    check_allocated,
    check_answer,
    check_fits,
    fault_of_trap,
    pieces,
)
from rota.cpu_worker.profile import INITIALIZE_FUEL

assert sys.byteorder == "little", "arguments are written as 64-bit words, which is only right on little-endian hosts"
assert ctypes.sizeof(ffi.wasmtime_val_raw_t) == 16, "a raw value must be two 64-bit words"

_WORDS_PER_VALUE: Final = 2
_EXTERN_BYTES: Final = ctypes.sizeof(ffi.wasmtime_extern_t)
_EXTERN_VALUE_OFFSET: Final[int] = ffi.wasmtime_extern_t.of.offset
_Externs: Final = ffi.wasmtime_extern_t * 3  # memory, alloc, call
_Words: Final = c_uint64 * (2 * _WORDS_PER_VALUE)
_TRAP_NAMES: Final = {code.value: code.name.lower() for code in TrapCode}

# Our own handles on the library that the package has loaded: changing the prototypes of its handles would break it.
_releasing = ctypes.CDLL(ffi.dll._name)
_holding = ctypes.PyDLL(ffi.dll._name)


def _prototype(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function


_store_new = _prototype(_releasing, "wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
_store_delete = _prototype(_releasing, "wasmtime_store_delete", None, c_void_p)
_instantiate = _prototype(
    _releasing, "wasmtime_instance_pre_instantiate", c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_void_p)
)
_func_call = _prototype(
    _releasing, "wasmtime_func_call_unchecked", c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, POINTER(c_void_p)
)
_store_context = _prototype(_holding, "wasmtime_store_context", c_void_p, c_void_p)
_store_limiter = _prototype(_holding, "wasmtime_store_limiter", None, c_void_p, *(c_int64,) * 5)
_set_fuel = _prototype(_holding, "wasmtime_context_set_fuel", c_void_p, c_void_p, c_uint64)
_get_fuel = _prototype(_holding, "wasmtime_context_get_fuel", c_void_p, c_void_p, POINTER(c_uint64))
_set_epoch_deadline = _prototype(_holding, "wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64)
_export_get = _prototype(
    _holding, "wasmtime_instance_export_get", c_bool, c_void_p, c_void_p, c_char_p, c_size_t, c_void_p
)
_memory_data = _prototype(_holding, "wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
_memory_data_size = _prototype(_holding, "wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)
_trap_code = _prototype(_holding, "wasmtime_trap_code", c_bool, c_void_p, POINTER(c_int))
_trap_delete = _prototype(_holding, "wasm_trap_delete", None, c_void_p)
_error_message = _prototype(_holding, "wasmtime_error_message", None, c_void_p, c_void_p)
_error_delete = _prototype(_holding, "wasmtime_error_delete", None, c_void_p)


_encoded: Final = lru_cache(str.encode)  # export names: the same three for every instance


class RawGuest:
    """An instance with its own store, over the C API (see `guest.Guest`)."""

    def __init__(self, engine: Engine, prepared: PreparedCode, *, memory_bytes: int) -> None:
        """Instantiate the module and run `_initialize`; raises `GuestFault` or `GuestStopped` if that fails."""
        check_fits(prepared, memory_bytes)
        self._prepared = prepared
        self._trap = c_void_p()
        self._trap_reference = byref(self._trap)
        self._fuel = c_uint64()
        self._fuel_reference = byref(self._fuel)
        self._words = _Words()
        self._externs = _Externs()
        self._externs_address = addressof(self._externs)
        self._instance = ffi.wasmtime_instance_t()
        self._instance_address = addressof(self._instance)
        self._store: int | None = _store_new(engine.ptr(), None, None)
        try:
            self._open(memory_bytes)
        except BaseException:
            self.close()
            raise

    def _open(self, memory_bytes: int) -> None:
        prepared = self._prepared
        self._context = _store_context(self._store)
        _store_limiter(self._store, memory_bytes, WASM_TABLE_ELEMENTS_MAX, -1, WASM_TABLES_MAX, -1)
        self._give(INITIALIZE_FUEL)
        error = _instantiate(prepared.linked.ptr(), self._context, self._instance_address, self._trap_reference)
        if error or self._trap.value:
            self._raise(error, "instantiation")
        self._memory = self._export(0, MEMORY)
        self._size = self._base = 0  # an empty memory has no address
        self._refresh()
        if prepared.has_initialize:
            self._run(self._export(1, INITIALIZE), 0, INITIALIZE)
            self._refresh()
        self._size_at_start = self._size
        self._alloc = self._export(1, prepared.alloc)
        self._call = self._export(2, prepared.call)

    def call(self, data: bytes, *, fuel: int) -> bytes:
        prepared = self._prepared
        words = self._words
        size = len(data)
        self._give(fuel)
        words[0] = size
        self._run(self._alloc, 1, prepared.alloc)
        pointer = words[0] & 0xFFFFFFFF
        self._refresh()
        check_allocated(prepared.alloc, pointer, size, self._size)
        ctypes.memmove(self._base + pointer, data, size)
        words[0] = pointer
        words[_WORDS_PER_VALUE] = size
        self._run(self._call, 2, prepared.call)
        packed = words[0]
        pointer, size = packed >> 32, packed & 0xFFFFFFFF
        self._refresh()
        check_answer(prepared.call, pointer, size, self._size)
        return ctypes.string_at(self._base + pointer, size)

    def fuel_left(self) -> int:
        error = _get_fuel(self._context, self._fuel_reference)
        assert not error
        return self._fuel.value

    def size(self) -> int:
        return self._size_at_start

    def has_grown(self) -> bool:
        return self._size != self._size_at_start

    def charge(self, fuel: int) -> None:
        error = _set_fuel(self._context, max(0, self.fuel_left() - fuel))
        assert not error

    def write(self, pointer: int, data: memoryview) -> bool:
        self._refresh()
        if pointer + len(data) > self._size:
            return False
        for offset, piece in pieces(data):
            ctypes.memmove(self._base + pointer + offset, piece, len(piece))
        return True

    def close(self) -> None:
        if self._store is not None:
            _store_delete(self._store)
            self._store = None

    def _give(self, fuel: int) -> None:
        error = _set_fuel(self._context, fuel)
        assert not error
        _set_epoch_deadline(self._context, 1)

    def _run(self, function: int, values: int, where: str) -> None:
        error = _func_call(self._context, function, self._words, max(values, 1), self._trap_reference)
        if error or self._trap.value:
            self._raise(error, where)

    def _refresh(self) -> None:
        """Read address and size of the memory again: it may have grown, and moved by that."""
        size = _memory_data_size(self._context, self._memory)
        if size != self._size:
            self._size = size
            self._base = _memory_data(self._context, self._memory)

    def _export(self, place: int, name: str) -> int:
        """Return the address, in our array, of an export whose kind `prepare()` has checked."""
        address = self._externs_address + place * _EXTERN_BYTES
        encoded = _encoded(name)
        found = _export_get(self._context, self._instance_address, encoded, len(encoded), address)
        assert found, "prepare() has checked that it exists"
        return address + _EXTERN_VALUE_OFFSET

    def _raise(self, error: int | None, where: str) -> None:
        if error:
            message = ffi.wasm_byte_vec_t()
            _error_message(error, addressof(message))
            text = ffi.to_str(message)
            ffi.wasm_byte_vec_delete(byref(message))
            _error_delete(error)
            raise GuestStopped("faulted", f"{where}: {text}")
        code = c_int()
        known = _trap_code(self._trap, byref(code))
        _trap_delete(self._trap)
        self._trap.value = None
        if not known:
            # Only a host function that raises causes a trap without a code; the library keeps the exception.
            maybe_raise_last_exn()
            raise GuestStopped("faulted", f"{where}: a trap without a code")
        raise fault_of_trap(_TRAP_NAMES.get(code.value, f"trap {code.value}"), where)
