"""The parents of all tasks of a run, in a few bytes each. PURE.

Descendants are easily found while a journal is read, since they come later. Ancestors are not: they have passed before
it is known which tasks are wanted. So every run of tasks leaves one row of numbers here, about 50 bytes, without
payload. The rest follows from the child: a task's sender is the target of its parent, and only a failed parent has a
child of kind `failure`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final, NamedTuple

from rota.broker import records
from rota.broker.tasks import Run
from rota.broker.world import World
from rota.common.work import FAILURE, MESSAGE_KINDS
from rota.runs.traces import Trace
from rota.runs.walk import Step

_NONE: Final = 0


class Ancestor(NamedTuple):
    """A task above another one, as far as its row and its child tell."""

    seq: int
    turn: int
    target: str
    kind: str
    sender: str | None
    ok: bool
    parent_turn: int | None
    record: int | None  # that stamped it; None: before the first kept record


class RootInput(NamedTuple):
    """The input that a task descends from. Fields are None where a record of its kind has none."""

    record: int
    kind: str
    now_ms: int | None
    producer: str | None  # None: the broker
    number: int | None  # of the request
    retry_of: int | None
    deadline_ms: int | None = None  # for the final outcome of each of its tasks


class Root(NamedTuple):
    """The chain of parents. `record`: the input at its top; None: it is not among the kept records."""

    record: int | None
    chain: tuple[Ancestor, ...]  # nearest first


class Ancestry:
    """One row for each stamped run."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Rows] = {}
        self._senders: dict[str, int] = {}
        self._names: list[str] = [""]

    def begin(self, world: World) -> None:
        """Take the runs that exist before the first kept record."""
        for lane in world.lanes.values():
            runs = [*lane.waiting_runs(), *[task.run for task in lane.line()]]
            unique = {run.first_turn: run for run in runs}
            for turn in sorted(unique):
                self._add(unique[turn], _NONE)

    def take(self, step: Step) -> None:
        """Take what a record stamped."""
        for run in step.notes.stamped:
            self._add(run, step.number)

    def root(self, trace: Trace) -> Root:
        """Return the tasks above a task, and the input that all of them descend from."""
        chain: list[Ancestor] = []
        target, kind = trace.sender, trace.kind
        turn = None if trace.parent is None else trace.parent[0]
        record = trace.stamped
        while turn is not None:
            found = self._find(trace.lane, turn, target or "", kind)
            if found is None:
                return Root(None, tuple(chain))
            chain.append(found)
            target, kind, turn, record = found.sender, found.kind, found.parent_turn, found.record
        return Root(record, tuple(chain))

    def _add(self, run: Run, number: int) -> None:
        rows = self._lanes.get(run.lane)
        if rows is None:
            rows = self._lanes[run.lane] = _Rows()
        rows.first_turn.append(run.first_turn)
        rows.first_seq.append(run.first_seq)
        rows.parent.append(_NONE if run.parent is None else run.parent[0])
        rows.tasks.append(len(run.payloads))
        rows.record.append(number)
        rows.kind.append(MESSAGE_KINDS.index(run.kind))
        rows.sender.append(_NONE if run.sender is None else self._number_of(run.sender))

    def _number_of(self, sender: str) -> int:
        number = self._senders.get(sender)
        if number is None:
            number = self._senders[sender] = len(self._names)
            self._names.append(sender)
        return number

    def _find(self, lane: str, turn: int, target: str, child_kind: str) -> Ancestor | None:
        rows = self._lanes.get(lane)
        place = -1 if rows is None else bisect_right(rows.first_turn, turn) - 1
        if rows is None or place < 0 or turn - rows.first_turn[place] >= rows.tasks[place]:
            return None
        return Ancestor(
            seq=rows.first_seq[place] + turn - rows.first_turn[place],
            turn=turn,
            target=target,
            kind=MESSAGE_KINDS[rows.kind[place]],
            sender=self._names[rows.sender[place]] or None,
            ok=child_kind != FAILURE,
            parent_turn=rows.parent[place] or None,
            record=rows.record[place] or None,
        )


def root_input(number: int, record: records.Record) -> RootInput:
    """Return the description of an input that stamped tasks."""
    origin: records.Origin | None = getattr(record, "origin", None)
    producer, request = (None, None) if origin is None or not origin.producer else origin[:2]
    now_ms, retry_of = getattr(record, "now_ms", None), getattr(record, "retry_of", None)
    deadline_ms = getattr(record, "deadline_ms", 0) or None
    return RootInput(number, type(record).__name__, now_ms, producer, request, retry_of, deadline_ms)


class _Rows:
    """The runs of one lane by turn, column by column."""

    def __init__(self) -> None:
        self.first_turn = array("q")
        self.first_seq = array("q")
        self.tasks = array("l")
        self.parent = array("q")
        self.record = array("q")
        self.kind = array("b")
        self.sender = array("l")
