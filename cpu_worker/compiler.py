"""Compiles modules, with a disk cache of native code that the workers of a host share (artefacts.py).

The name of an artefact covers the module, the wasmtime version, the profile and the processor. Compiling happens in a
one-shot process (compile_main.py). If the folder cannot be read or written, code is compiled each time.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wasmtime import Engine, Module, WasmtimeError
from wasmtime.component import Component

from rota.common.errors import CodeError
from rota.common.limits import COMPILE_MEMORY_BYTES_MAX, MODULE_BYTES_MAX
from rota.cpu_worker.artefacts import Artefacts
from rota.cpu_worker.compile_main import COMPONENT, COPIED_IMAGES, EXIT_INVALID, compile_ms_max, was_killed
from rota.cpu_worker.host_limits import why_memory_is_short
from rota.cpu_worker.one_shot import OneShots
from rota.cpu_worker.profile import artefact_scope
from rota.cpu_worker.recent import Recent
from rota.worker.executor import HostFault

log = logging.getLogger(__name__)

SUFFIX: Final = ".native"
_MADE_MAX: Final = 4
KILLED: Final = "was killed from outside: probably the host is short of memory; free some and try again"


class Compiler:
    """Compiles modules for one engine."""

    def __init__(
        self, engine: Engine, artefacts_dir: Path, *, maps_images: bool = True, components: bool = False
    ) -> None:
        """Use or make a folder of artefacts. `maps_images`: whether the engine does (see guest_memory.py);
        `components`: whether it is for components, which are loaded with `load_component`.

        Raises `ConfigError` if the folder cannot be used or its key is not private.
        """
        self._engine = engine
        self._options = [*([] if maps_images else [COPIED_IMAGES]), *([COMPONENT] if components else [])]
        self._artefacts = Artefacts(artefacts_dir)
        self._scope = artefact_scope(engine)
        self.compiled_count = 0
        self._made: Recent[bytes, bytes] = Recent(_MADE_MAX)  # native code by digest, about to be loaded
        self._shots = OneShots()

    def is_made(self, digest: bytes) -> bool:
        """Return whether a valid artefact exists, so that loading is fast."""
        if digest in self._made:
            return True
        native = self._artefacts.read(self._name(digest))
        if native is not None:
            self._made.put(digest, native)
        return native is not None

    def make(self, wasm: bytes, digest: bytes) -> None:
        """Compile before `load`, which may be called in another thread. Raises `CodeError` if it does not compile."""
        name = self._name(digest)
        self._made.put(digest, self._compile(wasm, digest, name))

    def stop(self) -> None:
        """End the compiling processes; callable from any thread. Their waiting callers get a `CodeError`."""
        self._shots.stop()

    def load(self, wasm: bytes, digest: bytes) -> tuple[Module, int]:
        """Return the compiled module and the size of its code in bytes, from the cache if it is there.

        Raises `CodeError` if it does not compile.
        """
        native = self._native(wasm, digest)
        try:
            return Module.deserialize(self._engine, native), len(native)
        except WasmtimeError as error:
            raise _why_not_loaded(error, digest) from None

    def load_component(self, wasm: bytes, digest: bytes) -> tuple[Component, int]:
        """Return the compiled component and the size of its code in bytes, as `load` does."""
        native = self._native(wasm, digest)
        try:
            return Component.deserialize(self._engine, native), len(native)
        except WasmtimeError as error:
            raise _why_not_loaded(error, digest) from None

    def _native(self, wasm: bytes, digest: bytes) -> bytes:
        name = self._name(digest)
        return self._made.take(digest) or self._artefacts.read(name) or self._compile(wasm, digest, name)

    def _compile(self, wasm: bytes, digest: bytes, name: str) -> bytes:
        self._shots.check_going_on("compiles")
        native = compile_apart(wasm, digest, self._shots, options=self._options)
        self.compiled_count += 1
        self._artefacts.keep(name, native)
        return native

    def _name(self, digest: bytes) -> str:
        return self._artefacts.name(SUFFIX, self._scope, digest)


def _why_not_loaded(error: WasmtimeError, digest: bytes) -> CodeError:
    short = digest.hex()[:16]
    if "os error" in str(error):
        return CodeError(
            f"this worker has no room for the code of module {short}: {error}; give it more memory (ulimit -v, "
            "ulimit -d)"
        )
    # The bytes are ours, so the only remaining reason is a module past the engine's bounds.
    return CodeError(f"module {short} is over a bound of the sandbox (docs/AGENTS.md): {error}")


def compile_apart(
    wasm: bytes,
    digest: bytes,
    shots: OneShots | None = None,
    *,
    options: Sequence[str] = (),
) -> bytes:
    """Compile in a one-shot process, one of `shots`, and return native code. `options`: of compile_main.py.

    Raises `CodeError` with the reason, `HostFault` if another try may succeed.
    """
    ms_max = compile_ms_max(options)
    short = digest.hex()[:16]
    if len(wasm) > MODULE_BYTES_MAX:
        raise CodeError(f"module {short} has {len(wasm)} bytes, at most {MODULE_BYTES_MAX}: strip it or split it")
    try:
        ended = (shots or OneShots()).run(["rota.cpu_worker.compile_main", *options], wasm, ms_max)
    except subprocess.TimeoutExpired:
        raise CodeError(f"module {short} took longer than {ms_max} ms to compile: make it smaller") from None
    if ended.returncode == 0:
        return ended.output
    if ended.returncode == EXIT_INVALID:
        raise CodeError(f"module {short} is not WebAssembly of the profile in docs/AGENTS.md: {ended.said}")
    if was_killed(ended.returncode):
        raise HostFault(f"the compiler of module {short} {KILLED}")
    # What a process says that ran into a limit shows paths of this host, and the error goes to whoever deployed.
    log.warning("the compiler of module %s ended with %d: %s", short, ended.returncode, ended.said[-500:])
    short_of = why_memory_is_short(COMPILE_MEMORY_BYTES_MAX)
    if short_of:
        raise CodeError(
            f"the compiler of module {short} ended with {ended.returncode}, and {short_of}: it may need up to "
            f"{COMPILE_MEMORY_BYTES_MAX} bytes, so give this worker more memory"
        )
    raise CodeError(
        f"the compiler of module {short} ended with {ended.returncode}: probably over {ms_max} ms of "
        f"processor time or {COMPILE_MEMORY_BYTES_MAX} bytes of memory; make the module smaller"
    )
