"""A private folder for as long as somebody needs it, also if its process is killed: the next one clears it away.

Each folder has a lock file that its owner holds locked, which the system releases however the owner ends. A folder with
a lock that can be had belongs to nobody any more. The lock gets its name only when it is held, so no folder is taken
for an abandoned one while it is being made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

from rota.common.errors import StorageFull
from rota.host.files import try_lock

_PREFIX: Final = "rota-read-"
_LOCK: Final = "lock"


class PrivateFolder:
    """A new folder below TMPDIR that nobody else can enter. Call `close` when it is not needed any more."""

    def __init__(self) -> None:
        """Raises `StorageFull` if it cannot be made."""
        _clear_abandoned()
        self._lock: int | None = None
        try:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            self._hold(self.path / "lock.new")
        except OSError as error:
            raise StorageFull(
                f"no folder can be made in {tempfile.gettempdir()}: {error.strerror}; name another one with TMPDIR"
            ) from error

    def close(self) -> None:
        """Remove the folder and what is in it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            shutil.rmtree(self.path, ignore_errors=True)

    def _hold(self, unnamed: Path) -> None:
        self._lock = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o600)
        held = try_lock(self._lock)
        assert held, "nobody else knows this file"
        if sys.platform != "win32":  # there an open file cannot be renamed, and folders of dead processes stay
            os.rename(unnamed, self.path / _LOCK)


def _clear_abandoned() -> None:
    """Remove what processes of this user left that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # not ours, or another process clears it at this moment
            status = os.lstat(folder)
            if stat.S_ISDIR(status.st_mode) and _is_mine(status) and _is_abandoned(folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(lock: Path) -> bool:
    descriptor = os.open(lock, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def _is_mine(status: os.stat_result) -> bool:
    return sys.platform == "win32" or status.st_uid == os.getuid()
