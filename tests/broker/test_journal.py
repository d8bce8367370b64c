"""The run file: real SQLite files that are torn, flipped, foreign, emptied, reordered, or on a full disk.

A crash is a copy of the files while the journal is open, before SQLite has moved the WAL into the file.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from rota.broker import records, sqlite_file
from rota.broker.journal import Journal
from rota.broker.run_file import APPLICATION_ID
from rota.common.errors import JournalError, StorageFull

BATCHES = [[records.Epoch(3 * row + column, 7, (("f", "x" * 40 * row),)) for column in range(3)] for row in range(8)]
ALL = [record for batch in BATCHES for record in batch]


def write(path: Path, batches: list[list[Any]] = BATCHES) -> None:
    """Append batches and close: everything is in the file, no WAL is left."""
    with closing(Journal.open(path)) as journal:
        assert list(journal.read()) == []
        for batch in batches:
            journal.append(batch)


def crash(folder: Path, batches: list[list[Any]] = BATCHES, *, reserve: bool = False) -> Path:
    """Append batches and crash: the newest of them are in the WAL only."""
    live, image = folder / "live.db", folder / "crashed.db"
    with closing(Journal.open(live)) as journal:
        assert list(journal.read()) == []
        if reserve:
            journal.append(batches[0])
            journal.log.reserve()
            batches = batches[1:]
        for batch in batches:
            journal.append(batch)
        shutil.copy(live, image)
        shutil.copy(f"{live}-wal", f"{image}-wal")
    return image


def read(path: Path) -> list[Any]:
    with closing(Journal.open(path)) as journal:
        return list(journal.read())


def bytes_of(path: Path) -> list[bytes]:
    """The file and its WAL, which a refusal must not change. SQLite leaves an empty WAL if there was none."""
    files = (path, Path(f"{path}-wal"), Path(f"{path}-journal"))
    return [content for content in (file.read_bytes() for file in files if file.exists()) if content]


def refusal(path: Path) -> str:
    """Read a file that must be refused, check that it was not changed, and return the message."""
    before = bytes_of(path)
    with pytest.raises(JournalError) as caught:
        read(path)
    assert bytes_of(path) == before
    assert str(path) in caught.value.message
    return caught.value.message


def test_what_was_appended_is_read_and_continued(tmp_path: Path) -> None:
    """Goal: order and content survive; a second start goes on where the first ended. Method: write, open, write."""
    path = tmp_path / "run.db"
    write(path, BATCHES[:3])
    with closing(Journal.open(path)) as journal:
        assert list(journal.read()) == ALL[:9]
        for batch in BATCHES[3:]:
            journal.append(batch)
        journal.append([])
        assert journal.last_number == len(ALL)
    assert read(path) == ALL
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.db"]


def test_a_crash_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    """Goal: `append` returns when records are durable. Method: read the image of a crash, WAL included; go on in it."""
    image = crash(tmp_path)
    with closing(Journal.open(image)) as journal:
        assert list(journal.read()) == ALL
        journal.append([records.Epoch(99, 0, ())])
    assert read(image) == [*ALL, records.Epoch(99, 0, ())]


def test_read_only_leaves_no_trace_in_the_file(tmp_path: Path) -> None:
    """Goal: a verifier can read the image of a crash as it is. Method: compare bytes before and after."""
    image = crash(tmp_path)
    before = bytes_of(image)
    with closing(Journal.open(image, read_only=True)) as journal:
        assert list(journal.read()) == ALL
    assert bytes_of(image) == before


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """Goal: what is acknowledged survives a loss of power, which no test can stage. Method: ask SQLite what it does at
    a commit: FULL (2) makes it wait for an fsync of the WAL (https://www.sqlite.org/pragma.html#pragma_synchronous).
    """
    with closing(Journal.open(tmp_path / "run.db")) as journal:
        assert list(journal.read()) == []
        journal.append(BATCHES[0])
        assert journal.log._file.rows("PRAGMA synchronous") == [(2,)]
        assert journal.log._file.rows("PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("reserve", [False, True])
def test_a_torn_wal_keeps_whole_transactions(reserve: bool, tmp_path: Path) -> None:
    """Goal: a write that a power cut tears in two is not there at all. Method: cut the WAL at many lengths (around
    every frame and in between); what is read are whole batches from the first on, and the file can be appended to.
    """
    image = crash(tmp_path, reserve=reserve)
    wal = Path(f"{image}-wal").read_bytes()
    used = len(wal.rstrip(b"\0"))
    ends = [len(ALL[: 3 * count]) for count in range(len(BATCHES) + 1)]
    cuts = {
        *range(0, used, 2_503),
        *(32 + 4_120 * frame + shift for frame in range(used // 4_120) for shift in (-1, 0, 24)),
    }
    seen = set()
    for cut in sorted(cuts):
        torn = tmp_path / "torn.db"
        shutil.copy(image, torn)
        Path(f"{torn}-wal").write_bytes(wal[: max(cut, 0)])
        with closing(Journal.open(torn)) as journal:
            found = list(journal.read())
            journal.append([records.Epoch(99, 0, ())])
        assert found == ALL[: len(found)]
        assert len(found) in ends
        assert read(torn) == [*found, records.Epoch(99, 0, ())]
        seen.add(len(found))
    assert {3, 21} <= seen


def test_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    """Goal: damage is found and named, and never written over. Method: flip single bytes all over a run file. Each
    is refused, or cannot be seen in the records (unused space); no flip changes, reorders or invents a record.
    """
    path, damaged = tmp_path / "run.db", tmp_path / "damaged.db"
    write(path)
    whole = path.read_bytes()
    refused = 0
    # First the root page of the table, a word of its schema, and the type of a column.
    flips = [(3_852, 0x01), (3_890, 0x80), (24_794, 0x80), *((place, 0x55) for place in range(0, len(whole), 31))]
    for place, mask in flips:
        changed = whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
        damaged.write_bytes(changed)
        try:
            found = read(damaged)
        except JournalError:
            damaged.write_bytes(changed)
            refusal(damaged)
            refused += 1
        else:
            assert found == ALL, place
    assert refused > len(flips) // 6  # the pages of the small tables are empty for the most part


def test_records_cannot_hide_in_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a flipped byte hides no record in a file that is too large to be looked at page by page either. Method: the
    same flips with that look left out; each is refused, or all records are found.
    """
    path, damaged = tmp_path / "run.db", tmp_path / "damaged.db"
    write(path)
    whole = path.read_bytes()
    monkeypatch.setattr(sqlite_file, "_CHECKED_WHOLE_BYTES", 0)
    for place in range(0, len(whole), 61):
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(JournalError):
            assert read(damaged) == ALL, place


def test_truncation_is_refused(tmp_path: Path) -> None:
    """Goal: a file that lost its end does not pass for a shorter run. Method: cut a closed run file at many lengths."""
    path, cut_file = tmp_path / "run.db", tmp_path / "cut.db"
    write(path)
    whole = path.read_bytes()
    for cut in (1, 15, 16, 50, 99, 100, 101, 1_000, 4_095, 4_096, 5_000, len(whole) - 4_096, len(whole) - 1):
        cut_file.write_bytes(whole[:cut])
        refusal(cut_file)


def damage(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM records WHERE number = 5", "record 5 is missing before record 6"),
        ("DELETE FROM records WHERE number = 1", "record 1 is missing before record 2"),
        ("UPDATE records SET body = x'c0' WHERE number = 7", "record 7 is damaged"),
        ("UPDATE records SET chain = zeroblob(32) WHERE number = 9", "record 9 is damaged"),
        ("UPDATE records SET number = -number WHERE number = 4", "record 4 is missing before record 5"),
        ("DELETE FROM records WHERE number = 24", "its records end with 23, its head says with 24"),
        ("INSERT INTO records SELECT 25, body, chain FROM records WHERE number = 24", "record 25 is damaged"),
        ("UPDATE head SET last = 23", "its records end with 24, its head says with 23"),
        ("UPDATE head SET chain = zeroblob(32)", "its records end with 24, its head says with 24"),
        ("UPDATE head SET first = 9", "its records begin with 9, and no record names a snapshot of 8"),
        ("DELETE FROM head", "it has no head"),
        ("DROP TABLE records", "no such table"),
        ("PRAGMA user_version = 1", "format version 1; this rota reads version 6"),
        ("PRAGMA application_id = 7", "not one of rota's"),
    ],
)
def test_a_changed_run_file_is_refused_by_name(statement: str, told: str, tmp_path: Path) -> None:
    """Goal: the message says what and where. Method: change a run file with SQL."""
    path = tmp_path / "run.db"
    write(path)
    damage(path, statement)
    assert told in refusal(path)


def test_a_body_that_no_rota_wrote_is_refused_even_in_a_valid_chain(tmp_path: Path) -> None:
    """Goal: the chain proves bytes, the decoder proves the record. Method: append a body with the right digest."""
    path = tmp_path / "run.db"
    write(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (chain,) = connection.execute("SELECT chain FROM records ORDER BY number DESC LIMIT 1").fetchone()
        body = b"\x92\x63\x01"
        row = (len(ALL) + 1, body, blake3(chain + body).digest())
        connection.execute("INSERT INTO records VALUES (?, ?, ?)", row)
        connection.execute("UPDATE head SET last = ?, chain = ?", (row[0], row[2]))
    with pytest.raises(JournalError, match="no rota of this version wrote"):
        read(path)


ENDLESS = """CREATE VIEW records AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)
    SELECT n AS number, x'' AS body, x'' AS chain FROM c WHERE n < 0"""


@pytest.mark.parametrize("schema", [ENDLESS, "CREATE TABLE records (number, body, chain)"])
def test_a_file_whose_tables_are_not_ours_is_refused(schema: str, tmp_path: Path) -> None:
    """Goal: reading a stranger's run file comes to an end, and finds bytes where it expects them. Method: a view that
    never gives a row, and a table that holds text. Found by tests/fuzz.
    """
    path = tmp_path / "run.db"
    write(path)
    damage(path, "DROP TABLE records", schema)
    if "TABLE" in schema:
        damage(path, "INSERT INTO records VALUES (1, 'text', 'text')")
    assert "it holds 'records', which is not as" in refusal(path)


def make_foreign(path: Path) -> None:
    damage(path, "CREATE TABLE notes(text)", "INSERT INTO notes VALUES ('mine')")


def make_foreign_without_tables(path: Path) -> None:
    damage(path, "PRAGMA user_version = 4")


def make_foreign_with_wal(path: Path) -> None:
    other = path.with_name("other.db")
    with closing(sqlite3.connect(other, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE notes(text)")
        shutil.copy(other, path)
        shutil.copy(f"{other}-wal", f"{path}-wal")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(b"to whom it may concern"), "does not begin like"),
        (lambda path: path.write_bytes(bytes(8192)), "does not begin like"),
        (make_foreign, "not one of rota's"),
        (make_foreign_without_tables, "not one of rota's"),
        (make_foreign_with_wal, "not one of rota's"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(make: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    """Goal: a foreign file is not taken for an empty journal. Method: files of other kinds; bytes stay as they were."""
    path = tmp_path / "run.db"
    make(path)
    assert told in refusal(path)


def test_a_damaged_file_keeps_its_wal(tmp_path: Path) -> None:
    """Goal: refusing does not move the WAL into the file, which would spoil the evidence. Method: a crash image with
    a damaged record; SQLite checkpoints when the last writer closes, so the journal must not have become one.
    """
    image = crash(tmp_path)
    with closing(sqlite3.connect(image, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("UPDATE records SET body = x'c0' WHERE number = 7")
        shutil.copy(image, tmp_path / "again.db")
        shutil.copy(f"{image}-wal", tmp_path / "again.db-wal")
    assert "record 7 is damaged" in refusal(tmp_path / "again.db")
    assert (tmp_path / "again.db-wal").stat().st_size > 0


def test_a_wal_without_its_file_is_refused(tmp_path: Path) -> None:
    """Goal: moving a run file away without its WAL neither loses acknowledged records nor mixes them into a new file.
    Method: remove the file of a crash image.
    """
    image = crash(tmp_path)
    image.unlink()
    wal = Path(f"{image}-wal").read_bytes()
    with pytest.raises(JournalError, match="belong together"):
        read(image)
    assert Path(f"{image}-wal").read_bytes() == wal
    assert not image.exists()


def test_a_start_that_was_killed_while_it_made_the_file_does_not_matter(tmp_path: Path) -> None:
    """Goal: no half-made run file is ever in its place. Method: leave drafts behind, whole and torn."""
    path = tmp_path / "run.db"
    for draft in (b"", b"SQLite format 3\0", b"anything"):
        path.unlink(missing_ok=True)
        (tmp_path / "run.db.draft").write_bytes(draft)
        (tmp_path / "run.db.draft-journal").write_bytes(b"old")
        write(path)
        assert read(path) == ALL


def test_the_file_is_known_by_its_head(tmp_path: Path) -> None:
    """Goal: other programs (file, SQLite's own shell) can tell what it is. Method: read the application id."""
    path = tmp_path / "run.db"
    write(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


FULL_DISK = """
import resource, sys
from contextlib import closing
from pathlib import Path
from rota.broker import records
from rota.broker.journal import Journal
from rota.common.errors import StorageFull

def batch(number):
    return [records.Epoch(number, 0, (("f", "x" * 3000),)), records.Mark("main", number, bytes(32))]

with closing(Journal.open(Path(sys.argv[1]))) as journal:
    list(journal.read())
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), most))
    number, refused = 1, 0
    while refused < 3:
        try:
            journal.append(batch(number))
            number += 1
        except StorageFull as error:
            assert error.fields["reason"]
            refused += 1
    print(number - 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    for number in range(number, number + 5):
        journal.append(batch(number))
    print(number)
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("limit_bytes", [9_000, 60_001, 200_000])
def test_a_full_disk_refuses_whole_batches_and_then_goes_on(limit_bytes: int, tmp_path: Path) -> None:
    """Goal: nothing acknowledged is lost and nothing else is kept; writing goes on when there is room. Method: a
    process whose files may not grow beyond a limit appends until it is refused, thrice, then gets room again.
    """
    path = tmp_path / "run.db"
    command = [sys.executable, "-c", FULL_DISK, str(path), str(limit_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    before, after = map(int, done.stdout.split())
    assert 0 <= before < after
    found = [record.boot if isinstance(record, records.Epoch) else -record.retired for record in read(path)]
    assert found == [sign * number for number in range(1, after + 1) for sign in (1, -1)]


def test_a_failed_append_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: after StorageFull the same batch goes in once, with the same chain. Method: another process's lock stands
    for the disk that cannot be written.
    """
    path = tmp_path / "run.db"
    monkeypatch.setattr(sqlite_file, "_LOCK_SECONDS", 0.0)
    with closing(Journal.open(path)) as journal:
        assert list(journal.read()) == []
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                with pytest.raises(StorageFull):
                    journal.append(BATCHES[0])
            other.execute("ROLLBACK")
        journal.append(BATCHES[0])
        journal.append(BATCHES[1])
    assert read(path) == ALL[:6]
