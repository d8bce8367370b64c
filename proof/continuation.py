"""A lane continued from a turn with something changed: for forks and the upgrade proof.

The later inputs of the journal are applied again, in order and at their positions. If the changed lane never reaches a
position, the input takes effect when nothing is left to run. Inputs that name a task (cancels, verdicts, retries) find
it by its turn; they are left out, and listed, if there is no such task, it has completed, or it is another agent's.
Timers and deadlines that the change set fire when a later input shows that they are due; those that the journal never
fired do not. What a call that an input ended had asked is cancelled, as a broker does.
In a recorded lane tasks complete in the journal's order, as far as they exist.

A model's recorded result is used again for the same call (model_answers.py); any other call is computed and recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from rota.broker import records
from rota.broker.lane import Lane
from rota.broker.tasks import Task, predecessor
from rota.broker.verdicts import EXPIRED, OVERDUE, can_say, verdict_text
from rota.common.columns import Blobs
from rota.common.errors import BadChange
from rota.common.work import Code
from rota.engine.folds import fold_of
from rota.proof.replay import LaneReplay
from rota.runs.lane_record import Input, named_target

BATCH_TASKS: Final = 1_024


class Change(NamedTuple):
    """What is changed. Inputs are named by the numbers of their records, tasks of a submit by their place in it."""

    deploys: tuple[tuple[str, Code], ...] = ()  # at the turn where the lane is continued
    instead: tuple[tuple[str, bytes], ...] = ()  # digests of modules, for whatever is bound to a name from there on
    dropped: tuple[int, ...] = ()
    edited: tuple[tuple[int, int, bytes], ...] = ()
    seed: bytes | None = None


class Later(NamedTuple):
    """One item of the journal after the turn: an input, or turns of a recorded lane in the order of completion."""

    number: int
    record: Input | None
    named_target: str | None = None  # the address of the task that the input names
    completed: tuple[int, ...] = ()
    overdue: tuple[int, ...] = ()  # turns whose deadline was past by this input, and that could still be answered


class LeftOut(NamedTuple):
    """An input that cannot take effect in the changed lane."""

    number: int
    what: str
    why: str


class Continuation:
    """Plays what comes after a turn. `inputs`: by record number, each as its lane alone has it."""

    def __init__(
        self, replay: LaneReplay, later: Sequence[Later], change: Change, turns_max: int, *,
        unfired: Iterable[tuple[int, int]] = (), undue: Iterable[int] = (),
    ) -> None:  # fmt: skip
        """`unfired`: timers that are still waiting at the journal's end; `undue`: turns whose deadlines are."""
        self.left_out: list[LeftOut] = []
        self.stopped_at_bound = False
        self._engine = replay.engine
        self._name = replay.name
        self._later = later
        self._change = change
        self._turns_max = turns_max
        self._edits = {(number, index): payload for number, index, payload in change.edited}
        inputs = {one.number: one.record for one in later if one.record is not None}
        fired = [(one.turn, one.index_of_emit) for one in inputs.values() if isinstance(one, records.TimerFired)]
        self._known_timers = dict.fromkeys([*fired, *unfired])
        expired = [one.seq for one in inputs.values() if isinstance(one, records.Verdict) and one.failure == EXPIRED]
        self._known_deadlines = dict.fromkeys([*expired, *undue])
        self._orphans: deque[int] = deque()  # turns: what calls had asked that an input ended
        _check(change, inputs)

    @property
    def lane(self) -> Lane:
        return self._engine.world.lanes[self._name]

    def run(self) -> Iterator[Task]:
        """Yield the tasks that retire from here on, to the end or the bound."""
        now_ms = next((one.record.now_ms for one in self._later if one.record is not None), 0)
        yield from self._begin(now_ms)
        for number, record, named, completed, overdue in self._later:
            if record is None:
                yield from self._complete(completed)
                continue
            if number in self._change.dropped:
                continue
            if not (isinstance(record, records.Cancelled) and record.seq in self._orphans):
                yield from self._end_orphans(now_ms)
                yield from self._run_to(record.position)
                yield from self._fire_due(record.now_ms, overdue)
            now_ms = self._engine.now_ms = max(now_ms, record.now_ms)
            fitted = self._fit(number, record, named)
            if fitted is not None:
                yield from self._apply(fitted)
        yield from self._end_orphans(now_ms)
        yield from self._run_to(None)
        yield from self._fire_due(now_ms)
        yield from self._run_to(None)

    # --- running ---------------------------------------------------------------------------------------------------

    def _begin(self, now_ms: int) -> Iterator[Task]:
        lane = self.lane
        if self._change.seed is not None:
            record = records.SeedSet(self._name, lane.retired, now_ms, records.NOBODY, self._change.seed)
            yield from self._engine.apply(record).retired
        bound = [(name, lane.deploys[name]) for name, _ in self._change.instead if name in lane.deploys]
        for name, code in (*self._change.deploys, *[(name, self._instead(name, code)) for name, code in bound]):
            deployed = records.Deployed(self._name, lane.retired, now_ms, records.NOBODY, name, code)
            yield from self._engine.apply(deployed).retired

    def _complete(self, turns: tuple[int, ...]) -> Iterator[Task]:
        """Complete tasks of a recorded lane in this order, those that exist and can run now."""
        for turn in turns:
            task = self.lane.line_by_turn.get(turn)
            if task is None or task.outcome is not None or predecessor(task) is not None:
                continue
            retired, stopped = self._engine.execute([fold_of(self.lane, (task,))])
            yield from retired
            yield from self._engine.judge(stopped)

    def _run_to(self, position: int | None) -> Iterator[Task]:
        lane = self.lane
        while position is None or lane.retired < position:
            room = self._turns_max - lane.retired
            if room <= 0:
                self.stopped_at_bound = self.stopped_at_bound or lane.line_count > 0
                return
            wanted = room if position is None else min(room, position - lane.retired)
            retired = self._engine.run(self._name, min(wanted, BATCH_TASKS))
            if not retired:
                return
            yield from retired

    def _fire_due(self, now_ms: int, overdue: Sequence[int] = ()) -> Iterator[Task]:
        """Fire the due timers that the journal does not have. `overdue`: as of `Later`."""
        due = sorted(
            (timer.due_ms, *key)
            for key, timer in self.lane.timers.items()
            if timer.due_ms <= now_ms and key not in self._known_timers
        )
        for due_ms, turn, index in due:
            if (turn, index) in self.lane.timers:  # else its call has ended meanwhile
                record = records.TimerFired(self._name, self.lane.retired, due_ms, turn, index)
                yield from self._engine.apply(record).retired
        yield from self._end_overdue(now_ms, overdue)

    def _end_overdue(self, now_ms: int, left: Sequence[int]) -> Iterator[Task]:
        """End the tasks whose deadlines have passed, if the journal does not, except those that it had `left` here.

        A deadline may be past already when it is stamped, and what comes first then, end or answer, is in the journal.
        """
        lane = self.lane
        overdue = sorted((due_ms, turn) for turn, due_ms in lane.deadlines.items() if due_ms <= now_ms)
        for due_ms, turn in overdue:
            ends = self._engine.world.decision(turn)
            known = turn in self._known_deadlines or turn in left
            if turn in lane.deadlines and not known and ends is not None:
                decided = (OVERDUE.kind, OVERDUE.message, (), ends)
                yield from self._apply(records.Verdict(self._name, lane.retired, due_ms, turn, *decided))
                yield from self._end_orphans(due_ms)

    def _end_orphans(self, now_ms: int) -> Iterator[Task]:
        """Cancel what is left of what ended calls had asked, and so on. What is in the line is left as if it had
        completed: whether it had is a matter of timing, and the journal names those that had not.
        """
        while self._orphans:
            turn = self._orphans.popleft()
            task = self.lane.line_by_turn.get(turn)
            if task is not None and task.outcome is None:
                continue
            ends = self._engine.world.decision(turn)
            if ends is not None:
                cancel = records.Cancelled(self._name, self.lane.retired, now_ms, records.NOBODY, turn, ends)
                yield from self._apply(cancel)

    def _apply(self, record: Input) -> Iterator[Task]:
        notes = self._engine.apply(record)
        self._orphans.extend(notes.orphans)
        yield from notes.retired

    # --- making inputs fit -----------------------------------------------------------------------------------------

    def _fit(self, number: int, record: Input, named: str | None) -> Input | None:
        """Return an input as it can take effect here; if it cannot, note why and return None."""
        lane = self.lane
        record = record._replace(position=lane.retired)
        why = self._why_not(record) or self._why_another(record, named)
        if why:
            self.left_out.append(LeftOut(number, type(record).__name__, why))
            return None
        match record:
            case records.Submitted():
                return self._edit(number, record)._replace(first_seq=lane.next_turn)
            case records.Deployed():
                return record._replace(code=self._instead(record.name, record.code))
            case records.Cancelled() | records.Verdict(failure="expired"):
                return record._replace(ends=self._ends(record))
            case records.Verdict():
                code = lane.line_by_turn[record.seq].code
                assert code is not None
                if can_say(record.failure, record.message, code):
                    return record
                return record._replace(message=verdict_text(record.failure, code))  # of its code here
            case records.DeadDropped() if not all(turn in lane.dead for turn in record.seqs):
                there = tuple([turn for turn in record.seqs if turn in lane.dead])
                return record._replace(seqs=there, origin=records.NOBODY)
            case _:
                return record

    def _ends(self, record: records.Cancelled | records.Verdict) -> bool:
        """Return whether a decision ends a wait; of a task that is not executed here yet: if it did in the journal."""
        task = self.lane.line_by_turn.get(record.seq)
        if task is not None and task.outcome is None and not task.run.answers:
            return record.ends
        return bool(self._engine.world.decision(record.seq))

    def _instead(self, name: str, code: Code) -> Code:
        return code._replace(digest=dict(self._change.instead).get(name, code.digest))

    def _why_not(self, record: Input) -> str:
        lane = self.lane
        match record:
            case records.Cancelled() | records.Verdict():
                ends = self._engine.world.decision(record.seq)
                expires = isinstance(record, records.Verdict) and record.failure == EXPIRED
                if ends is None or (ends and not isinstance(record, records.Cancelled) and not expires):
                    return f"turn {record.seq} has completed, is caught already or is not there"
                if expires and record.seq not in lane.deadlines:
                    return f"turn {record.seq} has no deadline"
                if isinstance(record, records.Verdict) and not expires and record.seq not in lane.line_by_turn:
                    return f"turn {record.seq} is not issued"
                return ""
            case records.DeadDropped() if record.seqs and not any(turn in lane.dead for turn in record.seqs):
                return f"turn {record.seqs[0]} is not a dead letter"
            case records.Submitted(retry_of=int() as turn) if turn not in lane.dead:
                return f"turn {turn} is not a dead letter"
            case records.TimerFired() if (record.turn, record.index_of_emit) not in lane.timers:
                return f"turn {record.turn} has set no timer with its emit {record.index_of_emit}"
            case _:
                return ""

    def _why_another(self, record: Input, named: str | None) -> str:
        """Return a reason if the turn that an input names is another agent's task here, else an empty text."""
        found = named_target(record, self._engine.world)
        return "" if found == named else f"the task that it names was for {named}, here it is for {found}"

    def _edit(self, number: int, record: records.Submitted) -> records.Submitted:
        place, runs = 0, []
        is_edited = False
        for run in record.runs:
            payloads = Blobs.of([self._edits.get((number, place + at), old) for at, old in enumerate(run.payloads)])
            is_edited = is_edited or payloads != run.payloads
            place += len(payloads)
            runs.append(run._replace(payloads=payloads))
        if not is_edited:
            return record
        return record._replace(runs=tuple(runs), origin=records.NOBODY)


def _check(change: Change, known: Mapping[int, Input]) -> None:
    """Raise `BadChange` if a change names an input that is not in `known` (by record number)."""
    for number in (*change.dropped, *[number for number, _, _ in change.edited]):
        if number not in known:
            raise BadChange(
                f"record {number} is no input of the lane after the turn: `rota log` shows their numbers",
                number=number,
            )
    for number, index, _ in change.edited:
        record = known[number]
        count = sum(len(run.payloads) for run in record.runs) if isinstance(record, records.Submitted) else 0
        if not 0 <= index < count:
            raise BadChange(f"record {number} has {count} payloads: there is none with index {index}", number=number)
