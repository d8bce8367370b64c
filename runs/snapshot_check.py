"""Compares the snapshots in a run file with the state that its records give. PURE.

A broker starts from a snapshot, and the chain only proves that a record names these bytes. So a walk over the records
encodes its world where a snapshot stands and compares the bytes.

The bytes depend on the records and on how many results the broker kept, which is a setting. Therefore the walk keeps as
many results as the largest snapshot has, and encodes as many as the snapshot at hand has. A snapshot that was removed
from the file cannot be compared, since nothing says how many results it had; nor can the one at which a cut journal
begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from blake3 import blake3

from rota.broker import snapshot
from rota.broker.records import Snapshotted
from rota.broker.results import KeptResults
from rota.broker.world import World
from rota.common.errors import JournalError

_NO_BOUND: Final = 1 << 62  # in bytes: the results are bounded by those in the file


class Snapshots(Protocol):
    """The snapshots of a run."""

    def snapshots(self) -> list[Snapshotted]:
        """Return the records that name the snapshots in the file, without the one at which it begins."""
        ...

    def parts(self, named: Snapshotted) -> Iterator[bytes]:
        """Yield the bytes of a snapshot."""
        ...


class SnapshotCheck:
    """Compares each snapshot of a run with the world of a walk when that has come to its record."""

    def __init__(self, source: Snapshots) -> None:
        self._source = source
        self._left: dict[int, Snapshotted] = {}
        self._counts: dict[int, int] = {}  # results in each snapshot
        self._fault: JournalError | None = None
        for named in source.snapshots():
            if _digest_of(source.parts(named)) != (named.size_bytes, named.digest):
                self._found(named, "is damaged: its digest is not the one recorded")
                continue
            found = self._load(named, _NO_BOUND)
            if found is not None:
                self._counts[named.number] = len(found.results)
                self._left[named.number] = named

    def results_of(self, begin: World) -> KeptResults:
        """Return a place for the results that the walk must keep, with those of its first world."""
        kept = KeptResults(max(self._counts.values(), default=0), _NO_BOUND)
        for task in begin.results.kept():
            kept.keep(task)
        return kept

    def see(self, number: int, world: World, *, whole: bool) -> None:
        """Compare the snapshot after this record, if there is one. `whole`: the walk began with record 1."""
        named = self._left.pop(number, None)
        if named is None:
            return
        picture = snapshot.take(world)
        count, known = self._counts[number], len(picture.results)
        said = (named.size_bytes, named.digest)
        if count > known and not whole:  # it has results from before the cut
            shortened = self._load(named, known)
            assert shortened is not None, "it was loaded before"
            said = _digest_of(snapshot.encode(snapshot.take(shortened)))
        picture = picture._replace(results=picture.results[max(known - count, 0) :])
        if _digest_of(snapshot.encode(picture)) != said:
            self._found(
                named,
                "is not the state that the records up to there give: a broker that starts from it goes on from "
                "another state",
            )

    def finish(self) -> None:
        """Raise `JournalError` for the first snapshot that is not the state of the records before it."""
        for named in self._left.values():
            self._found(named, "is of a record that is not there")
        if self._fault is not None:
            raise self._fault

    def _load(self, named: Snapshotted, results_max: int) -> World | None:
        """Return the world in a snapshot, with its newest results; None and a fault if it cannot be read."""
        try:
            return snapshot.load(self._source.parts(named), results_max, _NO_BOUND)
        except JournalError as error:
            self._found(named, f"cannot be read: it is {error.message}")
            return None

    def _found(self, named: Snapshotted, what: str) -> None:
        if self._fault is None or named.number < self._fault.fields["number"]:
            message = f"the snapshot of record {named.number} {what}"
            self._fault = JournalError(message, number=named.number, snapshot=named.number)


def _digest_of(parts: Iterable[bytes]) -> tuple[int, bytes]:
    """Return size and BLAKE3 of a snapshot's bytes."""
    hasher, size = blake3(), 0
    for part in parts:
        hasher.update(part)
        size += len(part)
    return size, hasher.digest()
