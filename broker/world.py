"""All lanes, and the only function that changes them: `apply(record)`. PURE.

The live broker makes records and applies them; recovery and verify read records and apply them. Nothing else changes a
lane, so a recovered state cannot differ from the live one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple

from rota.broker import records
from rota.broker.asks import is_pending
from rota.broker.lane import Lane, LaneImage
from rota.broker.notes import Notes, Numbering
from rota.broker.producers import Producers
from rota.broker.results import KeptResults, RunIndex, by_run
from rota.broker.tasks import Run, Task
from rota.broker.verdicts import CANCELLED, EXPIRED, OVERDUE, can_say
from rota.common.errors import JournalError
from rota.common.limits import PRODUCERS_MAX, RESULTS_KEPT_BYTES, RESULTS_KEPT_MAX
from rota.common.messages import Accepted, Answer
from rota.common.shown import shown
from rota.common.work import Done, Failed, TensorRef

# Raised by a lane when a record does not follow from those before it, such as a second completion. The schema
# (records.py) checks each record by itself.
_MISFITS: Final = (AssertionError, LookupError)


class PendingAt(NamedTuple):
    """Where a pending task is."""

    lane: str
    turn: int


class World:
    """The state after the records so far."""

    def __init__(
        self, results_max: int = RESULTS_KEPT_MAX, results_bytes: int = RESULTS_KEPT_BYTES,
        producers_max: int = PRODUCERS_MAX,
    ) -> None:  # fmt: skip
        self.lanes: dict[str, Lane] = {}
        self.boot = 0
        self.producers = Producers(producers_max)
        self.results = KeptResults(results_max, results_bytes)
        self.runs = RunIndex()
        self.pending: dict[int, PendingAt] = {}  # tasks that were postponed and have no answer yet, by seq
        self.divergences = 0
        self.fingerprints: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self._numbering = Numbering()
        self._notes = Notes()

    @classmethod
    def alone(cls) -> World:
        """Return a world for one lane by itself: it remembers neither results nor producers."""
        return cls(0, 0, 0)

    @property
    def next_seq(self) -> int:
        return self._numbering.next_seq

    def apply(self, record: records.Record) -> Notes:
        """Apply a record and return its effects.

        Raises `JournalError` if it does not follow from those before: one is missing, or was made by other rules.
        """
        self._APPLY[type(record)](self, record)
        notes = self._notes.take()
        for run in notes.stamped:
            self.runs.add(run)
        for run, tasks in by_run(notes.finished):
            self.runs.finish(run, len(tasks))
            for task in tasks:
                outcome = task.outcome
                if type(outcome) is Done and outcome.waits is not None and is_pending(task):  # most are not
                    self.pending[task.seq] = PendingAt(run.lane, task.turn)
                else:  # that of a step of a call that goes on, or of a postponed hand-on, too: it has no other
                    self.results.keep(task)
        for task in notes.answered:
            self.pending.pop(task.seq, None)
            self.results.keep(task)
        return notes

    def decision(self, seq: int) -> bool | None:
        """Return what a cancel or deadline can do to a task now: False: catch it, True: end the wait for its answer
        (`ends` of the record), None: nothing, since its outcome is final, or there is no such task.
        """
        place = self.place_of(seq)
        return None if place is None else self.lanes[place.lane].decision(place.turn, self.runs.find(seq))

    def place_of(self, seq: int) -> PendingAt | None:
        """Return lane and turn of a task that is unfinished or pending, else None."""
        run = self.runs.find(seq)
        return self.pending.get(seq) if run is None else PendingAt(run.lane, seq - run.first_seq + run.first_turn)

    def restore_pending(self) -> None:
        """Find the pending tasks of restored lanes: those with open asks, and postponed ones in the lines."""
        for lane in self.lanes.values():
            found = {ask.seq: ask.turn for ask in lane.open.values()}
            found |= {task.seq: task.turn for task in lane.line() if is_pending(task)}
            self.pending |= {seq: PendingAt(lane.name, turn) for seq, turn in found.items()}

    def tensors_in_use(self) -> dict[bytes, None]:
        """Return the digests of all tensors named by a task, timer, dead letter or kept result."""
        refs: list[TensorRef] = []
        for lane in self.lanes.values():
            for run in lane.waiting_runs():
                refs += [ref for _, tensors in run.tensors for ref in tensors]
            for task in lane.line():
                refs += _tensors_of(task)
            for dead in lane.dead.values():
                refs += dead.tensors
            for timer in lane.timers.values():
                refs += timer.emit.tensors
            for ask in lane.open.values():
                refs += ask.run.tensors_of(0)
            for agent in [*lane.agents.values(), *lane.ended.values()]:
                steps = () if agent.call is None else agent.call.steps
                refs += [ref for step in steps for ref in step.task.tensors]
        for task in self.results.kept():
            refs += _tensors_of(task)
        return dict.fromkeys([ref.digest for ref in refs])

    def restore(self, boot: int, next_seq: int, divergences: int) -> None:
        """Restore the counts of a snapshot; call `restore_lane` for the lanes next, and restore the other parts."""
        self.boot = boot
        self._numbering.next_seq = next_seq
        self.divergences = divergences

    def restore_lane(self, image: LaneImage) -> Lane:
        """Restore a lane from an image, without its tasks."""
        opened = records.Opened(image.name, 0, records.NOBODY, image.settings, image.paused, image.deploys)
        lane = self.lanes[image.name] = Lane(opened, self._numbering, self._notes)
        lane.restore(image)
        return lane

    def split(self) -> dict[str, World]:
        """Return a world for each lane, as if it had always been alone: seqs are turns, and there are no producers.

        The lanes move there, so this world cannot be used afterwards.
        """
        unfinished: dict[str, list[Run]] = {name: [] for name in self.lanes}
        for run in self.runs.between(1, self.next_seq):
            unfinished[run.lane].append(run)
        return {name: self._with_lane(lane, unfinished[name]) for name, lane in self.lanes.items()}

    def _with_lane(self, lane: Lane, unfinished: list[Run]) -> World:
        world = World.alone()
        world.restore(self.boot, lane.next_turn, self.divergences)
        world.fingerprints = dict(self.fingerprints)
        world.lanes[lane.name] = lane
        lane.move(world._numbering, world._notes, unfinished)
        for run in unfinished:
            world.runs.add(run)
        world.restore_pending()
        return world

    def check_invariants(self) -> None:
        """Assert that every lane and the numbering are consistent."""
        for lane in self.lanes.values():
            lane.check_invariants()
        assert self.next_seq - 1 == sum(lane.next_turn - 1 for lane in self.lanes.values())
        there = {ask.seq for lane in self.lanes.values() for ask in lane.open.values()}
        assert self.pending.keys() == there | {
            task.seq for lane in self.lanes.values() for task in lane.line() if is_pending(task)
        }

    # --- one method per kind of record --------------------------------------------------------------------------

    def _begin_epoch(self, record: records.Epoch) -> None:
        if record.boot != self.boot + 1:
            raise JournalError(f"epoch {record.boot} follows epoch {self.boot}: records are missing")
        self.boot = record.boot

    def _open(self, record: records.Opened) -> None:
        if record.lane in self.lanes:
            raise JournalError(f"lane {shown(record.lane)} is opened twice")
        self.lanes[record.lane] = Lane(record, self._numbering, self._notes)
        self.producers.remember(record.origin, Accepted(record.origin.number, 0, 0))

    def _submit(self, record: records.Submitted) -> None:
        lane = self._lane_at(record)
        if record.first_seq != self.next_seq:
            raise JournalError(f"a submit is stamped {record.first_seq}, the next number is {self.next_seq}")
        if record.retry_of is not None and record.retry_of not in lane.dead:
            raise JournalError(f"task {record.retry_of} is retried, which is no dead letter of lane {shown(lane.name)}")
        lane.submit(record)
        count = sum(len(run.payloads) for run in record.runs) + (record.retry_of is not None)
        self.producers.remember(record.origin, Accepted(record.origin.number, record.first_seq, count))

    def _deploy(self, record: records.Deployed) -> None:
        self._lane_at(record).deploy(record.name, record.code)
        self.producers.remember(record.origin, Answer(record.origin.number, {}))

    def _cancel(self, record: records.Cancelled) -> None:
        self._decide(record, CANCELLED)
        self.producers.remember(record.origin, Answer(record.origin.number, {"caught": True}))

    def _judge(self, record: records.Verdict) -> None:
        if record.failure == EXPIRED:
            self._expire(record)
            return
        lane, run = self._to_catch(record)
        index = record.seq - run.first_seq
        task = lane.line_by_turn.get(run.first_turn + index)
        if task is None or task.code is None or not can_say(record.failure, record.message, task.code):
            raise JournalError(
                f"a verdict says {shown(record.message)} of task {record.seq}: no broker gives that verdict on it"
            )
        lane.decide(run, index, Failed(record.failure, record.message, record.log, 0))

    def _expire(self, record: records.Verdict) -> None:
        lane, place = self._lane_at(record), self.place_of(record.seq)
        if record[5:7] != (OVERDUE.message, ()) or place is None or place.turn not in lane.deadlines:
            raise JournalError(f"a verdict says that task {record.seq} has expired, which has no such deadline")
        self._decide(record, OVERDUE)

    def _decide(self, record: records.Cancelled | records.Verdict, failure: Failed) -> None:
        """Catch a task, or end the wait for its answer if it has run."""
        if not record.ends:
            lane, run = self._to_catch(record)
            lane.decide(run, record.seq - run.first_seq, failure)
            return
        lane, place = self._lane_at(record), self.place_of(record.seq)
        if place is None or place.lane != record.lane:
            raise JournalError(f"a decision ends the wait for task {record.seq}, which nobody waits for")
        lane.end(place.turn, failure, record.now_ms)

    def _fire_timer(self, record: records.TimerFired) -> None:
        lane = self._lane_at(record)
        if (record.turn, record.index_of_emit) not in lane.timers:
            which = f"a timer of turn {record.turn} (emit {record.index_of_emit})"
            raise JournalError(f"{which} fires, which lane {shown(lane.name)} does not have")
        lane.fire_timer(record)

    def _set_window(self, record: records.WindowSet) -> None:
        self._lane_at(record).set_window(record.window)
        self.producers.remember(record.origin, Accepted(record.origin.number, 0, 0))

    def _set_paused(self, record: records.PauseSet) -> None:
        self._lane_at(record).set_paused(record.paused)
        self.producers.remember(record.origin, Accepted(record.origin.number, 0, 0))

    def _set_seed(self, record: records.SeedSet) -> None:
        self._lane_at(record).set_seed(record.seed)

    def _drop_dead(self, record: records.DeadDropped) -> None:
        lane = self._lane_at(record)
        for seq in record.seqs:
            if seq not in lane.dead:
                raise JournalError(f"a drop names task {seq}, which is no dead letter of lane {shown(record.lane)}")
        dropped = lane.drop_dead(record.seqs)
        self.producers.remember(record.origin, Answer(record.origin.number, {"dropped": dropped}))

    def _complete(self, record: records.Completion) -> None:
        if not 1 <= record.fingerprint <= len(self.fingerprints):
            raise JournalError(f"a completion names fingerprint {record.fingerprint} of {len(self.fingerprints)}")
        lane = self._lane(record.lane)
        for fold in record.folds:
            _check_turns(fold, lane)
            _check_sizes(fold)
            lane.complete(fold)

    def _meet_mark(self, record: records.Mark) -> None:
        lane = self._lane(record.lane)
        if (lane.retired, lane.digest) != (record.retired, record.digest):
            raise JournalError(
                f"lane {shown(record.lane)} comes to another digest than its journal says, at {lane.retired} "
                f"retired tasks (journal: {record.retired}): this version of rota follows other rules "
                f"than the one that wrote it"
            )

    def _note_fingerprint(self, record: records.Fingerprint) -> None:
        if record.number != len(self.fingerprints) + 1:
            raise JournalError(f"fingerprint {record.number} follows {len(self.fingerprints)}: records are missing")
        self.fingerprints[(record.pool, record.facts)] = record.number

    def _note_divergence(self, record: records.Diverged) -> None:
        self._lane(record.lane)
        self.divergences += 1

    def _note_snapshot(self, record: records.Snapshotted) -> None:
        """Do nothing: the record describes the state before it and changes nothing."""

    def _to_catch(self, record: records.Cancelled | records.Verdict) -> tuple[Lane, Run]:
        """Return lane and run of the task that a decision names."""
        lane = self._lane_at(record)
        run = self.runs.find(record.seq)
        if run is None or run.lane != record.lane:
            raise JournalError(f"a decision catches task {record.seq}, which is not there to be caught")
        return lane, run

    def _lane(self, name: str) -> Lane:
        lane = self.lanes.get(name)
        if lane is None:
            raise JournalError(f"a record names lane {shown(name)}, which was never opened")
        return lane

    def _lane_at(self, record: Any) -> Lane:
        """Return the record's lane, after checking that it is at the record's position."""
        lane = self._lane(record.lane)
        if lane.retired != record.position:
            raise JournalError(
                f"lane {shown(record.lane)}: an input took effect at position {record.position}, "
                f"but {lane.retired} tasks are retired"
            )
        return lane

    _APPLY: ClassVar[dict[type, Callable[[World, Any], None]]] = {
        records.Epoch: _begin_epoch,
        records.Opened: _open,
        records.Submitted: _submit,
        records.Deployed: _deploy,
        records.Cancelled: _cancel,
        records.Verdict: _judge,
        records.TimerFired: _fire_timer,
        records.WindowSet: _set_window,
        records.PauseSet: _set_paused,
        records.SeedSet: _set_seed,
        records.DeadDropped: _drop_dead,
        records.Completion: _complete,
        records.Mark: _meet_mark,
        records.Diverged: _note_divergence,
        records.Fingerprint: _note_fingerprint,
        records.Snapshotted: _note_snapshot,
    }


def apply_numbered(world: World, number: int, record: records.Record) -> Notes:
    """Apply a record of a journal and return its effects.

    Raises `JournalError`, with the number, if it does not follow from those before it.
    """
    try:
        return world.apply(record)
    except JournalError as error:
        what = f"record {number}: {error.message}"
        raise JournalError(what, **{**error.fields, "number": number}) from error
    except _MISFITS as error:
        what = f"record {number} does not follow from those before it: {_misfit(error)}"
        raise JournalError(what, number=number) from error


def _misfit(error: Exception) -> str:
    """Return in words why a lane cannot apply a record."""
    said = isinstance(error, AssertionError) and bool(error.args)
    return str(error.args[0]) if said else "it names something that is not there, or that cannot change so"


def _check_turns(fold: records.CompletedFold, lane: Lane) -> None:
    """Raise `JournalError` unless a fold's turns are in the lane's line."""
    for turn in fold.turns:
        if turn not in lane.line_by_turn:
            what = "has retired or was not issued" if turn < lane.next_turn else "was never stamped"
            raise JournalError(f"turn {turn} of lane {shown(lane.name)} completes, but it {what}")


def _check_sizes(fold: records.CompletedFold) -> None:
    """Raise `JournalError` unless the sizes of states, which count against the lane's budget, are those of the fold."""
    changed = [outcome for outcome in fold.outcomes if type(outcome) is Done and outcome.state_digest is not None]
    if fold.state is not None and changed and changed[-1].state_bytes != len(fold.state):
        raise JournalError(
            f"the state of {shown(fold.address)} has {len(fold.state)} bytes, its outcome says "
            f"{changed[-1].state_bytes}"
        )
    if any(type(one) is Done and one.state_digest is None and one.state_bytes for one in fold.outcomes):
        raise JournalError(f"an outcome of {shown(fold.address)} has the size of a state without its digest")


def _tensors_of(task: Task) -> list[TensorRef]:
    """Return the tensors of a task's input and outcome."""
    refs = list(task.run.tensors_of(task.index))
    if type(task.outcome) is Done:
        refs += task.outcome.named_tensors
    return refs
