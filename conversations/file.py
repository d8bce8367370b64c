"""The SQLite file of a store: make it, open it, and say what is wrong with it.

A file that is foreign, of another version or damaged is refused and never written to. Making the file and switching it
to WAL happen under a lock file, because SQLite does not wait for another process there. WAL and synchronous=FULL: one
fsync per transaction.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rota.common.errors import ConversationError
from rota.host.files import locked, make_private
from rota.host.private_folder import PrivateFolder
from rota.host.sqlite_files import beside, connect, create_sqlite

FORMAT_VERSION: Final = 1
APPLICATION_ID: Final = 0x526F7443  # "RotC"
TABLE: Final = (
    "CREATE TABLE blobs (digest BLOB PRIMARY KEY NOT NULL, data BLOB NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID"
)

_PAGE_BYTES: Final = 4_096
_HEAD_BYTES: Final = 100  # of the file; user version at 60, application id at 68, big-endian
_MAGIC: Final = b"SQLite format 3\x00"
_LOCK_SECONDS: Final = 3.0  # to wait for other writers, each for one fsync; a worker stands still meanwhile

_HELD: Final = f"another process holds it for over {_LOCK_SECONDS:.0f} s; stop that, or try again"


def open_to_write(path: Path, bytes_max: int) -> sqlite3.Connection:
    """Open a store for reading and writing; make it if there is none. It cannot grow over `bytes_max`.

    Raises `ConversationError`, `OSError` or `sqlite3.Error`; use it in a `usable` block.
    """
    with locked(beside(path, ".lock"), exclusive=True, wait_s=_LOCK_SECONDS):
        if not path.exists() or not path.stat().st_size:
            _make(path)
        _check_head(path)
        for file in (path, beside(path, "-wal"), beside(path, "-shm")):
            if file.exists():
                make_private(file)
        connection = connect(path, "rw", _LOCK_SECONDS)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA max_page_count = {max(1, bytes_max // _PAGE_BYTES)}").fetchone()
            _check_schema(path, connection)
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def opened_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a store that another process may be writing to, for the block only, and leave no files beside it.

    Raises as `open_to_write` does.
    """
    _check_head(path)
    with contextlib.ExitStack() as stack:
        wal, shared = beside(path, "-wal"), beside(path, "-shm")
        mode = "ro"
        if not wal.exists() or (not wal.stat().st_size and not shared.exists()):
            mode = "ro&immutable=1"  # there is no writer; otherwise SQLite would leave files
        elif not os.access(shared, os.W_OK):  # a copy of a run that was killed, or one that only its owner may change
            path = _copied(path, stack)
        connection = stack.enter_context(contextlib.closing(connect(path, mode, _LOCK_SECONDS)))
        _check_schema(path, connection)
        yield connection


def _copied(path: Path, stack: contextlib.ExitStack) -> Path:
    """Return a private copy of a store with its WAL, for the time of the stack."""
    private = PrivateFolder()
    stack.callback(private.close)
    for suffix in ("", "-wal"):
        shutil.copyfile(beside(path, suffix), beside(private.path / path.name, suffix))
    return private.path / path.name


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turn errors of the disk and of SQLite in the block into `ConversationError`s with the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")  # errors raised by Python's module itself have none
        if name.startswith("SQLITE_BUSY"):
            why = _HELD
        elif name == "SQLITE_FULL":
            why = (
                "the disk is full, or the store is at its limit; free some space, or remove old ones by `rota compact`"
            )
        elif name.startswith("SQLITE_IOERR"):
            why = f"{error}; look for free space and the health of the disk"
        else:
            why = f"{error}; move it away with its -wal file, or restore both from a copy"
        raise ConversationError(f"the conversations in {path} cannot be used: {why}", path=str(path)) from error
    except OSError as error:
        why = _HELD if isinstance(error, TimeoutError) else f"{error.strerror}; check the folder and its rights"
        raise ConversationError(
            f"the conversations in {path} cannot be used: {why}",
            path=str(path),
        ) from error


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what tells this file from another one of the same path; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _make(path: Path) -> None:
    """Make an empty store. The caller holds the lock."""
    for stale in ("-wal", "-shm"):  # of a store that was removed without them: they belong to no file
        beside(path, stale).unlink(missing_ok=True)
    marks = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {FORMAT_VERSION}")
    create_sqlite(path, (*marks, TABLE), _PAGE_BYTES)


def _check_head(path: Path) -> None:
    """Check the first bytes without SQLite, which would write to an empty file and to a foreign one with a WAL."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    version, application = int.from_bytes(head[60:64]), int.from_bytes(head[68:72])
    if head[:16] != _MAGIC or len(head) < _HEAD_BYTES or application != APPLICATION_ID:
        raise _refusal(path, "it is another kind of file")
    if version != FORMAT_VERSION:
        raise _refusal(path, f"it has format version {version}; this rota reads version {FORMAT_VERSION}")


def _check_schema(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse foreign tables, views and triggers: reading them could run foreign SQL."""
    for name, statement in connection.execute("SELECT name, sql FROM sqlite_schema"):
        if statement != TABLE:
            raise _refusal(path, f"it holds {name!r}, which is not as this version of rota makes it")


def _refusal(path: Path, why: str) -> ConversationError:
    return ConversationError(
        f"{path} is no store of conversations that can be used: {why}. Nothing was written to it; move it away with "
        "its -wal file, or restore both from a copy",
        path=str(path),
    )
