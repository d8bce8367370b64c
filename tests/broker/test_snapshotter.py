"""Snapshots of a running broker: in slices, with a crash at any of them, on a full disk, at a stop.

A `Host` acts like the server: it appends the records of a random run a few at a time and calls `work` in between.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from chaos import Chaos, deploy_all
from core_kit import Broker, fold_journal, picture

from rota.broker import records, run_file, snapshotter, sqlite_file
from rota.broker.journal import Journal
from rota.broker.recovery import recover
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.snapshotter import SnapshotPolicy, Snapshotter
from rota.common.errors import StorageFull


def run_of(seed: int) -> list[records.Record]:
    broker = Broker()
    chaos = Chaos(broker, seed, 2, inputs=True)
    deploy_all(chaos.producer, "main")
    chaos.run(300)
    chaos.settle()
    return [records.decode(body) for body in broker.journal]


RUN = run_of(8)
RESULTS = 10  # that are kept
WHOLE = picture(fold_journal([records.encode(record) for record in RUN], results_max=RESULTS))
DAY_MS = snapshotter.DAY_MS


class Host:
    """A world, its journal and a snapshotter; `go` plays records of the run."""

    def __init__(self, path: Path, policy: SnapshotPolicy) -> None:
        self.path = path
        self.journal = Journal.open(path)
        self.world = recover(self.journal, RESULTS)
        self.snapshots = Snapshotter(self.journal, self.world, policy)
        self.now_ms = self.mono_ms = 1_000
        self.played = 0
        self.eager = True  # as if snapshots were small: those of so short a run are as large as the run
        self.after_slice: Callable[[], None] = lambda: None

    def go(self, count: int) -> None:
        """Append so many records of the run, one at a time, with a slice of snapshot work after each."""
        for record in RUN[self.played : self.played + count]:
            self.write(record)
            self.played += 1
            self.slice()

    def slice(self) -> None:
        if self.eager:
            self.snapshots._size_bytes = 0
        record = self.snapshots.work(self.now_ms, self.mono_ms)
        self.after_slice()
        if record is not None:
            self.write(record)

    def settle(self) -> None:
        while self.snapshots.busy:
            self.slice()

    def write(self, record: records.Record) -> None:
        self.world.apply(record)
        self.journal.append([record])

    def names(self) -> list[int]:
        return [named.number for named in SnapshotStore(self.journal).named()]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    with ExitStack() as end:

        def make(records: int = 40, size: int = 0, retain: int = 0, days: int = 0, name: str = "run.rota") -> Host:
            made = Host(tmp_path / name, SnapshotPolicy(records, size, retain, days))
            end.enter_context(closing(made.journal))
            return made

        yield make


def packed(one: Host) -> bytes:
    """Its whole world as bytes, independent of later changes."""
    return b"".join(snapshotter.snapshot.encode(snapshotter.snapshot.take(one.world)))


def state_of(path: Path) -> dict[str, object]:
    with closing(Journal.open(path)) as journal:
        return picture(recover(journal, RESULTS))


def test_snapshots_are_taken_while_the_broker_goes_on(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a snapshot shows one moment, whatever happens while it is written. Method: small parts, so that many
    records lie between its first and its last; recover from it, and compare with the whole run.
    """
    monkeypatch.setattr(snapshotter.snapshot, "PART_BYTES", 1_000)
    one = host()
    one.go(len(RUN))
    one.settle()
    named = SnapshotStore(one.journal).named()
    assert [record.number > 40 for record in named] == [True, True]
    assert len(list(SnapshotStore(one.journal).parts(named[0].number))) > 5
    one.journal.close()
    assert state_of(one.path) == picture(one.world) == WHOLE


def test_a_crash_at_any_slice_leaves_a_good_file(
    host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: parts, names, cuts and removals may be torn apart anywhere. Method: an image of the files after every slice
    of a broker that also cuts; each recovers to what had been written, and can take a snapshot of its own.
    """
    monkeypatch.setattr(snapshotter.snapshot, "PART_BYTES", 700)
    monkeypatch.setattr(snapshotter, "RECORDS_PER_SLICE", 9)
    monkeypatch.setattr(snapshotter, "PARTS_PER_SLICE", 2)
    one = host(records=30, retain=20)
    images: list[tuple[Path, bytes]] = []

    def crash() -> None:
        if one.snapshots.busy and len(images) < 50:
            image = tmp_path / f"{len(images)}.rota"
            shutil.copy(one.path, image)
            shutil.copy(f"{one.path}-wal", f"{image}-wal")
            images.append((image, packed(one)))

    one.after_slice = crash
    one.go(len(RUN))
    one.settle()
    assert one.journal.first_number() > 30
    assert len(images) == 50
    for image, expected in images:
        again = host(records=1, name=image.name)
        assert packed(again) == expected
        again.write(records.Epoch(again.world.boot + 1, 0, ()))
        again.slice()
        again.settle()
        assert len(again.names()) <= 4


@pytest.mark.parametrize("busy_first", [False, True])
def test_a_full_disk_stops_a_snapshot_and_nothing_else(
    busy_first: bool, host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: no room for a snapshot is no reason to stop. Method: another process's lock stands for the full disk; the
    snapshot is given up, tried again a minute later, and the state is whole all along.
    """
    monkeypatch.setattr(sqlite_file, "_LOCK_SECONDS", 0.0)
    one = host()
    with closing(sqlite3.connect(one.path, isolation_level=None)) as other:
        one.go(39)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFull):
            one.journal.append([RUN[39]])
        one.snapshots._policy = SnapshotPolicy(39, 0)
        one.slice()
        assert not one.snapshots.busy
        other.execute("ROLLBACK")
    one.go(20)
    assert one.names() == []
    one.mono_ms += snapshotter.RETRY_MS
    one.go(1)
    one.settle()
    assert one.names() == [one.played]
    one.journal.close()
    assert state_of(one.path) == picture(one.world)


def test_little_room_on_the_disk_is_left_to_records(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: a snapshot does not take the last room. Method: a disk that says that it is nearly full."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(run_file.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    one = host()
    one.go(60)
    assert one.names() == []
    assert "no snapshot is taken: 1048576 bytes are free" in caplog.text


def test_snapshots_are_not_taken_more_often_than_they_are_worth(host: Callable[..., Host]) -> None:
    """Goal: what snapshots write is bounded by what the journal writes. Method: one is wanted at every record; the
    bytes between two are at least half of those of the first.
    """
    one = host(records=1)
    one.eager = False
    one.go(len(RUN))
    one.settle()
    newer, older = SnapshotStore(one.journal).named()[:2]
    between = one.journal.log.bytes_after(older.number) - one.journal.log.bytes_after(newer.number)
    assert between * snapshotter.AMORTISATION >= older.size_bytes > 0


def test_bytes_count_as_records_do(host: Callable[..., Host]) -> None:
    """Goal: few large records make a snapshot due as well; bytes of an earlier start count. Method: a bound in bytes,
    a broker that starts between; without bounds there is none.
    """
    none = host(records=0, size=0, name="none.rota")
    none.go(len(RUN))
    assert none.names() == []
    bound = none.journal.log.bytes_after(0) * 6 // 10
    one = host(records=0, size=bound)
    one.go(len(RUN) // 3)
    assert one.names() == []
    one.journal.close()
    again = host(records=0, size=bound)
    again.played = len(RUN) // 3
    again.go(len(RUN))
    again.settle()
    assert len(again.names()) == 1


def test_a_broker_that_stops_takes_a_last_snapshot(host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the next start is quick, and a stop is not slow. Method: stop with enough records, with few, and with a
    clock that says it takes too long.
    """
    monkeypatch.setattr(snapshotter, "STOP_RECORDS_MIN", 50)
    one = host(records=10_000)
    one.go(49)
    assert one.snapshots.last(0, lambda: 0) is None
    one.go(60)
    clock = iter(range(0, 10_000_000, snapshotter.STOP_MS_MAX + 1))
    assert one.snapshots.last(0, lambda: next(clock)) is None
    record = one.snapshots.last(0, lambda: 0)
    assert record is not None
    one.write(record)
    assert one.names() == [109]
    assert host(records=0, name="off.rota").snapshots.last(0, lambda: 0) is None


# --- retention ----------------------------------------------------------------------------------------------------


def test_records_are_cut_by_count(host: Callable[..., Host]) -> None:
    """Goal: the journal does not grow for ever, and never has less than was asked for. Method: a whole run with a
    bound; look at what is kept at each moment, and recover.
    """
    one = host(records=25, retain=60)
    kept: list[int] = []
    one.after_slice = lambda: kept.append(one.journal.last_number - one.journal.first_number() + 1)
    one.go(len(RUN))
    one.settle()
    assert one.journal.first_number() > 1
    assert min(kept[60:]) >= 60
    assert max(kept) < 60 * 2 + 4 * 25
    one.journal.close()
    assert state_of(one.path) == picture(one.world)


def test_records_are_cut_by_age(host: Callable[..., Host]) -> None:
    """Goal: records younger than so many days stay. Method: the records of the run are of one hour; look at them from
    the same day, and from three days later.
    """
    times = [record.now_ms for record in RUN if isinstance(record, records.Submitted)]
    one = host(records=25, days=2)
    one.now_ms = times[0] + DAY_MS
    one.go(100)
    one.settle()
    assert one.journal.first_number() == 1
    one.now_ms = times[-1] + 3 * DAY_MS
    one.go(len(RUN))
    one.settle()
    assert one.journal.first_number() > 1
    assert state_is_whole(one)


def state_is_whole(one: Host) -> bool:
    one.journal.close()
    return state_of(one.path) == picture(one.world)


def test_pinned_records_stay(host: Callable[..., Host]) -> None:
    """Goal: a pinned record is not cut. Method: a pin before the first snapshot that could be cut at."""
    one = host(records=25, retain=1)
    SnapshotStore(one.journal).pin("bug", 20)
    one.go(len(RUN) * 2 // 3)
    one.settle()
    assert len(one.names()) > 1
    assert one.journal.first_number() == 1
    SnapshotStore(one.journal).pin("bug", 110)
    one.go(len(RUN))
    one.settle()
    assert 1 < one.journal.first_number() <= 110
    assert state_is_whole(one)
