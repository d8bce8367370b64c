"""What the two call paths share: the shape of a guest, how it fails, and the bounds of what it hands over.

`raw_call.RawGuest` and `public_call.PublicGuest` are the same thing over two layers of wasmtime: a store with one
fresh instance in it. They must agree in outcome, fuel and bytes; tests/cpu_worker/test_call_paths.py runs both on the
same modules. Change one, change the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from wasmtime import InstancePre, Module

from rota.common.limits import OUTPUT_BYTES_MAX

_PIECE_BYTES: Final = 1 << 20

INITIALIZE: Final = "_initialize"
MEMORY: Final = "memory"


@dataclass(frozen=True, slots=True)
class PreparedCode:
    """A module that is compiled, checked and linked; instances are made from it."""

    module: Module
    linked: InstancePre
    alloc: str
    call: str
    has_initialize: bool
    memory_bytes_min: int
    native_bytes: int


class GuestFault(Exception):
    """The guest failed in a way that the inputs force: the task's outcome."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message


class GuestStopped(Exception):
    """The guest was stopped from outside: by the epoch (`interrupted`), or by a fault of this host (`faulted`)."""

    def __init__(self, why: Literal["interrupted", "faulted"], reason: str) -> None:
        super().__init__(why, reason)
        self.why: Literal["interrupted", "faulted"] = why
        self.reason = reason


class Guest(Protocol):
    """One instance in a store of its own."""

    def call(self, data: bytes, *, fuel: int) -> bytes:
        """Hand `data` to the guest, run its entry point and return a copy of what it answers.

        Raises `GuestFault` or `GuestStopped`; close the guest then, its memory is in an unknown state.
        """
        ...

    def fuel_left(self) -> int: ...

    def size(self) -> int:
        """Return the bytes of memory that there were before the first call."""
        ...

    def has_grown(self) -> bool:
        """Say whether the last call left more memory than there was before the first one."""
        ...

    def charge(self, fuel: int) -> None:
        """Take fuel from the running guest, down to zero; the guest stops at its next check."""
        ...

    def write(self, pointer: int, data: memoryview) -> bool:
        """Copy `data` into guest memory; returns False, and writes nothing, if it would not fit."""
        ...

    def close(self) -> None: ...


def pieces(data: memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield data as offsets and copies, a little at a time: a tensor may be as large as a guest's memory."""
    for offset in range(0, len(data), _PIECE_BYTES):
        yield offset, bytes(data[offset : offset + _PIECE_BYTES])


def fault_of_trap(code: str, where: str) -> GuestFault | GuestStopped:
    """Turn the name of a trap into what it means for the task (execution model, parts 4 and 5).

    How deep a stack goes depends on the compiler, so running out of it is a fault of the host, never a result.
    """
    if code == "out_of_fuel":
        return GuestFault("fuel", f"out of fuel in {where}")
    if code == "interrupt":
        return GuestStopped("interrupted", "")
    if code == "stack_overflow":
        return GuestStopped(
            "faulted", f"stack overflow in {where}: recursion deeper than the sandbox's stack; use less of it"
        )
    return GuestFault("trap", f"{code} in {where}")


def check_fits(prepared: PreparedCode, memory_bytes: int) -> None:
    """Raise the outcome of a module whose memory is larger than the task's limit from the start."""
    if prepared.memory_bytes_min > memory_bytes:
        raise GuestFault(
            "memory",
            f"the module starts with {prepared.memory_bytes_min} bytes of memory, over memory_bytes = {memory_bytes}",
        )


def check_allocated(name: str, pointer: int, size: int, memory_bytes: int) -> None:
    """Raise the outcome of an `alloc` that had no room, or that points outside the memory."""
    if pointer == 0 and size:
        raise GuestFault("memory", f"{name} returned 0 for {size} bytes")
    if pointer + size > memory_bytes:
        raise GuestFault("bad_output", f"{name}: pointer + length is outside the memory of {memory_bytes} bytes")


def check_answer(name: str, pointer: int, size: int, memory_bytes: int) -> None:
    """Raise the outcome of an answer that is not inside the memory, or too large to travel."""
    if pointer + size > memory_bytes:
        raise GuestFault("bad_output", f"{name}: pointer + length is outside the memory of {memory_bytes} bytes")
    if size > OUTPUT_BYTES_MAX:
        raise GuestFault("bad_output", f"{name}: {size} bytes returned, at most {OUTPUT_BYTES_MAX}")
