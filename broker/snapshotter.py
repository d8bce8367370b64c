"""Decides when the broker takes a snapshot, and takes it in slices between turns of the broker's loop.

`work` is called when all records are durable. It copies the state at once, encodes and writes it one part per call, and
then returns the record that names the snapshot. When that is durable too, it removes what the new snapshot makes
superfluous, again in pieces. A crash or a full disk in between leaves parts that no record names; they are not used,
and are removed with the next snapshot.

A snapshot is due after a number of records or bytes, but not before half as many bytes as the last one had, so
snapshots write at most twice as much as records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from rota.broker import snapshot
from rota.broker.journal import Journal
from rota.broker.records import Snapshotted
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.world import World
from rota.common.errors import StorageFull

log = logging.getLogger(__name__)

AMORTISATION: Final = 2  # maximum bytes of a snapshot per byte of records since the last one
KEPT: Final = 2  # the newest snapshots: if one is damaged, the other is used
PARTS_PER_SLICE: Final = 4  # removed at a time: 4 MiB
RECORDS_PER_SLICE: Final = 2_000
RETRY_MS: Final = 60_000  # after the disk was full
STOP_MS_MAX: Final = 1_000  # of a snapshot when the broker stops
STOP_RECORDS_MIN: Final = 1_000
DAY_MS: Final = 24 * 3600 * 1000
_ROOM_BYTES: Final = 64 << 20  # to leave free on the disk, besides twice the snapshot's size


class SnapshotPolicy(NamedTuple):
    """When to take snapshots, and which records before them to keep. 0: never, or no bound."""

    every_records: int
    every_bytes: int
    retain_records: int = 0
    retain_days: int = 0


class Snapshotter:
    """Takes snapshots of a world, whose journal was read to its end."""

    def __init__(self, journal: Journal, world: World, policy: SnapshotPolicy) -> None:
        self._journal = journal
        self._world = world
        self._policy = policy
        self._store = SnapshotStore(journal)
        self._slices: Iterator[Snapshotted | None] = iter(())
        self._next_ms = 0
        named = self._store.named()
        self._number, self._size_bytes = (named[0].number, named[0].size_bytes) if named else (0, 0)
        # Bytes are counted from the last snapshot on, so count those before the start now.
        self._bytes_before = self._journal.log.bytes_after(self._number) - self._journal.appended_bytes
        self.busy = False

    def work(self, now_ms: int, mono_ms: int) -> Snapshotted | None:
        """Do one slice of work, if any; return a record to write next, if there is one.

        Call it when every record that has taken effect is durable.
        """
        if not self.busy:
            if not self._is_due(mono_ms):
                return None
            self._slices = self._run(now_ms)
            self.busy = True
        try:
            return next(self._slices)
        except StopIteration:
            self.busy = False
        except StorageFull as error:
            log.warning("no snapshot is taken now: %s", error.message)
            self.busy = False
            self._next_ms = mono_ms + RETRY_MS
        return None

    def last(self, now_ms: int, clock_ms: Callable[[], int]) -> Snapshotted | None:
        """Take a snapshot at once, for a stopping broker, if it is worth it and takes at most STOP_MS_MAX."""
        since, size = self._since()
        if not self._is_wanted() or since < STOP_RECORDS_MIN or size < self._size_bytes:
            return None
        end_ms = clock_ms() + STOP_MS_MAX
        try:
            for record in self._run(now_ms):
                if record is not None or clock_ms() > end_ms:
                    return record
        except StorageFull as error:
            log.warning("no snapshot is taken: %s", error.message)
        return None

    # --- when ---------------------------------------------------------------------------------------------------------

    def _is_wanted(self) -> bool:
        return bool(self._policy.every_records or self._policy.every_bytes)

    def _since(self) -> tuple[int, int]:
        """Return how many records and bytes were written since the last snapshot."""
        records = self._journal.last_number - self._number
        return records, self._bytes_before + self._journal.appended_bytes

    def _is_due(self, mono_ms: int) -> bool:
        records, size = self._since()
        policy = self._policy
        enough = 0 < policy.every_records <= records or 0 < policy.every_bytes <= size
        if not enough or size * AMORTISATION < self._size_bytes or mono_ms < self._next_ms:
            return False
        free = self._journal.log.free_bytes()
        if free < 2 * self._size_bytes + _ROOM_BYTES:
            self._next_ms = mono_ms + RETRY_MS
            log.warning("no snapshot is taken: %d bytes are free on the disk of %s", free, self._journal.name)
            return False
        return True

    # --- one snapshot -------------------------------------------------------------------------------------------------

    def _run(self, now_ms: int) -> Iterator[Snapshotted | None]:
        """Take a snapshot, one slice of work per iteration; a yielded record must be written."""
        number, chain = self._journal.last_number, self._journal.chain
        named = yield from self._store.write_slices(number, snapshot.encode(snapshot.take(self._world)), chain)
        self._number, self._size_bytes = number, named.size_bytes
        self._bytes_before = -self._journal.appended_bytes
        yield named
        log.info("took a snapshot of record %d: %d bytes", number, named.size_bytes)
        yield from self._retain(now_ms)
        yield from self._forget_others()

    def _retain(self, now_ms: int) -> Iterator[None]:
        """Cut the records before the newest snapshot that retention allows, if it is set."""
        policy = self._policy
        if policy.retain_records or policy.retain_days:
            last = self._journal.last_number - policy.retain_records
            oldest_ms = now_ms - policy.retain_days * DAY_MS if policy.retain_days else None
            named = self._store.newest_to_cut_at(last, oldest_ms)
            if named is not None:
                self._store.cut(named)
                log.info("cut the records up to %d", named.number)
        while not self._store.drop_cut(RECORDS_PER_SLICE):
            yield None

    def _forget_others(self) -> Iterator[None]:
        """Remove all snapshots except those that a start may need, and the one for the next cut."""
        cuts = bool(self._policy.retain_records or self._policy.retain_days)
        kept = self._store.needed(KEPT, next_cut=cuts)
        for number in self._store.numbers():
            while number not in kept and not self._store.forget(number, PARTS_PER_SLICE):
                yield None
