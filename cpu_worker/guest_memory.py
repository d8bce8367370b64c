"""Where guests' memory comes from, and how a worker notices that the host refused some.

`memory.grow` returns -1 to a guest in two cases: past its limit, which follows from its inputs, and when the host has
no more, which no result may show. wasmtime does not tell them apart, and the guest may hide the -1. So there are two
sources: `PooledMemories`, the fast one, for hosts that cannot refuse a growth, and `WatchedMemories` for all others:
there wasmtime calls us for each allocation, so every refusal is seen. docs/decisions/0013 lists the alternatives.
"""

from __future__ import annotations

import ctypes
from ctypes import c_void_p
from typing import Any, Final, Protocol

import wasmtime
from wasmtime import _ffi as ffi

from rota.common.limits import LIVE_CALLS_DEFAULT
from rota.cpu_worker.host_limits import (
    MEMORY_BYTES,
    PROT_NONE,
    SLOT_BYTES,
    data_is_limited,
    map_memory,
    open_memory,
    pooled_calls,
    unmap_memory,
    why_growth_can_fail,
)
from rota.cpu_worker.profile import pool_settings

_Finalizer: Final = ctypes.CFUNCTYPE(None, c_void_p)


class GuestMemories(Protocol):
    """A source of guests' memory for one engine, living as long as the engine."""

    maps_images: bool
    """Whether the engine maps the image of a module's data or copies it. Compiled code is for one of the two."""

    live_calls: int
    """For how many kept calls there are slots."""

    def configure(self, config: wasmtime.Config) -> None:
        """Make engines with this config use this source."""
        ...

    def configure_component(self, config: wasmtime.Config) -> None:
        """Make engines for components with this config use this source, or one that is as safe on this host."""
        ...

    refusal: str
    """Why memory was, or unseen may have been, refused by the host since `begin`; "" if none. Read after each call."""

    def begin(self) -> None:
        """Clear `refusal`, and check that this source is still right for the host."""
        ...


def guest_memories(live_calls: int = LIVE_CALLS_DEFAULT) -> PooledMemories | WatchedMemories:
    """Return the source that is right for this host. A pool has slots for fewer kept calls than `live_calls` where
    address space is limited.
    """
    pooled = None if why_growth_can_fail() else pooled_calls(live_calls)
    return WatchedMemories(live_calls) if pooled is None else PooledMemories(pooled)


class PooledMemories:
    """A pool of reused slots: with fewer page faults, a fresh instance takes a third of the time.

    wasmtime wipes each slot before it is used again. The Python package does not expose this; the C API is
    `wasmtime_pooling_allocation_config_t`, https://docs.wasmtime.dev/c-api/.
    """

    maps_images = True

    def __init__(self, live_calls: int) -> None:
        self.live_calls = live_calls
        self.refusal = ""

    def configure(self, config: wasmtime.Config) -> None:
        pool = ffi.wasmtime_pooling_allocation_config_new()
        for name, value in pool_settings(self.live_calls):
            getattr(ffi, f"wasmtime_pooling_allocation_config_{name}_set")(pool, value)
        ffi.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
        ffi.wasmtime_pooling_allocation_config_delete(pool)

    def configure_component(self, config: wasmtime.Config) -> None:
        """Leave the engine's own source, which reserves memory on demand: a component has several instances, whose
        number and size a pool would have to bound for all of its slots. This host cannot refuse a growth there either.
        """

    def begin(self) -> None:
        if data_is_limited():
            self.refusal = "a limit of data (prlimit --data) was set while this worker ran: start it again"


class WatchedMemories:
    """Memory that we map ourselves, so that we see each refusal. Images are copied: wasmtime maps only into its own.

    wasmtime calls back with an address and sizes in bytes. A callback must not raise: wasmtime would take that for
    success. wasmtime takes ownership of a returned error.
    """

    maps_images = False

    def __init__(self, live_calls: int = 0) -> None:
        self.live_calls = live_calls  # each maps its slot when it is made
        why = why_growth_can_fail() or "it has no more"
        # Made in advance: when memory is short, making a text may fail.
        self._text = f"the host refused memory within the limits of the task: {why}"
        self._encoded = self._text.encode() + b"\0"
        self.refusal = ""
        self._sizes: dict[int, int] = {}
        self._new = ffi.wasmtime_new_memory_callback_t(self._on_new)
        self._get = ffi.wasmtime_memory_get_callback_t(self._on_get)
        self._grow = ffi.wasmtime_memory_grow_callback_t(self._on_grow)
        self._free = _Finalizer(self._on_free)
        self._creator = ffi.wasmtime_memory_creator(None, self._new, _Finalizer())

    def configure(self, config: wasmtime.Config) -> None:
        config.memory_init_cow = False
        ffi.wasmtime_config_host_memory_creator_set(config.ptr(), ctypes.byref(self._creator))

    configure_component = configure

    def begin(self) -> None:
        self.refusal = ""

    def _on_new(
        self, _env: object, _type: object, minimum: int, _maximum: int, reserved: int, guard: int, memory: Any
    ) -> int:
        assert reserved == MEMORY_BYTES, "capacity"
        assert reserved + guard <= SLOT_BYTES, "a slot covers everything that compiled code may reach"
        try:
            base = map_memory(SLOT_BYTES, PROT_NONE)
        except OSError:
            return self._refuse()
        if not open_memory(base, minimum):
            unmap_memory(base, SLOT_BYTES)
            return self._refuse()
        self._sizes[base] = minimum
        made = memory.contents
        made.env, made.get_memory, made.grow_memory, made.finalizer = base, self._get, self._grow, self._free
        return 0

    def _on_get(self, base: int, size: Any, capacity: Any) -> int:
        size[0], capacity[0] = self._sizes[base], MEMORY_BYTES
        return base

    def _on_grow(self, base: int, size: int) -> int:
        held = self._sizes[base]
        if not open_memory(base + held, size - held):
            return self._refuse()
        self._sizes[base] = size
        return 0

    def _on_free(self, base: int) -> None:
        del self._sizes[base]
        unmap_memory(base, SLOT_BYTES)

    def _refuse(self) -> int:
        self.refusal = self._text
        return ctypes.cast(ffi.wasmtime_error_new(self._encoded), c_void_p).value or 0
