"""One store over wasmtime's C API: fuel, calls, memory, and what an error or a trap means.

`raw_call.RawGuest` and `image_guest.ImageGuest` are such stores with instances in them. Every pointer is prepared once
and arguments go in one array, so a call takes 1-2 us. Signatures have integers only, so no float or NaN passes through
Python. Every returned error or trap pointer is freed here.
"""

from __future__ import annotations

import ctypes
from ctypes import addressof, byref, c_uint64, c_void_p
from functools import lru_cache
from typing import Any, Final, NoReturn

from wasmtime import Engine
from wasmtime import _ffi as ffi
from wasmtime._func import maybe_raise_last_exn

from rota.common.limits import WASM_TABLE_ELEMENTS_MAX, WASM_TABLES_MAX
from rota.cpu_worker import raw_api as api
from rota.cpu_worker.guest import GuestStopped, fault_of_trap, pieces
from rota.cpu_worker.trap_stack import trap_at

encoded: Final = lru_cache(str.encode)  # names of exports: the same few for every instance


class RawStore:
    """A store with one memory, which `_bind_memory` names once it is there."""

    _memory: int  # the address of the memory's extern value

    def __init__(self, engine: Engine, words: Any, externs: Any) -> None:
        """Make the store. `words`: an array for arguments and results; `externs`: one for the exports that are used."""
        self._trap = c_void_p()
        self._trap_reference = byref(self._trap)
        self._fuel = c_uint64()
        self._fuel_reference = byref(self._fuel)
        self._words = words
        self._externs = externs
        self._externs_address = addressof(externs)
        self._size = self._base = 0  # an empty memory has no address
        self._store: int | None = api.store_new(engine.ptr(), None, None)
        self._context = api.store_context(self._store)

    def fuel_left(self) -> int:
        error = api.get_fuel(self._context, self._fuel_reference)
        assert not error
        return self._fuel.value

    def charge(self, fuel: int) -> None:
        error = api.set_fuel(self._context, max(0, self.fuel_left() - fuel))
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
            api.store_delete(self._store)
            self._store = None

    def _limit(self, memory_bytes: int) -> None:
        api.store_limiter(self._store, memory_bytes, WASM_TABLE_ELEMENTS_MAX, -1, WASM_TABLES_MAX, -1)

    def _give(self, fuel: int) -> None:
        error = api.set_fuel(self._context, fuel)
        assert not error
        api.set_epoch_deadline(self._context, 1)

    def _run(self, function: int, values: int, where: str) -> None:
        error = api.func_call(self._context, function, self._words, max(values, 1), self._trap_reference)
        if error or self._trap.value:
            self._raise(error, where)

    def _bind_memory(self, memory: int) -> None:
        self._memory = memory
        self._refresh()

    def _refresh(self) -> None:
        """Read address and size of the memory again: it may have grown, and moved by that."""
        size = api.memory_data_size(self._context, self._memory)
        if size != self._size:
            self._size = size
            self._base = api.memory_data(self._context, self._memory)

    def _export(self, instance_address: int, place: int, name: str) -> int:
        """Return the address, in our array, of an export that is known to exist and to be of the right kind."""
        address = self._externs_address + place * api.EXTERN_BYTES
        text = encoded(name)
        found = api.export_get(self._context, instance_address, text, len(text), address)
        assert found, "it was checked when the code was prepared"
        return address + api.EXTERN_VALUE_OFFSET

    def _raise(self, error: int | None, where: str) -> NoReturn:
        if error:
            message = ffi.wasm_byte_vec_t()
            api.error_message(error, addressof(message))
            text = ffi.to_str(message)
            ffi.wasm_byte_vec_delete(byref(message))
            api.error_delete(error)
            raise GuestStopped("faulted", f"{where}: {text}")
        trap = trap_at(self._trap)
        self._trap.value = None
        if trap.trap_code is None:
            # Only a host function that raises causes a trap without a code; the library keeps the exception.
            maybe_raise_last_exn()
            raise GuestStopped("faulted", f"{where}: a trap without a code")
        raise fault_of_trap(trap, where)
