"""The slow call path on wasmtime's public API, equivalent to raw_call.py.

Tests compare the raw path with it, and it is the fallback if an update of wasmtime breaks the raw path
(`WasmExecutor(raw_calls=False)`). Change one, change the other.
"""

from __future__ import annotations

from ctypes import addressof

from wasmtime import Engine, Func, Memory, Store, Trap, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime._extern import wrap_extern

from rota.common.limits import WASM_TABLE_ELEMENTS_MAX, WASM_TABLES_MAX
from rota.cpu_worker import raw_api as api
from rota.cpu_worker.guest import (
    INITIALIZE,
    MEMORY,
    STATUS_UNCHANGED,
    GuestFault,
    GuestStopped,
    OutOfFuel,
    PreparedCode,
    check_allocated,
    check_answer,
    check_exit,
    check_fits,
    check_status,
    fault_of_trap,
    pieces,
)
from rota.cpu_worker.host_calls import HostCalls
from rota.cpu_worker.profile import INITIALIZE_FUEL


class PublicGuest:
    """An instance with its own store, over the public API (see `guest.Guest`)."""

    def __init__(self, engine: Engine, prepared: PreparedCode, hosts: HostCalls, *, memory_bytes: int) -> None:
        """Instantiate the module and run `_initialize`; raises `GuestFault` or `GuestStopped` if that fails.

        `hosts` must serve the task by then.
        """
        check_fits(prepared, memory_bytes)
        self._prepared = prepared
        self._hosts = hosts
        self.has_memory = False
        self._store = Store(engine)
        try:
            self._open(memory_bytes)
        except BaseException:
            self.close()
            raise

    def _open(self, memory_bytes: int) -> None:
        self._store.set_limits(memory_size=memory_bytes, table_elements=WASM_TABLE_ELEMENTS_MAX, tables=WASM_TABLES_MAX)
        self._give(INITIALIZE_FUEL)
        self._hosts.attach(self)
        try:
            self._exports = self._prepared.linked.instantiate(self._store).exports(self._store)
        except (Trap, WasmtimeError) as error:
            raise self._meaning(error, "instantiation") from None
        memory = self._exports[MEMORY]
        assert isinstance(memory, Memory)
        self._memory = memory
        self.has_memory = True
        if self._prepared.has_initialize:
            self._run(INITIALIZE)
        self._size_at_start = memory.data_len(self._store)

    def call(self, data: bytes, *, fuel: int) -> bytes:
        prepared = self._prepared
        self._hosts.attach(self)
        self._give(fuel)
        if not prepared.alloc:
            check_exit(prepared.call, self._run(prepared.call) & 0xFFFFFFFF)
            return b""
        pointer = self._run(prepared.alloc, len(data)) & 0xFFFFFFFF
        check_allocated(prepared.alloc, pointer, len(data), self._memory.data_len(self._store))
        if data:
            self._memory.write(self._store, data, pointer)
        returned = self._run(prepared.call, *(pointer, len(data))[: prepared.call_values])
        if prepared.output is None:
            return self._answer((returned >> 32) & 0xFFFFFFFF, returned & 0xFFFFFFFF)
        if returned == STATUS_UNCHANGED:
            return data
        pointer, size = [self._run(name) & 0xFFFFFFFF for name in prepared.output]
        answer = self._answer(pointer, size)
        check_status(prepared.call, returned, answer)
        return answer

    def _answer(self, pointer: int, size: int) -> bytes:
        check_answer(self._prepared.call, pointer, size, self._memory.data_len(self._store))
        return bytes(self._memory.read(self._store, pointer, pointer + size))

    def renew(self) -> None:
        """Do nothing: each call sets its own deadline."""

    def fuel_left(self) -> int:
        return self._store.get_fuel()

    def size(self) -> int:
        return self._size_at_start

    def has_grown(self) -> bool:
        return self._memory.data_len(self._store) != self._size_at_start

    def find_memory(self, caller: int) -> None:
        found = ffi.wasmtime_extern_t()
        has = api.caller_export_get(caller, MEMORY.encode(), len(MEMORY), addressof(found))
        assert has, "it was checked when the code was prepared"
        memory = wrap_extern(found)
        assert isinstance(memory, Memory)
        self._memory = memory
        self.has_memory = True

    def charge(self, fuel: int) -> None:
        left = self.fuel_left() - fuel
        self._store.set_fuel(max(0, left))
        if left <= 0:
            raise OutOfFuel

    def memory_bytes(self) -> int:
        return self._memory.data_len(self._store)

    def memory_address(self) -> int:
        return addressof(self._memory.data_ptr(self._store).contents) if self.memory_bytes() else 0

    def read(self, pointer: int, size: int) -> bytes | None:
        if pointer + size > self._memory.data_len(self._store):
            return None
        return bytes(self._memory.read(self._store, pointer, pointer + size))

    def write(self, pointer: int, data: bytes | memoryview) -> bool:
        if pointer + len(data) > self._memory.data_len(self._store):
            return False
        for offset, piece in pieces(data):
            self._memory.write(self._store, piece, pointer + offset)
        return True

    def close(self) -> None:
        self._store.close()

    def _give(self, fuel: int) -> None:
        self._store.set_fuel(fuel)
        self._store.set_epoch_deadline(1)

    def _run(self, name: str, *values: int) -> int:
        function = self._exports[name]
        assert isinstance(function, Func)
        try:
            return function(self._store, *(_signed(value) for value in values)) or 0
        except (Trap, WasmtimeError) as error:
            raise self._meaning(error, name) from None

    def _meaning(self, error: Trap | WasmtimeError, where: str) -> GuestFault | GuestStopped:
        if isinstance(error, Trap):
            return fault_of_trap(error, where)
        self._hosts.raise_kept(error, where)
        return GuestStopped("faulted", f"{where}: {error}")


def _signed(value: int) -> int:
    """Return an address or a length as the signed i32 that the library expects."""
    return value - (1 << 32) if value >= 1 << 31 else value
