"""The order in which waiting calls run: models, lanes and shapes take turns. PURE.

A flood cannot hold up others: with M models, L lanes of a model and S shapes of one lane's calls, a call at the head of
its queue runs after at most M x L x S steps, however many calls wait elsewhere. Calls of one lane and shape run in the
order of their arrival. Nothing here can be seen in a result.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar


class Waits(Protocol):
    """A call that waits."""

    @property
    def lane(self) -> bytes:
        """Whose turn it is when this call runs."""
        ...

    @property
    def shape(self) -> Hashable:
        """Calls of one shape may share a batch."""
        ...

    @property
    def rows(self) -> int: ...

    @property
    def rows_max(self) -> int:
        """The most rows of a batch of this shape; 0 if each call runs alone."""
        ...


T = TypeVar("T", bound=Waits)


class WaitingCalls(Generic[T]):
    """The waiting calls of one model."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[bytes, OrderedDict[Hashable, deque[T]]] = OrderedDict()
        self._first: deque[T] = deque()  # run one by one, before others

    def __bool__(self) -> bool:
        return bool(self._lanes or self._first)

    def __iter__(self) -> Iterator[T]:
        yield from self._first
        for shapes in self._lanes.values():
            for calls in shapes.values():
                yield from calls

    def add(self, call: T) -> None:
        """Queue a call behind those of its lane and shape."""
        shapes = self._lanes.get(call.lane)
        if shapes is None:
            shapes = self._lanes[call.lane] = OrderedDict()
        calls = shapes.get(call.shape)
        if calls is None:
            calls = shapes[call.shape] = deque()
        calls.append(call)

    def add_single(self, call: T) -> None:
        """Queue a call to run by itself, before those that wait."""
        self._first.append(call)

    def take(self) -> list[T]:
        """Remove and return the calls that run next, together: at least one, if any waits.

        The lane whose turn it is names the shape; lanes with calls of that shape give one call each, in turn, while the
        next one fits.
        """
        if self._first:
            return [self._first.popleft()]
        lane, shapes = next(iter(self._lanes.items()))
        shape = next(iter(shapes))
        first = shapes[shape].popleft()
        taken, room = [first], first.rows_max - first.rows
        sharing = {lane: shapes[shape]}
        if room > 0:
            sharing |= {name: other[shape] for name, other in self._lanes.items() if shape in other}
            queues = deque(sharing.values())
            queues.rotate(-1)  # this lane has given one
            self._fill(taken, room, queues)
        gave = dict.fromkeys(call.lane for call in taken)  # a lane whose next call did not fit keeps its turn
        for name in gave:
            self._move_on(name, shape, sharing[name])
        if lane in self._lanes:
            self._lanes.move_to_end(lane)
        return taken

    def _fill(self, taken: list[T], room: int, queues: deque[deque[T]]) -> None:
        while queues and room > 0:
            calls = queues[0]
            if not calls or calls[0].rows > room:
                queues.popleft()
                continue
            call = calls.popleft()
            taken.append(call)
            room -= call.rows
            queues.rotate(-1)

    def _move_on(self, lane: bytes, shape: Hashable, calls: deque[T]) -> None:
        """Put a shape that was served behind the others of its lane; drop what is empty."""
        shapes = self._lanes[lane]
        if calls:
            shapes.move_to_end(shape)
            return
        del shapes[shape]
        if not shapes:
            del self._lanes[lane]
