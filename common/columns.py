"""Bytes, addresses and outcomes of many tasks as columns: one blob, lengths, small integers. PURE.

Messages and records hold these instead of an object per task; they are decoded in a few steps, however many tasks there
are. Each is a sequence whose elements are made on demand. What only a few tasks have (emits, logs, tensors, failures)
is *sparse*: pairs of index and value with ascending indexes. Inconsistent columns raise an error, also when decoded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, groupby, repeat
from struct import unpack
from typing import Annotated, Any, Final, Generic, TypeVar, cast

from msgspec import Meta, Struct, structs

from rota.common import limits
from rota.common.fields import Index, PayloadLength, Positive, ResultLength, Target

S = TypeVar("S", bound=Struct)
T = TypeVar("T")

_FEW: Final = 8
new_tuple: Final[Any] = cast(Any, tuple).__new__  # a NamedTuple's own constructor takes twice as long

Sparse = Annotated[tuple[tuple[Index, T], ...], Meta(max_length=limits.RUN_TASKS_MAX)]
"""A sparse column: (index, value) for the tasks that have a value."""


Stretches = Annotated[tuple[tuple[Positive, T], ...], Meta(max_length=limits.RUN_TASKS_MAX)]
"""A column in which the same value stands many times in a row: (how often, value). Empty: no task has a value."""


def value_at(pairs: tuple[tuple[int, Any], ...], index: int, otherwise: Any = ()) -> Any:
    """Return the value of a sparse column at an index."""
    place = bisect_left(pairs, (index,))
    return pairs[place][1] if place < len(pairs) and pairs[place][0] == index else otherwise


def sparse(values: Sequence[Any]) -> tuple[tuple[int, Any], ...]:
    """Return the non-empty values as a sparse column."""
    return tuple([(index, value) for index, value in enumerate(values) if value]) if any(values) else ()


def picked(pairs: tuple[tuple[int, T], ...], indexes: Sequence[int]) -> tuple[tuple[int, T], ...]:
    """Return the sparse column of the tasks at these indexes."""
    if not pairs:
        return ()
    known = dict(pairs)
    return tuple([(place, known[index]) for place, index in enumerate(indexes) if index in known])


def stretches(values: Sequence[T | None]) -> tuple[tuple[int, T | None], ...]:
    """Return values as stretches of equal ones; empty if all are None."""
    if not any(values):
        return ()
    return tuple([(sum(1 for _ in same), value) for value, same in groupby(values)])


def spread(column: tuple[tuple[int, T], ...]) -> Iterator[T | None]:
    """Return the values in stretches one by one, without end if there are none."""
    if not column:
        return repeat(None)
    return chain.from_iterable([repeat(value, times) for times, value in column])


def check_sparse(what: str, pairs: tuple[tuple[int, Any], ...], count: int) -> None:
    """Raise ValueError unless the indexes of a sparse column are ascending and below `count`."""
    last = -1
    for index, value in pairs:
        if not last < index < count:
            raise ValueError(f"{what} at index {index} after {last}, in a row of {count}")
        if value == ():
            raise ValueError(f"{what} at index {index} are empty: leave it out")
        last = index


class kept(Generic[T]):
    """A cached property. functools.cached_property takes a lock, which costs ten times as much."""

    def __init__(self, work_out: Callable[[Any], T]) -> None:
        self._work_out = work_out
        self.__doc__ = work_out.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, kind: Any = None) -> T:
        found = owner.__dict__[self._name] = self._work_out(owner)
        return found


class Column(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Base of all columns. Values computed from the fields are cached beside them."""

    def _replace(self: S, **changes: Any) -> S:
        """Return a copy with other fields, as for NamedTuples."""
        return structs.replace(self, **changes)


class InColumns:
    """Marks a field that is a sequence in Python and is encoded as a column of this class."""

    def __init__(self, column: Any) -> None:
        self.column = column


class Blobs(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Byte strings, concatenated in one blob."""

    data: bytes
    lengths: Annotated[tuple[PayloadLength, ...], Meta(max_length=limits.RUN_TASKS_MAX)]

    def __post_init__(self) -> None:
        _check_lengths(self.data, sum(self.lengths))

    @classmethod
    def of(cls, items: Iterable[bytes]) -> Blobs:
        """Return byte strings as one column."""
        if isinstance(items, Blobs):
            return items
        items = tuple(items)
        return Blobs(b"".join(items), tuple(map(len, items)))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> bytes:
        end = self._ends[index]
        return self.data[end - self.lengths[index] : end]

    def __iter__(self) -> Iterator[bytes]:
        return iter(_cut(self.data, self.lengths))

    def pick(self, indexes: Sequence[int]) -> Blobs:
        """Return some of the strings; consecutive indexes are one slice of the blob."""
        first, count = indexes[0], len(indexes)
        if count == len(self.lengths):
            return self
        if indexes[-1] - first + 1 == count:
            start, end = self._ends[first] - self.lengths[first], self._ends[indexes[-1]]
            return Blobs(self.data[start:end], self.lengths[first : first + count])
        return Blobs.of([self[index] for index in indexes])

    @kept
    def _ends(self) -> tuple[int, ...]:
        return tuple(accumulate(self.lengths))


class Values(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Byte strings or None, concatenated in one blob; None differs from the empty string."""

    data: bytes
    lengths: Annotated[tuple[ResultLength | None, ...], Meta(max_length=limits.RUN_TASKS_MAX)]

    def __post_init__(self) -> None:
        lengths: Any = self.lengths
        _check_lengths(self.data, sum(filter(None, lengths) if None in lengths else lengths))

    @classmethod
    def of(cls, items: Sequence[bytes | None]) -> Values:
        """Return byte strings and None as one column."""
        return Values(b"".join(filter(None, items)), tuple([None if item is None else len(item) for item in items]))

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[bytes | None]:
        missing = self.lengths.count(None)
        if not missing:
            return iter(_cut(self.data, cast(tuple[int, ...], self.lengths)))
        if missing == len(self.lengths):
            return repeat(None, missing)
        cuts = _cut(self.data, tuple([length or 0 for length in self.lengths]))
        return iter([None if length is None else cut for length, cut in zip(self.lengths, cuts, strict=True)])


class Addresses(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Addresses of many tasks: a table of distinct ones, and for each task an index into it."""

    table: Annotated[tuple[Target, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
    places: Annotated[tuple[Index, ...], Meta(max_length=limits.RUN_TASKS_MAX)]

    def __post_init__(self) -> None:
        if max(self.places, default=-1) >= len(self.table):
            raise ValueError(f"place {max(self.places)} in a table of {len(self.table)} addresses")

    @classmethod
    def of(cls, items: Iterable[str]) -> Addresses:
        """Return addresses as a table, in order of first use, and indexes."""
        if isinstance(items, Addresses):
            return items
        table: dict[str, int] = {}
        places = tuple([table.setdefault(item, len(table)) for item in items])
        return Addresses(tuple(table), places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> str:
        return self.table[self.places[index]]

    def __iter__(self) -> Iterator[str]:
        return map(self.table.__getitem__, self.places)


def _cut(data: bytes, lengths: tuple[int, ...]) -> Sequence[bytes]:
    if len(lengths) > _FEW and lengths.count(lengths[0]) == len(lengths):
        # A sixth of the cost; equal lengths are common.
        return unpack(f"{lengths[0]}s" * len(lengths), data)
    start = 0
    cuts: list[bytes] = []
    for length in lengths:
        cuts.append(data[start : start + length])
        start += length
    return cuts


def _check_lengths(data: bytes, total: int) -> None:
    if total != len(data):
        raise ValueError(f"the lengths come to {total} bytes, the blob has {len(data)}")
