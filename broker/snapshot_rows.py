"""The items of a snapshot, one class each, with the bounds checked on reading. PURE.

An item is an array `[tag, field, ...]`; docs/JOURNAL.md has the table. `place` is the index of a lane in the snapshot,
`code` the index of a code.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, NamedTuple

from msgspec import Meta

from rota.broker.records import Facts
from rota.broker.tasks import DeadTask, Timer
from rota.common import limits
from rota.common.columns import Addresses, Blobs, Sparse
from rota.common.fields import (
    Blob,
    CodeName,
    Count,
    Digest,
    EmitsMax,
    FailureText,
    Fuel,
    GrowthBytes,
    Index,
    Name,
    Plain,
    Positive,
    Priority,
    Producer,
    StateBytes,
    Target,
    Text32,
    Text64,
    Text256,
    Window,
)
from rota.common.messages import Accepted, Answer, LaneSettings
from rota.common.shape import Shape, check_plain
from rota.common.work import (
    AFTER_END,
    CallStep,
    Code,
    Done,
    Emits,
    Failed,
    FailureKind,
    Log,
    MessageKind,
    Outcome,
    Provenance,
    ReplyTo,
    Tensors,
)

LAYOUT: Final = 3


class RowTag(IntEnum):
    """The first element of every item, in their order."""

    HEAD = 0
    FINGERPRINT = 1
    PRODUCER = 2
    CODE = 3
    LANE = 4
    RUN = 5
    LINE = 6
    AGENT = 7
    ASK = 8
    DEADLINE = 9
    TIMER = 10
    DEAD = 11
    OLD_RUN = 12  # from here to the end, in any order
    SINGLE = 13
    RESULT = 14
    END = 15


class Head(NamedTuple):
    layout: Literal[3]
    boot: Count
    next_seq: Positive
    divergences: Count


class FingerprintRow(NamedTuple):
    number: Positive
    pool: Text32
    facts: Facts


class AnswerRow(NamedTuple):
    """The answer to a request: `value` of an Answer sorted by key, else an Accepted."""

    number: Count
    request: Digest
    first_seq: Count
    tasks: Count
    value: Annotated[tuple[tuple[Text64, Plain], ...], Meta(max_length=64)] | None

    @classmethod
    def of(cls, request: bytes, reply: Accepted | Answer) -> AnswerRow:
        if type(reply) is Answer:
            return cls(reply.number, request, 0, 0, tuple(sorted(reply.value.items())))
        assert type(reply) is Accepted
        return cls(reply.number, request, reply.first_seq, reply.tasks, None)

    def reply(self) -> Accepted | Answer:
        if self.value is None:
            return Accepted(self.number, self.first_seq, self.tasks)
        value = dict(self.value)
        check_plain(value)
        return Answer(self.number, value)


class ProducerRow(NamedTuple):
    name: Producer
    dropped: Count | None
    answers: Annotated[tuple[AnswerRow, ...], Meta(max_length=limits.NUMBERS_KEPT_MAX)]


class CodeRow(NamedTuple):
    code: Code


class LaneRow(NamedTuple):
    """A lane without its tasks: the fields of a `LaneImage`, with codes as indexes."""

    name: Name
    settings: LaneSettings
    window: Window
    paused: bool
    deploys: Annotated[tuple[tuple[CodeName, Count], ...], Meta(max_length=limits.DEPLOYS_MAX)]
    next_turn: Positive
    retired: Count
    failed: Count
    digest: Digest
    passes: Annotated[tuple[tuple[Priority, Count], ...], Meta(max_length=256)]


class StampedRun(NamedTuple):
    """Tasks stamped together. `answers`: the turn first asked, if it was handed on, else 0."""

    place: Count
    first_seq: Positive
    first_turn: Positive
    targets: Target | Addresses
    priority: Priority
    kind: MessageKind
    sender: Target | None
    now_ms: Count
    parent: tuple[Count, Count] | None
    reply_to: ReplyTo | None
    payloads: Blobs
    tensors: Sparse[Tensors]
    answers: Count


class RunRow(NamedTuple):
    """A run with a task that waits or is in a line. `verdicts` are decisions on tasks not yet issued."""

    run: StampedRun
    finished: Count
    issued: Count
    verdicts: Annotated[tuple[tuple[Index, Failed], ...], Meta(max_length=limits.RUN_TASKS_MAX)]


class Ending(NamedTuple):
    """One outcome. `failure` is its kind and message; the fields of success are then empty."""

    failure: tuple[FailureKind, FailureText] | None
    result: Blob | None
    state_digest: Digest | None
    emits: Emits
    log: Log
    fuel: Fuel
    tensors: Tensors
    state_bytes: StateBytes
    waits: Text256 | None

    @classmethod
    def of(cls, outcome: Outcome) -> Ending:
        if type(outcome) is Done:
            return cls(None, *outcome)
        assert type(outcome) is Failed
        return cls(outcome[:2], None, None, (), outcome.log, outcome.fuel, (), 0, None)

    def outcome(self) -> Outcome:
        if self.failure is None:
            done = Done(*self[1:])
            return AFTER_END if done == AFTER_END else done
        if (
            self.result is not None
            or self.state_digest is not None
            or self.emits
            or self.tensors
            or self.waits is not None
        ):
            raise ValueError("an outcome is a failure and a success")
        return Failed(*self.failure, self.log, self.fuel)


class LineRow(NamedTuple):
    """An issued task that has not retired. `before`: the turn of the same agent's task that must complete first.

    `address`: of the call that it began, else None. `ends`: kind and message of the failure by which an input has ended
    the wait for its answer, if it is postponed.
    """

    place: Count
    first_seq: Positive
    index_in_run: Index
    code: Count | None
    emits_max: EmitsMax
    growth_bytes: GrowthBytes
    issued_at: Count
    ending: Ending | None
    state_digest: Digest | None
    provenance: Provenance | None
    before: Positive | None
    address: Target | None
    ends: tuple[FailureKind, FailureText] | None


class CallRow(NamedTuple):
    """What makes an agent the call of a flow: its messages so far, what it has asked, and its timers by turn and emit.

    `end`: the turn of the task that ends it, if one has that outcome. `ended`: it has ended, and tasks for it are still
    in the line. `waits`: where it waits, as its last step said.
    """

    code: Count
    turn: Positive
    steps: Annotated[tuple[CallStep, ...], Meta(max_length=limits.STEPS_MAX)]
    fuel: Count
    asked: tuple[Positive, ...]
    timers: tuple[tuple[Positive, Index], ...]
    end: Positive | None
    ended: bool
    counted_bytes: Count
    waits: Text256


class AgentRow(NamedTuple):
    """An agent. `counted_bytes`: the size of the state that its last retired task left. `newest`: the turn of its last
    issued task that has not completed. `open`: the turns that it has postponed and not settled.
    """

    place: Count
    address: Target
    state: Blob | None
    state_digest: Digest | None
    completed: Count
    counted_bytes: StateBytes
    newest: Positive | None
    open: Annotated[tuple[Positive, ...], Meta(max_length=limits.ASKS_MAX)]
    call: CallRow | None


class AskRow(NamedTuple):
    """An open ask: the asked task, the address at which it ran, and who owes its answer under which turn."""

    run: StampedRun
    address: Target
    owner: Target
    owes: Positive


class DeadlineRow(NamedTuple):
    place: Count
    turn: Positive
    due_ms: Annotated[int, Meta(ge=0, le=2 * limits.NOW_MS_MAX)]


class TimerRow(NamedTuple):
    place: Count
    timer: Timer


class DeadRow(NamedTuple):
    place: Count
    dead: DeadTask


class OldRunRow(NamedTuple):
    """A run with kept results whose tasks have all retired."""

    run: StampedRun


class SingleRow(NamedTuple):
    """A retired run of one task and its result. `address`: of the call that it was, else None."""

    run: StampedRun
    ending: Ending
    provenance: Provenance | None
    address: Target | None


class ResultRow(NamedTuple):
    """A kept result; without an ending, that of a task still in a line. `address` as in a `SingleRow`."""

    first_seq: Positive
    index_in_run: Index
    ending: Ending | None
    provenance: Provenance | None
    address: Target | None


class End(NamedTuple):
    items: Count


_CLASSES: Final[Mapping[RowTag, Any]] = {
    RowTag.HEAD: Head,
    RowTag.FINGERPRINT: FingerprintRow,
    RowTag.PRODUCER: ProducerRow,
    RowTag.CODE: CodeRow,
    RowTag.LANE: LaneRow,
    RowTag.RUN: RunRow,
    RowTag.LINE: LineRow,
    RowTag.AGENT: AgentRow,
    RowTag.ASK: AskRow,
    RowTag.DEADLINE: DeadlineRow,
    RowTag.TIMER: TimerRow,
    RowTag.DEAD: DeadRow,
    RowTag.OLD_RUN: OldRunRow,
    RowTag.SINGLE: SingleRow,
    RowTag.RESULT: ResultRow,
    RowTag.END: End,
}
SCHEMA: Final[Mapping[int, Shape]] = {int(tag): Shape(cls, int(tag)) for tag, cls in _CLASSES.items()}
