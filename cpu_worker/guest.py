"""What the two call paths share: the interface of a guest, its failures, and the bounds of its answers.

`raw_call.RawGuest` and `public_call.PublicGuest` implement the same over two layers of wasmtime: a store with one
instance. They must agree in outcome, fuel and bytes; tests/cpu_worker/test_call_paths.py runs both on the same
modules. Change one, change the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from wasmtime import InstancePre, Module, Trap, TrapCode, WasmtimeError

from rota.common.limits import MESSAGE_CHARS_MAX, OUTPUT_BYTES_MAX
from rota.cpu_worker.trap_stack import stack_of
from rota.wasi.program import NO_PROGRAM, Program

_PIECE_BYTES: Final = 1 << 20

INITIALIZE: Final = "_initialize"
MEMORY: Final = "memory"
PANIC: Final = "panic"  # the error code of a program that gave up: a Rust panic, an abort, a failed allocation


@dataclass(frozen=True, slots=True)
class PreparedCode:
    """A compiled, checked and linked module, from which instances are made."""

    module: Module
    linked: InstancePre
    alloc: str  # "": the guest takes no input by `call`, as a command, which reads it from its standard input
    call: str
    call_values: int  # parameters of `call`: address and length of the input, or none
    output: tuple[str, str] | None  # exports that give address and length of the answer; None: `call` returns both
    has_initialize: bool
    memory_bytes_min: int
    native_bytes: int
    program: Program = NO_PROGRAM
    gives_code: bool = False  # `call` of a command returns its exit code
    table_bytes_max: int = 0  # that the tables of a module can come to


# What `call` returns if the answer is in `output`.
STATUS_UNCHANGED: Final = 0  # the answer is the input
STATUS_ANSWER: Final = 1  # any other: the answer is the text of an error


class GuestFault(Exception):
    """The guest failed in a way that follows from the inputs; this is the task's outcome. `stack` ends its log."""

    def __init__(self, kind: str, message: str, stack: tuple[str, ...] = ()) -> None:
        super().__init__(kind, message, stack)
        self.kind = kind
        self.message = message
        self.stack = stack


class GuestStopped(Exception):
    """The guest was stopped from outside: by the epoch (`interrupted`), or by a fault of this host (`faulted`)."""

    def __init__(self, why: Literal["interrupted", "faulted"], reason: str) -> None:
        super().__init__(why, reason)
        self.why: Literal["interrupted", "faulted"] = why
        self.reason = reason


class GuestExit(Exception):
    """The guest ended itself with an exit code: for a command this is its end, for others a trap."""

    def __init__(self, code: int, where: str, stack: tuple[str, ...]) -> None:
        super().__init__(code, where, stack)
        self.code = code
        self.where = where
        self.stack = stack


class GuestFail(Exception):
    """The guest ended its task with an error of its own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def fault(self, ended: WasmtimeError) -> GuestFault:
        """Return the outcome, for how the engine ended it. Only a panic, which nobody wanted, has a stack."""
        stack = stack_of(ended) if self.code == PANIC else ()
        return GuestFault("error", f"{self.code}: {self.message}"[:MESSAGE_CHARS_MAX], stack)


def check_exit(name: str, code: int) -> None:
    """Raise `GuestExit` for what the start of a command returned, unless that is success."""
    if code:
        raise GuestExit(code, name, ())


class OutOfFuel(Exception):
    """A host function would need more fuel than the guest has left."""


class Guest(Protocol):
    """One instance in a store of its own. Its host functions see it as a `host_calls.HostedGuest`."""

    def call(self, data: bytes, *, fuel: int) -> bytes:
        """Copy `data` into the guest, run its entry point and return a copy of its answer.

        Raises `GuestFault`, `GuestStopped` or `GuestExit`; close the guest then, since its memory is in an unknown
        state.
        """
        ...

    def fuel_left(self) -> int: ...

    def renew(self) -> None:
        """Run on after stops that came while the guest was kept: they were meant for others."""
        ...

    def memory_bytes(self) -> int:
        """Return the size of the memory now, in bytes."""
        ...

    def memory_address(self) -> int:
        """Return where the memory is in this process; 0 if the guest hides that, or has none."""
        ...

    def size(self) -> int:
        """Return the size of the memory before the first call, in bytes."""
        ...

    def has_grown(self) -> bool:
        """Return whether the memory is larger now than before the first call."""
        ...

    def close(self) -> None: ...


def pieces(data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield data in small copies with their offsets, since a tensor may be as large as a guest's memory."""
    for offset in range(0, len(data), _PIECE_BYTES):
        yield offset, bytes(data[offset : offset + _PIECE_BYTES])


def fault_of_trap(trap: Trap, where: str) -> GuestFault | GuestStopped:
    """Return what a trap of the engine means for the task (execution model, parts 4 and 5).

    The usable depth of the stack depends on the compiler, so a stack overflow is a fault of the host, never a result.
    """
    assert trap.trap_code is not None, "only a host function that raises causes a trap without a code"
    return fault_of_code(trap.trap_code, where, stack_of(trap))


def fault_of_code(code: TrapCode, where: str, stack: tuple[str, ...]) -> GuestFault | GuestStopped:
    """Return what a trap with this code means; `stack`: the lines that end the task's log."""
    if code is TrapCode.OUT_OF_FUEL:
        return GuestFault("fuel", f"out of fuel in {where}", stack)
    if code is TrapCode.INTERRUPT:
        return GuestStopped("interrupted", "")
    if code is TrapCode.STACK_OVERFLOW:
        return GuestStopped(
            "faulted", f"stack overflow in {where}: recursion deeper than the sandbox's stack; use less of it"
        )
    return GuestFault("trap", f"{code.name.lower()} in {where}", stack)


def check_fits(prepared: PreparedCode, memory_bytes: int) -> None:
    """Raise the outcome of a module whose initial memory is over the task's limit."""
    if prepared.memory_bytes_min > memory_bytes:
        raise GuestFault(
            "memory",
            f"the module starts with {prepared.memory_bytes_min} bytes of memory, over memory_bytes = {memory_bytes}",
        )


def check_allocated(name: str, pointer: int, size: int, memory_bytes: int) -> None:
    """Raise the outcome of an `alloc` that had no room or returned a pointer outside the memory."""
    if pointer == 0 and size:
        raise GuestFault("memory", f"{name} returned 0 for {size} bytes")
    if pointer + size > memory_bytes:
        raise GuestFault("bad_output", f"{name}: pointer + length is outside the memory of {memory_bytes} bytes")


def check_status(name: str, status: int, answer: bytes) -> None:
    """Raise the outcome of a function whose status says that its answer is the text of an error."""
    if status != STATUS_ANSWER:
        text = answer.decode(errors="replace") or f"status {status}"
        raise GuestFault("error", f"{name}: {text}"[:MESSAGE_CHARS_MAX])


def check_answer(name: str, pointer: int, size: int, memory_bytes: int) -> None:
    """Raise the outcome of an answer that is outside the memory or too large to send."""
    if pointer + size > memory_bytes:
        raise GuestFault("bad_output", f"{name}: pointer + length is outside the memory of {memory_bytes} bytes")
    check_answer_size(name, size)


def check_answer_size(name: str, size: int) -> None:
    """Raise the outcome of an answer that is too large to send."""
    if size > OUTPUT_BYTES_MAX:
        raise GuestFault("bad_output", f"{name}: {size} bytes returned, at most {OUTPUT_BYTES_MAX}")
