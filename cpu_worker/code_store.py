"""An LRU cache of modules by digest: read, checked, compiled, linked and ready to run.

common/wasm_module.py checks what a module must export, by the same rules as at the deploy, before it is compiled. Then
the types are compared again as wasmtime sees them, because the raw call path passes arguments without a check: a bug in
our reader must not be enough to call a function with the wrong type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from wasmtime import FuncType, InstancePre, Linker, MemoryType, Module, WasmtimeError

from rota.common.bundle import Bundle
from rota.common.code_kinds import IS_MODULE, KINDS, OUTPUT_ROLES, kind_of
from rota.common.errors import CodeError
from rota.common.limits import WASM_TABLE_ELEMENTS_MAX
from rota.common.wasm_module import WasmInterface, check_interface, inspect_module
from rota.common.work import COMMAND, SOURCE, Code
from rota.cpu_worker.compiler import Compiler
from rota.cpu_worker.contents import Contents
from rota.cpu_worker.guest import INITIALIZE, MEMORY, PreparedCode
from rota.cpu_worker.recent import Recent
from rota.cpu_worker.source_store import SourceStore
from rota.wasi.program import program_of

POOL: Final = "cpu"
PREPARED_MAX: Final = 64
PREPARED_BYTES_MAX: Final = 1 << 30  # of native code; one module may have more
WASM_PAGE_BYTES: Final = 65_536
_ELEMENT_BYTES: Final = 8  # of a table, on the host

_Key = tuple[bytes, str, tuple[tuple[str, str], ...]]


class CodeStore:
    """Prepared code, keyed by digest and way of calling."""

    def __init__(self, contents: Contents, compiler: Compiler, linker: Linker, sources: SourceStore) -> None:
        self._contents = contents
        self._sources = sources
        self._compiler = compiler
        self._linker = linker
        self._prepared: Recent[_Key, PreparedCode] = Recent(PREPARED_MAX, PREPARED_BYTES_MAX)

    def get(self, code: Code) -> PreparedCode:
        """Return code ready to run. Raises `CodeError` if it is missing or cannot be used."""
        key = (code.digest, code.kind, code.exports)
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepare(code)
            self._prepared.put(key, prepared, prepared.native_bytes)
        return prepared

    def preparation(self, code: Code) -> Callable[[], None] | None:
        """Return a function that compiles the code, callable in any thread; None if it is compiled already.

        The function raises `CodeError` if the code cannot be used.
        """
        if (code.digest, code.kind, code.exports) in self._prepared:
            return None
        if code.kind == SOURCE:
            return self._sources.preparation(code)
        try:
            digest = self._module_of(code, self._bundle(code))
        except CodeError as error:
            return partial(_refuse, error)
        return (
            None
            if self._compiler.is_made(digest)
            else lambda: self._compiler.make(self._checked(code, digest)[0], digest)
        )

    def close(self) -> None:
        self._prepared.clear()

    def _bundle(self, code: Code) -> Bundle | None:
        """Return the bundle of a command; None for what is a module. Raises `CodeError`."""
        if kind_of(code).pool != POOL:
            ours = ", ".join(kind.name for kind in KINDS.values() if kind.pool == POOL)
            raise CodeError(f"a CPU worker runs kinds {ours}, not {code.kind}: send it to its own pool")
        if code.kind == COMMAND:
            return self._contents.bundle(code.digest)
        if kind_of(code).content != IS_MODULE:
            raise CodeError(f"this Rota does not run kind {code.kind} yet: use agent or function")
        return None

    @staticmethod
    def _module_of(code: Code, bundle: Bundle | None) -> bytes:
        return code.digest if bundle is None else bundle.module

    def _checked(self, code: Code, digest: bytes) -> tuple[bytes, WasmInterface]:
        """Return the bytes of a module after checking its exports for its kind. Raises `CodeError`."""
        wasm = self._contents.module(digest)
        interface = inspect_module(wasm)
        check_interface(interface, code.kind, dict(code.exports))
        return wasm, interface

    def _prepare(self, code: Code) -> PreparedCode:
        if code.kind == SOURCE:
            return self._sources.prepare(code)
        bundle = self._bundle(code)
        digest = self._module_of(code, bundle)
        wasm, interface = self._checked(code, digest)
        module, native_bytes = self._compiler.load(wasm, digest)
        if bundle is not None:
            return self._prepared_command(code, bundle, module, native_bytes)
        given = dict(code.exports)
        alloc, call = (given.get(role, usual) for role, usual in kind_of(code).roles)
        types = {export.name: export.type for export in module.exports}
        output = (given[OUTPUT_ROLES[0]], given[OUTPUT_ROLES[1]]) if OUTPUT_ROLES[0] in given else None
        call_type = types.get(call)
        call_values = 2 if output is None or not isinstance(call_type, FuncType) else len(call_type.params)
        expected = {alloc: "(i32) -> (i32)"}
        if output is None:
            expected[call] = "(i32, i32) -> (i64)"
        else:
            expected[call] = "(i32, i32) -> (i32)" if call_values else "() -> (i32)"
            expected.update(dict.fromkeys(output, "() -> (i32)"))
        if INITIALIZE in types:
            expected[INITIALIZE] = "() -> ()"
        for name, signature in expected.items():
            check_type(types.get(name), name, signature)
        return PreparedCode(
            module=module,
            linked=self._linked(module),
            alloc=alloc,
            call=call,
            call_values=call_values,
            output=output,
            has_initialize=INITIALIZE in types,
            memory_bytes_min=_memory_bytes_min(types),
            native_bytes=native_bytes,
            table_bytes_max=_table_bytes_max(interface),
        )

    def _prepared_command(self, code: Code, bundle: Bundle, module: Module, native_bytes: int) -> PreparedCode:
        ((role, usual),) = KINDS[COMMAND].roles
        start = dict(code.exports).get(role, usual)
        types = {export.name: export.type for export in module.exports}
        start_type = types.get(start)
        gives_code = isinstance(start_type, FuncType) and bool(start_type.results)
        check_type(start_type, start, "() -> (i32)" if gives_code else "() -> ()")
        if INITIALIZE in types:
            check_type(types[INITIALIZE], INITIALIZE, "() -> ()")
        return PreparedCode(
            module=module,
            linked=self._linked(module),
            alloc="",
            call=start,
            call_values=0,
            output=None,
            gives_code=gives_code,
            has_initialize=INITIALIZE in types,
            memory_bytes_min=_memory_bytes_min(types),
            native_bytes=native_bytes + sum([len(file.data) for file in bundle.files]),
            program=program_of(bundle.args, bundle.env, bundle.files),
        )

    def _linked(self, module: Module) -> InstancePre:
        try:
            return self._linker.instantiate_pre(module)
        except WasmtimeError as error:
            raise CodeError(f"the engine does not link the module: {error}; rebuild it") from None


def _memory_bytes_min(types: Mapping[str, object]) -> int:
    memory = types.get(MEMORY)
    if not isinstance(memory, MemoryType):
        raise CodeError(f"export {MEMORY!r} is no memory to the engine: rebuild the module")
    return int(memory.limits.min) * WASM_PAGE_BYTES


def _table_bytes_max(interface: WasmInterface) -> int:
    """Return how many bytes the tables of an instance can come to. Most compilers give their largest size."""
    sizes = [WASM_TABLE_ELEMENTS_MAX if table.items_max is None else table.items_max for table in interface.tables]
    return sum([min(size, WASM_TABLE_ELEMENTS_MAX) for size in sizes]) * _ELEMENT_BYTES


def _refuse(error: CodeError) -> None:
    raise error


def check_type(found: object, name: str, expected: str) -> None:
    """Raise `CodeError` unless the engine has a function of this signature."""
    if isinstance(found, FuncType):
        signature = f"({', '.join(map(str, found.params))}) -> ({', '.join(map(str, found.results))})"
        if signature == expected:
            return
    raise CodeError(f"export {name!r} is not a function {expected} to the engine: rebuild the module")
