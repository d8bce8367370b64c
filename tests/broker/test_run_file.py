"""A run file is complete or refused: a lost WAL, files removed under a live broker, a copy of one file of two."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rota.broker import records
from rota.broker.journal import Journal
from rota.broker.run_file_copy import copy_run_file
from rota.common.errors import JournalError, JournalLost
from rota.runs.open import open_run

FOUND = [records.Epoch(1, 0, ()), *[records.Mark("main", number, bytes(32)) for number in range(20)]]
MORE = records.Mark("main", 99, bytes(32))


def opened(path: Path) -> Journal:
    journal = Journal.open(path)
    list(journal.read())
    return journal


def read(path: Path) -> list[records.Record]:
    with closing(Journal.open(path)) as journal:
        return list(journal.read())


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A run file as a killed broker leaves it: all of its files, the records in the WAL."""
    live = tmp_path / "live"
    live.mkdir()
    with closing(opened(live / "run.rota")) as journal:
        for record in FOUND:
            journal.append([record])
        shutil.copytree(live, tmp_path / "killed")
    return tmp_path / "killed" / "run.rota"


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def test_a_file_that_was_closed_in_order_stands_alone(tmp_path: Path) -> None:
    """Goal: a copy of one file is enough then. Method: close, look what is left, copy it and read."""
    path = tmp_path / "run.rota"
    with closing(opened(path)) as journal:
        journal.append(FOUND)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.rota"]
    shutil.copy(path, tmp_path / "copy.rota")
    assert read(tmp_path / "copy.rota") == FOUND


LOSSES: dict[str, Callable[[Path], object]] = {
    "wal": lambda path: beside(path, "-wal").unlink(),
    "wal, shm and note": lambda path: [file.unlink() for file in path.parent.glob("run.rota-*")],
    "content of the wal": lambda path: beside(path, "-wal").write_bytes(b""),
    "end of the wal": lambda path: beside(path, "-wal").write_bytes(beside(path, "-wal").read_bytes()[:30_000]),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_wal_is_missed(killed: Path, loss: str) -> None:
    """Goal: acknowledged work does not go without a word. Method: lose all or some of the WAL that a kill left; a
    start and a reader refuse the file, again and again, and name what to do.
    """
    LOSSES[loss](killed)
    before = {file.name: file.read_bytes() for file in killed.parent.iterdir() if not file.name.endswith("-shm")}
    for _ in range(2):
        with pytest.raises(JournalError, match=r"run\.rota-wal.*put"):
            read(killed)
        with pytest.raises(JournalError, match=r"run\.rota-wal"), open_run(killed.parent):
            pass
    after = {file.name: file.read_bytes() for file in killed.parent.iterdir() if not file.name.endswith("-shm")}
    assert after == before


def test_what_is_left_can_be_accepted(killed: Path) -> None:
    """Goal: the remedies work. Method: make an empty WAL as the message says; or remove the note as the other says."""
    with_note, without = killed.parent, killed.parent.parent / "without"
    shutil.copytree(with_note, without)
    beside(killed, "-wal").write_bytes(b"")
    beside(killed, "-end").unlink()
    assert read(killed) == FOUND[:1], "what was in the file itself: the first block is put there"
    LOSSES["wal, shm and note"](without / "run.rota")
    (without / "run.rota-wal").touch()
    assert read(without / "run.rota") == FOUND[:1]


def test_what_is_not_lost_is_not_missed(killed: Path, tmp_path: Path) -> None:
    """Goal: no false alarm. Method: both files without the note; a WAL that another program has moved into the file,
    as every program does that opens the file with SQLite and closes it; a start after each.
    """
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("run.rota", "run.rota-wal"):
        shutil.copy(killed.parent / name, copy)
    assert read(copy / "run.rota") == FOUND
    with closing(sqlite3.connect(killed)) as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (len(FOUND),)
    assert not beside(killed, "-wal").exists()
    with closing(opened(killed)) as journal:
        assert journal.last_number == len(FOUND)
        journal.append([MORE])
    assert read(killed) == [*FOUND, MORE]


def test_another_file_in_its_place_is_seen(killed: Path, tmp_path: Path) -> None:
    """Goal: a run that was acknowledged is not taken for another one. Method: a longer run in the place of a killed
    one, whose note is still there.
    """
    with closing(opened(tmp_path / "other.rota")) as journal:
        journal.append([records.Epoch(1, 5, ()), *FOUND[1:], MORE])
    shutil.copy(tmp_path / "other.rota", killed)
    beside(killed, "-wal").unlink()
    with pytest.raises(JournalError, match="another file took its place"):
        read(killed)


def test_a_copy_to_read_is_sealed(killed: Path) -> None:
    """Goal: what `rota export` packs stands alone. Method: open a killed run to read; its copy is one file, closed."""
    with open_run(killed.parent) as source:
        assert [record for _, record in source.records()] == FOUND
        assert [file.name for file in source.journal_path.parent.glob("run.rota*")] == ["run.rota"]
        with closing(sqlite3.connect(source.journal_path)) as connection:
            assert connection.execute("SELECT open FROM head").fetchone() == (0,)


def _replaced(folder: Path) -> None:
    shutil.copy(folder / "run.rota", folder / "new")
    (folder / "new").replace(folder / "run.rota")


REMOVALS: dict[str, Callable[[Path], object]] = {
    "folder removed": shutil.rmtree,
    "folder moved": lambda folder: folder.rename(folder.with_name("elsewhere")),
    "file removed": lambda folder: (folder / "run.rota").unlink(),
    "file replaced": _replaced,
    "wal removed": lambda folder: (folder / "run.rota-wal").unlink(),
}


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be removed there")
@pytest.mark.parametrize("removal", REMOVALS)
def test_nothing_is_acknowledged_once_the_files_are_gone(tmp_path: Path, removal: str) -> None:
    """Goal: no acknowledgement for unlinked files. Method: remove files of a live journal in every way; looking
    and appending say so, and closing does not hurt what lies there now.
    """
    folder = tmp_path / "run"
    folder.mkdir()
    with closing(opened(folder / "run.rota")) as journal:
        journal.append(FOUND)
        journal.log.check()
        REMOVALS[removal](folder)
        with pytest.raises(JournalLost, match=r"run\.rota"):
            journal.log.check()
        for _ in range(2):
            with pytest.raises(JournalLost, match="start again"):
                journal.append([MORE])
    if removal == "wal removed":
        assert set(FOUND) <= set(read(folder / "run.rota")), "closing has put what it held into the file"
    with contextlib.suppress(FileNotFoundError):
        assert not (folder / "run.rota-end").exists() or removal != "folder removed"


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be cut there")
@pytest.mark.parametrize(("suffix", "size"), [("", 4_096), ("-wal", 5_000), ("-wal", 0)])
def test_nothing_is_acknowledged_once_a_file_is_cut(suffix: str, size: int, tmp_path: Path) -> None:
    """Goal: no acknowledgement for records that no reader finds. Method: cut the file or the WAL of a live journal."""
    path = tmp_path / "run.rota"
    with closing(opened(path)) as journal:
        journal.log.reserve()
        journal.append(FOUND)
        journal.log.check()
        os.truncate(beside(path, suffix), size)
        with pytest.raises(JournalLost, match=f"was cut to {size} bytes"):
            journal.log.check()
        with pytest.raises(JournalLost, match="start again"):
            journal.append([MORE])


def test_what_sqlite_and_compaction_do_is_no_cut(tmp_path: Path) -> None:
    """Goal: no false alarm. Method: checkpoints beside a reader, a WAL that begins anew, and a file made smaller."""
    path = tmp_path / "run.rota"
    with closing(opened(path)) as journal, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        journal.log.reserve()
        big = records.Fingerprint(1, "cpu", (("k", "x" * 200_000),))
        for number in range(60):
            journal.append([big])
            if number == 20:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM records").fetchone()
            if number == 40:
                reader.execute("COMMIT")
        journal.log.cut(50)
        while not journal.log.drop_cut(10):
            pass
        before = path.stat().st_size
        journal.log.shrink()
        journal.log.check()
        assert path.stat().st_size < before
        for _ in range(20):
            journal.append([big])
        journal.log.check()


@pytest.mark.skipif(os.name == "nt", reason="there are no named pipes")
@pytest.mark.parametrize("kind", ["mkfifo", "mkdir"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-end"])
def test_what_is_no_file_is_refused(suffix: str, kind: str, tmp_path: Path) -> None:
    """Goal: a pipe or folder in place of a file is named; nothing blocks. Method: each of them, for a writer, a reader
    and a copy.
    """
    path = tmp_path / "run.rota"
    with closing(opened(path)) as journal:
        journal.append(FOUND[:1])
    beside(path, suffix).unlink(missing_ok=True)
    getattr(os, kind)(beside(path, suffix))
    words = f"{beside(path, suffix).name} is a (pipe, socket or device|folder), not a file"
    for read_only in (False, True):
        with pytest.raises(JournalError, match=words):
            Journal.open(path, read_only=read_only)
    with pytest.raises(JournalError, match=words):
        copy_run_file(path, tmp_path / "copy.rota")
