"""Opening a run to read it: folders and files, closed, crashed, beside a live broker; nothing is changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rota.broker import records
from rota.broker.journal import Journal
from rota.common.errors import ConfigError, JournalError, RotaError
from rota.runs.open import CACHE_VARIABLE, open_run

EPOCHS: list[Any] = [records.Epoch(boot, 1_000 + boot, (("rota", "test" * 50),)) for boot in range(1, 40)]


def write(folder: Path, found: list[Any], *, crash: bool = False) -> Path:
    """Make a run folder with these records, each in its own commit; with `crash` they are in the WAL only."""
    folder.mkdir(parents=True)
    path = folder / "run.rota"
    with closing(Journal.open(path)) as journal:
        assert list(journal.read()) == []
        for record in found:
            journal.append([record])
        if crash:
            image = folder / "image"
            shutil.copy(path, image)
            shutil.copy(f"{path}-wal", folder / "image-wal")
    if crash:
        os.replace(folder / "image", path)
        os.replace(folder / "image-wal", folder / "run.rota-wal")
    return path


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder with its bytes and the time of its last change."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("crash", [False, True])
def test_folder_and_file_are_the_same_run(tmp_path: Path, crash: bool) -> None:
    """Goal: a run is opened by its folder or its file, and stays as it is to the byte. Method: read both, compare
    records, parts and all files before and after, for a closed run and for one whose records are in the WAL.
    """
    path = write(tmp_path / "run", EPOCHS, crash=crash)
    before = tree(tmp_path)
    for name in (path.parent, path):
        with open_run(name) as source:
            assert list(source.records()) == list(enumerate(EPOCHS, start=1))
            assert [record for _, record in source.records()] == EPOCHS
            assert source.modules == path.parent / "modules"
            assert source.name == str(name)
            assert source.begin().boot == 0
            (source.artefacts / "code").touch()
            private = source.journal_path.parent
        assert not private.exists()
    assert tree(tmp_path) == before


def test_parts_of_a_file_below_its_run_folder(tmp_path: Path) -> None:
    """Goal: a run file in a folder of its own finds the modules of the run folder above. Method: one part beside it."""
    path = write(tmp_path / "run" / "forks", EPOCHS)
    for folder in (path.parent / "models", path.parents[1] / "modules", path.parents[1] / "models"):
        folder.mkdir()
    with open_run(path) as source:
        assert source.modules == path.parents[1] / "modules"
        assert source.models == path.parent / "models"
        assert source.tensors == path.parent / "tensors"


def test_compiled_code_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: compiled code is kept if wanted. Method: name a cache; it outlives the source."""
    path = write(tmp_path / "run", EPOCHS[:1])
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    with open_run(path) as source:
        (source.artefacts / "code").touch()
    assert (tmp_path / "cache" / "artefacts" / "code").exists()


@pytest.mark.skipif(os.name == "nt", reason="folders of killed processes stay there")
def test_a_killed_reader_leaves_nothing_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: copies of runs do not pile up. Method: kill a process that has a run open; the next one that opens a run
    removes its copy, not that of a process that lives, nor what it does not know.
    """
    path = write(tmp_path / "run", EPOCHS[:1])
    temporary = tmp_path / "temporary"
    (temporary / "rota-read-strange").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = "import os, sys; from pathlib import Path; from rota.runs.open import open_run"
    code += "; run = open_run(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    assert len(list(temporary.iterdir())) == 2
    with open_run(path) as source, open_run(path) as other:
        left = sorted(temporary.iterdir())
        assert left == sorted([source.journal_path.parent, other.journal_path.parent, temporary / "rota-read-strange"])
    assert [folder.name for folder in temporary.iterdir()] == ["rota-read-strange"]


def test_beside_a_broker_that_writes(tmp_path: Path) -> None:
    """Goal: reading beside a live broker gives whole transactions and never a refusal. Method: a thread appends
    through many WALs (each append is larger than a checkpoint needs) while another one opens the run again and again.
    """
    path = tmp_path / "run.rota"
    long = [records.Fingerprint(number, "cpu", (("note", "x" * 300_000),)) for number in range(1, 200)]
    found: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            with open_run(tmp_path) as source:
                numbers = [record.number for _, record in source.records() if isinstance(record, records.Fingerprint)]
            assert numbers == list(range(1, len(numbers) + 1))
            found.append(len(numbers))

    with closing(Journal.open(path)) as journal:
        assert list(journal.read()) == []
        journal.append(long[:1])
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for record in long[1:]:
                journal.append([record])
        finally:
            done.set()
            reader.join()
    assert found == sorted(found)
    assert found


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    """Goal: each refusal names the path and a remedy. Method: nothing there, an empty folder, foreign and cut files."""
    whole = write(tmp_path / "run", EPOCHS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").write_bytes(b"SQLite format 3\x00" + bytes(2_000))
    (tmp_path / "text").write_text("no run", encoding="utf-8")
    (tmp_path / "cut").write_bytes(whole.read_bytes()[:-4_096])
    cases: list[tuple[str, type[RotaError], str]] = [
        ("nowhere", ConfigError, "is not there"),
        ("empty", ConfigError, "has no run.rota"),
        ("foreign", JournalError, "not one of rota's"),
        ("text", JournalError, "does not begin like"),
        ("cut", JournalError, "not a run file that can be used"),
    ]
    for name, kind, part in cases:
        with pytest.raises(kind, match=part) as caught, open_run(tmp_path / name) as source:
            list(source.records())
        assert str(tmp_path / name) in str(caught.value)
        assert "rota-read-" not in str(caught.value)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    """Goal: damage is found by its place. Method: flip a byte of a record's text."""
    path = write(tmp_path / "run", EPOCHS)
    data = bytearray(path.read_bytes())
    place = data.find(b"testtest")
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalError, match=r"record \d+ is damaged") as caught, open_run(path) as source:
        list(source.records())
    assert str(path) in str(caught.value)
    assert "Restore it" in str(caught.value)
