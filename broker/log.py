"""The interface of a journal's storage: ordered entries of bytes, and snapshots. PURE.

`Journal` (journal.py) makes entries of records and checks them; a log stores them and decides who may write. The run
file (run_file.py) is a log. The interface also fits a replicated log: one writer, fenced by its epoch and by the entry
that it appends after; one block per turn of the broker's loop; snapshots in parts. SQL statements, rows and paths stay
inside a log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from rota.common.digests import ZERO_DIGEST
from rota.common.errors import JournalError


class Position(NamedTuple):
    """A position in a log: after the entry `number`, where the chain of digests is `chain`."""

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
    """The extent of a log: the first kept entry, the newest (0: none) with its chain, and the newest epoch."""

    first: int
    last: int
    chain: bytes
    epoch: int

    @property
    def end(self) -> Position:
        """The position of the next entry."""
        return Position(self.last, self.chain)


class Log(Protocol):
    """One log. All methods may raise `JournalError` if the stored data is damaged.

    A method that changes something returns when the change is durable. It raises `StorageFull` if that fails; then
    nothing has changed and the call may be retried. It raises `JournalLost` if this process no longer holds the log;
    then nothing more may be acknowledged.
    """

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    def refusal(self, why: str) -> JournalError:
        """Return the error for a problem with this log, with the remedy."""
        ...

    # --- entries --------------------------------------------------------------------------------------------------

    def extent(self) -> Extent:
        """Return the extent of the log."""
        ...

    def read(self, first: int = 0) -> tuple[Extent, Iterator[Entry]]:
        """Return the extent and the entries from a number on, as of one moment. Chains are not checked."""
        ...

    def entries(self, first: int, count: int) -> list[Entry]:
        """Return up to `count` entries from a number on, unchecked, including cut ones that still exist."""
        ...

    def bytes_after(self, number: int) -> int:
        """Return the total size of the bodies of the entries after a number."""
        ...

    def seal(self, epoch: int, previous: Position, block: Sequence[Entry]) -> None:
        """Take over writing: append a block after `previous`, and refuse every later append of an older epoch.

        Raises `JournalLost` unless the log ends with `previous` and all its epochs are older.
        """
        ...

    def append(self, epoch: int, previous: Position, block: Sequence[Entry]) -> None:
        """Append a block after `previous`, atomically.

        Raises `JournalLost` unless the log ends with `previous` and `epoch` is its newest one.
        """
        ...

    def check(self) -> None:
        """Raise `JournalLost` if the next reader would not find what was written here."""
        ...

    def free_bytes(self) -> int:
        """Return how many bytes are free for more."""
        ...

    def close(self) -> None:
        """Close the log cleanly. What was written is durable already."""
        ...

    # --- snapshots, cuts, pins ------------------------------------------------------------------------------------

    def snapshots(self) -> list[int]:
        """Return the numbers of all snapshots, finished or not, the newest first."""
        ...

    def find_name(self, snapshot: int) -> Entry | None:
        """Return the entry that names a snapshot, if it is not cut."""
        ...

    def put(self, snapshot: int, part: int, body: bytes) -> None:
        """Store one part of the snapshot after an entry; parts are dense, from 0."""
        ...

    def get(self, snapshot: int) -> Iterator[bytes]:
        """Yield the parts of a snapshot."""
        ...

    def forget(self, snapshot: int, parts_max: int) -> bool:
        """Remove up to `parts_max` parts of a snapshot, from the end, and its name; return whether all are gone."""
        ...

    def cut(self, first: int) -> None:
        """Mark the entries before a number as cut; `drop_cut` removes them."""
        ...

    def drop_cut(self, entries_max: int) -> bool:
        """Remove up to `entries_max` of the cut entries; return whether all are gone."""
        ...

    def pins(self) -> dict[str, int]:
        """Return the pins by name: for each the first entry that must be kept."""
        ...

    def pin(self, name: str, number: int) -> None:
        """Exempt this entry and all after it from retention."""
        ...

    def unpin(self, name: str) -> bool:
        """Remove a pin; return whether there was one."""
        ...
