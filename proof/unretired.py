"""Executes the tasks that had completed but not retired at a journal's end; no turn digest covers them. PURE.

A result leaves when its task has completed, not when it retires (execution model, part 3), so these tasks must be
verified too.
"""

from __future__ import annotations

from collections.abc import Iterator

from rota.broker.lane import Lane
from rota.broker.tasks import Task
from rota.engine.folds import PlannedFold, fold_of, plan
from rota.proof.replay import LaneReplay


def execute_unretired(replay: LaneReplay, journal: Lane) -> Iterator[tuple[Task, Task]]:
    """Execute the tasks of a line that have an outcome in the journal; yield each as recorded and as executed.

    `replay` is at the position of the journal's lane.
    """
    known = {task.turn: task for task in journal.line() if task.outcome is not None}
    while folds := _folds(replay.lane, known):
        _, stopped = replay.engine.execute(folds)
        replay.engine.judge(stopped)
        came = [task for fold in folds for task in fold.tasks if task.outcome is not None]
        yield from [(known[task.turn], task) for task in came]
        if not came:
            return


def _folds(lane: Lane, known: dict[int, Task]) -> list[PlannedFold]:
    found: list[PlannedFold] = []
    for planned in plan(lane, lane.line_count):
        tasks: list[Task] = []
        for task in planned.tasks:
            if task.turn in known:
                tasks.append(task)
            elif not task.stateless:
                break  # the tasks behind it need its state
        if tasks:
            found.append(fold_of(lane, tuple(tasks)))
    return found
