"""The kinds of faults of a simulation. The plan says when they strike; none strikes after its duration."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from simulation.plan import Fault
from simulation.processes import SimProcess

if TYPE_CHECKING:
    from simulation.worker_host import WorkerHost
    from simulation.world import Simulation

SECOND_US = 1_000_000


def strike(simulation: Simulation, fault: Fault) -> None:
    """Inject a fault now."""
    chance = simulation.chances.stream(f"fault {fault.number} strikes")
    simulation.transcript.note("fault", fault.number, fault.kind)
    simulation.struck[fault.kind] = simulation.struck.get(fault.kind, 0) + 1
    _KINDS[fault.kind](simulation, chance)


def heal(simulation: Simulation) -> None:
    """End all faults."""
    simulation.network.heal()
    simulation.broker.disk.heal()
    for process in simulation.processes():
        process.points_left = None
        process.frozen_until_us = 0
        process.wake()
    for worker in simulation.workers:
        worker.slow = 1
        worker.stuck_until_us = 0
        worker.lies = 0


def _until(simulation: Simulation, chance: Random, *seconds: float) -> int:
    return simulation.clock.now_us + int(chance.choice(seconds) * SECOND_US)


def _some_worker(simulation: Simulation, chance: Random) -> WorkerHost:
    """Return a worker, a busy one if there is one."""
    return chance.choice([worker for worker in simulation.workers if worker.is_busy] or simulation.workers)


def _break(simulation: Simulation, chance: Random) -> None:
    simulation.network.break_some(chance, everything=False)


def _storm(simulation: Simulation, chance: Random) -> None:
    """Break all connections, several times in a row."""
    for place in range(chance.randint(1, 4)):
        simulation.clock.after(place * chance.choice((1_000, 60_000)), lambda: _note_storm(simulation, chance))


def _note_storm(simulation: Simulation, chance: Random) -> None:
    if not simulation.settling:
        simulation.network.break_some(chance, everything=True)


def _partition(simulation: Simulation, chance: Random) -> None:
    name = chance.choice([process.name for process in simulation.processes()])
    simulation.network.cut_off[name] = _until(simulation, chance, 0.05, 0.8, 2, 4, 12)


def _slow_network(simulation: Simulation, chance: Random) -> None:
    simulation.network.latency_us = (100, int(chance.choice((0.02, 0.4, 2)) * SECOND_US))
    simulation.clock.after(3 * SECOND_US, lambda: setattr(simulation.network, "latency_us", (20, 400)))


def _slow_reader(simulation: Simulation, chance: Random) -> None:
    name = chance.choice([process.name for process in (*simulation.clients, *simulation.workers)])
    simulation.network.slow_readers[name] = _until(simulation, chance, 0.2, 2, 8)


def _crash(process: SimProcess, chance: Random) -> None:
    """End a process between two of its next effects."""
    process.crash_soon(chance.choice((0, 1, 2, chance.randrange(30))))


def _kill_broker(simulation: Simulation, chance: Random) -> None:
    _crash(simulation.broker, chance)


def _power_cut(simulation: Simulation, chance: Random) -> None:
    """Cut the power in the middle of one of the broker's next commits."""
    simulation.broker.disk.commits_left = chance.choice((0, 0, 1, 2, 8))


def _freeze_broker(simulation: Simulation, chance: Random) -> None:
    simulation.broker.freeze(int(chance.choice((0.1, 1.5, 5)) * SECOND_US))


def _slow_disk(simulation: Simulation, chance: Random) -> None:
    simulation.broker.disk.slow_until_us = _until(simulation, chance, 0.3, 2, 6)


def _full_disk(simulation: Simulation, chance: Random) -> None:
    simulation.broker.disk.full_until_us = _until(simulation, chance, 0.05, 0.5, 3)


def _kill_worker(simulation: Simulation, chance: Random) -> None:
    _crash(_some_worker(simulation, chance), chance)


def _freeze_worker(simulation: Simulation, chance: Random) -> None:
    _some_worker(simulation, chance).freeze(int(chance.choice((0.1, 2, 5, 9)) * SECOND_US))


def _slow_worker(simulation: Simulation, chance: Random) -> None:
    _some_worker(simulation, chance).slow = chance.choice((20, 200))


def _stuck_worker(simulation: Simulation, chance: Random) -> None:
    _some_worker(simulation, chance).stuck_until_us = _until(simulation, chance, 1, 7, 20)


def _liar(simulation: Simulation, chance: Random) -> None:
    """Make a worker lie: from now on it changes results of some tasks, after others have done them (see WorkerHost)."""
    worker = chance.choice([worker for worker in simulation.workers if worker.pool == "cpu"])
    worker.lies = chance.choice((1, 3, 10))


def _drain_worker(simulation: Simulation, chance: Random) -> None:
    _some_worker(simulation, chance).drain()


def _kill_client(simulation: Simulation, chance: Random) -> None:
    _crash(chance.choice(simulation.clients), chance)


def _freeze_client(simulation: Simulation, chance: Random) -> None:
    chance.choice(simulation.clients).freeze(int(chance.choice((1, 4, 20)) * SECOND_US))


def _clock_forwards(simulation: Simulation, chance: Random) -> None:
    simulation.clock.jump(chance.choice((50, 5_000, 86_400_000)))


def _clock_back(simulation: Simulation, chance: Random) -> None:
    simulation.clock.jump(-chance.choice((50, 5_000, 3_600_000)))


_KINDS: dict[str, Callable[[Simulation, Random], None]] = {
    "break": _break,
    "storm": _storm,
    "partition": _partition,
    "slow network": _slow_network,
    "slow reader": _slow_reader,
    "kill broker": _kill_broker,
    "power cut": _power_cut,
    "freeze broker": _freeze_broker,
    "slow disk": _slow_disk,
    "full disk": _full_disk,
    "kill worker": _kill_worker,
    "freeze worker": _freeze_worker,
    "slow worker": _slow_worker,
    "stuck worker": _stuck_worker,
    "liar": _liar,
    "drain worker": _drain_worker,
    "kill client": _kill_client,
    "freeze client": _freeze_client,
    "clock forwards": _clock_forwards,
    "clock back": _clock_back,
}
