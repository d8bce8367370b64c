"""The consequences of a change: a lane is continued from a turn with something changed, and compared with the journal.

Turns are compared in retire order, by what the lane digest covers except the digest before the turn. So one changed
turn does not make all later ones look changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from rota.broker import records
from rota.broker.asks import is_postponed
from rota.broker.tasks import Task
from rota.common.digests import digest_of
from rota.common.targets import code_name
from rota.common.work import Done, was_decided
from rota.engine.engine import Runner
from rota.proof.continuation import Change, Continuation, Later, LeftOut
from rota.proof.model_answers import Remembered
from rota.proof.seek import LaneAtTurn, seek
from rota.runs.open import RunSource
from rota.runs.walk import Step, Walk

TURNS_MORE_MAX: Final = 100_000  # a changed lane may never end
TURNS_FACTOR_MAX: Final = 4


class FirstChange(NamedTuple):
    """The first place where the two runs retire different turns; None for a run that retires nothing more."""

    position: int
    before: Task | None
    after: Task | None
    fields: tuple[str, ...]


class Consequences(NamedTuple):
    """The result of a change. Turns are counted from the one where the lane was continued."""

    lane: str
    turn: int
    position: int  # how many turns both runs share, by digest
    shared_digest: bytes
    was_retired: int  # by the journal
    was_digest: bytes
    retired: int
    digest: bytes
    first: FirstChange | None
    changed: int  # how many places differ, what the longer run has more included
    left_out: tuple[LeftOut, ...]
    stopped_at_bound: bool
    models_read_back: int
    models_executed: int
    ran_new_code: int  # turns of the changed names that ran the new code

    @property
    def same(self) -> bool:
        return self.first is None


class ChangePlan(NamedTuple):
    """Where to continue, and the change. `compare_code`: whether a turn with other code counts as changed."""

    lane: str
    turn: int
    change: Change
    compare_code: bool = True
    compare_state: bool = True
    turns_max: int | None = None
    inputs: bool = True  # False: the later inputs are dropped


def follow_change(
    source: RunSource,
    plan: ChangePlan,
    runner: Runner,
    *,
    keep: Callable[[records.Record], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Consequences:
    """Bring a lane to a turn, change something, continue it, and compare.

    `keep` gets every record of the changed lane from its start, `progress` how many turns have retired. Raises
    `BadChange` for a change of something that does not exist, `CodeError` for code that cannot be executed here, and
    what `seek` raises.
    """
    remembered = Remembered(runner)
    watch = _remembering(remembered, plan.lane)
    at = seek(source, plan.lane, plan.turn, remembered, keep=keep, watch=watch)
    position, shared = at.replay.lane.retired, at.replay.lane.digest
    was = [_row(task, plan) for task in at.ahead]
    later = [] if not at.replay.is_recorded else [Later(0, None, completed=tuple(task.turn for task in at.ahead))]
    for step in at.rest:
        was += [_row(task, plan) for task in step.retired(plan.lane)]
        watch(step)
        later += _later(step, at, plan)
    journal = at.walk.world.lanes[plan.lane]
    turns_max = plan.turns_max or max(journal.retired * TURNS_FACTOR_MAX, journal.retired + TURNS_MORE_MAX)
    went_on = Continuation(
        at.replay, later, plan.change, turns_max, unfired=journal.timers, undue=journal.deadlines
    )  # fmt: skip
    watched = _Watched(went_on.run(), at, plan.change, progress)
    place, after, changed = _compare(was, iter(watched), plan)
    first = None if place is None else _first_change(source, plan, position + place, after)
    lane = at.replay.lane
    return Consequences(
        plan.lane, plan.turn, position, shared, journal.retired, journal.digest, lane.retired, lane.digest, first,
        changed, tuple(went_on.left_out), went_on.stopped_at_bound, remembered.read_back, remembered.models_executed,
        watched.ran_new_code,
    )  # fmt: skip


def _later(step: Step, at: LaneAtTurn, plan: ChangePlan) -> list[Later]:
    """Return what is played again of a step: an input, or for a recorded lane the order in which tasks completed."""
    record = step.record
    if step.lane_input is not None and step.lane_input.lane == plan.lane:
        if not plan.inputs or step.lane is None:
            return []
        now_ms, deadlines = step.lane_input.now_ms, step.lane.deadlines
        overdue = tuple([turn for turn, due_ms in deadlines.items() if due_ms <= now_ms])
        return [Later(step.number, step.lane_input, step.named_target, overdue=overdue)]
    if not at.replay.is_recorded or not isinstance(record, records.Completion) or record.lane != plan.lane:
        return []
    return [Later(step.number, None, completed=tuple([turn for fold in record.folds for turn in fold.turns]))]


def _remembering(remembered: Remembered, lane: str) -> Callable[[Step], None]:
    def watch(step: Step) -> None:
        for task in step.notes.finished:
            if task.run.lane == lane:
                remembered.remember(task)

    return watch


class _Watched:
    """Counts the tasks that retire."""

    def __init__(
        self, retired: Iterator[Task], at: LaneAtTurn, change: Change, progress: Callable[[int], None] | None
    ) -> None:
        self.ran_new_code = 0
        self._retired = retired
        self._at = at
        self._progress = progress
        brought = (*[(name, code.digest) for name, code in change.deploys], *change.instead)
        self._brought = dict.fromkeys(brought)  # by name: another name may have had the same code before

    def __iter__(self) -> Iterator[Task]:
        for task in self._retired:
            self.ran_new_code += self._ran_it(task)
            if self._progress is not None:
                self._progress(self._at.replay.lane.retired)
            yield task

    def _ran_it(self, task: Task) -> bool:
        if task.code is None or was_decided(task.outcome):
            return False
        return (code_name(task.address), task.code.digest) in self._brought


def _compare(was: list[bytes], retired: Iterator[Task], plan: ChangePlan) -> tuple[int | None, Task | None, int]:
    """Return the first place, from 1, where the runs differ, the task there, and how many places differ."""
    first: int | None = None
    found: Task | None = None
    changed = 0
    for place, (before, after) in enumerate(zip_longest(was, retired), start=1):
        if after is None or before != _row(after, plan):
            changed += 1
            if first is None:
                first, found = place, after
    return first, found, changed


def _first_change(source: RunSource, plan: ChangePlan, position: int, after: Task | None) -> FirstChange:
    """Find the journal's task that retired at a position, in a second walk, and return how the new one differs."""
    before: Task | None = None
    walk = Walk(source)
    retired, _ = walk.begin_of(plan.lane)
    for step in walk.steps():
        tasks = step.retired(plan.lane)
        if retired + len(tasks) >= position:
            before = tasks[position - retired - 1]
            break
        retired += len(tasks)
    if before is None or after is None:
        return FirstChange(position, before, after, ("turn",))
    one, other = _compared(before, plan), _compared(after, plan)
    return FirstChange(position, before, after, tuple([name for name in one if one[name] != other[name]]))


def _row(task: Task, plan: ChangePlan) -> bytes:
    return digest_of(list(_compared(task, plan).values()))


def _compared(task: Task, plan: ChangePlan) -> dict[str, Any]:
    """Return what is compared of a turn."""
    ignored = {"code digest": not plan.compare_code, "state digest": not plan.compare_state}
    return {name: value for name, value in describe(task).items() if not ignored.get(name, False)}


def describe(task: Task) -> dict[str, Any]:
    """Return the elements of a retired task's turn digest (docs/JOURNAL.md, "The lane digest") by name."""
    run, outcome = task.run, task.outcome
    facts: dict[str, Any] = {
        "turn": task.turn,
        "target": task.address,
        "kind": run.kind,
        "sender": run.sender,
        "priority": run.priority,
        "payload": task.payload,
        "tensors": run.tensors_of(task.index),
        "answers": run.reply_to,
        "code digest": None if task.code is None else task.code.digest,
        "ok": type(outcome) is Done,
        "postponed": is_postponed(outcome),
        "result": None,
        "result tensors": (),
        "emits": (),
        "failure": None,
        "message": None,
        "state digest": task.state_digest,
    }
    if type(outcome) is Done:
        return facts | {"result": outcome.result, "result tensors": outcome.tensors, "emits": outcome.emits}
    assert outcome is not None
    return facts | {"failure": outcome[0], "message": outcome[1]}
