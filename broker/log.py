"""What a journal is kept in: entries of bytes in one order, and snapshots beside them. PURE.

`Journal` (journal.py) makes entries of records and checks them; a log keeps them and decides who may write. One log is
the run file (run_file.py). The protocol is cut so that a replicated log fits as well: one writer, fenced by the epoch
that it opened and by the entry that it writes behind; one block per turn of the broker's loop; snapshots in parts. No
statement, row or path is known outside of a log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from rota.common.digests import ZERO_DIGEST
from rota.common.errors import JournalError


class Position(NamedTuple):
    """A place in a log: behind the entry `number`, where the chain of digests is `chain`."""

    number: int
    chain: bytes


BEGINNING = Position(0, ZERO_DIGEST)


class Entry(NamedTuple):
    """One entry. `names`: the snapshot that this entry makes usable, 0 for none."""

    number: int
    body: bytes
    chain: bytes
    names: int = 0


class Extent(NamedTuple):
    """What a log holds: the first entry that counts, the newest (0: none) with its chain, and the newest epoch."""

    first: int
    last: int
    chain: bytes
    epoch: int

    @property
    def end(self) -> Position:
        """Where the next entry goes."""
        return Position(self.last, self.chain)


class Log(Protocol):
    """One log. All of it may raise `JournalError` if what is kept is damaged.

    What changes something returns when the change is durable, and raises `StorageFull` if that cannot be had; then
    nothing has changed, and the same may be tried again. It raises `JournalLost` if this process does not hold the log
    any more; then nothing that waits may be acknowledged.
    """

    @property
    def name(self) -> str:
        """What users call it, for messages."""
        ...

    def refusal(self, why: str) -> JournalError:
        """Make the error that says what is wrong with this log, and the remedy."""
        ...

    # --- entries --------------------------------------------------------------------------------------------------

    def extent(self) -> Extent:
        """Return what the log holds."""
        ...

    def read(self, first: int = 0) -> tuple[Extent, Iterator[Entry]]:
        """Return what the log holds and its entries from a number on, both as of one moment. Chains are not checked."""
        ...

    def entries(self, first: int, count: int) -> list[Entry]:
        """Return up to `count` entries from a number on, as they are, also those that were cut and are still there."""
        ...

    def bytes_after(self, number: int) -> int:
        """Return how many bytes the bodies of the entries after a number have."""
        ...

    def seal(self, epoch: int, previous: Position, block: Sequence[Entry]) -> None:
        """Take over writing: write a block behind `previous`, and refuse every later append of an older epoch.

        Raises `JournalLost` unless the log ends with `previous` and all its epochs are older.
        """
        ...

    def append(self, epoch: int, previous: Position, block: Sequence[Entry]) -> None:
        """Write a block behind `previous`, all of it or nothing.

        Raises `JournalLost` unless the log ends with `previous` and `epoch` is its newest one.
        """
        ...

    def check(self) -> None:
        """Raise `JournalLost` if what was written here cannot be found by the next reader any more."""
        ...

    def free_bytes(self) -> int:
        """Return how much room there is for more."""
        ...

    def close(self) -> None:
        """Leave the log in order. What was written is durable already."""
        ...

    # --- snapshots, cuts, pins ------------------------------------------------------------------------------------

    def snapshots(self) -> list[int]:
        """Return the numbers of all snapshots, finished or not, the newest first."""
        ...

    def find_name(self, snapshot: int) -> Entry | None:
        """Return the entry that names a snapshot."""
        ...

    def put(self, snapshot: int, part: int, body: bytes) -> None:
        """Keep one part of the snapshot after an entry; parts are dense, from 0."""
        ...

    def get(self, snapshot: int) -> Iterator[bytes]:
        """Yield the parts of a snapshot."""
        ...

    def forget(self, snapshot: int, parts_max: int) -> bool:
        """Remove up to so many parts of a snapshot, the last ones first, and its name; return whether all are gone."""
        ...

    def cut(self, first: int) -> None:
        """Let the entries before a number count no more; `drop_cut` removes them."""
        ...

    def drop_cut(self, entries_max: int) -> bool:
        """Remove up to so many of the entries that were cut; return whether all of them are gone."""
        ...

    def pins(self) -> dict[str, int]:
        """Return the pinned places: the first entry that must stay for each, by name."""
        ...

    def pin(self, name: str, number: int) -> None:
        """Keep this entry and all that follow it, whatever retention says."""
        ...

    def unpin(self, name: str) -> bool:
        """Remove a pin; return whether there was one."""
        ...
