"""Copies a run file that a broker may be writing, into one file with all durable records.

Why the copy is consistent: SQLite changes the run file only by moving frames of the WAL into it, and starts a new WAL
only when all are moved (https://www.sqlite.org/wal.html). So a copy of the file, with the WAL copied after it, is a
state of the journal, unless a new WAL was started in between, which shows in its header. In that case, or if the WAL
was copied in the middle of a write, the copy is retried, a bounded number of times.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Final

from rota.broker.run_file import RunFile
from rota.broker.run_file_end import NOTE_SUFFIX, check_regular
from rota.common.errors import JournalError
from rota.host.sqlite_files import beside

_LOOKS_MAX: Final = 10
_LOOK_AGAIN_SECONDS: Final = 0.02  # a broker starts a new WAL within far less
_WAL_HEAD_BYTES: Final = 32


def copy_run_file(source: Path, copy: Path) -> None:
    """Copy all durable records of a run file and its WAL into the file `copy`, closed cleanly.

    The source is not changed. Raises `JournalError` if it cannot be used, `OSError` if it cannot be copied.
    """
    check_regular(source)
    _copy_whole(source, copy)
    _close_in_order(copy)


def _copy_whole(source: Path, copy: Path) -> None:
    """Copy a run file and its WAL until the two are consistent and the journal can be opened."""
    wal_copy = beside(copy, "-wal")
    for look in range(1, _LOOKS_MAX + 1):
        before = _state_of(source)
        _copy_if_there(source, copy, NOTE_SUFFIX)  # before the records that it counts
        shutil.copyfile(source, copy)
        _copy_if_there(source, copy, "-wal")
        if _state_of(source) == before:
            try:
                with contextlib.closing(RunFile.open(copy, read_only=True)) as run_file:
                    run_file.extent()
                return
            except JournalError:
                if look == _LOOKS_MAX or not wal_copy.exists():
                    raise
        time.sleep(_LOOK_AGAIN_SECONDS)
    raise JournalError(f"{copy} is written to without a pause: copy the run while no broker works in it")


def _copy_if_there(source: Path, copy: Path, suffix: str) -> None:
    beside(copy, suffix).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):  # closed cleanly: all records are in the file
        shutil.copyfile(beside(source, suffix), beside(copy, suffix))


def _state_of(source: Path) -> tuple[object, ...]:
    """Return values that stay the same until a new WAL is started."""
    try:
        with beside(source, "-wal").open("rb") as file:
            head = file.read(_WAL_HEAD_BYTES)
    except FileNotFoundError:
        head = b""
    if any(head):
        return (head,)
    status = source.stat()
    return (head, status.st_size, status.st_mtime_ns)


def _close_in_order(copy: Path) -> None:
    """Move the records of a private copy's WAL into the file, and mark it as cleanly closed."""
    beside(copy, NOTE_SUFFIX).unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            connection.execute("UPDATE head SET open = 0 WHERE open = 1")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise JournalError(f"{copy} is not a run file that can be used: {error}") from error
