"""What plain files need beyond `open`: locks between processes, durable names, real space, and disk errors in our
words.

Here and nowhere else the differences between POSIX and Windows are settled, so that stores read the same on both. A
lock lasts until its descriptor is closed, also by the death of the process.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rota.common.errors import TensorError

PRIVATE_FOLDER_MODE: Final = 0o700
PRIVATE_FILE_MODE: Final = 0o600
_WRITE_BYTES_MAX: Final = 1 << 30  # Linux writes at most 2 GiB - 4 KiB per call (write(2), notes)
_ZEROS: Final = bytes(1 << 20)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, exclusive: bool, wait: bool) -> bool:
        # Windows has no shared lock here; an exclusive one is slower and as right. LK_LOCK itself gives up after ten
        # seconds.
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False

else:
    import fcntl

    def _lock(descriptor: int, exclusive: bool, wait: bool) -> bool:
        mode = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        try:
            fcntl.flock(descriptor, mode)
        except BlockingIOError:
            return False
        return True


@contextmanager
def locked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock file at `path` for the block. Opened anew each time: a shared descriptor would share the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE)
    try:
        _lock(descriptor, exclusive, wait=True)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Lock an open file for its own use, and say whether that worked."""
    return _lock(descriptor, exclusive=True, wait=False)


def private_opener(path: str, flags: int) -> int:
    """The `opener` of `open` for files of a run folder: what it makes is the owner's alone, whatever the umask."""
    return os.open(path, flags, PRIVATE_FILE_MODE)


def make_private(path: Path) -> None:
    """Close a file or folder to everybody but its owner. A link, and what is somebody else's, stay as they are."""
    mode = path.lstat().st_mode
    if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
        with suppress(PermissionError):
            path.chmod(PRIVATE_FOLDER_MODE if stat.S_ISDIR(mode) else PRIVATE_FILE_MODE)


def allocate(descriptor: int, size: int) -> None:
    """Give a file its size in real blocks. A hole would turn a full disk into SIGBUS at some later write to the map."""
    if sys.platform == "linux" or hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for start in range(0, size, len(_ZEROS)):
        write_all(descriptor, _ZEROS[: size - start])


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the current position."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest[:_WRITE_BYTES_MAX]) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Windows has no such call: NTFS journals its names."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def unlink(path: Path) -> int | None:
    """Remove a file and return its size: 0 if it was gone already, None if the system still holds it (Windows,
    mapped)."""
    try:
        size = path.stat().st_size
        if sys.platform == "win32":
            path.chmod(0o600)  # a read-only file cannot be removed there
        path.unlink()
    except FileNotFoundError:
        return 0
    except PermissionError:
        return None
    return size


@contextmanager
def disk_errors(doing: str, folder: Path, needed_bytes: int) -> Iterator[None]:
    """Turn errors of the disk inside the block into `TensorError`s that name what was tried and what helps."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(folder).free
            why = f"{free} are free at {folder}; free some space"
            if error.errno == errno.EFBIG:
                why = "the file size limit of this process is lower (ulimit -f); raise it"
            raise TensorError(
                f"no room to {doing}: {needed_bytes} bytes are needed and {why}",
                needed_bytes=needed_bytes,
                free_bytes=free,
            ) from error
        where = error.filename or folder
        raise TensorError(f"cannot {doing}: {error.strerror} ({where}); check the folder and its rights") from error
