"""A run with one correct result: trees of messages in one lane, and the outcome by the sequential reference.

The run is pinned (execution model, part 2): the lane is opened paused, all roots come in one atomic batch with a fixed
time, then it is released. So there is one digest, whatever the number of workers, deaths and restarts. The lane is the
only one with tasks in its run folder, so a task's seq is its turn.

The reference is reference.py, with the real modules in place of the scripted ones.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import reference

from rota.broker import records
from rota.client import Batch, Client, Missed, Result, TaskRow, UnknownTask
from rota.common.digests import digest, lane_seed
from rota.common.messages import LaneSettings, TaskRun
from rota.common.work import Code, Failed, Fold, Outcome, TaskInput
from rota.cpu_worker.executor import WasmExecutor

AGENTS = Path(__file__).resolve().parents[2] / "examples" / "agents"
RELAY = AGENTS / "relay.wasm"
LANE = "forest"
NOW_MS = 1_700_000_000_000
WINDOW = 300  # smaller than the batch, so that the order of issue counts
_PRIORITIES = (0, 3, -2)
_ASK_RESULTS = 100
_QUIET_SECONDS = 2.0  # without events, before the lane is queried
_NOBODY = records.Origin("", 0, bytes(32))


@dataclass(frozen=True)
class Forest:
    """`roots` trees of relays; each node above the leaves has `fanout` children."""

    roots: int
    depth: int
    fanout: int

    @property
    def tasks(self) -> int:
        """The total number of tasks."""
        return self.roots * sum(self.fanout**level for level in range(self.depth + 1))

    def runs(self) -> tuple[TaskRun, ...]:
        """The roots: to seven agents in turn, in three priorities."""
        payload = f"{self.depth} {self.fanout} 24".encode()
        targets = [f"relay/{number % 7}" for number in range(self.roots)]
        return tuple(
            TaskRun.of(tuple(targets[place::3]), priority, (payload,) * len(targets[place::3]), None)
            for place, priority in enumerate(_PRIORITIES)
        )

    def prepare(self, client: Client, *, lane: str = LANE, seed_of: str = LANE) -> Batch:
        """Deploy, open the lane paused and submit everything into it."""
        client.deploy("relay", RELAY)
        client.open_lane(lane, paused=True, window=WINDOW, seed=lane_seed(seed_of))
        runs = [TaskRow(run.targets, run.payloads, run.priority) for run in self.runs()]
        return client.submit_runs(runs, lane=lane, now_ms=NOW_MS)


@dataclass
class Expected:
    """The expected digest of a run, and the expected outcomes by seq."""

    digest: bytes
    results: dict[int, tuple[bool, bytes | None]]


@dataclass
class WasmReference(reference.Reference):
    """The sequential reference, which runs the modules themselves."""

    executor: WasmExecutor | None = None

    def _execute(self, task: reference.Stamped, code: Code) -> Outcome:
        assert self.executor is not None
        seed = self.opened.settings.seed
        assert seed is not None
        seen = TaskInput(
            task.turn,
            task.kind,
            task.sender,
            task.payload,
            task.now_ms,
            task.reply_to,
            (),
            task.emits_max,
            task.growth_bytes,
        )
        result = self.executor.run(Fold(seed, code, task.target, self.states.get(task.target), (seen,)))
        if result.state is not None:
            self.states[task.target] = result.state
        (outcome,) = result.outcomes
        return outcome


def expected_of(forest: Forest, folder: Path) -> Expected:
    """Run a forest one task after another, in this process."""
    module = RELAY.read_bytes()
    code = Code(digest(module), "agent")
    (folder / "modules").mkdir()
    (folder / "modules" / f"{code.digest.hex()}.wasm").write_bytes(module)
    executor = WasmExecutor(folder / "modules", folder / "artefacts", None, lambda: time.monotonic() * 1000)
    try:
        settings = LaneSettings(window=WINDOW, seed=lane_seed(LANE))
        opened = records.Opened(LANE, NOW_MS, _NOBODY, settings, True, (("relay", code),))
        lane = WasmReference(opened, {}, executor=executor)
        lane.take(records.Submitted(LANE, 0, NOW_MS, _NOBODY, 1, forest.runs(), None))
        lane.take(records.PauseSet(LANE, 0, NOW_MS, _NOBODY, False))
        lane.run_to(forest.tasks)
    finally:
        executor.close()
    assert not lane.waiting
    assert not lane.line
    results: dict[int, tuple[bool, bytes | None]] = {}
    for turn, task in lane.done.items():
        assert task.outcome is not None
        ok = not isinstance(task.outcome, Failed)
        results[turn] = (ok, None if isinstance(task.outcome, Failed) else task.outcome.result)
    return Expected(lane.digest, results)


def digest_of(client: Client, lane: str = LANE) -> tuple[int, bytes]:
    """Wait for the end of a lane's work, and return its retired count and digest."""
    numbers = client.wait_idle(lane, timeout_s=60)
    assert numbers["timers"] == 0
    return numbers["retired"], numbers["digest"]


# --- watching and disturbing ----------------------------------------------------------------------


class Seen:
    """Every result that a client receives, each compared with earlier ones of the same task."""

    def __init__(self) -> None:
        self.by_seq: dict[int, Result] = {}

    def collect(self, run_dir: Path, tasks: int) -> None:
        """Ask for the results of tasks 1 to `tasks` in order, as far as they are stamped, until all are there."""
        wanted = _ASK_RESULTS
        with Client(run_dir) as client:
            while len(self.by_seq) < tasks:
                first = len(self.by_seq) + 1
                try:
                    for result in client.results(first, min(wanted, tasks + 1 - first), timeout_s=60):
                        self.take(result)
                    wanted = _ASK_RESULTS
                except UnknownTask:  # not all of them are stamped yet
                    wanted = max(1, wanted // 2)

    def take(self, result: Result) -> None:
        """Note a result. Only the number of attempts may differ from an earlier one."""
        known = self.by_seq.setdefault(result.seq, result)
        assert _essence(known) == _essence(result)

    def check(self, expected: Expected) -> None:
        """Assert that every task has been seen with the outcome of the reference."""
        assert {seq: (one.ok, one.payload) for seq, one in self.by_seq.items()} == expected.results


def _essence(result: Result) -> tuple[object, ...]:
    return result.seq, result.turn, result.ok, result.payload, result.kind, result.message, result.log


def at_moments(run_dir: Path, moments: Sequence[int], *, new_broker: bool = False) -> Iterator[int]:
    """Yield each of the moments, given as ascending counts of retired tasks, as soon as it has passed.

    With `new_broker` the caller kills the broker at each, and events of the old one no longer count.
    """
    left = list(moments)
    with Client(run_dir) as client:
        while left:
            stale = False
            for event in client.events(timeout_s=_QUIET_SECONDS):
                if isinstance(event, Missed):
                    stale = stale and event.events is not None
                elif not stale and event.lane == LANE and getattr(event.what, "retired", 0) >= left[0]:
                    yield left.pop(0)
                    stale = new_broker
                if not left:
                    return
            if client.digest(LANE)["retired"] >= left[0]:  # it passed between two polls
                yield left.pop(0)


def pick_moments(random: Random, count: int, tasks: int) -> list[int]:
    """Return moments in the first nine tenths of a run."""
    return sorted(random.sample(range(1, tasks * 9 // 10), count))


def kill_now(pid: int) -> bool:
    """Kill a process with SIGKILL; False if it has ended already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
