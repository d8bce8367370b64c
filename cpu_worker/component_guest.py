"""An instance of a component in a store of its own, which takes the input of `rota_step` and gives its output.

It implements `guest.Guest`, so a component is an agent to everything around it. A component is never called twice: the
engine hides its memory, so nobody could tell whether an instance has grown or kept something.

wasmtime gives no code for the trap of a component, so what happened is read from its text; a test makes each kind that
is not an ordinary trap. An error that is no trap comes from reading the guest's answer, such as a string outside of its
memory, and follows from the inputs too.
"""

from __future__ import annotations

from ctypes import byref
from dataclasses import dataclass
from typing import Final

from wasmtime import Engine, Store, TrapCode, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime.component import Component, ExportIndex, Func, Linker

from rota.common.component_binary import HANDLE
from rota.common.limits import MESSAGE_CHARS_MAX, WASM_TABLE_ELEMENTS_MAX
from rota.cpu_worker.component_values import put_arguments, read_answer
from rota.cpu_worker.guest import GuestFault, GuestStopped, fault_of_code
from rota.cpu_worker.profile import (
    COMPONENT_INSTANCES_MAX,
    COMPONENT_MEMORIES_MAX,
    COMPONENT_TABLES_MAX,
    INITIALIZE_FUEL,
)
from rota.cpu_worker.trap_stack import stack_of
from rota.wasi.program import NO_PROGRAM, Program

_Arguments: Final = ffi.wasmtime_component_val_t * 2
_TRAP: Final = "wasm trap: "
# The texts of wasmtime's environ/src/trap_encoding.rs; other traps keep their text.
_CODES: Final = {
    "all fuel consumed by WebAssembly": TrapCode.OUT_OF_FUEL,
    "interrupt": TrapCode.INTERRUPT,
    "call stack exhausted": TrapCode.STACK_OVERFLOW,
    "wasm `unreachable` instruction executed": TrapCode.UNREACHABLE,
    "out of bounds memory access": TrapCode.MEMORY_OUT_OF_BOUNDS,
    "undefined element: out of bounds table access": TrapCode.TABLE_OUT_OF_BOUNDS,
    "uninitialized element": TrapCode.INDIRECT_CALL_TO_NULL,
    "indirect call type mismatch": TrapCode.BAD_SIGNATURE,
    "integer overflow": TrapCode.INTEGER_OVERFLOW,
    "integer divide by zero": TrapCode.INTEGER_DIVISION_BY_ZERO,
    "invalid conversion to integer": TrapCode.BAD_CONVERSION_TO_INTEGER,
}
_OVER_MEMORY: Final = "exceeds memory limit"


@dataclass(frozen=True, slots=True)
class PreparedComponent:
    """A compiled and checked component, from which instances are made."""

    engine: Engine
    component: Component
    linker: Linker  # without definitions, as there are no imports
    handle: ExportIndex
    native_bytes: int
    call: str = HANDLE
    alloc: str = "cabi_realloc"
    program: Program = NO_PROGRAM


class ComponentGuest:
    """An instance with its own store (see `guest.Guest`)."""

    def __init__(self, prepared: PreparedComponent, *, memory_bytes: int) -> None:
        """Instantiate the component; raises `GuestFault` or `GuestStopped` if that fails."""
        self._store = Store(prepared.engine)
        try:
            self._open(prepared, memory_bytes)
        except BaseException:
            self.close()
            raise

    def _open(self, prepared: PreparedComponent, memory_bytes: int) -> None:
        self._store.set_limits(
            memory_size=memory_bytes,
            table_elements=WASM_TABLE_ELEMENTS_MAX,
            instances=COMPONENT_INSTANCES_MAX,
            tables=COMPONENT_TABLES_MAX,
            memories=COMPONENT_MEMORIES_MAX,
        )
        self._give(INITIALIZE_FUEL)
        try:
            instance = prepared.linker.instantiate(self._store, prepared.component)
        except WasmtimeError as error:
            raise _why_not_started(error, memory_bytes) from None
        function = instance.get_func(self._store, prepared.handle)
        assert function is not None, "it was checked when the component was prepared"
        self._function: Func = function

    def call(self, data: bytes, *, fuel: int) -> bytes:
        self._give(fuel)
        arguments, answer = _Arguments(), ffi.wasmtime_component_val_t()
        try:
            put_arguments(data, arguments)
            error = ffi.wasmtime_component_func_call(
                byref(self._function._func), self._store._context(), arguments, len(arguments), byref(answer), 1
            )
            if error:
                raise meaning_of(WasmtimeError._from_ptr(error))
            return read_answer(answer)
        finally:
            for value in (*arguments, answer):
                ffi.wasmtime_component_val_delete(byref(value))

    def renew(self) -> None:
        """Do nothing: each call sets its own deadline."""

    def fuel_left(self) -> int:
        return self._store.get_fuel()

    def memory_bytes(self) -> int:
        return 0  # nobody can tell

    size = memory_address = memory_bytes

    def has_grown(self) -> bool:
        return True  # nobody can tell, so it may not be kept

    def close(self) -> None:
        self._store.close()

    def _give(self, fuel: int) -> None:
        self._store.set_fuel(fuel)
        self._store.set_epoch_deadline(1)


def meaning_of(error: WasmtimeError) -> GuestFault | GuestStopped:
    """Return what an error of a call means for the task."""
    text = str(error)
    _, trap, why = text.rpartition(_TRAP)
    if not trap:
        return GuestFault("bad_output", f"{HANDLE}: {_cause(text)}"[:MESSAGE_CHARS_MAX])
    code = _CODES.get(why.strip())
    stack = stack_of(error)
    if code is None:
        return GuestFault("trap", f"{why.strip()} in {HANDLE}"[:MESSAGE_CHARS_MAX], stack)
    return fault_of_code(code, HANDLE, stack)


def _why_not_started(error: WasmtimeError, memory_bytes: int) -> GuestFault | GuestStopped:
    """Return what an error of the instantiation means. Only a trap, or a memory over its limit, is the component's."""
    text = str(error)
    if _TRAP in text:
        return meaning_of(error)
    if _OVER_MEMORY in text:
        return GuestFault("memory", f"the component starts with more memory than memory_bytes = {memory_bytes}")
    return GuestStopped("faulted", f"instantiation: {_cause(text)}")


def _cause(text: str) -> str:
    """Return the innermost cause of an error's text, which may begin with a stack."""
    return text.strip().rpartition("\n")[2].strip().removeprefix("0: ")
