"""Verify: a journal's inputs run again through real executors, and every turn digest compared.

Two worlds side by side. One folds the journal: what was written down, and the digests that follow. The other holds one
lane, gets the same inputs at the same positions, and executes. The first turn whose digests differ is where the run and
its repetition part (execution model, part 9); divergence.py says why. Recorded values (results of models without a
certificate, verdicts, the times of inputs) are read back, derived ones computed again; the summary counts both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from rota.broker import records
from rota.broker.tasks import Task
from rota.common.errors import JournalError
from rota.local.engine import Runner
from rota.proof.record_checks import Fault, check_completed, check_input
from rota.proof.seek import Follower
from rota.proof.source import RunSource
from rota.proof.steps import Fold, Step, check_lane, retire_order, retired_in

COMPARE_EVERY_TASKS: Final = 4_096  # how far the journal's fold may be ahead of the execution


class Options(NamedTuple):
    """What to verify. `first_turn` and `last_turn` need a lane; outcomes before the first are believed."""

    lane: str | None = None
    first_turn: int | None = None
    last_turn: int | None = None
    live_models: bool = False


class Mismatch(NamedTuple):
    """Where run and repetition part. One of the tasks is None if it did not retire there at all."""

    lane: str
    number: int  # the journal's record whose effects were being compared
    expected: Task | None
    actual: Task | None


class Counts(NamedTuple):
    """How the outcomes of a lane came about."""

    inputs: int = 0  # as they were written down, with their times
    decisions: int = 0  # verdicts and cancels among them
    executed: int = 0  # agents and functions
    models_executed: int = 0
    models_read_back: int = 0
    believed: int = 0  # before the first turn that was asked for


class WorkerSeen(NamedTuple):
    """A Fingerprint record that completions of a lane name, and the first turn that was completed under it."""

    number: int
    pool: str
    facts: tuple[tuple[str, str], ...]
    first_turn: int


class LaneReport(NamedTuple):
    """What came of one lane: equal if there is neither mismatch nor fault."""

    lane: str
    retired: int
    digest: bytes
    compared: int
    counts: Counts
    mismatch: Mismatch | None
    fault: Fault | None
    workers: tuple[WorkerSeen, ...] = ()

    @property
    def equal(self) -> bool:
        return self.mismatch is None and self.fault is None


class Report(NamedTuple):
    """What came of a run. `broken`: where the journal itself breaks off."""

    lanes: tuple[LaneReport, ...]
    records: int
    broken: JournalError | None

    @property
    def equal(self) -> bool:
        return self.broken is None and all(lane.equal for lane in self.lanes)


def verify(
    source: RunSource, runner: Runner, options: Options, progress: Callable[[int], None] | None = None
) -> Report:
    """Execute a run again and compare; `progress` is told how many turns are compared.

    Raises `UnknownLane`, `JournalError` for a first or last turn that has not retired, `ConfigError` if an engine is
    missing.
    """
    return _Verification(source, runner, options, progress).run()


class _Verification:
    def __init__(
        self, source: RunSource, runner: Runner, options: Options, progress: Callable[[int], None] | None
    ) -> None:
        self._fold = Fold(source)
        self._runner = runner
        self._options = options
        self._progress = progress
        self._lanes: dict[str, _LaneCheck] = {}
        self._believed: dict[int, None] = {}
        self._compared = 0
        if options.first_turn is not None:
            assert options.lane is not None
            self._believed = dict.fromkeys(retire_order(source, options.lane, options.first_turn)[:-1])

    def run(self) -> Report:
        broken = None
        try:
            for step in self._fold.steps():
                self._hear(step)
                if self._is_done():
                    break
        except JournalError as error:
            broken = error
        if self._options.lane is not None and broken is None:
            check_lane(self._fold.world, self._options.lane)
        for check in self._lanes.values():
            check.finish(self._fold)
        return Report(tuple([check.report() for check in self._lanes.values()]), self._fold.number, broken)

    def _hear(self, step: Step) -> None:
        name = getattr(step.record, "lane", None)
        if not isinstance(name, str) or self._options.lane not in (None, name):
            return
        check = self._lanes.get(name)
        if check is None:
            check = self._lanes[name] = _LaneCheck(name, self._runner, self._options, self._believed)
        before = check.compared
        check.hear(step, self._fold)
        self._compared += check.compared - before
        if self._progress is not None and check.compared != before:
            self._progress(self._compared)

    def _is_done(self) -> bool:
        return bool(self._lanes) and self._options.lane is not None and all(c.is_done for c in self._lanes.values())


class _LaneCheck:
    """One lane: what the journal says retired, and what retires when it is executed."""

    def __init__(self, lane: str, runner: Runner, options: Options, believed: dict[int, None]) -> None:
        self.compared = 0
        self.is_done = False
        self._lane = lane
        self._last_turn = options.last_turn
        trusted = believed.__contains__ if believed else None
        self._follower = Follower(lane, runner, trusted=trusted, live_models=options.live_models)
        self._expected: deque[Task] = deque()
        self._believed = believed
        self._inputs = self._decisions = 0
        self._mismatch: Mismatch | None = None
        self._fault: Fault | None = None
        self._next_turn = 1
        self._workers: dict[int, WorkerSeen] = {}

    def hear(self, step: Step, fold: Fold) -> None:
        """Take a step of the journal and execute what it allows."""
        if self.is_done:
            return
        record = step.record
        self._fault = self._fault or _fault_of(step, self._next_turn, fold)
        self._next_turn = fold.world.lanes[self._lane].next_turn
        if step.moved is not None:
            self._inputs += 1
            self._decisions += isinstance(record, records.Cancelled | records.Verdict)
        if isinstance(record, records.Completed) and record.fingerprint not in self._workers:
            seen = WorkerSeen(record.fingerprint, *fold.worker(record.fingerprint), record.folds[0].turns[0])
            self._workers[record.fingerprint] = seen
        self._expected.extend(retired_in(step, self._lane))
        self._compare(self._follower.hear(step, fold), fold)
        if len(self._expected) >= COMPARE_EVERY_TASKS:
            self.finish(fold)

    def finish(self, fold: Fold) -> None:
        """Execute as far as the journal goes."""
        replay = self._follower.replay
        if self.is_done or replay is None:
            return
        # Not how far the fold's lane is: a record that breaks off may have moved it.
        self._compare(replay.run_to(replay.lane.retired + len(self._expected)), fold)
        if self._expected and not self.is_done:
            self._part(Mismatch(self._lane, fold.number, self._expected[0], None))

    def report(self) -> LaneReport:
        ran = self._follower.runner
        counts = Counts(
            self._inputs, self._decisions, ran.executed, ran.models_executed, ran.read_back, len(self._believed)
        )
        replay = self._follower.replay
        digest = b"" if replay is None else replay.lane.digest
        workers = tuple(self._workers.values())
        return LaneReport(
            self._lane, self.compared, digest, self.compared, counts, self._mismatch, self._fault, workers
        )

    def _compare(self, retired: Iterable[Task], fold: Fold) -> None:
        for task in retired:
            expected = self._expected.popleft() if self._expected else None
            if expected is None or (expected.turn, expected.turn_digest) != (task.turn, task.turn_digest):
                self._part(Mismatch(self._lane, fold.number, expected, task))
                return
            self.compared += 1
            if task.turn == self._last_turn:
                self.is_done = True
                return

    def _part(self, mismatch: Mismatch) -> None:
        self._mismatch = mismatch
        self.is_done = True


def _fault_of(step: Step, next_turn: int, fold: Fold) -> Fault | None:
    """Return what is wrong with a record in itself. `next_turn`: of the lane, before the record."""
    record, moved = step.record, step.moved
    if isinstance(record, records.Completed):
        return check_completed(step.number, record, step.notes)
    if isinstance(record, records.Opened):
        return check_input(step.number, record, next_turn, fold.world.lanes)
    if isinstance(moved, records.Cancelled | records.Verdict):
        return check_input(step.number, record, moved.seq)
    return None if moved is None else check_input(step.number, record, next_turn)
