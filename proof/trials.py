"""Executing one turn again, and variations of it: what would have come of it if one thing had been otherwise.

Each trial begins with instances of its own: an engine keeps the instances of code that was deployed with `reuse` by
their code, limits included, so every trial gets a limit of its own that decides nothing here, the wall clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

from rota.broker.tasks import Task
from rota.common.code_kinds import kind_of
from rota.common.digests import digest, lane_seed
from rota.common.errors import JournalError
from rota.common.limits import FUEL_MAX
from rota.common.work import Done, Fold, FoldResult, Outcome, TaskInput
from rota.engine.engine import Runner
from rota.engine.folds import PATIENCE_MS, fold_of, patient, task_input
from rota.proof.seek import lane_at
from rota.runs.open import RunSource

_timeouts: Final = count(PATIENCE_MS + 1)
_MORE_FUEL: Final = 1_000_000  # for what a new instance does once: setting up an allocator, filling a table

Effect = tuple[object, ...]


class Anew:
    """A runner whose instances nobody used before. `reuse`: whether code keeps them, None: as it was deployed."""

    def __init__(self, runner: Runner, reuse: bool | None = None) -> None:
        self._runner = runner
        self._reuse = reuse
        self._timeout_ms = next(_timeouts)

    def run_all(self, folds: Sequence[Fold]) -> list[FoldResult]:
        return self._runner.run_all([self._changed(fold) for fold in folds])

    def run(self, fold: Fold) -> FoldResult:
        """Run one fold."""
        return self.run_all([fold])[0]

    def fingerprint(self, pool: str) -> Mapping[str, Any]:
        return self._runner.fingerprint(pool)

    def _changed(self, fold: Fold) -> Fold:
        code = patient(fold.code, self._timeout_ms)
        return fold._replace(code=code if self._reuse is None else code._replace(reuse=self._reuse))


class Trials:
    """One turn, ready to be executed from the state that it found."""

    def __init__(self, runner: Runner, fold: Fold, lane: str) -> None:
        self.fold = fold
        self._runner = runner
        self._lane = lane
        self.first = Anew(runner, reuse=False).run(fold)

    def is_steady(self, actual: Outcome | None) -> bool:
        """Tell whether the turn gives the same each time: in a new instance, in another one, in one that was used,
        and (`actual`) when the whole lane was executed.
        """
        kept = Anew(self._runner) if self.fold.code.reuse else Anew(self._runner, reuse=False)
        tried = [self.first, Anew(self._runner, reuse=False).run(self.fold), kept.run(self.fold), kept.run(self.fold)]
        effects = [effects_of(one) for one in tried]
        if actual is not None and effects[0]:
            effects.append([effect_of(actual)])
        return all(effect == effects[0] for effect in effects)

    def takes_the_same_fuel(self) -> bool:
        """Tell whether a used instance does with the same fuel what a new one does, given more than the turn had."""
        code, runner = self.fold.code, Anew(self._runner)
        fuel = min(FUEL_MAX, 2 * code.limits.fuel + _MORE_FUEL)
        fold = self.fold._replace(code=code._replace(limits=code.limits._replace(fuel=fuel)))
        new, used = runner.run(fold), runner.run(fold)
        return new.outcomes == used.outcomes

    def of_row(self, tasks: Sequence[Task], payloads: Sequence[Task]) -> list[Effect]:
        """Execute a row of the agent's tasks from this turn on, with the messages of `payloads` in their places."""
        row = tuple([_as(task_input(place), task_input(other)) for place, other in zip(tasks, payloads, strict=True)])
        return effects_of(Anew(self._runner, reuse=False).run(self.fold._replace(tasks=row)))

    def digest_after(self, outcome: Outcome) -> bytes | None:
        """Return the digest of the agent's state after an outcome, as its turn's digest has it."""
        if type(outcome) is not Done:
            return None
        before = None if self.fold.state is None else digest(self.fold.state)
        return before if outcome.state_digest is None else outcome.state_digest

    def with_default_seed(self) -> list[Effect] | None:
        """Execute with the seed that the lane has by its name; None if that is the seed it has."""
        seed = lane_seed(self._lane)
        if seed == self.fold.lane_seed:
            return None
        return effects_of(Anew(self._runner, reuse=False).run(self.fold._replace(lane_seed=seed)))


def trials_at(
    source: RunSource, lane: str, turn: int, runner: Runner, *, live_models: bool = False, caught: bool = False
) -> Trials | None:
    """Return a turn as it stood just before it retired; None if it cannot be executed: nothing was issued for it, it is
    a model that is read back, or the lane does not come there again. `caught`: execute even what a decision caught.
    """
    for reuse in (None, False):
        try:
            replay = lane_at(source, lane, turn, Anew(runner, reuse), before=True)
        except JournalError:  # a task before it, in the same fold, does not give again what it gave
            continue
        task = replay.lane.line_by_turn.get(turn)
        if task is None or task.code is None or (task.outcome is not None and not caught):
            return None
        if kind_of(task.code).is_recorded and not live_models:
            return None
        return Trials(runner, fold_of(replay.lane, (task,)).fold, lane)
    return None


def effects_of(result: FoldResult) -> list[Effect]:
    """Return what the outcomes of a fold change, as far as the lane digest covers it."""
    return [effect_of(outcome) for outcome in result.outcomes]


def effect_of(outcome: Outcome | None) -> Effect:
    """Return what an outcome changes, as far as the lane digest covers it."""
    if type(outcome) is Done:
        return (outcome.result, outcome.tensors, outcome.emits, outcome.state_digest)
    return () if outcome is None else tuple(outcome[:2])


def _as(place: TaskInput, message: TaskInput) -> TaskInput:
    """Return a message as it would have come at another turn."""
    return message._replace(turn=place.turn, emits_max=place.emits_max, growth_bytes=place.growth_bytes)
