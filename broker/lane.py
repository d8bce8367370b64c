"""One lane: stamp, issue, retire. The deterministic core of the system. PURE.

Everything here is a function of the records applied so far (execution model, parts 2 to 4), without clock, workers or
load figures. The live broker and recovery call the same methods with the same records. Dispatch, which may use all of
these, is in dispatch.py and learns only from `Notes` what there is to run.

The order is fixed: issue while there is room, then retire exactly one task, then issue again. If several tasks retired
before the next issue, the timing of completions could decide which of two waiting tasks joins the line first.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator
from heapq import merge
from typing import Final, NamedTuple

from rota.broker.dead_letters import DeadLetters
from rota.broker.lane_budget import (
    LaneBudget,
    count,
    emit_bytes,
    issued_bytes,
    reserved_bytes,
    run_bytes,
    wanted,
)
from rota.broker.records import CompletedFold, Opened, Submitted, TimerFired
from rota.broker.replies import reply
from rota.broker.tasks import Agent, DeadTask, Run, Task, Timer, caught_task
from rota.broker.turn_content import turn_digest, turn_fields
from rota.broker.verdicts import unknown
from rota.common.budget import growth_of, outcome_bytes
from rota.common.code_kinds import KINDS
from rota.common.columns import Blobs
from rota.common.digests import ZERO_DIGEST
from rota.common.messages import LaneSettings
from rota.common.targets import code_name
from rota.common.work import (
    ASK,
    TELL,
    TIMER,
    Code,
    Done,
    Emit,
    Failed,
    Outcome,
    Provenance,
    ReplyTo,
    why_not_of,
)

RECORDED_POLICY: Final = "recorded"


class Numbering:
    """The global sequence numbers: dense, from 1, over all lanes, never reused."""

    __slots__ = ("next_seq",)

    def __init__(self) -> None:
        self.next_seq = 1

    def take(self, tasks: int) -> int:
        """Return the first of `tasks` new sequence numbers."""
        first = self.next_seq
        self.next_seq += tasks
        return first


class Notes:
    """The effects of the last records, for dispatch, results and events."""

    __slots__ = ("caught", "finished", "issued", "retired", "stamped", "timers")

    def __init__(self) -> None:
        self._clear()

    def take(self) -> Notes:
        """Return the notes so far and clear them."""
        taken = Notes.__new__(Notes)  # copy.copy would take ten times as long, for each record
        taken.stamped, taken.issued, taken.finished = self.stamped, self.issued, self.finished
        taken.retired, taken.timers, taken.caught = self.retired, self.timers, self.caught
        self._clear()
        return taken

    def _clear(self) -> None:
        self.stamped: list[Run] = []
        self.issued: list[Task] = []  # to be executed, so without those that already have an outcome
        self.finished: list[Task] = []  # issued, and the outcome is final
        self.caught: list[Task] = []  # the outcome is final before issue; in `finished` when they join the line
        self.retired: list[Task] = []
        self.timers: list[Timer] = []


class LaneImage(NamedTuple):
    """The state of a lane for a snapshot, without its tasks, agents, timers and dead letters."""

    name: str
    settings: LaneSettings
    window: int
    paused: bool
    deploys: tuple[tuple[str, Code], ...]
    next_turn: int
    retired: int
    failed: int
    digest: bytes
    passes: tuple[tuple[int, int], ...]


class Lane:
    """A lane: line, window, agents, digest. Its methods apply one record each."""

    def __init__(self, opened: Opened, numbering: Numbering, notes: Notes) -> None:
        assert opened.settings.seed is not None
        self.name = opened.lane
        self.settings = opened.settings
        self.seed: bytes = opened.settings.seed
        self.window = opened.settings.window
        self.paused = opened.paused
        self.deploys: dict[str, Code] = dict(opened.deploys)
        self.agents: dict[str, Agent] = {}
        self.dead = DeadLetters(opened.settings.bytes_max)
        self.timers: dict[tuple[int, int], Timer] = {}
        self.next_turn = 1
        self.retired = 0
        self.failed = 0
        self.digest = ZERO_DIGEST
        self.waiting_count = 0
        self.line_count = 0
        self.line_by_turn: dict[int, Task] = {}
        self._numbering = numbering
        self._notes = notes
        self._waiting: dict[int, deque[Run]] = {}
        self._levels: list[int] = []  # priorities with waiting runs, ascending
        self._passes: dict[int, int] = {}  # issues from higher levels since this level was served
        # The only difference between the policies: tasks enter the retire order at issue, or at completion.
        self._recorded = opened.settings.policy == RECORDED_POLICY
        self._retire_order: deque[Task] = deque()
        self.reserved = 0  # emits that the tasks in the line may still make
        self.budget = LaneBudget(opened.settings.bytes_max)

    @property
    def load(self) -> int:
        """How many tasks are stamped and not retired, waiting timers included, as counted against `tasks_max`."""
        return self.waiting_count + self.line_count + len(self.timers)

    @property
    def head(self) -> Task | None:
        """The task that retires next; None if there is none yet."""
        return self._retire_order[0] if self._retire_order else None

    # --- inputs ---------------------------------------------------------------------------------------------------

    def submit(self, record: Submitted) -> None:
        """Stamp a batch of tasks in batch order."""
        if record.retry_of is not None:
            self._stamp_again(self.dead.take(record.retry_of), record.now_ms)
        for run in record.runs:
            self._stamp(
                Run(
                    lane=self.name,
                    first_seq=self._numbering.take(len(run.payloads)),
                    first_turn=self.next_turn,
                    targets=run.targets,
                    priority=run.priority,
                    kind=TELL,
                    sender=None,
                    now_ms=record.now_ms,
                    parent=None,
                    reply_to=None,
                    payloads=run.payloads,
                    tensors=run.tensors,
                )
            )
        self._advance()

    def deploy(self, name: str, code: Code) -> None:
        """Bind a name to code, for tasks issued from now on."""
        self.deploys[name] = code
        self._advance()  # the new code may need less room for emits

    def decide(self, run: Run, index: int, failure: Failed) -> None:
        """Catch a task that has not completed, by a cancel or verdict. It has no effects and retires in order."""
        task = self.line_by_turn.get(run.first_turn + index)
        if task is not None:
            self._complete(task, failure, None)
            self._advance()
            return
        # Not issued yet: it keeps its place, so that runs need not be split, and completes at issue. Its watchers are
        # told now, since a paused lane may never issue it.
        if run.verdicts is None:
            run.verdicts = {}
        assert index not in run.verdicts
        assert index >= run.issued
        run.verdicts[index] = failure
        self._notes.caught.append(caught_task(run, index, failure))

    def fire_timer(self, record: TimerFired) -> None:
        """Stamp the message of a timer that is due."""
        timer = self.timers.pop((record.turn, record.index_of_emit))
        self.budget.timer_bytes -= emit_bytes(timer.emit)
        self._stamp_one(timer.emit, timer.sender, record.now_ms, (timer.turn, timer.index_of_emit))
        self._advance()

    def set_window(self, window: int) -> None:
        """Change the window; a longer line shrinks as tasks retire."""
        self.window = window
        self._advance()

    def set_paused(self, paused: bool) -> None:
        """Pause (issue no more; tasks in the line go on) or release (issue again)."""
        self.paused = paused
        self._advance()

    def set_seed(self, seed: bytes) -> None:
        """Change the seed for the entropy of tasks executed from here on."""
        self.seed = seed
        self.settings = self.settings._replace(seed=seed)

    def drop_dead(self, seqs: tuple[int, ...]) -> int:
        """Drop dead letters, all if `seqs` is empty; return how many there were."""
        return self.dead.drop(dict.fromkeys(seqs or tuple(self.dead)))

    def can_catch(self, run: Run, index: int) -> bool:
        """Return whether a cancel or verdict can catch a task: it has no outcome and was not caught before."""
        if index >= run.issued:
            return run.verdicts is None or index not in run.verdicts
        task = self.line_by_turn.get(run.first_turn + index)
        return task is not None and task.outcome is None

    # --- completions ------------------------------------------------------------------------------------------------

    def complete(self, fold: CompletedFold) -> None:
        """Apply the outcomes of consecutive tasks of one target, and retire what can retire."""
        tasks = [self.line_by_turn[turn] for turn in fold.turns]
        for task, outcome in zip(tasks, fold.outcomes, strict=True):
            if type(outcome) is Failed:
                assert task.code is not None
                assert outcome.kind in KINDS[task.code.kind].failures, (
                    f"turn {task.turn}: {task.code.kind} code cannot end as {outcome.kind!r}"
                )
            self._complete(task, outcome, fold.provenance)
        if tasks and tasks[0].code is not None:
            why = why_not_of(tasks[0].code, fold.provenance)
            assert not why, f"turn {fold.turns[0]}: {why}"
        if fold.state is not None:
            self.agents[fold.address].state = fold.state
        self._advance()

    def _complete(self, task: Task, outcome: Outcome, provenance: Provenance | None) -> None:
        assert task.outcome is None, f"turn {task.turn} completes twice"
        task.outcome = outcome
        task.provenance = provenance
        if not task.stateless:
            self._leave_agent(task, outcome)
        self._finish(task)

    def _leave_agent(self, task: Task, outcome: Outcome) -> None:
        """Update the task's agent. A verdict may end a task before earlier ones have completed; an execution cannot."""
        agent = self.agents[task.address]
        task.before = before = predecessor(task)
        if before is None and agent.newest is task:
            agent.newest = None
        if type(outcome) is Done:
            assert before is None, f"turn {task.turn} of {task.address} overtakes turn {before.turn}"
            if outcome.state_digest is not None:
                agent.state_digest = outcome.state_digest
            agent.completed += 1
            task.state_digest = agent.state_digest

    def _finish(self, task: Task) -> None:
        self._notes.finished.append(task)
        assert task.outcome is not None
        self.budget.unretired_bytes += outcome_bytes(task.outcome)
        if self._recorded:
            self._retire_order.append(task)

    # --- issue --------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Issue, retire one, and repeat until neither is possible."""
        order = self._retire_order
        while True:
            self._issue()
            if not order or order[0].outcome is None:
                return
            self._retire(order.popleft())

    def _issue(self) -> None:
        """Move waiting tasks into the line: highest priority first, then lowest turn, unless a level starves."""
        while self.waiting_count and not self.paused and self.line_count < self.window:
            level = self._levels[-1] if len(self._levels) == 1 else self._next_level()
            runs = self._waiting[level]
            run = runs[0]
            index = run.issued
            code = self.deploys.get(run.name or code_name(run.targets[index]))
            allowance = self._allowance(*wanted(code, run.kind))
            if allowance is None:
                return
            run.issued += 1
            self.waiting_count -= 1
            if len(self._levels) > 1:
                self._count_passes(level)
            elif self._passes:
                self._passes.clear()
            if run.issued == len(run.payloads.lengths):
                runs.popleft()
                if not runs:
                    self._levels.remove(level)
                    self._passes.pop(level, None)
            self._join_line(Task(run, index, code, *allowance))

    def _next_level(self) -> int:
        """Return the level to serve: of the starved ones that with the oldest head, else the highest."""
        bound = self.settings.starvation_passes
        starved = [level for level in self._levels if self._passes.get(level, 0) >= bound]
        if starved:
            return min(starved, key=lambda level: self._waiting[level][0].first_turn)  # runs do not overlap
        return self._levels[-1]

    def _count_passes(self, served: int) -> None:
        self._passes[served] = 0
        for level in self._levels:
            if level >= served:
                break
            self._passes[level] = self._passes.get(level, 0) + 1

    def _allowance(self, emits: int, growth: int) -> tuple[int, int] | None:
        """Return how many tasks the next task may emit, and by how many bytes it may grow the lane; None: it must wait
        for room.

        Room for everything that the line may add is reserved, so the lane cannot exceed its bounds, and `overflow` is
        known when a task runs, not when it retires. Only with an empty line a task gets less than its code wants.
        """
        if not emits and not growth:
            return 0, 0
        room = max(self.settings.tasks_max - self.load - self.reserved, 0)
        given = self.budget.allowance(min(emits, room), growth)
        return given if given == (emits, growth) or self.line_count == 0 else None

    def _join_line(self, task: Task) -> None:
        task.issued_at = self.retired
        self.line_by_turn[task.turn] = task
        self.line_count += 1
        self.reserved += task.emits_max
        self.budget.reserved_bytes += reserved_bytes(task)
        if not self._recorded:
            self._retire_order.append(task)
        verdict = task.run.verdicts.get(task.index) if task.run.verdicts else None
        if verdict is None and task.code is None:
            verdict = unknown(task.address)
        if verdict is None and not task.stateless and task.address not in self.agents:
            verdict = self._no_agent()
        if verdict is not None:
            task.outcome = verdict  # it joins the line complete and is not executed
            self._finish(task)
            return
        if not task.stateless:
            agent = self.agents.get(task.address)
            if agent is None:
                agent = self.agents[task.address] = Agent(task.address)
            task.before = agent.newest
            agent.newest = task
        self._notes.issued.append(task)

    def _no_agent(self) -> Failed | None:
        """Return the outcome of a task for a new agent if the lane may have no more of them."""
        agents_max = self.settings.agents_max
        if len(self.agents) < agents_max:
            return None
        return Failed("overflow", f"no new agent: the lane has {agents_max} (agents_max)", (), 0)

    # --- retire -----------------------------------------------------------------------------------

    def _retire(self, task: Task) -> None:
        """Apply the effects of a completed task: all of them, or none if it failed."""
        outcome = task.outcome
        assert outcome is not None
        del self.line_by_turn[task.turn]
        self.line_count -= 1
        self.reserved -= task.emits_max
        self.budget.task_bytes -= issued_bytes(task)
        self.budget.reserved_bytes -= reserved_bytes(task)
        self.budget.unretired_bytes -= outcome_bytes(outcome)
        self.retired += 1
        self.digest = task.turn_digest = turn_digest(self.digest, turn_fields(task, outcome))
        growth = 0
        if type(outcome) is Done:
            if outcome.emits or outcome.state_digest is not None:
                growth = self._count_growth(task, outcome)
                for index, emit in enumerate(outcome.emits):
                    self._emit(task, index, emit)
        else:
            assert type(outcome) is Failed
            self.failed += 1
            self._bury(task, outcome)
        if task.run.kind == ASK:
            self._reply(task, outcome, task.growth_max - growth)
        self._notes.retired.append(task)

    def _count_growth(self, task: Task, done: Done) -> int:
        """Count the state that a task left; return by how many bytes it grew the lane, including its emits."""
        if done.state_digest is None:
            return growth_of(done, 0)
        agent = self.agents[task.address]
        growth = growth_of(done, agent.counted_bytes)
        self.budget.state_bytes += done.state_bytes - agent.counted_bytes
        agent.counted_bytes = done.state_bytes
        return growth

    def _emit(self, task: Task, index: int, emit: Emit) -> None:
        if emit.kind == TIMER:
            timer = Timer(task.turn, index, task.run.now_ms + emit.delay_ms, task.address, emit)
            self.timers[(task.turn, index)] = timer
            self.budget.timer_bytes += emit_bytes(emit)
            self._notes.timers.append(timer)
        else:
            self._stamp_one(emit, task.address, task.run.now_ms, (task.turn, index))

    def _reply(self, task: Task, outcome: Outcome, left: int) -> None:
        """Send the outcome of an asked task to the asker, with the turn that it answers, in at most `left` bytes."""
        asked = task.run.parent
        assert asked is not None
        emits = len(outcome.emits) if type(outcome) is Done else 0
        reply_to = ReplyTo(task.turn, *asked)
        self._stamp_one(reply(task, outcome, left), task.address, task.run.now_ms, (task.turn, emits), reply_to)

    def _bury(self, task: Task, failure: Failed) -> None:
        run = task.run
        tensors = run.tensors_of(task.index)
        self.dead.keep(
            DeadTask(
                task.seq, task.turn, task.address, run.priority, task.payload, tensors, run.now_ms, failure,
                task.attempts,
            )
        )  # fmt: skip

    # --- stamp ------------------------------------------------------------------------------------

    def _stamp(self, run: Run) -> None:
        tasks = len(run.payloads)
        self.next_turn += tasks
        self.waiting_count += tasks
        self.budget.task_bytes += run_bytes(run)
        runs = self._waiting.get(run.priority)
        if runs is None:
            runs = self._waiting[run.priority] = deque()
        if not runs:
            insort(self._levels, run.priority)
        runs.append(run)
        self._notes.stamped.append(run)

    def _stamp_one(
        self,
        emit: Emit,
        sender: str | None,
        now_ms: int,
        parent: tuple[int, int] | None,
        reply_to: ReplyTo | None = None,
    ) -> None:
        self._stamp(
            Run(
                lane=self.name,
                first_seq=self._numbering.take(1),
                first_turn=self.next_turn,
                targets=emit.target,
                priority=emit.priority,
                kind=emit.kind,
                sender=sender,
                now_ms=now_ms,
                parent=parent,
                reply_to=reply_to,
                payloads=Blobs(emit.payload, (len(emit.payload),)),
                tensors=((0, emit.tensors),) if emit.tensors else (),
            )
        )

    def _stamp_again(self, dead: DeadTask, now_ms: int) -> None:
        emit = Emit(dead.target, dead.payload, dead.priority, TELL, dead.tensors, 0)
        self._stamp_one(emit, None, now_ms, None)

    # --- snapshots --------------------------------------------------------------------------------

    def image(self) -> LaneImage:
        """Return the lane's state without its tasks, agents, timers and dead letters."""
        deploys, passes = tuple(self.deploys.items()), tuple(sorted(self._passes.items()))
        return LaneImage(
            self.name, self.settings, self.window, self.paused, deploys, self.next_turn, self.retired, self.failed,
            self.digest, passes,
        )  # fmt: skip

    def restore(self, image: LaneImage) -> None:
        """Restore a new lane from an image; call `restore_tasks` next."""
        self.window = image.window
        self.next_turn = image.next_turn
        self.retired = image.retired
        self.failed = image.failed
        self.digest = image.digest
        self._passes = dict(image.passes)

    def restore_tasks(self, waiting: list[Run], line: list[Task]) -> None:
        """Restore the waiting runs, in turn order, and the line, in issue order."""
        for run in waiting:
            if run.priority not in self._waiting:
                self._waiting[run.priority] = deque()
                insort(self._levels, run.priority)
            self._waiting[run.priority].append(run)
            self.waiting_count += len(run.payloads) - run.issued
        for task in line:
            self.line_by_turn[task.turn] = task
            self.line_count += 1
            self.reserved += task.emits_max
            if not self._recorded:
                self._retire_order.append(task)

    def recount(self) -> None:
        """Count the budget anew; the last step of a restore."""
        self.budget = self._counted()

    def _counted(self) -> LaneBudget:
        return count(
            self.settings.bytes_max, self.waiting_runs(), self.line(), self.timers.values(), self.agents.values()
        )  # fmt: skip

    def move(self, numbering: Numbering, notes: Notes, unfinished: list[Run]) -> None:
        """Move to another world, in which seqs are turns. `unfinished`: the lane's unfinished runs."""
        self._numbering, self._notes = numbering, notes
        line = self.line()
        for run in (*unfinished, *self.waiting_runs(), *[task.run for task in line]):
            run.first_seq = run.first_turn
        for task in line:
            task.seq = task.turn
        self.dead.renumber()

    # --- invariants -------------------------------------------------------------------------------

    def waiting_runs(self) -> list[Run]:
        """Return the runs with tasks that are not issued, in turn order."""
        return list(self.waiting_in_order())

    def waiting_in_order(self) -> Iterator[Run]:
        """Yield the same lazily, for callers that need only some of many."""
        return merge(*[self._waiting[level] for level in self._levels], key=lambda run: run.first_turn)

    def line(self) -> list[Task]:
        """Return the issued, unretired tasks in issue order."""
        return list(self.line_by_turn.values())

    def unfinished(self) -> list[Task]:
        """Return the issued tasks without an outcome, in issue order: what to dispatch after a restart."""
        return [task for task in self.line_by_turn.values() if task.outcome is None]

    def check_invariants(self) -> None:
        """Assert every relation between the fields above; called after each test."""
        line = self.line()
        assert len(line) == self.line_count
        assert self._recorded or line == list(self._retire_order)
        assert self.waiting_count == sum(len(run.payloads) - run.issued for run in self.waiting_runs())
        assert self.next_turn - 1 == self.retired + self.waiting_count + self.line_count
        assert self._levels == sorted(self._levels)
        assert self._levels == sorted(level for level, runs in self._waiting.items() if runs)
        assert self.reserved == sum(task.emits_max for task in line)
        assert self.budget == self._counted(), f"{self.budget}, counted {self._counted()}"
        assert self.budget.room_bytes >= 0, f"past its budget: {self.budget}"
        self.dead.check_invariants()
        assert len(self.agents) <= self.settings.agents_max
        assert self.paused or self.waiting_count == 0 or self.line_count > 0, "waits with an empty line"
        assert not line or line[0].outcome is None, "the head of the line is complete and not retired"
        assert not self._recorded or all(task.outcome is None for task in line)
        for agent in self.agents.values():
            assert (agent.state is None) == (agent.state_digest is None), f"{agent.address}: state without digest"


def predecessor(task: Task) -> Task | None:
    """Return the nearest earlier task of the same agent that has not completed, skipping those caught by a verdict."""
    before = task.before
    while before is not None and before.outcome is not None:
        before = before.before
    return before
