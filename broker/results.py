"""Results that are kept, tasks by their number, and who waits for what. PURE.

None of this is part of a lane: how long results are kept and who asks for them cannot be seen by any agent. Recovery
rebuilds it by folding the journal, connections excepted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from typing import Final

from rota.broker.tasks import Run, Task
from rota.common.budget import REF_BYTES, outcome_bytes
from rota.common.messages import ResultItem
from rota.common.work import Done, Failed

_RESULT_OVERHEAD_BYTES: Final = 200  # what a kept result costs beside its payload, roughly


class RunIndex:
    """Finds the run of a sequence number among those that still have tasks without an outcome."""

    def __init__(self) -> None:
        self._first_seqs: list[int] = []
        self._runs: list[Run] = []
        self._done = 0

    def add(self, run: Run) -> None:
        """Add a run; runs come in the order of their numbers."""
        self._first_seqs.append(run.first_seq)
        self._runs.append(run)

    def find(self, seq: int) -> Run | None:
        """Return the run that holds `seq`, if some task of it is unfinished."""
        place = bisect_right(self._first_seqs, seq) - 1
        if place < 0:
            return None
        run = self._runs[place]
        return run if seq < run.first_seq + len(run.payloads) and run.finished < len(run.payloads) else None

    def between(self, first_seq: int, last_seq: int) -> list[Run]:
        """Return the unfinished runs that hold any of these numbers."""
        start = max(bisect_right(self._first_seqs, first_seq) - 1, 0)
        end = bisect_right(self._first_seqs, last_seq)
        return [
            run
            for run in self._runs[start:end]
            if run.finished < len(run.payloads) and run.first_seq + len(run.payloads) > first_seq
        ]

    def finish(self, task: Task) -> None:
        """Count a task's outcome; forget runs that are through, half of the list at a time."""
        run = task.run
        run.finished += 1
        if run.finished == len(run.payloads):
            self._done += 1
            if self._done > 64 and self._done * 2 > len(self._runs):
                self._runs = [kept for kept in self._runs if kept.finished < len(kept.payloads)]
                self._first_seqs = [kept.first_seq for kept in self._runs]
                self._done = 0


class KeptResults:
    """Outcomes that are kept for a later ask: the newest ones, bounded by number and bytes."""

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
        """What the kept results count."""
        return self._bytes

    @property
    def bounds(self) -> tuple[int, int]:
        """How many results are kept, and how many bytes of them."""
        return self._results_max, self._bytes_max

    def keep(self, task: Task) -> None:
        """Keep a finished task; let the oldest go."""
        if self._results_max == 0:  # a run that is only played again
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
    """What keeping a task costs: its payload, and its outcome."""
    run = task.run
    assert task.outcome is not None
    size = _RESULT_OVERHEAD_BYTES + run.payloads.lengths[task.index] + outcome_bytes(task.outcome)
    return size + REF_BYTES * len(run.tensors_of(task.index)) if run.tensors else size


def watch(run: Run, identity: bytes, first_seq: int, last_seq: int) -> None:
    """Have the results of a run's tasks sent to a connection.

    Each connection has one range per run, which grows to hold all that it asks for: whoever awaits the tasks of a large
    run one by one gets some results early.
    """
    if run.watchers is None:
        run.watchers = {}
    first, last = run.watchers.get(identity, (first_seq, last_seq))
    run.watchers[identity] = (min(first, first_seq), max(last, last_seq))


def result_item(task: Task) -> ResultItem:
    """Return a finished task's outcome as a producer gets it."""
    run, outcome = task.run, task.outcome
    head = (task.seq, run.lane, task.turn, task.attempts)
    if type(outcome) is Done:
        return ResultItem(*head, True, outcome.result, outcome.tensors, "", "", outcome.log, task.provenance)
    assert type(outcome) is Failed
    return ResultItem(*head, False, None, (), outcome.kind, outcome.message, outcome.log, task.provenance)
