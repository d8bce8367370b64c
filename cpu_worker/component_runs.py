"""Components, prepared: an engine with a profile of its own, compiled code by digest, and the check at the deploy.

The engine is made when the first component comes, since most workers never see one. What runs here is called by
executor.py in the same way as an agent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from wasmtime import Engine
from wasmtime.component import ComponentInstanceType, Linker

from rota.common.component_binary import HANDLE, HANDLER, check_component, inspect_component
from rota.common.errors import CodeError
from rota.common.work import Code
from rota.cpu_worker.compiler import Compiler
from rota.cpu_worker.component_guest import ComponentGuest, PreparedComponent
from rota.cpu_worker.component_values import check_type
from rota.cpu_worker.contents import Contents
from rota.cpu_worker.guest import GuestFault, GuestStopped
from rota.cpu_worker.guest_memory import GuestMemories
from rota.cpu_worker.profile import new_component_engine
from rota.cpu_worker.recent import Recent
from rota.cpu_worker.watchdog import EpochWatchdog

PREPARED_MAX: Final = 16
PREPARED_BYTES_MAX: Final = 512 << 20  # of native code; one component may have more


class Components:
    """A worker's components. It belongs to the executor's thread, except for `stop` and what `preparation` returns."""

    def __init__(
        self, modules_dir: Path, artefacts_dir: Path, memories: GuestMemories, watchdog: EpochWatchdog
    ) -> None:
        self._contents = Contents(modules_dir)
        self._artefacts_dir = artefacts_dir
        self._memories = memories
        self._watchdog = watchdog
        self._engine: Engine | None = None
        self._prepared: Recent[bytes, PreparedComponent] = Recent(PREPARED_MAX, PREPARED_BYTES_MAX)

    def get(self, code: Code) -> PreparedComponent:
        """Return a component ready to run. Raises `CodeError` if it is missing or cannot be used."""
        prepared = self._prepared.get(code.digest)
        if prepared is None:
            prepared = self._prepare(code)
            self._prepared.put(code.digest, prepared, prepared.native_bytes)
        return prepared

    def preparation(self, code: Code) -> Callable[[], None] | None:
        """Return a function that compiles the component, callable in any thread; None if it is compiled already."""
        self._open()
        if code.digest in self._prepared or self._compiler.is_made(code.digest):
            return None
        return lambda: self._compiler.make(self._checked(code), code.digest)

    def try_out(self, prepared: PreparedComponent, memory_bytes: int) -> None:
        """Make an instance and drop it. Raises `CodeError` if no task could start with these limits."""
        self._memories.begin()
        try:
            ComponentGuest(prepared, memory_bytes=memory_bytes).close()
        except GuestFault as fault:
            raise CodeError(f"{fault.message}: no task could run; deploy it with more (--memory)") from None
        except GuestStopped as stopped:
            raise CodeError(f"the component cannot be started here: {stopped.reason}") from None

    def stop(self) -> None:
        """End the compiling processes; callable from any thread."""
        if self._engine is not None:
            self._compiler.stop()

    def close(self) -> None:
        self._prepared.clear()
        if self._engine is not None:
            self._linker.close()
            self._engine.close()

    def _open(self) -> None:
        if self._engine is None:
            engine = new_component_engine(self._memories.configure_component)
            self._compiler = Compiler(
                engine, self._artefacts_dir, maps_images=self._memories.maps_images, components=True
            )
            self._linker = Linker(engine)
            self._watchdog.watch(engine)
            self._engine = engine

    def _checked(self, code: Code) -> bytes:
        wasm = self._contents.module(code.digest)
        check_component(inspect_component(wasm))
        return wasm

    def _prepare(self, code: Code) -> PreparedComponent:
        self._open()
        assert self._engine is not None
        component, native_bytes = self._compiler.load_component(self._checked(code), code.digest)
        handler = component.type.exports(self._engine)[HANDLER].ty
        functions = handler.exports(self._engine) if isinstance(handler, ComponentInstanceType) else {}
        if HANDLE not in functions:
            raise CodeError(f"the interface {HANDLER} of the component has no function {HANDLE!r}: build it again")
        check_type(functions[HANDLE].ty)
        handle = component.get_export_index(HANDLE, component.get_export_index(HANDLER))
        assert handle is not None, "the type says that it is there"
        return PreparedComponent(self._engine, component, self._linker, handle, native_bytes)
