"""The journal's write-ahead log: a torn end is recovered, damage before it is refused."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from rota.broker import records
from rota.broker.journal import Journal
from rota.broker.wal import _checksum, find_damage
from rota.common.errors import JournalError

TRANSACTIONS = 40


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A run file with a WAL as a killed broker leaves it: copied while the journal is open."""
    live = tmp_path / "live"
    live.mkdir()
    journal = Journal.open(live / "run.rota")
    assert list(journal.read()) == []
    journal.append([records.Epoch(1, 0, ())])
    journal.log.reserve()
    for number in range(TRANSACTIONS):
        journal.append([records.Mark("main", number, bytes(32))])
    shutil.copytree(live, tmp_path / "crashed")
    journal.close()
    return tmp_path / "crashed" / "run.rota"


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def test_a_whole_wal_has_no_damage(crashed: Path) -> None:
    """Goal: nothing is refused that is whole. Method: a WAL with zeros behind its last frame, read to the end."""
    assert find_damage(_wal(crashed)) == ""
    assert len(list(Journal.open(crashed, read_only=True).read())) == TRANSACTIONS + 1


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6])
def test_damage_before_the_end_is_refused(crashed: Path, part: float) -> None:
    """Goal: acknowledged records do not vanish because a bit flipped. Method: change one byte in the used part of the
    WAL; SQLite alone would drop everything behind it without a word.
    """
    wal = _wal(crashed)
    data = bytearray(wal.read_bytes())
    used = len(bytes(data).rstrip(b"\0"))
    data[40 + int(part * (used - 40))] ^= 0x55
    wal.write_bytes(data)
    with pytest.raises(JournalError, match=r"-wal is damaged: frame \d+ does not check, and \d+ transactions follow"):
        Journal.open(crashed)
    assert wal.read_bytes() == bytes(data)


def test_a_torn_end_is_no_damage(crashed: Path) -> None:
    """Goal: a crash in the middle of a commit is recovered. Method: zero the last frames of the used part."""
    wal = _wal(crashed)
    data = wal.read_bytes()
    used = len(data.rstrip(b"\0"))
    wal.write_bytes(data[: used - 3_000] + bytes(len(data) - used + 3_000))
    crashed.with_name("run.rota-end").unlink()  # it would say less: it is written when a commit is through
    assert find_damage(wal) == ""
    assert len(list(Journal.open(crashed).read())) >= TRANSACTIONS - 1


def test_a_header_that_does_not_check_is_damage(crashed: Path) -> None:
    """Goal: the first 32 bytes are looked at too. Method: change the salt."""
    wal = _wal(crashed)
    data = bytearray(wal.read_bytes())
    data[17] ^= 1
    wal.write_bytes(data)
    with pytest.raises(JournalError, match="its header does not check"):
        Journal.open(crashed)


@pytest.mark.parametrize("page_bytes", [0, 1, 8, 4_097, 1 << 17])
def test_a_header_with_an_odd_page_size_is_damage(page_bytes: int, crashed: Path) -> None:
    """Goal: a header that checks is not believed either. Method: page sizes that SQLite has not, checksum made right.
    Found by tests/fuzz.
    """
    wal = _wal(crashed)
    data = wal.read_bytes()
    head = data[:8] + page_bytes.to_bytes(4, "big") + data[12:24]
    sums = _checksum(">" if head[3] & 1 else "<", head, 0, 0)
    wal.write_bytes(head + struct.pack(">2I", *sums) + data[32:])
    assert find_damage(wal) == "its header does not check"
