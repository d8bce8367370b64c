"""The bytes that a lane holds, counted as they change, and the room left. PURE.

The numbers follow from the lane alone (common/budget.py counts tasks), so an `overflow` is the same in every replay.
Producers may fill half of what states leave free; the other half is for emits, states and replies of the lane's tasks,
so that a flood from outside does not cause `overflow` inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rota.broker.tasks import Agent, Run, Task, Timer
from rota.common.budget import REF_BYTES, TASK_BYTES, content_bytes, outcome_bytes
from rota.common.code_kinds import kind_of
from rota.common.messages import TaskRun
from rota.common.work import FAILURE, Code, Emit

if TYPE_CHECKING:
    from rota.broker.asks import Asks


@dataclass(slots=True)
class LaneBudget:
    """The counts of one lane, updated by the lane."""

    bytes_max: int
    task_bytes: int = 0  # of tasks that wait or are in the line, in bytes
    timer_bytes: int = 0
    ask_bytes: int = 0  # of open asks, and of the messages of calls
    state_bytes: int = 0  # of agents' states after their last retired tasks
    reserved_bytes: int = 0  # by which the tasks of the line may still grow the lane
    # Outcomes that wait until the tasks before theirs retire. How many do is a matter of timing, so it is counted for
    # dispatch only (dispatch.py) and not part of what the lane holds or has room for.
    unretired_bytes: int = 0

    @property
    def held_bytes(self) -> int:
        """The bytes held now, without dead letters, which have their own bound."""
        return self.task_bytes + self.timer_bytes + self.ask_bytes + self.state_bytes

    @property
    def room_bytes(self) -> int:
        """The bytes that can still be reserved, at least 0."""
        held = self.task_bytes + self.timer_bytes + self.ask_bytes
        return self.bytes_max - held - self.state_bytes - self.reserved_bytes

    @property
    def outside_bytes_max(self) -> int:
        """The bytes of tasks, timers and open asks that producers may fill: half of what states leave free."""
        return (self.bytes_max - self.state_bytes) // 2

    def fits(self, submitted_bytes: int) -> bool:
        """Return whether there is room for a submit now."""
        waits = self.task_bytes + self.timer_bytes + self.ask_bytes
        return waits + submitted_bytes <= self.outside_bytes_max and submitted_bytes <= self.room_bytes

    def allowance(self, emits: int, growth: int) -> tuple[int, int]:
        """Return how many of the wanted emits and bytes of content there is room for."""
        room = self.room_bytes
        if emits * TASK_BYTES + growth <= room:
            return emits, growth
        emits = min(emits, room // TASK_BYTES)
        return emits, min(growth, room - emits * TASK_BYTES)


def wanted(code: Code | None, wants_reply: bool) -> tuple[int, int]:
    """Return how many emits and bytes a task wants room for. If it cannot emit, the bytes are for its reply."""
    if code is None:
        return 0, 0
    if kind_of(code).emits:
        return code.limits.emits_max, code.limits.growth_bytes
    return 0, code.limits.growth_bytes if wants_reply else 0


def count(
    bytes_max: int,
    waiting: Iterable[Run],
    line: Iterable[Task],
    timers: Iterable[Timer],
    agents: Iterable[Agent],
    asks: Asks,
) -> LaneBudget:
    """Count everything that a lane holds."""
    tasks, agents = list(line), list(agents)
    return LaneBudget(
        bytes_max=bytes_max,
        task_bytes=sum([run_bytes(run, run.issued) for run in waiting]) + sum(map(issued_bytes, tasks)),
        timer_bytes=sum([emit_bytes(timer.emit) for timer in timers]),
        ask_bytes=asks.bytes + sum([agent.call.counted_bytes for agent in agents if agent.call is not None]),
        state_bytes=sum([agent.counted_bytes for agent in agents]),
        reserved_bytes=sum(map(reserved_bytes, tasks)),
        unretired_bytes=sum([outcome_bytes(task.outcome) for task in tasks if task.outcome is not None]),
    )


def run_bytes(run: Run | TaskRun, start: int = 0) -> int:
    """Return how many bytes the tasks of a run count, from index `start` on."""
    lengths = run.payloads.lengths[start:]
    if type(run) is Run and run.kind == FAILURE:  # always a single task
        return sum([TASK_BYTES + content_bytes(FAILURE, length, ()) for length in lengths])
    refs = sum([len(refs) for index, refs in run.tensors if index >= start])
    return TASK_BYTES * len(lengths) + sum(lengths) + REF_BYTES * refs


def issued_bytes(task: Task) -> int:
    """Return how many bytes an issued task counts."""
    run = task.run
    size = run.payloads.lengths[task.index]
    if run.tensors or run.kind == FAILURE:  # most have no tensors
        size = content_bytes(run.kind, size, run.tensors_of(task.index))
    return TASK_BYTES + size


def reserved_bytes(task: Task) -> int:
    """Return how many bytes are reserved for what a task may still add."""
    return task.growth_bytes + TASK_BYTES * task.emits_max


def emit_bytes(emit: Emit) -> int:
    """Return how many bytes an emitted message counts, as a timer or as a task."""
    return TASK_BYTES + content_bytes(emit.kind, len(emit.payload), emit.tensors)
