"""One lane: stamp, issue, retire. The deterministic core of the system. PURE.

Everything here is a function of the records applied so far (execution model, parts 2 to 4), without clock, workers or
load figures. The live broker and recovery call the same methods with the same records. Dispatch, which may use all of
these, is in dispatch.py and learns only from `Notes` what there is to run.

The order is fixed: issue while there is room, then retire exactly one task, then issue again. If several tasks retired
before the next issue, the timing of completions could decide which of two waiting tasks joins the line first.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from heapq import merge
from typing import Final, NamedTuple

from rota.broker.asks import is_postponed
from rota.broker.calls import FlowCall
from rota.broker.lane_answers import LaneAnswers
from rota.broker.lane_budget import (
    LaneBudget,
    count,
    emit_bytes,
    issued_bytes,
    reserved_bytes,
    run_bytes,
    wanted,
)
from rota.broker.notes import Notes, Numbering
from rota.broker.records import CompletedFold, Opened, Submitted, TimerFired
from rota.broker.tasks import Agent, DeadTask, Run, Task, caught_task, predecessor
from rota.broker.turn_content import end_digest, turn_digest, turn_fields
from rota.broker.verdicts import keyed_call, rebound, unknown
from rota.common.budget import outcome_bytes
from rota.common.calls import open_after
from rota.common.code_kinds import KINDS
from rota.common.columns import Blobs
from rota.common.digests import ZERO_DIGEST
from rota.common.messages import LaneSettings
from rota.common.targets import code_name
from rota.common.work import (
    AFTER_END,
    SUBMIT_KINDS,
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


class Lane(LaneAnswers):
    """A lane: line, window, agents, digest. Its methods apply one record each."""

    def __init__(self, opened: Opened, numbering: Numbering, notes: Notes) -> None:
        super().__init__(opened.settings, notes)
        assert opened.settings.seed is not None
        self.name = opened.lane
        self.seed: bytes = opened.settings.seed
        self.window = opened.settings.window
        self.paused = opened.paused
        self.deploys: dict[str, Code] = dict(opened.deploys)
        self.retired = 0
        self.digest = ZERO_DIGEST
        self.waiting_count = 0
        self.line_count = 0
        self._places = 0  # how many tasks have joined the line
        self._numbering = numbering
        self._waiting: dict[int, deque[Run]] = {}
        self._levels: list[int] = []  # priorities with waiting runs, ascending
        self._passes: dict[int, int] = {}  # issues from higher levels since this level was served
        # The only difference between the policies: tasks enter the retire order at issue, or at completion.
        self._recorded = opened.settings.policy == RECORDED_POLICY
        self._retire_order: deque[Task] = deque()
        self.reserved = 0  # emits that the tasks in the line may still make

    @property
    def load(self) -> int:
        """How many tasks are stamped and not retired, with timers and open asks, as `tasks_max` counts."""
        return self.waiting_count + self.line_count + len(self.timers) + len(self.asks.open)

    @property
    def head(self) -> Task | None:
        """The task that retires next; None if there is none yet."""
        return self._retire_order[0] if self._retire_order else None

    # --- inputs ---------------------------------------------------------------------------------------------------

    def submit(self, record: Submitted) -> None:
        """Stamp a batch of tasks in batch order."""
        first_turn = self.next_turn
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
                    kind=record.kind,
                    sender=None,
                    now_ms=record.now_ms,
                    parent=None,
                    reply_to=None,
                    payloads=run.payloads,
                    tensors=run.tensors,
                )
            )
        if record.deadline_ms:
            due_ms = record.now_ms + record.deadline_ms
            self.asks.deadlines |= dict.fromkeys(range(first_turn, self.next_turn), due_ms)
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
        self.asks.deadlines.pop(run.first_turn + index, None)
        self._notes.caught.append(caught_task(run, index, failure))

    def end(self, turn: int, failure: Failed, now_ms: int) -> None:
        """End the wait for the answer of a task that has run, by a cancel or verdict: whoever asked gets the failure.

        If it has not retired, that happens when it does. Its own effects stand. The digest covers it at once: nothing
        that retires may ever show it, if a producer asked.
        """
        self.digest = end_digest(self.digest, turn, failure)
        ask = self.asks.open.get(turn)
        if ask is None:
            task = self.line_by_turn[turn]
            assert task.outcome is None or is_postponed(task.outcome)  # a replay may not have run it yet
            assert not task.run.answers
            task.ends = failure
            self.asks.deadlines.pop(turn, None)
            return
        self._end_ask(ask, failure, now_ms)
        self._advance()

    def seq_of(self, turn: int) -> int | None:
        """Return the seq of a turn that waits, is in the line or has an open ask, else None."""
        ask = self.asks.open.get(turn)
        if ask is not None:
            return ask.seq
        task = self.line_by_turn.get(turn)
        if task is not None:
            return task.seq
        for level in self._levels:
            runs = self._waiting[level]
            place = bisect_right(runs, turn, key=lambda run: run.first_turn) - 1
            if place >= 0 and turn < runs[place].first_turn + len(runs[place].payloads):
                return runs[place].first_seq + turn - runs[place].first_turn
        return None

    def decision(self, turn: int, run: Run | None) -> bool | None:
        """Return what a cancel or deadline can do now: False: catch the task, True: end the wait for its answer, None:
        nothing, since its outcome is final. `run`: the task's, if it has unfinished tasks.
        """
        if turn in self.asks.open:
            return True
        task = self.line_by_turn.get(turn)
        if task is not None and is_postponed(task.outcome):
            return True if task.ends is None and not task.run.answers else None
        return False if run is not None and self.can_catch(run, turn - run.first_turn) else None

    def fire_timer(self, record: TimerFired) -> None:
        """Stamp the message of a timer that is due."""
        timer = self.timers.pop((record.turn, record.index_of_emit))
        self.budget.timer_bytes -= emit_bytes(timer.emit)
        agent = self.agents.get(timer.sender)
        if agent is not None and agent.call is not None:
            del agent.call.timers[(timer.turn, timer.index_of_emit)]
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
        agent = task.agent
        assert agent is not None
        task.before = before = predecessor(task)
        if before is None and agent.newest is task:
            agent.newest = None
        if type(outcome) is Done:
            assert before is None, f"turn {task.turn} of {task.address} overtakes turn {before.turn}"
            if outcome.state_digest is not None:
                agent.state_digest = outcome.state_digest
            agent.completed += 1
            if (agent.open or outcome.waits is not None) and agent.call is None:
                agent.open = open_after(agent.open, task.turn, outcome)
            task.state_digest = agent.state_digest
        if agent.call is not None:
            agent.call.take(task, outcome, self.line_by_turn)

    def _finish(self, task: Task) -> None:
        self._notes.finished.append(task)
        assert task.outcome is not None
        self.budget.unretired_bytes += outcome_bytes(task.outcome)
        if self.asks.deadlines and not is_postponed(task.outcome):
            self.asks.deadlines.pop(task.turn, None)
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
            if run.to_call:
                code = self._code_of_call(run)
            else:
                code = self.deploys.get(run.name or code_name(run.targets[index]))
            allowance = self._allowance(*wanted(code, run.wants_reply))
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

    def _code_of_call(self, run: Run) -> Code | None:
        """Return the code of the call that a message is for; None if it has ended."""
        agent = self.agents.get(run.target(0))
        return None if agent is None or agent.call is None else agent.call.code

    def _join_line(self, task: Task) -> None:
        task.issued_at = self.retired
        self._places += 1
        task.place = self._places
        self.line_by_turn[task.turn] = task
        self.line_count += 1
        self.reserved += task.emits_max
        self.budget.reserved_bytes += reserved_bytes(task)
        if not self._recorded:
            self._retire_order.append(task)
        verdict = task.run.verdicts.get(task.index) if task.run.verdicts else None
        outcome = verdict or self._meet(task)
        if outcome is None:
            self._notes.issued.append(task)
            return
        task.outcome = outcome  # it joins the line complete and is not executed
        if verdict is not None and task.run.to_call:
            self._fail_call(task, verdict)
        self._finish(task)

    def _meet(self, task: Task) -> Outcome | None:
        """Let an issued task join its agent, a new one if need be; return its outcome if it cannot be executed."""
        code = task.code
        if code is None:
            return AFTER_END if task.run.to_call else unknown(task.address)
        if task.stateless:
            return None
        address = task.address
        if code.flow and not task.run.to_call and address == task.run.target(task.index):  # not made for this call
            return keyed_call(address) if task.run.kind in SUBMIT_KINDS else rebound(address)
        agent = self.agents.get(address)
        if agent is None:
            agents_max = self.settings.agents_max
            if len(self.agents) >= agents_max:
                return Failed("overflow", f"no new agent: the lane has {agents_max} (agents_max)", (), 0)
            agent = self.agents[address] = Agent(address)
            if code.flow:
                agent.call = FlowCall(code, task.turn)
        task.agent = agent
        task.before = agent.newest
        agent.newest = task
        if agent.call is not None:
            agent.call.in_line += 1
        return None

    def _fail_call(self, task: Task, verdict: Failed) -> None:
        """Note that a message caught before its issue ends its call, if that is still there."""
        agent = task.agent = self.agents.get(task.address)
        if agent is not None and agent.call is not None:
            agent.call.in_line += 1
            agent.call.take(task, verdict, self.line_by_turn)

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
        agent = task.agent
        if agent is not None and agent.call is not None:
            self._leave_step(task, outcome, agent)
        elif (
            type(outcome) is not Done
            or outcome.emits
            or outcome.state_digest is not None
            or outcome.waits is not None
            or task.run.wants_reply
        ):  # else it leaves nothing, as most tasks
            self._leave(task, outcome)
        task.agent = None  # it may be kept for its result, and a call is not kept for that
        self._notes.retired.append(task)

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
        answers: int = 0,
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
                answers=answers,
            )
        )

    def _stamp_again(self, dead: DeadTask, now_ms: int) -> None:
        emit = Emit(dead.target, dead.payload, dead.priority, dead.kind, dead.tensors, 0)
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
        """Lead tasks to their agents and count the budget anew; the last step of a restore."""
        for task in self.line_by_turn.values():
            self._places += 1
            task.place = self._places
            if task.code is not None and not task.stateless:
                task.agent = self.instance(task.address)
                if task.agent is not None and task.agent.call is not None:
                    task.agent.call.in_line += 1
        self.budget = self._counted()

    def _counted(self) -> LaneBudget:
        agents = [*self.agents.values(), *self.ended.values()]
        return count(
            self.settings.bytes_max, self.waiting_runs(), self.line(), self.timers.values(), agents, self.asks
        )  # fmt: skip

    def move(self, numbering: Numbering, notes: Notes, unfinished: list[Run]) -> None:
        """Move to another world, in which seqs are turns. `unfinished`: the lane's unfinished runs."""
        self._numbering, self._notes = numbering, notes
        line = self.line()
        for run in (*unfinished, *self.waiting_runs(), *[task.run for task in line]):
            run.first_seq = run.first_turn
        for task in line:
            task.seq = task.turn
        for ask in self.asks.open.values():
            ask.run.first_seq = ask.run.first_turn
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
        self.asks.check_invariants()
        assert len(self.agents) <= self.settings.agents_max
        assert self.paused or self.waiting_count == 0 or self.line_count > 0, "waits with an empty line"
        assert not line or line[0].outcome is None, "the head of the line is complete and not retired"
        assert not self._recorded or all(task.outcome is None for task in line)
        assert all(agent.call is not None and agent.call.in_line for agent in self.ended.values())
        for agent in self.agents.values():
            assert agent.call is None or not agent.call.ended
            assert (agent.state is None) == (agent.state_digest is None), f"{agent.address}: state without digest"
