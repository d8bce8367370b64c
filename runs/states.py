"""The state of an agent just after a turn has retired. PURE.

The journal has the state that each completed fold left; of the tasks inside a fold it has only the digests of their
states. So a state is read where a fold ends. Elsewhere the first tasks of that fold are executed again from the state
before it, and the result must have the digest in the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rota.broker import records
from rota.broker.tasks import Task, task_input
from rota.broker.world import World
from rota.common.digests import digest
from rota.common.errors import JournalError, UnknownTask
from rota.common.work import Done, Fold, FoldResult, Outcome
from rota.engine.folds import PATIENCE_MS, patient
from rota.runs.questions import check_agent, check_turn
from rota.runs.walk import Kept, Progress, Step, Walk, lane_of

Execute = Callable[[Fold], FoldResult]


class AgentState(NamedTuple):
    """An agent's state just after `turn`, at `position`. `left_by`: the task that left it; None if it is not kept.

    `how`: "recorded", "executed" (again, with the recorded digest), or "none" where there is no state.
    """

    lane: str
    address: str
    turn: int | None  # the last one that retired; None: none has
    position: int
    tasks: int  # retired tasks of the agent so far, of those in the journal
    left_by: Task | None
    state: bytes | None
    digest: bytes | None
    how: str


def state_at(
    kept: Kept,
    address: str,
    lane: str,
    turn: int | None,
    execute: Execute,
    progress: Progress | None = None,
) -> AgentState:
    """Return an agent's state just after `turn` retired; None: after the last retire of the journal.

    `execute` is called at most once. Raises `UnknownLane` or `UnknownTask` for what does not exist, `JournalError` if
    the state does not follow from the kept records.
    """
    walk, finder = Walk(kept), _Finder(address, lane, turn)
    finder.begin(walk.world)
    for step in walk.steps(progress=progress):
        if finder.after(step):
            break
    at = lane_of(walk.world, lane)
    if turn is not None and finder.turn != turn:
        check_turn(kept, at, turn)
        last = f"the last one that has is turn {finder.turn}" if finder.turn else "none has"
        raise UnknownTask(f"turn {turn} of lane {lane!r} has not retired, or not in the records that are kept; {last}")
    check_agent(kept, at, address, met=finder.met)
    bound = at.deploys.get(address)
    if bound is not None and bound.flow:
        raise UnknownTask(
            f"{address!r} is a flow, whose calls have no state: name a call, as {address}/~5 if turn 5 began it; "
            f"`rota story {address}` lists them"
        )
    state, how = _state_of(finder, execute)
    task = None if finder.left_by is None else finder.left_by[0]
    found = finder.digest_at_begin if task is None else task.state_digest
    return AgentState(lane, address, finder.turn, finder.position, finder.tasks, task, state, found, how)


class _SeenFold:
    """A completed fold of the agent. `before` is the state that it began with; of a fold from before the kept records
    only `after` is known.
    """

    def __init__(self, turns: tuple[int, ...], last_change: int | None, after: bytes | None) -> None:
        self.turns = turns
        self.last_change = last_change
        self.after = after
        self.before: bytes | None = None
        self.seed = b""
        self.is_kept = False
        self.tasks: list[Task] = []

    @classmethod
    def of(cls, fold: records.CompletedFold, before: bytes | None, seed: bytes) -> _SeenFold:
        pairs = zip(fold.turns, fold.outcomes, strict=True)
        changing = [turn for turn, outcome in pairs if _changes(outcome)]
        seen = cls(fold.turns, changing[-1] if changing else None, fold.state)
        seen.before, seen.seed, seen.is_kept = before, seed, True
        return seen

    def has(self, turn: int) -> bool:
        """Return whether the state after a turn is in the journal or can be computed from it."""
        return self.is_kept or turn == self.last_change


class _Finder:
    """Takes the steps of a walk, and keeps the fold that left the agent's current state."""

    def __init__(self, address: str, lane: str, turn: int | None) -> None:
        self.turn: int | None = None
        self.position = 0
        self.tasks = 0
        self.met = False
        self.left_by: tuple[Task, _SeenFold] | None = None
        self.is_known_at_begin = True
        self.state_at_begin: bytes | None = None
        self.digest_at_begin: bytes | None = None
        self._address = address
        self._lane = lane
        self._turn = turn
        self._folds: dict[int, _SeenFold] = {}  # by turn, until it retires

    def begin(self, world: World) -> None:
        lane = world.lanes.get(self._lane)
        agent = None if lane is None else lane.agents.get(self._address)
        if lane is None or agent is None:
            self.position = 0 if lane is None else lane.retired
            return
        self.met, self.position = True, lane.retired
        self.state_at_begin, self.digest_at_begin = agent.state, agent.state_digest
        ahead = [task.turn for task in lane.line() if task.address == self._address and _changes(task.outcome)]
        if ahead:  # completed but not retired: the agent's state already includes these
            self.is_known_at_begin = False
            self._folds = dict.fromkeys(ahead, _SeenFold(tuple(ahead), ahead[-1], agent.state))

    def after(self, step: Step) -> bool:
        """Take a step; return True when the wanted turn has retired."""
        if step.lane is None or step.lane.name != self._lane:
            return False
        if isinstance(step.record, records.Completion):
            for fold, found in zip(step.record.folds, step.found, strict=True):
                if fold.address == self._address:
                    self._folds |= dict.fromkeys(fold.turns, _SeenFold.of(fold, found.state, step.lane.seed))
        for run in step.notes.stamped:
            self.met = self.met or run.targets == self._address or self._address in run.targets
        for task in step.notes.finished:
            if task.address == self._address and task.turn in self._folds:
                self._folds[task.turn].tasks.append(task)
        for position, task in enumerate(step.notes.retired, step.position + 1):
            self.turn, self.position = task.turn, position
            if task.address == self._address:
                self.tasks += 1
                seen = self._folds.pop(task.turn, None)
                if seen is not None and _changes(task.outcome):
                    self.left_by = (task, seen)
            if task.turn == self._turn:
                return True
        return False


def _state_of(finder: _Finder, execute: Execute) -> tuple[bytes | None, str]:
    if finder.left_by is None and finder.is_known_at_begin:
        return finder.state_at_begin, "none" if finder.state_at_begin is None else "recorded"
    if finder.left_by is None or not finder.left_by[1].has(finder.left_by[0].turn):
        raise JournalError(
            "that state is not in the records that are kept: the agent had gone on already where they begin; "
            "ask for a later turn with --at"
        )
    task, seen = finder.left_by
    if task.turn == seen.last_change:
        return _checked(seen.after, task, "the journal holds"), "recorded"
    tasks = seen.tasks[: seen.turns.index(task.turn) + 1]
    assert task.code is not None
    code = patient(task.code, PATIENCE_MS)
    result = execute(Fold(seen.seed, code, task.address, seen.before, tuple([task_input(one) for one in tasks])))
    if len(result.outcomes) < len(tasks):
        raise JournalError(
            f"turn {task.turn} cannot be executed again ({result.stopped}: {result.reason or 'no reason given'}); "
            f"the journal has states after turn {seen.last_change} again"
        )
    return _checked(result.state, task, "executed again it is"), "executed"


def _changes(outcome: Outcome | None) -> bool:
    return type(outcome) is Done and outcome.state_digest is not None


def _checked(state: bytes | None, task: Task, what: str) -> bytes:
    found = None if state is None else digest(state)
    if state is None or found != task.state_digest:
        said = "none" if found is None else found.hex()[:16]
        wanted = "none" if task.state_digest is None else task.state_digest.hex()[:16]
        raise JournalError(
            f"the state after turn {task.turn} of {task.address} has digest {wanted}, but {what} {said}: "
            "`rota verify` finds where it begins to differ"
        )
    return state
