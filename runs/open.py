"""Opening a run to read it: a run folder, a run file, or a file packed by `rota export`.

Reading a run changes nothing in it. SQLite cannot promise that (it leaves a `-wal` and a `-shm` file beside what it
reads, and follows a broker that writes meanwhile), so the run file is copied into a private folder and read there
(run_file_copy.py). The folder also takes compiled code, and is removed when the source is closed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from rota.broker.journal import Journal
from rota.broker.journal_heads import heads_named_by
from rota.broker.log import Entry
from rota.broker.records import Record, Snapshotted
from rota.broker.recovery import load_world
from rota.broker.run_file_copy import copy_run_file
from rota.broker.snapshot import load
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.world import World
from rota.common.errors import ConfigError, JournalError, StorageFull
from rota.conversations.named import NamedHeads
from rota.engine.executors import Folders
from rota.host.endpoints import CONVERSATIONS, RunFolder
from rota.host.private_folder import PrivateFolder
from rota.runs.archive import ARCHIVE_MAGIC, JOURNAL, unpack
from rota.runs.walk import Kept

CACHE_VARIABLE: Final = "ROTA_CACHE"

_PARTS: Final = ("modules", "models", "tensors", CONVERSATIONS)


class RunSource:
    """A run opened for reading. Use it in a `with` block, or call `close`."""

    def __init__(self, name: str, journal_path: Path, parts: dict[str, Path], private: PrivateFolder) -> None:
        self.name = name  # as the user named it, for messages
        self.journal_path = journal_path  # a private copy
        self.modules = parts["modules"]
        self.models = parts["models"]
        self.tensors = parts["tensors"]
        self.conversations = parts[CONVERSATIONS]
        self.artefacts = _artefacts(private.path)
        self._private = private

    def folders(self) -> Folders:
        """Return the folders that executors read this run's files from; what they write goes to the private one."""
        return Folders(
            modules=self.modules,
            artefacts=self.artefacts,
            models=self.models,
            tensors=self._private.path / "tensors",
            lent_tensors=self.tensors,
            lent_conversations=self.conversations,
            certificates=self.artefacts.parent,
        )

    def begin(self) -> World:
        """Return a new world as it was before the first kept record.

        Raises `JournalError` if records were compacted away and the snapshot that replaces them cannot be used.
        """
        with self._journal() as journal:
            return load_world(journal)

    def records(self, after: Snapshotted | None = None) -> Iterator[tuple[int, Record]]:
        """Yield every kept record with its number, from the first (or behind a snapshot) to the last; repeatable.

        Raises `JournalError` at the first record that is damaged, missing or out of order.
        """
        with self._journal() as journal:
            for record in journal.read(after):
                yield journal.last_number, record

    def snapshot(self, named: Snapshotted) -> World:
        """Return a new world from a snapshot of this run."""
        return load(self.parts(named))

    def snapshots(self) -> list[Snapshotted]:
        """Return the records that name the snapshots in the file, the newest first, without the one at which a cut
        journal begins. They are not checked.
        """
        with self._journal() as journal:
            store, first = SnapshotStore(journal), journal.first_number()
            return [named for named in store.named() if named.number >= first]

    def parts(self, named: Snapshotted) -> Iterator[bytes]:
        """Yield the bytes of a snapshot."""
        with self._journal() as journal:
            yield from SnapshotStore(journal).parts(named.number)

    def near(self, number: int) -> Kept:
        """Return the run from the newest good snapshot before a record on, or the whole run if there is none.

        For queries that need nothing from before the snapshot.
        """
        with self._journal() as journal:
            store, first = SnapshotStore(journal), journal.first_number()
            for named in store.named():
                if first <= named.number < number and _is_good(store, named):
                    return _LaterPart(self, named)
        return self

    def extent(self) -> tuple[int, int, bytes]:
        """Return the numbers of the first and last kept record, and the chain digest after the last; 0 for none."""
        with self._journal() as journal:
            extent = journal.extent()
        return (extent.first if extent.last else 0, extent.last, extent.chain)

    def entries(self, first: int, count: int) -> list[Entry]:
        """Return up to `count` records from a number on as stored bytes, for finding damage."""
        with self._journal() as journal:
            return journal.log.entries(first, count)

    def named_heads(self, heads: Collection[bytes]) -> NamedHeads:
        """Return which conversations the records and snapshots name: in calls and results, and of `heads` anywhere."""
        with self._journal() as journal:
            return heads_named_by(journal, heads)

    def part(self, name: str) -> Path:
        """Return a place in the private folder, for a file to be made there."""
        return self._private.path / name

    @contextlib.contextmanager
    def _journal(self) -> Iterator[Journal]:
        with (
            _named(self.journal_path, self.name),
            contextlib.closing(Journal.open(self.journal_path, read_only=True)) as journal,
        ):
            yield journal

    def close(self) -> None:
        """Remove the private copy."""
        self._private.close()

    def __enter__(self) -> RunSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _LaterPart:
    """A run from a snapshot on."""

    def __init__(self, source: RunSource, named: Snapshotted) -> None:
        self.name = source.name
        self._source = source
        self._named = named

    def begin(self) -> World:
        return self._source.snapshot(self._named)

    def records(self) -> Iterator[tuple[int, Record]]:
        return self._source.records(self._named)


def _is_good(store: SnapshotStore, named: Snapshotted) -> bool:
    try:
        store.check(named)
    except JournalError:  # a bad snapshot is skipped: the records before it give the same world
        return False
    return True


def open_run(path: Path) -> RunSource:
    """Open a run for reading; a broker may be writing to it.

    `path` is a run folder, a run file with `modules/`, `models/`, `tensors/` and `conversations.sqlite` beside it or
    one folder above, or a file that `rota export` made. Raises `ConfigError` if there is no run, `JournalError` if it
    cannot be read.
    """
    private = PrivateFolder()
    try:
        return _open(Path(os.path.abspath(path)), private)
    except BaseException:
        private.close()
        raise


def copy_journal(journal: Path, copy: Path, name: str) -> None:
    """Copy all durable records of a run file and its WAL into the one file `copy`. The originals are not changed."""
    with _room_for_copy(journal, copy), _named(copy, name):
        copy_run_file(journal, copy)


# --- finding the run ------------------------------------------------------------------------------


def _open(path: Path, private: PrivateFolder) -> RunSource:
    if _is_archive(path):
        return _open_archive(path, private)
    journal = RunFolder(path).journal if path.is_dir() else path
    if not journal.is_file():
        what = f"{path} has no {journal.name}" if path.is_dir() else f"{path} is not there"
        remedy = "name a run folder, a run file, or a file made by `rota export`"
        raise ConfigError(f"{what}, so there is no run to read: {remedy}", path=str(path))
    copy = private.path / JOURNAL
    copy_journal(journal, copy, str(path))
    return RunSource(str(path), copy, {part: _part_of(journal, part) for part in _PARTS}, private)


def _is_archive(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(ARCHIVE_MAGIC)) == ARCHIVE_MAGIC


def _open_archive(path: Path, private: PrivateFolder) -> RunSource:
    folder = private.path / "unpacked"
    folder.mkdir()
    unpack(path, folder)
    return RunSource(str(path), folder / JOURNAL, {part: folder / part for part in _PARTS}, private)


def _part_of(journal: Path, part: str) -> Path:
    """Return a part of a run: beside the run file or one folder above."""
    beside, above = journal.parent / part, journal.parent.parent / part
    return above if above.exists() and not beside.exists() else beside


def _artefacts(private: Path) -> Path:
    """Return the folder for compiled code: the user's cache if one is set, else the private folder."""
    named = os.environ.get(CACHE_VARIABLE)
    folder = Path(named) / "artefacts" if named else private / "artefacts"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made: {error.strerror}; name another folder with {CACHE_VARIABLE}, or unset it",
            path=str(folder),
        ) from error
    return folder


@contextlib.contextmanager
def _named(copy: Path, name: str) -> Iterator[None]:
    """Make errors about the private copy name the user's run instead."""
    try:
        yield
    except JournalError as error:
        problem = error.message.partition(". Nothing was written to it")[0].replace(str(copy), name)
        remedy = "Restore it, with its -wal file if it has one, from a copy"
        raise JournalError(f"{problem}. {remedy}", **{**error.fields, "path": name}) from error


@contextlib.contextmanager
def _room_for_copy(journal: Path, copy: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) == journal:
            raise ConfigError(
                f"{journal} cannot be read: {error.strerror}; read it as its owner", path=str(journal)
            ) from error
        raise StorageFull(
            f"{journal} cannot be copied to {copy.parent}: {error.strerror}; name a folder with more room in TMPDIR",
            path=str(journal),
        ) from error
