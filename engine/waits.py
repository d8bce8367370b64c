"""What a call of a flow waits for, read from its messages. PURE.

A call gets message after message. Each step may ask others and set timers; each ask is answered by a later message, a
reply or failure that names it, and each timer by its own. So which waits were open when, and what ended them, follows
from the messages and their outcomes alone. Both readers of calls use it: the journal (runs/) and lanes in one process
(local/).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rota.broker.asks import is_postponed
from rota.common.calls import is_instance
from rota.common.work import ASK, TIMER, Done, Emit, Failed, Outcome, ReplyTo


class Seen(NamedTuple):
    """A message to a call, and what its step came to. `outcome` is None if it has none yet."""

    turn: int
    kind: str
    parent: tuple[int, int] | None  # the turn that emitted it, and its index there
    reply_to: ReplyTo | None
    outcome: Outcome | None


class Wait(NamedTuple):
    """An ask or timer of a call. `step` and `answered_by` are places among its messages; None: not answered."""

    step: int
    emit_index: int
    emit: Emit
    answered_by: int | None


def waits_of(messages: Sequence[Seen]) -> list[Wait]:
    """Return the asks and timers of a call, in the order in which it made them, from all of its messages in order."""
    answers: dict[tuple[int, int], int] = {}
    for place, message in enumerate(messages):
        names = _answers(message)
        if names is not None:
            answers.setdefault(names, place)
    return [
        Wait(place, index, emit, answers.get((message.turn, index)))
        for place, message in enumerate(messages)
        if type(message.outcome) is Done
        for index, emit in enumerate(message.outcome.emits)
        if emit.kind in (ASK, TIMER)
    ]


def outcome_word(outcome: Outcome, address: str) -> str:
    """Return the outcome of a task of this target in a word: ok, the kind of its failure, or that an answer is still to
    come: `waits` of a call, `postponed` of another task.
    """
    if type(outcome) is Failed:
        return outcome.kind
    if not is_postponed(outcome):
        return "ok"
    return "waits" if is_instance(address) else "postponed"


def _answers(message: Seen) -> tuple[int, int] | None:
    """Return the turn and place of the emit that a message answers; None for the message that made the call."""
    if message.reply_to is not None:
        return message.reply_to.asked_in, message.reply_to.emit
    return message.parent if message.kind == TIMER else None
