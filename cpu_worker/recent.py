"""What a worker keeps of the things it used last, by key: bounded in number and in bytes. PURE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The longest unused goes first. The newest may have more than all the bytes, so that it can be used at all."""

    def __init__(self, count_max: int, bytes_max: int = 0) -> None:
        """Keep at most `count_max` values, and if `bytes_max` is not 0 of so many bytes together."""
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._kept: dict[K, tuple[V, int]] = {}
        self._bytes = 0

    def __contains__(self, key: K) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def values(self) -> Iterator[V]:
        return (value for value, _ in self._kept.values())

    def get(self, key: K) -> V | None:
        """Return a value, which is the newest now; None if it is not kept."""
        found = self._kept.pop(key, None)
        if found is None:
            return None
        self._kept[key] = found
        return found[0]

    def take(self, key: K) -> V | None:
        """Return a value and keep it no longer; None if it is not kept."""
        value, size = self._kept.pop(key, (None, 0))
        self._bytes -= size
        return value

    def put(self, key: K, value: V, size: int = 0) -> None:
        """Keep a value of `size` bytes, and let go what is too much."""
        self.take(key)
        self._kept[key] = value, size
        self._bytes += size
        while len(self._kept) > self._count_max or (0 < self._bytes_max < self._bytes and len(self._kept) > 1):
            self.take(next(iter(self._kept)))

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0
