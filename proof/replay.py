"""A lane replayed in a world of its own: its inputs at their positions, its outcomes executed or read back. PURE.

The caller walks over the journal and passes on, in order, what concerns the lane: inputs (as lane_record.py gives
them) and completions. Inputs take effect at their positions; between them the lane runs by itself. In a derived lane
completions decide nothing and are ignored; in a recorded lane they say in which order tasks retire.

A completion whose turns are all *trusted* is applied as recorded, so a replay reaches a turn without executing what
comes before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from rota.broker import records
from rota.broker.lane import RECORDED_POLICY, Lane
from rota.broker.tasks import Task
from rota.broker.world import World
from rota.engine.engine import Engine, Runner
from rota.engine.folds import fold_of
from rota.runs.lane_record import Input

BATCH_TASKS: Final = 1_024  # executed per call, before outcomes are compared


class LaneReplay:
    """A replay of one lane, from its opening or from a world that holds only this lane.

    `trusted(turn)`: whether a recorded outcome is taken without executing it (default: none is).
    """

    def __init__(
        self,
        begin: records.Opened | World,
        runner: Runner,
        *,
        trusted: Callable[[int], bool] | None = None,
        keep: Callable[[records.Record], None] | None = None,
        batch_tasks: int = BATCH_TASKS,
    ) -> None:
        self.engine = Engine(World.alone() if isinstance(begin, records.Opened) else begin, runner, keep)
        self.until: int | None = None  # a recorded lane retires up to here
        if isinstance(begin, records.Opened):
            self.engine.apply(begin)
        (self.name,) = self.engine.world.lanes
        self.is_recorded = self.lane.settings.policy == RECORDED_POLICY
        self._trusted = trusted
        self._batch_tasks = batch_tasks
        self._fingerprints: dict[tuple[str, tuple[tuple[str, str], ...]], int] = self.engine.world.fingerprints

    @property
    def lane(self) -> Lane:
        return self.engine.world.lanes[self.name]

    def take(self, record: Input) -> Iterator[Task]:
        """Run to the position of an input and apply it; yields the tasks that retire."""
        yield from self.run_to(record.position)
        if self.lane.retired == record.position:  # else the lane differs from its journal: stop here
            self.engine.now_ms = record.now_ms
            yield from self.engine.apply(record).retired

    def run_to(self, position: int) -> Iterator[Task]:
        """Execute until `position` tasks have retired or nothing is left to execute; yields them in retire order.

        A recorded lane does not move by itself: its completions decide what comes next.
        """
        while not self.is_recorded and (missing := position - self.lane.retired) > 0:
            retired = self.engine.run(self.name, min(missing, self._batch_tasks))
            if not retired:
                return
            yield from retired

    def follow(self, record: records.Completion, pool: str, facts: tuple[tuple[str, str], ...]) -> Iterator[Task]:
        """Take a completion of this lane, and pool and facts of its worker."""
        trusted = [fold for fold in record.folds if self._is_trusted(fold)]
        if trusted:
            number = self._number(pool, facts)
            believed = record._replace(fingerprint=number, folds=tuple(trusted))
            yield from self.engine.apply(believed).retired
        if self.is_recorded:
            for fold in record.folds:
                if not self._is_trusted(fold):
                    yield from self._execute(fold)

    def _is_trusted(self, fold: records.CompletedFold) -> bool:
        return self._trusted is not None and all(map(self._trusted, fold.turns))

    def _execute(self, fold: records.CompletedFold) -> Iterator[Task]:
        """Execute only the tasks of a recorded lane that completed in this fold."""
        line = self.lane.line_by_turn
        tasks: list[Task] = [line[turn] for turn in fold.turns if turn in line]
        if self.until is not None:
            tasks = tasks[: self.until - self.lane.retired]
        while tasks:
            retired, stopped = self.engine.execute([fold_of(self.lane, tuple(tasks[: self._batch_tasks]))])
            yield from retired
            yield from self.engine.judge(stopped)
            tasks = [task for task in tasks if task.outcome is None]
            if not retired and not stopped:
                return

    def _number(self, pool: str, facts: tuple[tuple[str, str], ...]) -> int:
        number = self._fingerprints.get((pool, facts))
        if number is None:
            number = len(self._fingerprints) + 1
            self.engine.apply(records.Fingerprint(number, pool, facts))
        return number
