"""Where two values differ: the first byte of byte strings, the elements of turns that the lane digest covers. PURE.

A turn's digest is taken over an array (docs/JOURNAL.md, "The lane digest"). Two turns with the same digest before them
and other digests after them differ in an element of it: `turn_parts` names every one that does, in the digest's order.
When `Lane._turn_digest` changes, this file does.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from rota.broker.tasks import Task
from rota.common.work import Done, Emit, Failed

CONTEXT_BYTES: Final = 24


class ByteDifference(NamedTuple):
    """The first byte at which two byte strings differ, and what is around it in each, from `window_at` on."""

    at: int
    sizes: tuple[int, int]
    window_at: int
    windows: tuple[bytes, bytes]


class Part(NamedTuple):
    """One thing that two turns differ in. `first` is there if both values are bytes."""

    name: str
    values: tuple[Any, Any]
    first: ByteDifference | None


def first_byte(one: bytes, other: bytes, context: int = CONTEXT_BYTES) -> ByteDifference | None:
    """Return where two byte strings differ first; None if they are equal. A missing byte differs from any."""
    if one == other:
        return None
    low, high = 0, min(len(one), len(other))  # the first `low` bytes are equal
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    start = max(low - context, 0)
    windows = (one[start : low + context], other[start : low + context])
    return ByteDifference(low, (len(one), len(other)), start, windows)


def part(name: str, one: Any, other: Any) -> Part | None:
    """Return a part if the two values differ."""
    if one == other and type(one) is type(other):
        return None
    both = isinstance(one, bytes) and isinstance(other, bytes)
    return Part(name, (one, other), first_byte(one, other) if both else None)


def content(task: Task) -> tuple[Any, ...]:
    """Return what the digest of a turn covers, without the digest before it."""
    outcome, run = task.outcome, task.run
    if type(outcome) is Done:
        effect: tuple[Any, ...] = (0, outcome.result, outcome.tensors, outcome.emits)
    else:
        assert type(outcome) is Failed
        effect = (1, outcome.kind, outcome.message)
    code = None if task.code is None else task.code.digest
    asked = (*_stamped(task)[1:], code)
    return (task.turn, *asked, effect, task.state_digest, run.reply_to)


def turn_parts(one: Task, other: Task) -> list[Part]:
    """Return everything in which two retired tasks differ, as far as the digest covers it."""
    names = ("turn", "target", "kind", "sender", "priority", "payload", "tensors")
    found = [part(name, *values) for name, *values in zip(names, _stamped(one), _stamped(other), strict=True)]
    found.append(part("reply to", one.run.reply_to, other.run.reply_to))
    found.append(part("code digest", _code(one), _code(other)))
    found += _outcome_parts(one, other)
    found.append(part("state digest", one.state_digest, other.state_digest))
    return [each for each in found if each is not None]


def _stamped(task: Task) -> tuple[Any, ...]:
    run = task.run
    return (task.turn, task.address, run.kind, run.sender, run.priority, task.payload, run.tensors_of(task.index))


def _code(task: Task) -> bytes | None:
    return None if task.code is None else task.code.digest


def _outcome_parts(one: Task, other: Task) -> list[Part | None]:
    first, second = one.outcome, other.outcome
    if type(first) is Done and type(second) is Done:
        return [
            part("result", first.result, second.result),
            part("result tensors", first.tensors, second.tensors),
            *_emit_parts(first.emits, second.emits),
        ]
    if type(first) is Failed and type(second) is Failed:
        return [part("failure", first.kind, second.kind), part("message", first.message, second.message)]
    return [part("outcome", _told(first), _told(second))]


def _emit_parts(one: tuple[Emit, ...], other: tuple[Emit, ...]) -> list[Part | None]:
    """Compare emits up to the first that differs: those behind it say nothing new."""
    found = [part("emits", len(one), len(other))]
    for index, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            pairs = zip(Emit._fields, first, second, strict=True)
            return found + [part(f"emit {index} {name.replace('_', ' ')}", a, b) for name, a, b in pairs]
    return found


def _told(outcome: object) -> str:
    return f"failed {outcome.kind}: {outcome.message}" if isinstance(outcome, Failed) else "ok"
