"""The records of the journal: what happened to the lanes, in the order in which it took effect. PURE.

A record is a canonical MessagePack array `[kind, field, ...]`. Folding the records of a journal, from the first to the
last, through the same functions that the live broker uses (`World.apply` in world.py) gives the state of the broker:
inputs and completions are written down, everything else (stamps, issues, retires, digests) follows from them.

To change a record: add a new kind and keep the reader of the old one for as long as its FORMAT_VERSION is to be read;
never change the fields of a kind that has been released; say it in docs/JOURNAL.md. Bump FORMAT_VERSION even for
changes that were never released, so that a journal of a development version is refused and not misread.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack

from rota.common.errors import JournalError
from rota.common.messages import LaneSettings, TaskRun
from rota.common.shown import told
from rota.common.work import Code, Done, Emit, Failed, Limits, Outcome, Provenance, TensorRef

FORMAT_VERSION: Final = 3


class Kind(IntEnum):
    """The first element of every record. Numbers are never reused."""

    EPOCH = 1
    OPENED = 2
    SUBMITTED = 3
    DEPLOYED = 4
    CANCELLED = 5
    VERDICT = 6
    TIMER_FIRED = 7
    WINDOW_SET = 8
    PAUSE_SET = 9
    DEAD_DROPPED = 10
    COMPLETED = 11
    MARK = 12
    DIVERGED = 13
    FINGERPRINT = 14
    SNAPSHOTTED = 15
    SEED_SET = 16


class Origin(NamedTuple):
    """Which request an input came from: producer, its number, and the digest of what it asked for."""

    producer: str
    number: int
    request: bytes


class Epoch(NamedTuple):
    """A broker started: its boot number and the versions and facts in force from here on."""

    boot: int
    now_ms: int
    facts: tuple[tuple[str, str], ...]


class Opened(NamedTuple):
    """A lane began. `seed` is explicit here, whatever the request said; `deploys` is what it starts with."""

    lane: str
    now_ms: int
    origin: Origin
    settings: LaneSettings
    paused: bool
    deploys: tuple[tuple[str, Code], ...]


class Submitted(NamedTuple):
    """A batch of tasks was stamped from `first_seq` on. `retry_of`: the dead task that it runs again, else None."""

    lane: str
    position: int
    now_ms: int
    origin: Origin
    first_seq: int
    runs: tuple[TaskRun, ...]
    retry_of: int | None


class Deployed(NamedTuple):
    """A name was bound to code."""

    lane: str
    position: int
    now_ms: int
    origin: Origin
    name: str
    code: Code


class Cancelled(NamedTuple):
    """A cancel caught a task. Cancels that came too late are not written."""

    lane: str
    position: int
    now_ms: int
    origin: Origin
    seq: int


class Verdict(NamedTuple):
    """The broker decided a task's outcome by the wall clock or by what happened to its workers."""

    lane: str
    position: int
    now_ms: int
    seq: int
    failure: str
    message: str


class TimerFired(NamedTuple):
    """A timer's time came: the message that turn `turn` emitted as its emit `index` is stamped now."""

    lane: str
    position: int
    now_ms: int
    turn: int
    index_of_emit: int


class WindowSet(NamedTuple):
    lane: str
    position: int
    now_ms: int
    origin: Origin
    window: int


class PauseSet(NamedTuple):
    lane: str
    position: int
    now_ms: int
    origin: Origin
    paused: bool


class SeedSet(NamedTuple):
    """The entropy of tasks that are executed from here on comes from another seed: how a fork begins."""

    lane: str
    position: int
    now_ms: int
    origin: Origin
    seed: bytes


class DeadDropped(NamedTuple):
    """Dead letters were forgotten; an empty list stands for all."""

    lane: str
    position: int
    now_ms: int
    origin: Origin
    seqs: tuple[int, ...]


class CompletedFold(NamedTuple):
    """Outcomes of consecutive tasks of one target, by turn, and the state that the last of them left (None:
    unchanged).
    """

    address: str
    turns: tuple[int, ...]
    outcomes: tuple[Outcome, ...]
    state: bytes | None
    provenance: Provenance | None


class Completed(NamedTuple):
    """A worker's folds completed. `fingerprint` is the number of the worker's Fingerprint record.

    `now_ms` (when the broker took it), `worker` and `elapsed_us` (as the worker said) are reports: nothing follows from
    them.
    """

    lane: str
    now_ms: int
    worker: str
    elapsed_us: int
    fingerprint: int
    folds: tuple[CompletedFold, ...]


class Fingerprint(NamedTuple):
    """A worker with these facts (versions, engine profile, device) joined; written once for each set of facts.

    Numbers are dense, from 1, over the whole journal.
    """

    number: int
    pool: str
    facts: tuple[tuple[str, str], ...]


class Mark(NamedTuple):
    """The lane digest at a turn, written now and then: whoever folds the journal must meet it."""

    lane: str
    retired: int
    digest: bytes


class Diverged(NamedTuple):
    """A task was executed twice and the second outcome was another. The first one stands; this is the report."""

    lane: str
    turn: int
    address: str
    kept: bytes
    other: bytes
    worker: str


class Snapshotted(NamedTuple):
    """A snapshot of the state after record `number` lies in the file: `size_bytes` bytes with this digest.

    `chain` is the chain digest after that record. Nothing follows from it; who holds the chain can check the snapshot.
    """

    number: int
    chain: bytes
    digest: bytes
    size_bytes: int


Record = (
    Epoch
    | Opened
    | Submitted
    | Deployed
    | Cancelled
    | Verdict
    | TimerFired
    | WindowSet
    | PauseSet
    | SeedSet
    | DeadDropped
    | Completed
    | Mark
    | Diverged
    | Fingerprint
    | Snapshotted
)

_KIND_OF: Final[dict[type, int]] = {
    Epoch: Kind.EPOCH,
    Opened: Kind.OPENED,
    Submitted: Kind.SUBMITTED,
    Deployed: Kind.DEPLOYED,
    Cancelled: Kind.CANCELLED,
    Verdict: Kind.VERDICT,
    TimerFired: Kind.TIMER_FIRED,
    WindowSet: Kind.WINDOW_SET,
    PauseSet: Kind.PAUSE_SET,
    SeedSet: Kind.SEED_SET,
    DeadDropped: Kind.DEAD_DROPPED,
    Completed: Kind.COMPLETED,
    Mark: Kind.MARK,
    Diverged: Kind.DIVERGED,
    Fingerprint: Kind.FINGERPRINT,
    Snapshotted: Kind.SNAPSHOTTED,
}
_CLASS_OF: Final[dict[int, Any]] = {int(kind): cls for cls, kind in _KIND_OF.items()}


def encode(record: Record) -> bytes:
    """Return the canonical bytes of a record."""
    kind = int(_KIND_OF[type(record)])
    if type(record) is Completed:
        folds = [(*fold[:2], [_tagged(outcome) for outcome in fold.outcomes], *fold[3:]) for fold in record.folds]
        record = record._replace(folds=folds)  # type: ignore[arg-type]
    packed: bytes = msgpack.packb((kind, *record))
    return packed


def decode(body: bytes) -> Record:
    """Return the record in `body`.

    Raises `JournalError` for anything that `encode` cannot have made: the chain digest proves that bytes are what was
    written, not that a broker of this version wrote them.
    """
    try:
        values = msgpack.unpackb(body, use_list=False, strict_map_key=True)
        cls = _CLASS_OF[values[0]]
        record: Record = _REBUILD.get(cls, cls._make)(values[1:])
        if encode(record) != body:
            raise ValueError("it is not the canonical encoding")
    except Exception as error:  # any malformed body: msgpack's errors, KeyError, TypeError, IndexError, ValueError
        raise JournalError(f"a record that no rota of this version wrote: {told(error)}") from None
    return record


def _tagged(outcome: Outcome) -> tuple[Any, ...]:
    return (0, *outcome) if type(outcome) is Done else (1, *outcome)


def _outcome(value: Any) -> Outcome:
    tag, *fields = value
    if tag == 1:
        return Failed._make(fields)
    result, state_digest, emits, log, fuel, tensors, state_bytes = fields
    return Done(result, state_digest, tuple([_emit(emit) for emit in emits]), log, fuel, _refs(tensors), state_bytes)


def _emit(value: Any) -> Emit:
    target, payload, priority, kind, tensors, delay_ms = value
    return Emit(target, payload, priority, kind, _refs(tensors), delay_ms)


def _refs(value: Any) -> tuple[TensorRef, ...]:
    return tuple([TensorRef._make(ref) for ref in value])


def _code(value: Any) -> Code:
    digest, kind, reuse, exports, limits = value
    return Code(digest, kind, reuse, exports, Limits._make(limits))


def _opened(values: Any) -> Opened:
    lane, now_ms, origin, settings, paused, deploys = values
    bound = tuple([(name, _code(code)) for name, code in deploys])
    return Opened(lane, now_ms, Origin._make(origin), LaneSettings._make(settings), paused, bound)


def _submitted(values: Any) -> Submitted:
    lane, position, now_ms, origin, first_seq, runs, retry_of = values
    rebuilt = tuple(
        [
            TaskRun(targets, priority, payloads, None if tensors is None else tuple([_refs(refs) for refs in tensors]))
            for targets, priority, payloads, tensors in runs
        ]
    )
    return Submitted(lane, position, now_ms, Origin._make(origin), first_seq, rebuilt, retry_of)


def _deployed(values: Any) -> Deployed:
    lane, position, now_ms, origin, name, code = values
    return Deployed(lane, position, now_ms, Origin._make(origin), name, _code(code))


def _completed(values: Any) -> Completed:
    lane, now_ms, worker, elapsed_us, fingerprint, folds = values
    return Completed(lane, now_ms, worker, elapsed_us, fingerprint, tuple([_fold(fold) for fold in folds]))


def _fold(value: Any) -> CompletedFold:
    address, turns, outcomes, state, provenance = value
    source = None if provenance is None else Provenance._make(provenance)
    return CompletedFold(address, turns, tuple([_outcome(outcome) for outcome in outcomes]), state, source)


def _with_origin(cls: Any) -> Any:
    return lambda values: cls(*values[:3], Origin._make(values[3]), *values[4:])


_REBUILD: Final[dict[Any, Any]] = {
    Opened: _opened,
    Submitted: _submitted,
    Deployed: _deployed,
    Completed: _completed,
    Cancelled: _with_origin(Cancelled),
    WindowSet: _with_origin(WindowSet),
    PauseSet: _with_origin(PauseSet),
    SeedSet: _with_origin(SeedSet),
    DeadDropped: _with_origin(DeadDropped),
}
