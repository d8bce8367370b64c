"""Runners that answer model calls from a journal and have everything else executed. PURE.

A recorded result of a model is read back, since a repetition may compute another one. A bitwise one is computed again
where this host has the fingerprint under which it was certified; elsewhere it is read back too, and counted by itself.
A replay finds results by their turn; a changed run finds them by the call itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rota.broker.tasks import Task
from rota.broker.verdicts import FAULTED, REFUSED, UNREPEATABLE
from rota.common.code_kinds import kind_of
from rota.common.errors import CodeError, ConfigError
from rota.common.work import BITWISE, NO_OUTCOMES, Fold, FoldResult, Outcome, Provenance, TaskInput
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
        left = [fold for fold, known in zip(folds, found, strict=True) if known is None]
        ran = iter(self._execute([self._to_run(fold) for fold in left]))
        return [
            self._ran(fold, next(ran)) if known is None else known for fold, known in zip(folds, found, strict=True)
        ]

    def fingerprint(self, pool: str) -> Mapping[str, Any]:
        return self._runner.fingerprint(pool)

    def _to_run(self, fold: Fold) -> Fold:
        """Return what to execute of a fold that is not read back."""
        return fold._replace(code=patient(fold.code, PATIENCE_MS))

    def _execute(self, folds: list[Fold]) -> Sequence[FoldResult]:
        return self._runner.run_all(folds) if folds else ()

    def _ran(self, fold: Fold, result: FoldResult) -> FoldResult:
        if kind_of(fold.code).has_provenance:
            self.models_executed += len(result.outcomes)
        else:
            self.executed += len(result.outcomes)
        return result

    def _read(self, fold: Fold) -> FoldResult | None:
        """Return the recorded outcomes at the start of a fold, as far as they have one provenance; None without any."""
        known = self._answers(fold)
        if not known:
            return None
        self.read_back += len(known)
        return _result_of(fold, known)

    def _answers(self, fold: Fold) -> list[ModelAnswer]:
        """Return the recorded answers at the start of a fold, as far as they have one provenance."""
        known: list[ModelAnswer] = []
        for seen in fold.tasks:
            answer = self.find(fold, seen)
            if answer is None or (known and answer.provenance != known[0].provenance):
                break
            known.append(answer)
        return known


class Elsewhere(NamedTuple):
    """Bitwise results of a model that are not computed again here, and why."""

    address: str
    provenance: Provenance
    reason: str
    results: int


class ReadBack(ModelAnswers):
    """Answers by turn, for a replay. `recorded` holds the completed model tasks; those that it lacks are executed."""

    def __init__(self, runner: Runner, recorded: dict[int, Task]) -> None:
        super().__init__(runner)
        self.read_back_elsewhere = 0  # bitwise ones of other fingerprints
        self._recorded = recorded
        self._here: dict[bytes, tuple[bytes | None, str]] = {}  # by code: the fingerprint, or why there is none
        self._elsewhere: dict[tuple[str, Provenance, str], int] = {}

    @property
    def elsewhere(self) -> tuple[Elsewhere, ...]:
        """The bitwise results that were read back."""
        return tuple([Elsewhere(*key, count) for key, count in self._elsewhere.items()])

    def find(self, fold: Fold, seen: TaskInput) -> ModelAnswer | None:
        """Return the recorded answer."""
        task = self._recorded.get(seen.turn)
        if task is None or task.outcome is None or task.provenance is None:
            return None
        return ModelAnswer(task.outcome, task.provenance)

    def _read(self, fold: Fold) -> FoldResult | None:
        known = self._answers(fold)
        if not known:
            return None
        source = known[0].provenance
        if source.result_class == BITWISE:
            here, why = self._here.get(fold.code.digest, (source.fingerprint, ""))
            if here == source.fingerprint:
                return None
            why = why or f"here it has fingerprint {(here or b'').hex()[:12]}"
            key = (fold.address, source, why)
            self._elsewhere[key] = self._elsewhere.get(key, 0) + len(known)
            self.read_back_elsewhere += len(known)
        else:
            self.read_back += len(known)
        self._forget(fold, len(known))
        return _result_of(fold, known)

    def _to_run(self, fold: Fold) -> Fold:
        known = len(self._answers(fold)) if kind_of(fold.code).has_provenance else 0
        return super()._to_run(fold._replace(tasks=fold.tasks[:known]) if known else fold)

    def _execute(self, folds: list[Fold]) -> Sequence[FoldResult]:
        try:
            return super()._execute(folds)
        except ConfigError as error:  # of an engine that is not installed; models can be read back without theirs
            missing = FoldResult(NO_OUTCOMES, None, "refused", error.message)
            own = [fold for fold in folds if not self._is_known(fold)]
            if len(own) == len(folds):
                raise
            ran = iter(super()._execute(own))
            return [missing if self._is_known(fold) else next(ran) for fold in folds]

    def _ran(self, fold: Fold, result: FoldResult) -> FoldResult:
        known = self._answers(fold) if self._is_known(fold) else []
        if not known:
            return super()._ran(fold, result)
        source, digest = known[0].provenance, fold.code.digest
        if result.provenance is None:
            if digest not in self._here and result.stopped in (REFUSED, UNREPEATABLE):
                self._here[digest] = (None, f"it cannot be run here: {result.reason}")
        elif result.provenance.result_class == BITWISE:
            self._here[digest] = (result.provenance.fingerprint, "")
        else:
            self._here[digest] = (None, "here its results are not repeatable")
        if self._here.get(digest, (source.fingerprint, ""))[0] != source.fingerprint:
            read = self._read(fold)
            assert read is not None
            return read
        self._forget(fold, len(result.outcomes))
        if result.stopped is None and len(known) < len(fold.tasks):
            result = result._replace(stopped="interrupted")
        return super()._ran(fold, result)

    def _is_known(self, fold: Fold) -> bool:
        return bool(fold.tasks) and fold.tasks[0].turn in self._recorded

    def _forget(self, fold: Fold, count: int) -> None:
        """Forget recorded results that have been used: each turn is asked for once."""
        for seen in fold.tasks[:count]:
            del self._recorded[seen.turn]


def _result_of(fold: Fold, known: Sequence[ModelAnswer]) -> FoldResult:
    outcomes = tuple([answer.outcome for answer in known])
    whole = len(known) == len(fold.tasks)
    return FoldResult(outcomes, None, None if whole else "interrupted", provenance=known[0].provenance)


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
