"""What a worker gets and returns: code, folds of tasks, outcomes. PURE.

The broker's dispatch, the wire and both kinds of worker share these. A *fold* is a series of consecutive tasks of one
target that one worker runs in one go, each task seeing the state left by the one before (execution model, part 3). A
worker returns one outcome per task, in order; if outcomes are missing at the end, it was stopped.

A field's annotation is its bound on the wire and in the journal (fields.py). With a new field, change docs/PROTOCOL.md
and docs/AGENTS.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, Union

import msgspec
from msgspec import Meta

from rota.common import limits
from rota.common.columns import Column, kept
from rota.common.digests import pack
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
    Text32,
    Text64,
    Text256,
    one_of,
)

# --- failure kinds (execution model, part 4) ------------------------------------------------------

DERIVED_FAILURES: Final = (
    "error",  # the agent said so
    "trap",  # a trap in the sandbox: unreachable, out of bounds, division by zero
    "fuel",  # it used up its fuel
    "memory",  # it grew past its memory limit
    "bad_output",  # its output is not valid by the ABI
    "unknown_agent",  # its name was not deployed in the lane when the task was issued
    "unknown_model",  # the model was not deployed in the lane when the task was issued
    "bad_input",  # the target cannot take the payload
    "overflow",  # its lane has no room for it: for its emits, state, or a new agent
    "bad_settle",  # it settles or hands on a turn that is not its own to settle, or postpones what nobody asked for
)
RECORDED_FAILURES: Final = (
    "timeout",  # it ran longer than its timeout
    "lost",  # its workers died until the poison cap was reached
    "cancelled",  # by a request
    "refused",  # no worker can run its code: a model that does not load, a required provider that is missing
    "faulted",  # no worker could do this one task: the stack or memory of the host ran out, a tensor is missing
    "expired",  # its deadline passed before its answer came
)
OUT_OF_CALL_FUEL: Final = "out of fuel in all"  # begins the message of `fuel` of a step that had only what was left
UNABLE_FAILURES: Final = ("refused", "faulted")  # no worker could do it; the log says why
FAILURE_KINDS: Final = DERIVED_FAILURES + RECORDED_FAILURES

# --- kinds of message and of code -----------------------------------------------------------------

TELL: Final = "tell"  # no reply wanted
ASK: Final = "ask"  # the outcome comes back to the sender as `reply` or `failure`
REPLY: Final = "reply"  # the result of a task that the receiver asked for
FAILURE: Final = "failure"  # the failure of a task that the receiver asked for; payload is MessagePack [kind, message]
TIMER: Final = "timer"  # a message to oneself after a delay
EMIT_KINDS: Final = (TELL, ASK, TIMER, REPLY, FAILURE)  # the last two settle a postponed turn
MESSAGE_KINDS: Final = (TELL, ASK, REPLY, FAILURE, TIMER)
SUBMIT_KINDS: Final = (TELL, ASK)

AGENT: Final = "agent"
FUNCTION: Final = "function"
COMMAND: Final = "command"
SOURCE: Final = "source"
COMPONENT: Final = "component"
MODEL: Final = "model"
CODE_KINDS: Final = (AGENT, FUNCTION, COMMAND, SOURCE, COMPONENT, MODEL)

BITWISE: Final = "bitwise"
RECORDED: Final = "recorded"

# How sure a model's result is: see docs/INFERENCE.md. "": the worker has no certificate for it.
CERTIFICATES: Final = ("A", "B", "C", "D")

Stopped = Literal["timeout", "interrupted", "refused", "faulted", "unrepeatable"]
FailureKind = Annotated[str, one_of(*FAILURE_KINDS)]
EmitKind = Annotated[str, one_of(*EMIT_KINDS)]
MessageKind = Annotated[str, one_of(*MESSAGE_KINDS)]
SubmitKind = Annotated[str, one_of(*SUBMIT_KINDS)]
CodeKind = Annotated[str, one_of(*CODE_KINDS)]

DelayMs = Annotated[int, Meta(ge=0, le=limits.DELAY_MS_MAX)]

T = TypeVar("T")


def all_travel(cls: type[T]) -> type[T]:
    """Make every field of a NamedTuple required for decoding; the defaults of its constructor stay."""
    cls._field_defaults = {}  # type: ignore[attr-defined]
    return cls


@all_travel
class Limits(NamedTuple):
    """What one task may use. Bound to the task at issue; outcomes depend on it."""

    fuel: Annotated[int, Meta(ge=1, le=limits.FUEL_MAX)] = 1_000_000_000
    memory_bytes: Annotated[int, Meta(ge=1 << 16, le=limits.MEMORY_BYTES_MAX)] = 64 << 20
    timeout_ms: Annotated[int, Meta(ge=1, le=limits.TIMEOUT_MS_MAX)] = 10_000
    emits_max: EmitsMax = 64
    result_bytes: Annotated[int, Meta(ge=0, le=limits.OUTPUT_BYTES_MAX)] = limits.OUTPUT_BYTES_MAX
    state_bytes: Annotated[int, Meta(ge=0, le=limits.OUTPUT_BYTES_MAX)] = 1 << 20
    log_bytes: Annotated[int, Meta(ge=0, le=limits.PAYLOAD_BYTES_MAX)] = 16 << 10
    growth_bytes: GrowthBytes = limits.GROWTH_BYTES_DEFAULT  # see budget.py
    tensor_bytes: Annotated[int, Meta(ge=0, le=limits.TASK_TENSOR_BYTES_MAX)] = limits.TASK_TENSOR_BYTES_DEFAULT
    # Of an agent: turns that it has postponed and not settled.
    asks_max: Annotated[int, Meta(ge=0, le=limits.ASKS_MAX)] = limits.ASKS_DEFAULT
    # Of one call of a flow: its messages, the fuel of all its steps, the content of its messages.
    steps_max: Annotated[int, Meta(ge=1, le=limits.STEPS_MAX)] = limits.STEPS_DEFAULT
    call_fuel: Annotated[int, Meta(ge=1, le=limits.FUEL_MAX)] = limits.CALL_FUEL_DEFAULT
    call_bytes: Annotated[int, Meta(ge=0, le=limits.CALL_BYTES_MAX)] = limits.CALL_BYTES_DEFAULT


@all_travel
class Code(NamedTuple):
    """What a deploy binds to a name: the digest of the code, and how to call it.

    `exports` maps the roles of kind `function` (`alloc`, `call`, ...; code_kinds.py) to the module's own export names.
    `recorded`, for models: accept results that a repetition might not give again (class recorded); without it such a
    model is refused. `flow`: each task for the name is a call, an instance of its own (docs/EXECUTION-MODEL.md).
    """

    digest: Digest
    kind: CodeKind
    reuse: bool = False
    exports: Annotated[tuple[tuple[Text32, Text256], ...], Meta(max_length=8)] = ()
    limits: Limits = Limits()
    recorded: bool = False
    flow: bool = False


class TensorRef(NamedTuple):
    """A tensor by content: BLAKE3 of dtype, shape and data (32 bytes). Its path follows from the digest."""

    digest: Digest
    dtype: Text32
    shape: Annotated[tuple[Count, ...], Meta(max_length=limits.TENSOR_RANK_MAX)]


Tensors = Annotated[tuple[TensorRef, ...], Meta(max_length=limits.TENSORS_PER_TASK_MAX)]


class ReplyTo(NamedTuple):
    """What a reply or failure answers: the turn of the asked task, the turn that asked, and the ask's index among its
    emits. The asker knows the latter two when it asks.
    """

    turn: Count
    asked_in: Count
    emit: Count


class TaskInput(NamedTuple):
    """One task for its target, with how many tasks it may emit and by how many bytes it may grow its lane (bound at
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


class CallStep(NamedTuple):
    """An earlier message of a call of a flow. `path`: what it emitted, in short (calls.path_of)."""

    task: TaskInput
    path: Annotated[str, Meta(max_length=limits.PATH_CHARS_MAX)]


class CallSteps(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Steps as their MessagePack, one after another: a worker that has kept the guest of a call needs no more of them.

    Whatever reads them first raises `ValueError` if they are not `count` steps.
    """

    data: Blob
    count: Annotated[int, Meta(ge=0, le=limits.STEPS_MAX)]

    @classmethod
    def of(cls, steps: Sequence[CallStep]) -> CallSteps:
        """Return steps as a column."""
        if isinstance(steps, CallSteps):
            return steps
        made = cls(b"".join([pack(step) for step in steps]), len(steps))
        vars(made)["rows"] = tuple(steps)
        return made

    @kept
    def rows(self) -> tuple[CallStep, ...]:
        """The steps as single values."""
        try:
            return _STEPS.decode(_ARRAY_32 + self.count.to_bytes(4, "big") + self.data)
        except msgspec.DecodeError as error:
            raise ValueError(f"not {self.count} steps of a call: {error}") from None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> CallStep:
        return self.rows[index]

    def __iter__(self) -> Iterator[CallStep]:
        return iter(self.rows)


_ARRAY_32: Final = b"\xdd"  # MessagePack: an array whose length follows in four bytes
_STEPS: Final = msgspec.msgpack.Decoder(tuple[CallStep, ...])
NO_STEPS: Final = CallSteps(b"", 0)


class Past(NamedTuple):
    """What a call of a flow has seen before a fold, all that is needed to make its guest again.

    `alive`: how many tasks of the fold are for it while it is alive; those behind are `AFTER_END`, as is everything
    behind a step that ends the call. `fuel`: what its steps used so far.
    """

    steps: CallSteps
    alive: Count
    fuel: Fuel


class Fold(NamedTuple):
    """Consecutive tasks of one target. `state` is the state before them (None: none yet).

    `open`: the turns that the agent has postponed and not settled, ascending, before the fold: what it may settle.
    `past`: for a call of a flow, else None.
    """

    lane_seed: bytes
    code: Code
    address: str
    state: bytes | None
    tasks: tuple[TaskInput, ...]
    open: tuple[int, ...] = ()
    past: Past | None = None


@all_travel
class Emit(NamedTuple):
    """A task emitted by a task. `tensors` are among the emitting task's own.

    `delay_ms`: of a timer, its delay; of an ask, its deadline (0: none). `answers`: the turn, postponed by the emitting
    agent, that it settles (kind `reply` or `failure`, to its own address) or hands on (kind `ask`); 0: none.
    """

    target: Target
    payload: Payload
    priority: Priority
    kind: EmitKind
    tensors: Tensors
    delay_ms: DelayMs
    answers: Count = 0


Emits = Annotated[tuple[Emit, ...], Meta(max_length=limits.EMITS_MAX)]
Log = Annotated[tuple[LogLine, ...], Meta(max_length=limits.LOG_LINES_MAX)]


class Done(NamedTuple):
    """The task succeeded. `state_digest` is that of the new state, None if unchanged; `state_bytes` its size, or 0.

    `waits` not None: it is postponed, or the step of a call that goes on; it has no result and no tensors then. The
    text says where it waits, if the runtime can say (`order.py:12`), and is in no digest.
    """

    result: Blob | None
    state_digest: Digest | None
    emits: Emits
    log: Log
    fuel: Fuel
    tensors: Tensors
    state_bytes: StateBytes = 0
    waits: Text256 | None = None

    @property
    def named_tensors(self) -> list[TensorRef]:
        """All tensors that the result or an emitted task names."""
        return [*self.tensors, *[ref for emit in self.emits for ref in emit.tensors]]


class Failed(NamedTuple):
    """The task failed. Its agent's state is unchanged and nothing is emitted."""

    kind: FailureKind
    message: FailureText
    log: Log
    fuel: Fuel


Outcome = Union[Done, Failed]  # noqa: UP007 - a runtime alias that isinstance and mypy both read

_DONE, _FAILED, _POSTPONED = 0, 1, 2  # tags of the kinds of outcome

# The outcome of a message to a call that has ended.
AFTER_END: Final = Done(None, None, (), (), 0, ())


def tagged(outcome: Outcome) -> tuple[Any, ...]:
    """Return all fields of an outcome behind its tag."""
    return (_DONE, *outcome) if type(outcome) is Done else (_FAILED, *outcome)


def effect_of(outcome: Outcome) -> tuple[Any, ...]:
    """Return the visible fields of an outcome behind its tag: `(0, result, tensors, emits)`, `(1, kind, message)`, or
    `(2, None, (), emits)` if it is postponed.
    """
    if type(outcome) is Done:
        if outcome.waits is not None:
            return (_POSTPONED, None, (), outcome.emits)
        return (_DONE, outcome.result, outcome.tensors, outcome.emits)
    return (_FAILED, *outcome[:2])


def was_decided(outcome: Outcome | None) -> bool:
    """Return whether an outcome was decided by the broker or a producer, and not computed."""
    return type(outcome) is Failed and outcome.kind in RECORDED_FAILURES


def failure_text(kind: str, message: str, log: Sequence[str]) -> str:
    """Return the text of a failure for people: what no worker could do, with the last worker's reason from the log;
    what met a bound of its deploy, with the option that moves it.
    """
    if kind == "fuel":
        of, flag = (
            ("all steps of a call", "--call-fuel") if message.startswith(OUT_OF_CALL_FUEL) else ("a task", "--fuel")
        )
        return f"{message}: it used all the fuel that its deploy gives {of}; {flag} gives more"
    if kind in UNABLE_FAILURES and log:
        return f"{message}: {log[-1]}"
    if kind == "overflow":
        what = message[message.rfind("(") + 1 : -1]
    elif kind in ("bad_input", "unknown_agent", "unknown_model"):
        what = next((end for end in (NO_MODEL_PAYLOAD, NOT_DEPLOYED) if message.endswith(end)), "")
    else:
        what = kind
    return f"{message}: {_REMEDIES[what]}" if what in _REMEDIES else message


NO_MODEL_PAYLOAD: Final = "the payload is not one MessagePack value"  # ends `bad_input` of a model
NOT_DEPLOYED: Final = "was not deployed in this lane"  # ends `unknown_agent` and `unknown_model`
_REMEDIES: Final = {  # by the end of a message, as in "5, at most 4 (emits_max)"; `timeout`: by its kind
    "emits_max": "--emits allows more, or send in parts",
    "growth_bytes": "--growth allows more, or emit less",
    "asks_max": "--asks allows more; settle also what was cancelled or has expired",
    "steps_max": "--steps allows more",
    "call_bytes": "--call-bytes allows more",
    "agents_max": "a lane that is opened with --agents-max may have more",
    "timeout": "--timeout-ms allows more",
    NOT_DEPLOYED: "`rota agents --deploys` lists the names that are",
    NO_MODEL_PAYLOAD: "`rota generate`, `rota embed` and `rota classify` ask models of texts",
}


@all_travel
class Provenance(NamedTuple):
    """Where a model's result came from (execution model, part 6). Not part of any digest.

    `certificate`: the class of the model under this fingerprint, one of CERTIFICATES; A, B and C make a result
    `bitwise`, D and none (empty) leave it `recorded`. `fallback`: why it is not on the provider that the worker wanted,
    or empty.
    """

    result_class: Literal["bitwise", "recorded"]
    provider: Text64
    fingerprint: Digest
    certificate: Literal["", "A", "B", "C", "D"] = ""
    fallback: Text256 = ""


def why_not_of(code: Code, provenance: Provenance | None) -> str:
    """Return why results of this code cannot have this provenance; empty if they can.

    It is the rule by which a lane knows what it accepted: of a model each result says where it came from, only a
    certificate makes it bitwise, and one that is not is taken only by a binding that says so.
    """
    if code.kind != MODEL or provenance is None:
        what = "a provenance of what is no model" if provenance is not None else "a model's result without provenance"
        return "" if (code.kind == MODEL) == (provenance is not None) else what
    if (provenance.result_class == BITWISE) != (provenance.certificate in CERTIFICATES[:3]):
        return f"a result of class {provenance.result_class} under certificate {provenance.certificate!r}"
    if provenance.result_class == RECORDED and not code.recorded:
        return "a result of class recorded, which its binding does not accept"
    return ""


class FoldResult(NamedTuple):
    """The result of a fold: the outcomes of its first tasks, the last state, and why it ended early, if it did.

    `state` is the state after the last outcome, or None if no task changed it. If `stopped` is None, there is one
    outcome per task. `"timeout"`: the task after the last outcome timed out. `"faulted"`: that task cannot be done
    here, because of this host. `"refused"`: the worker cannot run this code at all. `"unrepeatable"`: it could, but the
    results of the model are of class recorded, which the code does not accept. `"interrupted"`: the worker was told to
    stop. `reason` is for the log; it is never part of an outcome.
    """

    outcomes: Sequence[Outcome]
    state: bytes | None
    stopped: Stopped | None = None
    reason: str = ""
    provenance: Provenance | None = None


NO_OUTCOMES: Final[tuple[Outcome, ...]] = ()
