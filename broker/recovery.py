"""Recovery: load the newest snapshot, fold the records behind it, open an epoch.

`recover` reads as little as possible, so that its time depends on the distance between snapshots, not on the length of
the journal; `load_world` starts where the kept records begin, for callers that read all of them.
"""

from __future__ import annotations

import logging
import platform
import sqlite3
from collections.abc import Callable, Iterable
from importlib.metadata import version

from rota.broker import records, snapshot
from rota.broker.journal import Journal
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.world import World, apply_numbered
from rota.common.digests import lane_seed
from rota.common.errors import JournalError
from rota.common.limits import RESULTS_KEPT_BYTES, RESULTS_KEPT_MAX
from rota.common.messages import LaneSettings
from rota.common.targets import DEFAULT_LANE

log = logging.getLogger(__name__)

_PROGRESS_EVERY_RECORDS = 20_000


def recover(
    journal: Journal,
    results_max: int = RESULTS_KEPT_MAX,
    results_bytes: int = RESULTS_KEPT_BYTES,
    progress: Callable[[int], None] | None = None,
) -> World:
    """Return the state after the last record: the newest good snapshot, and the records behind it.

    A snapshot that cannot be used is skipped with a warning: an older one, or the whole journal, gives the same state
    more slowly. Raises `JournalError` if the records cannot be used, or if they were cut and no snapshot can be used.
    """
    store = SnapshotStore(journal)
    for number in store.numbers():
        named = journal.find_name(number)
        if named is None or number < journal.first_number() - 1:
            continue  # it was never finished, or its name was cut
        world = _load(store, named, results_max, results_bytes)
        if world is not None:
            fold(world, journal.read(named), progress, after=number)
            return world
    world = load_world(journal, results_max, results_bytes)
    fold(world, journal.read(), progress, after=journal.first_number() - 1)
    return world


def load_world(journal: Journal, results_max: int = RESULTS_KEPT_MAX, results_bytes: int = RESULTS_KEPT_BYTES) -> World:
    """Return the state before the first kept record, to fold the records of `journal.read()` on.

    Raises `JournalError` if the first records were cut and the snapshot there cannot be used.
    """
    first = journal.first_number()
    if first == 1:
        return World(results_max, results_bytes)
    named = journal.find_name(first - 1)
    if named is None:
        raise JournalError(
            f"{journal.name}: its records begin with {first}, and no record names the snapshot before it"
        )
    store = SnapshotStore(journal)
    store.check(named)
    return snapshot.load(store.parts(named.number), results_max, results_bytes)


def _load(store: SnapshotStore, named: records.Snapshotted, results_max: int, results_bytes: int) -> World | None:
    try:
        store.check(named)
        return snapshot.load(store.parts(named.number), results_max, results_bytes)
    except JournalError as error:
        log.warning("the snapshot of record %d is not used: %s", named.number, error.message)
        return None


def fold(
    world: World, found: Iterable[records.Record], progress: Callable[[int], None] | None = None, *, after: int = 0
) -> None:
    """Apply records in order, the first of which follows the record `after`.

    Raises `JournalError` with the number of a record that does not follow from those before it.
    """
    for number, record in enumerate(found, start=after + 1):
        apply_numbered(world, number, record)
        if progress is not None and number % _PROGRESS_EVERY_RECORDS == 0:
            progress(number)


def open_epoch(world: World, journal: Journal, now_ms: int) -> None:
    """Record that a broker starts, with the versions in force; in a new run file also open the default lane."""
    started: list[records.Record] = [records.Epoch(world.boot + 1, now_ms, facts())]
    if DEFAULT_LANE not in world.lanes:
        settings = LaneSettings(seed=lane_seed(DEFAULT_LANE))
        started.append(records.Opened(DEFAULT_LANE, now_ms, records.NOBODY, settings, False, ()))
    journal.append(started)
    fold(world, started)


def facts() -> tuple[tuple[str, str], ...]:
    """Return the versions that the broker's part of a run depends on. Workers' fingerprints come with their results."""
    return (
        ("rota", version("rota")),
        ("format", str(records.FORMAT_VERSION)),
        ("python", platform.python_version()),
        ("sqlite", sqlite3.sqlite_version),
        ("msgpack", version("msgpack")),
        ("blake3", version("blake3")),
        ("pyzmq", version("pyzmq")),
        ("machine", platform.machine()),
        ("system", platform.system()),
    )
