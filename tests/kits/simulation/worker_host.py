"""A worker process: the real session, and an executor that takes simulated time.

Tasks are programs of tests/kits/scripted.py. The executor of a CPU worker runs jobs in order, that of a GPU worker
several at once; it can be interrupted between two tasks, can be slow, and can be stuck, when it ignores interrupts and
reports that after a while. Code that is new to a process is
compiled first, in parallel to other work, for longer than tasks may run. A liar changes only the result of a task, and
the checker knows each lie. Tasks may kill their worker (`die`), run past their timeout (`hang`), or fault (`fault`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import scripted
import zmq
from simulation.broker_host import ENDPOINTS
from simulation.network import Context, Dealer
from simulation.processes import Crashed, SimProcess
from simulation.worker_lies import DRIFT, LIE

from rota.common import wire
from rota.common.limits import ASSIGNMENTS_PER_WORKER, STUCK_MS
from rota.common.messages import Assign, Completed, Prepare, Prepared
from rota.common.work import AFTER_END, Done, Fold, FoldResult, Outcome
from rota.host.sockets import LINGER_LAST_MS, dealer
from rota.worker.loop import folds_of
from rota.worker.session import (
    Action,
    Connect,
    DrainAsked,
    Drop,
    Finished,
    Leave,
    Overran,
    Prepares,
    Received,
    SendMessage,
    Started,
    StartJob,
    TextCame,
    Ticked,
    WorkerIdentity,
    WorkerSession,
)

if TYPE_CHECKING:
    from simulation.world import Simulation

_PREPARE_US: Final = 3_000
_HANG_MS_MAX: Final = 2_000  # a hanging task runs for at most so long
_COMPILE_US: Final = (0, 0, 0, 200_000, 20_000_000)
_MESSAGES_PER_TURN: Final = 64


class _Planned(NamedTuple):
    """The planned result of a fold: how long each task takes, and all outcomes."""

    fold: Fold
    task_us: tuple[int, ...]
    deadly: bool  # the task after the last one in `task_us` kills the process
    result: FoldResult | None


class _Job(NamedTuple):
    number: int
    order: Assign | Prepare


class _Running(NamedTuple):
    job: _Job
    plans: list[_Planned]
    began_us: int


class WorkerHost(SimProcess):
    """One worker slot; each life is another process."""

    def __init__(self, simulation: Simulation, name: str, pool: str) -> None:
        super().__init__(simulation, name)
        self.pool = pool
        self.chance = simulation.chances.stream(name)
        self.host = "here" if self.chance.random() < 0.7 else "elsewhere"
        self.slots = self.chance.choice((1, 3, 256))
        self.bytes_max = self.chance.choice((40, 1 << 20))
        self.assignments_max = ASSIGNMENTS_PER_WORKER if pool == "cpu" else self.chance.choice((1, 2, 5, 18))
        self.pid = 0
        self.slow = 1
        self.stuck_until_us = 0
        self.lies = 0  # how many more lies to tell

    @property
    def is_busy(self) -> bool:
        return self.up and bool(self.running)

    def start(self) -> None:
        if self.up:
            return
        self.begin()
        self.pid = self.simulation.new_pid()
        self.mono_offset_us = self.chance.randrange(1 << 40)
        pool: Any = self.pool
        facts = (self.slots, self.bytes_max, self.host, self.pid, self._fingerprint(), self.assignments_max)
        self.session = WorkerSession(WorkerIdentity(self.name, pool, *facts))
        self.socket: Dealer | None = None
        self.context: Any = Context(self.simulation.network, self)
        self.jobs: deque[_Job] = deque()
        self.dropped: dict[int, None] = {}
        self.running: dict[int, _Running] = {}  # by the number of the job
        self.compiled: dict[bytes, None] = {}
        self.compiling: dict[int, _Job] = {}  # jobs that wait for their code
        self.finished: deque[Finished | Overran | Prepares | TextCame] = deque()
        self.guard(lambda: self._act(self.session.step(Started(), self._now_ms())))
        self.wake()

    def turn(self) -> None:
        """One turn of `worker_loop._Loop`."""
        while self.finished:
            self._act(self.session.step(self.finished.popleft(), self._now_ms()))
        for _ in range(_MESSAGES_PER_TURN):
            if self.socket is None or not self.up:
                break
            try:
                frame = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            message: Any = wire.decode(frame, wire.TO_WORKERS)
            self._act(self.session.step(Received(message), self._now_ms()))
        if self.up:
            self._act(self.session.step(Ticked(), self._now_ms()))
        if self.up:
            more = self.finished or (self.socket is not None and self.socket.inbox)
            wait_ms = 0 if more else max(0, self.session.next_tick_ms() - self._now_ms())
            self.wake_at(self.clock.now_us + max(1, wait_ms * 1_000))

    def drain(self) -> None:
        if self.up:
            self.guard(lambda: self._act(self.session.step(DrainAsked(), self._now_ms())))

    def ended(self) -> None:
        self.simulation.worker_ended(self, self.pid)

    # --- what the session wants ------------------------------------------------------------------------------------

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case StartJob(job, order):
                    self.jobs.append(_Job(job, order))
                    self._check_credit()
                    self._run_next()
                case SendMessage(message):
                    self._send(wire.encode(message))
                case Drop(job):
                    self._drop(job)
                case Connect():
                    if self.socket is not None:
                        self.socket.close(linger=0)
                    self.socket = dealer(self.context, ENDPOINTS.backend)  # type: ignore[assignment]
                case Leave():
                    if self.socket is not None:
                        self.socket.close(linger=LINGER_LAST_MS)
                    self.die("left")
                    return

    def _send(self, frame: bytes) -> None:
        assert self.socket is not None
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            self.simulation.transcript.note("dropped", self.name)

    def _now_ms(self) -> int:
        return (self.clock.now_us + self.mono_offset_us) // 1_000

    def _fingerprint(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"engine": "scripted", "profile": {"fuel": 1}}
        if self.pool == "gpu":
            facts = {"engine": "scripted", "device": {"name": self.name}}
        return facts

    # --- the executor -------------------------------------------------------------------------------------------------

    def _check_credit(self) -> None:
        """Check that the broker sends no more than this worker said it takes; what was revoked counts no more."""
        orders = [*self.jobs, *self.compiling.values(), *[one.job for one in self.running.values()]]
        held = [job for job in orders if isinstance(job.order, Assign) and job.number not in self.dropped]
        assert len(held) <= self.assignments_max, f"{self.name} holds {len(held)} assignments"

    def _run_next(self) -> None:
        at_once = 1 if self.pool == "cpu" else self.assignments_max
        while len(self.running) < at_once and self.jobs:
            job = self.jobs.popleft()
            if job.number in self.dropped:
                self._finish(job, None)
                continue
            if self._compiles(job):
                continue
            plans = [] if isinstance(job.order, Prepare) else [self._plan(fold) for fold in folds_of(job.order)]
            took_us = _PREPARE_US if isinstance(job.order, Prepare) else _total_us(plans)
            self.running[job.number] = _Running(job, plans, self.clock.now_us)
            if self.pool == "gpu":
                self._stream(job, plans, took_us * self.slow)
            self._finish_at(job, self.clock.now_us + took_us * self.slow + self._hide_us())

    def _stream(self, job: _Job, plans: list[_Planned], took_us: int) -> None:
        """Plan what the calls of a job say while they run: their results, in some pieces."""
        for plan in plans:
            outcomes = () if plan.result is None else plan.result.outcomes
            for task, outcome in zip(plan.fold.tasks, outcomes, strict=False):
                text = (outcome.result or b"").decode() if type(outcome) is Done else ""
                cuts = sorted(self.chance.sample(range(len(text) + 1), min(len(text), self.chance.randrange(4))))
                for start, end in pairwise([0, *cuts, len(text)]):
                    piece = (job.number, task.turn, start, text[start:end])
                    self.at(self.clock.now_us + int(took_us * start / len(text)) if text else 0, self._piece(piece))

    def _piece(self, piece: tuple[int, int, int, str]) -> Callable[[], None]:
        """Return what says a piece, if its job still runs by then."""
        return lambda: self._say(TextCame((piece,))) if piece[0] in self.running else None

    def _compiles(self, job: _Job) -> bool:
        """Set a job aside until its code is compiled, if that is new to this life."""
        codes = () if isinstance(job.order, Prepare) else [code.digest for code in job.order.codes]
        unknown = [digest for digest in codes if digest not in self.compiled]
        takes_us = sum(self.chance.choice(_COMPILE_US) for _ in unknown)
        self.compiled.update(dict.fromkeys(unknown))
        if not takes_us:
            return False
        self.compiling[job.number] = job
        self._say_compiling()
        self.at(self.clock.now_us + takes_us, lambda: self.guard(lambda: self._compiled(job)))
        return True

    def _compiled(self, job: _Job) -> None:
        if self.compiling.pop(job.number, None) is not None:
            self._say_compiling()
            self.jobs.appendleft(job)
            self._run_next()

    def _say_compiling(self) -> None:
        orders = [(number, job.order) for number, job in self.compiling.items()]
        pairs = [(number, order.folds[0].address) for number, order in orders if isinstance(order, Assign)]
        self._say(Prepares(tuple(pairs)))

    def _say(self, event: Finished | Overran | Prepares | TextCame) -> None:
        self.finished.append(event)
        self.wake()

    def _says_it_is_stuck(self, job: _Job) -> None:
        """Report that the executor is stuck in a job that was dropped or is overdue."""
        if job.number not in self.running:
            return
        self._say(Overran(job.number, None if job.number in self.dropped else self._overrun_of(job)))

    def _overrun_of(self, job: _Job) -> Completed | None:
        """Return the answer for a job whose task timed out: half of its first fold is done, the next task hangs."""
        plans = self.running[job.number].plans
        assert isinstance(job.order, Assign)
        first = plans[0]
        count = len(first.fold.tasks) // 2
        if self.simulation.plan.pinned or self.lies or count > len(first.task_us) or first.deadly:
            return None  # pinned runs have no verdicts by the clock
        done = self._part(first, count)
        if len(done.outcomes) != count or done.stopped != "interrupted":
            return None
        rest = [FoldResult(done.outcomes[:0], None, "interrupted")] * (len(plans) - 1)
        results = (self._signed(first.fold, done)._replace(stopped="timeout"), *rest)
        return Completed(self.name, job.order.assignment, results, self.clock.now_us)

    def _hide_us(self) -> int:
        """Make a liar vanish until it is given up, and report after others have done its work."""
        if not self.lies or self.chance.random() < 0.3:
            return 0
        heartbeat_us = self.simulation.plan.heartbeat_ms * 1_000
        self.simulation.network.cut_off[self.name] = self.clock.now_us + 4 * heartbeat_us
        return self.chance.choice((4, 6, 8)) * heartbeat_us

    def _finish_at(self, job: _Job, moment_us: int) -> None:
        self.at(max(moment_us, self.frozen_until_us, self.stuck_until_us), lambda: self._job_ends(job))

    def _job_ends(self, job: _Job) -> None:
        if job.number not in self.running:
            return
        later_us = max(self.frozen_until_us, self.stuck_until_us)
        if later_us > self.clock.now_us:
            if self.stuck_until_us > self.clock.now_us and isinstance(job.order, Assign):
                self.at(self.clock.now_us + STUCK_MS * 1_000, lambda: self._says_it_is_stuck(job))
            self._finish_at(job, later_us)
            return
        self.guard(lambda: self._report(job))

    def _report(self, job: _Job) -> None:
        _, plans, began_us = self.running.pop(job.number)
        passed_us = (self.clock.now_us - began_us) // self.slow
        if isinstance(job.order, Prepare):
            ok = self.chance.random() < 0.9
            self._finish(job, Prepared(self.name, job.order.number, ok, {"size": 1} if ok else {}, "" if ok else "odd"))
        elif self.lies and job.number in self.dropped and self.socket is not None:
            # A liar bypasses its session, to report work that was revoked.
            results = tuple(self._outcomes(plans, None))
            self._send(wire.encode(Completed(self.name, job.order.assignment, results, 1)))
            self._finish(job, None)
        else:
            stop_us = passed_us if job.number in self.dropped else None
            results = tuple(self._outcomes(plans, stop_us))
            self._finish(job, Completed(self.name, job.order.assignment, results, self.clock.now_us - began_us))
        self._run_next()

    def _finish(self, job: _Job, report: Completed | Prepared | None) -> None:
        self.dropped.pop(job.number, None)
        self._say(Finished(job.number, report))

    def _drop(self, number: int) -> None:
        """Remove a job that has not begun, interrupt a running one."""
        self.dropped[number] = None
        if number in self.running and not self.lies:
            self._finish_at(self.running[number].job, self.clock.now_us + 50)
        if (waiting := self.compiling.pop(number, None)) is not None:
            self._say_compiling()
            self._finish(waiting, None)
        for job in [job for job in self.jobs if job.number == number]:
            self.jobs.remove(job)
            self._finish(job, None)

    def _plan(self, fold: Fold) -> _Planned:
        pace_us = self.chance.choice((5, 40, 300, 4_000)) * self.simulation.plan.pace
        tasks = list(fold.tasks)
        for count in range(len(tasks), -1, -1):  # as many as do not kill the worker
            try:
                result = scripted.run_fold(fold._replace(tasks=tuple(tasks[:count])))
            except scripted.NoOutcome:
                continue
            break
        task_us = [pace_us] * len(result.outcomes)
        if result.stopped == "timeout":
            task_us.append(min(fold.code.limits.timeout_ms, _HANG_MS_MAX) * 1_000)
        deadly = count < len(tasks) and result.stopped is None
        return _Planned(fold, tuple(task_us), deadly, None if deadly else result)

    def _outcomes(self, plans: list[_Planned], stop_us: int | None) -> list[FoldResult]:
        """Return the results of the folds, of all or of those that had ended when the job was interrupted."""
        found = []
        left_us = stop_us
        for plan in plans:
            through = [*plan.task_us]
            if left_us is not None:
                through = []
                for task_us in plan.task_us:
                    if task_us > left_us:
                        break
                    left_us -= task_us
                    through.append(task_us)
            if len(through) == len(plan.task_us) and plan.deadly:
                raise Crashed("killed by a task")
            found.append(self._signed(plan.fold, self._part(plan, len(through))))
        return found

    def _part(self, plan: _Planned, count: int) -> FoldResult:
        if count == len(plan.task_us) and plan.result is not None and (count or not plan.fold.tasks):
            return plan.result
        if not count:
            return plan.result if plan.result is not None and not plan.task_us else FoldResult((), None, "interrupted")
        fold = plan.fold
        return scripted.run_fold(fold._replace(tasks=fold.tasks[:count]))._replace(stopped="interrupted")

    def _signed(self, fold: Fold, result: FoldResult) -> FoldResult:
        """Add what differs from run to run, or a lie."""
        if result.provenance == scripted.UNSTABLE and not self.simulation.plan.pinned:
            return result._replace(outcomes=tuple([self._drifted(outcome) for outcome in result.outcomes]))
        places = [
            place for place, outcome in enumerate(result.outcomes) if type(outcome) is Done and outcome.waits is None
        ]
        if self.lies and places:
            self.lies -= 1
            place = self.chance.choice(places)
            honest = result.outcomes[place]
            assert type(honest) is Done
            lie = honest._replace(result=(honest.result or b"") + LIE)
            self.simulation.checker.lied(fold, place, self.name)
            return result._replace(outcomes=(*result.outcomes[:place], lie, *result.outcomes[place + 1 :]))
        return result

    def _drifted(self, outcome: Outcome) -> Outcome:
        if type(outcome) is not Done:
            return outcome
        return outcome._replace(result=(outcome.result or b"") + DRIFT * self.chance.randrange(3))


def _has_result(outcome: Outcome) -> bool:
    return type(outcome) is Done and outcome.waits is None and outcome != AFTER_END


def _total_us(plans: list[_Planned]) -> int:
    return sum(sum(plan.task_us) for plan in plans)
