"""Every message of the protocol, one NamedTuple each. PURE.

Four conversations, each with its own socket: producers with the broker (*frontend*), workers with the broker
(*backend*), read-only questions (*query*), and *events* (PUB, advisory). `wire.py` turns these into bytes and back
and checks every field; the table there and docs/PROTOCOL.md change together with this file. Fields only ever grow at
the end, and only with a new protocol version.

`number` pairs a reply with its request. On requests that are inputs to a lane (Submit, OpenLane, Deploy, Cancel,
SetPaused, SetWindow, DeadDrop) it is also the idempotency number of the producer: the same number with the same content
gets the same answer, for ever within NUMBERS_KEPT_MAX, across reconnects and restarts of the broker.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rota.common import limits
from rota.common.work import Code, FoldResult, Provenance, ReplyTo, TensorRef

# --- parts of messages ----------------------------------------------------------------------------


class TaskRun(NamedTuple):
    """Tasks that were submitted together and stay together: one header, many payloads.

    `targets` is one address for all, or one per payload. `tensors` is None or one tuple of references per payload.
    """

    targets: str | tuple[str, ...]
    priority: int
    payloads: tuple[bytes, ...]
    tensors: tuple[tuple[TensorRef, ...], ...] | None


class LaneSettings(NamedTuple):
    """What a lane is opened with; part of its journal, so part of what its run means."""

    policy: str = (
        "derived"  # "derived": retire from the head of the line; "recorded": retire as completed, order journaled
    )
    window: int = limits.WINDOW_TASKS_DEFAULT
    tasks_max: int = limits.LANE_TASKS_DEFAULT
    starvation_passes: int = limits.STARVATION_PASSES_DEFAULT
    seed: bytes | None = None  # None: the digest of the lane's name
    bytes_max: int = limits.LANE_BYTES_DEFAULT  # of tasks, timers and states
    agents_max: int = limits.LANE_AGENTS_DEFAULT


class Segment(NamedTuple):
    """Tasks of one fold that share a header. `tensors` is None or one tuple of references per task."""

    kind: str
    sender: str | None
    now_ms: int
    reply_to: ReplyTo | None
    emits_max: int
    growth_bytes: int
    turns: tuple[int, ...]
    payloads: tuple[bytes, ...]
    tensors: tuple[tuple[TensorRef, ...], ...] | None


class FoldAssignment(NamedTuple):
    """One fold of an Assign. `code` is an index into the assignment's table of codes."""

    code: int
    address: str
    state: bytes | None
    segments: tuple[Segment, ...]


class ResultItem(NamedTuple):
    """The outcome of one task, as a producer gets it. What it emitted and its state are not in it."""

    seq: int
    lane: str
    turn: int
    attempts: int
    ok: bool
    result: bytes | None  # None: the task succeeded without a result, or failed
    tensors: tuple[TensorRef, ...]
    kind: str  # of the failure, or ""
    message: str
    log: tuple[str, ...]
    provenance: Provenance | None


# --- frontend: producer to broker -----------------------------------------------------------------


class Hello(NamedTuple):
    """First message of a connection, and its heartbeat. Answered by Welcome."""

    number: int
    producer: str


class Submit(NamedTuple):
    """A batch of tasks, accepted all or none. `wait`: send the results without being asked. `now_ms`: pin the time of
    the input.
    """

    number: int
    lane: str
    runs: tuple[TaskRun, ...]
    wait: bool
    now_ms: int | None
    retry_of: int | None  # the dead task that this submit runs again; `runs` is then empty


class OpenLane(NamedTuple):
    """Open a lane. `deploys_from`: start with the names that are bound in that lane now (None: with none)."""

    number: int
    lane: str
    settings: LaneSettings
    paused: bool
    deploys_from: str | None


class Deploy(NamedTuple):
    """Bind a name to code in a lane. `module`: the bytes of a WASM module, unless the broker has them by their
    digest.
    """

    number: int
    lane: str
    name: str
    code: Code
    module: bytes | None
    check: bool  # let a worker compile or load it first, and answer with what it says


class Cancel(NamedTuple):
    """Catch a task that has not completed. Answered by `{"caught": bool}`."""

    number: int
    seq: int


class SetPaused(NamedTuple):
    """Pause (no task is issued) or release a lane."""

    number: int
    lane: str
    paused: bool


class SetWindow(NamedTuple):
    """Change how many tasks the line of a lane can hold."""

    number: int
    lane: str
    window: int


class DeadDrop(NamedTuple):
    """Forget dead letters of a lane: those of these seqs, or all with an empty list. Answered by `{"dropped": int}`."""

    number: int
    lane: str
    seqs: tuple[int, ...]


class Await(NamedTuple):
    """Send the results of these tasks, now or when they are there. Answered by Results, and by Refused for what is
    not kept.
    """

    number: int
    first_seq: int
    tasks: int


class Drain(NamedTuple):
    """Take no more Submits (or take them again), broker-wide. Answered when it is in force."""

    number: int
    draining: bool


# --- frontend: broker to producer -----------------------------------------------------------------


class Welcome(NamedTuple):
    """The broker's side of Hello. A changed `boot` means a new broker: await again what is outstanding."""

    number: int
    boot: int
    version: str


class Accepted(NamedTuple):
    """The input is durable. For a Submit: the seq of its first task, and how many there are; else 0 and 0."""

    number: int
    first_seq: int
    tasks: int


class Answer(NamedTuple):
    """The answer to a request that is not just accepted: MessagePack of plain values."""

    number: int
    value: Any


class Refused(NamedTuple):
    """The request was not carried out; nothing of it took effect. `code` is stable (errors.py)."""

    number: int
    code: str
    message: str
    fields: dict[str, Any]


class Results(NamedTuple):
    """Outcomes that are final and durable, in no promised order."""

    items: tuple[ResultItem, ...]


# --- query ----------------------------------------------------------------------------------------


class Query(NamedTuple):
    """A read-only question: `what` is one of QUERIES, `arguments` as docs/PROTOCOL.md says. Answered by Answer or
    Refused.
    """

    number: int
    what: str
    arguments: dict[str, Any]


# --- backend: worker to broker --------------------------------------------------------------------


class Register(NamedTuple):
    """A worker is here, and can hold so much. `host` names machine and process space: on the broker's own, death is
    seen by pid.
    """

    worker: str
    pool: str  # "cpu" or "gpu"
    slots: int  # tasks it takes at once, running and waiting
    bytes_max: int  # payload and state bytes it takes at once
    host: str
    pid: int
    fingerprint: dict[str, Any]
    boot: int  # of the broker it spoke with before, 0 if none
    holds: tuple[int, ...]  # assignments it still works on


class Preparation(NamedTuple):
    """Code that a worker compiles or loads now, for an assignment (0: for a Prepare)."""

    assignment: int
    address: str
    elapsed_ms: int


class Heartbeat(NamedTuple):
    """The worker lives, and says what holds it up; sent at once when that changes. Answered by HeartbeatAck.

    `stuck`: assignments that its executor does not come out of although it was told to stop, answered or not. The
    worker takes nothing until there are none. `preparing`: what it compiles or loads beside its work.
    """

    worker: str
    boot: int
    stuck: tuple[int, ...] = ()
    preparing: tuple[Preparation, ...] = ()


class Completed(NamedTuple):
    """An assignment ended: one FoldResult per fold, in order. `elapsed_us`: time spent running it."""

    worker: str
    assignment: int
    folds: tuple[FoldResult, ...]
    elapsed_us: int


class Prepared(NamedTuple):
    """The answer to Prepare: what the code looks like to its executor, or why it cannot be used."""

    worker: str
    number: int
    ok: bool
    info: dict[str, Any]
    message: str


class Goodbye(NamedTuple):
    """The worker leaves on purpose: it takes nothing more and has given back or finished what it held."""

    worker: str
    draining: bool  # True: finishing what it holds; False: gone now


# --- backend: broker to worker --------------------------------------------------------------------


class Registered(NamedTuple):
    """The broker knows the worker. Assignments named in `dropped` are no longer wanted."""

    boot: int
    heartbeat_ms: int
    dropped: tuple[int, ...]


class HeartbeatAck(NamedTuple):
    """The broker lives. Another `boot`, or `known` False: register again."""

    boot: int
    known: bool


class Assign(NamedTuple):
    """Folds to run, all of one lane. Answered by one Completed."""

    assignment: int
    seed: bytes
    codes: tuple[Code, ...]
    folds: tuple[FoldAssignment, ...]


class Revoke(NamedTuple):
    """The assignment is no longer wanted: stop it, answer with what is done or not at all."""

    assignment: int


class Prepare(NamedTuple):
    """Load this code and say whether it can be used. Answered by Prepared."""

    number: int
    address: str
    code: Code


# --- events ---------------------------------------------------------------------------------------


class Event(NamedTuple):
    """Something that happened, for whoever watches. `event` is dense per boot: a gap tells a watcher that it missed
    some.
    """

    boot: int
    event: int
    now_ms: int
    topic: str
    lane: str
    fields: dict[str, Any]


FrontendRequest = Hello | Submit | OpenLane | Deploy | Cancel | SetPaused | SetWindow | DeadDrop | Await | Drain
FrontendReply = Welcome | Accepted | Answer | Refused | Results
WorkerMessage = Register | Heartbeat | Completed | Prepared | Goodbye
WorkerOrder = Registered | HeartbeatAck | Assign | Revoke | Prepare | Refused
Message = FrontendRequest | FrontendReply | Query | WorkerMessage | WorkerOrder | Event

QUERIES = (
    "status",  # {}: the broker, its journal, lanes and workers in numbers
    "lanes",  # {}: every lane with settings, counts and digest
    "agents",  # {lane, name?, limit?}: agents with state size and digest
    "agent",  # {lane, address}: one agent, its state included
    "workers",  # {}: every worker with what it runs
    "deploys",  # {lane}: names and what they are bound to
    "tasks",  # {lane, state?, limit?}: waiting, issued, running, completed tasks
    "task",  # {seq}: one task
    "dead",  # {lane, limit?}: dead letters
    "digest",  # {lane}: retired count and lane digest
)
TOPICS = ("lane", "task", "worker", "journal", "divergence")
