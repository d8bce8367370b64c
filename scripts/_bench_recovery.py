"""The time of a start by the length of the journal, with and without snapshots, and the cost of taking snapshots.

The journals are written in this process by the broker's own parts (world, journal, snapshotter), with one submit and
one completion per task and the default policy, so that a million records need no messages. The file without snapshots
is a copy from which they were removed. A case is a generator, as in _bench_cases.py.
"""

from __future__ import annotations

import gc
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rota.broker import records
from rota.broker.journal import Journal
from rota.broker.recovery import open_epoch, recover
from rota.broker.run_file import RunFile
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.snapshotter import SnapshotPolicy, Snapshotter
from rota.broker.world import World
from rota.common.digests import digest
from rota.common.limits import SNAPSHOT_BYTES, SNAPSHOT_RECORDS
from rota.common.messages import TaskRun
from rota.common.work import AGENT, Code, Done

if TYPE_CHECKING:
    from _bench_cases import Place

AGENTS = 1_000
BATCH_TASKS = 250  # in one transaction: with their completions 500 records
PAYLOAD = np.random.default_rng(2).bytes(100)
CASE = "start by length of journal"
NOW_MS = 1_700_000_000_000


class Made(NamedTuple):
    """Two run files of the same records, and how the one with snapshots was made."""

    records: int
    snapshots: Path
    plain: Path
    seconds: float
    snapshot_seconds: float
    longest_ms: float


def by_length(place: Place) -> Iterator[None]:
    """Recover run files of increasing length."""
    files = [_make(place, count) for count in place.sizes.journal_records]
    add = place.table.add
    while True:
        for made in files:
            place.say(f"recovering {made.records} records")
            with_ms, read = _recover_ms(made.snapshots)
            without_ms, _ = _recover_ms(made.plain)
            name = f"{made.records} records"
            add(CASE, f"{name}, of which {read} follow the snapshot", "ms", with_ms, {"all of them": without_ms})
            add(CASE, f"{name}: max pause of the broker that wrote them", "ms", made.longest_ms, {})
            add(CASE, f"{name}, the same: share of snapshots in its time", "%", _share(made), {})
        yield


def _share(made: Made) -> float:
    return 100 * made.snapshot_seconds / made.seconds


def _recover_ms(path: Path) -> tuple[float, int]:
    """Return the processor time to recover the state after the last record, and how many records were read.

    Processor time, because the file is in the page cache, and other load on the machine then matters less.
    """
    gc.collect()
    gc.disable()  # as the broker does while it recovers
    started = time.process_time()
    with closing(Journal.open(path, read_only=True)) as journal:
        recover(journal)
        taken = time.process_time() - started
        newest = max([named.number for named in SnapshotStore(journal).named()], default=0)
        read = journal.last_number - newest
    gc.enable()
    return taken * 1_000, read


def _make(place: Place, count: int) -> Made:
    """Write a journal of `count` records as a broker would, with snapshots, and a copy without."""
    place.say(f"making a run file of {count} records")
    path = place.folder.root / f"{count}.rota"
    spent = longest = 0.0
    started = time.perf_counter()
    with closing(RunFile.open(path)) as run_file:
        journal = Journal(run_file)
        world = recover(journal)
        open_epoch(world, journal, NOW_MS)
        run_file.reserve()
        snapshots = Snapshotter(journal, world, SnapshotPolicy(SNAPSHOT_RECORDS, SNAPSHOT_BYTES))
        _write(
            world,
            journal,
            [records.Deployed("main", 0, NOW_MS, records.NOBODY, "agent", Code(digest(b"agent"), AGENT))],
        )
        _write(world, journal, [records.Fingerprint(1, "cpu", (("wasmtime", "bench"),))])
        while journal.last_number < count:
            _write_tasks(world, journal, BATCH_TASKS)
            slice_started = time.perf_counter()
            named = snapshots.work(NOW_MS, 0)
            taken = time.perf_counter() - slice_started
            spent, longest = spent + taken, max(longest, taken)
            if named is not None:
                _write(world, journal, [named])
    seconds = time.perf_counter() - started
    plain = path.with_suffix(".plain.rota")
    shutil.copyfile(path, plain)
    with closing(sqlite3.connect(plain, isolation_level=None)) as connection:
        connection.execute("DELETE FROM named")
        connection.execute("DELETE FROM snapshots")
        connection.execute("VACUUM")
    return Made(count, path, plain, seconds, spent, longest * 1_000)


def _write(world: World, journal: Journal, batch: list[records.Record]) -> None:
    for record in batch:
        world.apply(record)
    journal.append(batch)


def _write_tasks(world: World, journal: Journal, count: int) -> None:
    """Submit and complete tasks one by one, and write all records at once."""
    lane = world.lanes["main"]
    batch: list[records.Record] = []
    for turn in range(lane.next_turn, lane.next_turn + count):
        address = f"agent/{turn % AGENTS}"
        run = TaskRun.of(address, 0, (PAYLOAD,), None)
        batch.append(records.Submitted("main", lane.retired, NOW_MS, records.NOBODY, world.next_seq, (run,), None))
        world.apply(batch[-1])
        state = b"%d" % turn
        done = Done(PAYLOAD, digest(state), (), (), 1, (), len(state))
        fold = records.CompletedFold(address, (turn,), (done,), state, None)
        batch.append(records.Completion("main", NOW_MS, "cpu-1", 10, 1, (fold,)))
        world.apply(batch[-1])
    journal.append(batch)
