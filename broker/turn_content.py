"""What the digest of a turn covers, as one value, and that of an input that ends an ask: execution model, part 8. PURE.

The lane makes it and chains its digest; comparisons of runs compare it field by field. The fields and their order are
the format of the lane digest (docs/JOURNAL.md): a change is a new format version.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from blake3 import blake3

from rota.broker.tasks import Task
from rota.common.columns import new_tuple
from rota.common.digests import pack
from rota.common.work import Failed, Outcome, ReplyTo, TensorRef, effect_of


class TurnContent(NamedTuple):
    """A retired task: its input, its code, its outcome."""

    turn: int
    target: str
    kind: str
    sender: str | None
    priority: int
    payload: bytes
    tensors: tuple[TensorRef, ...]
    reply_to: ReplyTo | None
    code_digest: bytes | None
    effect: tuple[Any, ...]  # (0, result, tensors, emits) or (1, kind, message)
    state_digest: bytes | None


def turn_content(task: Task, outcome: Outcome) -> TurnContent:
    """Return what the digest of a task's turn covers, with this outcome."""
    content: TurnContent = new_tuple(TurnContent, turn_fields(task, outcome))
    return content


def turn_fields(task: Task, outcome: Outcome) -> tuple[Any, ...]:
    """Return the same without names, as the lane needs it for each task."""
    run = task.run
    return (
        task.turn,
        task.address,
        run.kind,
        run.sender,
        run.priority,
        run.payloads[task.index],
        run.tensors_of(task.index) if run.tensors else (),
        run.reply_to,
        None if task.code is None else task.code.digest,
        effect_of(outcome),
        task.state_digest,
    )


def end_digest(before: bytes, turn: int, failure: Failed) -> bytes:
    """Return the digest of a lane after an input that ended the wait for the answer of a turn."""
    return blake3(pack((before, turn, failure.kind, failure.message))).digest()


def turn_digest(before: bytes, content: TurnContent | tuple[Any, ...]) -> bytes:
    """Return the digest of a lane after a turn: over the digest before it and the turn's content."""
    return blake3(pack((before, *content))).digest()
