"""A world that runs by itself: it executes what its lanes issue, and applies what completes. PURE.

As in the broker, everything goes through records: `apply` is the only way to change the world, and `keep` gets a
journal that `rota verify` accepts. The caller sets the time. Folds are executed by a `Runner`: the executors of this
process (executors.py), or several processes (proof/processes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from rota.broker import records
from rota.broker.notes import Notes
from rota.broker.tasks import Task, Trouble, reasons_of
from rota.broker.verdicts import FAULTED, REFUSED, TIMEOUT, UNREPEATABLE, verdict_of
from rota.broker.workers import flat_facts
from rota.broker.world import World
from rota.common.code_kinds import pool_of
from rota.common.limits import TRIES_MAX
from rota.common.work import Fold, FoldResult
from rota.engine.folds import PlannedFold, completed, fold_of, plan

WORKER: Final = "local"  # the worker's name in an engine's completions


class Runner(Protocol):
    """Executes independent folds."""

    def run_all(self, folds: Sequence[Fold]) -> list[FoldResult]:
        """Return a result for each fold, in their order."""
        ...

    def fingerprint(self, pool: str) -> Mapping[str, Any]:
        """Return the fingerprint of this pool: everything that could change a bit of a result."""
        ...


class Stopped(NamedTuple):
    """A task without an outcome: it timed out, cannot be done here, or its code cannot be run."""

    task: Task
    why: str  # a verdict


class Engine:
    """Executes the lanes of a world."""

    def __init__(
        self,
        world: World,
        runner: Runner,
        keep: Callable[[records.Record], None] | None = None,
        now_ms: int = 0,
        heed: Callable[[Notes], None] | None = None,
    ) -> None:
        """`keep` gets each record before it is applied, `heed` its effects."""
        self.world = world
        self.runner = runner
        self.now_ms = now_ms  # stamped on the records that the engine makes; agents never see it
        self._keep = keep
        self._heed = heed
        self._fingerprints: dict[str, int] = {}  # by pool

    def apply(self, record: records.Record) -> Notes:
        """Apply a record. Raises `JournalError` if it does not follow from those before."""
        if self._keep is not None:
            self._keep(record)
        notes = self.world.apply(record)
        if self._heed is not None:
            self._heed(notes)
        return notes

    def run(self, lane: str, tasks_max: int) -> list[Task]:
        """Execute the first `tasks_max` tasks of a line and give verdicts to those without an outcome.

        Returns the retired tasks: at least one, unless nothing is issued.
        """
        retired, stopped = self.execute(plan(self.world.lanes[lane], tasks_max))
        return retired + self.judge(stopped)

    def execute(self, planned: list[PlannedFold]) -> tuple[list[Task], list[Stopped]]:
        """Execute folds of one lane and apply their outcomes; return the retired tasks, and those without outcome."""
        if not planned:
            return [], []
        results = self.runner.run_all([fold.fold for fold in planned])
        lane = planned[0].tasks[0].run.lane
        retired: list[Task] = []
        for pool in ("cpu", "gpu"):
            folds = tuple(
                [
                    completed(one, result)
                    for one, result in zip(planned, results, strict=True)
                    if result.outcomes and pool_of(one.fold.code) == pool
                ]
            )
            if folds:
                number = self._fingerprint(pool)
                record = records.Completion(lane, self.now_ms, WORKER, 0, number, folds)
                retired += self.apply(record).retired
        stopped: list[Stopped] = []
        for one, result in zip(planned, results, strict=True):
            if result.stopped in (TIMEOUT, REFUSED, FAULTED, UNREPEATABLE):
                task = one.tasks[len(result.outcomes)]
                task.trouble = task.trouble or Trouble()
                task.trouble.add_reason(result.reason)
                stopped.append(Stopped(task, result.stopped))
        return retired, stopped

    def judge(self, stopped: Sequence[Stopped]) -> list[Task]:
        """Give verdicts to tasks without an outcome, as a broker with one worker does; return the retired tasks."""
        retired: list[Task] = []
        for task, why in stopped:
            if why == FAULTED:
                retired += self._try_again(task)
            if task.outcome is None:
                retired += self._judge(task, why)
        return retired

    def _try_again(self, task: Task) -> list[Task]:
        """Retry a task alone that could not be done, as often as a broker does; return the tasks that retired."""
        for _ in range(1, TRIES_MAX):
            if task.outcome is not None:
                break
            retired, _ = self.execute([fold_of(self.world.lanes[task.run.lane], (task,))])
            if retired:
                return retired
        return []

    def _judge(self, task: Task, why: str) -> list[Task]:
        assert task.code is not None
        lane = self.world.lanes[task.run.lane]
        kind, text = verdict_of(why, task.code)
        verdict = records.Verdict(lane.name, lane.retired, self.now_ms, task.seq, kind, text, reasons_of(kind, task))
        return self.apply(verdict).retired

    def _fingerprint(self, pool: str) -> int:
        """Return the number of the runner's fingerprint; the first call records it."""
        if pool not in self._fingerprints:
            facts = flat_facts(self.runner.fingerprint(pool))
            number = self.world.fingerprints.get((pool, facts))
            if number is None:
                number = len(self.world.fingerprints) + 1
                self.apply(records.Fingerprint(number, pool, facts))
            self._fingerprints[pool] = number
        return self._fingerprints[pool]
