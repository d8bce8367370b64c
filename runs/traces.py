"""Traces: what the journal says about the queried tasks. PURE.

A `Tracer` takes the steps of a walk (walk.py) and keeps only the tasks that it was asked for, so its memory does not
grow with the journal. What no record tells (attempts, who waited for a result) is not guessed.

A compacted journal begins with a world that has tasks already; their traces have no stamp (`stamped` is None). When
`Task` or `Notes` in broker/ change, this file changes too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from rota.broker import records
from rota.broker.asks import is_postponed
from rota.broker.lane import Lane
from rota.broker.tasks import Run, Task
from rota.broker.world import World
from rota.common.calls import call_of
from rota.common.digests import entropy
from rota.common.targets import code_name
from rota.common.work import TIMER, Code, Done, Outcome, Provenance, ReplyTo, TensorRef
from rota.engine.waits import outcome_word
from rota.runs.later import AskEvent, answered_by, later_of
from rota.runs.walk import Step, time_of


class ComputedBy(NamedTuple):
    """The record that holds an outcome: which worker computed it, when it was accepted, and with which other tasks."""

    number: int
    now_ms: int
    worker: str
    elapsed_us: int  # of the whole assignment
    fingerprint: int
    tasks: int  # of the whole assignment
    fold: tuple[int, ...]  # the turns of the fold


class Decision(NamedTuple):
    """A cancel or verdict that ended the task."""

    number: int
    now_ms: int
    kind: str


class Stamp(NamedTuple):
    """The task that was stamped for one emit, reply or fired timer."""

    emit: int  # its index among the emits; a reply comes after the last
    seq: int
    turn: int
    target: str
    kind: str


@dataclass(slots=True)
class Trace:
    """One task, as far as the records say. Record numbers and positions are None for what has not happened, or happened
    before the first kept record.
    """

    lane: str
    seq: int
    turn: int
    target: str
    kind: str
    sender: str | None
    priority: int
    now_ms: int
    payload: bytes
    tensors: tuple[TensorRef, ...]
    parent: tuple[int, int] | None
    reply_to: ReplyTo | None
    depth: int = 0  # how far below a queried task
    stamped: int | None = None
    stamped_at: int | None = None
    stamped_ms: int | None = None  # the time of the record that stamped it
    retry_of: int | None = None
    retried_as: list[int] = field(default_factory=list)
    issued: int | None = None
    issued_at: int | None = None
    place: int | None = None  # in the line when it joined; only where lines decide the order
    code: Code | None = None
    emits_max: int = 0
    entropy: bytes = b""
    decision: Decision | None = None
    completion: ComputedBy | None = None
    completed: int | None = None  # the record that made its outcome final
    outcome: Outcome | None = None
    provenance: Provenance | None = None
    state_before: bytes | None = None
    state_after: bytes | None = None
    retired: int | None = None
    retired_at: int | None = None
    retired_ms: int | None = None
    digest: bytes | None = None
    children: list[Stamp] = field(default_factory=list)
    answers: int = 0  # the turn of the open ask for which it was handed on
    is_whole_call: bool = False  # told as the call that it began: by its answer, or where that waits now
    waits_now: str = ""  # of a whole call that goes on, if its runtime can say
    later: list[AskEvent] = field(default_factory=list)  # what happened to the open ask that it is, or answers
    bound: bool = False  # issued; `code` None then means that its name was not deployed

    @property
    def stage(self) -> str:
        """Its stage: waiting, issued, completed or retired."""
        if self.retired_at is not None:
            return "retired"
        return "completed" if self.outcome is not None else "issued" if self.bound else "waiting"

    @property
    def mark(self) -> str:
        """Its outcome in a word: ok, the kind of its failure, postponed, or waits, of a step of a call that goes on;
        its stage if it has none.
        """
        return self.stage if self.outcome is None else outcome_word(self.outcome, self.target)

    @property
    def answer(self) -> AskEvent | None:
        """The answer of a postponed task; None: it is not postponed, or has none yet."""
        return self.later[-1] if self.later and self.later[-1].is_last else None

    @property
    def call(self) -> int | None:
        """The turn that began the call to which it is a message; None if it is none of a flow."""
        return call_of(self.target)


class Tracer:
    """Keeps traces of the queried tasks and of their descendants down to a depth.

    Query by seq or by address (in one lane). With `forget_retired`, `after` returns a trace when its task has retired
    and drops it; one that began a call, if the address is the name of a flow, when the call has its answer.
    """

    def __init__(
        self,
        *,
        seqs: Iterable[int] = (),
        address: str | None = None,
        lane: str | None = None,
        depth_max: int = 0,
        traces_max: int | None = None,
        forget_retired: bool = False,
    ) -> None:
        self.traces: dict[tuple[str, int], Trace] = {}
        self.by_seq: dict[int, Trace] = {}
        self.left_out = 0  # descendants beyond `traces_max`
        self.met_address = False
        self._seqs = frozenset(seqs)
        self._address = address
        self._call = None if address is None else call_of(address)  # its first message is stamped for the bare name
        self._name = None if self._call is None or address is None else code_name(address)
        self._lane = lane
        self._depth_max = depth_max
        self._traces_max = traces_max
        self._forget_retired = forget_retired
        self._calls: dict[tuple[str, int], Trace] = {}  # whole calls that go on
        self._handed: dict[tuple[str, int], list[Trace]] = {}  # tasks handed on, by the open ask that they answer

    def begin(self, world: World) -> None:
        """Take the world before the first kept record."""
        for lane in world.lanes.values():
            for task in lane.line():
                trace = self._wanted(task.run, task.index)
                if trace is not None:
                    self._bind(trace, task, lane, None)
                    trace.outcome = task.outcome
            for run in lane.waiting_runs():
                for index in range(run.issued, len(run.payloads)):
                    self._wanted(run, index)

    def after(self, step: Step) -> list[Trace]:
        """Take a step; return the traces of the tasks that retired in it, in that order."""
        notes, lane = step.notes, step.lane
        if lane is None:
            return []
        self._take_record(step, lane)
        retired_at = {task.turn: step.position + place for place, task in enumerate(notes.retired, 1)}
        for run in notes.stamped:
            self._take_stamped(run, step, retired_at)
        if not self.traces:
            return []
        for task in notes.issued:
            trace = self.traces.get((lane.name, task.turn))
            if trace is not None:
                self._bind(trace, task, lane, step.number)
        for task in notes.finished:
            trace = self.traces.get((lane.name, task.turn))
            if trace is not None:
                self._finish(trace, task, lane, step.number)
        answered: list[Trace] = []
        for turn, later in later_of(step):
            self._note_later(lane.name, turn, later, step)
            call = self._calls.pop((lane.name, turn), None) if later.is_last else None
            if call is not None:
                self._forget(call)
                answered.append(call)
        retired = [
            self._retire(trace, task, lane, step.number, retired_at[task.turn], time_of(step.record))
            for task in notes.retired
            if (trace := self.traces.get((lane.name, task.turn))) is not None
        ]
        return [*[trace for trace in retired if not trace.is_whole_call], *answered]

    def end(self, world: World) -> None:
        """Fill in what is known only at the end: the places of tasks still in the line."""
        for lane in world.lanes.values():
            for place, task in enumerate(lane.line(), 1):
                trace = self.traces.get((lane.name, task.turn))
                if trace is not None and trace.issued_at is not None and lane.settings.policy == "derived":
                    trace.place = lane.retired + place - trace.issued_at
        for (name, _), trace in self._calls.items():
            call = world.lanes[name].agents[trace.target].call
            assert call is not None
            trace.waits_now = call.waits

    # --- one kind of change each --------------------------------------------------------------------------------

    def _take_record(self, step: Step, lane: Lane) -> None:
        record = step.record
        if isinstance(record, records.Completion) and self.traces:
            tasks = sum([len(fold.turns) for fold in record.folds])
            for fold, found in zip(record.folds, step.found, strict=True):
                state = found.digest
                for turn, outcome in zip(fold.turns, fold.outcomes, strict=True):
                    trace = self.traces.get((lane.name, turn))
                    if trace is not None:
                        trace.state_before = state
                        head = (step.number, record.now_ms, record.worker, record.elapsed_us, record.fingerprint)
                        trace.completion = ComputedBy(*head, tasks, fold.turns)
                        trace.entropy = entropy(lane.seed, turn)  # from the seed in force when it was executed
                    if type(outcome) is Done and outcome.state_digest is not None:
                        state = outcome.state_digest
        elif isinstance(record, records.Cancelled | records.Verdict):
            caught = self.by_seq.get(record.seq)
            if caught is not None:
                kind = record.failure if type(record) is records.Verdict else "cancelled"
                caught.decision = Decision(step.number, record.now_ms, kind)

    def _take_stamped(self, run: Run, step: Step, retired_at: dict[int, int]) -> None:
        record = step.record
        position = step.position  # where an input stamps what it submits, a timer's message, or the end of an ask
        if run.parent is not None:  # emits and answers are stamped when their parent retires
            position = retired_at.get(run.parent[0], position)
        parent = None if run.parent is None else self.traces.get((run.lane, run.parent[0]))
        retry_of = record.retry_of if type(record) is records.Submitted and run.parent is None else None
        if parent is None and not self._may_hold(run) and (retry_of is None or retry_of not in self.by_seq):
            return
        if parent is not None and run.parent is not None:
            stamp = Stamp(run.parent[1], run.first_seq, run.first_turn, run.target(0), run.kind)
            parent.children.append(stamp)
        if retry_of is not None and retry_of in self.by_seq:
            self.by_seq[retry_of].retried_as.append(run.first_seq)
        for index in range(len(run.payloads)):
            trace = self._wanted(run, index, parent)
            if trace is not None:
                trace.stamped, trace.stamped_at, trace.retry_of = step.number, position, retry_of
                trace.stamped_ms = time_of(record)

    def _may_hold(self, run: Run) -> bool:
        """Return False if a cheap check shows that none of a run's tasks is queried."""
        if self._seqs:
            last = run.first_seq + len(run.payloads)
            return any(run.first_seq <= seq < last for seq in self._seqs)
        return self._address is not None and (
            type(run.targets) is not str or run.targets in (self._address, self._name)
        )

    def _wanted(self, run: Run, index: int, parent: Trace | None = None) -> Trace | None:
        """Begin a trace if the task is queried or descends from one that is."""
        if self._lane is not None and run.lane != self._lane:
            return None
        seq, target = run.first_seq + index, run.target(index)
        begins = run.first_turn + index == self._call and target == self._name
        asked = seq in self._seqs or begins or (self._address is not None and target == self._address)
        self.met_address = self.met_address or target == self._address
        if not asked and (parent is None or parent.depth >= self._depth_max):
            return None
        if not asked and self._traces_max is not None and len(self.traces) >= self._traces_max:
            self.left_out += 1
            return None
        trace = Trace(
            lane=run.lane,
            seq=seq,
            turn=run.first_turn + index,
            target=target,
            kind=run.kind,
            sender=run.sender,
            priority=run.priority,
            now_ms=run.now_ms,
            payload=run.payloads[index],
            tensors=run.tensors_of(index),
            parent=run.parent,
            reply_to=run.reply_to,
            depth=0 if asked or parent is None else parent.depth + 1,
            answers=run.answers,
        )
        if run.answers:
            self._handed.setdefault((run.lane, run.answers), []).append(trace)
        self.traces[(trace.lane, trace.turn)] = self.by_seq[seq] = trace
        return trace

    def _bind(self, trace: Trace, task: Task, lane: Lane, number: int | None) -> None:
        trace.bound = True
        trace.target = task.address  # the task that begins a call gets the address of its instance at issue
        self.met_address = self.met_address or task.address == self._address
        if trace.turn == self._call and task.address != self._address and trace.seq not in self._seqs:
            del self.traces[(trace.lane, trace.turn)], self.by_seq[trace.seq]  # no flow was called
        trace.issued, trace.issued_at = number, task.issued_at
        trace.code, trace.emits_max = task.code, task.emits_max
        trace.entropy = entropy(lane.seed, task.turn)

    def _note_later(self, lane: str, turn: int, later: AskEvent, step: Step) -> None:
        asked = self.traces.get((lane, turn))
        for trace in (*([] if asked is None else [asked]), *self._handed.get((lane, turn), ())):
            before = trace.later[-1] if trace.later else None
            trace.later.append(answered_by(later, turn, before, step) if later.is_last else later)

    def _finish(self, trace: Trace, task: Task, lane: Lane, number: int) -> None:
        if trace.outcome is not None:
            return  # the final outcome of a postponed task, which is in `later`
        if not trace.bound:  # it joined the line complete: a decision, or a name that is not deployed
            self._bind(trace, task, lane, number)
        trace.completed, trace.outcome, trace.provenance = number, task.outcome, task.provenance
        trace.state_after = task.state_digest if type(task.outcome) is Done else trace.state_before

    def _retire(
        self, trace: Trace, task: Task, lane: Lane, number: int, position: int, now_ms: int | None
    ) -> Trace:  # fmt: skip
        trace.retired, trace.retired_at, trace.digest = number, position, task.turn_digest
        trace.retired_ms = now_ms
        if trace.issued_at is not None and lane.settings.policy == "derived":
            trace.place = position - trace.issued_at
        goes_on = is_postponed(trace.outcome) and trace.answer is None
        if self._forget_retired and self._call is None and trace.call == trace.turn and goes_on:
            trace.is_whole_call = True
            self._calls[(trace.lane, trace.turn)] = trace
        elif self._forget_retired:
            self._forget(trace)
        return trace

    def _forget(self, trace: Trace) -> None:
        del self.traces[(trace.lane, trace.turn)]
        del self.by_seq[trace.seq]


def waiting_timers(trace: Trace) -> list[int]:
    """Return the indexes of a retired task's emits that are timers and have not fired."""
    if type(trace.outcome) is not Done or trace.retired_at is None:
        return []
    fired = {child.emit: child for child in trace.children}
    return [index for index, emit in enumerate(trace.outcome.emits) if emit.kind == TIMER and index not in fired]
