"""Makes folds of a lane's line for an executor, and completions of their results. PURE.

This is the broker's dispatch without workers: no queues, no quotas, only the first tasks of the line, grouped by agent.
A derived lane retires in line order whatever completes first (execution model, part 3), so the order of these folds
cannot be seen in it. To stop a lane at a position, plan no further than that.
"""

from __future__ import annotations

from itertools import islice
from typing import Final, NamedTuple

from rota.broker.lane import Lane
from rota.broker.records import CompletedFold
from rota.broker.tasks import Task, task_input
from rota.common.limits import FOLD_TASKS_MAX
from rota.common.work import Code, Fold, FoldResult

PATIENCE_MS: Final = 600_000  # timeout of a task in a replay: fuel ends it, the clock only ends what hangs


class PlannedFold(NamedTuple):
    """A fold and its issued tasks."""

    tasks: tuple[Task, ...]
    fold: Fold


def head(lane: Lane) -> Task | None:
    """Return the first task of the line; None if nothing is issued."""
    return next(iter(lane.line_by_turn.values()), None)


def plan(lane: Lane, tasks_max: int) -> list[PlannedFold]:
    """Return folds of those of the first `tasks_max` tasks of the line that have no outcome yet.

    If an agent's code changes among them, its fold ends there: the tasks behind it need the state that it leaves.
    """
    rows: list[list[Task]] = []
    open_rows: dict[tuple[str, bool], list[Task]] = {}
    closed: dict[str, None] = {}
    for task in islice(lane.line_by_turn.values(), tasks_max):
        if task.outcome is not None or (not task.stateless and task.address in closed):
            continue
        row = open_rows.get((task.address, task.stateless))
        if row is not None and len(row) < FOLD_TASKS_MAX and row[0].code == task.code:
            row.append(task)
        elif row is None or task.stateless:
            row = open_rows[(task.address, task.stateless)] = [task]
            rows.append(row)
        else:
            closed[task.address] = None
    return [fold_of(lane, tuple(row)) for row in rows]


def fold_of(lane: Lane, tasks: tuple[Task, ...]) -> PlannedFold:
    """Return the fold of consecutive tasks of one target, from its current state in the lane."""
    first = tasks[0]
    assert first.code is not None
    state, open_turns, past = lane.before(tasks)
    inputs = tuple(map(task_input, tasks))
    return PlannedFold(tasks, Fold(lane.seed, first.code, first.address, state, inputs, open_turns, past))


def completed(planned: PlannedFold, result: FoldResult) -> CompletedFold:
    """Return the outcomes of a fold, at least one, as part of a completion."""
    assert result.outcomes
    turns = tuple([task.turn for task in planned.tasks[: len(result.outcomes)]])
    return CompletedFold(planned.fold.address, turns, result.outcomes, result.state, result.provenance)


def patient(code: Code, timeout_ms: int) -> Code:
    """Return the code with this timeout: in a replay fuel decides, not the wall clock."""
    return code._replace(limits=code.limits._replace(timeout_ms=timeout_ms))
