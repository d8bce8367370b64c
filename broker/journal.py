"""The journal: one SQLite file, appended in transactions, chained by digest.

Who writes here waits for the disk: `append` returns when the records are durable (WAL, synchronous=FULL: one fsync per
transaction). Every record carries H(chain before it, its body), so that a changed, missing or reordered record is found
when the file is read, and the place is named. A file that is not ours, of another format version, or damaged is refused
and never written to: it is opened for writing only when all of it has been read, because SQLite moves a WAL into its
file even when it only closes it.

The one row of `head` says which records there should be: a page of the file that points past its newest records would
hide them from a reader, and nothing else would tell. What lies in the file beside records is in snapshot_store.py.
What records mean is in records.py; how to change the format stands there and in docs/JOURNAL.md.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from rota.broker import records
from rota.broker.wal import find_damage
from rota.common.digests import ZERO_DIGEST
from rota.common.errors import JournalError, RotaError, StorageFull
from rota.host.files import make_private, private_opener, sync_folder

APPLICATION_ID: Final = 0x524F5441  # "ROTA"
_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_HEAD_BYTES: Final = 100  # of the file; user version at 60, application id at 68, big-endian
_LOCK_SECONDS: Final = 1.0  # for another program that writes to the file; workers wait longer for a sign of life
_CHECKPOINT_PAGES: Final = 2_048  # 8 MiB of WAL between checkpoints: each costs two fsyncs more, and its copying
_CHECKED_WHOLE_BYTES: Final = 64 << 20  # a file up to this size is checked page by page at each start
_WAL_BYTES: Final = 32 + _CHECKPOINT_PAGES * (24 + 4_096)  # header and frames: https://www.sqlite.org/fileformat2.html
_SCHEMA: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {records.FORMAT_VERSION}",
    """CREATE TABLE records (
        number INTEGER PRIMARY KEY,  -- dense, from 1
        body   BLOB NOT NULL,        -- canonical MessagePack, records.py
        chain  BLOB NOT NULL         -- BLAKE3 of the chain before and the body
    ) STRICT""",
    """CREATE TABLE head (
        one   INTEGER PRIMARY KEY CHECK (one = 1),
        first INTEGER NOT NULL,      -- the first record that counts; those before it were cut
        last  INTEGER NOT NULL,      -- the newest record
        chain BLOB NOT NULL          -- its chain
    ) STRICT""",
    """CREATE TABLE snapshots (
        number INTEGER NOT NULL,     -- the last record that is in it
        part   INTEGER NOT NULL,     -- dense, from 0
        body   BLOB NOT NULL,
        PRIMARY KEY (number, part)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE named (
        number INTEGER PRIMARY KEY,  -- of a snapshot
        record INTEGER NOT NULL      -- the Snapshotted that says its digest
    ) STRICT""",
    """CREATE TABLE pins (
        name   TEXT PRIMARY KEY,
        number INTEGER NOT NULL      -- this record and those after it are kept
    ) STRICT, WITHOUT ROWID""",
)
_EMPTY_HEAD: Final = "INSERT INTO head VALUES (1, 1, 0, zeroblob(32))"


class Journal:
    """An open run file. Read all of it once; from then on only `append` is called."""

    def __init__(self, path: Path, connection: sqlite3.Connection, read_only: bool) -> None:
        self.path = path
        self.last_number = 0
        self.appended_bytes = 0  # of records, by this broker
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

    def first_number(self) -> int:
        """Return the number of the first record that counts: 1, or more where those before it were cut."""
        return self.extent()[0]

    def extent(self) -> tuple[int, int, bytes]:
        """Return the numbers of the first and the newest record, and the chain digest there. Nothing else is read."""
        self._check_schema()
        return self._head()

    def read(self, after: records.Snapshotted | None = None) -> Iterator[records.Record]:
        """Yield every record that is kept, or those behind a snapshot, and make the journal ready to append.

        `last_number` is the number of the record that was yielded last. Where the first records were cut, the chain
        begins with what the snapshot there says of it. Raises `JournalError` at the first record that is damaged,
        missing or out of its place, and at the end if it is not where the file's head says.
        """
        try:
            self._check_schema()
            self._check_pages()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")  # of a reader that did not come to the end
            self._connection.execute("BEGIN")  # what a broker writes meanwhile is not seen
            first, last, end = self._head()
            self.last_number, self._chain = (after.number, after.chain) if after else self._beginning(first)
            for number, body, chain in self._connection.execute(
                "SELECT number, body, chain FROM records WHERE number > ? ORDER BY number", (self.last_number,)
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
            if (self.last_number, self._chain) != (last, end):
                raise _refusal(self.path, f"its records end with {self.last_number}, its head says with {last}")
            self._connection.execute("COMMIT")
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
        number, chain, rows, named = self.last_number, self._chain, [], []
        size = 0
        for record in batch:
            body = records.encode(record)
            number += 1
            chain = link(chain, body)
            rows.append((number, body, chain))
            size += len(body)
            if type(record) is records.Snapshotted:
                named.append((record.number, number))
        with self.transaction() as write:
            write.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
            write.executemany("INSERT OR REPLACE INTO named VALUES (?, ?)", named)
            write.execute("UPDATE head SET last = ?, chain = ?", (number, chain))
        self.last_number, self._chain = number, chain
        self.appended_bytes += size

    @property
    def chain(self) -> bytes:
        """The chain digest after the record `last_number`."""
        return self._chain

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Look something up in the file. Raises `JournalError` if it is damaged there."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _not_usable(self.path, error) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for changes that are on the disk, all of them, when the `with` block has ended.

        Raises `StorageFull` if they could not be written; then nothing has changed.
        """
        assert self._can_append, "read it first"
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._abandon()
            if isinstance(error, sqlite3.OperationalError):
                raise StorageFull(f"{self.path}: {error}", reason=str(error)) from error
            raise

    def shrink(self) -> None:
        """Write the file anew without its unused pages, in place: a crash leaves it as it was or as it will be.

        Raises `StorageFull` if there is no room for both.
        """
        assert self._can_append, "read it first"
        try:
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            raise StorageFull(f"{self.path} cannot be made smaller: {error}", reason=str(error)) from error

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

    def _head(self) -> tuple[int, int, bytes]:
        """Return the numbers of the first and the newest record, and the chain digest there."""
        rows = self.rows("SELECT first, last, chain FROM head")
        if len(rows) != 1:
            raise _refusal(self.path, "it has no head")
        first, last, chain = rows[0]
        return first, last, chain

    def bytes_after(self, number: int) -> int:
        """Return how many bytes the records after `number` have."""
        ((size,),) = self.rows("SELECT coalesce(sum(length(body)), 0) FROM records WHERE number > ?", number)
        assert isinstance(size, int)
        return size

    def _beginning(self, first: int) -> tuple[int, bytes]:
        """Return number and chain digest of what stands before the first record that is kept."""
        if first == 1:
            return 0, ZERO_DIGEST
        named = self.find_name(first - 1)
        if named is None:
            raise _refusal(self.path, f"its records begin with {first}, and no record names a snapshot of {first - 1}")
        return named.number, named.chain

    def find_name(self, number: int) -> records.Snapshotted | None:
        """Return the record that says chain, digest and size of the snapshot after record `number`."""
        rows = self.rows("SELECT body FROM records WHERE number = (SELECT record FROM named WHERE number = ?)", number)
        try:
            found = records.decode(rows[0][0]) if rows else None
        except JournalError:
            return None  # whoever reads on from another snapshot meets it, and says which record is damaged
        return found if isinstance(found, records.Snapshotted) and found.number == number else None

    def _check_pages(self) -> None:
        """Have SQLite look at every page of a file that is not too large for that; docs/decisions/0008."""
        ((pages,),), ((page_bytes,),) = self.rows("PRAGMA page_count"), self.rows("PRAGMA page_size")
        if pages * page_bytes <= _CHECKED_WHOLE_BYTES:
            ((verdict,),) = self.rows("PRAGMA quick_check(1)")
            if verdict != "ok":
                raise _refusal(self.path, str(verdict))

    def _check_schema(self) -> None:
        """Refuse tables, views and triggers that are not ours: reading them may run somebody's code, without end."""
        for name, statement in self.rows("SELECT name, sql FROM sqlite_schema"):
            if statement not in _SCHEMA:
                raise _refusal(self.path, f"it holds {name!r}, which is not as this version of rota makes it")

    def _open_for_append(self) -> None:
        self._connection.close()
        for file in (self.path, _beside(self.path, "-wal"), _beside(self.path, "-shm")):
            if file.exists():
                make_private(file)
        try:
            self._connection = _connect(self.path, "rw")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            # What a crash left of its last commit must not stay behind the frames that are written from now on: with
            # that of the next crash it would look like commits that were lost (wal.py).
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
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
    with open(draft, "xb", opener=private_opener):
        pass  # SQLite takes an empty file for a new one, and gives -wal and -shm the mode of their file
    with contextlib.closing(_connect(draft, "rw")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(_EMPTY_HEAD)
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
    name = getattr(error, "sqlite_errorname", "")  # errors of Python's own module have none
    if name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"):
        return StorageFull(f"{path} cannot be written: {error}; free some space and start again", reason=str(error))
    return _refusal(path, f"{where}{error}")


def _refusal(path: Path, why: str) -> JournalError:
    return JournalError(
        f"{path} is not a run file that can be used: {why}. Nothing was written to it; "
        "move it away together with its -wal file, restore both from a copy, or start in another folder with --dir",
        path=str(path),
    )
