"""The broker process: the real shell, core, recovery and journal, on simulated sockets, clock and process table.

`Server` is the production code from `turn` down: reading, decoding, the order of effects, what is held back while the
disk is full. Its arguments are simulated: sockets, clock, the watch over processes, and the stores of modules and
tensors (agents are programs of scripted.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import zmq
from simulation import checkers
from simulation.disk import Disk
from simulation.network import Context, Publisher
from simulation.processes import SimProcess

from rota.broker.recovery import open_epoch, recover
from rota.broker.sequencer import Sequencer
from rota.broker.server import Server, ServerSockets
from rota.broker.snapshotter import SnapshotPolicy, Snapshotter
from rota.broker.state import BrokerState
from rota.common import wire
from rota.common.errors import StorageFull
from rota.common.messages import Event
from rota.host.endpoints import Endpoints

if TYPE_CHECKING:
    from simulation.world import Simulation

NAME: Final = "broker"
HOST: Final = "here"
ENDPOINTS: Final = Endpoints("sim://frontend", "sim://backend", "sim://query", "sim://events")
_START_US: Final = (5_000, 400_000)
_TURN_COST_US: Final = 30
_WATCH_FD: Final = -7
_TURNS_PER_FOLD: Final = 150


class SimHostClock:
    """The clocks of the broker's host."""

    def __init__(self, host: BrokerHost) -> None:
        self._host = host

    def wall_ms(self) -> int:
        return self._host.clock.wall_ms(self._host.elapsed_us)

    def mono_ms(self) -> int:
        return (self._host.clock.now_us + self._host.elapsed_us + self._host.mono_offset_us) // 1_000


class SimProcessWatch:
    """The end of processes on the broker's host, in place of `ProcessWatch`."""

    def __init__(self, host: BrokerHost) -> None:
        self._host = host
        self._pids: dict[str, int] = {}
        host.process_watch = self

    def add(self, worker: str, pid: int) -> None:
        self._pids[worker] = pid

    def remove(self, worker: str) -> None:
        self._pids.pop(worker, None)

    def fds(self) -> tuple[int]:
        return (_WATCH_FD,)

    def gone(self) -> list[str]:
        found = [worker for worker, pid in self._pids.items() if pid not in self._host.simulation.pids]
        for worker in found:
            del self._pids[worker]
        return found

    def has_news(self) -> bool:
        return any(pid not in self._host.simulation.pids for pid in self._pids.values())

    def close(self) -> None:
        self._pids.clear()


class _AnyCode:
    """Has all code."""

    def admit(self, _name: str, _code: Any) -> None:
        pass


class _AnyTensor:
    """Has all tensors."""

    def admit(self, _request: Any) -> None:
        pass

    def collect(self, _mono_ms: int) -> None:
        pass


class BrokerHost(SimProcess):
    """The broker, through all of its restarts."""

    def __init__(self, simulation: Simulation, folder: Path) -> None:
        super().__init__(simulation, NAME)
        self.disk = Disk(folder, self, simulation.chances.stream("disk"))
        self.chance = simulation.chances.stream("broker")
        self.process_watch: SimProcessWatch | None = None
        self.core: BrokerState | None = None
        self.server: Server | None = None
        self.mono_offset_us = 0
        self.turns = 0
        self.news: list[Event] = []
        self.next_check = 0
        self.routers: list[Any] = []
        self._publisher: Publisher | None = None
        self._followers = simulation.chances.stream("followers")

    def start(self) -> None:
        """Recover and serve, as `rota.broker.__main__.serve` does."""
        if self.up:
            return
        self.begin()
        self.mono_offset_us = self.chance.randrange(1 << 40)
        if self.simulation.broker_falls_at_start(self.chance):
            self.crash_soon(self.chance.randrange(3))
        self.guard(self._start)

    def turn(self) -> None:
        server, core = self.server, self.core
        assert server is not None
        assert core is not None
        before = len(core.effects.records), core.world.next_seq
        self._follow(core)
        server.turn(self._ready())
        self.elapsed_us += _TURN_COST_US
        self.turns += 1
        self._take_news()
        if core.effects.records or before != (0, core.world.next_seq) or self.turns % 16 == 0:
            checkers.check_core(core)
        if self.turns % _TURNS_PER_FOLD == 0:
            self.simulation.checker.turned(self)
        self._plan_next(server)

    def _follow(self, core: BrokerState) -> None:
        """Let somebody follow the text of a call that runs, or of one that will, or of nothing; or no longer."""
        assert self._publisher is not None
        chance = self._followers.random()
        if chance > 0.2:
            return
        out = [task.seq for one in core.dispatcher.assignments.values() for _, tasks in one.folds for task in tasks]
        seq = self._followers.choice([*out, core.world.next_seq])
        self._publisher.subscriptions.append(b"%c" % (chance < 0.15) + b"text.%d." % seq)

    def process_ended(self) -> None:
        """Note that a process of this host has ended."""
        if self.up and self.process_watch is not None and self.process_watch.has_news():
            self.wake()

    def ended(self) -> None:
        self.simulation.checker.broker_crashed(self)
        if self._publisher is not None:
            self._take_news()
        self.core = self.server = self._publisher = None
        self.disk.crash()
        low, high = _START_US
        self.clock.after(low + self.chance.randrange(high - low), self.start)

    def _start(self) -> None:
        journal = self.disk.open()
        world = recover(journal, **self.simulation.plan.world_settings)
        self.simulation.checker.recovered(self, journal, world)
        try:
            open_epoch(world, journal, self.clock.wall_ms())
        except StorageFull:
            self.die("no room to start")
            return
        if self.simulation.plan.reserves_wal:
            self.disk.reserve()
        core = BrokerState(world, version="sim", host=HOST, heartbeat_ms=self.simulation.plan.heartbeat_ms)
        context: Any = Context(self.simulation.network, self)
        stores: Any = (_AnyCode(), _AnyTensor())
        sockets: Any = ServerSockets.bind(context, ENDPOINTS)
        watch: Any = SimProcessWatch(self)
        snapshots = Snapshotter(journal, world, SnapshotPolicy(*self.simulation.plan.snapshots))
        self.server = Server(Sequencer(core), journal, *stores, sockets, watch, SimHostClock(self), snapshots)
        self.core = core
        self.routers = [sockets.frontend, sockets.backend, sockets.query]
        self._publisher = sockets.events
        self.simulation.transcript.note("broker", "boot", world.boot, "records", journal.last_number)
        self.simulation.checker.started(self)
        self.wake()

    def _ready(self) -> dict[object, int]:
        ready: dict[object, int] = {router: zmq.POLLIN for router in self.routers if router.inbox}
        assert self.process_watch is not None
        if self._publisher is not None and self._publisher.subscriptions:
            ready[self._publisher] = zmq.POLLIN
        if self.process_watch.has_news():
            ready[_WATCH_FD] = zmq.POLLIN
        return ready

    def _plan_next(self, server: Server) -> None:
        wait_us = 0 if any(router.inbox for router in self.routers) else server.timeout_ms() * 1_000
        self.wake_at(self.clock.now_us + self.elapsed_us + max(wait_us, 1))

    def _take_news(self) -> None:
        publisher = self._publisher
        assert publisher is not None
        for frame in publisher.published:
            event = wire.decode(frame)
            assert isinstance(event, Event)
            self.simulation.checker.heard(event)
        publisher.published.clear()
