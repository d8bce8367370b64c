"""What a call of a flow has seen so far, as a worker keeps it while it runs a fold of it. PURE.

A guest of a call is a function of the code and of this history. `mark` names both: two guests with equal marks are the
same, so a guest that was kept can stand for one that is made again, and then nothing else of the past is looked at.
"""

from __future__ import annotations

from typing import NamedTuple

from blake3 import blake3

from rota.common.budget import content_bytes
from rota.common.calls import bytes_overflow_text, steps_overflow_text
from rota.common.digests import digest_of, pack
from rota.common.work import CallStep, CallSteps, Fold, Limits, TaskInput, TensorRef


def call_key(fold: Fold) -> bytes:
    """Return what names a call: a digest of its lane's seed, its code and its address."""
    return digest_of([fold.lane_seed, fold.code, fold.address])


class Sums(NamedTuple):
    """What the messages of a call come to: bytes of content, as the budget counts them, and all their tensors."""

    content: int
    tensors: tuple[TensorRef, ...]


class CallHistory:
    """The messages of a call, in order, and what they come to."""

    __slots__ = ("_added", "_hasher", "_past", "_sums", "fuel")

    def __init__(self, key: bytes, past: CallSteps, fuel: int) -> None:
        """Begin with the past of a fold; `key`: the call's. `fuel`: what all steps used."""
        self._hasher = blake3(key)
        self._hasher.update(past.data)
        self._past = past
        self._added: list[CallStep] = []
        self._sums: Sums | None = None
        self.fuel = fuel

    def __len__(self) -> int:
        return self._past.count + len(self._added)

    @property
    def mark(self) -> bytes:
        """The digest of everything that a guest has seen."""
        return self._hasher.digest()

    @property
    def steps(self) -> tuple[CallStep, ...]:
        """The messages and paths. Raises `ValueError` if those of the fold cannot be read."""
        return (*self._past.rows, *self._added)

    @property
    def sums(self) -> Sums:
        """What the messages come to. Raises as `steps` does, unless `know` was called."""
        if self._sums is None:
            self._sums = _added(Sums(0, ()), [step.task for step in self.steps])
        return self._sums

    def know(self, sums: Sums) -> None:
        """Take what the messages come to from whoever has seen them all."""
        self._sums = sums

    def add(self, task: TaskInput, path: str, fuel: int) -> None:
        """Add a message after its step."""
        self._sums = _added(self.sums, [task])
        step = CallStep(task, path)
        self._added.append(step)
        self._hasher.update(pack(step))
        self.fuel += fuel

    def why_no_more(self, task: TaskInput, limits: Limits) -> str:
        """Return why a call may not take this message; empty if it may."""
        if len(self) >= limits.steps_max:
            return steps_overflow_text(limits.steps_max)
        if self.sums.content + _content_of(task) > limits.call_bytes:
            return bytes_overflow_text(limits.call_bytes)
        return ""


def _added(sums: Sums, tasks: list[TaskInput]) -> Sums:
    content = sum([_content_of(task) for task in tasks])
    tensors = [ref for task in tasks for ref in task.tensors]
    return Sums(sums.content + content, (*sums.tensors, *tensors) if tensors else sums.tensors)


def _content_of(task: TaskInput) -> int:
    return content_bytes(task.kind, len(task.payload), task.tensors)
