"""Instances made from images, and what their drivers see of them.

An image is a memory, the values of globals and a note (runtimes/driver.py); the program that works on it is shared by
all images of a runtime (module_split.py). So a store gets two instances: the image's, whose memory is mapped
copy-on-write, and the program's, which imports that memory. Then the globals are set. Nothing of this costs fuel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from ctypes import addressof, byref, c_uint64
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn

from wasmtime import Engine, Linker, Module
from wasmtime import _ffi as ffi

from rota.common.limits import MESSAGE_CHARS_MAX
from rota.common.rota_imports import OWN_IMPORTS
from rota.common.wasm_binary import FuncType
from rota.cpu_worker import raw_api as api
from rota.cpu_worker.guest import (
    MEMORY,
    GuestExit,
    GuestFault,
    GuestStopped,
    OutOfFuel,
    PreparedCode,
    check_answer_size,
    check_fits,
)
from rota.cpu_worker.host_calls import MASKS, HostCalls, ImportFunctions
from rota.cpu_worker.image import ImageFacts
from rota.cpu_worker.module_split import (
    INITIALIZE,
    MEMORY_IMPORT,
    START,
    SplitProgram,
    global_export,
    table_call_export,
    table_export,
)
from rota.cpu_worker.raw_store import RawStore
from rota.runtimes.driver import NESTED_CALLS_MAX, READ_FREE_BYTES, TABLE_ARGUMENTS_MAX, Driver, HostFunction
from rota.wasi.program import Program
from rota.wasi.shared_files import shared_folder

_ARGUMENTS_MAX: Final = 16
_Words: Final = c_uint64 * (_ARGUMENTS_MAX * api.WORDS_PER_VALUE)
_VALUE_KINDS: Final = {"i32": 0, "i64": 1, "f32": 2, "f64": 3}  # wasmtime/val.h
_VALUE_BYTES: Final = ctypes.sizeof(ffi.wasmtime_val_t)
_VALUE_WORDS: Final = _VALUE_BYTES // 8
_FUNCREF_WORDS: Final = range(ffi.wasmtime_val_t.of.offset // 8, _VALUE_WORDS)[
    : ctypes.sizeof(ffi.wasmtime_func_t) // 8
]
_VALUE_BITS: Final = {"i32": 32, "i64": 64, "f32": 32, "f64": 64}
_M32: Final = 0xFFFF_FFFF
_MEMORY_NAME: Final = tuple(part for text in MEMORY_IMPORT for part in (text.encode(), len(text)))
_PAGE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class PreparedProgram:
    """A compiled runtime. `linker` has everything that it imports but its memory, which each instance defines anew."""

    module: Module
    program: SplitProgram
    driver: Driver
    linker: Linker
    functions: Mapping[str, FuncType]  # that can be called
    externs_type: type[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSource(PreparedCode):
    """An image that is ready: `module` and `linked` are of its memory."""

    runtime: PreparedProgram
    values: Any  # of the globals, as an array of the C API
    note: bytes
    bundle: SourceFacts


class SourceFacts(NamedTuple):
    """What the files of a deploy are to its source."""

    args: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, bytes]

    def program(self, driver: Driver) -> Program:
        """Return what the source sees through WASI."""
        return Program(
            tuple([text.encode() for text in (*driver.args, *self.args)]),
            tuple([f"{name}={value}".encode() for name, value in self.env.items()]),
            shared_folder(self.files.items()),
        )


def link_program(
    engine: Engine, native_path: str, program: SplitProgram, driver: Driver, hosts: HostCalls
) -> PreparedProgram:
    """Return a runtime that is ready for images; the engine maps the file of its code.

    Raises `WasmtimeError` if the engine has no room for it.
    """
    module = Module.deserialize_file(engine, native_path)
    functions = dict(program.exports)
    if program.has_start:
        functions[START] = FuncType((), ())
    if program.tables:
        for arity in range(TABLE_ARGUMENTS_MAX + 1):
            functions[table_call_export(arity)] = FuncType(("i32",) * (arity + 1), ("i32",))
    linker = hosts.new_linker(_host_functions(driver, hosts))
    linker.allow_shadowing = True  # of the memory, which is another one for each instance
    externs = ffi.wasmtime_extern_t * (1 + len(program.globals) + program.tables + len(functions))
    return PreparedProgram(module, program, driver, linker, functions, externs)


def link_memory(
    runtime: PreparedProgram, module: Module, image: ImageFacts, bundle: SourceFacts, *, native_bytes: int = 0
) -> PreparedSource:
    """Return an image that is ready to run. `module`: of its memory; `native_bytes`: the size of that, compiled."""
    values = (ffi.wasmtime_val_t * len(image.globals))()
    for value, kind, bits in zip(values, runtime.program.globals, image.globals, strict=bool(image.globals)):
        _set_value(value, kind, bits)
    return PreparedSource(
        module=module,
        linked=runtime.linker.instantiate_pre(module),
        alloc=runtime.driver.name,  # it takes its input by `call`
        call=runtime.driver.name,
        call_values=0,
        output=None,
        has_initialize=False,
        memory_bytes_min=image.pages * _PAGE_BYTES,
        native_bytes=native_bytes,
        program=bundle.program(runtime.driver),
        runtime=runtime,
        values=values,
        note=image.note,
        bundle=bundle,
    )


def _set_value(value: Any, kind: str, bits: int) -> None:
    value.kind = _VALUE_KINDS[kind]
    ctypes.memmove(addressof(value.of), bits.to_bytes(8, "little"), 8)


def _host_functions(driver: Driver, hosts: HostCalls) -> ImportFunctions:
    """Return what a driver adds to the imports, each with the running guest as its driver sees it."""
    services = Services(hosts)

    def adapted(function: HostFunction) -> Callable[..., int | None]:
        return lambda guest, *values: function.call(guest.interpreter, services, *values)

    return {key: (function.type, adapted(function)) for key, function in driver.imports.items()}


class ImageGuest(RawStore):
    """An instance of a source (see `guest.Guest`)."""

    def __init__(self, engine: Engine, prepared: PreparedSource, hosts: HostCalls, *, memory_bytes: int) -> None:
        """Make the two instances; `hosts` must serve the task by then. Raises `GuestFault` or `GuestStopped`."""
        check_fits(prepared, memory_bytes)
        self.prepared = prepared
        runtime = prepared.runtime
        self.where = runtime.driver.name
        super().__init__(engine, hosts, _Words(), runtime.externs_type())
        self._functions: dict[str, tuple[int, FuncType]] = {}
        self._depth = 0
        self.interpreter = ImageInterpreter(self)
        self._start(memory_bytes)

    def _open(self) -> None:
        prepared, runtime = self.prepared, self.prepared.runtime
        self._instances = (ffi.wasmtime_instance_t * 2)()
        image, program = addressof(self._instances[0]), addressof(self._instances[1])
        self._program = program
        error = api.instantiate(prepared.linked.ptr(), self._context, image, self._trap_reference)
        if error or self._trap.value:
            self._raise(error, "instantiation")
        self._bind_memory(self._export(image, 0, MEMORY))
        linker = runtime.linker.ptr()
        error = api.linker_define(linker, self._context, *_MEMORY_NAME, self._externs_address)
        error = error or api.linker_instantiate(
            linker, self._context, runtime.module.ptr(), program, self._trap_reference
        )
        if error or self._trap.value:
            self._raise(error, "instantiation")
        self._globals = [
            self._export(program, 1 + place, global_export(place)) for place in range(len(runtime.program.globals))
        ]
        values = addressof(prepared.values)
        for place, address in enumerate(self._globals[: len(prepared.values)]):
            error = api.global_set(self._context, address, values + place * _VALUE_BYTES)
            assert not error, "the image was made with a program of these globals"

    def call(self, data: bytes, *, fuel: int) -> bytes:
        """Run one task by the driver."""
        self.give(fuel)
        try:
            answer = self.prepared.runtime.driver.step(self.interpreter, self.prepared.note, data)
        except (GuestFault, GuestStopped, GuestExit):
            raise
        except MemoryError:
            raise GuestStopped("faulted", f"{self.where}: the host has no memory for a task") from None
        except Exception as error:  # a driver reads what guests return, which may be anything
            text = f"{self.where}: what it returned cannot be read ({type(error).__name__}: {error})"
            raise GuestFault("bad_output", text[:MESSAGE_CHARS_MAX]) from None
        check_answer_size(self.where, len(answer))
        return answer

    def give(self, fuel: int) -> None:
        """Set the fuel for the calls that follow."""
        self._hosts.attach(self)
        self._give(fuel)

    def size(self) -> int:
        return self.prepared.memory_bytes_min

    def has_grown(self) -> bool:
        return True  # never used twice

    def call_function(self, name: str, arguments: Sequence[int]) -> int:
        """Call an export of the program; return its result, unsigned."""
        found = self._functions.get(name) or self._find(name)
        address, signature = found
        assert len(arguments) == len(signature.params) <= _ARGUMENTS_MAX, f"{name} takes {signature}"
        depth, words = self._depth, self._words
        if depth:
            if depth > NESTED_CALLS_MAX:
                raise GuestFault("trap", f"a host function called the guest {depth} deep in {self.where}")
            self._words = _Words()
        self._depth = depth + 1
        try:
            used = self._words
            for place, (value, kind) in enumerate(zip(arguments, signature.params, strict=True)):
                used[place * api.WORDS_PER_VALUE] = value & _M32 if kind == "i32" else value & 0xFFFF_FFFF_FFFF_FFFF
            self._run(address, len(arguments), self.where)
            if not signature.results:
                return 0
            result: int = used[0]
            return result & _M32 if signature.results[0] == "i32" else result
        finally:
            self._depth, self._words = depth, words

    def global_bits(self, place: int) -> int:
        """Return the bits of a mutable global."""
        value = ffi.wasmtime_val_t()
        api.global_get(self._context, self._globals[place], byref(value))
        size = _VALUE_BITS[self.prepared.runtime.program.globals[place]] // 8
        return int.from_bytes(ctypes.string_at(addressof(value.of), size), "little")

    def set_global(self, place: int, bits: int) -> None:
        value = ffi.wasmtime_val_t()
        _set_value(value, self.prepared.runtime.program.globals[place], bits)
        error = api.global_set(self._context, self._globals[place], addressof(value))
        assert not error

    def run_initializers(self) -> None:
        """Run what a module runs when it is instantiated, or before its first call."""
        for name in (START, INITIALIZE):
            if name in self.prepared.runtime.functions:
                self.call_function(name, ())

    def memory(self) -> memoryview:
        """Return the whole memory, until the instance is called or closed."""
        self._refresh()
        return self._window()

    def tables(self) -> list[list[bytes]]:
        """Return what is in each table. Equal functions of a store are equal values."""
        return [self._table(place) for place in range(self.prepared.runtime.program.tables)]

    def _table(self, place: int) -> list[bytes]:
        """Return the words of the items: the first of all, the second of all, ..."""
        table = self._export(self._program, 1 + len(self._globals) + place, table_export(place))
        values = (ffi.wasmtime_val_t * api.table_size(self._context, table))()
        first, context = addressof(values), self._context
        for index in range(len(values)):
            there = api.table_get(context, table, index, first + index * _VALUE_BYTES)
            assert there
        words = memoryview(values).cast("B").cast("Q") if values else memoryview(b"").cast("Q")
        return [words[word::_VALUE_WORDS].tobytes() for word in _FUNCREF_WORDS]

    def grow(self, pages: int) -> int:
        """Add pages of zeros; return the old size in pages. Raises `GuestFault` past the limit."""
        before = c_uint64()
        error = api.memory_grow(self._context, self._memory, pages, byref(before))
        if error:
            api.error_delete(error)
            raise GuestFault("memory", f"{self.where} needs {pages} pages of memory more than memory_bytes has")
        self._refresh()
        return before.value

    def _find(self, name: str) -> tuple[int, FuncType]:
        runtime = self.prepared.runtime
        signature = runtime.functions[name]
        place = 1 + len(self._globals) + runtime.program.tables + len(self._functions)
        found = self._functions[name] = self._export(self._program, place, name), signature
        return found


class ImageInterpreter:
    """What a driver may do with an instance: `Interpreter` of runtimes/driver.py."""

    __slots__ = ("_guest", "args", "env", "files")

    def __init__(self, guest: ImageGuest) -> None:
        self._guest = guest
        self.args, self.env, self.files = guest.prepared.bundle

    @property
    def stack_pointer(self) -> int:
        return self._guest.global_bits(self._stack_global())

    @stack_pointer.setter
    def stack_pointer(self, pointer: int) -> None:
        self._guest.set_global(self._stack_global(), pointer)

    def call(self, export: str, *arguments: int) -> int:
        return self._guest.call_function(export, arguments)

    def call_table(self, index: int, *arguments: int) -> int:
        return self._guest.call_function(table_call_export(len(arguments)), (index, *arguments))

    def charge(self, fuel: int) -> None:
        try:
            self._guest.charge(fuel)
        except OutOfFuel:
            raise GuestFault("fuel", f"out of fuel in {self._guest.where}") from None

    def read(self, pointer: int, size: int) -> bytes:
        if READ_FREE_BYTES < size <= self._guest.memory_bytes():
            self.charge(size)
        data = self._guest.read(pointer, size)
        if data is None:
            self._outside(pointer, size)
        return data

    def write(self, pointer: int, data: bytes) -> None:
        if not self._guest.write(pointer, data):
            self._outside(pointer, len(data))

    def word(self, pointer: int) -> int:
        return int.from_bytes(self.read(pointer, 4), "little")

    def add_pages(self, pages: int) -> int:
        return self._guest.grow(pages)

    def fail(self, kind: str, message: str) -> NoReturn:
        raise GuestFault(kind, message)

    def _outside(self, pointer: int, size: int) -> NoReturn:
        size_now = self._guest.memory_bytes()
        where = self._guest.where
        raise GuestFault("bad_output", f"{where}: {pointer} + {size} is outside the memory of {size_now} bytes")

    def _stack_global(self) -> int:
        place = self._guest.prepared.runtime.program.stack_global
        assert place is not None, "the driver of a runtime without a stack pointer does not use it"
        return place


class Services:
    """What host functions of a driver may use: `HostServices` of runtimes/driver.py."""

    def __init__(self, hosts: HostCalls) -> None:
        self._hosts = hosts

    def log(self, text: str) -> None:
        facts = self._hosts.facts
        assert facts is not None, "a guest runs between begin and end"
        facts.log.text(text)

    def charge(self, fuel: int) -> None:
        self._hosts.guest.charge(fuel)

    def tensor_read(self, index: int, offset: int, pointer: int, size: int) -> int:
        return self._own("tensor_read", index, offset, pointer, size)

    def tensor_new(
        self, dtype_pointer: int, dtype_size: int, shape_pointer: int, rank: int, data_pointer: int, data_size: int
    ) -> int:
        return self._own("tensor_new", dtype_pointer, dtype_size, shape_pointer, rank, data_pointer, data_size)

    def _own(self, name: str, *arguments: int) -> int:
        kinds = OWN_IMPORTS[name].params
        given = [_within(value, MASKS[kind]) for value, kind in zip(arguments, kinds, strict=True)]
        result = self._hosts.rota.functions[name](self._hosts.guest, *given)
        assert result is not None
        return result


def _within(value: int, most: int) -> int:
    """Return a driver's integer as the import takes it. One that does not fit is the largest, which is outside of all
    that there is.
    """
    return value if 0 <= value <= most else most
