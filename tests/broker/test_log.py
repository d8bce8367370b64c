"""What every log must do: one writer by epoch and position, atomic blocks, snapshots in parts, cuts. And that the
journal needs no more: recovery, snapshots and cuts work on a log in memory too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from core_kit import picture
from memory_log import MemoryLog, Shelf
from run_kit import counting, records_of

from rota.broker import records
from rota.broker.journal import Journal
from rota.broker.log import BEGINNING, Entry, Log, Position
from rota.broker.recovery import recover
from rota.broker.run_file import RunFile
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.snapshotter import SnapshotPolicy, Snapshotter
from rota.common.errors import JournalLost

OpenLog = Callable[[], Log]
EPOCH = [records.Epoch(boot, boot, ()) for boot in range(9)]


def mark(retired: int) -> records.Record:
    return records.Mark("main", retired, bytes(32))


@pytest.fixture(params=["run file", "memory"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenLog]:
    """Open the same log, each time as another process would."""
    shelf = Shelf()
    with ExitStack() as end:

        def opened() -> Log:
            if request.param == "memory":
                return MemoryLog(shelf)
            return end.enter_context(closing(RunFile.open(tmp_path / "run.rota")))

        yield opened


def reader_of(log: Log) -> Journal:
    journal = Journal(log)
    list(journal.read())
    return journal


def test_a_newer_epoch_fences_older_writers(open_log: OpenLog) -> None:
    """Goal: two brokers never interleave, whatever became of a lock. Method: the second opens an epoch while the first
    lives; the first can neither append nor take over again with what it knows, and the second goes on.
    """
    first = reader_of(open_log())
    first.append([EPOCH[1], mark(1)])
    second = reader_of(open_log())
    second.append([EPOCH[2]])
    with pytest.raises(JournalLost):
        first.append([mark(2)])
    with pytest.raises(JournalLost):
        first.append([EPOCH[3]])
    second.append([mark(3)])
    assert list(Journal(open_log()).read()) == [EPOCH[1], mark(1), EPOCH[2], mark(3)]


def test_a_block_goes_behind_the_one_that_its_writer_knows(open_log: OpenLog) -> None:
    """Goal: a block that is late or sent twice is not taken. Method: the same epoch, another place or chain."""
    log = open_log()
    block = [Entry(1, b"\x90", b"1" * 32)]
    with pytest.raises(JournalLost):
        log.append(0, Position(3, bytes(32)), block)
    log.append(0, BEGINNING, block)
    for previous in (BEGINNING, Position(1, b"2" * 32)):
        with pytest.raises(JournalLost):
            log.append(0, previous, [Entry(2, b"\x90", b"3" * 32)])
    log.seal(1, Position(1, b"1" * 32), [Entry(2, b"\x90", b"2" * 32)])
    with pytest.raises(JournalLost):
        log.append(0, Position(2, b"2" * 32), [Entry(3, b"\x90", b"3" * 32)])
    with pytest.raises(JournalLost):
        log.seal(1, Position(2, b"2" * 32), [Entry(3, b"\x90", b"3" * 32)])
    extent, entries = log.read()
    assert (extent.last, extent.chain, extent.epoch) == (2, b"2" * 32, 1)
    assert [tuple(entry[:3]) for entry in entries] == [block[0][:3], (2, b"\x90", b"2" * 32)]


def test_parts_names_cuts_and_pins(open_log: OpenLog) -> None:
    """Goal: a snapshot is what was put, found by the entry that names it; what is cut goes in pieces. Method: one
    snapshot through all of its life.
    """
    log = open_log()
    entries = [Entry(n, b"x" * n, bytes([n]) * 32, names=2 if n == 3 else 0) for n in range(1, 6)]
    log.append(0, BEGINNING, entries)
    for part in range(3):
        log.put(2, part, bytes([part]))
    assert (log.snapshots(), list(log.get(2)), list(log.get(1))) == ([2], [b"\0", b"\1", b"\2"], [])
    named = log.find_name(2)
    assert named is not None
    assert named.number == 3
    assert log.bytes_after(3) == 9
    log.cut(4)
    assert log.extent().first == 4
    assert [log.drop_cut(2), log.drop_cut(2)] == [False, True]
    assert [entry.number for entry in log.entries(1, 1)] == [4]
    assert [entry.number for entry in log.read()[1]] == [4, 5]
    assert [log.forget(2, 2), log.forget(2, 2)] == [False, True]
    assert (log.find_name(2), log.snapshots()) == (None, [])
    log.pin("bug", 4)
    assert (log.pins(), log.unpin("bug"), log.unpin("bug")) == ({"bug": 4}, True, False)


def test_a_broker_recovers_from_any_log(open_log: OpenLog) -> None:
    """Goal: nothing but the protocol is used. Method: a real run with snapshots and cuts; a start from what is left
    gives the same state, and goes on in it.
    """
    found = records_of(counting(40))
    journal = Journal(open_log())
    world = recover(journal)
    snapshots = Snapshotter(journal, world, SnapshotPolicy(20, 0, retain_records=5))
    for record in found:
        world.apply(record)
        journal.append([record])
        snapshots._size_bytes = 0  # those of so short a run are as large as the run
        named = snapshots.work(1_000, 1_000)
        if named is not None:
            world.apply(named)
            journal.append([named])
    assert journal.first_number() > 1
    again = Journal(open_log())
    assert picture(recover(again)) == picture(world)
    assert SnapshotStore(again).named()
    again.append([records.Epoch(world.boot + 1, 0, ())])
    assert again.last_number == journal.last_number + 1
