"""Modules by digest: read, checked, compiled, linked and kept ready, the least recently used one makes room.

What a module must offer is decided here, against wasmtime's own view of it, and a module that cannot be used is
refused with the name of what is wrong: an import outside the allow-list, an export that is missing or has another
signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wasmtime import FuncType, Linker, MemoryType, Module

from rota.common.digests import digest as digest_bytes
from rota.common.errors import CodeError
from rota.common.work import AGENT, FUNCTION, Code
from rota.cpu_worker.compiler import Compiler
from rota.cpu_worker.guest import INITIALIZE, MEMORY, PreparedCode
from rota.cpu_worker.tensor_access import MODULE, TENSOR_READ

PREPARED_MAX: Final = 64
WASM_PAGE_BYTES: Final = 65_536

AGENT_EXPORTS: Final = {"alloc": "rota_alloc", "call": "rota_step"}
FUNCTION_EXPORTS: Final = {"alloc": "rota_alloc", "call": "rota_call"}  # where the deploy names no others

ALLOC_SIGNATURE: Final = "(i32) -> (i32)"
CALL_SIGNATURE: Final = "(i32, i32) -> (i64)"
INITIALIZE_SIGNATURE: Final = "() -> ()"
IMPORTS: Final[Mapping[tuple[str, str], str]] = {(MODULE, TENSOR_READ): "(i32, i64, i32, i32) -> (i32)"}

_Key = tuple[bytes, str, tuple[tuple[str, str], ...]]


class CodeStore:
    """Prepared code, by what it is and how it is called."""

    def __init__(self, modules_dir: Path, compiler: Compiler, linker: Linker) -> None:
        self._dir = modules_dir
        self._compiler = compiler
        self._linker = linker
        self._prepared: dict[_Key, PreparedCode] = {}

    def get(self, code: Code) -> PreparedCode:
        """Return code ready to run. Raises `CodeError` if it is not there or cannot be used."""
        key = (code.digest, code.kind, code.exports)
        prepared = self._prepared.pop(key, None)
        if prepared is None:
            prepared = self._prepare(code)
        self._prepared[key] = prepared
        if len(self._prepared) > PREPARED_MAX:
            self._prepared.pop(next(iter(self._prepared)))
        return prepared

    def close(self) -> None:
        self._prepared.clear()

    def _prepare(self, code: Code) -> PreparedCode:
        names = export_names(code)
        short = code.digest.hex()[:16]
        module = self._compiler.load(self._read(code.digest), code.digest)
        check_imports(module, short)
        exports = {export.name: export.type for export in module.exports}
        memory = exports.get(MEMORY)
        if not isinstance(memory, MemoryType):
            raise CodeError(f"module {short} exports no memory named {MEMORY!r}: export it (docs/AGENTS.md)")
        check_function(exports, names["alloc"], ALLOC_SIGNATURE, short)
        check_function(exports, names["call"], CALL_SIGNATURE, short)
        has_initialize = INITIALIZE in exports
        if has_initialize:
            check_function(exports, INITIALIZE, INITIALIZE_SIGNATURE, short)
        return PreparedCode(
            module=module,
            linked=self._linker.instantiate_pre(module),
            alloc=names["alloc"],
            call=names["call"],
            has_initialize=has_initialize,
            memory_bytes_min=memory.limits.min * WASM_PAGE_BYTES,
        )

    def _read(self, digest: bytes) -> bytes:
        path = self._dir / f"{digest.hex()}.wasm"
        try:
            wasm = path.read_bytes()
        except FileNotFoundError:
            raise CodeError(f"module file {path.name} is not in {self._dir}: deploy it again") from None
        if digest_bytes(wasm) != digest:
            raise CodeError(f"module file {path.name} is damaged: its content has another digest; deploy it again")
        return wasm


def export_names(code: Code) -> Mapping[str, str]:
    """Return the export names that play the roles `alloc` and `call`."""
    if code.kind == AGENT:
        if code.exports:
            raise CodeError("kind agent has fixed export names; only kind function takes `exports`")
        return AGENT_EXPORTS
    if code.kind != FUNCTION:
        raise CodeError(f"a CPU worker runs kinds {AGENT} and {FUNCTION}, not {code.kind}")
    given = dict(code.exports)
    unknown = [role for role in given if role not in FUNCTION_EXPORTS]
    if unknown:
        raise CodeError(f"unknown export role {unknown[0]!r}: the roles are {', '.join(FUNCTION_EXPORTS)}")
    return {**FUNCTION_EXPORTS, **given}


def check_imports(module: Module, short: str) -> None:
    """Raise `CodeError` that names the first import outside the allow-list, or one of another type."""
    for entry in module.imports:
        expected = IMPORTS.get((entry.module, entry.name or ""))
        if expected is None:
            allowed = ", ".join(f"{module_name}.{name}" for module_name, name in IMPORTS)
            raise CodeError(
                f"module {short} imports {entry.module}.{entry.name}, which agents do not have; allowed: {allowed}. "
                "Link without it (docs/AGENTS.md, imports)"
            )
        found = signature(entry.type)
        if found != expected:
            raise CodeError(f"module {short} imports {entry.module}.{entry.name} as {found}; it is {expected}")


def check_function(exports: Mapping[str, object], name: str, expected: str, short: str) -> None:
    """Raise `CodeError` unless `name` is an exported function of that signature."""
    if name not in exports:
        raise CodeError(f"module {short} exports no {name}: export a function {name}{expected} (docs/AGENTS.md)")
    found = signature(exports[name])
    if found != expected:
        raise CodeError(f"module {short} exports {name} as {found}; it must be {expected}")


def signature(kind: object) -> str:
    """Return a function type as text, or what the thing is instead."""
    if not isinstance(kind, FuncType):
        return type(kind).__name__.removesuffix("Type").lower()
    return f"({', '.join(map(str, kind.params))}) -> ({', '.join(map(str, kind.results))})"
