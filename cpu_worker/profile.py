"""The engine profile: every setting that could change a result, a fuel count or compiled code.

The whole profile is part of the fingerprint of a run and of the name of every compiled artefact, because wasmtime
itself accepts artefacts compiled under some other settings (NaN canonicalization, stack size). A changed value here, or
another wasmtime version in pyproject.toml, is a new fingerprint: say so in CHANGELOG.md.

Components have an engine of their own, with COMPONENT_SETTINGS on top: `wasm_multi_memory` off makes wasmtime's
component compiler panic and abort the process. A `max_wasm_stack` above the size
of stacks for asynchronous calls, 2 MiB by default, aborts as well; so `new_engine` raises that first, although nothing
here is asynchronous.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import wasmtime
from wasmtime import _ffi as ffi

from rota.common.digests import digest, digest_of
from rota.common.limits import WASM_TABLE_ELEMENTS_MAX, WASM_TABLES_MAX
from rota.cpu_worker.host_limits import MEMORY_BYTES, OTHER_SLOTS, WARM_SLOTS

# `platform` and `importlib.metadata` are imported where they are called: the processes that make images, each for one
# image, need neither, and together they take as long as loading a source does.

ABI_VERSION: Final = 2

ENGINE_SETTINGS: Final[tuple[tuple[str, bool | int | str], ...]] = (
    # What is metered, and how a runaway guest is stopped.
    ("consume_fuel", True),
    ("epoch_interruption", True),
    ("max_wasm_stack", 6 << 20),  # so deep that an interpreter's own bound of recursion comes first
    # Needed for the same bits on every machine.
    ("cranelift_nan_canonicalization", True),
    ("wasm_relaxed_simd", True),
    ("wasm_relaxed_simd_deterministic", True),
    ("wasm_simd", True),
    # Settled proposals that compilers emit.
    ("wasm_bulk_memory", True),
    ("wasm_multi_value", True),
    ("wasm_reference_types", True),
    ("wasm_tail_call", True),
    # Off: useless in an agent, not deterministic, or not settled.
    ("wasm_threads", False),
    ("shared_memory", False),
    ("wasm_memory64", False),
    ("wasm_multi_memory", False),
    ("wasm_gc", False),
    ("gc_support", False),
    ("wasm_exceptions", False),
    ("wasm_function_references", False),
    ("wasm_stack_switching", False),
    ("wasm_wide_arithmetic", False),
    ("wasm_custom_page_sizes", False),
    ("wasm_component_model", False),
    # Code generation. With parallel compilation a later fork of the process would deadlock.
    ("strategy", "cranelift"),
    ("cranelift_opt_level", "speed"),
    ("parallel_compilation", False),
    ("memory_init_cow", True),  # guest_memory.py turns it off where needed; guests cannot see it
    ("debug_info", False),
)

COMPONENT_SETTINGS: Final[tuple[tuple[str, bool], ...]] = (
    ("wasm_multi_memory", True),
    ("wasm_component_model", True),
    # Off: `handle` is called and returns, and nothing else happens at the same time.
    ("wasm_component_model_async", False),
    ("wasm_component_model_async_stackful", False),
    ("wasm_component_model_more_async_builtins", False),
    ("wasm_component_model_map", False),
    ("wasm_component_model_accessors", False),
    ("wasm_component_model_implements", False),
)
# Of one component. Those of Python have about 40 instances, and those of JavaScript three memories, of which two are
# small. Each memory may have `memory_bytes`.
COMPONENT_INSTANCES_MAX: Final = 256
COMPONENT_MEMORIES_MAX: Final = 4
COMPONENT_TABLES_MAX: Final = 16
_COMPONENT_BOUNDS: Final = (COMPONENT_INSTANCES_MAX, COMPONENT_MEMORIES_MAX, COMPONENT_TABLES_MAX)

INITIALIZE_FUEL: Final = 1_000_000_000  # for the start function and `_initialize` together; not of the task's fuel
IMAGE_FUEL: Final = 10_000_000_000  # for making an image, the base and a source's each: seconds
IMAGE_MEMORY_BYTES: Final = 256 << 20  # of an instance while its image is made
THREAD_STACK_BYTES: Final = 16 << 20  # a thread with less than `max_wasm_stack` to spare crashes on deep recursion

INSTANCES_PER_GUEST_MAX: Final = 2  # a source has its memory and its interpreter in one each


def pool_settings(live_calls: int) -> tuple[tuple[str, int], ...]:
    """Return how instances get memory, with slots for so many calls that are kept. Guests cannot see it, so it is not
    part of the fingerprint. Nothing of this takes memory before it is used, only address space.
    """
    slots = OTHER_SLOTS + live_calls
    return (
        ("total_core_instances", INSTANCES_PER_GUEST_MAX * slots),
        ("total_memories", slots),
        ("total_tables", slots * WASM_TABLES_MAX),
        ("max_tables_per_module", WASM_TABLES_MAX),
        ("max_core_instance_size", 16 << 20),
        ("max_memory_size", MEMORY_BYTES),
        ("table_elements", WASM_TABLE_ELEMENTS_MAX),
        ("max_unused_warm_slots", min(slots, WARM_SLOTS)),
        ("linear_memory_keep_resident", 256 << 10),  # wiped by writing zeros; the rest is returned to the system
        ("table_keep_resident", 64 << 10),
        ("total_component_instances", 0),
        ("total_gc_heaps", 0),
        ("total_stacks", 0),
    )


_EMPTY_MODULE: Final = b"\0asm\x01\0\0\0"


_BOUNDS: Final = (INITIALIZE_FUEL, IMAGE_FUEL, IMAGE_MEMORY_BYTES, WASM_TABLE_ELEMENTS_MAX, WASM_TABLES_MAX)


def new_engine(configure: Callable[[wasmtime.Config], None] | None = None) -> wasmtime.Engine:
    """Return an engine of this profile; `configure` sets the source of memory (guest_memory.py)."""
    config = wasmtime.Config()
    ffi.wasmtime_config_async_stack_size_set(config.ptr(), THREAD_STACK_BYTES)
    for name, value in ENGINE_SETTINGS:
        setattr(config, name, value)
    if configure is not None:
        configure(config)
    return wasmtime.Engine(config)


def new_component_engine(configure: Callable[[wasmtime.Config], None] | None = None) -> wasmtime.Engine:
    """Return an engine for components, of the profile with COMPONENT_SETTINGS."""

    def configure_component(config: wasmtime.Config) -> None:
        for name, value in COMPONENT_SETTINGS:
            getattr(ffi, f"wasmtime_config_{name}_set")(config.ptr(), value)
        if configure is not None:
            configure(config)

    return new_engine(configure_component)


def use_large_thread_stacks() -> None:
    """Give every thread started from now on a stack for the deepest guest; call it before the first one."""
    threading.stack_size(THREAD_STACK_BYTES)


def profile() -> Mapping[str, Any]:
    """Return the part of the fingerprint that is the same on every machine."""
    return {
        "abi": ABI_VERSION,
        "wasmtime": _version("wasmtime"),
        "engine": dict(ENGINE_SETTINGS),
        "component_engine": dict(COMPONENT_SETTINGS),
        "component_bounds": list(_COMPONENT_BOUNDS),
        "initialize_fuel": INITIALIZE_FUEL,
        "image_fuel": IMAGE_FUEL,
        "image_memory_bytes": IMAGE_MEMORY_BYTES,
        "table_elements": WASM_TABLE_ELEMENTS_MAX,
        "tables": WASM_TABLES_MAX,
    }


def fingerprint() -> Mapping[str, Any]:
    """Return the profile and the facts of this machine."""
    settings = digest_of([*ENGINE_SETTINGS, *COMPONENT_SETTINGS, *_BOUNDS, *_COMPONENT_BOUNDS]).hex()[:16]
    return {
        # Must be equal for all CPU workers of a broker, since derived results may not depend on the worker.
        "profile": f"abi {ABI_VERSION}, wasmtime {_version('wasmtime')}, settings {settings}",
        **profile(),
        # Decodes what agents return.
        "msgpack": _version("msgpack"),
        "machine": _machine(),
        "target": native_digest(new_engine()).hex(),  # of the plain engine: where memory comes from cannot be seen
    }


def native_digest(engine: wasmtime.Engine) -> bytes:
    """Return a digest of the machine code target: processor features, compiler flags, tunables.

    They are all in the header of a serialized module, so the digest of an empty module covers them.
    """
    return digest(bytes(wasmtime.Module(engine, _EMPTY_MODULE).serialize()))


def artefact_scope(engine: wasmtime.Engine) -> bytes:
    """Return the digest of everything, except the module, that decides whether compiled code can be used here."""
    settings = [[name, value] for name, value in (*ENGINE_SETTINGS, *COMPONENT_SETTINGS)]
    return digest_of([_version("wasmtime"), settings, _machine(), native_digest(engine)])


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _machine() -> str:
    import platform

    return platform.machine()
