"""Simulated time, the event queue, named random streams, and the transcript.

A run is determined by these: actions run one at a time in time order, ties in the order of planning; every decision
draws from a stream derived from the seed and its own name, so that leaving one thing out while shrinking does not
change the others. The transcript is a digest over everything that was delivered: two runs of a seed did the same
exactly when it is equal.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from blake3 import blake3

WALL_START_MS = 1_700_000_000_000
LINES_KEPT = 400


class Clock:
    """Monotonic time in microseconds from 0, and a wall clock that faults can move."""

    def __init__(self) -> None:
        self.now_us = 0
        self.calendar_ms = WALL_START_MS  # the wall clock at time 0; a jump changes it
        self.frozen_ms: int | None = None  # the wall clock stands still, so that no timer is due by itself
        self.actions = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []

    @property
    def now_ms(self) -> int:
        return self.now_us // 1_000

    def wall_ms(self, ahead_us: int = 0) -> int:
        if self.frozen_ms is not None:
            return self.frozen_ms
        return self.calendar_ms + (self.now_us + ahead_us) // 1_000

    def jump(self, ms: int) -> None:
        """Move the wall clock."""
        self.calendar_ms += ms

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        """Plan an action."""
        self.at(self.now_us + max(0, delay_us), action)

    def at(self, moment_us: int, action: Callable[[], None]) -> None:
        self.actions += 1
        heapq.heappush(self._queue, (moment_us, self.actions, action))

    def run(self, until_us: int, done: Callable[[], bool] | None = None) -> bool:
        """Run everything up to a moment; return True if `done` became true before."""
        while self._queue and self._queue[0][0] <= until_us:
            moment_us, _, action = heapq.heappop(self._queue)
            self.now_us = max(self.now_us, moment_us)
            action()
            if done is not None and done():
                return True
        self.now_us = max(self.now_us, until_us)
        return False


class Chances:
    """Random streams, by name."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def stream(self, name: str) -> random.Random:
        return random.Random(f"{self._seed}/{name}")  # a text seeds by its bytes, whatever PYTHONHASHSEED is


class Transcript:
    """A digest of everything that happened, and the last lines for a report."""

    def __init__(self, clock: Clock, folder: str) -> None:
        self._clock = clock
        self._folder = folder.encode()  # errors name it, and it differs between runs
        self._hash = blake3()
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)

    def frame(self, way: str, identity: bytes, frame: bytes) -> None:
        """Note a frame that arrived."""
        self._hash.update(b"%d %s " % (self._clock.now_us, way.encode()))
        self._hash.update(identity)
        self._hash.update(frame.replace(self._folder, b""))

    def note(self, what: str, *details: Any) -> None:
        """Note anything else."""
        line = f"{self._clock.now_us / 1e6:10.6f} {what}" + "".join(f" {detail}" for detail in details)
        self._hash.update(line.encode())
        self.lines.append(line)

    def digest(self) -> str:
        return self._hash.hexdigest()
