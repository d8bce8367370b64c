"""The fast call path: agents and functions over wasmtime's C API.

The library's `Func.__call__` looks up the type, boxes each value and builds context managers: 25-40 us per call, where
raw_store.py takes 1-2 us. public_call.py does the same on the public API, and tests compare the two.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int32
from typing import Final

from wasmtime import Engine
from wasmtime import _ffi as ffi

from rota.cpu_worker import raw_api as api
from rota.cpu_worker.guest import (
    INITIALIZE,
    MEMORY,
    STATUS_UNCHANGED,
    PreparedCode,
    check_allocated,
    check_answer,
    check_exit,
    check_fits,
    check_status,
)
from rota.cpu_worker.host_calls import HostCalls
from rota.cpu_worker.raw_store import RawStore

_Externs: Final = ffi.wasmtime_extern_t * 5  # memory, alloc, call, output_ptr, output_len


class RawGuest(RawStore):
    """An instance with its own store, over the C API (see `guest.Guest`)."""

    def __init__(self, engine: Engine, prepared: PreparedCode, hosts: HostCalls, *, memory_bytes: int) -> None:
        """Instantiate the module and run `_initialize`; raises `GuestFault` or `GuestStopped` if that fails.

        `hosts` must serve the task by then.
        """
        check_fits(prepared, memory_bytes)
        self._prepared = prepared
        super().__init__(engine, hosts, hosts.cells.words, _Externs())
        self._start(memory_bytes)

    def _open(self) -> None:
        prepared = self._prepared
        instance = self._hosts.cells.instance_address
        error = api.instantiate(prepared.linked.ptr(), self._context, instance, self._trap_reference)
        if error or self._trap.value:
            self._raise(error, "instantiation")
        self._bind_memory(self._export(instance, 0, MEMORY))
        if prepared.has_initialize:
            self._run(self._export(instance, 1, INITIALIZE), 0, INITIALIZE)
            self._refresh()
        self._size_at_start = self._size
        if prepared.alloc:
            self._alloc = self._export(instance, 1, prepared.alloc)
        self._call = self._export(instance, 2, prepared.call)
        if prepared.output is not None:
            self._output = [self._export(instance, 3 + index, name) for index, name in enumerate(prepared.output)]

    def call(self, data: bytes, *, fuel: int) -> bytes:
        prepared = self._prepared
        words = self._words
        size = len(data)
        self._hosts.attach(self)
        self._give(fuel)
        if not prepared.alloc:
            self._run(self._call, 0, prepared.call)
            if prepared.gives_code:
                check_exit(prepared.call, words[0] & 0xFFFFFFFF)
            return b""
        words[0] = size
        self._run(self._alloc, 1, prepared.alloc)
        pointer = words[0] & 0xFFFFFFFF
        self._refresh()
        check_allocated(prepared.alloc, pointer, size, self._size)
        ctypes.memmove(self._base + pointer, data, size)
        words[0] = pointer
        words[api.WORDS_PER_VALUE] = size
        self._run(self._call, prepared.call_values, prepared.call)
        packed = words[0]
        status = STATUS_UNCHANGED
        if prepared.output is None:
            pointer, size = packed >> 32, packed & 0xFFFFFFFF
        else:
            status = c_int32(packed & 0xFFFFFFFF).value
            if status == STATUS_UNCHANGED:
                return data
            pointer, size = [
                self._word(function, name) for function, name in zip(self._output, prepared.output, strict=True)
            ]
        self._refresh()
        check_answer(prepared.call, pointer, size, self._size)
        answer = ctypes.string_at(self._base + pointer, size)
        if status != STATUS_UNCHANGED:
            check_status(prepared.call, status, answer)
        return answer

    def _word(self, function: int, name: str) -> int:
        """Return the u32 that a function without parameters gives."""
        self._run(function, 0, name)
        return int(self._words[0] & 0xFFFFFFFF)

    def size(self) -> int:
        return self._size_at_start

    def has_grown(self) -> bool:
        return self._size != self._size_at_start
