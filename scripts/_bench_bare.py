"""The bound of agents: what wasmtime alone needs for a task's calls into a module, in a loop without anything of ours.

Two loops do the same: give fuel, call `rota_alloc`, copy the input in, call `rota_step`, copy the answer out. One is
written as a user of wasmtime's Python package would; the other calls the C API through prototypes made once, with every
pointer prepared, which is the least that Python can do. Neither encodes, decodes, checks or limits anything.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from ctypes import addressof, byref, c_uint64, c_void_p
from typing import Any, Final

import wasmtime
from wasmtime import _ffi as ffi

from rota.cpu_worker import raw_api as api
from rota.cpu_worker.guest_memory import guest_memories
from rota.cpu_worker.profile import new_engine

FUEL: Final = 1_000_000_000
EXPORTS: Final = ("memory", "rota_alloc", "rota_step")


class BareModule:
    """One compiled module and one input, called in a loop. `reuse`: one instance for all calls, or one for each."""

    def __init__(self, wasm: bytes, data: bytes) -> None:
        self._memories = guest_memories()
        self._engine = new_engine(self._memories.configure)
        linker = wasmtime.Linker(self._engine)
        module = wasmtime.Module(self._engine, wasm)
        linker.define_unknown_imports_as_traps(module)
        self._linked = linker.instantiate_pre(module)
        self._data = data

    def package_us(self, calls: int, reuse: bool) -> float:
        """Return the time of a call, in microseconds, through wasmtime's Python package."""

        def opened() -> Callable[[], bytes]:
            store = wasmtime.Store(self._engine)
            store.set_epoch_deadline(1)
            store.set_fuel(FUEL)
            exports = self._linked.instantiate(store).exports(store)
            memory, alloc, step = (exports[name] for name in EXPORTS)
            return lambda: _call_package(store, memory, alloc, step, self._data)

        return _timed(opened, calls, reuse)

    def c_api_us(self, calls: int, reuse: bool) -> float:
        """Return the same through the C API."""
        return _timed(lambda: _Instance(self._engine, self._linked, self._data), calls, reuse)


def _call_package(store: wasmtime.Store, memory: Any, alloc: Any, step: Any, data: bytes) -> bytes:
    store.set_fuel(FUEL)
    pointer = alloc(store, len(data))
    memory.write(store, data, pointer)
    packed = step(store, pointer, len(data)) & 0xFFFFFFFFFFFFFFFF
    start = packed >> 32
    return bytes(memory.read(store, start, start + (packed & 0xFFFFFFFF)))


def _timed(opened: Callable[[], Callable[[], bytes]], calls: int, reuse: bool) -> float:
    started = time.perf_counter()
    if reuse:
        call = opened()
        for _ in range(calls):
            call()
    else:
        for _ in range(calls):
            opened()()
    return (time.perf_counter() - started) / calls * 1e6


class _Instance:
    """A store with one instance; a call runs the module once. Closed when it is dropped."""

    def __init__(self, engine: wasmtime.Engine, linked: wasmtime.InstancePre, data: bytes) -> None:
        self._data = data
        self._words = (c_uint64 * (2 * api.WORDS_PER_VALUE))()
        self._trap = c_void_p()
        self._reference = byref(self._trap)
        self._store = api.store_new(engine.ptr(), None, None)
        self._context = api.store_context(self._store)
        api.set_fuel(self._context, FUEL)
        api.set_epoch_deadline(self._context, 1)
        instance = ffi.wasmtime_instance_t()
        error = api.instantiate(linked.ptr(), self._context, addressof(instance), self._reference)
        assert not error, "the module starts"
        self._externs = (ffi.wasmtime_extern_t * len(EXPORTS))()
        for place, name in enumerate(EXPORTS):
            at = addressof(self._externs) + place * api.EXTERN_BYTES
            api.export_get(self._context, addressof(instance), name.encode(), len(name), at)
        self._memory, self._alloc, self._step = (
            addressof(self._externs) + place * api.EXTERN_BYTES + api.EXTERN_VALUE_OFFSET
            for place in range(len(EXPORTS))
        )

    def __call__(self) -> bytes:
        words, size = self._words, len(self._data)
        api.set_fuel(self._context, FUEL)
        words[0] = size
        api.func_call(self._context, self._alloc, words, 1, self._reference)
        pointer = words[0]
        base = api.memory_data(self._context, self._memory)
        ctypes.memmove(base + pointer, self._data, size)
        words[0], words[api.WORDS_PER_VALUE] = pointer, size
        error = api.func_call(self._context, self._step, words, 2, self._reference)
        assert not error, "the module answers"
        base = api.memory_data(self._context, self._memory)
        return ctypes.string_at(base + (words[0] >> 32), words[0] & 0xFFFFFFFF)

    def __del__(self) -> None:
        api.store_delete(self._store)
