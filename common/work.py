"""What a worker is given and what it gives back: code, folds of tasks, outcomes. PURE.

These are the words that the broker's dispatch, the wire and both kinds of worker share. A *fold* is a row of
consecutive tasks of one target that one worker runs in one go, each task seeing the state that the one before it left
(execution model, part 3). A worker returns one outcome per task, in order; what is missing at the end was stopped.

A field's annotation is its bound on the wire and in the journal (fields.py). When a field is added here,
`docs/PROTOCOL.md` and `docs/AGENTS.md` change with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, Union, cast

from msgspec import Meta

from rota.common import limits
from rota.common.columns import Column, Sparse, Values, check_sparse, kept, sparse
from rota.common.fields import (
    Blob,
    Count,
    Digest,
    EmitsMax,
    FailureText,
    Fuel,
    GrowthBytes,
    LogLine,
    Payload,
    Priority,
    StateBytes,
    Target,
    Text,
    Text32,
    Text64,
    Text256,
    one_of,
)

# --- failure kinds (execution model, part 4) ------------------------------------------------------

DERIVED_FAILURES: Final = (
    "error",  # the agent said so
    "trap",  # the sandbox stopped it: unreachable, out of bounds, division by zero
    "fuel",  # it used up its fuel
    "memory",  # it grew past its memory limit
    "bad_output",  # what it returned is not what the ABI allows
    "unknown_agent",  # its name was not deployed in the lane when the task was issued
    "unknown_model",  # the model was not deployed in the lane when the task was issued
    "bad_input",  # the payload is not what the target can take
    "overflow",  # it grew past what its lane has room for: by emits, by state, by one more agent
)
RECORDED_FAILURES: Final = (
    "timeout",  # it ran longer than the wall clock allows
    "lost",  # its workers died until the poison cap was reached
    "cancelled",  # somebody asked for it
    "refused",  # no worker there can run its code: a model that does not load, a provider that is required and absent
    "faulted",  # no worker could do this one task: the stack or memory of the host ran out, a tensor is missing
)
FAILURE_KINDS: Final = DERIVED_FAILURES + RECORDED_FAILURES

# --- kinds of message and of code -----------------------------------------------------------------

TELL: Final = "tell"  # no reply wanted
ASK: Final = "ask"  # the outcome comes back to the sender as `reply` or `failure`
REPLY: Final = "reply"  # the result of a task that the receiver asked for
FAILURE: Final = "failure"  # the failure of a task that the receiver asked for; payload is MessagePack [kind, message]
TIMER: Final = "timer"  # a message to oneself that waits for a delay
EMIT_KINDS: Final = (TELL, ASK, TIMER)
MESSAGE_KINDS: Final = (TELL, ASK, REPLY, FAILURE, TIMER)

AGENT: Final = "agent"
FUNCTION: Final = "function"
MODEL: Final = "model"
CODE_KINDS: Final = (AGENT, FUNCTION, MODEL)

BITWISE: Final = "bitwise"
RECORDED: Final = "recorded"

Stopped = Literal["timeout", "interrupted", "refused", "faulted"]
FailureKind = Annotated[str, one_of(*FAILURE_KINDS)]
EmitKind = Annotated[str, one_of(*EMIT_KINDS)]
MessageKind = Annotated[str, one_of(*MESSAGE_KINDS)]
CodeKind = Annotated[str, one_of(*CODE_KINDS)]

T = TypeVar("T")


def all_travel(cls: type[T]) -> type[T]:
    """Have every field of a NamedTuple there when it is decoded: its defaults are for those who make one here."""
    cls._field_defaults = {}  # type: ignore[attr-defined]
    return cls


@all_travel
class Limits(NamedTuple):
    """What one task may use. Bound to the task when it is issued, so part of what the run means."""

    fuel: Annotated[int, Meta(ge=1, le=limits.FUEL_MAX)] = 1_000_000_000
    memory_bytes: Annotated[int, Meta(ge=1 << 16, le=limits.MEMORY_BYTES_MAX)] = 64 << 20
    timeout_ms: Annotated[int, Meta(ge=1, le=limits.TIMEOUT_MS_MAX)] = 10_000
    emits_max: EmitsMax = 64
    result_bytes: Annotated[int, Meta(ge=0, le=limits.OUTPUT_BYTES_MAX)] = 1 << 20
    state_bytes: Annotated[int, Meta(ge=0, le=limits.OUTPUT_BYTES_MAX)] = 1 << 20
    log_bytes: Annotated[int, Meta(ge=0, le=limits.PAYLOAD_BYTES_MAX)] = 16 << 10
    growth_bytes: GrowthBytes = limits.GROWTH_BYTES_DEFAULT  # see budget.py


@all_travel
class Code(NamedTuple):
    """What a name was bound to by a deploy: the bytes by digest, and how to call them.

    `exports` maps the roles of kind `function` (`alloc`, `call`) to the module's own export names.
    """

    digest: Digest
    kind: CodeKind
    reuse: bool = False
    exports: Annotated[tuple[tuple[Text32, Text256], ...], Meta(max_length=8)] = ()
    limits: Limits = Limits()


class TensorRef(NamedTuple):
    """A tensor by content: BLAKE3 of dtype, shape and data (32 bytes). The path is derived from it, never sent."""

    digest: Digest
    dtype: Text32
    shape: Annotated[tuple[Count, ...], Meta(max_length=limits.TENSOR_RANK_MAX)]


Tensors = Annotated[tuple[TensorRef, ...], Meta(max_length=limits.TENSORS_PER_TASK_MAX)]


class ReplyTo(NamedTuple):
    """What a reply or failure answers: the turn of the asked task, and the ask itself: its turn and its place among the
    emits of that turn. The asker knows the latter two when it asks.
    """

    turn: Count
    asked_in: Count
    emit: Count


class TaskInput(NamedTuple):
    """One task as its target sees it, how many tasks it may emit, and by how many bytes it may grow its lane (bound at
    issue; see `budget.growth_max`).
    """

    turn: Count
    kind: MessageKind
    sender: Target | None
    payload: Payload
    now_ms: Count
    reply_to: ReplyTo | None
    tensors: Tensors
    emits_max: EmitsMax
    growth_bytes: GrowthBytes


class Fold(NamedTuple):
    """Consecutive tasks of one target. `state` is what the last task before them left (None: none yet)."""

    lane_seed: bytes
    code: Code
    address: str
    state: bytes | None
    tasks: tuple[TaskInput, ...]


class Emit(NamedTuple):
    """A task that a task wants sent. `tensors` are references forwarded from the task's own; `delay_ms` is for
    timers.
    """

    target: Target
    payload: Payload
    priority: Priority
    kind: EmitKind
    tensors: Tensors
    delay_ms: Annotated[int, Meta(ge=0, le=limits.DELAY_MS_MAX)]


Emits = Annotated[tuple[Emit, ...], Meta(max_length=limits.EMITS_MAX)]
Log = Annotated[tuple[LogLine, ...], Meta(max_length=limits.LOG_LINES_MAX)]


class Done(NamedTuple):
    """The task succeeded. `state_digest` is None where the task left the state as it was. `state_bytes` is the size of
    the new state, 0 where there is none.
    """

    result: Blob | None
    state_digest: Digest | None
    emits: Emits
    log: Log
    fuel: Fuel
    tensors: Tensors
    state_bytes: StateBytes = 0

    @property
    def named_tensors(self) -> list[TensorRef]:
        """Every tensor that the result or an emitted task names."""
        return [*self.tensors, *[ref for emit in self.emits for ref in emit.tensors]]


class Failed(NamedTuple):
    """The task failed. State stays as it was and nothing is emitted."""

    kind: FailureKind
    message: FailureText
    log: Log
    fuel: Fuel


Outcome = Union[Done, Failed]  # noqa: UP007 - a runtime alias that isinstance and mypy both read

_new_tuple: Final[Any] = cast(Any, tuple).__new__  # past NamedTuple's own constructor, which takes twice as long


_DONE, _FAILED = 0, 1  # what tells the two kinds of outcome apart where both can stand


def tagged(outcome: Outcome) -> tuple[Any, ...]:
    """Return the whole of an outcome behind its tag."""
    return (_DONE, *outcome) if type(outcome) is Done else (_FAILED, *outcome)


def effect_of(outcome: Outcome) -> tuple[Any, ...]:
    """Return what of an outcome others can see, behind its tag: `(0, result, tensors, emits)`, `(1, kind, message)`."""
    if type(outcome) is Done:
        return (_DONE, outcome.result, outcome.tensors, outcome.emits)
    return (_FAILED, *outcome[:2])


def was_decided(outcome: Outcome | None) -> bool:
    """Say whether an outcome was decided by the broker or a producer, and not computed."""
    return type(outcome) is Failed and outcome.kind in RECORDED_FAILURES


_NOTHING: Final = Done(None, None, (), (), 0, ())


class Outcomes(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The outcomes of tasks in a row, as columns. A failed task has no result, no new state, no emits, no tensors."""

    results: Values
    state_digests: Values
    fuel: Annotated[tuple[Fuel, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
    failures: Sparse[tuple[FailureKind, FailureText]]
    emits: Sparse[Emits]
    logs: Sparse[Log]
    tensors: Sparse[Tensors]
    state_bytes: Annotated[tuple[StateBytes, ...], Meta(max_length=limits.RUN_TASKS_MAX)]

    def __post_init__(self) -> None:
        count = len(self.fuel)
        if not count == len(self.results) == len(self.state_digests) == len(self.state_bytes):
            raise ValueError(f"{len(self.results)} results, {len(self.state_digests)} digests, {count} of fuel")
        sizes = self.state_digests.lengths
        if sizes.count(32) + sizes.count(None) != count:
            raise ValueError("wants state digests of 32 bytes")
        if self.failures or self.emits or self.logs or self.tensors:
            self._check_sparse(count)

    def _check_sparse(self, count: int) -> None:
        for what in ("failures", "emits", "logs", "tensors"):
            check_sparse(what, getattr(self, what), count)
        succeeded = dict([*self.emits, *self.tensors])
        for index, _ in self.failures:
            left = (self.results.lengths[index], self.state_digests.lengths[index])
            if index in succeeded or left != (None, None):
                raise ValueError(f"the outcome at index {index} is a failure and a success")

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Outcomes:
        """Return outcomes as columns."""
        if isinstance(outcomes, Outcomes):
            return outcomes
        rows = tuple(outcomes)
        done = [one if type(one) is Done else _NOTHING for one in rows]  # a failure has nothing of a success
        results, digests, emits, _, _, tensors, sizes = zip(*done, strict=True) if done else ((),) * 7
        made = Outcomes(
            Values.of(results),
            Values.of(digests),
            tuple([one.fuel for one in rows]),
            sparse([() if type(one) is Done else one[:2] for one in rows]),
            sparse(emits),
            sparse([one.log for one in rows]),
            sparse(tensors),
            sizes,
        )
        made.__dict__["rows"] = rows  # they are there already
        return made

    @kept
    def rows(self) -> tuple[Outcome, ...]:
        """The outcomes, one value each."""
        common = zip(self.results, self.state_digests, self.fuel, self.state_bytes, strict=True)
        if not (self.failures or self.emits or self.logs or self.tensors):
            return tuple(
                [_new_tuple(Done, (result, left, (), (), fuel, (), size)) for result, left, fuel, size in common]
            )
        failures, emits, logs, tensors = dict(self.failures), dict(self.emits), dict(self.logs), dict(self.tensors)
        return tuple(
            [
                Done(result, left, emits.get(index, ()), logs.get(index, ()), fuel, tensors.get(index, ()), size)
                if index not in failures
                else Failed(*failures[index], logs.get(index, ()), fuel)
                for index, (result, left, fuel, size) in enumerate(common)
            ]
        )

    def __len__(self) -> int:
        return len(self.fuel)

    def __getitem__(self, index: int) -> Outcome:
        return self.rows[index]

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.rows)


class Provenance(NamedTuple):
    """Where a model's result came from (execution model, part 6). Not part of any digest."""

    result_class: Literal["bitwise", "recorded"]
    provider: Text64
    fingerprint: Digest


class FoldResult(NamedTuple):
    """What came of a fold: the outcomes of its first tasks, the last state, and why it ended early, if it did.

    `state` is the state after the last outcome, or None if no task changed it. With `stopped` None there is one
    outcome per task. `"timeout"`: the task after the last outcome ran past its limit. `"faulted"`: that task cannot be
    done here, for a reason of this host's. `"refused"`: the worker cannot run this code at all. `"interrupted"`: the
    worker was told to stop. `reason` is for the log; it is never part of an outcome.
    """

    outcomes: Sequence[Outcome]
    state: bytes | None
    stopped: Stopped | None = None
    reason: str = ""
    provenance: Provenance | None = None

    @classmethod
    def of(
        cls,
        outcomes: Sequence[Outcome],
        state: bytes | None,
        stopped: Stopped | None = None,
        reason: str = "",
        provenance: Provenance | None = None,
    ) -> FoldResult:
        """Return a result that nobody changes any more."""
        return cls(tuple(outcomes), state, stopped, reason, provenance)


NO_OUTCOMES: Final[tuple[Outcome, ...]] = ()


class FoldEnd(NamedTuple):
    """How a fold ended: how many outcomes are its own, and the other fields of its result."""

    outcomes: Annotated[int, Meta(ge=0, le=limits.RUN_TASKS_MAX)]
    state: Blob | None
    stopped: Stopped | None
    reason: Text
    provenance: Provenance | None


class FoldResults(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The results of folds: the outcomes of all of them as columns, and how each fold ended."""

    outcomes: Outcomes
    ends: Annotated[tuple[FoldEnd, ...], Meta(max_length=limits.RUN_TASKS_MAX)]

    def __post_init__(self) -> None:
        check_counts(self.outcomes, [end[0] for end in self.ends])

    @classmethod
    def of(cls, results: Sequence[FoldResult] | FoldResults) -> FoldResults:
        """Return results as columns."""
        if isinstance(results, FoldResults):
            return results
        outcomes = Outcomes.of([outcome for result in results for outcome in result.outcomes])
        made = cls(outcomes, tuple([FoldEnd(len(result.outcomes), *result[1:]) for result in results]))
        made.__dict__["rows"] = tuple(results)
        return made

    @kept
    def rows(self) -> tuple[FoldResult, ...]:
        """The results, one value each."""
        outcomes, start = self.outcomes.rows, 0
        rows = []
        for count, state, stopped, reason, provenance in self.ends:
            rows.append(FoldResult(outcomes[start : start + count], state, stopped, reason, provenance))
            start += count
        return tuple(rows)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[FoldResult]:
        return iter(self.rows)


def check_counts(outcomes: Outcomes, counts: list[int]) -> None:
    """Raise ValueError unless so many outcomes of each fold come to all of them."""
    if sum(counts) != len(outcomes):
        raise ValueError(f"the folds have {sum(counts)} outcomes, there are {len(outcomes)}")
