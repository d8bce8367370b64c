"""What a call of a flow has seen so far, as a worker keeps it while it runs a fold of it. PURE.

A guest of a call is a function of the code and of this history. `mark` names both: two guests with equal marks are the
same, so a guest that was kept can stand for one that is made again.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from rota.common.budget import content_bytes
from rota.common.calls import bytes_overflow_text, steps_overflow_text
from rota.common.digests import digest_of, pack
from rota.common.work import CallStep, Fold, Limits, TaskInput, TensorRef

_MARK_BYTES: Final = 32


def first_mark(fold: Fold) -> bytes:
    """Return the mark of a call that has seen nothing: of its lane's seed, its code and its address."""
    return digest_of([fold.lane_seed, fold.code, fold.address])


class CallHistory:
    """The messages of a call, in order, with what they come to."""

    __slots__ = ("content", "fuel", "mark", "steps", "tensors")

    def __init__(self, fold: Fold) -> None:
        """Begin with the past of a fold."""
        self.steps: list[CallStep] = []
        self.fuel = 0  # used by all steps
        self.content = 0  # bytes, as the budget counts them
        self.tensors: list[TensorRef] = []  # of all messages
        self.mark = first_mark(fold)
        assert fold.past is not None
        for step in fold.past.steps:
            self._append(step)
        self.fuel = fold.past.fuel

    def add(self, task: TaskInput, path: str, fuel: int) -> None:
        """Add a message after its step."""
        self._append(CallStep(task, path))
        self.fuel += fuel

    def why_no_more(self, task: TaskInput, limits: Limits) -> str:
        """Return why a call may not take this message; empty if it may."""
        if len(self.steps) >= limits.steps_max:
            return steps_overflow_text(limits.steps_max)
        if self.content + _content_of(task) > limits.call_bytes:
            return bytes_overflow_text(limits.call_bytes)
        return ""

    def _append(self, step: CallStep) -> None:
        self.steps.append(step)
        self.content += _content_of(step.task)
        if step.task.tensors:
            self.tensors.extend(step.task.tensors)
        self.mark = blake3(self.mark + pack(step)).digest()


def _content_of(task: TaskInput) -> int:
    return content_bytes(task.kind, len(task.payload), task.tensors)
