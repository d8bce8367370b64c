"""Where two values differ: the first byte of byte strings, the fields of turns that the lane digest covers. PURE.

A turn's digest covers a `TurnContent`. If the digests before two turns are equal and those after them are not, some of
its fields differ: `turn_parts` lists them.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from rota.broker.asks import is_postponed
from rota.broker.tasks import Task
from rota.broker.turn_content import TurnContent, turn_content
from rota.common.work import Done, Emit, Failed, Outcome

CONTEXT_BYTES: Final = 24


class ByteDifference(NamedTuple):
    """The first byte at which two byte strings differ, and the bytes around it in each, from `window_at` on."""

    at: int
    sizes: tuple[int, int]
    window_at: int
    windows: tuple[bytes, bytes]


class Part(NamedTuple):
    """One field in which two turns differ. `first` is set if both values are bytes."""

    name: str
    values: tuple[Any, Any]
    first: ByteDifference | None


def first_byte(one: bytes, other: bytes, context: int = CONTEXT_BYTES) -> ByteDifference | None:
    """Return where two byte strings first differ; None if they are equal. A missing byte differs from any byte."""
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


def content_of(task: Task) -> TurnContent:
    """Return what the turn digest of a retired task covers."""
    assert task.outcome is not None
    return turn_content(task, task.outcome)


def state_bytes(task: Task) -> int:
    """Return the size that a task's outcome says of its new state; 0 if it has none. No digest covers it."""
    return task.outcome.state_bytes if type(task.outcome) is Done else 0


def turn_parts(one: Task, other: Task) -> list[Part]:
    """Return the fields covered by the digest in which two retired tasks differ, in the digest's order."""
    found: list[Part | None] = []
    for name, *values in zip(TurnContent._fields, content_of(one), content_of(other), strict=True):
        found += _outcome_parts(one, other) if name == "effect" else [part(name.replace("_", " "), *values)]
    return [each for each in found if each is not None]


def _outcome_parts(one: Task, other: Task) -> list[Part | None]:
    first, second = one.outcome, other.outcome
    if type(first) is Done and type(second) is Done and is_postponed(first) == is_postponed(second):
        return [
            part("result", first.result, second.result),
            part("result tensors", first.tensors, second.tensors),
            *_emit_parts(first.emits, second.emits),
        ]
    if type(first) is Failed and type(second) is Failed:
        return [part("failure", first.kind, second.kind), part("message", first.message, second.message)]
    return [part("outcome", _told(first), _told(second))]


def _emit_parts(one: tuple[Emit, ...], other: tuple[Emit, ...]) -> list[Part | None]:
    """Compare emits up to the first that differs; those behind it add nothing."""
    found = [part("emits", len(one), len(other))]
    for index, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            pairs = zip(Emit._fields, first, second, strict=True)
            return found + [part(f"emit {index} {name.replace('_', ' ')}", a, b) for name, a, b in pairs]
    return found


def _told(outcome: Outcome | None) -> str:
    if isinstance(outcome, Failed):
        return f"failed {outcome.kind}: {outcome.message}"
    return "postponed" if is_postponed(outcome) else "ok"
