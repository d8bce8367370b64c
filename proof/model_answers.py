"""Runners that answer model calls from a journal and have everything else executed. PURE.

A model's result without a certificate is a recorded value: a repetition reads it back instead of computing it. A
replay finds it by its turn; a changed run finds it by the call itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rota.broker.tasks import Task
from rota.broker.verdicts import FAULTED, REFUSED, UNREPEATABLE
from rota.common.code_kinds import kind_of
from rota.common.errors import CodeError
from rota.common.work import BITWISE, Fold, FoldResult, Outcome, Provenance, TaskInput
from rota.engine.engine import Runner
from rota.engine.folds import PATIENCE_MS, patient


class ModelAnswer(NamedTuple):
    """A recorded answer of a model, and its provenance."""

    outcome: Outcome
    provenance: Provenance


class ModelAnswers:
    """Base of both; `find` looks up one call."""

    def __init__(self, runner: Runner) -> None:
        self.executed = 0  # outcomes of agents and functions
        self.models_executed = 0
        self.read_back = 0
        self._runner = runner

    def find(self, fold: Fold, seen: TaskInput) -> ModelAnswer | None:
        """Return the recorded answer; None if the call is to be computed."""
        raise NotImplementedError

    def run_all(self, folds: Sequence[Fold]) -> list[FoldResult]:
        """Read back or execute each fold (see `Runner`)."""
        found = [self._read(fold) if kind_of(fold.code).has_provenance else None for fold in folds]
        asked = [
            fold._replace(code=patient(fold.code, PATIENCE_MS))
            for fold, known in zip(folds, found, strict=True)
            if known is None
        ]
        ran = iter(self._runner.run_all(asked) if asked else ())
        return [
            self._ran(fold, next(ran)) if known is None else known for fold, known in zip(folds, found, strict=True)
        ]

    def fingerprint(self, pool: str) -> Mapping[str, Any]:
        return self._runner.fingerprint(pool)

    def _ran(self, fold: Fold, result: FoldResult) -> FoldResult:
        if kind_of(fold.code).has_provenance:
            self.models_executed += len(result.outcomes)
        else:
            self.executed += len(result.outcomes)
        return result

    def _read(self, fold: Fold) -> FoldResult | None:
        """Return the recorded outcomes at the start of a fold, as far as they have one provenance; None without any."""
        known: list[ModelAnswer] = []
        for seen in fold.tasks:
            answer = self.find(fold, seen)
            if answer is None or (known and answer.provenance != known[0].provenance):
                break
            known.append(answer)
        if not known:
            return None
        self.read_back += len(known)
        outcomes = tuple([answer.outcome for answer in known])
        whole = len(known) == len(fold.tasks)
        return FoldResult(outcomes, None, None if whole else "interrupted", provenance=known[0].provenance)


class ReadBack(ModelAnswers):
    """Answers by turn, for a replay. `recorded` holds the completed model tasks."""

    def __init__(self, runner: Runner, recorded: dict[int, Task], *, live_models: bool = False) -> None:
        super().__init__(runner)
        self._recorded = recorded
        self._live_models = live_models

    def find(self, fold: Fold, seen: TaskInput) -> ModelAnswer | None:
        """Return the recorded answer; None for results of class bitwise, and for all with `live_models`."""
        task = self._recorded.get(seen.turn)
        if task is None or task.outcome is None or task.provenance is None or self._live_models:
            return None
        return None if task.provenance.result_class == BITWISE else ModelAnswer(task.outcome, task.provenance)

    def _read(self, fold: Fold) -> FoldResult | None:
        read = super()._read(fold)
        for seen in fold.tasks[: 0 if read is None else len(read.outcomes)]:
            del self._recorded[seen.turn]  # each turn is asked for once
        return read


class Remembered(ModelAnswers):
    """Answers by code, payload and tensors, for a changed run. The same call may have several recorded answers.

    Raises `CodeError` for a task that cannot be executed here: a changed run has no record to fall back on.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._known: dict[tuple[bytes, bytes, Any], dict[int, ModelAnswer]] = {}

    def remember(self, task: Task) -> None:
        """Take the outcome of a model task."""
        if task.code is not None and task.outcome is not None and task.provenance is not None:  # models have one
            call = (task.code.digest, task.payload, task.run.tensors_of(task.index))
            self._known.setdefault(call, {})[task.turn] = ModelAnswer(task.outcome, task.provenance)

    def find(self, fold: Fold, seen: TaskInput) -> ModelAnswer | None:
        """Return the recorded answer; of several the one at this turn, else the first."""
        answers = self._known.get((fold.code.digest, seen.payload, seen.tensors), {})
        return answers.get(seen.turn) or next(iter(answers.values()), None)

    def _ran(self, fold: Fold, result: FoldResult) -> FoldResult:
        if result.stopped in (REFUSED, FAULTED, UNREPEATABLE):
            turn = fold.tasks[len(result.outcomes)].turn
            raise CodeError(f"turn {turn} of {fold.address} cannot be executed here: {result.reason}", turn=turn)
        return super()._ran(fold, result)
