"""The tasks of a lane for its user: those that retired (`Turn`) and those that have not (`Pending`). PURE.

A turn knows the state before and after it. Folds return only the last state; those in between are computed again on
demand, which gives the same bytes, because a task is a function of its input. `History` keeps the newest turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from rota.broker.asks import is_postponed
from rota.broker.lane import Lane
from rota.broker.results import result_item
from rota.broker.tasks import DeadTask, Run, Task, Timer
from rota.common.calls import call_of, open_after
from rota.common.digests import digest
from rota.common.errors import CodeError
from rota.common.results import Decoder, Result, result_of
from rota.common.work import Done, Emit, Failed, Fold, FoldResult, Outcome, Provenance, ReplyTo, TensorRef
from rota.engine.folds import PlannedFold
from rota.engine.waits import outcome_word
from rota.local.tables import Column, Table, shown_bytes, shown_text


class Turn:
    """One retired task: its input, its outcome, and the lane's digest after it."""

    __slots__ = ("_after", "_before", "_decoder", "_finals", "_task")

    def __init__(
        self, task: Task, before: StateAt | None, after: StateAt | None, decoder: Decoder, finals: Mapping[int, Task]
    ) -> None:
        """`finals`: by turn, postponed tasks with the answer that they got in the end."""
        self._task = task
        self._finals = finals
        self._before = before
        self._after = after
        self._decoder = decoder

    @property
    def turn(self) -> int:
        """Its number in the lane."""
        return self._task.turn

    @property
    def target(self) -> str:
        return self._task.address

    @property
    def sender(self) -> str | None:
        """The agent that sent it; None: it came from outside."""
        return self._task.run.sender

    @property
    def parent(self) -> int | None:
        """The turn that emitted it, or that it replies to. None: it came from outside."""
        return None if self._task.run.parent is None else self._task.run.parent[0]

    @property
    def parent_emit(self) -> tuple[int, int] | None:
        """That turn, and which of its emits it is, or answers. None: it came from outside."""
        return self._task.run.parent

    @property
    def call(self) -> int | None:
        """The turn that began the call of a flow to which it is a message; None: it is none of a flow."""
        return call_of(self._task.address)

    @property
    def waits(self) -> str | None:
        """Where it waits, empty if its runtime cannot say, if it is postponed or a step of a call that goes on."""
        outcome = self.outcome
        return outcome.waits if isinstance(outcome, Done) else None

    @property
    def answer(self) -> Outcome | None:
        """The answer in the end: its outcome, of a postponed one what settled it; None: it is still open."""
        task = self._finals.get(self.turn, self._task)
        return None if is_postponed(task.outcome) else task.outcome

    @property
    def kind(self) -> str:
        """The kind of message: tell, ask, reply, failure or timer."""
        return self._task.run.kind

    @property
    def payload(self) -> bytes:
        return self._task.payload

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        return self._task.run.tensors_of(self._task.index)

    @property
    def priority(self) -> int:
        return self._task.run.priority

    @property
    def now_ms(self) -> int:
        """The time that the task saw."""
        return self._task.run.now_ms

    @property
    def reply_to(self) -> ReplyTo | None:
        return self._task.run.reply_to

    @property
    def code(self) -> bytes | None:
        """The digest of the code that ran; None: its name was not deployed."""
        return None if self._task.code is None else self._task.code.digest

    @property
    def outcome(self) -> Outcome:
        """Its outcome: `Done` or `Failed`."""
        assert self._task.outcome is not None
        return self._task.outcome

    @property
    def ok(self) -> bool:
        return type(self._task.outcome) is Done

    @property
    def failure(self) -> Failed | None:
        """The failure, with `kind`, `message` and `log`; None if it succeeded."""
        outcome = self.outcome
        return outcome if isinstance(outcome, Failed) else None

    @property
    def result(self) -> bytes | None:
        """The result's bytes; None if it failed, or succeeded without one."""
        outcome = self.outcome
        return outcome.result if isinstance(outcome, Done) else None

    @property
    def value(self) -> Any:
        """The result, or answer of a postponed turn, as the value that was packed. Raises `TaskFailed` if it failed."""
        return self.as_result().value

    @property
    def text(self) -> str | None:
        """The result as text. Raises `TaskFailed` for a failure, `BadPayload` if it is no UTF-8."""
        return self.as_result().text

    @property
    def arrays(self) -> Mapping[str, Any]:
        """The outputs of a model by name. Raises `TaskFailed` for a failure."""
        return self.as_result().arrays

    @property
    def emits(self) -> tuple[Emit, ...]:
        """The tasks that it sent; none if it failed."""
        outcome = self.outcome
        return outcome.emits if isinstance(outcome, Done) else ()

    @property
    def log(self) -> tuple[str, ...]:
        """The lines that the agent wrote."""
        return self.outcome.log

    @property
    def fuel(self) -> int:
        """How much fuel it burned; 0 for models and for what was not executed."""
        return self.outcome.fuel

    @property
    def state_before(self) -> bytes | None:
        """Its agent's state before it; None: no state yet, or a function or model."""
        return None if self._before is None else self._before.get()

    @property
    def state(self) -> bytes | None:
        """Its agent's state after it."""
        return None if self._after is None else self._after.get()

    @property
    def digest(self) -> bytes:
        """The lane's digest after it."""
        assert self._task.turn_digest is not None
        return self._task.turn_digest

    @property
    def provenance(self) -> Provenance | None:
        """The provider on which a model ran."""
        return self._task.provenance

    def as_result(self) -> Result:
        """Return it as the result that a producer gets."""
        return result_of(result_item(self._finals.get(self.turn, self._task)), self._decoder)

    def __repr__(self) -> str:
        sender = f" from {self.sender}" if self.sender else ""
        head = f"turn {self.turn}: {self.kind} {shown_bytes(self.payload)} to {self.target}{sender}"
        emits = f", {len(self.emits)} emits" if self.emits else ""
        return f"<{head} -> {_shown_outcome(self)}{emits}, {self.fuel} fuel>"


class Pending(NamedTuple):
    """A task that has not retired."""

    turn: int
    target: str
    sender: str | None
    kind: str
    payload: bytes
    priority: int
    now_ms: int


# --- states ---------------------------------------------------------------------------------------


class FoldStates:
    """The states of one agent in a fold."""

    __slots__ = ("_fold", "_known", "_last", "_open", "_run", "_tasks")

    def __init__(self, planned: PlannedFold, done: int, last: bytes | None, run: Callable[[Fold], FoldResult]) -> None:
        """`last` is the state after the first `done` tasks, which are those with an outcome."""
        self._tasks = planned.tasks[:done]
        self._fold = planned.fold
        self._last = last
        self._run = run
        self._known = [planned.fold.state]
        self._open = planned.fold.open  # after the last known state

    def after(self, index: int) -> bytes | None:
        """Return the state after the task at `index`; -1: before the fold.

        Raises `CodeError` if the code gives another state when it runs again.
        """
        if index == len(self._tasks) - 1:
            return self._last
        while len(self._known) <= index + 1:
            self._known.append(self._again(len(self._known) - 1))
        return self._known[index + 1]

    def _again(self, index: int) -> bytes | None:
        task, before = self._tasks[index], self._known[index]
        alone = self._fold._replace(state=before, tasks=self._fold.tasks[index : index + 1], open=self._open)
        result = self._run(alone)
        state = before if result.state is None else result.state
        if len(result.outcomes) != 1 or (task.state_digest is not None and digest(state or b"") != task.state_digest):
            raise CodeError(
                f"{task.address} came to another state when turn {task.turn} ran again ({result.stopped or 'differs'}):"
                " deploy it without reuse, it keeps something between calls"
            )
        if type(task.outcome) is Done:
            self._open = open_after(self._open, task.turn, task.outcome)
        return state


class StateAt(NamedTuple):
    """One state of a fold."""

    states: FoldStates
    place: int  # index of the task that left it; -1: before the fold

    def get(self) -> bytes | None:
        return self.states.after(self.place)


class History:
    """The newest turns of a lane, and how to get their states."""

    def __init__(self, turns_max: int, decoder: Decoder, run: Callable[[Fold], FoldResult]) -> None:
        self._turns_max = turns_max
        self._decoder = decoder
        self._run = run
        self._turns: dict[int, Turn] = {}
        self._order: deque[int] = deque()  # in retire order: popping the first key of a dict is slow
        self._finals: dict[int, Task] = {}  # of kept turns that were postponed
        self._ends: dict[int, int] = {}  # of those: the turn that had retired last when the answer was there
        self._newest: dict[str, StateAt] = {}  # by agent: the state after its last retired task
        self._executed: dict[int, StateAt] = {}  # by turn: of tasks that have completed but not retired

    def executed(self, lane: Lane, planned: Iterable[PlannedFold]) -> None:
        """Note the states of folds that were just applied; call `retired` next."""
        for one in planned:
            first = one.tasks[0]
            done = sum(task.outcome is not None for task in one.tasks)
            if done and not first.stateless and call_of(first.address) is None:  # a call has messages, no state
                states = FoldStates(one, done, lane.agents[first.address].state, self._run)
                for index, task in enumerate(one.tasks[:done]):
                    self._executed[task.turn] = StateAt(states, index)

    def retired(self, tasks: Iterable[Task]) -> list[Turn]:
        """Keep the tasks that just retired, and return them as turns."""
        found = [self._keep(task) for task in tasks]
        self._order.extend([turn.turn for turn in found])
        while len(self._order) > self._turns_max:
            forgotten = self._order.popleft()
            del self._turns[forgotten]
            self._finals.pop(forgotten, None)
            self._ends.pop(forgotten, None)
        return found

    def answered(self, answered: Iterable[Task]) -> None:
        """Note the answers of turns that were postponed."""
        for task in answered:
            if task.turn in self._turns:
                self._finals[task.turn] = task
                self._ends[task.turn] = self._order[-1]

    def of_call(self, address: str) -> list[Turn]:
        """Return the kept turns of a call until its end, in retire order; what came behind its end had no effect."""
        first = call_of(address)
        end = None if first is None else self._ends.get(first)
        found: list[Turn] = []
        for turn in self._turns.values():
            if turn.target == address:
                found.append(turn)
            if turn.turn == end:
                break
        return found

    def find(self, turn: int) -> Turn | None:
        return self._turns.get(turn)

    def newest(self, turns: int | None = None) -> list[Turn]:
        """Return the last `turns` kept turns, or all, in retire order."""
        kept = list(self._turns.values())
        return kept if turns is None else kept[max(len(kept) - turns, 0) :]

    def _keep(self, task: Task) -> Turn:
        before = self._newest.get(task.address)
        after = self._executed.pop(task.turn, None)
        if after is None:  # it was not executed, so its agent's state is unchanged
            after = before
        else:
            before = StateAt(after.states, after.place - 1)
            self._newest[task.address] = after
        if task.stateless:
            before = after = None
        turn = self._turns[task.turn] = Turn(task, before, after, self._decoder, self._finals)
        return turn


# --- tables ---------------------------------------------------------------------------------------


def turn_table(turns: Iterable[Turn]) -> Table[Turn]:
    return Table(turns, _TURN_COLUMNS)


def pending_table(tasks: Iterable[Pending]) -> Table[Pending]:
    return Table(tasks, _PENDING_COLUMNS, first=True)


def timer_table(timers: Iterable[Timer]) -> Table[Timer]:
    return Table(timers, _TIMER_COLUMNS, first=True)


def dead_table(dead: Iterable[DeadTask]) -> Table[DeadTask]:
    return Table(dead, _DEAD_COLUMNS)


def pending_of(run: Run, index: int) -> Pending:
    """Return a stamped task as a row."""
    target, payload = run.target(index), run.payloads[index]
    return Pending(run.first_turn + index, target, run.sender, run.kind, payload, run.priority, run.now_ms)


def _shown_outcome(turn: Turn) -> str:
    failure = turn.failure
    if failure is not None:
        return f"failed {failure.kind}: {shown_text(failure.message)}"
    if turn.waits is not None:
        return outcome_word(turn.outcome, turn.target) + (f" at {shown_text(turn.waits)}" if turn.waits else "")
    return f"ok {shown_bytes(turn.result)}" if turn.result is not None else "ok"


_TURN_COLUMNS: Final[tuple[Column, ...]] = (
    ("turn", lambda turn: str(turn.turn)),
    ("from", lambda turn: turn.sender or ("-" if turn.parent is None else f"turn {turn.parent}")),
    ("kind", lambda turn: turn.kind),
    ("target", lambda turn: turn.target),
    ("payload", lambda turn: shown_bytes(turn.payload)),
    ("outcome", _shown_outcome),
    ("emits", lambda turn: str(len(turn.emits))),
    ("fuel", lambda turn: str(turn.fuel)),
    ("digest", lambda turn: turn.digest.hex()[:12]),
)
_PENDING_COLUMNS: Final[tuple[Column, ...]] = (
    ("turn", lambda task: str(task.turn)),
    ("from", lambda task: task.sender or "-"),
    ("kind", lambda task: task.kind),
    ("target", lambda task: task.target),
    ("payload", lambda task: shown_bytes(task.payload)),
    ("priority", lambda task: str(task.priority)),
)
_TIMER_COLUMNS: Final[tuple[Column, ...]] = (
    ("due ms", lambda timer: str(timer.due_ms)),
    ("set in turn", lambda timer: str(timer.turn)),
    ("target", lambda timer: timer.emit.target),
    ("payload", lambda timer: shown_bytes(timer.emit.payload)),
)
_DEAD_COLUMNS: Final[tuple[Column, ...]] = (
    ("turn", lambda dead: str(dead.turn)),
    ("target", lambda dead: dead.target),
    ("payload", lambda dead: shown_bytes(dead.payload)),
    ("failure", lambda dead: f"{dead.failure.kind}: {shown_text(dead.failure.message)}"),
)
