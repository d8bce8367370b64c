"""The base of all simulated processes: a name, restarts, crash points, and suspension.

A process acts only when it is woken, in one turn that takes no time except `elapsed_us` (waiting for the disk). Before
each effect (a send, a write, an event) it passes a *point*; a fault sets after how many points it ends, so that a crash
can come between any two effects of one list. Nothing of a dead process acts again: planned actions have the number of
its life.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.world import Simulation

TURN_US = 20  # from a wake-up to the turn, so that frames that arrive together are read together


class Crashed(BaseException):
    """The process ends here. A BaseException, so that the code under test does not catch it."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


class SimProcess:
    """One process. Subclasses define a turn, and what happens at its end."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.simulation = simulation
        self.clock = simulation.clock
        self.name = name
        self.up = False
        self.life = 0
        self.elapsed_us = 0
        self.points_left: int | None = None  # until the next crash; None: none is planned
        self.frozen_until_us = 0
        self._free_us = 0
        self._planned_us: int | None = None

    def begin(self) -> None:
        """Start a life."""
        assert not self.up
        self.up = True
        self.life += 1
        self.points_left = None
        self.frozen_until_us = self._free_us = 0
        self._planned_us = None

    def wake(self) -> None:
        self.wake_at(self.clock.now_us + TURN_US)

    def wake_at(self, moment_us: int) -> None:
        """Plan a turn at this moment, unless one comes earlier."""
        if not self.up:
            return
        moment_us = max(moment_us, self._free_us, self.frozen_until_us)
        if self._planned_us is None or moment_us < self._planned_us:
            self._planned_us = moment_us
            self.at(moment_us, lambda: self._wake_up(moment_us))

    def at(self, moment_us: int, action: Callable[[], None]) -> None:
        """Plan an action for this life."""
        life = self.life

        def act() -> None:
            if self.up and self.life == life:
                action()

        self.clock.at(moment_us, act)

    def freeze(self, us: int) -> None:
        """Suspend the process for a while, as SIGSTOP does."""
        self.frozen_until_us = self.clock.now_us + us
        self.wake_at(self.frozen_until_us)

    def crash_soon(self, points: int) -> None:
        self.points_left = points

    def point(self, what: str) -> None:
        if self.points_left is not None:
            self.points_left -= 1
            if self.points_left < 0:
                raise Crashed(what)

    def guard(self, action: Callable[[], None]) -> bool:
        """Run an action that may end the process; return False if it did."""
        self.elapsed_us = 0
        try:
            action()
        except Crashed as crash:
            self.die(crash.where)
            return False
        finally:
            self._free_us = self.clock.now_us + self.elapsed_us
            self.elapsed_us = 0
        return True

    def die(self, where: str) -> None:
        """End the process."""
        if not self.up:
            return
        self.up = False
        self.simulation.transcript.note("died", self.name, where)
        self.simulation.network.end_process(self.name)
        self.ended()

    def start(self) -> None:
        """Start a life, unless the process runs."""
        raise NotImplementedError

    def turn(self) -> None:
        """Do one turn."""
        raise NotImplementedError

    def ended(self) -> None:
        """Clean up after the process has ended."""

    def _wake_up(self, moment_us: int) -> None:
        if self._planned_us != moment_us:
            return  # an earlier turn was planned since, and has run
        self._planned_us = None
        if self.clock.now_us < max(self.frozen_until_us, self._free_us):
            self.wake_at(max(self.frozen_until_us, self._free_us))
            return
        self.guard(self.turn)
