"""A call of a flow: an instance of its own, whose messages are kept until it ends. PURE.

Its guest is a function of its messages, so they take the place of a state. Execution model, part 11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rota.broker.tasks import Task, task_input
from rota.common.budget import content_bytes
from rota.common.calls import STEP_BYTES, path_of
from rota.common.work import SUBMIT_KINDS, CallStep, CallSteps, Code, Done, Outcome, Past


class FlowCall:
    """The call that an instance is."""

    __slots__ = (
        "asked",
        "code",
        "counted_bytes",
        "end",
        "ended",
        "fuel",
        "in_line",
        "steps",
        "timers",
        "turn",
        "waits",
    )

    def __init__(self, code: Code, turn: int) -> None:
        self.code = code  # bound when it began
        self.turn = turn  # of the task that began it
        self.steps: list[CallStep] = []  # its messages so far, completed
        self.fuel = 0  # that these used
        self.waits = ""  # where it waits after the newest of them, if the runtime can say
        self.asked: dict[int, None] = {}  # turns that it has asked and that are not answered
        self.timers: dict[tuple[int, int], None] = {}  # its waiting ones, by turn and emit
        self.end: int | None = None  # the turn of the task that ends it, once that has an outcome
        self.ended = False  # nothing has effects or is stamped for it any more
        self.in_line = 0  # how many of its tasks are in the line
        self.counted_bytes = 0  # of its retired steps, as counted in the lane's budget

    def take(self, task: Task, outcome: Outcome, line: Mapping[int, Task]) -> None:
        """Take the outcome of a task for it: one more step, or its end. `line`: by turn."""
        if type(outcome) is Done and outcome.waits is not None:
            self.steps.append(CallStep(task_input(task), path_of(outcome.emits)))
            self.fuel += outcome.fuel
            self.waits = outcome.waits
        elif self.is_alive(task, line):
            self.end = task.turn

    def is_alive(self, task: Task, line: Mapping[int, Task]) -> bool:
        """Return whether a task in the line comes before the end of the call, as far as that is known."""
        if self.end is None:
            return True
        end = line.get(self.end)
        return end is not None and task.place < end.place

    def past(self, tasks: Sequence[Task], line: Mapping[int, Task]) -> Past:
        """Return what a worker needs to run these next tasks of the call."""
        return Past(CallSteps.of(self.steps), sum([self.is_alive(task, line) for task in tasks]), self.fuel)


def step_bytes(task: Task) -> int:
    """Return what a retired step counts while its call lasts; the content of an asked task is in its open ask."""
    run = task.run
    if run.kind in SUBMIT_KINDS and not run.answers:
        return STEP_BYTES
    return STEP_BYTES + content_bytes(run.kind, task.payload_bytes, run.tensors_of(task.index))
