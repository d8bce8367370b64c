"""Handles tasks that a worker returned without an outcome. PURE.

There are four cases. The task timed out: it gets a verdict. It could not be done there: it is retried alone, and gets a
verdict after TRIES_MAX tries. The worker cannot run its code: every task of that code goes to other workers, and gets a
verdict if none can run it. The worker is alive but did not answer: it is removed, and the task, if it was alone, counts
an overrun. Tasks that were only interrupted run again and are not handled here.

So no outcome depends on which tasks shared a fold. Workers' reasons go into events, and the last ones of a task that no
worker could do into the log of its outcome, which no digest covers.
"""

from __future__ import annotations

from rota.broker.dispatch import Assignment, Worker
from rota.broker.state import BrokerState
from rota.broker.tasks import Task, reasons_of
from rota.broker.verdicts import FAULTED, REFUSED, TIMEOUT, UNREPEATABLE, verdict_of
from rota.common.events import TaskUndone
from rota.common.limits import TRIES_MAX
from rota.common.work import FoldResult


def settle(broker: BrokerState, worker: Worker, tasks: list[Task], result: FoldResult) -> None:
    """Handle a fold that ended early. Its tasks are already back in their queue."""
    left = tasks[len(result.outcomes) :]
    if result.stopped == "timeout":
        judge(broker, left[0], TIMEOUT)
    elif result.stopped == "faulted":
        _tell(broker, worker, left[0], "faulted", result.reason)
        if broker.dispatcher.faulted(left[0], worker, result.reason) >= TRIES_MAX:
            judge(broker, left[0], FAULTED)
    elif result.stopped in (REFUSED, UNREPEATABLE):
        _tell(broker, worker, left[0], result.stopped, result.reason)
        for task in broker.dispatcher.refused(left, worker, result.reason):
            judge(broker, task, result.stopped)


def overran(broker: BrokerState, assignment: Assignment) -> None:
    """Handle an assignment that a live worker did not answer; call it before the worker is removed."""
    for task in broker.dispatcher.overran(assignment):
        assert task.trouble is not None
        if task.trouble.overruns >= TRIES_MAX:
            judge(broker, task, TIMEOUT)


def judge(broker: BrokerState, task: Task, stopped: str) -> None:
    """Give a verdict to a task that has not completed and stopped for good in this way."""
    assert task.code is not None
    kind, text = verdict_of(stopped, task.code)
    broker.decide(task, kind, text, reasons_of(kind, task))


def _tell(broker: BrokerState, worker: Worker, task: Task, what: str, reason: str) -> None:
    told = TaskUndone(worker.name, what, task.seq, task.turn, task.address, reason)
    broker.tell(task.run.lane, told)
