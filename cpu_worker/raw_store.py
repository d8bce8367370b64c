"""One store over wasmtime's C API: fuel, calls, memory, and what an error or a trap means.

`raw_call.RawGuest` and `image_guest.ImageGuest` are such stores with instances in them. Every pointer is prepared once
and arguments go in one array, so a call takes 1-2 us. Signatures have integers only, so no float or NaN passes through
Python. Every returned error or trap pointer is freed here.
"""

from __future__ import annotations

from ctypes import addressof
from functools import lru_cache
from typing import Any, Final, NoReturn

from wasmtime import Engine

from rota.common.limits import WASM_TABLE_ELEMENTS_MAX, WASM_TABLES_MAX
from rota.cpu_worker import raw_api as api
from rota.cpu_worker.guest import GuestStopped, OutOfFuel, fault_of_trap
from rota.cpu_worker.host_calls import HostCalls
from rota.cpu_worker.profile import INITIALIZE_FUEL
from rota.cpu_worker.trap_stack import error_at, trap_at

encoded: Final = lru_cache(str.encode)  # names of exports: the same few for every instance


_MEMORY: Final = b"memory"  # MEMORY of guest.py


class RawStore:
    """A store with one memory, which `_bind_memory` names once it is there. A `host_calls.HostedGuest`."""

    _memory: int  # the address of the memory's extern value

    def __init__(self, engine: Engine, hosts: HostCalls, words: Any, externs: Any) -> None:
        """Make the store, for guests whose host functions are those of `hosts`.

        `words`: an array for arguments and results; `externs`: one for the exports that are used, the memory first.
        """
        self._hosts = hosts
        self.has_memory = False
        self._view: memoryview | None = None
        cells = hosts.cells
        self._trap = cells.trap
        self._trap_reference = cells.trap_reference
        self._fuel = cells.fuel
        self._fuel_reference = cells.fuel_reference
        self._words = words
        self._externs = externs
        self._externs_address = addressof(externs)
        self._size = self._base = 0  # an empty memory has no address
        self._store: int | None = api.store_new(engine.ptr(), None, None)
        self._context = api.store_context(self._store)
        # Not for each call: a stop ends every instance that is there, and tasks that it hits by mistake run again
        # (watchdog.py).
        self.renew()

    def _start(self, memory_bytes: int) -> None:
        """Make the instances of a subclass under a task's limit; close the store if that fails."""
        try:
            self._limit(memory_bytes)
            self._give(INITIALIZE_FUEL)
            self._hosts.attach(self)
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Make the instances. Raises `GuestFault` or `GuestStopped`."""
        raise NotImplementedError

    def renew(self) -> None:
        api.set_epoch_deadline(self._context, 1)

    def fuel_left(self) -> int:
        error = api.get_fuel(self._context, self._fuel_reference)
        assert not error
        return self._fuel.value

    def charge(self, fuel: int) -> None:
        left = self.fuel_left() - fuel
        error = api.set_fuel(self._context, max(0, left))
        assert not error
        if left <= 0:
            raise OutOfFuel

    def find_memory(self, caller: int) -> None:
        address = self._externs_address
        found = api.caller_export_get(caller, _MEMORY, len(_MEMORY), address)
        assert found, "it was checked when the code was prepared"
        self._bind_memory(address + api.EXTERN_VALUE_OFFSET)

    def memory_bytes(self) -> int:
        self._refresh()
        return self._size

    def memory_address(self) -> int:
        self._refresh()
        return self._base

    def read(self, pointer: int, size: int) -> bytes | None:
        end = pointer + size
        if end > self.memory_bytes():
            return None
        return bytes(self._window()[pointer:end]) if size else b""

    def write(self, pointer: int, data: bytes | memoryview) -> bool:
        end = pointer + len(data)
        if end > self.memory_bytes():
            return False
        if data:
            self._window()[pointer:end] = data
        return True

    def _window(self) -> memoryview:
        """Return the whole memory as a view, which is made when a host function first needs it."""
        view = self._view
        if view is None:
            view = self._view = api.view_of_memory(self._base, self._size, api.WRITABLE)
        return view

    def close(self) -> None:
        if self._store is not None:
            api.store_delete(self._store)
            self._store = None

    def _limit(self, memory_bytes: int) -> None:
        api.store_limiter(self._store, memory_bytes, WASM_TABLE_ELEMENTS_MAX, -1, WASM_TABLES_MAX, -1)

    def _give(self, fuel: int) -> None:
        error = api.set_fuel(self._context, fuel)
        assert not error

    def _run(self, function: int, values: int, where: str) -> None:
        error = api.func_call(self._context, function, self._words, values or 1, self._trap_reference)
        if error or self._trap.value:
            self._raise(error, where)

    def _bind_memory(self, memory: int) -> None:
        self._memory = memory
        self.has_memory = True
        self._refresh()

    def _refresh(self) -> None:
        """Read address and size of the memory again: it may have grown, and moved by that."""
        size = api.memory_data_size(self._context, self._memory)
        if size != self._size:
            self._size = size
            self._base = api.memory_data(self._context, self._memory)
            self._view = None

    def _export(self, instance_address: int, place: int, name: str) -> int:
        """Return the address, in our array, of an export that is known to exist and to be of the right kind."""
        address = self._externs_address + place * api.EXTERN_BYTES
        text = encoded(name)
        found = api.export_get(self._context, instance_address, text, len(text), address)
        assert found, "it was checked when the code was prepared"
        return address + api.EXTERN_VALUE_OFFSET

    def _raise(self, error: int | None, where: str) -> NoReturn:
        if error:
            failure = error_at(error)
            self._hosts.raise_kept(failure, where)
            raise GuestStopped("faulted", f"{where}: {failure}")
        trap = trap_at(self._trap)
        self._trap.value = None
        raise fault_of_trap(trap, where)
