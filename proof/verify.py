"""Verify: run a journal's inputs again through real executors and compare every turn digest.

There are two worlds. One is walked over the journal: recorded outcomes, and the digests that follow. The other holds
one lane, gets the same inputs at the same positions, and executes. The first turn whose digests differ is the first
divergence (execution model, part 9); divergence.py says why. Recorded values (results of models of class recorded,
verdicts, the times of inputs) are read back, derived ones computed again; the summary counts both, and those bitwise
results of models that cannot be computed again here, since this host has another fingerprint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from rota.broker import records
from rota.broker.tasks import Task
from rota.broker.verdicts import FAULTED, REFUSED, TIMEOUT
from rota.broker.world import World
from rota.common.calls import other_path_turn
from rota.common.code_kinds import kind_of
from rota.common.errors import JournalError, UnknownTask
from rota.common.targets import code_name
from rota.common.work import Failed, was_decided
from rota.engine.engine import Runner
from rota.proof.model_answers import Elsewhere
from rota.proof.seek import Follower
from rota.proof.unretired import execute_unretired
from rota.runs.code_files import changed_code
from rota.runs.differing import content_of, state_bytes
from rota.runs.open import RunSource
from rota.runs.record_checks import Fault, check_completed, check_input
from rota.runs.snapshot_check import SnapshotCheck
from rota.runs.walk import Step, Walk, lane_of, retire_order

COMPARE_EVERY_TASKS: Final = 4_096  # how far the walk may be ahead of the execution


class VerifyOptions(NamedTuple):
    """What to verify. `first_turn` and `last_turn` need a lane; outcomes before `first_turn` are not executed."""

    lane: str | None = None
    first_turn: int | None = None
    last_turn: int | None = None
    live_models: bool = False


class Mismatch(NamedTuple):
    """Where run and repetition differ. One of the tasks is None if none retired there."""

    lane: str
    number: int  # the journal's record whose effects were being compared
    expected: Task | None
    actual: Task | None


class Blocked(NamedTuple):
    """A turn that cannot be executed here: a tensor, a module or a model is missing, or it does not end."""

    number: int  # the journal's record whose effects were being compared
    task: Task  # as the journal has it
    reason: str


class Aside(NamedTuple):
    """The first turn of a lane whose fuel or log lines differ; no digest covers those.

    `reused`: the agent or function, if it was deployed with `reuse`, so that its kept memory may be the reason.
    """

    turn: int
    name: str  # "fuel" or "log"
    expected: str
    actual: str
    reused: str = ""


class TurnCounts(NamedTuple):
    """The origin of a lane's outcomes, counted."""

    inputs: int = 0  # read back, with their times
    decisions: int = 0  # verdicts and cancels among them
    executed: int = 0  # agents and functions
    models_executed: int = 0
    models_read_back: int = 0  # of class recorded
    models_elsewhere: int = 0  # bitwise, under a fingerprint that this host does not have: read back too
    believed: int = 0  # before `first_turn`, not executed


class WorkerSeen(NamedTuple):
    """A Fingerprint record that completions of a lane name, and the first turn that was completed under it."""

    number: int
    pool: str
    facts: tuple[tuple[str, str], ...]
    first_turn: int


class Reported(NamedTuple):
    """A divergence seen by the broker itself: a worker reported another outcome than the first one."""

    number: int
    turn: int
    worker: str


class LaneReport(NamedTuple):
    """The result for one lane: equal if nothing differs, contradicts itself, or could not be executed.

    `retired` and `digest`: as far as run and repetition are equal. `compared`: without turns that were believed or
    compacted away.
    """

    lane: str
    retired: int
    digest: bytes
    compared: int
    counts: TurnCounts
    mismatch: Mismatch | None
    fault: Fault | None
    workers: tuple[WorkerSeen, ...] = ()
    blocked: Blocked | None = None
    aside: Aside | None = None
    reported: Reported | None = None
    elsewhere: tuple[Elsewhere, ...] = ()

    @property
    def equal(self) -> bool:
        return self.mismatch is None and self.fault is None and self.blocked is None


class RunReport(NamedTuple):
    """The result for a run. `damage`: where the journal itself breaks off."""

    lanes: tuple[LaneReport, ...]
    records: int
    damage: JournalError | None

    @property
    def equal(self) -> bool:
        return self.damage is None and all(lane.equal for lane in self.lanes)


def verify(
    source: RunSource, runner: Runner, options: VerifyOptions, progress: Callable[[int, int], None] | None = None
) -> RunReport:
    """Execute a run again and compare; `progress` gets how many turns are compared, and up to which record.

    Raises `UnknownLane`, `UnknownTask` for a first or last turn that has not retired, `ConfigError` if an engine is
    missing.
    """
    return _Verification(source, runner, options, progress).run()


class _Verification:
    def __init__(
        self, source: RunSource, runner: Runner, options: VerifyOptions, progress: Callable[[int, int], None] | None
    ) -> None:
        self._source = source
        self._walk = Walk(source, SnapshotCheck(source))
        self._runner = runner
        self._options = options
        self._progress = progress
        self._lanes: dict[str, _LaneCheck] = {}
        self._believed: dict[int, None] = {}
        self._compared = 0
        if options.first_turn is not None:
            assert options.lane is not None
            self._believed = dict.fromkeys(retire_order(source, options.lane, options.first_turn)[:-1])
            if options.last_turn in self._believed:
                text = f"turn {options.last_turn} retired before turn {options.first_turn}: verify up to a later one"
                raise UnknownTask(text, lane=options.lane, turn=options.last_turn)

    def run(self) -> RunReport:
        damage = None
        try:
            for step in self._walk.steps():
                self._hear(step)
                if self._is_done():
                    break
        except JournalError as error:
            damage = error
        if self._options.lane is not None and damage is None:
            lane_of(self._walk.world, self._options.lane)
        for name in self._walk.world.lanes:  # in a compacted run there may be lanes without a kept record
            if self._options.lane in (None, name):
                self._check_of(name).begin()
        for check in self._lanes.values():
            check.finish()
            if damage is None:
                check.finish_line()
            self._tell(check)
        if damage is None:
            self._check_last_turn()
        return RunReport(tuple([check.report() for check in self._lanes.values()]), self._walk.number, damage)

    def _hear(self, step: Step) -> None:
        if step.lane is None or self._options.lane not in (None, step.lane.name):
            return
        check = self._check_of(step.lane.name)
        check.hear(step)
        self._tell(check)

    def _check_of(self, name: str) -> _LaneCheck:
        check = self._lanes.get(name)
        if check is None:
            check = self._lanes[name] = _LaneCheck(
                name, self._source, self._walk, self._runner, self._options, self._believed
            )
        return check

    def _tell(self, check: _LaneCheck) -> None:
        fresh = check.take_fresh()
        self._compared += fresh
        if self._progress is not None and fresh:
            self._progress(self._compared, self._walk.number)

    def _check_last_turn(self) -> None:
        turn = self._options.last_turn
        checks = [check for check in self._lanes.values() if check.lane == self._options.lane]
        if turn is not None and not any(check.is_done for check in checks):
            compared = sum(check.compared for check in checks)
            raise UnknownTask(
                f"turn {turn} of lane {self._options.lane!r} is not among the {compared} turns that have retired",
                lane=self._options.lane,
                turn=turn,
            )

    def _is_done(self) -> bool:
        return bool(self._lanes) and self._options.lane is not None and all(c.is_done for c in self._lanes.values())


class _LaneCheck:
    """The check of one lane: the turns that retired in the journal against those of the execution."""

    def __init__(
        self,
        lane: str,
        source: RunSource,
        walk: Walk,
        runner: Runner,
        options: VerifyOptions,
        believed: dict[int, None],
    ) -> None:
        self.lane = lane
        self._source = source
        self._walk = walk
        self.compared = 0
        self.is_done = False
        self._told = 0
        self._last_turn = options.last_turn
        trusted = believed.__contains__ if believed else None
        self._follower = Follower(lane, runner, trusted=trusted, live_models=options.live_models)
        self._expected: deque[Task] = deque()
        self._believed = believed
        self._inputs = self._decisions = 0
        self._cut, self._digest = walk.begin_of(lane)
        self._mismatch: Mismatch | None = None
        self._blocked: Blocked | None = None
        self._fault: Fault | None = None
        self._aside: Aside | None = None
        self._reported: Reported | None = None
        self._next_turn = 1
        self._workers: dict[int, WorkerSeen] = {}

    def hear(self, step: Step) -> None:
        """Take a step of the journal and execute what it allows."""
        if self.is_done:
            return
        record = step.record
        self._fault = self._fault or _fault_of(step, self._next_turn, self._walk.world)
        self._next_turn = self._walk.world.lanes[self.lane].next_turn
        if step.lane_input is not None:
            self._inputs += 1
            self._decisions += isinstance(record, records.Cancelled | records.Verdict)
        if isinstance(record, records.Diverged):
            self._reported = self._reported or Reported(step.number, record.turn, record.worker)
        if isinstance(record, records.Completion) and record.fingerprint not in self._workers:
            seen = WorkerSeen(record.fingerprint, *self._walk.worker(record.fingerprint), record.folds[0].turns[0])
            self._workers[record.fingerprint] = seen
        self._expected.extend(step.retired(self.lane))
        self._compare(self._follower.hear(step, self._walk))
        if len(self._expected) >= COMPARE_EVERY_TASKS:
            self.finish()

    def begin(self) -> None:
        """Start with the lane, even if no kept record concerns it."""
        self._follower.begin(self._walk)

    def finish(self) -> None:
        """Execute as far as the journal goes."""
        replay = self._follower.replay
        if self.is_done or replay is None:
            return
        # Not up to the position of the journal's lane: the record that breaks off may have moved it.
        self._compare(replay.run_to(replay.lane.retired + len(self._expected)))
        if self._expected and not self.is_done:
            self._part(Mismatch(self.lane, self._walk.number, self._expected[0], None))
        if not self.is_done:
            self._digest = replay.lane.digest  # an input may have ended an ask behind the last turn

    def finish_line(self) -> None:
        """Compare the tasks that had completed but not retired at the journal's end."""
        replay = self._follower.replay
        if self.is_done or replay is None:
            return
        for expected, actual in execute_unretired(replay, self._walk.world.lanes[self.lane]):
            if content_of(expected) != content_of(actual) or state_bytes(expected) != state_bytes(actual):
                self._blocked = self._blocked_by(expected, actual)
                self._part(None if self._blocked else Mismatch(self.lane, self._walk.number, expected, actual))
                return
            self._aside = self._aside or _aside(expected, actual)

    def take_fresh(self) -> int:
        """Return how many turns were compared since the last time."""
        fresh, self._told = self.compared - self._told, self.compared
        return fresh

    def report(self) -> LaneReport:
        ran, believed = self._follower.runner, min(len(self._believed), self.compared)
        models = (ran.models_executed, ran.read_back, ran.read_back_elsewhere)
        counts = TurnCounts(self._inputs, self._decisions, ran.executed, *models, believed)
        return LaneReport(
            self.lane,
            self._cut + self.compared,
            self._digest,
            self.compared - believed,
            counts,
            self._mismatch,
            self._fault,
            tuple(self._workers.values()),
            self._blocked,
            self._aside,
            self._reported,
            ran.elsewhere,
        )

    def _compare(self, retired: Iterable[Task]) -> None:
        for task in retired:
            expected = self._expected.popleft() if self._expected else None
            if expected is None or not _is_equal(expected, task):
                self._blocked = self._blocked_by(expected, task)
                self._part(None if self._blocked else Mismatch(self.lane, self._walk.number, expected, task))
                return
            assert task.turn_digest is not None
            self._aside = self._aside or _aside(expected, task)
            self._digest = task.turn_digest
            self.compared += 1
            if task.turn == self._last_turn:
                self.is_done = True
                return

    def _blocked_by(self, expected: Task | None, actual: Task) -> Blocked | None:
        """Return why a turn could not be executed, if that is why it differs."""
        outcome = actual.outcome
        if expected is None or expected.turn != actual.turn or type(outcome) is not Failed:
            return None
        known = expected.outcome
        if other_path_turn(outcome) is not None:
            return None  # it was executed, and differs
        if outcome.kind not in (REFUSED, FAULTED, TIMEOUT) or (type(known) is Failed and known.kind == outcome.kind):
            return None
        if expected.code is not None and changed_code(self._source, expected.code, expected.address):
            return None  # the code is not missing, it is another one
        reasons = () if actual.trouble is None else actual.trouble.reasons
        return Blocked(self._walk.number, expected, reasons[-1] if reasons else outcome.message)

    def _part(self, mismatch: Mismatch | None) -> None:
        self._mismatch = mismatch
        self.is_done = True


def _is_equal(expected: Task, actual: Task) -> bool:
    """Compare two retired tasks. The size of a state counts against the lane's budget and is in no digest."""
    told = [(task.turn, task.turn_digest, state_bytes(task)) for task in (expected, actual)]
    return told[0] == told[1]


def _aside(expected: Task, actual: Task) -> Aside | None:
    """Compare what no digest covers: fuel and log lines, which code with `reuse` promises to repeat, too."""
    known, found = expected.outcome, actual.outcome
    if expected.provenance is not None and actual.provenance is not None:
        one, other = expected.provenance, actual.provenance
        if one.fingerprint == other.fingerprint and one.certificate != other.certificate:
            return Aside(actual.turn, "certificate", one.certificate, other.certificate)
    if (
        known is None
        or found is None
        or actual.code is None
        or kind_of(actual.code).has_provenance
        or was_decided(found)  # what workers say of a task depends on their hosts
    ):
        return None
    reused = code_name(actual.address) if actual.code.reuse else ""
    if known.fuel != found.fuel:
        return Aside(actual.turn, "fuel", str(known.fuel), str(found.fuel), reused)
    if known.log != found.log:
        return Aside(actual.turn, "log", "\n".join(known.log), "\n".join(found.log), reused)
    return None


def _fault_of(step: Step, next_turn: int, world: World) -> Fault | None:
    """Return how a record contradicts itself, if it does. `next_turn`: of the lane, before the record."""
    record, moved = step.record, step.lane_input
    if isinstance(record, records.Completion):
        return check_completed(step.number, record, step.notes)
    if isinstance(record, records.Opened):
        return check_input(step.number, record, next_turn, world.lanes)
    if isinstance(moved, records.Cancelled | records.Verdict):
        return check_input(step.number, record, moved.seq)
    return None if moved is None else check_input(step.number, record, next_turn)
