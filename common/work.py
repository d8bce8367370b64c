"""What a worker is given and what it gives back: code, folds of tasks, outcomes. PURE.

These are the words that the broker's dispatch, the wire and both kinds of worker share. A *fold* is a row of
consecutive tasks of one target that one worker runs in one go, each task seeing the state that the one before it left
(execution model, part 3). A worker returns one outcome per task, in order; what is missing at the end was stopped.

NamedTuples, because they travel by the hundred thousand: a MessagePack array becomes one with `_make` and no copy.
When a field is added here, `wire.py`, `docs/PROTOCOL.md` and `docs/AGENTS.md` change with it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, Union

from rota.common.limits import GROWTH_BYTES_DEFAULT

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


class Limits(NamedTuple):
    """What one task may use. Bound to the task when it is issued, so part of what the run means."""

    fuel: int = 1_000_000_000
    memory_bytes: int = 64 << 20
    timeout_ms: int = 10_000
    emits_max: int = 64
    result_bytes: int = 1 << 20
    state_bytes: int = 1 << 20
    log_bytes: int = 16 << 10
    growth_bytes: int = GROWTH_BYTES_DEFAULT  # see budget.py


class Code(NamedTuple):
    """What a name was bound to by a deploy: the bytes by digest, and how to call them.

    `exports` maps the roles of kind `function` (`alloc`, `call`) to the module's own export names.
    """

    digest: bytes
    kind: str
    reuse: bool = False
    exports: tuple[tuple[str, str], ...] = ()
    limits: Limits = Limits()


class TensorRef(NamedTuple):
    """A tensor by content: BLAKE3 of dtype, shape and data (32 bytes). The path is derived from it, never sent."""

    digest: bytes
    dtype: str
    shape: tuple[int, ...]


class ReplyTo(NamedTuple):
    """What a reply or failure answers: the turn of the asked task, and the ask itself: its turn and its place among the
    emits of that turn. The asker knows the latter two when it asks.
    """

    turn: int
    asked_in: int
    emit: int


class TaskInput(NamedTuple):
    """One task as its target sees it, how many tasks it may emit, and by how many bytes it may grow its lane (bound at
    issue; see `budget.growth_max`).
    """

    turn: int
    kind: str
    sender: str | None
    payload: bytes
    now_ms: int
    reply_to: ReplyTo | None
    tensors: tuple[TensorRef, ...]
    emits_max: int
    growth_bytes: int


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

    target: str
    payload: bytes
    priority: int
    kind: str
    tensors: tuple[TensorRef, ...]
    delay_ms: int


class Done(NamedTuple):
    """The task succeeded. `state_digest` is None where the task left the state as it was. `state_bytes` is the size of
    the new state, 0 where there is none.
    """

    result: bytes | None
    state_digest: bytes | None
    emits: tuple[Emit, ...]
    log: tuple[str, ...]
    fuel: int
    tensors: tuple[TensorRef, ...]
    state_bytes: int = 0


class Failed(NamedTuple):
    """The task failed. State stays as it was and nothing is emitted."""

    kind: str
    message: str
    log: tuple[str, ...]
    fuel: int


Outcome = Union[Done, Failed]  # noqa: UP007 - a runtime alias that isinstance and mypy both read


class Provenance(NamedTuple):
    """Where a model's result came from (execution model, part 6). Not part of any digest."""

    result_class: Literal["bitwise", "recorded"]
    provider: str
    fingerprint: bytes


class FoldResult(NamedTuple):
    """What came of a fold: the outcomes of its first tasks, the last state, and why it ended early, if it did.

    `state` is the state after the last outcome, or None if no task changed it. With `stopped` None there is one
    outcome per task. `"timeout"`: the task after the last outcome ran past its limit. `"faulted"`: that task cannot be
    done here, for a reason of this host's. `"refused"`: the worker cannot run this code at all. `"interrupted"`: the
    worker was told to stop. `reason` is for the log; it is never part of an outcome.
    """

    outcomes: tuple[Outcome, ...]
    state: bytes | None
    stopped: Literal["timeout", "interrupted", "refused", "faulted"] | None = None
    reason: str = ""
    provenance: Provenance | None = None
