"""Kept results, the index of tasks by seq, and watchers of results. PURE.

None of this is part of a lane: agents cannot see how long results are kept or who asks for them. Folding the journal
restores it, except connections.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Final

from rota.broker.tasks import Run, Task
from rota.common.budget import REF_BYTES, outcome_bytes
from rota.common.messages import ResultItem
from rota.common.work import Done, Failed

_RESULT_OVERHEAD_BYTES: Final = 200  # roughly, of a kept result besides its payload
_run_of: Final = attrgetter("run")


class RunIndex:
    """Finds the run of a seq among the runs with unfinished tasks."""

    def __init__(self) -> None:
        self._first_seqs: list[int] = []
        self._runs: list[Run] = []
        self._done = 0

    def add(self, run: Run) -> None:
        """Add a run; runs must be added in seq order."""
        self._first_seqs.append(run.first_seq)
        self._runs.append(run)

    def find(self, seq: int) -> Run | None:
        """Return the run that contains `seq`, if it has an unfinished task."""
        place = bisect_right(self._first_seqs, seq) - 1
        if place < 0:
            return None
        run = self._runs[place]
        return run if seq < run.first_seq + len(run.payloads) and run.finished < len(run.payloads) else None

    def between(self, first_seq: int, last_seq: int) -> list[Run]:
        """Return the unfinished runs that contain any of these seqs."""
        start = max(bisect_right(self._first_seqs, first_seq) - 1, 0)
        end = bisect_right(self._first_seqs, last_seq)
        return [
            run
            for run in self._runs[start:end]
            if run.finished < len(run.payloads) and run.first_seq + len(run.payloads) > first_seq
        ]

    def finish(self, run: Run, tasks: int) -> None:
        """Count outcomes of a run's tasks; remove finished runs when they are half of the list."""
        run.finished += tasks
        if run.finished == len(run.payloads):
            self._done += 1
            if self._done > 64 and self._done * 2 > len(self._runs):
                self._runs = [kept for kept in self._runs if kept.finished < len(kept.payloads)]
                self._first_seqs = [kept.first_seq for kept in self._runs]
                self._done = 0


class KeptResults:
    """Outcomes kept for a later Await: the newest ones, bounded by number and bytes."""

    def __init__(self, results_max: int, bytes_max: int) -> None:
        self._results_max = results_max
        self._bytes_max = bytes_max
        self._by_seq: dict[int, Task] = {}
        self._order: deque[tuple[int, int]] = deque()  # seq and size
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._by_seq)

    @property
    def bytes(self) -> int:
        """The size of the kept results in bytes."""
        return self._bytes

    @property
    def bounds(self) -> tuple[int, int]:
        """The bounds: how many results, and how many bytes."""
        return self._results_max, self._bytes_max

    def keep(self, task: Task) -> None:
        """Keep a finished task; drop the oldest beyond the bounds."""
        if self._results_max == 0:  # in a replay
            return
        size = _size(task)
        self._by_seq[task.seq] = task
        self._order.append((task.seq, size))
        self._bytes += size
        while len(self._order) > self._results_max or self._bytes > self._bytes_max:
            seq, size = self._order.popleft()
            del self._by_seq[seq]
            self._bytes -= size

    def find(self, seq: int) -> Task | None:
        """Return a kept task by its number."""
        return self._by_seq.get(seq)

    def newest(self) -> Iterator[Task]:
        """Yield every kept task, newest first."""
        return reversed(self._by_seq.values())

    def kept(self) -> list[Task]:
        """Return every kept task, oldest first."""
        return list(self._by_seq.values())


def _size(task: Task) -> int:
    """Return the size of a kept task: its payload and its outcome."""
    run = task.run
    assert task.outcome is not None
    size = _RESULT_OVERHEAD_BYTES + run.payloads.lengths[task.index] + outcome_bytes(task.outcome)
    return size + REF_BYTES * len(run.tensors_of(task.index)) if run.tensors else size


def by_run(tasks: Iterable[Task]) -> Iterator[tuple[Run, list[Task]]]:
    """Yield tasks in their order, those of one run together that follow each other."""
    for run, group in groupby(tasks, _run_of):
        yield run, list(group)


def watch(run: Run, identity: bytes, first_seq: int, last_seq: int) -> None:
    """Have the results of a run's tasks sent to a connection.

    A connection has one range per run, which grows to cover all that it asks for. So one that awaits single tasks of a
    large run may also get results in between.
    """
    if run.watchers is None:
        run.watchers = {}
    first, last = run.watchers.get(identity, (first_seq, last_seq))
    run.watchers[identity] = (min(first, first_seq), max(last, last_seq))


class Watchers:
    """Who wants the outcomes of pending tasks, whose runs may be gone; without the connections that are gone."""

    def __init__(self) -> None:
        self._by_seq: dict[int, dict[bytes, None]] = {}
        self._by_identity: dict[bytes, dict[int, None]] = {}

    def add(self, identity: bytes, seq: int) -> None:
        """Have the outcome of a task sent to a connection."""
        self._by_seq.setdefault(seq, {})[identity] = None
        self._by_identity.setdefault(identity, {})[seq] = None

    def take(self, seq: int) -> list[bytes]:
        """Remove and return those who want the outcome of a task."""
        found = list(self._by_seq.pop(seq, ()))
        for identity in found:
            wanted = self._by_identity[identity]
            del wanted[seq]
            if not wanted:
                del self._by_identity[identity]
        return found

    def forget(self, identity: bytes) -> None:
        """Remove a connection."""
        for seq in self._by_identity.pop(identity, ()):
            wanted_by = self._by_seq[seq]
            del wanted_by[identity]
            if not wanted_by:
                del self._by_seq[seq]

    def check_invariants(self) -> None:
        """Assert that both sides say the same."""
        pairs = sorted((seq, identity) for seq, wanted_by in self._by_seq.items() for identity in wanted_by)
        assert pairs == sorted((seq, identity) for identity, seqs in self._by_identity.items() for seq in seqs)
        assert all(self._by_seq.values())
        assert all(self._by_identity.values())


def result_item(task: Task) -> ResultItem:
    """Return a finished task's outcome for its producer."""
    run, outcome = task.run, task.outcome
    head = (task.seq, run.lane, task.turn, task.attempts)
    if type(outcome) is Done:
        return ResultItem(*head, True, outcome.result, outcome.tensors, "", "", outcome.log, task.provenance)
    assert type(outcome) is Failed
    return ResultItem(*head, False, None, (), outcome.kind, outcome.message, outcome.log, task.provenance)
