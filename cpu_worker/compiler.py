"""A disk cache of compiled modules, authenticated with a key and shared by the workers of a host.

Native code is as trusted as this program, and wasmtime accepts artefacts with flipped bytes, so only bytes with our MAC
are loaded. The key is a file that only the owner can read, made once per run folder. An artefact's name is a keyed
digest of everything that decides its content (module, wasmtime version, profile, processor), and its MAC covers the
name. A changed or renamed artefact is never loaded and no error: the module is compiled again. If the folder cannot be
read or written, code is compiled each time. Compiling happens in a one-shot process (compile_main.py).

Layout of an artefact: 32 bytes MAC, then the result of `Module.serialize`. Workers may race: each writes its own
temporary file and renames it, and the bytes are equal.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from blake3 import blake3
from wasmtime import Engine, Module, WasmtimeError

from rota.common.errors import CodeError, ConfigError
from rota.common.limits import COMPILE_MEMORY_BYTES_MAX, COMPILE_MS_MAX, MODULE_BYTES_MAX
from rota.cpu_worker.compile_main import COPIED_IMAGES, EXIT_INVALID
from rota.cpu_worker.host_limits import why_memory_is_short
from rota.cpu_worker.profile import artefact_scope

log = logging.getLogger(__name__)

KEY_FILE: Final = "artefacts.key"
KEY_BYTES: Final = 32
MAC_BYTES: Final = 32
SUFFIX: Final = ".native"
_MADE_MAX: Final = 4


class Compiler:
    """Compiles modules for one engine."""

    def __init__(self, engine: Engine, artefacts_dir: Path, *, maps_images: bool = True) -> None:
        """Use or make a folder of artefacts. `maps_images`: whether the engine does (see guest_memory.py).

        Raises `ConfigError` if the folder cannot be used or its key is not private.
        """
        self._engine = engine
        self._maps_images = maps_images
        self._dir = artefacts_dir
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._key = _read_or_make_key(artefacts_dir / KEY_FILE)
        except OSError as error:
            raise ConfigError(
                f"{artefacts_dir} cannot be used: {error.strerror}; delete it, it is only a cache"
            ) from error
        self._scope = artefact_scope(engine)
        self.compiled_count = 0
        self._made: dict[bytes, bytes] = {}  # native code by digest, about to be loaded
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # now compiling, by process id
        self._stopped = False

    def is_made(self, digest: bytes) -> bool:
        """Return whether a valid artefact exists, so that loading is fast."""
        if digest in self._made:
            return True
        name = self._name(digest)
        native = self._read(self._path(name), name)
        if native is not None:
            self._hold(digest, native)
        return native is not None

    def make(self, wasm: bytes, digest: bytes) -> None:
        """Compile before `load`, which may be called in another thread. Raises `CodeError` if it does not compile."""
        name = self._name(digest)
        self._hold(digest, self._compile(wasm, digest, name))

    def stop(self) -> None:
        """End the compiling processes; callable from any thread. Their waiting callers get a `CodeError`."""
        self._stopped = True
        for process in list(self._processes.values()):
            process.kill()

    def load(self, wasm: bytes, digest: bytes) -> tuple[Module, int]:
        """Return the compiled module and the size of its code in bytes, from the cache if it is there.

        Raises `CodeError` if it does not compile.
        """
        name = self._name(digest)
        native = self._made.pop(digest, None) or self._read(self._path(name), name)
        if native is None:
            native = self._compile(wasm, digest, name)
        try:
            return Module.deserialize(self._engine, native), len(native)
        except WasmtimeError as error:
            if "os error" in str(error):
                raise CodeError(
                    f"this worker has no room for the code of module {digest.hex()[:16]}: {error}; give it more memory "
                    "(ulimit -v, ulimit -d)"
                ) from None
            # The bytes are ours, so the only remaining reason is a module past the engine's bounds.
            raise CodeError(
                f"module {digest.hex()[:16]} is over a bound of the sandbox (docs/AGENTS.md): {error}"
            ) from None

    def _compile(self, wasm: bytes, digest: bytes, name: str) -> bytes:
        if self._stopped:
            raise CodeError("the worker is ending and compiles nothing more")
        native = compile_apart(wasm, digest, self._processes, maps_images=self._maps_images)
        self.compiled_count += 1
        self._keep(self._path(name), name, native)
        return native

    def _hold(self, digest: bytes, native: bytes) -> None:
        self._made[digest] = native
        if len(self._made) > _MADE_MAX:
            self._made.pop(next(iter(self._made)), None)

    def _name(self, digest: bytes) -> str:
        return blake3(b"name" + self._scope + digest, key=self._key).hexdigest()

    def _path(self, name: str) -> Path:
        return self._dir / (name + SUFFIX)

    def _mac(self, name: str, native: bytes) -> bytes:
        return blake3(b"code" + name.encode() + native, key=self._key).digest()

    def _read(self, path: Path, name: str) -> bytes | None:
        """Return the native code of an artefact; None if there is none with a valid MAC for this name."""
        try:
            data = path.read_bytes()
        except OSError:
            return None
        mac, native = data[:MAC_BYTES], data[MAC_BYTES:]
        return native if hmac.compare_digest(mac, self._mac(name, native)) else None

    def _keep(self, path: Path, name: str, native: bytes) -> None:
        """Write an artefact for the next worker; a failure is only logged."""
        try:
            self._write(path, name, native)
        except OSError as error:
            log.warning("%s cannot be kept (%s): it is compiled again each time; remove what is there", path, error)

    def _write(self, path: Path, name: str, native: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self._dir, prefix="new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._mac(name, native) + native)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


def compile_apart(
    wasm: bytes,
    digest: bytes,
    processes: dict[int, subprocess.Popen[bytes]] | None = None,
    *,
    maps_images: bool = True,
) -> bytes:
    """Compile in a one-shot process and return native code; the process is in `processes` while it runs.

    Raises `CodeError` with the reason.
    """
    short = digest.hex()[:16]
    if len(wasm) > MODULE_BYTES_MAX:
        raise CodeError(f"module {short} has {len(wasm)} bytes, at most {MODULE_BYTES_MAX}: strip it or split it")
    # -P keeps the working directory, which may hold anything, off the module path.
    command = [sys.executable, "-P", "-m", "rota.cpu_worker.compile_main", *([] if maps_images else [COPIED_IMAGES])]
    processes = {} if processes is None else processes
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        processes[process.pid] = process
        try:
            native, said = process.communicate(wasm, timeout=COMPILE_MS_MAX / 1000)
        except subprocess.TimeoutExpired:
            text = f"module {short} took longer than {COMPILE_MS_MAX} ms to compile: make it smaller"
            raise CodeError(text) from None
        finally:
            process.kill()
            del processes[process.pid]
    if process.returncode == 0:
        return native
    text = said.decode(errors="replace").strip()
    if process.returncode == EXIT_INVALID:
        raise CodeError(f"module {short} is not WebAssembly of the profile in docs/AGENTS.md: {text}")
    short_of = why_memory_is_short(COMPILE_MEMORY_BYTES_MAX)
    if short_of:
        raise CodeError(
            f"the compiler of module {short} ended with {process.returncode}, and {short_of}: it may need up to "
            f"{COMPILE_MEMORY_BYTES_MAX} bytes, so give this worker more memory. {text[-500:]}"
        )
    raise CodeError(
        f"the compiler of module {short} ended with {process.returncode}: probably over {COMPILE_MS_MAX} ms of "
        f"processor time or {COMPILE_MEMORY_BYTES_MAX} bytes of memory; make the module smaller. {text[-500:]}"
    )


def _read_or_make_key(path: Path) -> bytes:
    """Return the folder's key: the first process that links its key to the name wins, the others read it."""
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix="key-")  # made with mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            Path(temporary).unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} has {len(key)} bytes, not {KEY_BYTES}: delete the folder, it is only a cache")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others: delete the folder, it is only a cache")
    return key
