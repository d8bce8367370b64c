"""What becomes of tasks that a worker brought back without an outcome. PURE.

Four cases are kept apart. The task ran out of time: it gets its verdict. It could not be done there: it alone runs
again, and gets a verdict after TRIES_MAX tries. The worker cannot run its code: every task of that code goes to other
workers, and gets a verdict when none there can run it. The worker did not come back although it lives: it is sent
away, and the task, if it was alone, counts an overrun. What was merely interrupted runs again and is not seen here.

So no outcome depends on which tasks shared a fold. What workers say of the reason goes into events, never into a lane.
"""

from __future__ import annotations

from rota.broker.dispatch import Assignment, Worker
from rota.broker.state import BrokerState
from rota.broker.tasks import Task
from rota.broker.verdicts import FAULTED, REFUSED, TIMEOUT, verdict_text
from rota.common.events import TaskUndone
from rota.common.limits import TRIES_MAX
from rota.common.work import FoldResult


def settle(broker: BrokerState, worker: Worker, tasks: list[Task], result: FoldResult) -> None:
    """Take a fold that ended early. Its tasks are back in their queue already."""
    left = tasks[len(result.outcomes) :]
    if result.stopped == "timeout":
        judge(broker, left[0], TIMEOUT)
    elif result.stopped == "faulted":
        _tell(broker, worker, left[0], "faulted", result.reason)
        if broker.dispatcher.faulted(left[0], worker, result.reason) >= TRIES_MAX:
            judge(broker, left[0], FAULTED)
    elif result.stopped == "refused":
        _tell(broker, worker, left[0], "refused", result.reason)
        for task in broker.dispatcher.refused(left, worker, result.reason):
            judge(broker, task, REFUSED)


def overran(broker: BrokerState, assignment: Assignment) -> None:
    """A worker that lives did not come back with an assignment; call it before the worker is sent away."""
    for task in broker.dispatcher.overran(assignment):
        assert task.trouble is not None
        if task.trouble.overruns >= TRIES_MAX:
            judge(broker, task, TIMEOUT)


def judge(broker: BrokerState, task: Task, kind: str) -> None:
    """Pass a verdict on a task that has not completed."""
    assert task.code is not None
    broker.decide(task, kind, verdict_text(kind, task.code))


def _tell(broker: BrokerState, worker: Worker, task: Task, what: str, reason: str) -> None:
    told = TaskUndone(worker.name, what, task.seq, task.turn, task.address, reason)
    broker.tell(task.run.lane, told)
