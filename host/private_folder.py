"""A private temporary folder. If its process is killed, the next process that makes one removes it.

Each folder has a lock file that its owner keeps locked; the system releases it however the owner ends. If the lock can
be taken, the folder is abandoned. The lock file gets its name only while locked, so a folder that is being made never
looks abandoned.
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
    """A new folder below TMPDIR, or `parent`, that only its owner can enter. Call `close` to remove it."""

    def __init__(self, parent: Path | None = None, prefix: str = _PREFIX) -> None:
        """Raises `StorageFull` if it cannot be made."""
        place = Path(tempfile.gettempdir()) if parent is None else parent
        _clear_abandoned(place, prefix)
        self._lock: int | None = None
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            self._hold(self.path / "lock.new")
        except OSError as error:
            remedy = "; name another one with TMPDIR" if parent is None else ""
            raise StorageFull(f"no folder can be made in {place}: {error.strerror}{remedy}") from error

    def close(self) -> None:
        """Remove the folder with its content."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            shutil.rmtree(self.path, ignore_errors=True)

    def _hold(self, unnamed: Path) -> None:
        self._lock = os.open(unnamed, os.O_RDWR | os.O_CREAT, 0o600)
        held = try_lock(self._lock)
        assert held, "no other process knows this file"
        if sys.platform != "win32":  # Windows cannot rename an open file; there, folders of dead processes stay
            os.rename(unnamed, self.path / _LOCK)


def _clear_abandoned(place: Path, prefix: str) -> None:
    """Remove the folders that killed processes of this user left."""
    for folder in place.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another user's, or another process is removing it
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
