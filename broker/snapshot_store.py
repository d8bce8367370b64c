"""Snapshots, and the cut of records before one: what to keep, what may be cut, and which snapshot can be used.

A snapshot is valid when a record names it: `Snapshotted` has its number, chain and digest, and is itself in the chain.
So the chain authenticates snapshots, and one that was torn, changed or never finished is not used. Records before a
snapshot may be cut; the chain then starts from the digest in its record. The log (log.py) stores the bytes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Final

from blake3 import blake3

from rota.broker.journal import Journal
from rota.broker.records import Record, Snapshotted, Submitted, decode
from rota.common.errors import JournalError
from rota.common.limits import NOW_MS_MAX

_LOOK_AHEAD_RECORDS: Final = 100  # to find one with a time; most have one


class SnapshotStore:
    """The snapshots, pins and cuts of an open journal. Before writing, the journal must be read to its end."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._log = journal.log

    # --- reading ------------------------------------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        """Return the numbers of all snapshots, finished or not, the newest first."""
        return self._log.snapshots()

    def named(self) -> list[Snapshotted]:
        """Return the records that name snapshots, the newest first. The snapshots themselves are not checked."""
        found = [self._journal.find_name(number) for number in self.numbers()]
        return [record for record in found if record is not None]

    def check(self, snapshot: Snapshotted) -> None:
        """Raise `JournalError` unless the bytes of a snapshot have the digest in its record."""
        hasher = blake3()
        size = 0
        for part in self.parts(snapshot.number):
            hasher.update(part)
            size += len(part)
        if (size, hasher.digest()) != (snapshot.size_bytes, snapshot.digest):
            raise JournalError(
                f"the snapshot of record {snapshot.number} is damaged: its digest is not the one recorded"
            )

    def parts(self, number: int) -> Iterator[bytes]:
        """Return the bytes of a snapshot, part by part."""
        return self._log.get(number)

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, number: int, parts: Iterable[bytes], chain: bytes) -> Snapshotted:
        """Write a whole snapshot of the state after record `number`; return the record to name it."""
        self.forget(number, 1 << 62)  # parts left by a crash
        slices = self.write_slices(number, parts, chain)
        while True:
            try:
                next(slices)
            except StopIteration as end:
                named: Snapshotted = end.value
                return named

    def write_slices(self, number: int, parts: Iterable[bytes], chain: bytes) -> Generator[None, None, Snapshotted]:
        """Write a snapshot, one part per iteration; return the record to name it."""
        hasher = blake3()
        size = 0
        for place, part in enumerate(parts):
            self._log.put(number, place, part)
            hasher.update(part)
            size += len(part)
            yield
        return Snapshotted(number, chain, hasher.digest(), size)

    def forget(self, number: int, parts_max: int) -> bool:
        """Remove up to `parts_max` parts of a snapshot, from the end; return whether all are gone."""
        return self._log.forget(number, parts_max)

    def cut(self, snapshot: Snapshotted) -> None:
        """Mark the records up to a snapshot as cut; `drop_cut` removes them."""
        self._log.cut(snapshot.number + 1)

    def drop_cut(self, records_max: int) -> bool:
        """Remove up to `records_max` of the cut records; return whether all are gone."""
        return self._log.drop_cut(records_max)

    # --- retention ----------------------------------------------------------------------------------------------------

    def newest_to_cut_at(self, last: int, oldest_ms: int | None) -> Snapshotted | None:
        """Return the newest snapshot for a cut: not after record `last`, with all records before it older than
        `oldest_ms`, and with no pinned record before it.
        """
        first = self._journal.first_number()
        last = min([last, *[number - 1 for number in self.pins().values()]])
        for named in self.named():
            if first <= named.number <= last and (oldest_ms is None or self._time_after(named.number) < oldest_ms):
                return named
        return None

    def needed(self, newest: int, *, next_cut: bool = False) -> list[int]:
        """Return the numbers of the snapshots to keep: the newest, the one where the journal begins, and with
        `next_cut` the one after that, for the next cut.
        """
        first = self._journal.first_number()
        numbers = [named.number for named in self.named()]
        oldest = [number for number in numbers if number >= first][-1:] if next_cut else []
        return [*numbers[:newest], *oldest, *[number for number in numbers if number == first - 1]]

    def _time_after(self, number: int) -> int:
        """Return the time of the first record after `number` that has one; earlier records are not younger."""
        for entry in self._log.entries(number + 1, _LOOK_AHEAD_RECORDS):
            now_ms = broker_ms(decode(entry.body))
            if now_ms is not None:
                return now_ms
        return NOW_MS_MAX

    # --- pins ---------------------------------------------------------------------------------------------------------

    def pins(self) -> dict[str, int]:
        """Return the pins by name: for each the first record that must be kept."""
        return self._log.pins()

    def pin(self, name: str, number: int) -> None:
        """Exempt this record and all after it from retention."""
        self._log.pin(name, number)

    def unpin(self, name: str) -> bool:
        """Remove a pin; return whether there was one."""
        return self._log.unpin(name)


def broker_ms(record: Record) -> int | None:
    """Return when a record was made, by the broker's clock; None if unknown: producers may pin a submit's time."""
    now_ms: int | None = None if isinstance(record, Submitted) else getattr(record, "now_ms", None)
    return now_ms
