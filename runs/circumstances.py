"""What a journal says about one turn: who asked for it, who computed it, and what happened around it.

One walk over the records, up to AROUND_TASKS behind the turn's retire; nothing is executed. trials.py executes the
turn, causes.py draws the conclusion from both.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rota.broker import records
from rota.broker.tasks import Task
from rota.common.errors import JournalError
from rota.common.work import Done
from rota.runs.traces import Trace
from rota.runs.tree import Ancestor, Ancestry, RootInput, root_input
from rota.runs.walk import Kept, Step, Walk, record_at

AROUND_TASKS: Final = 256  # tasks of the lane before the turn, and as many after it


class RecordedBy(NamedTuple):
    """The Fingerprint record that a completion names, and the worker that it is of."""

    name: str
    number: int
    pool: str
    facts: tuple[tuple[str, str], ...]


@dataclass
class Circumstances:
    """What the journal has about a turn; fields are None or empty where it has nothing."""

    lane: str
    turn: int
    opened: int = 0  # the record
    stamped: int | None = None  # the record
    task: Task | None = None  # retired
    record: int | None = None  # the record that made its outcome final
    fold: records.CompletedFold | None = None
    worker: RecordedBy | None = None
    parents: tuple[Ancestor, ...] = ()  # nearest first
    origin: RootInput | None = None
    around: tuple[Task, ...] = ()  # retired tasks of the lane in retire order, the task itself among them
    decisions: dict[int, int] = field(default_factory=dict)  # turn -> record of its verdict or cancel
    disputes: list[tuple[int, int, str]] = field(default_factory=list)  # Diverged: record, turn, target
    deployed: dict[bytes, int] = field(default_factory=dict)  # code digest -> the first record that names it

    @property
    def state(self) -> bytes | None:
        """The state just after this turn; None unless it was the last of its fold to change the state."""
        if self.fold is None:
            return None
        pairs = zip(self.fold.turns, self.fold.outcomes, strict=True)
        changing = [turn for turn, outcome in pairs if type(outcome) is Done and outcome.state_digest is not None]
        return self.fold.state if changing and changing[-1] == self.turn else None

    def same_agent(self) -> tuple[list[Task], list[Task]]:
        """Return the tasks of the same target that retired before and after the task, in retire order."""
        assert self.task is not None
        place = self.around.index(self.task)
        address = self.task.address
        before = [task for task in self.around[:place] if task.address == address]
        return before, [task for task in self.around[place + 1 :] if task.address == address]


def circumstances(kept: Kept, lane: str, turn: int) -> Circumstances:
    """Return what a run's journal has about a turn, as far as it can be read."""
    seen = Circumstances(lane, turn)
    walk, ancestry = Walk(kept), Ancestry()
    ancestry.begin(walk.world)
    before: deque[Task] = deque(maxlen=AROUND_TASKS)
    after: list[Task] = []
    try:
        for step in walk.steps():
            if seen.task is None:
                ancestry.take(step)
            if step.lane is not None and step.lane.name == lane:
                _take_record(seen, step, walk)
                _take_retired(seen, step, before, after)
            if len(after) >= AROUND_TASKS:
                break
    except JournalError:
        pass  # the damage is reported elsewhere; here it only ends the walk
    if seen.task is not None:
        seen.around = (*before, seen.task, *after)
        _take_descent(seen, kept, ancestry)
    return seen


def _take_record(seen: Circumstances, step: Step, walk: Walk) -> None:
    record = step.record
    if isinstance(record, records.Opened):
        seen.opened = step.number
        for _, code in record.deploys:
            seen.deployed.setdefault(code.digest, step.number)
    elif isinstance(record, records.Deployed):
        seen.deployed.setdefault(record.code.digest, step.number)
    elif isinstance(record, records.Diverged):
        seen.disputes.append((step.number, record.turn, record.address))
    elif isinstance(step.lane_input, records.Cancelled | records.Verdict):
        seen.decisions[step.lane_input.seq] = step.number
    elif isinstance(record, records.Completion):
        found = next((one for one in record.folds if seen.turn in one.turns), None)
        if found is not None:
            seen.record, seen.fold = step.number, found
            seen.worker = RecordedBy(record.worker, record.fingerprint, *walk.worker(record.fingerprint))
    if any(0 <= seen.turn - run.first_turn < len(run.payloads) for run in step.notes.stamped):
        seen.stamped = step.number
    if seen.record is None and any(task.turn == seen.turn for task in step.notes.finished):
        seen.record = step.number


def _take_retired(seen: Circumstances, step: Step, before: deque[Task], after: list[Task]) -> None:
    for task in step.retired(seen.lane):
        if seen.task is not None:
            after.append(task)
        elif task.turn == seen.turn:
            seen.task = task
        else:
            before.append(task)


def _take_descent(seen: Circumstances, kept: Kept, ancestry: Ancestry) -> None:
    task = seen.task
    assert task is not None
    run = task.run
    trace = Trace(
        lane=seen.lane, seq=task.seq, turn=task.turn, target=task.address, kind=run.kind, sender=run.sender,
        priority=run.priority, now_ms=run.now_ms, payload=task.payload, tensors=run.tensors_of(task.index),
        parent=run.parent, reply_to=run.reply_to,
    )  # fmt: skip
    trace.stamped = seen.stamped
    root = ancestry.root(trace)
    seen.parents = root.chain
    record = None if root.record is None else record_at(kept, root.record)
    if root.record is not None and record is not None:
        seen.origin = root_input(root.record, record)
