"""File operations beyond `open`: locks between processes, durable names, allocation, and typed disk errors.

Only this file knows the differences between POSIX and Windows, so that the stores need no cases. A lock is held until
its descriptor is closed, which the death of the process does too.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rota.common.errors import TensorError

PRIVATE_FOLDER_MODE: Final = 0o700
PRIVATE_FILE_MODE: Final = 0o600
_WRITE_BYTES_MAX: Final = 1 << 30  # Linux writes at most 2 GiB - 4 KiB per call (write(2), notes)
_ZEROS: Final = bytes(1 << 20)
_LOCK_POLL_S: Final = 0.02
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, exclusive: bool, wait: bool) -> bool:
        # msvcrt has no shared lock; an exclusive one is slower and just as correct. LK_LOCK gives up after 10 s.
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
def locked(path: Path, *, exclusive: bool, wait_s: float | None = None) -> Iterator[None]:
    """Hold the lock file at `path` for the block. It is opened each time, since a shared descriptor shares the lock.

    Raises `TimeoutError` if it is not to be had within `wait_s`, if that is given.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE)
    try:
        ends_at = None if wait_s is None else time.monotonic() + wait_s
        while not _lock(descriptor, exclusive, wait=ends_at is None):
            if ends_at is not None and time.monotonic() > ends_at:
                raise TimeoutError(f"another process holds {path}")
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Try to lock an open file exclusively; return whether that worked."""
    return _lock(descriptor, exclusive=True, wait=False)


def private_opener(path: str, flags: int) -> int:
    """The `opener` of `open` for files of a run folder: new files are private to the owner, whatever the umask."""
    return os.open(path, flags, PRIVATE_FILE_MODE)


def regular_opener(path: str, flags: int) -> int:
    """The `opener` of `open` for files that anybody may have put there: a pipe is an `OSError` and not waited for."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # `open` itself refuses a folder
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return descriptor


def make_private(path: Path) -> None:
    """Make a file or folder accessible to its owner only. Links and other users' files stay as they are."""
    mode = path.lstat().st_mode
    if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
        with suppress(PermissionError):
            path.chmod(PRIVATE_FOLDER_MODE if stat.S_ISDIR(mode) else PRIVATE_FILE_MODE)


def allocate(descriptor: int, size: int) -> None:
    """Allocate the blocks of a file. With holes, a full disk would mean SIGBUS at a later write to the map."""
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
    """Remove a file; return its size, 0 if it was gone already, None if it is still mapped (Windows)."""
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
    """Turn disk errors in the block into `TensorError`s that name the operation and the remedy."""
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
