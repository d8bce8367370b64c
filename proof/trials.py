"""Executes one turn again, and variations of it with one thing changed.

Each trial needs new instances. An engine keeps the instances of code deployed with `reuse`, keyed by code and limits;
so each trial gets a different wall-clock limit, which decides nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

from rota.broker.tasks import Task, task_input
from rota.common.code_kinds import kind_of
from rota.common.digests import digest, lane_seed
from rota.common.errors import JournalError
from rota.common.limits import FUEL_MAX
from rota.common.work import Done, Fold, FoldResult, Outcome, TaskInput
from rota.engine.engine import Runner
from rota.engine.folds import PATIENCE_MS, fold_of, patient
from rota.proof.seek import lane_at
from rota.runs.open import RunSource

_timeouts: Final = count(PATIENCE_MS + 1)
_MORE_FUEL: Final = 1_000_000  # for one-time work in a new instance: setting up an allocator, filling a table

Effect = tuple[object, ...]


class Anew:
    """A runner with new instances. `reuse`: whether code keeps instances; None: as deployed."""

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
    """One turn, ready to be executed from the state before it."""

    def __init__(self, runner: Runner, fold: Fold, lane: str) -> None:
        self.fold = fold
        self._runner = runner
        self._lane = lane
        self.first = Anew(runner, reuse=False).run(fold)

    def is_steady(self, actual: Outcome | None) -> bool:
        """Return whether the turn has the same effect in two new instances, in a used one, and in `actual`, the outcome
        when the whole lane was executed.
        """
        kept = Anew(self._runner) if self.fold.code.reuse else Anew(self._runner, reuse=False)
        tried = [self.first, Anew(self._runner, reuse=False).run(self.fold), kept.run(self.fold), kept.run(self.fold)]
        effects = [effects_of(one) for one in tried]
        if actual is not None and effects[0]:
            effects.append([effect_of(actual)])
        return all(effect == effects[0] for effect in effects)

    def takes_the_same_fuel(self) -> bool:
        """Return whether a used instance needs as much fuel as a new one, when given more than the turn had."""
        code, runner = self.fold.code, Anew(self._runner)
        fuel = min(FUEL_MAX, 2 * code.limits.fuel + _MORE_FUEL)
        fold = self.fold._replace(code=code._replace(limits=code.limits._replace(fuel=fuel)))
        new, used = runner.run(fold), runner.run(fold)
        return new.outcomes == used.outcomes

    def of_row(self, tasks: Sequence[Task], payloads: Sequence[Task]) -> list[Effect]:
        """Execute the agent's tasks from this turn on, with the messages of `payloads` in place of theirs."""
        row = tuple([_as(task_input(place), task_input(other)) for place, other in zip(tasks, payloads, strict=True)])
        past = self.fold.past and self.fold.past._replace(alive=len(row))
        return effects_of(Anew(self._runner, reuse=False).run(self.fold._replace(tasks=row, past=past)))

    def digest_after(self, outcome: Outcome) -> bytes | None:
        """Return the digest of the agent's state after an outcome, as its turn's digest has it."""
        if type(outcome) is not Done:
            return None
        before = None if self.fold.state is None else digest(self.fold.state)
        return before if outcome.state_digest is None else outcome.state_digest

    def with_default_seed(self) -> list[Effect] | None:
        """Execute with the seed derived from the lane's name; None if the lane has that seed."""
        seed = lane_seed(self._lane)
        if seed == self.fold.lane_seed:
            return None
        return effects_of(Anew(self._runner, reuse=False).run(self.fold._replace(lane_seed=seed)))


def trials_at(
    source: RunSource, lane: str, turn: int, runner: Runner, *, live_models: bool = False, caught: bool = False
) -> Trials | None:
    """Return the trials of a turn from the state just before it retired; None if it cannot be executed: it has no code,
    is a model call that is read back, or the lane does not get there again. `caught`: also if a decision ended it.
    """
    for reuse in (None, False):
        try:
            replay = lane_at(source, lane, turn, Anew(runner, reuse), before=True)
        except JournalError:  # an earlier task of its fold gives another outcome now
            continue
        task = replay.lane.line_by_turn.get(turn)
        if task is None or task.code is None or (task.outcome is not None and not caught):
            return None
        if kind_of(task.code).has_provenance and not live_models:
            return None
        return Trials(runner, fold_of(replay.lane, (task,)).fold, lane)
    return None


def effects_of(result: FoldResult) -> list[Effect]:
    """Return the effects of a fold's outcomes, as far as a verification compares them."""
    return [effect_of(outcome) for outcome in result.outcomes]


def effect_of(outcome: Outcome | None) -> Effect:
    """Return the effect of an outcome as far as a verification compares it: what the lane digest covers, and the size
    of the state.
    """
    if type(outcome) is Done:
        goes_on = outcome.waits is not None
        return (outcome.result, outcome.tensors, outcome.emits, outcome.state_digest, outcome.state_bytes, goes_on)
    return () if outcome is None else tuple(outcome[:2])


def _as(place: TaskInput, message: TaskInput) -> TaskInput:
    """Return a message as if it had come at another turn."""
    return message._replace(turn=place.turn, emits_max=place.emits_max, growth_bytes=place.growth_bytes)
