"""Cycles among addresses that wait for each other's answers. PURE."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

Waits = Mapping[str, Sequence[str]]
"""By address: those for whose answers it waits, each once."""


def cycles(waits: Waits) -> list[list[str]]:
    """Return a shortest cycle of each group of addresses that all wait for each other, directly or not.

    Each begins with the address that comes first in `waits`, and so do the cycles.
    """
    place = {address: index for index, address in enumerate(waits)}
    groups = [
        group
        for group in _components(waits)
        if len(group) > 1 or group[0] in waits.get(group[0], ())
    ]  # fmt: skip
    found = [_shortest(waits, group, place) for group in groups]
    return sorted(found, key=lambda cycle: place[cycle[0]])


def _shortest(waits: Waits, group: list[str], place: Mapping[str, int]) -> list[str]:
    """Return a shortest way within a group from its first address back to itself."""
    start = min(group, key=place.__getitem__)
    inside = dict.fromkeys(group)
    before: dict[str, str] = {}
    next_ones = deque([start])
    while True:
        address = next_ones.popleft()
        for one in waits.get(address, ()):
            if one == start:
                return _way(before, start, address)
            if one in inside and one not in before:
                before[one] = address
                next_ones.append(one)


def _way(before: Mapping[str, str], start: str, end: str) -> list[str]:
    way = [end]
    while way[-1] != start:
        way.append(before[way[-1]])
    return way[::-1]


def _components(waits: Waits) -> Iterator[list[str]]:
    """Yield the strongly connected components, by Tarjan's algorithm; without recursion, since chains may be long."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    open_ones: dict[str, None] = {}  # visited, and not yet in a component; the newest last
    for root in waits:
        if root in number:
            continue
        path = [(root, iter(waits[root]))]
        number[root] = low[root] = len(number)
        open_ones[root] = None
        while path:
            address, left = path[-1]
            for one in left:
                if one not in number:
                    number[one] = low[one] = len(number)
                    open_ones[one] = None
                    path.append((one, iter(waits.get(one, ()))))
                    break
                if one in open_ones:
                    low[address] = min(low[address], number[one])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[address])
                if low[address] == number[address]:
                    yield _taken(open_ones, address)


def _taken(open_ones: dict[str, None], root: str) -> list[str]:
    """Remove and return the addresses from `root` on."""
    group: list[str] = []
    while not group or group[-1] != root:
        group.append(open_ones.popitem()[0])
    return group
