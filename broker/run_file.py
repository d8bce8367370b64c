"""The run file: a log (log.py) in one SQLite file, entries and snapshots in tables.

The single row of `head` says which entries must exist: a damaged page could hide the newest ones, which SQLite would
not notice. It also has the epoch, so that the file itself fences a second writer, even if the folder's lock fails.
Every change is one transaction, so a crash leaves the state before or after it. `cut` changes a single row; the cut
entries are removed in pieces, if need be by the next process.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rota.broker.log import Entry, Extent, Position
from rota.broker.records import FORMAT_VERSION
from rota.broker.run_file_end import EndNote, FileIdentity, check_regular, missing_records, missing_wal, noted_end
from rota.broker.sqlite_file import SqliteFile, create_file, not_usable, refusal, rows_beside_a_writer
from rota.common.errors import JournalError, JournalLost, StorageFull
from rota.host.sqlite_files import beside

APPLICATION_ID: Final = 0x524F5441  # "ROTA"
SCHEMA: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT_VERSION}",
    """CREATE TABLE records (
        number INTEGER PRIMARY KEY,  -- dense, from 1
        body   BLOB NOT NULL,        -- canonical MessagePack, records.py
        chain  BLOB NOT NULL         -- BLAKE3 of the chain before and the body
    ) STRICT""",
    """CREATE TABLE head (
        one   INTEGER PRIMARY KEY CHECK (one = 1),
        first INTEGER NOT NULL,      -- the first record that counts; those before it were cut
        last  INTEGER NOT NULL,      -- the newest record
        chain BLOB NOT NULL,         -- its chain
        epoch INTEGER NOT NULL,      -- of whoever may append
        open  INTEGER NOT NULL       -- 1 until it is closed in order: its WAL belongs to it
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
_EMPTY_HEAD: Final = ("INSERT INTO head VALUES (1, 1, 0, zeroblob(32), 0, 0)",)


class RunFile:
    """An open run file. `Log` documents the methods."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._identity: FileIdentity | None = None
        self._note: EndNote | None = None
        self._is_marked = False

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> RunFile:
        """Open a run file, or make one if there is none.

        Raises `JournalError` for a file that is not a run file of this format version, or that is incomplete.
        """
        check_regular(path)
        prepare(path, read_only=read_only)
        has_wal = beside(path, "-wal").exists()
        run_file = cls(SqliteFile(path, SCHEMA, read_only=read_only))
        if not has_wal:
            run_file.check_closed()
        return run_file

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def name(self) -> str:
        return str(self._file.path)

    def refusal(self, why: str) -> JournalError:
        return refusal(self.path, why)

    # --- entries --------------------------------------------------------------------------------------------------

    def extent(self) -> Extent:
        self._file.check_schema()
        noted = noted_end(self.path)  # before the head, since a broker may be writing
        rows = self._file.rows("SELECT first, last, chain, epoch FROM head")
        if len(rows) != 1:
            raise self.refusal("it has no head")
        extent = Extent(*rows[0])
        if noted is not None and self._identity is None:
            self._check_noted(extent.last, noted)
        return extent

    def read(self, first: int = 0) -> tuple[Extent, Iterator[Entry]]:
        self._file.check_schema()
        self._file.check_pages()
        try:
            self._file.begin_reading()
        except sqlite3.Error as error:
            raise not_usable(self.path, error) from error
        extent = self.extent()
        return extent, self._read(max(first, extent.first))

    def _read(self, first: int) -> Iterator[Entry]:
        number = first - 1
        try:
            for row in self._file.cursor(
                "SELECT number, body, chain FROM records WHERE number >= ? ORDER BY number", first
            ):
                entry = Entry(*row)
                number = entry.number
                yield entry
            self._file.end_reading()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise not_usable(self.path, error, f"after record {number}: ") from error

    def entries(self, first: int, count: int) -> list[Entry]:
        query = "SELECT number, body, chain FROM records WHERE number >= ? ORDER BY number LIMIT ?"
        return [Entry(*row) for row in self._file.rows(query, first, count)]

    def bytes_after(self, number: int) -> int:
        ((size,),) = self._file.rows("SELECT coalesce(sum(length(body)), 0) FROM records WHERE number > ?", number)
        assert isinstance(size, int)
        return size

    def seal(self, epoch: int, previous: Position, block: Sequence[Entry]) -> None:
        self._write(
            "UPDATE head SET last = ?, chain = ?, epoch = ?, open = 1 WHERE epoch < ? AND last = ? AND chain = ?",
            (block[-1].number, block[-1].chain, epoch, epoch, *previous),
            block,
        )
        if not self._is_marked:  # the mark must be in the file itself, or it would be lost with the WAL
            self._file.checkpoint()
            self._is_marked = True

    def append(self, epoch: int, previous: Position, block: Sequence[Entry]) -> None:
        self._write(
            "UPDATE head SET last = ?, chain = ? WHERE epoch = ? AND last = ? AND chain = ?",
            (block[-1].number, block[-1].chain, epoch, *previous),
            block,
        )

    def _write(self, take: str, values: tuple[object, ...], block: Sequence[Entry]) -> None:
        """Write a block if `take` finds the head as the writer left it."""
        with self._changing() as write:
            if write.execute(take, values).rowcount != 1:
                raise JournalLost(
                    f"{self.path} was written to by another process, which has taken it over. Nothing more is "
                    "acknowledged here; use the other broker, or stop it and start again",
                    path=self.name,
                )
            write.executemany(
                "INSERT INTO records VALUES (?, ?, ?)", [(number, body, chain) for number, body, chain, _ in block]
            )
            for entry in block:
                if entry.names:
                    write.execute("INSERT OR REPLACE INTO named VALUES (?, ?)", (entry.names, entry.number))
        assert self._note is not None
        self._note.write(Position(block[-1].number, block[-1].chain))

    def check(self) -> None:
        if self._identity is not None:
            self._identity.check()

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path.parent).free

    def reserve(self) -> None:
        """Allocate the WAL's full size now, which makes commits faster."""
        self._begin().check()
        self._file.reserve()
        self._identify()

    def shrink(self) -> None:
        """Release the space of removed entries. Raises `StorageFull`."""
        self._begin().check()
        try:
            self._file.shrink()
        finally:
            self._identify()

    def close(self) -> None:
        if self._identity is None or self._note is None:
            self._file.close()
            return
        is_in_order = False
        with contextlib.suppress(JournalLost, StorageFull):  # then the mark stays, with the WAL and the note
            self._identity.check()
            with self._file.transaction() as write:
                write.execute("UPDATE head SET open = 0 WHERE open = 1")
            is_in_order = True
        self._file.close()
        self._note.close(remove=is_in_order)
        self._identity = self._note = None

    # --- snapshots, cuts, pins ------------------------------------------------------------------------------------

    def snapshots(self) -> list[int]:
        return [number for (number,) in self._file.rows("SELECT DISTINCT number FROM snapshots ORDER BY number DESC")]

    def find_name(self, snapshot: int) -> Entry | None:
        query = (
            "SELECT number, body, chain FROM records WHERE number = (SELECT record FROM named WHERE number = ?) "
            "AND number >= (SELECT first FROM head)"  # a cut record is in no chain
        )
        found = self._file.rows(query, snapshot)
        return Entry(*found[0])._replace(names=snapshot) if found else None

    def put(self, snapshot: int, part: int, body: bytes) -> None:
        with self._changing() as write:
            write.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (snapshot, part, body))

    def get(self, snapshot: int) -> Iterator[bytes]:
        part = 0
        while rows := self._file.rows("SELECT body FROM snapshots WHERE number = ? AND part = ?", snapshot, part):
            yield rows[0][0]
            part += 1

    def forget(self, snapshot: int, parts_max: int) -> bool:
        with self._changing() as write:
            write.execute("DELETE FROM named WHERE number = ?", (snapshot,))
            count: int
            (count,) = write.execute("SELECT count(*) FROM snapshots WHERE number = ?", (snapshot,)).fetchone()
            keep = max(0, count - parts_max)
            write.execute("DELETE FROM snapshots WHERE number = ? AND part >= ?", (snapshot, keep))
        return keep == 0

    def cut(self, first: int) -> None:
        with self._changing() as write:
            write.execute("UPDATE head SET first = ?", (first,))

    def drop_cut(self, entries_max: int) -> bool:
        first = self.extent().first
        lowest: int
        ((lowest,),) = self._file.rows("SELECT coalesce(min(number), ?) FROM records", first)
        end = min(first, lowest + entries_max)
        if lowest < first:
            with self._changing() as write:
                write.execute("DELETE FROM records WHERE number < ?", (end,))
        return end == first or lowest >= first

    def pins(self) -> dict[str, int]:
        return dict(self._file.rows("SELECT name, number FROM pins ORDER BY name"))

    def pin(self, name: str, number: int) -> None:
        with self._changing() as write:
            write.execute("INSERT OR REPLACE INTO pins VALUES (?, ?)", (name, number))

    def unpin(self, name: str) -> bool:
        with self._changing() as write:
            removed: int = write.execute("DELETE FROM pins WHERE name = ?", (name,)).rowcount
        return removed > 0

    # --- checks ---------------------------------------------------------------------------------------------------

    def _begin(self) -> FileIdentity:
        """Note the identity of the files opened for writing, before the first change."""
        if self._identity is None:
            self._file.begin_writing()
            self._note = EndNote(self.path)
            return self._identify()
        return self._identity

    def _identify(self) -> FileIdentity:
        self._identity = FileIdentity(self.path, self._file.size_bytes())
        return self._identity

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Change the file in one transaction, and check that the files were not replaced."""
        identity = self._begin()
        try:
            with self._file.transaction() as write:
                yield write
        except StorageFull:
            identity.check()  # writing to a removed file may fail too
            raise
        identity.check()

    def check_closed(self) -> None:
        """Refuse a file without WAL that was not closed cleanly, unless a note says that it is complete.

        Raises `JournalError`. Call it before any other access, which may make a WAL.
        """
        self._file.check_schema()
        if noted_end(self.path) is None and self._file.rows("SELECT 1 FROM head WHERE open = 1"):
            raise missing_wal(self.path)

    def _check_noted(self, last: int, noted: Position) -> None:
        """Refuse a file that lacks acknowledged records."""
        if noted.number > last or any(entry.chain != noted.chain for entry in self._at(noted.number)):
            raise missing_records(self.path, last, noted)

    def _at(self, number: int) -> list[Entry]:
        return [entry for entry in self.entries(number, 1) if entry.number == number]


def prepare(path: Path, *, read_only: bool) -> None:
    """Make an empty run file if there is none, unless it is only to be read."""
    if path.exists() or read_only:
        return
    try:
        create_file(path, SCHEMA, _EMPTY_HEAD)
    except sqlite3.Error as error:
        raise not_usable(path, error) from error


def entries_beside_a_writer(path: Path, first: int, count: int) -> list[Entry]:
    """Return up to `count` entries from a number on, of a run file that a broker may be writing, without changes."""
    query = "SELECT number, body, chain FROM records WHERE number >= ? ORDER BY number LIMIT ?"
    return [Entry(*row) for row in rows_beside_a_writer(path, query, first, count)]
