"""Ensures one broker per run folder: a lock that the system releases when its holder ends in any way."""

from __future__ import annotations

import sys
from pathlib import Path

from rota.common.errors import ConfigError
from rota.host.files import private_opener


class FolderLock:
    """Held during a `with` block. Raises `ConfigError` if another process holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> FolderLock:
        try:
            self._file = open(self._path, "a+b", opener=private_opener)
        except OSError as error:
            raise ConfigError(
                f"{self._path} cannot be written: {error.strerror}; name a folder that is yours with --dir",
                dir=str(self._path.parent),
            ) from error
        try:
            _lock(self._file.fileno())
        except OSError:
            self._file.close()
            raise ConfigError(
                f"another broker works in {self._path.parent}: use it, stop it, or name another folder with --dir",
                dir=str(self._path.parent),
            ) from None
        return self

    def __exit__(self, *_exception: object) -> None:
        self._file.close()


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
