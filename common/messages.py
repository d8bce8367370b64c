"""Every message of the protocol, one NamedTuple each. PURE.

There are four conversations, each with its own socket: producers with the broker (*frontend*), workers with the broker
(*backend*), read-only queries (*query*), and *events* (PUB, advisory). wire.py encodes and decodes these and checks the
annotations (fields.py); change docs/PROTOCOL.md with them. Fields are only added at the end, with a new protocol
version.

`number` matches a reply to its request. On requests that are inputs to a lane (Submit, OpenLane, Deploy, Cancel,
SetPaused, SetWindow, DeadDrop) it is also the producer's idempotency number: the same number with the same content gets
the same answer, within the last NUMBERS_KEPT_MAX numbers, across reconnects and restarts of the broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Annotated, Final, Literal, NamedTuple

from msgspec import Meta

from rota.common import limits
from rota.common.assignments import FoldAssignment
from rota.common.columns import (
    Addresses,
    Blobs,
    Column,
    InColumns,
    Sparse,
    Stretches,
    Values,
    check_sparse,
    kept,
    new_tuple,
    sparse,
    spread,
    stretches,
    value_at,
)
from rota.common.events import Happened, topic_of
from rota.common.fields import (
    CodeName,
    Content,
    Count,
    Counts,
    Digest,
    FailureText,
    Name,
    Pid,
    PieceText,
    Plain,
    PlainMap,
    Positive,
    Priority,
    Producer,
    Target,
    Text,
    Text64,
    Text256,
    Text512,
    Window,
    WorkerName,
    one_of,
)
from rota.common.outcomes import FoldResults
from rota.common.work import (
    TELL,
    Code,
    DelayMs,
    FailureKind,
    FoldResult,
    Log,
    Provenance,
    SubmitKind,
    TensorRef,
    Tensors,
    all_travel,
)

QUERIES: Final = (
    "status",  # {}: numbers of the broker, its journal, lanes and workers
    "lanes",  # {}: every lane with settings, counts and digest
    "agents",  # {lane, name?, limit?}: agents with state size and digest
    "agent",  # {lane, address}: one agent, its state included
    "workers",  # {}: every worker with what it runs
    "deploys",  # {lane}: names and what they are bound to
    "uses",  # {digest in hex}: the lanes that need code
    "tasks",  # {lane, state?, limit?}: waiting, issued, running, completed tasks
    "task",  # {seq}: one task
    "dead",  # {lane, limit?}: dead letters
    "asks",  # {lane, older_ms?, after?, limit?}: open asks, who waits for whom, and cycles
    "digest",  # {lane}: retired count and lane digest
)

_ARGUMENTS_MAX: Final = 16

# --- parts of messages ----------------------------------------------------------------------------


class TaskRun(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Tasks submitted together and kept together: one header, many payloads.

    `targets` is one address for all, or one per payload. `tensors` are the references of tasks that have some.
    """

    targets: Target | Addresses
    priority: Priority
    payloads: Blobs
    tensors: Sparse[Tensors]

    def __post_init__(self) -> None:
        count = len(self.payloads)
        if count == 0:
            raise ValueError("a run holds at least one payload")
        if type(self.targets) is Addresses and len(self.targets) != count:
            raise ValueError(f"{len(self.targets)} targets for {count} payloads")
        check_sparse("tensors", self.tensors, count)

    @classmethod
    def of(
        cls,
        targets: str | Sequence[str],
        priority: int,
        payloads: Iterable[bytes],
        tensors: Sequence[tuple[TensorRef, ...]] | None = None,
    ) -> TaskRun:
        """Return a run from one value per task; `tensors` None: no task has any."""
        where = targets if isinstance(targets, str) else Addresses.of(targets)
        return cls(where, priority, Blobs.of(payloads), sparse(tensors or ()))

    @property
    def named_tensors(self) -> list[TensorRef]:
        """All tensors that its tasks name."""
        return [ref for _, refs in self.tensors for ref in refs]


@all_travel
class LaneSettings(NamedTuple):
    """The settings of a lane. They are journaled, since outcomes depend on them."""

    # "derived": retire from the head of the line; "recorded": retire as completed, order journaled
    policy: Annotated[str, one_of("derived", "recorded")] = "derived"
    window: Window = limits.WINDOW_TASKS_DEFAULT
    tasks_max: Annotated[int, Meta(ge=1, le=1 << 32)] = limits.LANE_TASKS_DEFAULT
    starvation_passes: Annotated[int, Meta(ge=1, le=1 << 32)] = limits.STARVATION_PASSES_DEFAULT
    seed: Digest | None = None  # None: the digest of the lane's name
    bytes_max: Annotated[int, Meta(ge=limits.LANE_BYTES_MIN, le=limits.LANE_BYTES_MAX)] = (
        limits.LANE_BYTES_DEFAULT
    )  # of tasks, timers, states
    agents_max: Annotated[int, Meta(ge=1, le=limits.LANE_AGENTS_MAX)] = limits.LANE_AGENTS_DEFAULT


class ResultItem(NamedTuple):
    """The outcome of one task for its producer, without emits and state."""

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


class ResultRows(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Outcomes of tasks of one lane as columns, a `ResultItem` each."""

    lane: Name
    seqs: Counts
    turns: Counts
    attempts: Counts
    results: Values
    failures: Sparse[tuple[FailureKind, Text]]
    logs: Sparse[Log]
    tensors: Sparse[Tensors]
    provenances: Stretches[Provenance | None]

    def __post_init__(self) -> None:
        count = len(self.seqs)
        if not count == len(self.turns) == len(self.attempts) == len(self.results):
            raise ValueError(f"{count} seqs, {len(self.turns)} turns, {len(self.results)} results")
        if self.provenances and sum([times for times, _ in self.provenances]) != count:
            raise ValueError(f"{sum([times for times, _ in self.provenances])} provenances for {count} results")
        if self.failures or self.logs or self.tensors:
            self._check_sparse(count)

    def _check_sparse(self, count: int) -> None:
        for what in ("failures", "logs", "tensors"):
            check_sparse(what, getattr(self, what), count)
        if any(self.results.lengths[index] is not None or value_at(self.tensors, index) for index, _ in self.failures):
            raise ValueError("a failure has a result")

    @classmethod
    def of(cls, items: Sequence[ResultItem]) -> ResultRows:
        """Return items of one lane as columns."""
        seqs, lanes, turns, attempts, ok, results, tensors, _, _, logs, sources = zip(*items, strict=True)
        failures = () if all(ok) else sparse([() if item.ok else (item.kind, item.message) for item in items])
        return cls(
            lanes[0],
            seqs,
            turns,
            attempts,
            Values.of(results),
            failures,
            sparse(logs),
            sparse(tensors),
            stretches(sources),
        )

    def __len__(self) -> int:
        return len(self.seqs)

    def __iter__(self) -> Iterator[ResultItem]:
        return iter(self._items)

    @kept
    def _items(self) -> list[ResultItem]:
        lane = self.lane
        common = zip(self.seqs, self.turns, self.attempts, self.results, spread(self.provenances), strict=False)
        if not (self.failures or self.logs or self.tensors):
            return [
                new_tuple(ResultItem, (seq, lane, turn, attempts, True, result, (), "", "", (), source))
                for seq, turn, attempts, result, source in common
            ]
        failures, logs, tensors = dict(self.failures), dict(self.logs), dict(self.tensors)
        items: list[ResultItem] = []
        for index, (seq, turn, attempts, result, source) in enumerate(common):
            kind, message = failures.get(index, ("", ""))
            refs, log = tensors.get(index, ()), logs.get(index, ())
            items.append(ResultItem(seq, lane, turn, attempts, not kind, result, refs, kind, message, log, source))
        return items


# --- frontend: producer to broker -----------------------------------------------------------------


class Hello(NamedTuple):
    """The first message of a connection, and its heartbeat. Answered by Welcome."""

    number: Count
    producer: Producer


@all_travel
class Submit(NamedTuple):
    """An atomic batch of tasks. `wait`: send the results without an Await. `now_ms`: pin the time of the input.

    `kind`: what its tasks are. `deadline_ms`: they fail as `expired` if they have no final outcome so long after the
    input (0: no deadline).
    """

    number: Count
    lane: Name
    runs: Annotated[tuple[TaskRun, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
    wait: bool
    now_ms: Count | None
    retry_of: Count | None  # the dead task that this submit runs again; `runs` is then empty
    kind: SubmitKind = TELL
    deadline_ms: DelayMs = 0


class OpenLane(NamedTuple):
    """Open a lane. `deploys_from`: start with the current bindings of that lane (None: with none)."""

    number: Count
    lane: Name
    settings: LaneSettings
    paused: bool
    deploys_from: Name | None


class Keep(NamedTuple):
    """Keep a module, component or bundle, for deploys that name it. No input of a lane; sending it again does no harm.

    `digest` is that of `data`.
    """

    number: Count
    digest: Digest
    data: Content


class Deploy(NamedTuple):
    """Bind a name to code in a lane. Refused with `not_kept` while the broker does not have the code's bytes."""

    number: Count
    lane: Name
    name: CodeName
    code: Code
    check: bool  # have a worker compile or load it first, and answer with its findings


class Cancel(NamedTuple):
    """Cancel a task that has not completed. Answered by `{"caught": bool}`."""

    number: Count
    seq: Count


class SetPaused(NamedTuple):
    """Pause (no task is issued) or release a lane."""

    number: Count
    lane: Name
    paused: bool


class SetWindow(NamedTuple):
    """Change how many tasks the line of a lane can hold."""

    number: Count
    lane: Name
    window: Window


class DeadDrop(NamedTuple):
    """Drop dead letters of a lane: those of these seqs, or all if the list is empty. Answered by `{"dropped": int}`."""

    number: Count
    lane: Name
    seqs: Annotated[tuple[Count, ...], Meta(max_length=limits.DEAD_TASKS_MAX)]


class Await(NamedTuple):
    """Send the results of these tasks when they exist. Answered by Results, and by Refused for those not kept."""

    number: Count
    first_seq: Positive
    tasks: Positive


class Drain(NamedTuple):
    """Accept no more Submits (or accept them again), broker-wide. Answered when it is in force."""

    number: Count
    draining: bool


# --- frontend: broker to producer -----------------------------------------------------------------


class Welcome(NamedTuple):
    """The answer to Hello. A changed `boot` means a new broker: send Await again for what is outstanding."""

    number: Count
    boot: Count
    version: Text64


class Accepted(NamedTuple):
    """The input is durable. For a Submit: the seq of its first task, and how many there are; else 0 and 0."""

    number: Count
    first_seq: Count
    tasks: Count


@all_travel
class Answer(NamedTuple):
    """The answer to a request with a value: MessagePack of plain values."""

    number: Count
    value: Plain
    boot: Count = 0
    event: Count = 0  # of a query: it is true at this event of this boot; follow from there


class Refused(NamedTuple):
    """The request was refused and had no effect. `code` is stable (errors.py)."""

    number: Count
    code: Text64
    message: Text
    fields: PlainMap


class Results(NamedTuple):
    """Final and durable outcomes, in no particular order."""

    batches: Annotated[tuple[ResultRows, ...], Meta(max_length=limits.RUN_TASKS_MAX)]

    @classmethod
    def of(cls, items: Iterable[ResultItem]) -> Results:
        """Return items as columns, grouping consecutive ones of one lane."""
        found = list(items)
        lanes = [list(rows) for _, rows in groupby(found, lambda item: item.lane)]
        return cls(tuple([ResultRows.of(rows) for rows in lanes]))

    @property
    def items(self) -> Iterator[ResultItem]:
        """The outcomes, one after another."""
        return chain.from_iterable(self.batches)


# --- query ----------------------------------------------------------------------------------------


class Query(NamedTuple):
    """A read-only query: `what` is one of QUERIES, `arguments` as in docs/PROTOCOL.md. Answered by Answer, Refused."""

    number: Count
    what: Annotated[str, one_of(*QUERIES)]
    arguments: Annotated[PlainMap, Meta(max_length=_ARGUMENTS_MAX)]


# --- backend: worker to broker --------------------------------------------------------------------


@all_travel
class Register(NamedTuple):
    """A worker registers, with its capacity. `host` identifies machine and pid namespace: if it is the broker's, the
    broker notices the worker's death by its pid.
    """

    worker: WorkerName
    pool: Literal["cpu", "gpu"]
    slots: Annotated[int, Meta(ge=1, le=limits.RUN_TASKS_MAX)]  # tasks it takes at once, running and waiting
    bytes_max: Count  # payload and state bytes it takes at once
    host: Text512
    pid: Pid
    fingerprint: PlainMap
    boot: Count  # of the last broker that it was registered with, 0 if none
    holds: Counts  # assignments that it still works on
    # that it takes at once: more than one runs and one waits only if it advances several together
    assignments_max: Annotated[int, Meta(ge=1, le=limits.ASSIGNMENTS_MAX)] = limits.ASSIGNMENTS_PER_WORKER


class Preparation(NamedTuple):
    """Code that a worker is compiling or loading, for an assignment (0: for a Prepare)."""

    assignment: Count
    address: Target
    elapsed_ms: Count


class ModelNumbers(NamedTuple):
    """What a worker says of a model that it has loaded: counters since the load, for people. Never part of a result."""

    address: Target  # under which it was loaded
    digest: Digest
    provider: Text64
    fallback: Text256  # why it is not on the provider that the worker wanted, or empty
    certificate: Literal["", "A", "B", "C", "D"]
    held_bytes: Count  # of its weights and buffers
    calls: Count  # runs of the graph
    rows: Count  # that these runs computed, without padding
    tokens_prefilled: Count
    tokens_cached: Count  # that a cached prefix saved
    tokens_generated: Count


@all_travel
class Heartbeat(NamedTuple):
    """The worker is alive; also says what delays it, at once when that changes. Answered by HeartbeatAck.

    `stuck`: assignments, answered or not, in which its executor did not stop on an interrupt. The worker accepts no
    work until there are none. `preparing`: what it compiles or loads besides its work. `models`: those it has loaded.
    """

    worker: WorkerName
    boot: Count
    stuck: Annotated[tuple[Count, ...], Meta(max_length=limits.ASSIGNMENTS_HELD_MAX)] = ()
    preparing: Annotated[tuple[Preparation, ...], Meta(max_length=limits.PREPARATIONS_MAX)] = ()
    models: Annotated[tuple[ModelNumbers, ...], Meta(max_length=limits.MODELS_SHOWN_MAX)] = ()


class StreamedPiece(NamedTuple):
    """Text that a running task has generated, from this offset in characters on. It replaces earlier text from there
    on: a task that runs again begins at 0 again.
    """

    assignment: Count
    turn: Count
    offset: Count
    text: PieceText


class Streamed(NamedTuple):
    """What running tasks of a worker have generated since the last one. Advisory: the result is what counts."""

    worker: WorkerName
    pieces: Annotated[tuple[StreamedPiece, ...], Meta(max_length=limits.STREAM_PIECES_MAX)]


class Completed(NamedTuple):
    """An assignment has ended: one FoldResult per fold, in order. `elapsed_us`: time spent running it."""

    worker: WorkerName
    assignment: Count
    folds: Annotated[Sequence[FoldResult] | FoldResults, InColumns(FoldResults)]
    elapsed_us: Count


class Prepared(NamedTuple):
    """The answer to Prepare: the executor's description of the code, or why it cannot be used."""

    worker: WorkerName
    number: Count
    ok: bool
    info: PlainMap
    message: FailureText


class Goodbye(NamedTuple):
    """The worker leaves: it accepts nothing more, and has returned or finished its work."""

    worker: WorkerName
    draining: bool  # True: finishing what it holds; False: gone now


# --- backend: broker to worker --------------------------------------------------------------------


class Registered(NamedTuple):
    """The worker is registered. Assignments named in `dropped` are no longer wanted."""

    boot: Count
    heartbeat_ms: Count
    dropped: Counts


class HeartbeatAck(NamedTuple):
    """The broker is alive. Another `boot`, or `known` False: register again."""

    boot: Count
    known: bool


class Assign(NamedTuple):
    """Folds to run, all of one lane. Answered by one Completed."""

    assignment: Count
    seed: Digest
    codes: Annotated[tuple[Code, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
    folds: Annotated[tuple[FoldAssignment, ...], Meta(max_length=limits.RUN_TASKS_MAX)]


class Revoke(NamedTuple):
    """The assignment is no longer wanted: stop it; answering with what is done is optional."""

    assignment: Count


class Prepare(NamedTuple):
    """Load this code and check that it can be used. Answered by Prepared."""

    number: Count
    address: Target
    code: Code


# --- events ---------------------------------------------------------------------------------------


class Event(NamedTuple):
    """Something that happened, for watchers. `event` is dense per boot, so a gap means lost events."""

    boot: Count
    event: Count  # 0: not counted, and not missed if it is lost
    now_ms: Count
    lane: Text64  # or empty
    what: Happened

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return topic_of(self.what)


FrontendRequest = Hello | Submit | OpenLane | Keep | Deploy | Cancel | SetPaused | SetWindow | DeadDrop | Await | Drain
FrontendReply = Welcome | Accepted | Answer | Refused | Results
WorkerMessage = Register | Heartbeat | Streamed | Completed | Prepared | Goodbye
WorkerOrder = Registered | HeartbeatAck | Assign | Revoke | Prepare | Refused
Message = FrontendRequest | FrontendReply | Query | WorkerMessage | WorkerOrder | Event
