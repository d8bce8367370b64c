"""A second implementation of `Log` (rota/broker/log.py), in memory.

`Shelf` is the stored data, `MemoryLog` one process's access to it, so two of them are two brokers with one log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

from rota.broker.log import BEGINNING, Entry, Extent, Position
from rota.common.errors import JournalError, JournalLost


class Shelf:
    """The data of a log."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.extent = Extent(1, *BEGINNING, 0)
        self.parts: dict[tuple[int, int], bytes] = {}
        self.names: dict[int, int] = {}
        self.pins: dict[str, int] = {}


class MemoryLog:
    """One process's access to a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    @property
    def name(self) -> str:
        return "a log in memory"

    def refusal(self, why: str) -> JournalError:
        return JournalError(f"{self.name} cannot be used: {why}; make another one")

    def extent(self) -> Extent:
        return self._shelf.extent

    def read(self, first: int = 0) -> tuple[Extent, Iterator[Entry]]:
        extent = self._shelf.extent
        return extent, iter([self._shelf.entries[n] for n in range(max(first, extent.first), extent.last + 1)])

    def entries(self, first: int, count: int) -> list[Entry]:
        return list(islice((entry for number, entry in self._shelf.entries.items() if number >= first), count))

    def bytes_after(self, number: int) -> int:
        return sum(len(entry.body) for entry in self._shelf.entries.values() if entry.number > number)

    def seal(self, epoch: int, previous: Position, block: Sequence[Entry]) -> None:
        if epoch <= self._shelf.extent.epoch:
            raise JournalLost("an epoch as new as this one is there")
        self._take(epoch, previous, block)

    def append(self, epoch: int, previous: Position, block: Sequence[Entry]) -> None:
        if epoch != self._shelf.extent.epoch:
            raise JournalLost("somebody opened a newer epoch")
        self._take(epoch, previous, block)

    def _take(self, epoch: int, previous: Position, block: Sequence[Entry]) -> None:
        if previous != self._shelf.extent.end:
            raise JournalLost("the log has gone on")
        self._shelf.entries.update({entry.number: entry for entry in block})
        self._shelf.names.update({entry.names: entry.number for entry in block if entry.names})
        self._shelf.extent = Extent(self._shelf.extent.first, block[-1].number, block[-1].chain, epoch)

    def check(self) -> None:
        pass

    def free_bytes(self) -> int:
        return 1 << 40

    def close(self) -> None:
        pass

    def snapshots(self) -> list[int]:
        return sorted({number for number, _ in self._shelf.parts}, reverse=True)

    def find_name(self, snapshot: int) -> Entry | None:
        entry = self._shelf.entries.get(self._shelf.names.get(snapshot, 0))
        return entry if entry is not None and entry.number >= self._shelf.extent.first else None

    def put(self, snapshot: int, part: int, body: bytes) -> None:
        self._shelf.parts[snapshot, part] = body

    def get(self, snapshot: int) -> Iterator[bytes]:
        for part in count():
            if (snapshot, part) not in self._shelf.parts:
                return
            yield self._shelf.parts[snapshot, part]

    def forget(self, snapshot: int, parts_max: int) -> bool:
        self._shelf.names.pop(snapshot, None)
        there = sorted(part for number, part in self._shelf.parts if number == snapshot)
        for part in there[-parts_max:]:
            del self._shelf.parts[snapshot, part]
        return len(there) <= parts_max

    def cut(self, first: int) -> None:
        self._shelf.extent = self._shelf.extent._replace(first=first)

    def drop_cut(self, entries_max: int) -> bool:
        old = [number for number in self._shelf.entries if number < self._shelf.extent.first]
        for number in old[:entries_max]:
            del self._shelf.entries[number]
        return len(old) <= entries_max

    def pins(self) -> dict[str, int]:
        return dict(self._shelf.pins)

    def pin(self, name: str, number: int) -> None:
        self._shelf.pins[name] = number

    def unpin(self, name: str) -> bool:
        return self._shelf.pins.pop(name, None) is not None
