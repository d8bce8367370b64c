"""The broker's objects for tasks and agents. PURE.

A `Run` holds tasks that were stamped together, with one header and the payloads in one blob, from submit to the last
completion. A `Task` is made at issue and dropped when its result is no longer kept. They are plain classes with slots,
because there may be hundreds of thousands. Comments say which module writes which attribute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from msgspec import Meta

from rota.common import limits
from rota.common.budget import growth_max
from rota.common.calls import instance_address, is_instance
from rota.common.code_kinds import KINDS
from rota.common.columns import Addresses, Blobs, value_at
from rota.common.fields import Count, Index, Payload, Positive, Priority, Target
from rota.common.targets import code_name
from rota.common.work import (
    ASK,
    SUBMIT_KINDS,
    UNABLE_FAILURES,
    Code,
    Emit,
    Failed,
    Outcome,
    Provenance,
    ReplyTo,
    SubmitKind,
    TaskInput,
    TensorRef,
    Tensors,
)

if TYPE_CHECKING:
    from rota.broker.calls import FlowCall


class Run:
    """Tasks stamped together: numbers `first_seq ..` and `first_turn ..`, one header, many payloads."""

    __slots__ = (
        "answers",
        "finished",
        "first_seq",
        "first_turn",
        "issued",
        "kind",
        "lane",
        "name",
        "now_ms",
        "parent",
        "payloads",
        "priority",
        "reply_to",
        "sender",
        "targets",
        "tensors",
        "to_call",
        "verdicts",
        "wants_reply",
        "watchers",
    )

    def __init__(
        self,
        *,
        lane: str,
        first_seq: int,
        first_turn: int,
        targets: str | Addresses,
        priority: int,
        kind: str,
        sender: str | None,
        now_ms: int,
        parent: tuple[int, int] | None,
        reply_to: ReplyTo | None,
        payloads: Blobs,
        tensors: tuple[tuple[int, tuple[TensorRef, ...]], ...],
        answers: int = 0,
    ) -> None:
        self.lane = lane
        self.first_seq = first_seq
        self.first_turn = first_turn
        self.targets = targets
        self.name = code_name(targets) if type(targets) is str else None
        self.priority = priority
        self.kind = kind
        self.sender = sender
        self.now_ms = now_ms
        self.parent = parent  # the turn that emitted it, and its index there; None: it came from outside
        self.reply_to = reply_to
        self.payloads = payloads
        self.tensors = tensors
        self.answers = answers  # the turn first asked whose answer its outcome is, since it was handed on; 0: none
        self.wants_reply = kind == ASK and sender is not None  # its outcome becomes a message to somebody
        # It is for a call of a flow that is there already: nobody but the lane sends to one.
        self.to_call = kind not in SUBMIT_KINDS and type(targets) is str and is_instance(targets)
        self.issued = 0  # how many of its tasks have been issued; written by the lane
        self.finished = 0  # how many have an outcome; written by `RunIndex`
        self.verdicts: dict[int, Failed] | None = None  # outcomes decided before issue, by index; kept afterwards
        self.watchers: dict[bytes, tuple[int, int]] | None = None  # wanted results by connection; for results.py

    def target(self, index: int) -> str:
        return self.targets if type(self.targets) is str else self.targets[index]

    def tensors_of(self, index: int) -> tuple[TensorRef, ...]:
        refs: tuple[TensorRef, ...] = value_at(self.tensors, index) if self.tensors else ()
        return refs


class Task:
    """One issued task. The lane writes the first attributes, the dispatcher the last ones."""

    __slots__ = (
        "address",
        "agent",
        "assignment",
        "attempts",
        "before",
        "code",
        "emits_max",
        "ends",
        "growth_bytes",
        "index",
        "issued_at",
        "outcome",
        "place",
        "provenance",
        "run",
        "seq",
        "state_digest",
        "stateless",
        "trouble",
        "turn",
        "turn_digest",
    )

    def __init__(self, run: Run, index: int, code: Code | None, emits_max: int, growth_bytes: int) -> None:
        self.run = run
        self.index = index
        self.seq = run.first_seq + index
        self.turn = run.first_turn + index
        self.address = run.targets if type(run.targets) is str else run.targets[index]
        if code is not None and code.flow and run.kind in SUBMIT_KINDS and "/" not in self.address:
            self.address = instance_address(self.address, self.turn)  # it begins a call
        self.code = code  # bound at issue; None: its name was not deployed
        # Functions and models keep no state, so their order cannot be seen and they run in parallel.
        self.stateless = code is not None and not KINDS[code.kind].keeps_state
        self.emits_max = emits_max  # how many tasks it may emit, bound at issue
        self.growth_bytes = growth_bytes  # by how many bytes it may grow the lane, bound at issue (budget.py)
        self.issued_at: int | None = None  # how many tasks the lane had retired when it joined the line
        self.place = 0  # in the line: those issued later have higher ones
        self.agent: Agent | None = None  # for a stateful task, from issue to retire
        self.ends: Failed | None = None  # if it is postponed: the failure by which an input ends the wait at its retire
        self.outcome: Outcome | None = None
        self.state_digest: bytes | None = None  # of its agent's state after it
        self.turn_digest: bytes | None = None  # the lane's, after its retire
        self.provenance: Provenance | None = None
        self.before: Task | None = None  # the task of the same agent that must complete first
        self.assignment = 0  # the dispatcher's: its assignment, 0 if none
        self.attempts = 0  # the dispatcher's: how often it was dispatched
        self.trouble: Trouble | None = None  # the dispatcher's: what went wrong with it

    @property
    def payload(self) -> bytes:
        return self.run.payloads[self.index]

    @property
    def payload_bytes(self) -> int:
        return self.run.payloads.lengths[self.index]

    @property
    def growth_max(self) -> int:
        """By how many bytes it may grow its lane, in total."""
        return growth_max(self.growth_bytes, self.run.kind, self.payload_bytes, self.run.tensors_of(self.index))


def caught_task(run: Run, index: int, failure: Failed) -> Task:
    """Return a task that was caught while it waited, to tell its watchers the outcome."""
    task = Task(run, index, None, 0, 0)
    task.outcome = failure
    return task


class Trouble:
    """What went wrong while workers had a task; few tasks have one. Workers are given by number (dispatch.py)."""

    __slots__ = ("deaths", "faulted_on", "faults", "overruns", "reasons", "refused_by", "suspect")

    def __init__(self) -> None:
        self.suspect = False  # a worker died or did not answer while holding it: it needs an idle worker for itself
        self.deaths = 0  # how many workers died running it alone
        self.overruns = 0  # how many live ones had it alone and did not answer
        self.faults = 0  # how often it could not be done
        self.faulted_on: tuple[int, ...] = ()
        self.refused_by: tuple[int, ...] = ()
        self.reasons: tuple[str, ...] = ()  # the workers' last ones, each once; they depend on the hosts

    @property
    def alone(self) -> bool:
        """Whether it must run alone, so that the next fault is known to be its own."""
        return self.suspect or self.faults > 0

    def add_reason(self, reason: str) -> None:
        """Note why a worker could not do it. The last TRIES_MAX different reasons are kept, the newest last."""
        if reason:
            others = tuple([one for one in self.reasons if one != reason])
            self.reasons = (*others, reason)[-limits.TRIES_MAX :]

    def is_to_avoid(self, worker: int) -> bool:
        """Whether another worker should try it first."""
        return worker in self.faulted_on or worker in self.refused_by


def reasons_of(kind: str, task: Task) -> tuple[str, ...]:
    """Return the log of a verdict of this kind: why no worker could do the task."""
    return task.trouble.reasons if kind in UNABLE_FAILURES and task.trouble is not None else ()


def task_input(task: Task) -> TaskInput:
    """Return the input of a task."""
    run = task.run
    return TaskInput(
        task.turn, run.kind, run.sender, task.payload, run.now_ms, run.reply_to, run.tensors_of(task.index),
        task.emits_max, task.growth_bytes,
    )  # fmt: skip


def predecessor(task: Task) -> Task | None:
    """Return the nearest earlier task of the same agent that has not completed, skipping those caught by a verdict."""
    before = task.before
    while before is not None and before.outcome is not None:
        before = before.before
    return before


class Agent:
    """An agent's private state after its last completed task."""

    __slots__ = ("address", "call", "completed", "counted_bytes", "newest", "open", "state", "state_digest")

    def __init__(self, address: str) -> None:
        self.address = address
        self.state: bytes | None = None
        self.state_digest: bytes | None = None
        self.newest: Task | None = None  # its last issued task that has not completed
        self.completed = 0
        self.open: tuple[int, ...] = ()  # the turns that it has postponed and not settled, ascending
        self.call: FlowCall | None = None  # if it is a call of a flow, which has no state and no open turns
        self.counted_bytes = 0  # the size of the state after its last retired task, as counted in the lane's budget


class Timer(NamedTuple):
    """An emitted message that waits until it is due. Identified by the turn that emitted it and its index there."""

    turn: Positive
    index_of_emit: Index
    due_ms: Annotated[int, Meta(ge=0, le=2 * limits.NOW_MS_MAX)]
    sender: Target
    emit: Emit


class DeadTask(NamedTuple):
    """A failed task, kept with what is needed to run it again."""

    seq: Positive
    turn: Positive
    target: Target
    priority: Priority
    payload: Payload
    tensors: Tensors
    now_ms: Count
    failure: Failed
    attempts: Count
    kind: SubmitKind  # of a retry: `ask` if it was one, by an agent or from outside
