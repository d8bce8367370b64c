"""Dispatch: which worker runs which issued task, when, and with which others. PURE.

It is outside the model (execution model, part 3): it may use the clock and load figures, because a lane shows none of
its decisions. One rule binds it: the tasks of one agent run in line order, so an agent's queue has at most one fold
dispatched.

Workers have credit, in assignments, tasks and bytes. An assignment holds about ASSIGNMENT_TARGET_MS of work by the
measured pace of its code, so short tasks are sent by the hundred and long ones alone. Tasks of a dead worker return to
the front of their queues; each becomes a suspect and is dispatched alone from then on, so that the poison cap counts
the right one.
A task that a worker could not do is dispatched alone too, preferably to a worker that has not failed on it; a task
whose code a worker refused goes to other workers first. A call of a flow goes to the worker that ran it last, if that
is free: it probably has the guest.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from rota.broker.homes import Homes
from rota.broker.lane import Lane
from rota.broker.orders import order_of
from rota.broker.tasks import Task, Trouble
from rota.common.code_kinds import pool_of
from rota.common.limits import (
    ASSIGNMENT_BYTES_MAX,
    ASSIGNMENT_TARGET_MS,
    ASSIGNMENTS_PER_WORKER,
    FOLD_TASKS_MAX,
    PREPARE_MS_MAX,
    TIMEOUT_GRACE_MS,
    UNRETIRED_BYTES_MAX,
)
from rota.common.messages import Assign, ModelNumbers, Preparation, Register
from rota.common.work import Provenance

ORPHANS_KEPT: Final = 1_024  # assignments no longer wanted, kept to compare late answers
EARLY_REPORTS_KEPT: Final = 4_096
EARLY_REPORTS_PER_TASK: Final = 8
# Before a code's pace is known. A model call may take seconds, and no other worker helps with what one holds.
FIRST_ASSIGNMENT_TASKS: Final[Mapping[str, int]] = {"cpu": 4, "gpu": 1}
_PACE_WEIGHT: Final = 0.25
_QUEUES_LEFT: Final = 16  # by an assignment, since the guests of their calls are at other workers
_QUEUES_PASSED_OVER: Final = 16  # whose head waits for a busy worker, before the whole pool waits


class TaskQueue:
    """The issued, unfinished tasks of one address, in line order."""

    __slots__ = ("address", "busy", "lane", "pool", "ready", "stateless", "tasks")

    def __init__(self, lane: Lane, address: str, pool: str, stateless: bool) -> None:
        self.lane = lane
        self.address = address
        self.pool = pool
        self.stateless = stateless
        self.tasks: deque[Task] = deque()
        self.busy = False  # a fold of it is dispatched; never set for stateless ones
        self.ready = False  # it is in its pool's ready list


class Worker:
    """A registered worker and what it holds."""

    __slots__ = (
        "draining",
        "fingerprint",
        "held",
        "held_bytes",
        "held_tasks",
        "identity",
        "models",
        "number",
        "preparing",
        "seen_ms",
        "settings",
        "stuck",
    )

    def __init__(self, number: int, identity: bytes, settings: Register, fingerprint: int, seen_ms: int) -> None:
        self.number = number  # in order of joining; one that rejoins under its name gets a new one
        self.identity = identity
        self.settings = settings
        self.fingerprint = fingerprint  # the number of its record in the journal
        self.seen_ms = seen_ms
        self.held: OrderedDict[int, Assignment] = OrderedDict()
        self.held_tasks = 0
        self.held_bytes = 0
        self.draining = False
        self.stuck: tuple[int, ...] = ()  # assignments that it is stuck in
        self.preparing: tuple[Preparation, ...] = ()  # code that it is compiling or loading
        self.models: tuple[ModelNumbers, ...] = ()  # what it said of those that it has loaded

    @property
    def name(self) -> str:
        return self.settings.worker

    @property
    def free(self) -> bool:
        """Whether it can take another assignment."""
        return (
            not self.draining
            and not self.stuck
            and len(self.held) < self.settings.assignments_max
            and self.held_tasks < self.settings.slots
            and self.held_bytes < self.settings.bytes_max
            and not any(assignment.alone for assignment in self.held.values())
        )


class Assignment:
    """Folds dispatched to one worker: for each queue the tasks taken from it, in order."""

    __slots__ = (
        "alone",
        "bytes",
        "deadline_ms",
        "folds",
        "lane",
        "limits_ms",
        "number",
        "prepared_from_ms",
        "tasks",
        "worker",
    )

    def __init__(self, number: int, worker: Worker, lane: Lane, alone: bool) -> None:
        self.number = number
        self.worker = worker
        self.lane = lane
        self.alone = alone  # a single suspect task, with nothing else on this worker
        self.folds: list[tuple[TaskQueue, list[Task]]] = []
        self.tasks = 0
        self.bytes = 0
        self.limits_ms = 0  # the sum of its tasks' timeouts
        self.deadline_ms = 0
        self.prepared_from_ms: int | None = None  # since when it waits for its code


class EarlyReport(NamedTuple):
    """A worker's result for a task that was taken from it and has no outcome yet, to be compared with the outcome."""

    worker: str
    outcome: bytes  # its digest
    before: tuple[Task, ...]  # run before it: if one of these is caught, the result is based on a wrong state
    provenance: Provenance | None


class _Pool:
    """The workers of one kind and their ready queues, lane by lane, so that no lane starves another."""

    __slots__ = ("ready", "ready_tasks", "workers")

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.ready: OrderedDict[str, deque[TaskQueue]] = OrderedDict()
        self.ready_tasks = 0


class Dispatcher:
    """Assigns issued tasks to workers. The caller sends the assignments and reports the answers."""

    def __init__(self, boot: int) -> None:
        self.workers: dict[str, Worker] = {}
        self.assignments: dict[int, Assignment] = {}
        self.orphans: OrderedDict[int, Assignment] = OrderedDict()
        self.early: OrderedDict[tuple[str, int], tuple[EarlyReport, ...]] = OrderedDict()  # by lane and turn
        self._pools = {"cpu": _Pool(), "gpu": _Pool()}
        self._queues: dict[tuple[str, str, bool], TaskQueue] = {}
        self._homes = Homes()
        self._pace_us: dict[bytes, float] = {}  # measured time per task, by code digest
        self._workers_joined = 0
        # Numbers differ between boots, so that an answer from before a restart is not mistaken for one of ours.
        self._next_number = (boot << 32) + 1

    # --- tasks ---------------------------------------------------------------------------------------------------

    def add(self, lane: Lane, tasks: Iterable[Task]) -> None:
        """Queue issued tasks of a lane."""
        queue: TaskQueue | None = None
        for task in tasks:
            if queue is None or task.address != queue.address or task.stateless != queue.stateless:
                queue = self._queue_of(lane, task)
            queue.tasks.append(task)
            self._pools[queue.pool].ready_tasks += 1
            if not queue.ready:
                self._make_ready(queue)

    def _queue_of(self, lane: Lane, task: Task) -> TaskQueue:
        assert task.code is not None
        key = (lane.name, task.address, task.stateless)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = TaskQueue(lane, task.address, pool_of(task.code), task.stateless)
        return queue

    def withdraw(self, task: Task) -> Assignment | None:
        """Drop a task that was caught. Returns the assignment to revoke, if it is dispatched."""
        if not task.assignment:
            return None  # it is skipped when its queue is read
        assignment = self.assignments[task.assignment]
        self.take_back(assignment)
        return assignment

    def keep_early(self, queue: TaskQueue, task: Task, report: EarlyReport) -> None:
        """Keep an outcome of a task that is to run again, unless there are many already."""
        key = (queue.lane.name, task.turn)
        reports = self.early.get(key, ())
        if len(reports) < EARLY_REPORTS_PER_TASK:
            self.early[key] = (*reports, report)
        if len(self.early) > EARLY_REPORTS_KEPT:
            self.early.popitem(last=False)

    def queued_tasks(self) -> dict[str, int]:
        """Return how many tasks wait for a worker, by pool."""
        return {name: pool.ready_tasks for name, pool in self._pools.items()}

    # --- workers ----------------------------------------------------------------------------------------------------

    def join(self, identity: bytes, settings: Register, fingerprint: int, now_ms: int) -> Worker:
        """Add a worker that is new or was removed before."""
        assert settings.worker not in self.workers
        self._workers_joined += 1
        worker = Worker(self._workers_joined, identity, settings, fingerprint, now_ms)
        self.workers[settings.worker] = worker
        self._pools[settings.pool].workers.append(worker)
        return worker

    def idlest(self, pool: str) -> Worker | None:
        """Return the least loaded worker of a pool that accepts work; None if there is none."""
        return min(self._able(self._pools[pool]), key=lambda worker: worker.held_tasks, default=None)

    def leave(self, worker: Worker, *, died: bool) -> list[Task]:
        """Remove a worker; what it held runs again elsewhere. Returns the tasks that killed it while running alone."""
        del self.workers[worker.name]
        self._pools[worker.settings.pool].workers.remove(worker)
        killers: list[Task] = []
        for assignment in reversed(list(worker.held.values())):  # so that the oldest comes first again
            unfinished = [task for _, tasks in assignment.folds for task in tasks if task.outcome is None]
            if died:
                for task in unfinished:
                    trouble = _trouble(task)
                    trouble.suspect = True
                    if assignment.alone:
                        trouble.deaths += 1
                        killers.append(task)
            self.take_back(assignment)
        return killers

    def overdue(self, now_ms: int) -> list[Worker]:
        """Return workers that hold an assignment far beyond the timeouts of its tasks."""
        return [
            worker
            for worker in self.workers.values()
            if worker.held and next(iter(worker.held.values())).deadline_ms < now_ms
        ]

    def prepares(self, worker: Worker, preparing: tuple[Preparation, ...], now_ms: int) -> None:
        """Note what a worker is compiling or loading; the timeouts of tasks that wait for it are suspended."""
        worker.preparing = preparing
        for one in preparing:
            assignment = worker.held.get(one.assignment)
            if assignment is None:
                continue
            if assignment.prepared_from_ms is None:
                assignment.prepared_from_ms = now_ms
            if now_ms - assignment.prepared_from_ms <= PREPARE_MS_MAX:
                deadline_ms = now_ms + assignment.limits_ms + TIMEOUT_GRACE_MS
                assignment.deadline_ms = max(assignment.deadline_ms, deadline_ms)

    def sticks(self, worker: Worker, stuck: tuple[int, ...]) -> list[Assignment]:
        """Note the assignments that a worker is stuck in; return its other ones, to be revoked."""
        worker.stuck = stuck
        beside = [held for number, held in worker.held.items() if number not in stuck] if stuck else []
        for assignment in reversed(beside):
            self.take_back(assignment)
        return beside

    # --- tasks that came back undone ---------------------------------------------------------------------------------

    def faulted(self, task: Task, worker: Worker, reason: str) -> int:
        """Note that a worker could not do this task; return how often that has happened."""
        trouble = _trouble(task)
        trouble.add_reason(reason)
        trouble.faults += 1
        trouble.faulted_on += (worker.number,)
        return trouble.faults

    def refused(self, tasks: list[Task], worker: Worker, reason: str) -> list[Task]:
        """Note that a worker cannot run the code of these tasks; return those whose code no current worker can run."""
        for task in tasks:
            trouble = _trouble(task)
            trouble.add_reason(reason)
            trouble.refused_by += (worker.number,)
        able = self._able(self._pools[worker.settings.pool])
        if not able:
            return []  # it refused while leaving; the tasks wait, as if it had left before
        return [task for task in tasks if all(one.number in _trouble(task).refused_by for one in able)]

    def overran(self, assignment: Assignment) -> list[Task]:
        """Note that a live worker did not answer this assignment; return the task that is to blame, if there is one."""
        unfinished = [task for _, tasks in assignment.folds for task in tasks if task.outcome is None]
        for task in unfinished:
            _trouble(task).suspect = True
        if not assignment.alone:
            return []
        for task in unfinished:
            _trouble(task).overruns += 1
        return unfinished

    def _able(self, pool: _Pool) -> list[Worker]:
        """Return the workers of a pool that accept work, now or when they have finished some."""
        return [worker for worker in pool.workers if not worker.draining and not worker.stuck]

    # --- assignments -------------------------------------------------------------------------------------------------

    def assign(self, now_ms: int) -> list[tuple[Worker, Assign]]:
        """Return the assignments that can be made now."""
        orders: list[tuple[Worker, Assign]] = []
        for pool in self._pools.values():
            while pool.ready and (order := self._assign_one(pool, now_ms)) is not None:
                orders.append(order)
        return orders

    def settle(self, assignment: Assignment, elapsed_us: int) -> None:
        """End an answered assignment, after its outcomes were applied: undone tasks go back to their queues."""
        if assignment.tasks:
            pace = elapsed_us / assignment.tasks
            for digest in dict.fromkeys(
                task.code.digest for _, tasks in assignment.folds for task in tasks if task.code
            ):
                known = self._pace_us.get(digest, pace)
                self._pace_us[digest] = known + _PACE_WEIGHT * (pace - known)
        self.take_back(assignment)
        self.orphans.pop(assignment.number)

    def _assign_one(self, pool: _Pool, now_ms: int) -> tuple[Worker, Assign] | None:
        free = [worker for worker in pool.workers if worker.free]
        if not free:
            return None
        found = self._next_pair(pool, free)
        if found is None:
            return None
        worker, queues = found
        trouble = queues[0].tasks[0].trouble
        suspect = trouble is not None and trouble.suspect
        if suspect and worker.held:
            return None  # a suspect waits for the least loaded worker to be idle, and its pool waits with it
        pool.ready.move_to_end(queues[0].lane.name)
        assignment = Assignment(self._next_number, worker, queues[0].lane, alone=suspect)
        self._next_number += 1
        self._fill(assignment, pool, queues)
        self._send_out(assignment, now_ms)
        return worker, order_of(assignment.number, assignment.lane, [tasks for _, tasks in assignment.folds])

    def _next_pair(self, pool: _Pool, free: list[Worker]) -> tuple[Worker, deque[TaskQueue]] | None:
        """Return the next queues and the worker for their head; a head that waits for a busy worker is skipped."""
        for _ in range(_QUEUES_PASSED_OVER):
            queues = self._next_lane(pool)
            if queues is None:
                return None
            lane = queues[0].lane
            if not _is_far_ahead(lane) or self._bring_head(lane, pool, queues):
                worker = self._worker_for(queues[0].tasks[0], pool, free)
                if worker is not None:
                    return worker, queues
                queues.rotate(-1)
            pool.ready.move_to_end(lane.name)
        return None

    def _bring_head(self, lane: Lane, pool: _Pool, queues: deque[TaskQueue]) -> bool:
        """Put the queue with the head of the line first, if it is ready in this pool."""
        head = lane.head
        queue = None if head is None else self._queues.get((lane.name, head.address, head.stateless))
        if queue is None or not queue.ready or self._pools[queue.pool] is not pool:
            return False  # the head is out, or waits for a worker of the other pool
        queues.remove(queue)
        queues.appendleft(queue)
        return self._has_head(queues)

    def _worker_for(self, task: Task, pool: _Pool, free: list[Worker]) -> Worker | None:
        """Return the least loaded free worker; one that failed on this task only if all have, one that has the guest of
        its call before all others.
        """
        trouble = task.trouble
        if trouble is not None:
            untried = [worker for worker in self._able(pool) if not trouble.is_to_avoid(worker.number)]
            free = [worker for worker in untried if worker.free] if untried else free
        home = self._homes.of(task)
        at_home = [worker for worker in free if worker.number == home] if home else ()
        return min(at_home or free, key=lambda worker: worker.held_tasks, default=None)

    def _next_lane(self, pool: _Pool) -> deque[TaskQueue] | None:
        """Return the ready queues of the lane whose turn it is; lanes with nothing to run are dropped."""
        while pool.ready:
            lane, queues = next(iter(pool.ready.items()))
            if self._has_head(queues):
                return queues
            del pool.ready[lane]
        return None

    def _fill(self, assignment: Assignment, pool: _Pool, queues: deque[TaskQueue]) -> None:
        """Take tasks from the ready queues of one lane until the assignment is full."""
        trouble = queues[0].tasks[0].trouble
        alone = (trouble is not None and trouble.alone) or _is_far_ahead(assignment.lane)
        quota = 1 if alone else self._quota(pool, assignment.worker, queues[0].tasks[0])
        bytes_max = min(ASSIGNMENT_BYTES_MAX, assignment.worker.settings.bytes_max - assignment.worker.held_bytes)
        left: list[TaskQueue] = []
        while quota > assignment.tasks and self._has_head(queues):
            queue = queues[0]
            if assignment.tasks and (queue.tasks[0].trouble is not None or assignment.bytes >= bytes_max):
                break
            queues.popleft()
            if assignment.tasks and len(left) < _QUEUES_LEFT and self._is_for_another(queue, pool, assignment.worker):
                left.append(queue)
                continue
            queue.ready = False
            taken = self._take(assignment, queue, quota, bytes_max)
            pool.ready_tasks -= len(taken)
            assignment.folds.append((queue, taken))
            if queue.stateless:
                self._make_ready(queue)
            else:
                queue.busy = True
        queues.extendleft(reversed(left))

    def _is_for_another(self, queue: TaskQueue, pool: _Pool, worker: Worker) -> bool:
        """Return whether the guest of a call is at another worker, which could take it now."""
        home = self._homes.of(queue.tasks[0])
        return 0 != home != worker.number and any(one.number == home and one.free for one in pool.workers)

    def _take(self, assignment: Assignment, queue: TaskQueue, quota: int, bytes_max: int) -> list[Task]:
        """Take the next tasks of a queue, at least one: all of one code, and none to be run alone with others."""
        tasks = queue.tasks
        code = tasks[0].code
        assignment.bytes += _bytes_before(tasks[0])
        taken: list[Task] = []
        while tasks and assignment.tasks < quota and (not taken or assignment.bytes < bytes_max):
            task = tasks[0]
            if task.outcome is not None:
                self._drop_head(queue)
                continue
            if taken and (task.code is not code or not _travel_together(taken[0].trouble, task.trouble)):
                break
            tasks.popleft()
            task.assignment = assignment.number
            task.attempts += 1
            taken.append(task)
            assignment.tasks += 1
            assignment.bytes += task.payload_bytes
        return taken

    def _quota(self, pool: _Pool, worker: Worker, task: Task) -> int:
        """Return how many tasks the next assignment may hold: an even share of those waiting, with bounded work."""
        assert task.code is not None
        # Two for each worker are enough to keep it busy; more, where it takes more, are for tasks that take long.
        share = -(-pool.ready_tasks // (len(pool.workers) * ASSIGNMENTS_PER_WORKER))
        pace_us = self._pace_us.get(task.code.digest)
        first = FIRST_ASSIGNMENT_TASKS[worker.settings.pool]
        by_pace = first if pace_us is None else int(ASSIGNMENT_TARGET_MS * 1000 / max(pace_us, 1.0))
        return max(1, min(share, by_pace, FOLD_TASKS_MAX, worker.settings.slots - worker.held_tasks))

    def _send_out(self, assignment: Assignment, now_ms: int) -> None:
        worker = assignment.worker
        begins_ms = max([now_ms, *(held.deadline_ms - TIMEOUT_GRACE_MS for held in worker.held.values())])
        assignment.limits_ms = sum(_limit_ms(tasks) for _, tasks in assignment.folds)
        assignment.deadline_ms = begins_ms + assignment.limits_ms + TIMEOUT_GRACE_MS
        worker.held[assignment.number] = assignment
        worker.held_tasks += assignment.tasks
        worker.held_bytes += assignment.bytes
        self.assignments[assignment.number] = assignment
        for _, tasks in assignment.folds:
            self._homes.note(tasks[0], worker.number)

    def take_back(self, assignment: Assignment) -> None:
        """End an assignment: its unfinished tasks return to the front of their queues, in order."""
        worker = assignment.worker
        del self.assignments[assignment.number]
        del worker.held[assignment.number]
        worker.held_tasks -= assignment.tasks
        worker.held_bytes -= assignment.bytes
        self.orphans[assignment.number] = assignment
        if len(self.orphans) > ORPHANS_KEPT:
            self.orphans.popitem(last=False)
        for queue, tasks in reversed(assignment.folds):  # so that the first comes first again
            unfinished = [task for task in tasks if task.outcome is None]
            for task in unfinished:
                task.assignment = 0
            queue.busy = False
            if unfinished:  # a stateless queue may have been dropped and replaced meanwhile
                queue = self._queues.setdefault((queue.lane.name, queue.address, queue.stateless), queue)
            queue.tasks.extendleft(reversed(unfinished))
            self._pools[queue.pool].ready_tasks += len(unfinished)
            self._make_ready(queue, first=bool(unfinished))

    # --- queues ------------------------------------------------------------------------------------------------------

    def _make_ready(self, queue: TaskQueue, first: bool = False) -> None:
        if not queue.tasks:
            key = (queue.lane.name, queue.address, queue.stateless)
            if not queue.busy and not queue.ready and self._queues.get(key) is queue:
                del self._queues[key]
            return
        if queue.busy or queue.ready:
            return
        queue.ready = True
        queues = self._pools[queue.pool].ready.setdefault(queue.lane.name, deque())
        if first:
            queues.appendleft(queue)
        else:
            queues.append(queue)

    def _has_head(self, queues: deque[TaskQueue]) -> bool:
        """Return whether the first ready queue has a task to run, after skipping tasks that were caught."""
        while queues:
            queue = queues[0]
            while queue.tasks and queue.tasks[0].outcome is not None:
                self._drop_head(queue)
            if queue.tasks:
                return True
            queues.popleft()
            queue.ready = False
            self._make_ready(queue)
        return False

    def _drop_head(self, queue: TaskQueue) -> None:
        queue.tasks.popleft()
        self._pools[queue.pool].ready_tasks -= 1

    def unfinished_queued(self) -> int:
        """Return how many queued tasks must still run; caught ones are skipped when their queue is read."""
        return sum(task.outcome is None for queue in self._queues.values() for task in queue.tasks)

    def check_invariants(self) -> None:
        """Assert that assignments, workers and queues are consistent."""
        for worker in self.workers.values():
            assert worker.held_tasks == sum(assignment.tasks for assignment in worker.held.values())
            assert all(self.assignments[number] is assignment for number, assignment in worker.held.items())
        for number, assignment in self.assignments.items():
            assert assignment.worker.held[number] is assignment
            assert all(task.assignment == number for _, tasks in assignment.folds for task in tasks)
        for pool in self._pools.values():
            waiting = [queue for queue in self._queues.values() if self._pools[queue.pool] is pool]
            assert pool.ready_tasks == sum(len(queue.tasks) for queue in waiting)
            ready = [queue for queues in pool.ready.values() for queue in queues]
            assert all(queue.ready and not queue.busy for queue in ready)
            assert sum(queue.ready for queue in waiting) == len(ready)


def _is_far_ahead(lane: Lane) -> bool:
    """Whether so many outcomes wait for the head of the line that only the head is handed out."""
    return lane.budget.unretired_bytes > UNRETIRED_BYTES_MAX


def _trouble(task: Task) -> Trouble:
    if task.trouble is None:
        task.trouble = Trouble()
    return task.trouble


def _travel_together(first: Trouble | None, other: Trouble | None) -> bool:
    """Return whether tasks may share a fold: those without trouble, or refused by the same workers."""
    if first is None or other is None:
        return first is other
    return not first.alone and not other.alone and first.refused_by == other.refused_by


def _bytes_before(task: Task) -> int:
    """Return the bytes of what a fold that begins with this task takes along: a state, or the messages of a call."""
    agent = task.agent
    if agent is None:
        return 0
    if agent.call is not None:
        return agent.call.counted_bytes  # nearly: the steps that have not retired yet are few
    return 0 if agent.state is None else len(agent.state)


def _limit_ms(tasks: list[Task]) -> int:
    """Return how long a fold may take: the timeout for each task, and for each step of a call that may run again."""
    first = tasks[0]
    assert first.code is not None
    again = 0 if first.agent is None or first.agent.call is None else len(first.agent.call.steps)
    return (len(tasks) + again) * first.code.limits.timeout_ms
