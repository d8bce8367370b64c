"""An executor over something that runs one fold at a time; it prepares code in parallel.

Jobs run in order of arrival, fold after fold. A fold whose code must first be compiled or loaded is set aside while
another thread prepares the code and other folds run. Each report of preparations lists all of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from rota.common.errors import CodeError
from rota.common.work import NO_OUTCOMES, Code, Fold, FoldResult
from rota.worker.executor import Ended, Job, Look, Looked, Outside, Preparing, Report, Stuck, stopped_by
from rota.worker.preparations import Preparations
from rota.worker.stopping import Stopping

_INTERRUPTED: Final = FoldResult(NO_OUTCOMES, None, "interrupted")


class FoldRunner(Protocol):
    """Runs folds. Methods are called in the thread that calls `run`, except where noted."""

    def fingerprint(self) -> Mapping[str, Any]:
        """See `Executor`."""
        ...

    def preparation(self, code: Code) -> Callable[[], Any] | None:
        """Return a function that prepares this code if that takes long; None if it is ready.

        The function is called in another thread and raises `CodeError` if the code cannot be used.
        """
        ...

    def install(self, code: Code, prepared: Any) -> None:
        """Take the result of a preparation."""
        ...

    def prepare(self, code: Code, address: str) -> Mapping[str, Any]:
        """Describe code. Raises `CodeError` if it cannot be used."""
        ...

    def run(self, fold: Fold) -> FoldResult:
        """Run a fold's tasks in order; returns early on `interrupt`, or if a task has no outcome."""
        ...

    def so_far(self) -> FoldResult:
        """Return the result so far of a fold whose task timed out and does not end. For the runner's `stuck`."""
        ...

    def interrupt(self) -> None:
        """Stop the running fold soon. Callable from any thread; does nothing if none runs."""
        ...

    def stop_preparing(self) -> None:
        """Interrupt the preparations that can be interrupted. Callable from any thread."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


class _Taken:
    """A job of folds, and its results so far."""

    __slots__ = (
        "began",
        "dropped",
        "elapsed_us",
        "folds",
        "left",
        "number",
        "place",
        "results",
        "stopping",
        "todo",
    )

    def __init__(self, number: int, folds: Sequence[Fold]) -> None:
        self.number = number
        self.folds = folds
        self.results = [_INTERRUPTED] * len(folds)
        self.todo: Sequence[int] = range(len(folds))  # indexes of folds that can run
        self.left = len(folds)  # how many have no result yet, including those that wait for code
        self.place = 0  # index of the running fold
        self.elapsed_us = 0
        self.began = False
        self.dropped = False
        self.stopping = Stopping()


class _Waiting:
    """What waits for code that is being prepared."""

    __slots__ = ("folds", "looks")

    def __init__(self) -> None:
        self.folds: dict[_Taken, list[int]] = {}  # indexes of folds
        self.looks: list[Look] = []


class FoldExecutor:
    """Implements `Executor` over a `FoldRunner`. `make` gets the function to call when a task does not stop."""

    def __init__(self, make: Callable[[Callable[[], None]], FoldRunner], outside: Outside) -> None:
        self._outside = outside
        self._ready: deque[_Taken] = deque()
        self._looks: deque[Look] = deque()
        self._jobs: dict[int, _Taken] = {}
        self._running: _Taken | None = None
        self._turn = threading.Lock()  # held while the running job changes, and to interrupt it
        self._known: Code | None = None  # the last one found ready: the next fold usually has the same
        self._preparations = Preparations(outside.wake)
        self._waiting: dict[Code, _Waiting] = {}
        self._runner = make(self._overran)

    def fingerprint(self) -> Mapping[str, Any]:
        return self._runner.fingerprint()

    def take(self, job: Job) -> None:
        if isinstance(job, Look):
            self._looks.append(job)
            return
        taken = self._jobs[job.number] = _Taken(job.number, job.folds)
        self._ready.append(taken)

    def step(self) -> list[Report]:
        reports: list[Report] = []
        if self._waiting:
            self._take_made(reports)
        if self._looks:
            self._look(self._looks.popleft(), reports)
        elif self._ready:
            taken = self._ready.popleft()
            self._run(taken, reports)
            if not taken.left:
                self._end(taken, reports)
        return reports

    def drop(self, job: int) -> None:
        taken = self._jobs.get(job)
        if taken is None:
            return
        with self._turn:
            taken.dropped = True
            if self._running is not taken:
                self._outside.wake()  # if it waits for code, it ends without
                return
            self._runner.interrupt()
            if taken.stopping.is_stuck(time.monotonic()):
                self._outside.tell(Stuck(taken.number, None, 0))

    def close(self) -> None:
        self._runner.stop_preparing()
        self._preparations.close()
        self._runner.close()

    # --- running ----------------------------------------------------------------------------------------------------

    def _run(self, taken: _Taken, reports: list[Report]) -> None:
        """Run the folds of a job whose code is ready; set the others aside."""
        begun_ns = time.perf_counter_ns()
        todo, taken.todo = taken.todo, ()
        with self._turn:
            self._running = taken
        try:
            for place in todo:
                fold = taken.folds[place]
                if fold.code is not self._known and not taken.dropped and not self._is_ready(fold.code):
                    self._set_aside(fold.code, taken, place, reports)
                    continue
                taken.place = place
                # A fold that stops early does not stop the next ones, which are of other agents.
                if not taken.dropped:
                    taken.began = True
                    taken.results[place] = self._runner.run(fold)
                taken.left -= 1
        finally:
            with self._turn:
                self._running = None
        taken.elapsed_us += (time.perf_counter_ns() - begun_ns) // 1_000

    def _end(self, taken: _Taken, reports: list[Report]) -> None:
        del self._jobs[taken.number]
        is_answer = taken.began or not taken.dropped
        reports.append(Ended(taken.number, tuple(taken.results) if is_answer else None, taken.elapsed_us))

    def _overran(self) -> None:
        """Report a task that timed out and does not stop. Called by the watchdog, which holds the result back."""
        taken = self._running
        if taken is None or taken.dropped:
            return
        results = list(taken.results)
        results[taken.place] = self._runner.so_far()
        taken.dropped = True  # the rest of it runs elsewhere
        self._outside.tell(Stuck(taken.number, tuple(results), taken.elapsed_us))

    # --- preparing --------------------------------------------------------------------------------------------------

    def _is_ready(self, code: Code) -> bool:
        if code in self._waiting or self._runner.preparation(code) is not None:
            return False
        self._known = code
        return True

    def _look(self, look: Look, reports: list[Report]) -> None:
        if not self._is_ready(look.code):
            self._prepare(look.code).looks.append(look)
            reports.append(self._pending())
            return
        try:
            reports.append(Looked(look.number, self._runner.prepare(look.code, look.address), ""))
        except CodeError as error:
            reports.append(Looked(look.number, None, error.message))

    def _set_aside(self, code: Code, taken: _Taken, place: int, reports: list[Report]) -> None:
        waiting = self._prepare(code).folds
        if taken in waiting:
            waiting[taken].append(place)
            return
        waiting[taken] = [place]
        reports.append(self._pending())

    def _prepare(self, code: Code) -> _Waiting:
        """Return what waits for this code; its preparation begins now, or when an earlier one has ended."""
        found = self._waiting.get(code)
        if found is None:
            found = self._waiting[code] = _Waiting()
            self._preparations.begin(code, lambda: self._runner.preparation(code))
        return found

    def _take_made(self, reports: list[Report]) -> None:
        """Continue the folds that waited for code, and end those dropped meanwhile."""
        before = self._pending()
        for code, prepared, error in self._preparations.take_ended():
            waiting = self._waiting.pop(code)
            if error is not None:
                self._refuse(waiting, error, reports)
                continue
            self._known = None  # it may have been evicted
            self._runner.install(code, prepared)
            self._go_on(waiting)
        for waiting in self._waiting.values():
            for taken in [taken for taken in waiting.folds if taken.dropped]:
                self._give_up(taken, waiting.folds.pop(taken), _INTERRUPTED, reports)
        if self._pending() != before:
            reports.append(self._pending())

    def _go_on(self, waiting: _Waiting) -> None:
        self._looks.extend(waiting.looks)
        for taken, places in waiting.folds.items():
            if not taken.todo:
                self._ready.append(taken)
            taken.todo = [*taken.todo, *places]

    def _refuse(self, waiting: _Waiting, error: CodeError, reports: list[Report]) -> None:
        reports += [Looked(look.number, None, error.message) for look in waiting.looks]
        result = FoldResult(NO_OUTCOMES, None, stopped_by(error), error.message)
        for taken, places in waiting.folds.items():
            self._give_up(taken, places, result, reports)

    def _give_up(self, taken: _Taken, places: list[int], result: FoldResult, reports: list[Report]) -> None:
        for place in places:
            taken.results[place] = result
        taken.left -= len(places)
        if not taken.left:
            self._end(taken, reports)

    def _pending(self) -> Preparing:
        pairs: list[tuple[int, str]] = []
        for waiting in self._waiting.values():
            pairs += [(look.number, look.address) for look in waiting.looks]
            pairs += [(taken.number, taken.folds[places[0]].address) for taken, places in waiting.folds.items()]
        return Preparing(tuple(pairs))
