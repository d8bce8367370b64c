"""The outcomes still to be sent to each connection, and whose turn it is. PURE.

Every connection has a debt: new outcomes, numbers of tasks whose outcomes are looked up when there is room, and Awaits
that are answered in parts. A step sends each connection at most one message, so a large request delays only its own
connection. A slow connection is skipped until it accepts messages again; its debt is then mostly numbers, not outcomes.
Volatile, like connections.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final

from rota.common.errors import Busy
from rota.common.messages import ResultItem

OUTCOMES_MAX: Final = 4_096  # new outcomes kept per connection; later ones are kept by number
OUTCOME_BYTES_MAX: Final = 1 << 20
RANGES_MAX: Final = 10_000  # of waiting numbers; a connection with more is forgotten, and must ask again
AWAITS_MAX: Final = 1_024  # unanswered ones of one connection
_REFERENCE_BYTES: Final = 100  # digest, dtype and shape of a tensor


class OpenAwait:
    """An Await, and how much of it is answered."""

    __slots__ = ("expired", "last_seq", "next_seq", "number")

    def __init__(self, number: int, first_seq: int, last_seq: int) -> None:
        self.number = number
        self.next_seq = first_seq
        self.last_seq = last_seq
        self.expired: list[int] = []


class Debt:
    """What one connection is owed, in the order of sending."""

    __slots__ = ("awaits", "outcome_bytes", "outcomes", "ranges")

    def __init__(self) -> None:
        self.outcomes: deque[tuple[ResultItem, int]] = deque()  # with their sizes in bytes
        self.outcome_bytes = 0
        self.ranges: deque[list[int]] = deque()  # first and last seq
        self.awaits: deque[OpenAwait] = deque()

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.ranges or self.awaits)

    def take_outcomes(self, items_max: int, bytes_max: int) -> tuple[list[ResultItem], int]:
        """Remove and return the first new outcomes, up to about so many or so many bytes, and their size."""
        taken: list[ResultItem] = []
        outcomes, total = self.outcomes, 0
        while outcomes and len(taken) < items_max and total < bytes_max:
            item, size = outcomes.popleft()
            taken.append(item)
            total += size
        self.outcome_bytes -= total
        return taken, total

    def take_seq(self) -> int:
        """Remove and return the first number whose outcome is to be looked up."""
        first, last = self.ranges[0]
        if first == last:
            self.ranges.popleft()
        else:
            self.ranges[0][0] += 1
        return first

    def add(self, items: Iterable[ResultItem]) -> None:
        """Add outcomes: themselves while there are few, else their numbers."""
        outcomes, ranges, held = self.outcomes, self.ranges, self.outcome_bytes
        for item in items:
            if ranges or len(outcomes) >= OUTCOMES_MAX or held >= OUTCOME_BYTES_MAX:
                if ranges and ranges[-1][1] + 1 == item.seq:
                    ranges[-1][1] = item.seq
                else:
                    ranges.append([item.seq, item.seq])
                continue
            size = item_bytes(item)
            outcomes.append((item, size))
            held += size
        self.outcome_bytes = held


class Debts:
    """The debts of all connections."""

    def __init__(self) -> None:
        self._by_identity: dict[bytes, Debt] = {}
        self._ready: OrderedDict[bytes, None] = OrderedDict()  # connections that can be paid, the longest unpaid first
        self._slow: dict[bytes, None] = {}

    @property
    def due(self) -> bool:
        """Whether any connection can be paid now."""
        return bool(self._ready)

    def owe(self, identity: bytes, items: Iterable[ResultItem]) -> bool:
        """Owe a connection outcomes, at least one. Returns False if it is owed too many and must be forgotten."""
        debt = self._debt(identity)
        debt.add(items)
        return len(debt.ranges) <= RANGES_MAX

    def ask(self, identity: bytes, number: int, first_seq: int, last_seq: int) -> None:
        """Owe a connection the answer to an Await. Raises `Busy` if it has too many open ones."""
        debt = self._debt(identity)
        if len(debt.awaits) >= AWAITS_MAX:
            raise Busy(f"{AWAITS_MAX} Awaits of this connection are not answered yet: take their results first")
        debt.awaits.append(OpenAwait(number, first_seq, last_seq))

    def turn(self) -> list[tuple[bytes, Debt]]:
        """Return the connections to pay in this step, the longest unpaid first."""
        return [(identity, self._by_identity[identity]) for identity in self._ready]

    def paid(self, identity: bytes) -> None:
        """Note that a connection was paid in this step; the rest waits for its next turn."""
        del self._ready[identity]
        if self._by_identity[identity]:
            self._ready[identity] = None
        else:
            del self._by_identity[identity]

    def set_slow(self, identity: bytes, slow: bool) -> None:
        """Skip a connection that does not accept messages, or pay it again."""
        if slow:
            self._slow[identity] = None
            self._ready.pop(identity, None)
        else:
            self._slow.pop(identity, None)
            if identity in self._by_identity:
                self._ready.setdefault(identity)

    def forget(self, identity: bytes) -> None:
        """Drop what a connection is owed."""
        self._by_identity.pop(identity, None)
        self._ready.pop(identity, None)

    def _debt(self, identity: bytes) -> Debt:
        debt = self._by_identity.get(identity)
        if debt is None:
            debt = self._by_identity[identity] = Debt()
            if identity not in self._slow:
                self._ready[identity] = None
        return debt

    def check_invariants(self) -> None:
        """Assert that every connection with a debt is ready or slow."""
        assert all(debt for debt in self._by_identity.values())
        assert list(self._ready) == [identity for identity in self._ready if identity in self._by_identity]
        assert set(self._by_identity) - set(self._slow) == set(self._ready)


def item_bytes(item: ResultItem) -> int:
    """Return about how many bytes an outcome takes on the wire; text counts by characters."""
    result = 0 if item.result is None else len(item.result)
    if item.ok and not item.log and not item.tensors:
        return result
    return result + len(item.message) + sum(map(len, item.log)) + _REFERENCE_BYTES * len(item.tensors)
