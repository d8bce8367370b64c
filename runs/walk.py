"""The journal's own fold, step by step: what each record says, what it did, and what it means for its lane alone.

This is the expected side of every comparison: outcomes as they were written down, digests as they follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rota.broker import records
from rota.broker.lane import Notes
from rota.broker.results import Results
from rota.broker.tasks import Task
from rota.broker.world import World, apply_numbered
from rota.common.digests import ZERO_DIGEST
from rota.common.errors import UnknownLane, UnknownTask
from rota.runs.lane_record import INPUTS, Input, alone, named_by
from rota.runs.open import RunSource


class Step(NamedTuple):
    """A record that took effect. `moved`: an input with turns for seqs, as its lane alone would have it."""

    number: int
    record: records.Record
    moved: Input | None
    notes: Notes
    named: str | None = None  # the address of the task that the input names


class Fold:
    """A run's journal being folded; `world` stands after the step that `steps` yielded last."""

    def __init__(self, source: RunSource) -> None:
        self.source = source
        self.world = source.begin()
        self.world.results = Results(0, 0)  # nobody asks for one
        self.number = 0
        self._lanes_at_begin = {name: (lane.retired, lane.digest) for name, lane in self.world.lanes.items()}
        self._facts: list[tuple[str, tuple[tuple[str, str], ...]]] = list(self.world.fingerprints)

    def lone(self, lane: str) -> World | None:
        """Return a world of its own that holds a lane as it was before the first kept record; None: not open yet."""
        if lane not in self._lanes_at_begin:
            return None
        world = self.source.begin()
        world.isolate(world.lanes[lane])
        return world

    def start(self, lane: str) -> tuple[int, bytes]:
        """Return how many tasks a lane had retired before the first kept record, and its digest there."""
        return self._lanes_at_begin.get(lane, (0, ZERO_DIGEST))

    def steps(self) -> Iterator[Step]:
        """Yield the steps. Raises `JournalError`, with the number of the record, where the journal breaks off."""
        for number, record in self.source.records():
            self.number = number
            moved, named = None, None
            if isinstance(record, INPUTS):
                moved, named = alone(record, self.world), named_by(record, self.world)
            notes = apply_numbered(self.world, number, record)
            if isinstance(record, records.Fingerprint):
                self._facts.append((record.pool, record.facts))
            yield Step(number, record, moved, notes, named)

    def worker(self, fingerprint: int) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Return pool and facts of a Fingerprint record."""
        return self._facts[fingerprint - 1]


def retire_order(source: RunSource, lane: str, turn: int) -> list[int]:
    """Return the turns of a lane in the order in which they retired, up to and with `turn` (0: none).

    Where records were cut, those that retired before are not among them.

    Raises `UnknownLane`, or `UnknownTask` if the turn has not retired.
    """
    order: list[int] = []
    fold = Fold(source)
    if turn == 0:
        return order
    for step in fold.steps():
        for task in retired_in(step, lane):
            order.append(task.turn)
            if task.turn == turn:
                return order
    check_lane(fold.world, lane)
    there = f"{len(order)} turns have, from turn {order[0]} to turn {order[-1]}" if order else "no turn has"
    raise UnknownTask(
        f"turn {turn} of lane {lane!r} has not retired in the records that are kept: {there}",
        lane=lane,
        turn=turn,
    )


def retired_in(step: Step, lane: str) -> list[Task]:
    """Return the tasks of a lane that retired in a step; one record moves one lane."""
    retired = step.notes.retired
    return retired if retired and retired[0].run.lane == lane else []


def check_lane(world: World, lane: str) -> None:
    """Raise `UnknownLane` if a run has no such lane."""
    if lane not in world.lanes:
        known = ", ".join(sorted(world.lanes)[:8]) or "none"
        raise UnknownLane(f"the run has no lane {lane!r} (lanes: {known}); name one with --lane", lane=lane)
