"""Assignments as they travel to a worker: a table of codes, and for each fold its tasks, grouped by header. PURE."""

from __future__ import annotations

from collections.abc import Iterable

from rota.broker.lane import Lane
from rota.broker.tasks import Task
from rota.common.assignments import FoldAssignment, Segment
from rota.common.columns import picked
from rota.common.messages import Assign
from rota.common.work import Code


def order_of(number: int, lane: Lane, folds: Iterable[list[Task]]) -> Assign:
    """Return the message of an assignment. Each fold is of one address, and has at least one task."""
    codes: dict[Code, int] = {}
    rows: list[FoldAssignment] = []
    for tasks in folds:
        first = tasks[0]
        assert first.code is not None
        place = codes.setdefault(first.code, len(codes))
        state, open_turns, past = lane.before(tasks)
        rows.append(FoldAssignment(place, first.address, state, tuple(_segments(tasks)), open_turns, past))
    return Assign(number, lane.seed, tuple(codes), tuple(rows))


def _segments(tasks: list[Task]) -> list[Segment]:
    segments: list[Segment] = []
    start = 0
    for end in range(1, len(tasks) + 1):
        if end < len(tasks) and _same_header(tasks[start], tasks[end]):
            continue
        row = tasks[start:end]
        run = row[0].run
        indexes = [task.index for task in row]
        segments.append(
            Segment(
                run.kind,
                run.sender,
                run.now_ms,
                run.reply_to,
                row[0].emits_max,
                row[0].growth_bytes,
                tuple([task.turn for task in row]),
                run.payloads.pick(indexes),
                picked(run.tensors, indexes),
            )
        )
        start = end
    return segments


def _same_header(one: Task, other: Task) -> bool:
    return one.run is other.run and one.emits_max == other.emits_max and one.growth_bytes == other.growth_bytes
