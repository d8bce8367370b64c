"""A folder of authenticated files: compiled code and images, which are as trusted as this program.

wasmtime accepts artefacts with flipped bytes, so only bytes with our MAC are loaded. The key is a file that only the
owner can read, made once per folder. A file's name is a keyed digest of everything that decides its content, and its
MAC covers the name. A changed or renamed file is never read and no error: its content is made again. If the folder
cannot be written, content is made each time.

Layout of a file: 32 bytes MAC, then the content. Processes may race: each writes its own temporary file and renames it,
and the bytes are equal.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from blake3 import blake3

from rota.common.errors import ConfigError
from rota.host.memory_file import MemoryFile

log = logging.getLogger(__name__)

KEY_FILE: Final = "artefacts.key"
LOCK_FILE: Final = "artefacts.lock"
KEY_BYTES: Final = 32
MAC_BYTES: Final = 32
_PIECE_BYTES: Final = 1 << 18


class Artefacts:
    """The files of one folder. `suffix` of a name is the sort of content, by which `trim` bounds it."""

    def __init__(self, folder: Path) -> None:
        """Use or make the folder. Raises `ConfigError` if it cannot be used or its key is not private."""
        self._dir = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._key = read_or_make_key(folder / KEY_FILE)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be used: {error.strerror}; delete it, it is only a cache") from error

    @property
    def lock_file(self) -> Path:
        """The file by whose lock processes make content one after another."""
        return self._dir / LOCK_FILE

    def name(self, suffix: str, *parts: bytes) -> str:
        """Return the file name of the content that `parts`, each of a fixed length, decide."""
        return blake3(b"name" + b"".join(parts), key=self._key).hexdigest() + suffix

    def read(self, name: str) -> bytes | None:
        """Return the content; None if there is none with a valid MAC for this name."""
        try:
            with (self._dir / name).open("rb") as file:
                mac, content = file.read(MAC_BYTES), file.read()
        except OSError:
            return None
        return content if hmac.compare_digest(mac, self._hasher(name).update(content).digest()) else None

    def read_file(self, name: str) -> MemoryFile | None:
        """Return the content as a sealed file, which cannot change after this check; None as of `read`."""
        hasher, found = self._hasher(name), MemoryFile()
        try:
            with (self._dir / name).open("rb", buffering=0) as file:
                mac, piece = file.read(MAC_BYTES), memoryview(bytearray(_PIECE_BYTES))
                while size := file.readinto(piece):
                    hasher.update(piece[:size])
                    found.write(piece[:size])
        except OSError:
            return None
        found.seal()
        return found if hmac.compare_digest(mac, hasher.digest()) else None

    def has(self, name: str) -> bool:
        """Return whether there is content of this name, valid or not."""
        return (self._dir / name).is_file()

    def touch(self, name: str) -> None:
        """Say that the content is used, so that `trim` keeps it longer."""
        try:
            os.utime(self._dir / name)
        except OSError:
            return

    def keep(self, name: str, content: bytes | MemoryFile) -> None:
        """Write content for the next process; a failure is only logged."""
        try:
            self._write(name, [content] if isinstance(content, bytes) else content.pieces())
        except OSError as error:
            path = self._dir / name
            log.warning("%s cannot be kept (%s): it is made again each time; remove what is there", path, error)

    def trim(self, suffix: str, bytes_max: int) -> None:
        """Remove the longest unused files of this sort until they have at most `bytes_max` bytes together."""
        found: list[tuple[float, int, Path]] = []
        for path in self._dir.glob("*" + suffix):
            with suppress(FileNotFoundError):  # another process removes, too
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
        left = sum(size for _, size, _ in found) - bytes_max
        for _, size, path in sorted(found):
            if left <= 0:
                return
            left -= size
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s cannot be removed (%s): the folder is over its bound of bytes", path, error)

    def _hasher(self, name: str) -> blake3:
        return blake3(b"code" + name.encode(), key=self._key)

    def _write(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        hasher = self._hasher(name)
        descriptor, temporary = tempfile.mkstemp(dir=self._dir, prefix="new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(bytes(MAC_BYTES))
                for piece in pieces:
                    hasher.update(piece)
                    file.write(piece)
                file.seek(0)
                file.write(hasher.digest())
            Path(temporary).replace(self._dir / name)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


def read_or_make_key(path: Path) -> bytes:
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
