"""The records of the journal: what happened to the lanes, in the order in which it took effect. PURE.

A record is a canonical MessagePack array `[kind, field, ...]`. Folding all records of a journal with the functions of
the live broker (`World.apply` in world.py) gives the state of the broker: inputs and completions are recorded,
everything else (stamps, issues, retires, digests) follows from them.

To change a record: add a new kind, and keep the reader of the old one as long as its FORMAT_VERSION must be readable;
never change the fields of a released kind; update docs/JOURNAL.md. Increment FORMAT_VERSION even for unreleased
changes, so that a journal of a development version is refused and not misread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from rota.broker.verdicts import VERDICTS
from rota.common import limits
from rota.common.columns import Column, InColumns, kept
from rota.common.digests import ZERO_DIGEST
from rota.common.errors import JournalError
from rota.common.fields import (
    Blob,
    CodeName,
    Count,
    Counts,
    Digest,
    FailureText,
    Index,
    Name,
    Positive,
    Producer,
    Target,
    Text,
    Text32,
    Window,
    WorkerName,
    one_of,
)
from rota.common.messages import LaneSettings, TaskRun
from rota.common.outcomes import Outcomes, check_counts
from rota.common.shape import Shape
from rota.common.work import (
    TELL,
    Code,
    DelayMs,
    Done,
    Outcome,
    Provenance,
    SubmitKind,
    TensorRef,
    all_travel,
)

FORMAT_VERSION: Final = 6

Facts = Annotated[tuple[tuple[Text, Text], ...], Meta(max_length=1_024)]
Bound = Annotated[tuple[tuple[CodeName, Code], ...], Meta(max_length=limits.DEPLOYS_MAX)]


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
    COMPLETION = 11
    MARK = 12
    DIVERGED = 13
    FINGERPRINT = 14
    SNAPSHOTTED = 15
    SEED_SET = 16


class Origin(NamedTuple):
    """The request that an input came from: producer, number, and the digest of the request."""

    producer: Producer
    number: Count
    request: Digest


NOBODY: Final = Origin("", 0, ZERO_DIGEST)  # of an input that nobody asked for: only such a one has no digest


class Epoch(NamedTuple):
    """A broker started: its boot number, and the versions and facts in force from here on."""

    boot: Count
    now_ms: Count
    facts: Facts


class Opened(NamedTuple):
    """A lane was opened. `seed` is always explicit here; `deploys` are its initial bindings."""

    lane: Name
    now_ms: Count
    origin: Origin
    settings: LaneSettings
    paused: bool
    deploys: Bound


@all_travel
class Submitted(NamedTuple):
    """A batch of tasks was stamped from `first_seq` on. `retry_of`: the dead task that it runs again, else None.

    `kind` and `deadline_ms` as in Submit.
    """

    lane: Name
    position: Count
    now_ms: Count
    origin: Origin
    first_seq: Positive
    runs: Annotated[tuple[TaskRun, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
    retry_of: Count | None
    kind: SubmitKind = TELL
    deadline_ms: DelayMs = 0


class Deployed(NamedTuple):
    """A name was bound to code."""

    lane: Name
    position: Count
    now_ms: Count
    origin: Origin
    name: CodeName
    code: Code


@all_travel
class Cancelled(NamedTuple):
    """A cancel caught a task, or ended the wait for its answer. Cancels that came too late are not recorded.

    `ends`: the task itself had run and was postponed, so its effects stand; its asker, or producer, gets the failure.
    """

    lane: Name
    position: Count
    now_ms: Count
    origin: Origin
    seq: Positive
    ends: bool = False


@all_travel
class Verdict(NamedTuple):
    """The broker decided a task's outcome, by the wall clock or because of its workers.

    `log`: what workers said of a task that none could do; the log of its outcome. The message is a fixed text.
    `ends`: as in Cancelled; only of the verdict `expired`.
    """

    lane: Name
    position: Count
    now_ms: Count
    seq: Positive
    failure: Annotated[str, one_of(*VERDICTS)]
    message: FailureText
    log: Annotated[tuple[FailureText, ...], Meta(max_length=limits.TRIES_MAX)]
    ends: bool = False


class TimerFired(NamedTuple):
    """A timer fired: the message that turn `turn` emitted as its emit `index` is stamped now."""

    lane: Name
    position: Count
    now_ms: Count
    turn: Positive
    index_of_emit: Index


class WindowSet(NamedTuple):
    lane: Name
    position: Count
    now_ms: Count
    origin: Origin
    window: Window


class PauseSet(NamedTuple):
    lane: Name
    position: Count
    now_ms: Count
    origin: Origin
    paused: bool


class SeedSet(NamedTuple):
    """The entropy of tasks executed from here on comes from another seed; used at the start of a fork."""

    lane: Name
    position: Count
    now_ms: Count
    origin: Origin
    seed: Digest


class DeadDropped(NamedTuple):
    """Dead letters were dropped; an empty list means all."""

    lane: Name
    position: Count
    now_ms: Count
    origin: Origin
    seqs: Annotated[tuple[Count, ...], Meta(max_length=limits.DEAD_TASKS_MAX)]


class CompletedFold(NamedTuple):
    """Outcomes of consecutive tasks of one target, by turn, and the state after the last (None: unchanged)."""

    address: str
    turns: tuple[int, ...]
    outcomes: Sequence[Outcome]
    state: bytes | None
    provenance: Provenance | None


class FoldLeft(NamedTuple):
    """The rest of a completed fold: the number of its outcomes, and its fields other than turns and outcomes."""

    address: Target
    outcomes: Annotated[int, Meta(ge=1, le=limits.RUN_TASKS_MAX)]
    state: Blob | None
    provenance: Provenance | None


class CompletedFolds(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Completed folds: turns and outcomes of all as columns, and the rest of each fold."""

    turns: Counts
    outcomes: Outcomes
    left: Annotated[tuple[FoldLeft, ...], Meta(max_length=limits.RUN_TASKS_MAX)]

    def __post_init__(self) -> None:
        check_counts(self.outcomes, [left.outcomes for left in self.left])
        if len(self.turns) != len(self.outcomes):
            raise ValueError(f"{len(self.turns)} turns and {len(self.outcomes)} outcomes")

    @classmethod
    def of(cls, folds: Sequence[CompletedFold] | CompletedFolds) -> CompletedFolds:
        """Return folds as columns."""
        if isinstance(folds, CompletedFolds):
            return folds
        made = cls(
            tuple([turn for fold in folds for turn in fold.turns]),
            Outcomes.of([outcome for fold in folds for outcome in fold.outcomes]),
            tuple([FoldLeft(fold.address, len(fold.outcomes), fold.state, fold.provenance) for fold in folds]),
        )
        vars(made)["rows"] = tuple(folds)
        return made

    @kept
    def rows(self) -> tuple[CompletedFold, ...]:
        """The folds as single values."""
        turns, outcomes, start = self.turns, self.outcomes.rows, 0
        rows: list[CompletedFold] = []
        for address, count, state, provenance in self.left:
            end = start + count
            rows.append(CompletedFold(address, turns[start:end], outcomes[start:end], state, provenance))
            start = end
        return tuple(rows)

    def __len__(self) -> int:
        return len(self.left)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[CompletedFold]:
        return iter(self.rows)


class Completion(NamedTuple):
    """A worker's folds completed. `fingerprint` is the number of the worker's Fingerprint record.

    `now_ms` (when the broker accepted it), `worker` and `elapsed_us` (from the worker) are for information; nothing
    depends on them.
    """

    lane: Name
    now_ms: Count
    worker: WorkerName
    elapsed_us: Count
    fingerprint: Positive
    folds: Annotated[Sequence[CompletedFold] | CompletedFolds, InColumns(CompletedFolds)]


class Fingerprint(NamedTuple):
    """A worker with these facts (versions, engine profile, device) joined; recorded once for each set of facts.

    Numbers are dense, from 1, over the whole journal.
    """

    number: Positive
    pool: Text32
    facts: Facts


class Mark(NamedTuple):
    """The lane digest at a position, recorded periodically; folding the journal must give the same."""

    lane: Name
    retired: Count
    digest: Digest


class Diverged(NamedTuple):
    """A task was executed twice with different outcomes. The first one stands; this is the report."""

    lane: Name
    turn: Positive
    address: Target
    kept: Digest
    other: Digest
    worker: WorkerName


class Snapshotted(NamedTuple):
    """The log has a snapshot of the state after record `number`: `size_bytes` bytes with this digest.

    `chain` is the chain digest after that record. It changes no state; being in the chain, it authenticates the
    snapshot.
    """

    number: Count
    chain: Digest
    digest: Digest
    size_bytes: Count


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
    | Completion
    | Mark
    | Diverged
    | Fingerprint
    | Snapshotted
)

_CLASSES: Final[Mapping[Kind, Any]] = {
    Kind.EPOCH: Epoch,
    Kind.OPENED: Opened,
    Kind.SUBMITTED: Submitted,
    Kind.DEPLOYED: Deployed,
    Kind.CANCELLED: Cancelled,
    Kind.VERDICT: Verdict,
    Kind.TIMER_FIRED: TimerFired,
    Kind.WINDOW_SET: WindowSet,
    Kind.PAUSE_SET: PauseSet,
    Kind.SEED_SET: SeedSet,
    Kind.DEAD_DROPPED: DeadDropped,
    Kind.COMPLETION: Completion,
    Kind.MARK: Mark,
    Kind.DIVERGED: Diverged,
    Kind.FINGERPRINT: Fingerprint,
    Kind.SNAPSHOTTED: Snapshotted,
}
SCHEMA: Final[Mapping[int, Shape]] = {int(kind): Shape(cls, int(kind)) for kind, cls in _CLASSES.items()}
_SHAPE_OF: Final[Mapping[type, Shape]] = {shape.cls: shape for shape in SCHEMA.values()}


def named_tensors(record: Record) -> list[TensorRef]:
    """Return all tensors that a record names."""
    if isinstance(record, Submitted):
        return [ref for run in record.runs for ref in run.named_tensors]
    if isinstance(record, Completion):
        outcomes = [outcome for fold in record.folds for outcome in fold.outcomes]
        return [ref for outcome in outcomes if type(outcome) is Done for ref in outcome.named_tensors]
    return []


def encode(record: Record) -> bytes:
    """Return the canonical bytes of a record."""
    return _SHAPE_OF[type(record)].encode(record)


def decode(body: bytes) -> Record:
    """Return the record in `body`.

    Raises `JournalError` for anything that `encode` cannot have made: the chain proves that the bytes are unchanged,
    not that a broker of this version wrote them.
    """
    try:
        shape = SCHEMA.get(body[1]) if len(body) > 1 else None
        if shape is None:
            raise ValueError("it is of no kind that this version knows")
        record: Record = shape.decode(body)
        if encode(record) != body:
            raise ValueError("it is not the canonical encoding")
        _check(record)
    except (msgspec.DecodeError, ValueError) as error:
        raise JournalError(f"a record that no rota of this version wrote: {error}") from None
    return record


def _check(record: Record) -> None:
    """Raise ValueError if fields of a record contradict each other."""
    origin: Origin | None = getattr(record, "origin", None)
    if origin is not None and origin.producer and origin.request == ZERO_DIGEST:
        raise ValueError(f"request {origin.number} of producer {origin.producer!r} has no digest")
    if isinstance(record, Submitted) and bool(record.runs) == (record.retry_of is not None):
        raise ValueError("a Submitted has either runs or the dead task that it runs again")
