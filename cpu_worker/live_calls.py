"""The guests of calls that a worker keeps: how many, how much they take, and which go when there are too many.

Calls often take turns: each of them runs a step, then all others do. If they are more than can be kept and the longest
unused one went, none would be there when its turn comes. So a guest that would displace another gets the place of the
next to go: it stays if it goes on before another call comes, and the others stay until their turn. One of some such
guests gets a place as if it had been kept, so that calls that wait for long make room at last.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from rota.cpu_worker.call_history import Sums
from rota.cpu_worker.guest_memory import GuestMemories
from rota.cpu_worker.host_limits import LIVE_BYTES_MAX
from rota.cpu_worker.sandbox import LiveGuest

_ADMITTED: Final = 16  # one of so many
_MEASURED_SHARE: Final = 8  # of the room: with less in use, a guest counts with all of its memory, unmeasured


class LiveCall(NamedTuple):
    """A guest, and the history that it has seen: its mark, its fuel, and what its messages come to."""

    live: LiveGuest
    mark: bytes
    fuel: int
    sums: Sums


class LiveCalls:
    """At most as many guests as there are slots for, one for each call, of LIVE_BYTES_MAX together."""

    def __init__(self, memories: GuestMemories) -> None:
        self._most = memories.live_calls
        self._shares_pages = memories.maps_images  # else a guest has written, or may have been charged for, all of it
        self._kept: OrderedDict[bytes, tuple[LiveCall, int]] = OrderedDict()  # the next to go first, with their sizes
        self._bytes = 0
        self._displacing = 0

    def take(self, key: bytes) -> LiveCall | None:
        """Return the guest of a call, which is the caller's from now on."""
        found = self._kept.pop(key, None)
        if found is None:
            return None
        self._bytes -= found[1]
        return found[0]

    def keep(self, key: bytes, call: LiveCall, *, was_kept: bool) -> None:
        """Keep a guest of a call; `was_kept`: it was taken from here for its last steps."""
        if not self._most:
            call.live.close()
            return
        size = call.live.bytes_max()
        if self._shares_pages and self._bytes + size > LIVE_BYTES_MAX // _MEASURED_SHARE:
            size = call.live.bytes_now()
        displaces = False
        while self._kept and (len(self._kept) >= self._most or self._bytes + size > LIVE_BYTES_MAX):
            self._drop_next()
            displaces = True
        self._kept[key] = call, size
        self._bytes += size
        if displaces and not was_kept:
            self._displacing += 1
            if self._displacing % _ADMITTED:
                self._kept.move_to_end(key, last=False)

    def give_up(self) -> bool:
        """Close all guests; return whether there were any."""
        found = bool(self._kept)
        while self._kept:
            self._drop_next()
        return found

    def _drop_next(self) -> None:
        _, (call, size) = self._kept.popitem(last=False)
        self._bytes -= size
        call.live.close()
