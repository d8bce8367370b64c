"""The journal: one SQLite file, appended in transactions, chained by digest.

Who writes here waits for the disk: `append` returns when the records are durable (WAL, synchronous=FULL: one fsync per
transaction). Every record carries H(chain before it, its body), so that a changed, missing or reordered record is found
when the file is read, and the place is named. A file that is not ours, of another format version, or damaged is refused
and never written to: it is opened for writing only when all of it has been read, because SQLite moves a WAL into its
file even when it only closes it.

What records mean is in records.py; how to change the format stands there and in docs/JOURNAL.md.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from blake3 import blake3

from rota.broker import records
from rota.broker.wal import find_damage
from rota.common.digests import ZERO_DIGEST
from rota.common.errors import JournalError, RotaError, StorageFull
from rota.common.file_kit import sync_folder

APPLICATION_ID: Final = 0x524F5441  # "ROTA"
_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_HEAD_BYTES: Final = 100  # of the file; user version at 60, application id at 68, big-endian
_LOCK_SECONDS: Final = 1.0  # for another program that writes to the file; workers wait longer for a sign of life
_CHECKPOINT_PAGES: Final = 2_048  # 8 MiB of WAL between checkpoints: each costs two fsyncs more, and its copying
_WAL_BYTES: Final = 32 + _CHECKPOINT_PAGES * (24 + 4_096)  # header and frames: https://www.sqlite.org/fileformat2.html
_SCHEMA: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {records.FORMAT_VERSION}",
    """CREATE TABLE records (
        number INTEGER PRIMARY KEY,  -- dense, from 1
        body   BLOB NOT NULL,        -- canonical MessagePack, records.py
        chain  BLOB NOT NULL         -- BLAKE3 of the chain before and the body
    ) STRICT""",
)


class Journal:
    """An open run file. Read all of it once; from then on only `append` is called."""

    def __init__(self, path: Path, connection: sqlite3.Connection, read_only: bool) -> None:
        self.path = path
        self.last_number = 0
        self._chain = ZERO_DIGEST
        self._connection = connection
        self._read_only = read_only
        self._can_append = False

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Journal:
        """Open a run file, or make a new one where there is none. Call `read` next.

        Raises `JournalError` for a file that is not a run file of this format version.
        """
        try:
            if not path.exists() and not read_only:
                _create(path)
            _check_head(path)
            damage = find_damage(_beside(path, "-wal"))
            if damage:
                raise _refusal(path, f"its {path.name}-wal is damaged: {damage}")
            return cls(path, _connect(path, "ro"), read_only)
        except (sqlite3.Error, FileNotFoundError) as error:
            raise _not_usable(path, error) from error

    def read(self) -> Iterator[records.Record]:
        """Yield every record from the first to the last, and make the journal ready to append.

        Raises `JournalError` at the first record that is damaged, missing or out of its place.
        """
        try:
            self._check_schema()
            # The chain cannot tell that records are missing at the end; a page that nothing points to tells.
            (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _refusal(self.path, str(verdict))
            for number, body, chain in self._connection.execute(
                "SELECT number, body, chain FROM records ORDER BY number"
            ):
                if number != self.last_number + 1:
                    raise _refusal(self.path, f"record {self.last_number + 1} is missing before record {number}")
                self._chain = link(self._chain, body)
                if chain != self._chain:
                    raise _refusal(
                        self.path, f"record {number} is damaged: its digest does not follow from the one before"
                    )
                self.last_number = number
                yield records.decode(body)
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a damaged name stands in the message
            raise _not_usable(self.path, error, f"after record {self.last_number}: ") from error
        if not self._read_only:
            self._open_for_append()

    def append(self, batch: Sequence[records.Record]) -> None:
        """Write records in one transaction and return when they are on the disk.

        Raises `StorageFull` if they could not be written; then nothing of the batch is in the file and it can be
        tried again.
        """
        if not batch:
            return
        assert self._can_append, "read it first"
        number, chain, rows = self.last_number, self._chain, []
        for record in batch:
            body = records.encode(record)
            number += 1
            chain = link(chain, body)
            rows.append((number, body, chain))
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._abandon()
            raise StorageFull(f"{self.path}: {error}", reason=str(error)) from error
        self.last_number, self._chain = number, chain

    def reserve(self) -> None:
        """Give the WAL its full size now, as zeros: an fsync that need not record growth takes half the time.

        Frames are valid only with the right salts and checksums, so zeros behind the last one are as good as the stale
        frames that SQLite itself leaves there. Without room for it the WAL grows as it is used.
        """
        with _beside(self.path, "-wal").open("r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            missing = max(0, _WAL_BYTES - size)
            try:
                has_room = file.write(bytes(missing)) == missing  # with some room but not enough it writes less
                os.fsync(file.fileno())
            except OSError:
                has_room = False
            if not has_room:  # leave what there is to those who need it
                file.truncate(size)

    def close(self) -> None:
        """Close the file; what was appended is durable already."""
        self._connection.close()

    def _check_schema(self) -> None:
        """Refuse tables, views and triggers that are not ours: reading them may run somebody's code, without end."""
        for name, statement in self._connection.execute("SELECT name, sql FROM sqlite_schema"):
            if statement not in _SCHEMA:
                raise _refusal(self.path, f"it holds {name!r}, which is not as this version of rota makes it")

    def _open_for_append(self) -> None:
        self._connection.close()
        try:
            self._connection = _connect(self.path, "rw")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        except sqlite3.Error as error:
            raise _not_usable(self.path, error) from error
        self._can_append = True

    def _abandon(self) -> None:
        """Leave the transaction; SQLite may have rolled back by itself, and on a full disk even that can fail."""
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                assert not self._connection.in_transaction


def link(chain: bytes, body: bytes) -> bytes:
    """Return the chain digest after a record."""
    return blake3(chain + body).digest()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_LOCK_SECONDS)


def _create(path: Path) -> None:
    """Make a run file aside and move it to its place, so that what is there is never half made."""
    wal = _beside(path, "-wal")
    if wal.exists() and wal.stat().st_size:
        raise _refusal(path, f"it is not there, but its {path.name}-wal is; the two belong together")
    draft = _beside(path, ".draft")
    for leftover in (draft, *(_beside(draft, suffix) for suffix in ("-journal", "-wal", "-shm"))):
        leftover.unlink(missing_ok=True)
    with contextlib.closing(_connect(draft, "rwc")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    os.replace(draft, path)
    sync_folder(path.parent)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _check_head(path: Path) -> None:
    """Look at the first bytes without SQLite, which would write to an empty file and to a foreign one with a WAL."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[:16] != _SQLITE_MAGIC or len(head) < _HEAD_BYTES:
        raise _refusal(path, "it does not begin like an SQLite file" if head else "it is empty")
    version, application = int.from_bytes(head[60:64]), int.from_bytes(head[68:72])
    if application != APPLICATION_ID:
        raise _refusal(path, "an SQLite file, but not one of rota's")
    if version != records.FORMAT_VERSION:
        raise _refusal(path, f"format version {version}; this rota reads version {records.FORMAT_VERSION}")


def _not_usable(path: Path, error: Exception, where: str = "") -> RotaError:
    """Tell a file that is damaged from one that there is no room for: even reading takes some, for the -shm file."""
    name = error.sqlite_errorname if isinstance(error, sqlite3.OperationalError) else ""
    if name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"):
        return StorageFull(f"{path} cannot be written: {error}; free some space and start again", reason=str(error))
    return _refusal(path, f"{where}{error}")


def _refusal(path: Path, why: str) -> JournalError:
    return JournalError(
        f"{path} is not a run file that can be used: {why}. Nothing was written to it; "
        "move it away together with its -wal file, restore both from a copy, or start in another folder with --dir",
        path=str(path),
    )
