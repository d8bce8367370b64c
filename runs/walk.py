"""The one walk over a journal: each record, its effects, and the input as its lane alone has it. PURE.

Everything that reads a run uses it: log, traces, states, tree, diff, damage, and all of proof/. Records are applied
with `World.apply`, as the broker does: outcomes are taken as written, digests computed from them. A compacted journal
begins with the world of its snapshot. With a `SnapshotCheck` the snapshots in the file are compared on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from rota.broker import records
from rota.broker.lane import Lane
from rota.broker.notes import Notes
from rota.broker.results import KeptResults
from rota.broker.tasks import Task
from rota.broker.world import World, apply_numbered
from rota.common.digests import ZERO_DIGEST
from rota.common.errors import JournalError, UnknownLane, UnknownTask
from rota.common.work import Done
from rota.runs.lane_record import INPUTS, Input, lane_input, named_target
from rota.runs.snapshot_check import SnapshotCheck

PROGRESS_EVERY_RECORDS: Final = 2_000
NAMES_SHOWN: Final = 8

Numbered = Iterable[tuple[int, records.Record]]
Progress = Callable[[int], None]


class Kept(Protocol):
    """What a walk reads: the kept records of a run, and the world before the first of them."""

    name: str

    def begin(self) -> World: ...

    def records(self) -> Iterator[tuple[int, records.Record]]: ...


class FoundState(NamedTuple):
    """The state of an agent before a fold."""

    state: bytes | None
    digest: bytes | None


class Step(NamedTuple):
    """A record that was applied."""

    number: int
    record: records.Record
    lane: Lane | None  # of the record, as it is now
    position: int  # how many tasks the lane had retired before
    notes: Notes
    lane_input: Input | None = None  # the input with turns for seqs (lane_record.py)
    named_target: str | None = None  # the address of the task that the input names
    found: tuple[FoundState, ...] = ()  # of a completion, for each of its folds

    def retired(self, lane: str) -> list[Task]:
        """Return the tasks of a lane that retired; a record affects one lane."""
        return self.notes.retired if self.lane is not None and self.lane.name == lane else []


class Walk:
    """A walk over a run's journal; `world` is the world after the step that `steps` yielded last."""

    def __init__(self, kept: Kept, snapshots: SnapshotCheck | None = None) -> None:
        self.world = kept.begin()
        self.first = 0  # the number of the first record
        self.number = 0  # of the newest record, even if it could not be applied
        self._kept = kept
        self._snapshots = snapshots
        self._begins = {name: (lane.retired, lane.digest) for name, lane in self.world.lanes.items()}
        self._lane_worlds: dict[str, World] = {}
        self._workers: list[tuple[str, tuple[tuple[str, str], ...]]] = []

    def steps(self, numbered: Numbered | None = None, progress: Progress | None = None) -> Iterator[Step]:
        """Apply these records, by default those of the run, and yield a step for each.

        Raises `JournalError` with the number of the record at which the journal breaks off, and after the last record
        for the first snapshot that is not the state of the records before it.
        """
        world, snapshots = self.world, self._snapshots
        # Results are not needed here, except where a snapshot has them.
        world.results = KeptResults(0, 0) if snapshots is None else snapshots.results_of(world)
        for number, record in self._kept.records() if numbered is None else numbered:
            self.first = self.first or number
            self.number = number
            name: str | None = getattr(record, "lane", None)
            lane = None if name is None else world.lanes.get(name)
            position = 0 if lane is None else lane.retired
            moved: Input | None = None
            named: str | None = None
            found: tuple[FoundState, ...] = ()
            if isinstance(record, records.Completion):
                found = () if lane is None else _found(lane, record)
            elif isinstance(record, INPUTS):
                moved, named = lane_input(record, world), named_target(record, world)
            notes = apply_numbered(world, number, record)
            if snapshots is not None:
                snapshots.see(number, world, whole=self.first == 1)
            at = lane if lane is not None or name is None else world.lanes.get(name)
            yield Step(number, record, at, position, notes, moved, named, found)
            if progress is not None and number % PROGRESS_EVERY_RECORDS == 0:
                progress(number)
        if snapshots is not None:
            snapshots.finish()

    def run_to(self, number: int) -> World:
        """Apply the records of the run up to a number, none if it is before the first, and return the world."""
        for _ in self.steps(_up_to(self._kept.records(), number)):
            pass
        return self.world

    def begin_of(self, lane: str) -> tuple[int, bytes]:
        """Return how many tasks a lane had retired before the first kept record, and its digest there."""
        return self._begins.get(lane, (0, ZERO_DIGEST))

    def lane_world(self, lane: str) -> World | None:
        """Return a world with one lane as it was before the first kept record; None if it was not open yet."""
        if lane not in self._begins:
            return None
        if lane not in self._lane_worlds:
            self._lane_worlds = self._kept.begin().split()
        return self._lane_worlds.pop(lane)

    def worker(self, fingerprint: int) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Return pool and facts of a Fingerprint record that a completion names."""
        if len(self._workers) < fingerprint:
            self._workers = list(self.world.fingerprints)
        return self._workers[fingerprint - 1]


def retire_order(kept: Kept, lane: str, turn: int) -> list[int]:
    """Return the turns of a lane in retire order, up to and including `turn` (0: none).

    Turns that retired before the first kept record are not included.

    Raises `UnknownLane`, or `UnknownTask` if the turn has not retired.
    """
    order: list[int] = []
    if turn == 0:
        return order
    walk = Walk(kept)
    for step in walk.steps():
        for task in step.retired(lane):
            order.append(task.turn)
            if task.turn == turn:
                return order
    lane_of(walk.world, lane)
    there = f"{len(order)} turns have, from turn {order[0]} to turn {order[-1]}" if order else "no turn has"
    raise UnknownTask(
        f"turn {turn} of lane {lane!r} has not retired in the records that are kept: {there}",
        lane=lane,
        turn=turn,
    )


def lane_of(world: World, lane: str) -> Lane:
    """Return a lane of a world whose records are all applied. Raises `UnknownLane`."""
    if lane not in world.lanes:
        known = some_of(sorted(world.lanes)) or "none"
        raise UnknownLane(f"the run has no lane {lane!r} (lanes: {known}); name one with --lane", lane=lane)
    return world.lanes[lane]


def record_at(kept: Kept, number: int) -> records.Record | None:
    """Return a record by its number; None if it is not kept. The records before it must be readable."""
    return next((record for found, record in kept.records() if found == number), None)


def replaced(numbered: Numbered, changes: Mapping[int, records.Record]) -> Iterator[tuple[int, records.Record]]:
    """Yield records with some of them replaced."""
    for number, record in numbered:
        yield number, changes.get(number, record)


def follows(walk: Walk, numbered: Numbered) -> bool:
    """Apply records; return whether all of them could be applied."""
    try:
        for _ in walk.steps(numbered):
            pass
    except JournalError:
        return False
    return True


def time_of(record: records.Record) -> int | None:
    """Return the wall-clock time of a record; None if its kind has none."""
    now_ms: int | None = getattr(record, "now_ms", None)
    return now_ms


def some_of(names: list[str], shown: int = NAMES_SHOWN) -> str:
    """Return the first few names in one line, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _up_to(numbered: Numbered, last: int) -> Numbered:
    """Yield the records up to a number; the one behind them, which may be damaged, is not read."""
    for number, record in numbered:
        if number > last:
            return
        yield number, record
        if number == last:
            return


def _found(lane: Lane, record: records.Completion) -> tuple[FoundState, ...]:
    """Return the state before each fold of a completion. The second fold of an agent continues the first."""
    found: list[FoundState] = []
    left: dict[str, FoundState] = {}
    for fold in record.folds:
        before = left.get(fold.address)
        if before is None:
            agent = lane.agents.get(fold.address)
            before = _NOTHING if agent is None else FoundState(agent.state, agent.state_digest)
        found.append(before)
        if len(record.folds) > 1:
            left[fold.address] = _left(fold, before)
    return tuple(found)


def _left(fold: records.CompletedFold, before: FoundState) -> FoundState:
    changes = [outcome.state_digest for outcome in fold.outcomes if type(outcome) is Done]
    digest = next((change for change in reversed(changes) if change is not None), before.digest)
    return FoundState(before.state if fold.state is None else fold.state, digest)


_NOTHING: Final = FoundState(None, None)
