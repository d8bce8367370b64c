"""Where the guests of calls probably are: the worker that ran each call last. PURE.

A worker keeps the guests of its last calls and makes any other again from its messages (execution model, part 11). So
this is only a preference of dispatch: it may be wrong or forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from rota.broker.tasks import Task

HOMES_KEPT: Final = 16_384


class Homes:
    """The workers, by number, of the calls that ran last."""

    def __init__(self) -> None:
        self._workers: OrderedDict[tuple[str, str], int] = OrderedDict()  # by lane and address

    def of(self, task: Task) -> int:
        """Return the worker that ran this task's call last; 0 if none is known, or it is for no call."""
        assert task.code is not None
        return self._workers.get((task.run.lane, task.address), 0) if task.code.flow else 0

    def note(self, task: Task, worker: int) -> None:
        """Note that a worker gets this task."""
        assert task.code is not None
        if not task.code.flow:
            return
        key = (task.run.lane, task.address)
        self._workers[key] = worker
        self._workers.move_to_end(key)
        if len(self._workers) > HOMES_KEPT:
            self._workers.popitem(last=False)
