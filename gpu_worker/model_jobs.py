"""The jobs of a `ModelExecutor`: which tasks have an outcome, where a fold was cut, when a job has ended. PURE.

The calls of a fold may run in any order, since models have no state, but a fold reports the outcomes of its first tasks
only. So a task without an outcome cuts its fold: what comes behind it is not reported and need not run.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rota.common.columns import new_tuple
from rota.common.errors import BadPayload
from rota.common.limits import MESSAGE_CHARS_MAX, OUTPUT_BYTES_MAX
from rota.common.work import Done, Failed, Fold, FoldResult, Outcome, Provenance, Stopped, TaskInput
from rota.gpu_worker.call_forms import InlineCall
from rota.gpu_worker.call_plan import CallPlan
from rota.gpu_worker.text_model import EncodedTexts
from rota.worker.stopping import Stopping

_REFERENCED: Final = "referenced"


class FoldRun:
    """A fold with its outcomes so far."""

    __slots__ = ("end", "fold", "job", "left", "outcomes", "provenance", "reason", "result_bytes", "stopped")

    def __init__(self, job: JobRun, fold: Fold) -> None:
        self.job = job
        self.fold = fold
        self.outcomes: list[Outcome | None] = [None] * len(fold.tasks)
        self.left = len(fold.tasks)  # how many before `end` have no outcome
        self.end = len(fold.tasks)  # where it was cut
        self.stopped: Stopped | None = None
        self.reason = ""
        self.provenance: Provenance | None = None
        self.result_bytes = 0

    def finish(self, index: int, outcome: Outcome) -> None:
        """Note the outcome of a task."""
        if index >= self.end or self.outcomes[index] is not None:
            return
        self.outcomes[index] = outcome
        self.left -= 1
        self.job.began = True
        self.result_bytes += len(outcome.result or b"") if type(outcome) is Done else 0
        if self.result_bytes > OUTPUT_BYTES_MAX and self.left:
            # The outcomes of a fold go into one message: the rest runs again later. The first task always stays.
            self.cut(max(1, self.outcomes.index(None)), "interrupted", "")
        elif not self.left:
            self.job.left -= 1

    def refuse(self, index: int, why: BadPayload) -> None:
        """Note that a task's payload does not fit. The message names the model as the task does."""
        self.finish(index, failed("bad_input", f"{self.fold.address}: {why.message}"))

    def cut(self, index: int, stopped: Stopped, reason: str) -> None:
        """End the fold before a task that has no outcome here, and say why."""
        if index >= self.end:
            return
        was_open = self.left > 0
        self.end = index
        self.stopped, self.reason = stopped, reason
        self.left = self.outcomes[:index].count(None)
        if was_open and not self.left:
            self.job.left -= 1

    def give_up(self, stopped: Stopped, reason: str = "") -> None:
        """End the fold before its first task without an outcome."""
        if self.left:
            self.cut(self.outcomes.index(None), stopped, reason)

    def result(self) -> FoldResult:
        """Return the outcomes up to where the fold ended."""
        assert not self.left
        outcomes = tuple([outcome for outcome in self.outcomes[: self.end] if outcome is not None])
        return FoldResult(outcomes, None, self.stopped, self.reason, self.provenance)


class JobRun:
    """A job of folds."""

    __slots__ = ("began", "dropped", "elapsed_us", "folds", "left", "number", "stopping")

    def __init__(self, number: int, folds: Sequence[Fold]) -> None:
        self.number = number
        self.folds = [FoldRun(self, fold) for fold in folds]
        self.left = len(folds)  # how many have not ended
        self.elapsed_us = 0.0
        self.began = False
        self.dropped = False
        self.stopping = Stopping()

    def results(self) -> tuple[FoldResult, ...] | None:
        """Return the results of all folds; None if it was dropped before one began."""
        if self.dropped and not self.began:
            return None
        return tuple([fold.result() for fold in self.folds])


class EncodedTask:
    """A task with texts to encode, and the outputs of those that are done."""

    __slots__ = ("left", "outputs", "texts")

    def __init__(self, texts: EncodedTexts, count: int) -> None:
        self.texts = texts
        self.outputs: list[Mapping[str, Any] | None] = [None] * count
        self.left = count


class QueuedCall(NamedTuple):
    """A task that waits or runs: its place, and the call in the form that its model runs."""

    fold: FoldRun
    place: int  # in its fold
    lane: bytes
    shape: Hashable
    rows: int
    rows_max: int
    plan: Any
    call: Any
    part: tuple[EncodedTask, int] | None = None  # which text of its task, if that has texts to encode

    @classmethod
    def of(
        cls, fold: FoldRun, place: int, plan: CallPlan, call: Any, part: tuple[EncodedTask, int] | None = None
    ) -> QueuedCall:
        """Return a call of tensors that waits."""
        lane = fold.fold.lane_seed
        if type(call) is InlineCall:
            fields = (fold, place, lane, plan.shape, plan.rows, plan.rows_max, plan, call, part)
            made: QueuedCall = new_tuple(cls, fields)
            return made
        # Large tensors do not share a batch: the copy would cost more than the batch saves.
        return cls(fold, place, lane, (_REFERENCED, plan.shape), plan.rows, 0, plan, call, part)

    @property
    def task(self) -> TaskInput:
        return self.fold.fold.tasks[self.place]

    @property
    def timeout_ms(self) -> int:
        return self.fold.fold.code.limits.timeout_ms

    @property
    def is_wanted(self) -> bool:
        """Whether its outcome is missing and would be reported."""
        fold = self.fold
        return self.place < fold.end and fold.outcomes[self.place] is None and not fold.job.dropped


def failed(kind: str, message: str) -> Failed:
    """Return the outcome of a task that failed, with its message cut to what can travel."""
    return Failed(kind, message[:MESSAGE_CHARS_MAX], (), 0)
