"""Our SQLite files: make, open, read, and change in durable transactions.

A file that is foreign, damaged, or of another format version is refused and never written to. So a file is opened for
writing only at the first change, after it was read, because SQLite moves a WAL into its file even on close. WAL and
synchronous=FULL: one fsync per transaction.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rota.broker.wal import find_damage
from rota.common.errors import JournalError, RotaError, StorageFull
from rota.host.files import make_private
from rota.host.sqlite_files import beside, connect, create_sqlite

_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_HEAD_BYTES: Final = 100  # of the file; user version at 60, application id at 68, big-endian
_LOCK_SECONDS: Final = 1.0  # to wait for another writer; less than workers wait for a heartbeat
_PAGE_BYTES: Final = 4_096
_CHECKPOINT_PAGES: Final = 2_048  # 8 MiB of WAL between checkpoints: each costs two more fsyncs and copying
_CHECKED_WHOLE_BYTES: Final = 64 << 20  # files up to this size are checked page by page at each start
_WAL_BYTES: Final = 32 + _CHECKPOINT_PAGES * (
    24 + _PAGE_BYTES
)  # header and frames: https://www.sqlite.org/fileformat2.html


class SqliteFile:
    """An open file. It is opened for reading, and with the first change for writing, unless `read_only`."""

    def __init__(self, path: Path, schema: tuple[str, ...], *, read_only: bool = False) -> None:
        """Raises `JournalError` unless the file was made with `create_file` and the same schema."""
        self.path = path
        self._schema = schema
        self._read_only = read_only
        self._can_write = False
        try:
            _check_head(path, schema)
            damage = find_damage(beside(path, "-wal"))
            if damage:
                raise refusal(path, f"its {path.name}-wal is damaged: {damage}")
            self._connection = connect(path, _reading_mode(path), _LOCK_SECONDS)
        except (sqlite3.Error, OSError) as error:
            raise not_usable(path, error) from error

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a query. Raises `JournalError` if the file is damaged there."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter if the message has a damaged name
            raise not_usable(self.path, error) from error

    def begin_reading(self) -> None:
        """Begin a read transaction, until `end_reading`."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")  # of a reader that did not finish
        self._connection.execute("BEGIN")

    def cursor(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Run a query and yield its rows. Raises what SQLite raises."""
        return self._connection.execute(statement, values)

    def end_reading(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for changes, which are atomic, and durable at the end of the `with` block.

        Raises `StorageFull` if they could not be written; then nothing has changed.
        """
        self.begin_writing()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._abandon()
            if isinstance(error, sqlite3.OperationalError):
                raise StorageFull(f"{self.path}: {error}", reason=str(error)) from error
            raise

    def checkpoint(self) -> None:
        """Checkpoint: move the WAL's content into the file, as far as room and readers allow."""
        with contextlib.suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def shrink(self) -> None:
        """Rewrite the file in place without its unused pages; atomic even in a crash.

        Raises `StorageFull` if there is no room for both versions.
        """
        self.begin_writing()
        try:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            raise StorageFull(f"{self.path} cannot be made smaller: {error}", reason=str(error)) from error

    def reserve(self) -> None:
        """Allocate the WAL's full size now, as zeros: an fsync without a change of size takes half the time.

        Frames are valid only with the right salts and checksums, so zeros after the last one are as harmless as the
        stale frames that SQLite leaves there. Without room the WAL grows as it is used.
        """
        self.begin_writing()
        with beside(self.path, "-wal").open("r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            missing = max(0, _WAL_BYTES - size)
            try:
                has_room = file.write(bytes(missing)) == missing  # without enough room it writes less
                os.fsync(file.fileno())
            except OSError:
                has_room = False
            if not has_room:  # do not use up the last free space
                file.truncate(size)

    def size_bytes(self) -> int:
        """Return the size of all pages, wherever they are. Only `shrink` makes it smaller."""
        pages: int
        page_bytes: int
        ((pages,),), ((page_bytes,),) = self.rows("PRAGMA page_count"), self.rows("PRAGMA page_size")
        return pages * page_bytes

    def check_pages(self) -> None:
        """Have SQLite check every page, unless the file is too large for that; docs/decisions/0008."""
        if self.size_bytes() <= _CHECKED_WHOLE_BYTES:
            ((verdict,),) = self.rows("PRAGMA quick_check(1)")
            if verdict != "ok":
                raise refusal(self.path, str(verdict))

    def check_schema(self) -> None:
        """Refuse foreign tables, views and triggers: reading them could run foreign SQL, even an endless loop."""
        for name, statement in self.rows("SELECT name, sql FROM sqlite_schema"):
            if statement not in self._schema:
                raise refusal(self.path, f"it holds {name!r}, which is not as this version of rota makes it")

    def close(self) -> None:
        """Close the file. Unless it was only read, SQLite moves the WAL into it."""
        self._connection.close()

    def begin_writing(self) -> None:
        """Open the file for writing, unless it is already. Raises `JournalError` or `StorageFull`."""
        if self._can_write:
            return
        assert not self._read_only, "it was opened to be read"
        self._connection.close()
        for file in (self.path, beside(self.path, "-wal"), beside(self.path, "-shm")):
            if file.exists():
                make_private(file)
        try:
            self._connection = connect(self.path, "rw", _LOCK_SECONDS)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            self._connection.execute("PRAGMA journal_size_limit = -1")  # else SQLite may cut the WAL that is reserved
            # Remains of a crash's last commit must not stay behind the frames written from now on: together with those
            # of the next crash they would look like lost commits (wal.py).
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise not_usable(self.path, error) from error
        self._can_write = True

    def _abandon(self) -> None:
        """Roll back; SQLite may have done so by itself, and on a full disk even that can fail."""
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                assert not self._connection.in_transaction


def create_file(path: Path, schema: tuple[str, ...], first_rows: tuple[str, ...]) -> None:
    """Make a file. Raises `JournalError` if there is a WAL of another one."""
    wal = beside(path, "-wal")
    if wal.exists() and wal.stat().st_size:
        raise refusal(path, f"it is not there, but its {path.name}-wal is; the two belong together")
    create_sqlite(path, (*schema, *first_rows), _PAGE_BYTES)


def rows_beside_a_writer(path: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run a query on a file that another process may be writing, and leave no files beside it.

    The connection is open only for this query, so that it does not block the writer's checkpoints. Raises
    `JournalError`.
    """
    if beside(path, "-wal").exists() and not beside(path, "-shm").exists():
        return []  # a writer is just starting or ending, or the pair is a copy without a writer
    try:
        with contextlib.closing(connect(path, _reading_mode(path), _LOCK_SECONDS)) as connection:
            return connection.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        raise JournalError(f"{path} cannot be read any more: {error}; start again") from error


def not_usable(path: Path, error: Exception, where: str = "") -> RotaError:
    """Return the error for a damaged file or a full disk; even reading needs room, for the -shm file."""
    name = getattr(error, "sqlite_errorname", "")  # errors raised by Python's module itself have none
    if name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"):
        return StorageFull(f"{path} cannot be written: {error}; free some space and start again", reason=str(error))
    return refusal(path, f"{where}{error}")


def refusal(path: Path, why: str, remedy: str = "") -> JournalError:
    """Return the error for a bad file, with the remedy."""
    usual = "move it away together with its -wal file, restore both from a copy, or start in another folder with --dir"
    return JournalError(
        f"{path} is not a run file that can be used: {why}. Nothing was written to it; {remedy or usual}",
        path=str(path),
    )


def _reading_mode(path: Path) -> str:
    """Return the URI mode. A file without WAL has no writer: it is opened as immutable, or SQLite would leave files."""
    return "ro" if beside(path, "-wal").exists() else "ro&immutable=1"


def _check_head(path: Path, schema: tuple[str, ...]) -> None:
    """Check the first bytes without SQLite, which would write to an empty file and to a foreign one with a WAL."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[:16] != _SQLITE_MAGIC or len(head) < _HEAD_BYTES:
        raise refusal(path, "it does not begin like an SQLite file" if head else "it is empty")
    version, application = int.from_bytes(head[60:64]), int.from_bytes(head[68:72])
    if f"PRAGMA application_id = {application}" not in schema:
        raise refusal(path, "an SQLite file, but not one of rota's")
    if f"PRAGMA user_version = {version}" not in schema:
        raise refusal(path, f"format version {version}; this rota reads version {_version_in(schema)}")


def _version_in(schema: tuple[str, ...]) -> str:
    return next(one.rpartition(" ")[2] for one in schema if one.startswith("PRAGMA user_version"))
