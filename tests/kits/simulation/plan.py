"""What a seed decides before its run begins: all numbers, which bounds are small, which faults strike when.

A plan is a value: shrinking makes smaller ones, and the same plan gives the same run. All errands and faults are
generated from the seed and then selected by their numbers, so that leaving one out does not change the others.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final, NamedTuple

from simulation.clock import Chances

FAULTS: Final = (
    "break", "storm", "partition", "slow network", "slow reader",
    "kill broker", "power cut", "freeze broker", "slow disk", "full disk",
    "kill worker", "freeze worker", "slow worker", "stuck worker", "liar", "drain worker",
    "kill client", "freeze client", "clock forwards", "clock back",
)  # fmt: skip
# Faults that may decide a task's outcome by the wall clock, so they are not used in pinned runs.
UNPINNED_FAULTS: Final = ("clock forwards", "clock back", "liar")

_DEALT: Final = (
    *FAULTS,
    "kill broker",
    "kill broker",
    "power cut",
    "power cut",
    "break",
    "kill worker",
    "kill client",
    "liar",
)

_SHARES: Final = 12

ERRANDS: Final = ("submit",) * 6 + (
    "twice", "cancel", "cancel", "deploy", "deploy", "pause", "window", "dead", "ask", "ask", "look back", "reuse",
    "drain", "open", "bulk", "wait", "wait", "wait",
)  # fmt: skip

# Pages before a WAL is restarted. A run would never reach the real 2,048, and reading a long WAL is slow.
_CHECKPOINTS: Final = ("rota.broker.sqlite_file", "_CHECKPOINT_PAGES", (4, 16, 60, 200))

# Bounds of ours that a seed may make small: module, name, values to choose from.
KNOBS: Final[tuple[tuple[str, str, tuple[Any, ...]], ...]] = (
    ("rota.broker.sequencer", "MARK_EVERY_TASKS", (1, 3, 50)),
    ("rota.broker.sequencer", "LANE_NEWS_EVERY_MS", (0, 100)),
    ("rota.broker.sequencer", "TIMERS_PER_STEP", (1, 2, 4_096)),
    ("rota.broker.awaits", "RESULTS_PER_MESSAGE", (1, 3, 4_096)),
    ("rota.broker.awaits", "LOOKS_PER_MESSAGE", (1, 5, 4_096)),
    ("rota.broker.debts", "OUTCOMES_MAX", (1, 4_096)),
    ("rota.broker.debts", "RANGES_MAX", (2, 10_000)),
    ("rota.broker.server", "MESSAGES_PER_WAKE", (1, 4, 256)),
    ("rota.broker.durability", "RESULTS_HELD_MAX", (1, 4, 1_000)),
    ("rota.broker.durability", "NEWS_HELD_MAX", (1, 10_000)),
    ("rota.broker.dispatch", "FIRST_ASSIGNMENT_TASKS", tuple({"cpu": tasks, "gpu": tasks} for tasks in (1, 4, 64))),
    ("rota.broker.dispatch", "ORPHANS_KEPT", (2, 1_024)),
    ("rota.broker.dispatch", "UNRETIRED_BYTES_MAX", (0, 300, 64 << 20)),
    ("rota.broker.dispatch", "FOLD_TASKS_MAX", (1, 2, 256)),
    ("rota.broker.state", "CONNECTIONS_MAX", (2, 16_384)),
    ("rota.broker.pending_deploys", "PENDING_DEPLOYS_MAX", (1, 64)),
    ("rota.broker.snapshot", "PART_BYTES", (400, 3_000, 256 << 10)),
    ("rota.broker.snapshotter", "RECORDS_PER_SLICE", (3, 2_000)),
    ("rota.broker.snapshotter", "PARTS_PER_SLICE", (1, 8)),
    ("rota.client.session", "RENEW_MS", (5_000, 60_000)),
)


class Plan(NamedTuple):
    """One run."""

    seed: int
    pinned: bool  # all inputs at fixed positions, so that the digest is the same for any number of workers
    workers: int
    gpu_workers: int
    clients: int
    lanes: int
    dealt: int  # how many errands the seed generates
    errands: tuple[int, ...]  # the numbers of the selected errands
    faults: tuple[int, ...]  # the numbers of the selected faults
    duration_ms: int  # no faults after so long
    deadly: bool  # tasks may kill their workers
    knobs: tuple[tuple[str, str, Any], ...]
    world: tuple[tuple[str, int], ...]  # settings of World
    snapshots: tuple[int, int, int, int] = (0, 0, 0, 0)  # settings of SnapshotPolicy
    pace: int = 1  # how slow all workers are, so that usually one is busy
    heartbeat_ms: int = 1_000
    reserves_wal: bool = False

    @property
    def world_settings(self) -> dict[str, int]:
        return dict(self.world)

    def size(self) -> str:
        """Its size, in words."""
        return (
            f"{self.workers}+{self.gpu_workers} workers, {self.clients} clients, {self.lanes} lanes, "
            f"{len(self.errands)} errands, {len(self.faults)} faults, {len(self.knobs)} knobs, "
            f"{self.duration_ms / 1_000:.0f} s"
        )


class Fault(NamedTuple):
    """A fault at a moment."""

    number: int
    at_us: int
    kind: str


def make_plan(seed: int, *, pinned: bool = False, workers: int | None = None) -> Plan:
    """Return the plan of a seed."""
    chance = Chances(seed).stream("plan")
    staff = chance.choice((1, 2, 2, 3, 4, 8))
    duration_ms = chance.choice((2_000, 5_000, 10_000, 30_000, 90_000))
    errands = chance.choice((4, 10, 20, 40))
    faults = chance.choice((0, 5, 12, 30, 80))
    results_max = chance.choice((20, 200_000, 200_000, 200_000))
    return Plan(
        seed=seed,
        pinned=pinned,
        workers=staff if workers is None else workers,
        gpu_workers=1 + chance.randrange(2),
        clients=1 if pinned else chance.choice((1, 2, 3)),
        lanes=1 if pinned else chance.choice((1, 2, 4)),
        dealt=0 if pinned else errands,
        errands=() if pinned else tuple(range(errands)),
        faults=tuple(range(faults)),
        duration_ms=min(duration_ms, 10_000) if pinned else duration_ms,
        deadly=chance.random() < 0.3 and not pinned,
        knobs=_knobs(chance, pinned),
        world=(() if pinned else (("results_max", results_max),)),
        snapshots=(chance.choice((0, 4, 15, 60)), 0, chance.choice((0, 0, 5, 30)), 0),
        pace=chance.choice((1, 10, 60)),
        heartbeat_ms=chance.choice((200, 200, 1_000)),
        reserves_wal=chance.random() < 0.02,
    )


def faults_of(plan: Plan) -> list[Fault]:
    """Generate all faults of a plan and return the selected ones."""
    found = []
    for number in plan.faults:
        chance = Chances(plan.seed).stream(f"fault {number}")
        kind = chance.choice([kind for kind in _DEALT if not plan.pinned or kind not in UNPINNED_FAULTS])
        found.append(Fault(number, _moment_us(plan, chance), kind))
    return found


def _moment_us(plan: Plan, chance: Random) -> int:
    """When a fault strikes: at any time, or while an errand runs, when it has more effect."""
    any_us = int(chance.random() * plan.duration_ms * 1_000)
    errand, later_us = (
        chance.randrange(max(1, plan.dealt)),
        int(chance.choice((3_000, 50_000, 600_000)) * chance.random()),
    )
    near_us = (errand_of(plan, errand)[2] if plan.dealt else 0) + later_us
    return min(near_us, plan.duration_ms * 1_000) if chance.random() < 0.75 else any_us


def errand_of(plan: Plan, number: int) -> tuple[str, int, int, Random]:
    """An errand: its kind, its client, its moment, and its random stream."""
    chance = Chances(plan.seed).stream(f"errand {number}")
    kind = chance.choice(ERRANDS)
    client = chance.randrange(_SHARES) % plan.clients  # the same draw for any number of clients
    return kind, client, int(chance.random() ** 1.5 * plan.duration_ms * 800), chance


def lane_of(plan: Plan, chance: Random) -> int:
    """Choose one of the lanes that exist from the start."""
    return chance.randrange(_SHARES) % plan.lanes


def _knobs(chance: Random, pinned: bool) -> tuple[tuple[str, str, Any], ...]:
    module, name, values = _CHECKPOINTS
    found = [(module, name, chance.choice(values))]
    if chance.random() < 0.4:
        return tuple(found)
    for module, name, values in KNOBS:
        turned, value = chance.random() < 0.4, chance.choice(values)
        if turned and not (pinned and name == "TIMERS_PER_STEP"):  # it would decide which timers share a position
            found.append((module, name, value))
    return tuple(found)
