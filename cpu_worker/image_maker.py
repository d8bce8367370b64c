"""Makes and keeps what sources run on: compiled runtimes, base images, images of sources.

Compiled runtimes and base images are kept per user (a runtime compiles for 20 s), images of sources per run; both in
folders of authenticated artefacts. Names cover all that decides the content, so nothing is ever out of date. Whatever
is missing is made, in one-shot processes: the runtime is compiled, started to the base image, and the source is loaded
into that. Processes that need the same runtime at the same time wait for the first.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from wasmtime import Engine

from rota.common.bundle import RESERVED_FOLDER, Bundle
from rota.common.digests import digest_of
from rota.common.errors import CodeError, ConfigError
from rota.common.limits import IMAGE_MS_MAX, IMAGES_KEPT_BYTES
from rota.cpu_worker import module_split
from rota.cpu_worker.artefacts import Artefacts
from rota.cpu_worker.compile_main import COPIED_IMAGES, EXIT_INVALID, RUNTIME, was_killed
from rota.cpu_worker.compiler import KILLED, compile_apart
from rota.cpu_worker.host_limits import why_memory_is_short
from rota.cpu_worker.image import (
    BASE_SUFFIX,
    FORMAT,
    IMAGE_SUFFIX,
    PROGRAM_SUFFIX,
    CompiledProgram,
    Image,
    file_of,
    read_image,
    read_program,
)
from rota.cpu_worker.image_making import BaseImage, Order, encode_order
from rota.cpu_worker.one_shot import OneShots
from rota.cpu_worker.profile import IMAGE_FUEL, IMAGE_MEMORY_BYTES, artefact_scope
from rota.cpu_worker.recent import Recent
from rota.host.files import locked
from rota.host.memory_file import MemoryFile
from rota.runtimes.driver import Driver
from rota.runtimes.drivers import driver_of
from rota.worker.executor import HostFault

log = logging.getLogger(__name__)

COMPILED: Final = "compiled"  # the folder of compiled runtimes, in that of runtimes
RUNTIMES_MAX: Final = 4  # that a worker keeps
_MADE_MAX: Final = 2
_LOCK_WAIT_S: Final = 0.2
_TEXT_CHARS_MAX: Final = 4_000


class ImageMaker:
    """Makes images for one engine. All but the constructor may be called in any thread."""

    def __init__(self, engine: Engine, artefacts_dir: Path, runtimes_dir: Path, *, maps_images: bool) -> None:
        """`artefacts_dir` is of the run, `runtimes_dir` of the user. Raises `ConfigError` if the first is unusable."""
        self._maps_images = maps_images
        self._own = Artefacts(artefacts_dir)
        self._shared_dir = runtimes_dir / COMPILED
        self._shared_artefacts: Artefacts | None = None
        self._scope = artefact_scope(engine)
        self._made: Recent[bytes, Image] = Recent(_MADE_MAX)  # about to be loaded, by the bundle's digest
        # By the runtime's digest; the engine maps the same files.
        self._programs: Recent[bytes, CompiledProgram] = Recent(RUNTIMES_MAX)
        self._shots = OneShots()
        self.made_count = 0  # of processes that ended well

    def is_made(self, bundle: Bundle, digest: bytes) -> bool:
        """Return whether everything for a source is there, so that loading it is fast."""
        if digest in self._made:
            return True
        names = _Names(self._scope, bundle, digest)
        if not self._shared.has(names.program(self._shared)):
            return False
        image = self._read(self._own, names.image)
        if image is not None:
            self._made.put(digest, read_image(image))
        return image is not None

    def make(self, bundle: Bundle, digest: bytes, module: Callable[[], bytes]) -> None:
        """Make what is missing for a source; `module` gives the runtime's bytes. Raises `CodeError` with the reason."""
        self._made.put(digest, self._image(bundle, digest, module))

    def image(self, bundle: Bundle, digest: bytes, module: Callable[[], bytes]) -> Image:
        """Return the image of a source, made if it is not there. Raises `CodeError` with the reason."""
        return self._made.take(digest) or self._image(bundle, digest, module)

    def program(self, bundle: Bundle, module: Callable[[], bytes]) -> CompiledProgram:
        """Return the compiled runtime of a source, made if it is not there. Raises `CodeError` with the reason."""
        found = self._programs.get(bundle.module)
        if found is None:
            names, driver = _Names(self._scope, bundle, b""), driver_of(bundle.module)
            made = self._kept(self._shared, names.program, lambda: self._compile(bundle.module, module(), driver))
            found = read_program(made)
            self._programs.put(bundle.module, found)
        return found

    def stop(self) -> None:
        """End the processes; callable from any thread. Their waiting callers get a `CodeError`."""
        self._shots.stop()

    def _image(self, bundle: Bundle, digest: bytes, module: Callable[[], bytes]) -> Image:
        names = _Names(self._scope, bundle, digest)
        image = self._read(self._own, names.image)
        if image is None:
            driver, compiled = driver_of(bundle.module), self.program(bundle, module)
            base = self._kept(self._shared, names.base, lambda: self._make_base(driver, compiled, bundle, module()))
            image = self._run(_image_order(driver, compiled, read_image(base), bundle), (compiled.native, base))
            self._own.keep(names.image(self._own), image)
            self._own.trim(IMAGE_SUFFIX, IMAGES_KEPT_BYTES)
        return read_image(image)

    def _make_base(self, driver: Driver, compiled: CompiledProgram, bundle: Bundle, wasm: bytes) -> MemoryFile:
        memory = module_split.split_module(wasm, driver.exports).memory
        return self._run(_base_order(driver, compiled, memory, bundle), (compiled.native,))

    @property
    def _shared(self) -> Artefacts:
        """The user's folder; that of the run if it cannot be used."""
        if self._shared_artefacts is None:
            try:
                self._shared_artefacts = Artefacts(self._shared_dir)
            except ConfigError as error:
                log.warning("compiled runtimes are kept in the run folder: %s", error.message)
                self._shared_artefacts = self._own
        return self._shared_artefacts

    def _read(self, artefacts: Artefacts, name: Callable[[Artefacts], str]) -> MemoryFile | None:
        found = name(artefacts)
        content = artefacts.read_file(found)
        if content is not None:
            artefacts.touch(found)
        return content

    def _kept(
        self, artefacts: Artefacts, name: Callable[[Artefacts], str], make: Callable[[], MemoryFile]
    ) -> MemoryFile:
        """Return content of the user, made by one process at a time if it is not there."""
        content = self._read(artefacts, name)
        if content is not None:
            return content
        with self._turn(artefacts):
            content = self._read(artefacts, name)
            if content is None:
                content = make()
                artefacts.keep(name(artefacts), content)
                for suffix in (PROGRAM_SUFFIX, BASE_SUFFIX):
                    artefacts.trim(suffix, IMAGES_KEPT_BYTES)
        return content

    @contextmanager
    def _turn(self, artefacts: Artefacts) -> Iterator[None]:
        with ExitStack() as held:
            while True:
                self._shots.check_going_on("makes")
                try:
                    held.enter_context(locked(artefacts.lock_file, exclusive=True, wait_s=_LOCK_WAIT_S))
                    break
                except TimeoutError:
                    continue
                except OSError:  # a folder that can only be read: then content is made without waiting, and not kept
                    break
            yield

    def _compile(self, digest: bytes, wasm: bytes, driver: Driver) -> MemoryFile:
        split = module_split.split_module(wasm, driver.exports)
        log.info("compiling the runtime %s (%s), once per user: it takes seconds", driver.name, digest.hex()[:16])
        self._shots.check_going_on("makes")
        options = [RUNTIME] if self._maps_images else [RUNTIME, COPIED_IMAGES]
        native = compile_apart(split.wasm, digest, self._shots, options=options)
        self.made_count += 1
        return file_of(native, split.program)

    def _run(self, order: Order, files: Sequence[MemoryFile]) -> MemoryFile:
        """Make an image in a one-shot process, which has these files open, and return it."""
        self._shots.check_going_on("makes")
        what = order.entry or f"the runtime {order.driver}"
        try:
            given = encode_order(order._replace(copies_images=not self._maps_images))
            returncode, image, text = self._one_shot(given, files)
        except subprocess.TimeoutExpired:
            raise CodeError(f"{what} took longer than {IMAGE_MS_MAX} ms to load: let it do less") from None
        except OSError as error:
            raise CodeError(f"{what} cannot be loaded by this worker: {error.strerror}") from None
        if returncode == 0:
            self.made_count += 1
            return image
        if returncode == EXIT_INVALID:
            raise CodeError(_shortened(text))
        self._shots.check_going_on("makes")
        if was_killed(returncode):
            raise HostFault(f"the process that loads {what} {KILLED}")
        short_of = why_memory_is_short(IMAGE_MEMORY_BYTES)
        log.warning("the process that loads %s ended with %d: %s", what, returncode, text[-500:])  # paths of this host
        raise CodeError(
            f"the process that loads {what} ended with {returncode}{', and ' + short_of if short_of else ''}: "
            f"probably over its memory or {IMAGE_MS_MAX} ms of processor time"
        )

    def _one_shot(self, order: bytes, files: Sequence[MemoryFile]) -> tuple[int, MemoryFile, str]:
        """Run the process of image_main.py; return its exit code, the image and what it said."""
        descriptors = [descriptor for file in files for descriptor in file.descriptors]
        made = MemoryFile()
        arguments = ["rota.cpu_worker.image_main"]
        ended = self._shots.run(arguments, order, IMAGE_MS_MAX, stdout=made.fileno(), descriptors=descriptors)
        made.seal()
        return ended.returncode, made, ended.said


class _Names:
    """The names of the artefacts of a source, each a function of the folder, whose key is in it."""

    def __init__(self, scope: bytes, bundle: Bundle, digest: bytes) -> None:
        driver = driver_of(bundle.module)
        imports = [[*key, str(function.type)] for key, function in sorted(driver.imports.items())]
        rules = [scope, FORMAT, module_split.FORMAT, driver.name, driver.version, list(driver.exports), imports]
        self._program = digest_of([*rules, bundle.module])
        boot = [list(file) for file in _boot_files(bundle)]
        self._base = digest_of([self._program, list(driver.args), boot, IMAGE_FUEL, IMAGE_MEMORY_BYTES])
        self._image = digest_of([self._base, digest])

    def program(self, artefacts: Artefacts) -> str:
        return artefacts.name(PROGRAM_SUFFIX, self._program)

    def base(self, artefacts: Artefacts) -> str:
        return artefacts.name(BASE_SUFFIX, self._base)

    def image(self, artefacts: Artefacts) -> str:
        return artefacts.name(IMAGE_SUFFIX, self._image)


def _boot_files(bundle: Bundle) -> list[tuple[str, bytes]]:
    return [(file.path, file.data) for file in bundle.files if file.path.startswith(RESERVED_FOLDER + "/")]


def _base_order(driver: Driver, compiled: CompiledProgram, memory: bytes, bundle: Bundle) -> Order:
    native, facts = compiled
    files = tuple(_boot_files(bundle))
    return Order(driver.name, native.path, facts, memory, None, "", (), (), files, copies_images=False)


def _image_order(driver: Driver, compiled: CompiledProgram, base: Image, bundle: Bundle) -> Order:
    native, facts = compiled
    begun = BaseImage(base.native.path, base.facts)
    files = tuple([(file.path, file.data) for file in bundle.files])
    return Order(
        driver.name, native.path, facts, b"", begun, bundle.entry, bundle.args, bundle.env, files, copies_images=False
    )


def _shortened(text: str) -> str:
    """Return a text whose middle is left out if it is long: both its ends matter."""
    half = _TEXT_CHARS_MAX // 2
    return text if len(text) <= _TEXT_CHARS_MAX else f"{text[:half]}\n[...]\n{text[-half:]}"
