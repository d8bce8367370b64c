"""Open asks: tasks that were postponed, until their answer comes. PURE.

An open ask is named by the turn first asked (`turn`). Who owes it names the turn that it postponed itself (`owes`),
which is another one after a hand-on. Execution model, part 10.
"""

from __future__ import annotations

from typing import Final

from rota.broker.lane_budget import run_bytes
from rota.broker.tasks import Run, Task
from rota.common.columns import Blobs
from rota.common.work import ASK, SUBMIT_KINDS, Done, Failed, Outcome

# The place of the failure that an input causes among what its turn emitted: behind all emits.
ENDED_PLACE: Final = 4_096


class OpenAsk:
    """One postponed task: what was asked, by whom, and who owes the answer."""

    __slots__ = ("address", "owes", "owner", "run")

    def __init__(self, run: Run, address: str, owner: str, owes: int) -> None:
        self.run = run  # of this one task
        self.address = address  # that the task ran at
        self.owner = owner  # the address that owes the answer; while it is handed on, the target
        self.owes = owes  # the turn that the owner knows it by

    @classmethod
    def of(cls, task: Task) -> OpenAsk:
        """Return the open ask of a task that was postponed."""
        return cls(single(task), task.address, task.address, task.turn)

    @property
    def turn(self) -> int:
        return self.run.first_turn

    @property
    def seq(self) -> int:
        return self.run.first_seq

    @property
    def asker(self) -> str | None:
        """The address that gets the answer as a message; None: a producer, or nobody."""
        return self.run.sender if self.run.kind == ASK else None

    @property
    def bytes(self) -> int:
        """What it counts against the budget of its lane."""
        return run_bytes(self.run)

    def with_outcome(self, outcome: Outcome) -> Task:
        """Return the asked task with its final outcome."""
        task = Task(self.run, 0, None, 0, 0)
        task.address = self.address
        task.outcome = outcome
        return task


class Asks:
    """The open asks of a lane, and the deadlines of tasks that have no final outcome."""

    def __init__(self) -> None:
        self.open: dict[int, OpenAsk] = {}  # by the turn first asked, in the order of opening
        self.deadlines: dict[int, int] = {}  # turn to due time in ms since 1970
        self.bytes = 0
        self._owed: dict[int, OpenAsk] = {}

    def add(self, ask: OpenAsk) -> None:
        """Open an ask."""
        assert ask.turn not in self.open
        self.open[ask.turn] = self._owed[ask.owes] = ask
        self.bytes += ask.bytes

    def owed(self, turn: int) -> OpenAsk | None:
        """Return the ask that its owner knows by this turn; None if an input has ended it."""
        return self._owed.get(turn)

    def move(self, ask: OpenAsk, owner: str, owes: int) -> None:
        """Let somebody else owe an ask."""
        del self._owed[ask.owes]
        ask.owner, ask.owes = owner, owes
        self._owed[owes] = ask

    def close(self, ask: OpenAsk) -> None:
        """Forget an ask: its answer is there."""
        del self.open[ask.turn]
        del self._owed[ask.owes]
        self.deadlines.pop(ask.turn, None)
        self.bytes -= ask.bytes

    def limit(self, turn: int, due_ms: int) -> None:
        """Set the deadline of a turn; one that is there already can only come earlier."""
        self.deadlines[turn] = min(due_ms, self.deadlines.get(turn, due_ms))

    def check_invariants(self) -> None:
        """Assert that the parts fit together."""
        assert self.bytes == sum([ask.bytes for ask in self.open.values()])
        assert all(turn == ask.turn for turn, ask in self.open.items())
        assert all(owes == ask.owes for owes, ask in self._owed.items())
        assert sorted(ask.turn for ask in self._owed.values()) == sorted(self.open)


def single(task: Task) -> Run:
    """Return a task's run if it has no other tasks, else a run with this one alone: the others are not kept for it."""
    run, index = task.run, task.index
    if len(run.payloads) == 1:
        return run
    payload = run.payloads[index]
    tensors = run.tensors_of(index)
    alone = Run(
        lane=run.lane, first_seq=task.seq, first_turn=task.turn, targets=run.target(index), priority=run.priority,
        kind=run.kind, sender=run.sender, now_ms=run.now_ms, parent=run.parent, reply_to=run.reply_to,
        payloads=Blobs(payload, (len(payload),)), tensors=((0, tensors),) if tensors else (), answers=run.answers,
    )  # fmt: skip
    alone.issued = alone.finished = 1
    return alone


def is_postponed(outcome: Outcome | None) -> bool:
    """Return whether a task has ended as postponed, or as the step of a call that goes on."""
    return type(outcome) is Done and outcome.waits is not None


def is_pending(task: Task) -> bool:
    """Return whether a task was postponed and is the one whose final outcome will tell its answer."""
    run = task.run
    return run.kind in SUBMIT_KINDS and not run.answers and is_postponed(task.outcome)


def final(outcome: Outcome) -> Outcome:
    """Return the outcome of an ask that ends with this outcome of a task: without the task's other effects."""
    if type(outcome) is Failed:
        return outcome
    assert type(outcome) is Done
    return outcome._replace(state_digest=None, state_bytes=0, emits=())
