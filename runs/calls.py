"""A call of a flow as one thing: its messages, what each step waited for, and how it ended. PURE.

A call is an instance of its own, so its messages are those to its address `name/~TURN`. What it asked and what came
back follows from them (engine/waits.py), so a call that ended long ago is told from the journal as one that goes on. Of
a call that began before the first kept record, the snapshot has the messages that it had until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from rota.broker import records
from rota.broker.asks import is_postponed
from rota.broker.verdicts import CANCELLED
from rota.common.calls import call_of
from rota.common.errors import UnknownTask
from rota.common.work import TIMER, CallStep, Code, Done, Emit, Outcome
from rota.engine.waits import Seen, Wait, outcome_word, waits_of
from rota.runs.questions import check_agent, check_turn
from rota.runs.traces import Trace, Tracer
from rota.runs.walk import Kept, Progress, Step, Walk, lane_of

NEVER: Final = 1 << 62


class CallWait(NamedTuple):
    """An ask or timer of a call. `asked`: the task that was stamped for it, None if it is a timer or its step has not
    retired. `answer`: the message that ended the wait; None: it waits, or the call ended before.
    """

    step: Trace
    emit_index: int
    emit: Emit
    asked: Trace | None
    answer: Trace | None

    @property
    def turns(self) -> int | None:
        """How many turns retired between the step and the stamp of the answer; None: not known."""
        return _between(self.step.retired_at, None if self.answer is None else self.answer.stamped_at)

    @property
    def ms(self) -> int | None:
        """How much time passed between them, by the clock of the records; None: not known."""
        return _between(self.step.retired_ms, None if self.answer is None else self.answer.stamped_ms)


class CallEnd(NamedTuple):
    """How a call ended: in which turn (None: by an input, a cancel or a deadline), with what."""

    record: int | None
    position: int | None
    now_ms: int | None
    turn: int | None
    outcome: Outcome | None  # None if an input ended it
    kind: str  # ok, or the kind of the failure


class CallTrace(NamedTuple):
    """A call. `messages` were given to it, in order; `coming` are stamped for it and were not: they are to come, or
    came after its end. `before`: those from before the kept records, without seqs and outcomes. `fuel`: of all steps.
    """

    lane: str
    address: str
    turn: int
    code: Code | None
    before: tuple[CallStep, ...]
    messages: tuple[Trace, ...]
    coming: tuple[Trace, ...]
    waits: tuple[CallWait, ...]
    fuel: int
    end: CallEnd | None

    @property
    def open(self) -> tuple[CallWait, ...]:
        """What it waits for; of what it asked before the kept records nothing is known."""
        return () if self.end is not None else tuple([wait for wait in self.waits if wait.answer is None])

    @property
    def waits_at(self) -> str | None:
        """Where in its source it waits, empty if its runtime could not say; None: it does not wait."""
        outcome = self.messages[-1].outcome if self.messages and self.end is None else None
        return outcome.waits if type(outcome) is Done else None

    @property
    def mark(self) -> str:
        """Its end in a word: ok or the kind of its failure; `waits` if it goes on."""
        return self.end.kind if self.end is not None else self.messages[-1].mark if self.messages else "waits"


def call_at(
    kept: Kept, address: str, lane: str, turn: int | None = None, progress: Progress | None = None
) -> CallTrace:  # fmt: skip
    """Return the call with this address as it is at the end of the records, or just after turn `turn` retired.

    Raises `UnknownLane` or `UnknownTask` for what does not exist.
    """
    walk, tracer = Walk(kept), Tracer(address=address, lane=lane, depth_max=1)
    tracer.begin(walk.world)
    first, past = call_of(address), _past(walk, lane, address)
    position: int | None = None
    cut: CallEnd | None = None
    for step in walk.steps(progress=progress):
        tracer.after(step)
        cut = _cut(step, lane, first) or cut
        places = [place for place, task in enumerate(step.retired(lane), step.position + 1) if task.turn == turn]
        if places:
            position = places[0]
            break
    tracer.end(walk.world)
    at = lane_of(walk.world, lane)
    if turn is not None and position is None:
        check_turn(kept, at, turn)
        raise UnknownTask(f"turn {turn} of lane {lane!r} has not retired, or not in the records that are kept")
    if not tracer.traces and not past.steps:
        check_agent(kept, at, address, met=tracer.met_address)
    return _told(lane, address, past, tracer.traces, position, cut)


class _Before(NamedTuple):
    """What a call had before the first kept record."""

    steps: tuple[CallStep, ...]
    fuel: int


def _past(walk: Walk, lane: str, address: str) -> _Before:
    at = walk.world.lanes.get(lane)
    agent = None if at is None else at.agents.get(address)
    return _Before((), 0) if agent is None or agent.call is None else _Before(tuple(agent.call.steps), agent.call.fuel)


def _cut(step: Step, lane: str, first: int | None) -> CallEnd | None:
    """Return the end of a call that began in turn `first` if this record is the input that ended it."""
    record = step.lane_input
    if not isinstance(record, records.Cancelled | records.Verdict) or not record.ends:
        return None
    if (record.lane, record.seq) != (lane, first):
        return None
    kind = record.failure if isinstance(record, records.Verdict) else CANCELLED.kind
    return CallEnd(step.number, step.position, record.now_ms, None, None, kind)


def _told(
    lane: str,
    address: str,
    past: _Before,
    traces: Mapping[tuple[str, int], Trace],
    position: int | None,
    cut: CallEnd | None,
) -> CallTrace:  # fmt: skip
    turn = call_of(address)
    assert turn is not None, address
    messages = [one for one in traces.values() if not one.depth]
    known = sorted([one for one in messages if position is None or (one.stamped_at or 0) <= position], key=_order)
    bounds = [bound for bound in (position, None if cut is None else cut.position) if bound is not None]
    end: CallEnd | None = None
    given: list[Trace] = []
    for trace in known:
        late = trace.turn != turn and any((trace.retired_at or bound + 1) > bound for bound in bounds)
        if trace.outcome is None or late or end is not None:
            break
        given.append(trace)
        if not is_postponed(trace.outcome):
            kind = outcome_word(trace.outcome, address)
            end = CallEnd(trace.completed, trace.retired_at, trace.retired_ms, trace.turn, trace.outcome, kind)
    fuel = past.fuel + sum([trace.outcome.fuel for trace in given if trace.outcome is not None])
    return CallTrace(
        lane=lane,
        address=address,
        turn=turn,
        code=next((trace.code for trace in known), None),
        before=past.steps,
        messages=tuple(given),
        coming=tuple(known[len(given) :]),
        waits=_waits(known, len(given), traces),
        fuel=fuel,
        end=end or cut,
    )


def _order(trace: Trace) -> tuple[int, int]:
    """Return where a message stands among those of its call: by its retire, to come or not, else by its turn."""
    if trace.retired_at is not None:
        return trace.retired_at, trace.turn
    planned = None if trace.issued_at is None or trace.place is None else trace.issued_at + trace.place
    return (NEVER if planned is None else planned), trace.turn


def _waits(
    known: list[Trace], given: int, traces: Mapping[tuple[str, int], Trace]
) -> tuple[CallWait, ...]:  # fmt: skip
    """Return the waits of the steps of the first `given` messages; an answer may be behind these."""
    seen = [
        Seen(one.turn, one.kind, one.parent, one.reply_to, one.outcome if place < given else None)
        for place, one in enumerate(known)
    ]
    return tuple(
        [
            CallWait(
                known[wait.step],
                wait.emit_index,
                wait.emit,
                _asked(known[wait.step], wait, traces),
                None if wait.answered_by is None else known[wait.answered_by],
            )
            for wait in waits_of(seen)
        ]
    )


def _asked(step: Trace, wait: Wait, traces: Mapping[tuple[str, int], Trace]) -> Trace | None:
    if wait.emit.kind == TIMER:
        return None
    stamped = [child.turn for child in step.children if child.emit == wait.emit_index]
    return traces.get((step.lane, stamped[0])) if stamped else None


def _between(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else max(last - first, 0)
