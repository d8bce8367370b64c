"""Sources, ready to run: from a bundle in the folder of modules to an image in this process.

A runtime is loaded once and shared by all of its sources.
"""

from __future__ import annotations

from collections.abc import Callable

from wasmtime import Engine, Module, WasmtimeError

from rota.common.bundle import Bundle
from rota.common.errors import CodeError
from rota.common.work import Code
from rota.cpu_worker.contents import Contents
from rota.cpu_worker.host_calls import HostCalls
from rota.cpu_worker.image_guest import PreparedProgram, PreparedSource, SourceFacts, link_memory, link_program
from rota.cpu_worker.image_maker import RUNTIMES_MAX, ImageMaker
from rota.cpu_worker.recent import Recent
from rota.runtimes.drivers import driver_of


class SourceStore:
    """Belongs to the engine's thread, except for what `preparation` returns."""

    def __init__(self, engine: Engine, contents: Contents, maker: ImageMaker, hosts: HostCalls) -> None:
        self._engine = engine
        self._contents = contents
        self._maker = maker
        self._hosts = hosts
        self._runtimes: Recent[bytes, PreparedProgram] = Recent(RUNTIMES_MAX)  # sources keep theirs alive

    def prepare(self, code: Code) -> PreparedSource:
        """Return a source ready to run. Raises `CodeError` with the reason if it cannot be used."""
        bundle = self._bundle(code)
        image = self._maker.image(bundle, code.digest, lambda: self._contents.module(bundle.module))
        try:
            facts = SourceFacts(bundle.args, dict(bundle.env), dict(bundle.files))
            module = Module.deserialize_file(self._engine, image.native.path)
            native_bytes = image.native.size()
            return link_memory(self._runtime(bundle), module, image.facts, facts, native_bytes=native_bytes)
        except WasmtimeError as error:
            raise CodeError(f"this worker cannot load the image of {bundle.entry}: {error}") from None

    def preparation(self, code: Code) -> Callable[[], None] | None:
        """Return a function that makes what is missing for `prepare`, callable in any thread; None if nothing is."""
        try:
            bundle = self._bundle(code)
        except CodeError:
            return None  # `prepare` says so
        if self._maker.is_made(bundle, code.digest):
            return None
        return lambda: self._maker.make(bundle, code.digest, lambda: self._contents.module(bundle.module))

    def close(self) -> None:
        for runtime in self._runtimes.values():
            runtime.linker.close()
        self._runtimes.clear()

    def _bundle(self, code: Code) -> Bundle:
        bundle = self._contents.bundle(code.digest)
        if not bundle.entry:
            raise CodeError("a source needs an entry, the path of its main file: give it (--entry)", field="entry")
        return bundle

    def _runtime(self, bundle: Bundle) -> PreparedProgram:
        runtime = self._runtimes.get(bundle.module)
        if runtime is None:
            compiled = self._maker.program(bundle, lambda: self._contents.module(bundle.module))
            driver = driver_of(bundle.module)
            runtime = link_program(self._engine, compiled.native.path, compiled.facts, driver, self._hosts)
            self._runtimes.put(bundle.module, runtime)
        return runtime
