"""Asks that are answered later: who owes the answer, who handed it on, who gave it, in which turn. PURE.

A task that is postponed leaves its ask open, under the turn of the task that was asked first. What happens to it then
is in the effects of the records (`Notes`): a task retires as postponed, an ask is handed on, an answer is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from rota.broker.asks import is_postponed
from rota.common.calls import call_of
from rota.common.work import ASK, Done, Outcome
from rota.runs.walk import Step, time_of

POSTPONED: Final = "postponed"
HANDED_ON: Final = "handed_on"
ANSWERED: Final = "answered"
ENDED: Final = "ended"  # by an input: a cancel, or its deadline


class AskEvent(NamedTuple):
    """What happened to an open ask: one of the words above. `turn`, `seq`, `address`: the task that did it; None: an
    input. `owner`: who owes the answer from then on, None once it is there. `outcome`: the answer.
    """

    what: str
    record: int
    position: int
    now_ms: int | None
    turn: int | None
    seq: int | None
    address: str | None
    owner: str | None
    outcome: Outcome | None

    @property
    def is_last(self) -> bool:
        """Whether the ask has its answer."""
        return self.what in (ANSWERED, ENDED)


def later_of(step: Step) -> Iterator[tuple[int, AskEvent]]:
    """Yield what a record did to open asks of its lane, each with the turn that names the ask.

    Who gave an answer is left open: `answered_by` finds it, with what happened to the ask before.
    """
    number, now_ms = step.number, time_of(step.record)
    at = {task.turn: (position, task) for position, task in enumerate(step.notes.retired, step.position + 1)}
    for turn, (position, task) in at.items():
        if is_postponed(task.outcome) and call_of(task.address) in (None, turn):
            by = (turn, task.seq, task.address)
            yield task.run.answers or turn, AskEvent(POSTPONED, number, position, now_ms, *by, task.address, None)
    for run in step.notes.stamped:
        if run.answers and run.parent is not None:
            position, task = at[run.parent[0]]
            by = (task.turn, task.seq, task.address)
            yield run.answers, AskEvent(HANDED_ON, number, position, now_ms, *by, run.target(0), None)
    for task in step.notes.answered:
        yield task.turn, AskEvent(ENDED, number, step.position, now_ms, None, None, None, None, task.outcome)


def answered_by(end: AskEvent, turn: int, before: AskEvent | None, step: Step) -> AskEvent:
    """Return the end of the ask that `turn` names with the task that gave the answer; as it is if an input did.

    `before`: what happened to the ask before. An agent settles it by the turn that it has postponed; a call, or a task
    that it was handed on to, answers by its own outcome.
    """
    owner = None if before is None or before.what != POSTPONED else before.address
    for position, task in enumerate(step.notes.retired, step.position + 1):
        outcome = task.outcome
        if before is not None and owner is not None and call_of(owner) is None:
            emits = outcome.emits if type(outcome) is Done and task.address == owner else ()
            gave = any(emit.answers == before.turn and emit.kind != ASK for emit in emits)
        else:
            gave = not is_postponed(outcome) and (task.run.answers == turn or task.address == owner)
        if gave:
            by = (task.turn, task.seq, task.address)
            return AskEvent(ANSWERED, end.record, position, end.now_ms, *by, None, end.outcome)
    return end
