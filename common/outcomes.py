"""The outcomes of many tasks, and the results of many folds, as columns. PURE.

Messages and records of completions hold these columns (columns.py); work.py has the values of single tasks and folds.
With a new field, change docs/PROTOCOL.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, NamedTuple

from msgspec import Meta

from rota.common import limits
from rota.common.columns import Column, Sparse, Values, check_sparse, kept, new_tuple, sparse
from rota.common.fields import Blob, FailureText, Fuel, StateBytes, Text256
from rota.common.work import (
    Done,
    Emits,
    Failed,
    FailureKind,
    FoldResult,
    Log,
    Outcome,
    Provenance,
    Stopped,
    Tensors,
)

_NOTHING: Final = Done(None, None, (), (), 0, ())


class Outcomes(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The outcomes of consecutive tasks as columns. A failed task has no result, new state, emits or tensors."""

    results: Values
    state_digests: Values
    fuel: Annotated[tuple[Fuel, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
    failures: Sparse[tuple[FailureKind, FailureText]]
    emits: Sparse[Emits]
    logs: Sparse[Log]
    tensors: Sparse[Tensors]
    state_bytes: Annotated[tuple[StateBytes, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
    waits: Sparse[Text256]  # of postponed tasks

    def __post_init__(self) -> None:
        count = len(self.fuel)
        if not count == len(self.results) == len(self.state_digests) == len(self.state_bytes):
            raise ValueError(f"{len(self.results)} results, {len(self.state_digests)} digests, {count} of fuel")
        sizes = self.state_digests.lengths
        if sizes.count(32) + sizes.count(None) != count:
            raise ValueError("wants state digests of 32 bytes")
        if self.failures or self.emits or self.logs or self.tensors or self.waits:
            self._check_sparse(count)

    def _check_sparse(self, count: int) -> None:
        for what in ("failures", "emits", "logs", "tensors", "waits"):
            check_sparse(what, getattr(self, what), count)
        succeeded: dict[int, Any] = dict([*self.emits, *self.tensors, *self.waits])
        answered = dict(self.tensors)
        for index, _ in self.waits:
            if index in answered or self.results.lengths[index] is not None:
                raise ValueError(f"the outcome at index {index} is postponed and has a result")
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
        done = [one if type(one) is Done else _NOTHING for one in rows]  # a failure has no fields of a success
        results, digests, emits, _, _, tensors, sizes, waits = zip(*done, strict=True) if done else ((),) * 8
        made = Outcomes(
            Values.of(results),
            Values.of(digests),
            tuple([one.fuel for one in rows]),
            sparse([() if type(one) is Done else one[:2] for one in rows]),
            sparse(emits),
            sparse([one.log for one in rows]),
            sparse(tensors),
            sizes,
            tuple([(index, text) for index, text in enumerate(waits) if text is not None]),
        )
        vars(made)["rows"] = rows  # cached, since they exist already
        return made

    @kept
    def rows(self) -> tuple[Outcome, ...]:
        """The outcomes as single values."""
        common = zip(self.results, self.state_digests, self.fuel, self.state_bytes, strict=True)
        if not (self.failures or self.emits or self.logs or self.tensors or self.waits):
            return tuple(
                [new_tuple(Done, (result, left, (), (), fuel, (), size, None)) for result, left, fuel, size in common]
            )
        failures, emits, logs, tensors = dict(self.failures), dict(self.emits), dict(self.logs), dict(self.tensors)
        waits = dict(self.waits)
        rows: list[Outcome] = []
        for index, (result, left, fuel, size) in enumerate(common):
            log = logs.get(index, ())
            if index in failures:
                rows.append(Failed(*failures[index], log, fuel))
            else:
                named = tensors.get(index, ())
                rows.append(Done(result, left, emits.get(index, ()), log, fuel, named, size, waits.get(index)))
        return tuple(rows)

    def __len__(self) -> int:
        return len(self.fuel)

    def __getitem__(self, index: int) -> Outcome:
        return self.rows[index]

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.rows)


class FoldEnd(NamedTuple):
    """The end of a fold: the number of its outcomes, and the other fields of its result."""

    outcomes: Annotated[int, Meta(ge=0, le=limits.RUN_TASKS_MAX)]
    state: Blob | None
    stopped: Stopped | None
    reason: FailureText
    provenance: Provenance | None


class FoldResults(Column, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """The results of folds: all their outcomes as columns, and the end of each fold."""

    outcomes: Outcomes
    ends: Annotated[tuple[FoldEnd, ...], Meta(max_length=limits.RUN_TASKS_MAX)]

    def __post_init__(self) -> None:
        check_counts(self.outcomes, [end[0] for end in self.ends])

    @classmethod
    def of(cls, results: Sequence[FoldResult] | FoldResults) -> FoldResults:
        """Return results as columns, with long reasons cut."""
        if isinstance(results, FoldResults):
            return results
        results = [one if len(one.reason) <= limits.MESSAGE_CHARS_MAX else _cut(one) for one in results]
        outcomes = Outcomes.of([outcome for result in results for outcome in result.outcomes])
        made = cls(outcomes, tuple([FoldEnd(len(result.outcomes), *result[1:]) for result in results]))
        vars(made)["rows"] = tuple(results)
        return made

    @kept
    def rows(self) -> tuple[FoldResult, ...]:
        """The results as single values."""
        outcomes, start = self.outcomes.rows, 0
        rows: list[FoldResult] = []
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


def _cut(result: FoldResult) -> FoldResult:
    return result._replace(reason=result.reason[: limits.MESSAGE_CHARS_MAX])


def check_counts(outcomes: Outcomes, counts: list[int]) -> None:
    """Raise ValueError unless the counts of the folds add up to the number of outcomes."""
    if sum(counts) != len(outcomes):
        raise ValueError(f"the folds have {sum(counts)} outcomes, there are {len(outcomes)}")
