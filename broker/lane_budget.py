"""What a lane holds in bytes, counted as it changes, and what room is left. PURE.

The numbers follow from the lane alone (budget.py says what a task counts), so whatever an agent meets because of them
is the same in every replay. Producers may fill half of what states leave free; the other half is for what the tasks of
the lane emit, keep and answer, so that a flood from outside does not end as `overflow` inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rota.broker.tasks import Agent, Run, Task, Timer
from rota.common.budget import REF_BYTES, TASK_BYTES, content_bytes, outcome_bytes
from rota.common.code_kinds import kind_of
from rota.common.messages import TaskRun
from rota.common.work import ASK, FAILURE, Code, Emit


@dataclass(slots=True)
class LaneBudget:
    """The counts of one lane; the lane writes them."""

    bytes_max: int
    task_bytes: int = 0  # of tasks that wait or are in the line
    timer_bytes: int = 0
    state_bytes: int = 0  # of agents, as their last retired task left them
    reserved_bytes: int = 0  # by which the tasks of the line may still grow the lane
    # Outcomes that wait until the tasks before theirs retire. How many do is a matter of timing, so it is counted for
    # dispatch only (dispatch.py) and is no part of what the lane holds or has room for.
    unretired_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        """What is there now; dead letters have a bound of their own."""
        return self.task_bytes + self.timer_bytes + self.state_bytes

    @property
    def room_bytes(self) -> int:
        """What can still be promised; never below 0."""
        return self.bytes_max - self.task_bytes - self.timer_bytes - self.state_bytes - self.reserved_bytes

    @property
    def outside_bytes_max(self) -> int:
        """Up to how much of tasks and timers producers may fill: half of what states leave free."""
        return (self.bytes_max - self.state_bytes) // 2

    def fits(self, submitted_bytes: int) -> bool:
        """Whether a submit finds room now."""
        waits = self.task_bytes + self.timer_bytes
        return waits + submitted_bytes <= self.outside_bytes_max and submitted_bytes <= self.room_bytes

    def allowance(self, emits: int, growth: int) -> tuple[int, int]:
        """Return how much of what a task wants there is room for: emits, and bytes of content."""
        room = self.room_bytes
        if emits * TASK_BYTES + growth <= room:
            return emits, growth
        emits = min(emits, room // TASK_BYTES)
        return emits, min(growth, room - emits * TASK_BYTES)


def wanted(code: Code | None, kind: str) -> tuple[int, int]:
    """How many emits and how many bytes a task wants room for. Where nothing is emitted, bytes are for the reply."""
    if code is None:
        return 0, 0
    if kind_of(code).emits:
        return code.limits.emits_max, code.limits.growth_bytes
    return 0, code.limits.growth_bytes if kind == ASK else 0


def count(
    bytes_max: int,
    waiting: Iterable[Run],
    line: Iterable[Task],
    timers: Iterable[Timer],
    agents: Iterable[Agent],
) -> LaneBudget:
    """Count what a lane holds from nothing."""
    tasks = list(line)
    return LaneBudget(
        bytes_max=bytes_max,
        task_bytes=sum([run_bytes(run, run.issued) for run in waiting]) + sum(map(issued_bytes, tasks)),
        timer_bytes=sum([emit_bytes(timer.emit) for timer in timers]),
        state_bytes=sum([agent.counted_bytes for agent in agents]),
        reserved_bytes=sum(map(reserved_bytes, tasks)),
        unretired_bytes=sum([outcome_bytes(task.outcome) for task in tasks if task.outcome is not None]),
    )


def run_bytes(run: Run | TaskRun, start: int = 0) -> int:
    """What the tasks of a run count, from index `start` on."""
    lengths = run.payloads.lengths[start:]
    if type(run) is Run and run.kind == FAILURE:  # always alone
        return sum([TASK_BYTES + content_bytes(FAILURE, length, ()) for length in lengths])
    refs = sum([len(refs) for index, refs in run.tensors if index >= start])
    return TASK_BYTES * len(lengths) + sum(lengths) + REF_BYTES * refs


def issued_bytes(task: Task) -> int:
    """What one issued task counts."""
    return TASK_BYTES + content_bytes(task.run.kind, task.payload_bytes, task.run.tensors_of(task.index))


def reserved_bytes(task: Task) -> int:
    """What is kept for what a task may still add."""
    return task.growth_bytes + TASK_BYTES * task.emits_max


def emit_bytes(emit: Emit) -> int:
    """What an emitted message counts, as a timer or as a task."""
    return TASK_BYTES + content_bytes(emit.kind, len(emit.payload), emit.tensors)
