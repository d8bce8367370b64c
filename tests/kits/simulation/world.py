"""One simulation: all processes, run by a plan, settled, and checked.

set up the broker is started, then workers and producers; lanes are opened and names bound live errands begin and
faults strike at the moments of the plan settle nothing goes wrong any more; all errands, tasks and timers must come
to their end in bounded time check checkers.py, over the run file and over everything that anybody was told
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from simulation import checkers, faults
from simulation.broker_host import BrokerHost
from simulation.clock import Chances, Clock, Transcript
from simulation.errands import (
    CLOSING,
    NUMBERS_PER_ERRAND,
    SETUP,
    close_down,
    end_ask,
    make_errand,
    pinned_work,
    set_up,
)
from simulation.network import Network
from simulation.people import Client
from simulation.plan import Plan, faults_of
from simulation.processes import SimProcess
from simulation.worker_host import WorkerHost

SETTLE_US_MAX = 900_000_000  # a client that lost its subscription unnoticed asks again after a minute
RESTART_US = (5_000, 1_500_000)


class Report(NamedTuple):
    """The result of a run."""

    plan: Plan
    failure: str  # empty: everything passed
    story: tuple[str, ...]  # the last lines of the transcript, and where it failed
    transcript: str  # the digest of everything that happened
    simulated_s: float
    tasks: int
    boots: int
    lane_digests: tuple[tuple[str, str], ...]
    struck: tuple[tuple[str, int], ...]  # faults by their kind
    seen: tuple[tuple[str, int], ...]  # their effects


class Simulation:
    """All processes of a run and their network."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.clock = Clock()
        self.chances = Chances(plan.seed)
        self.transcript = Transcript(self.clock, str(folder))
        self.network = Network(self.clock, self.chances.stream("network"), self.transcript)
        self.checker = checkers.Checker(self)
        self.pids: dict[int, str] = {}
        self.struck: dict[str, int] = {}
        self.settling = False
        self._next_pid = 100
        self._ending: dict[int, None] = {}
        self._chance = self.chances.stream("supervisor")
        self.broker = BrokerHost(self, folder)
        pools = ["cpu"] * plan.workers + ["gpu"] * plan.gpu_workers
        self.workers = [WorkerHost(self, f"{pool}{number}", pool) for number, pool in enumerate(pools)]
        self.clients = [Client(self, f"client{number}") for number in range(plan.clients)]

    def processes(self) -> list[SimProcess]:
        return [self.broker, *self.workers, *self.clients]

    def run(self) -> None:
        """Live, settle, check. Raises AssertionError if a check fails."""
        for delay_us, process in enumerate(self.processes()):
            self.clock.after(delay_us * 100, process.start)
        if self.plan.pinned:
            self.clock.frozen_ms = 77
            self.clients[0].give(0, pinned_work(self.plan))
        else:
            self.clients[0].give(SETUP, set_up(self.plan))
        for number in self.plan.errands:
            client, at_us, errand = make_errand(self.plan, number)
            self.clock.at(at_us, lambda c=client, n=number, e=errand: self.clients[c].give(n, e))  # type: ignore[misc]
        for fault in faults_of(self.plan):
            self.clock.at(fault.at_us, lambda fault=fault: faults.strike(self, fault))  # type: ignore[misc]
        self.clock.run(self.plan.duration_ms * 1_000)
        self._settle()
        self.checker.final()

    def new_pid(self) -> int:
        self._next_pid += 1
        self.pids[self._next_pid] = ""
        return self._next_pid

    def worker_ended(self, worker: WorkerHost, pid: int) -> None:
        """Tell the broker's host, and start a replacement."""
        self.pids.pop(pid, None)
        self.clock.after(500, self.broker.process_ended)
        low, high = RESTART_US
        self.clock.after(low + self._chance.randrange(high - low), worker.start)

    def broker_falls_at_start(self, chance: Random) -> bool:
        return not self.settling and self.broker.life > 1 and chance.random() < 0.1

    def _settle(self) -> None:
        self.settling = True
        self.transcript.note("settle")
        faults.heal(self)
        self.clients[0].give(CLOSING, close_down(self.plan))
        until_us = self.clock.now_us + SETTLE_US_MAX
        while not self.clock.run(until_us, self._is_at_rest):
            world = self.broker.core.world if self.broker.core is not None else None
            open_errands = {client.name: sorted(client.errands) for client in self.clients}
            load = {} if world is None else {name: (lane.load, lane.paused) for name, lane in world.lanes.items()}
            raise AssertionError(f"it does not come to rest: errands {open_errands}, lanes {load}")

    def _is_at_rest(self) -> bool:
        core = self.broker.core
        if core is None:
            return False
        lanes = list(core.world.lanes.values())
        if any(lane.waiting_count or lane.line_count for lane in lanes):
            return False
        if core.next_timer_ms() is None and any(lane.timers or lane.asks.deadlines for lane in lanes):
            return False  # no errand waits for them any more
        if core.next_timer_ms() is not None:
            self._pass_time(core.next_timer_ms() or 0)
            return False
        if any(lane.asks.open for lane in lanes):
            self._end_oldest_ask([ask.seq for lane in lanes for ask in lane.asks.open.values()])
            return False
        return not any(client.errands for client in self.clients) and not self.broker.disk.attempts

    def _end_oldest_ask(self, seqs: list[int]) -> None:
        """Cancel a task that was postponed and that nobody will answer: whoever waits for it would wait for ever."""
        number = 2 * CLOSING * NUMBERS_PER_ERRAND + seqs[0]  # far from those of `close_down`, which has no bound
        if seqs[0] not in self._ending:
            self._ending[seqs[0]] = None
            self.clients[0].give(number, end_ask(number, seqs[0]))

    def _pass_time(self, due_ms: int) -> None:
        """If only timers are left, move the wall clock to the next one."""
        if self.clock.frozen_ms is not None:
            self.clock.frozen_ms = max(self.clock.frozen_ms, due_ms)
        else:
            self.clock.jump(max(0, due_ms - self.clock.wall_ms()))
        self.broker.wake()


def simulate(plan: Plan) -> Report:
    """Run a plan from beginning to end."""
    root = Path(tempfile.mkdtemp(prefix="rota-sim-", dir=_quick_folder()))
    simulation = Simulation(plan, root)
    failure, story = "", []
    try:
        with patched([*simulation.checker.probes(), *_knobs(plan)]):
            simulation.run()
    except Exception as error:  # any exception is a finding
        failure = f"{type(error).__name__}: {error}"
        story = [*simulation.transcript.lines, *traceback.format_exception(error)]
    finally:
        simulation.broker.disk.close()
        shutil.rmtree(root)
    checker = simulation.checker
    return Report(
        plan, failure, tuple(story), simulation.transcript.digest(), simulation.clock.now_us / 1e6, checker.tasks,
        checker.boots, tuple(checker.lane_digests), tuple(sorted(simulation.struck.items())),
        tuple(sorted(checker.seen.items())),
    )  # fmt: skip


@contextlib.contextmanager
def patched(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Replace values in modules for the block."""
    saved = [(module, name, getattr(module, name)) for module, name, _ in changes]
    try:
        for module, name, value in changes:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in reversed(saved):
            setattr(module, name, value)


def _knobs(plan: Plan) -> list[tuple[Any, str, Any]]:
    found = [(importlib.import_module(module), name, value) for module, name, value in plan.knobs]
    if plan.pinned:  # no verdicts by deaths, however many workers die
        found.append((importlib.import_module("rota.broker.workers"), "POISON_DEATHS_MAX", 1 << 30))
    return found


def _quick_folder() -> str | None:
    """A folder in memory if the system has one: fsync is real but free there."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
