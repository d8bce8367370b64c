"""The broker's disk: a real folder with a real run file, and its content after a crash.

A killed process leaves what it has written. A power cut leaves what was synced, and any part of the bytes written
since: whole sectors, a prefix, garbage, a file that is too long or too short. SQLite syncs in a known order
(https://www.sqlite.org/wal.html, and `walWriteFrames` of its sources), and only what that order allows is simulated:

    a commit           frames are written, then synced; before the sync any of their sectors may be missing
    a WAL begun anew   its header is written and synced before the first frame; the file it was copied into was synced
    a checkpoint       the WAL was synced, pages of the database are written in any order, then synced

So a crash in the middle of an append is made of the files before and after it.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from simulation.processes import Crashed, SimProcess

from rota.broker import records
from rota.broker.journal import Journal
from rota.broker.run_file import SCHEMA, RunFile, prepare
from rota.broker.sqlite_file import SqliteFile

SECTOR = 512
WAL_HEADER = 32
RUN_FILE = "run.rota"
_FSYNC_US = (150, 2_500)


class Image(NamedTuple):
    """The bytes of a run file and of its WAL."""

    file: bytes
    wal: bytes


class SimJournal(Journal):
    """The real journal, which reports to the checkers what it wrote."""

    disk: Disk

    def append(self, batch: Sequence[records.Record]) -> None:
        if batch:
            self.disk.attempts.append(list(batch))
            super().append(batch)
            self.disk.attempts = []
            self.disk.durable = self.last_number
            self.disk.process.simulation.checker.committed(list(batch))


class SimFile(SqliteFile):
    """The real file, with crash points around each commit."""

    disk: Disk

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        disk = self.disk
        if disk.is_examined:
            with super().transaction() as write:
                yield write
            return
        disk.process.point("before the commit")
        trouble = (
            disk.chance.choice((self._interrupted, self._without_room)) if disk.fails() else contextlib.nullcontext
        )
        is_last = disk.process.points_left == 0 or disk.is_cut_now()
        before = disk.read() if is_last else None
        with trouble(), super().transaction() as write:
            yield write
        if before is not None:
            disk.left = torn(before, disk.read(), disk.chance) if disk.cuts_power() else disk.read()
            raise Crashed("in the commit")
        disk.process.elapsed_us += disk.fsync_us()

    @contextlib.contextmanager
    def _interrupted(self) -> Iterator[None]:
        """Raise an error between two steps of a statement, except in the last one, which would have taken effect."""
        steps = self.disk.chance.choice((0, 1, 2, 4))

        def give_up() -> int:
            nonlocal steps
            steps -= 1
            return steps == -1

        def begins(statement: str) -> None:
            if statement == "COMMIT":
                self._connection.set_progress_handler(None, 0)

        self._connection.set_trace_callback(begins)
        self._connection.set_progress_handler(give_up, 5)
        try:
            yield
        finally:
            self._connection.set_progress_handler(None, 0)
            self._connection.set_trace_callback(None)

    @contextlib.contextmanager
    def _without_room(self) -> Iterator[None]:
        """Allow the file to grow by only a few bytes: a real short write."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        room = len(self.disk.read().wal) + self.disk.chance.choice((0, 1, 30, 700, 4_200, 9_000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Disk:
    """The folder of the run file, across restarts of the broker."""

    def __init__(self, root: Path, process: SimProcess, chance: Random) -> None:
        self.process = process
        self.chance = chance
        self.durable = 0  # records that must be there after any crash
        # Unconfirmed commits since the last confirmed one. Any of them may be found after a crash, even an older one:
        # an equal sector written by a later attempt can complete it.
        self.attempts: list[list[records.Record]] = []
        self.is_examined = False  # current writes are not the broker's
        self.full_until_us = 0
        self.slow_until_us = 0
        self.left: Image | None = None
        self.power_cuts = True
        self.commits_left: int | None = None  # until the power cut; None: no cut
        self.commits = 0
        self._root = root
        self._generation = 0
        self.journal: Journal | None = None
        self._run_file: RunFile | None = None
        (root / "0").mkdir()

    @property
    def path(self) -> Path:
        return self._root / str(self._generation) / RUN_FILE

    def open(self) -> Journal:
        """Open the run file as a starting broker does."""
        prepare(self.path, read_only=False)
        file = SimFile(self.path, SCHEMA)
        self._run_file = RunFile(file)
        journal = SimJournal(self._run_file)
        file.disk = journal.disk = self
        self.journal = journal
        return journal

    def reserve(self) -> None:
        assert self._run_file is not None
        self._run_file.reserve()

    def crash(self) -> None:
        """Make the state after the crash; the dead broker's files are not used any more."""
        if self.journal is None:
            return
        note = Path(f"{self.path}-end")
        noted = note.read_bytes() if note.exists() else b""
        left = self.left if self.left is not None else self._as_it_is()
        self.left = None
        old = self.path.parent
        self.close()
        self._generation += 1
        self.path.parent.mkdir()
        Path(f"{self.path}-end").write_bytes(noted)
        self.path.write_bytes(left.file)
        self._wal().write_bytes(left.wal)
        shutil.rmtree(old)

    def read(self) -> Image:
        """The current content of the files, read without SQLite's locks."""
        wal = self._wal()
        return Image(self.path.read_bytes(), wal.read_bytes() if wal.exists() else b"")

    def close(self) -> None:
        if self.journal is not None:
            self.is_examined = True
            self.journal.close()
            self.is_examined = False
            self.journal = None

    def fails(self) -> bool:
        return self.full_until_us > self.process.clock.now_us

    def is_cut_now(self) -> bool:
        """Count a commit; return whether the power is cut in the middle of it."""
        if self.commits_left is None:
            return False
        self.commits_left -= 1
        if self.commits_left >= 0:
            return False
        self.commits_left = None
        return True

    def cuts_power(self) -> bool:
        return self.power_cuts and self.chance.random() < 0.8

    def fsync_us(self) -> int:
        low, high = _FSYNC_US
        if self.slow_until_us > self.process.clock.now_us:
            low, high = 50_000, 1_500_000
        return low + int((high - low) * self.chance.random() ** 4)

    def heal(self) -> None:
        self.full_until_us = self.slow_until_us = 0
        self.power_cuts = False
        self.commits_left = None

    def _as_it_is(self) -> Image:
        """A kill between two commits. What failed to be written may still exist: a failed fsync proves nothing."""
        if self.attempts and self.journal is not None and self.chance.random() < 0.5:
            self.is_examined = True
            before = self.read()
            Journal.append(self.journal, self.attempts[-1])
            self.is_examined = False
            return torn(before, self.read(), self.chance)
        return self.read()

    def _wal(self) -> Path:
        return self.path.with_name(f"{RUN_FILE}-wal")


def torn(before: Image, after: Image, chance: Random) -> Image:
    """Return the files after a power cut between two states."""
    if after.file != before.file and chance.random() < 0.5:
        return Image(_tear(before.file, after.file, chance, garbage=False), after.wal)  # in the middle of a checkpoint
    wal = before.wal
    if wal[:WAL_HEADER] != after.wal[:WAL_HEADER]:
        if chance.random() < 0.2:
            return before
        wal = after.wal[:WAL_HEADER] + wal[WAL_HEADER:]
    return Image(before.file, _tear(wal, after.wal, chance, garbage=True))


def _tear(before: bytes, after: bytes, chance: Random, *, garbage: bool) -> bytes:
    """Return a mixture of two contents, sector by sector."""
    how = chance.choice(("nothing", "all", "prefix", "prefix", "scattered", "scattered"))
    if how == "nothing":
        return before
    if how == "all":
        return after
    sectors = [at for at in range(0, len(after), SECTOR) if after[at : at + SECTOR] != before[at : at + SECTOR]]
    count = chance.randint(0, len(sectors))
    kept = set(sectors[:count]) if how == "prefix" else set(chance.sample(sectors, count))
    made = bytearray(before)
    for at in sectors:
        piece = after[at : at + SECTOR]
        if at not in kept:
            if not garbage or at < len(before) or chance.random() < 0.7:
                continue
            piece = chance.choice((bytes(len(piece)), chance.randbytes(len(piece))))
        if len(made) < at:
            made += bytes(at - len(made))
        made[at : at + len(piece)] = piece
    if garbage and len(made) > len(before) and chance.random() < 0.3:
        del made[chance.randint(len(before), len(made)) :]  # a short write, to the byte
    return bytes(made)
