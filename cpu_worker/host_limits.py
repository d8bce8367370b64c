"""The memory limits of this host: address space, data, stack, and overcommit.

A guest must never see that its host is short of memory (docs/EXECUTION-MODEL.md, part 5). `why_growth_can_fail` says
whether it could; guest_memory.py handles that case; `check_guest_room` says whether a worker can run at all; `rota
doctor` shows both. When `memory.grow` makes memory writable, Linux counts it against RLIMIT_DATA, and against the
commit limit if `vm.overcommit_memory` is 2. RLIMIT_AS counts reservations, which a growth does not change.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from typing import Final

from rota.common.errors import ConfigError
from rota.common.limits import WASM_TABLE_ELEMENTS_MAX, WASM_TABLES_MAX
from rota.common.work import Limits

MEMORY_BYTES: Final = 4 << 30  # a 32-bit memory is reserved completely
SLOT_BYTES: Final = MEMORY_BYTES + (64 << 20)  # plus what compiled code may reach behind it without a bounds check

REUSED_INSTANCES_MAX: Final = 16  # kept by `reuse`
REUSED_BYTES_MAX: Final = 1 << 30  # of their memory together; a single one may have more
LIVE_BYTES_MAX: Final = 1 << 30  # what the calls that are kept take together; a single one may take more
LIVE_GUEST_BYTES: Final = 64 << 10  # of a kept guest beside its memory, tables and files: about what its store takes
OTHER_SLOTS: Final = REUSED_INSTANCES_MAX + 2  # besides those of calls: the running one and a spare
WARM_SLOTS: Final = OTHER_SLOTS + 64  # that keep pages while nobody uses them
_TABLES_BYTES: Final = WASM_TABLES_MAX * WASM_TABLE_ELEMENTS_MAX * 8  # of a slot
_BESIDE_POOL_BYTES: Final = 4 * SLOT_BYTES
WORKER_BYTES: Final = 128 << 20  # about what interpreter and libraries need; with less they end the process

STACK_BYTES_MIN: Final = 8 << 20  # `max_wasm_stack` plus Python's own frames
_THREAD_ATTRIBUTES_BYTES: Final = 256  # of C's pthread_attr_t: 56 on x86-64, 64 on aarch64

PROT_NONE: Final = 0
PROT_READ_WRITE: Final = 3
_MAP_PRIVATE_ANONYMOUS_NORESERVE: Final = 0x02 | 0x20 | 0x4000
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_OVERCOMMIT: Final = Path("/proc/sys/vm/overcommit_memory")
_NEVER: Final = "2"

IS_LINUX: Final = sys.platform == "linux"

if IS_LINUX:
    import resource

    _libc = ctypes.CDLL(None, use_errno=True)
    _mmap = _libc.mmap
    _mmap.restype = ctypes.c_void_p
    _mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    _munmap = _libc.munmap
    _munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    _mprotect = _libc.mprotect
    _mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def map_memory(size: int, protection: int) -> int:
    """Map `size` zeroed bytes and return their address. Raises `OSError` if the host refuses."""
    address = _mmap(None, size, protection, _MAP_PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), f"{size} bytes were refused")
    return int(address)


def open_memory(address: int, size: int) -> bool:
    """Make mapped memory readable and writable; return False if the host refuses."""
    return size == 0 or _mprotect(address, size, PROT_READ_WRITE) == 0


def unmap_memory(address: int, size: int) -> None:
    failed = _munmap(address, size)
    assert not failed, "a mapping can always be unmapped"


def raise_limits() -> None:
    """Raise this process's soft memory limits to its hard limits."""
    if IS_LINUX:
        for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            _, hard = resource.getrlimit(which)
            resource.setrlimit(which, (hard, hard))


def why_growth_can_fail() -> str:
    """Return why this host could refuse a guest's `memory.grow` within its limit; "" if it cannot."""
    if not IS_LINUX:
        return ""
    if data_is_limited():
        return f"this process may have {resource.getrlimit(resource.RLIMIT_DATA)[0]} bytes of data (ulimit -d)"
    try:
        overcommit = _OVERCOMMIT.read_text(encoding="ascii").strip()
    except OSError:
        overcommit = ""
    return "this host does not overcommit memory (vm.overcommit_memory is 2)" if overcommit == _NEVER else ""


def pooled_calls(live_calls: int) -> int | None:
    """Return for how many kept calls there is address space in a pool, at most `live_calls`: that many, or half of them
    and so on. None: there is none for the other slots either.
    """
    while not can_map(_pool_bytes(live_calls)):
        if not live_calls:
            return None
        live_calls //= 2
    return live_calls


def why_no_pool() -> str:
    """Return why slots for all instances but those of calls cannot be reserved; "" if they can."""
    if pooled_calls(0) is not None:
        return ""
    return f"this process may not reserve {_pool_bytes(0)} bytes of address space (ulimit -v)"


def why_fewer_calls(live_calls: int) -> str:
    """Return why a pool has slots for fewer kept calls than these; "" if it has them."""
    found = pooled_calls(live_calls)
    if found is None or found == live_calls:
        return ""
    return (
        f"this process may not reserve {_pool_bytes(live_calls)} bytes of address space (ulimit -v), so it keeps "
        f"{found} calls of flows in memory and not {live_calls}"
    )


def _pool_bytes(live_calls: int) -> int:
    """Return what a pool reserves, and what everything else in the process should have beside it."""
    return (OTHER_SLOTS + live_calls) * (SLOT_BYTES + _TABLES_BYTES) + _BESIDE_POOL_BYTES


def why_memory_is_short(size: int) -> str:
    """Return which limit of this process is below `size` bytes; "" if none is."""
    if IS_LINUX:
        for which, what, flag in (
            (resource.RLIMIT_AS, "address space", "-v"),
            (resource.RLIMIT_DATA, "data", "-d"),
        ):
            limit = resource.getrlimit(which)[1]
            if limit != resource.RLIM_INFINITY and limit < size:
                return f"this worker may have only {limit} bytes of {what} (ulimit {flag})"
    return ""


def data_is_limited() -> bool:
    """Return whether RLIMIT_DATA is set for this process. Cheap enough to call for every task."""
    return IS_LINUX and resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY


def can_map(size: int, protection: int = PROT_NONE) -> bool:
    """Return whether the host grants `size` bytes now."""
    if not IS_LINUX:
        return True
    try:
        unmap_memory(map_memory(size, protection), size)
    except OSError:
        return False
    return True


def check_stack() -> None:
    """Raise `ConfigError` if this thread's stack is too small for a guest's recursion, which would end the process."""
    size = _stack_bytes()
    if size is not None and size < STACK_BYTES_MIN:
        raise ConfigError(
            f"agents need a stack of {STACK_BYTES_MIN} bytes and this thread has {size}: raise the limit (ulimit -s "
            "8192), or threading.stack_size before the thread starts"
        )


def _stack_bytes() -> int | None:
    """Return the size of this thread's stack, None if it is unlimited or not known."""
    if not IS_LINUX:
        return None
    if threading.current_thread() is threading.main_thread():
        limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
        return None if limit == resource.RLIM_INFINITY else limit
    attributes = ctypes.create_string_buffer(_THREAD_ATTRIBUTES_BYTES)
    size = ctypes.c_size_t()
    if _libc.pthread_getattr_np(ctypes.c_void_p(threading.get_ident()), attributes):
        return None
    _libc.pthread_attr_getstacksize(attributes, ctypes.byref(size))
    _libc.pthread_attr_destroy(attributes)
    return size.value


def check_guest_room(worker_bytes: int = 0) -> None:
    """Raise `ConfigError` unless one guest with the usual limit has room beside `worker_bytes` not yet used."""
    if not can_map(SLOT_BYTES):
        raise ConfigError(
            f"a CPU worker needs {SLOT_BYTES} bytes of address space for one agent and gets less: "
            "raise the limit, ulimit -v unlimited"
        )
    needed = worker_bytes + Limits().memory_bytes
    if not can_map(needed, PROT_READ_WRITE):
        raise ConfigError(
            f"a CPU worker needs {needed} bytes for itself and an agent with the usual memory_bytes and gets less, "
            f"since {why_growth_can_fail() or 'the host has no more'}: raise the limit, ulimit -d unlimited"
        )
