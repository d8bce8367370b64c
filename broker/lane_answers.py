"""What a lane waits for: open asks, timers and calls, and how they end. PURE.

The part of a lane (lane.py) that gives answers, at a retire or by an input. Execution model, parts 10 and 11.
"""

from __future__ import annotations

from collections.abc import Sequence

from rota.broker.asks import ENDED_PLACE, Asks, OpenAsk, final, is_postponed
from rota.broker.calls import FlowCall, step_bytes
from rota.broker.dead_letters import DeadLetters
from rota.broker.lane_budget import LaneBudget, emit_bytes
from rota.broker.notes import Notes
from rota.broker.replies import reply
from rota.broker.tasks import Agent, DeadTask, Run, Task, Timer
from rota.common.budget import content_bytes, growth_of
from rota.common.calls import failure_of
from rota.common.messages import LaneSettings
from rota.common.work import ASK, FAILURE, TELL, TIMER, Done, Emit, Failed, Outcome, Past, ReplyTo


class LaneAnswers:
    """The base of `Lane`: agents and calls, open asks, timers, dead letters, and who gets which answer."""

    def __init__(self, settings: LaneSettings, notes: Notes) -> None:
        self.settings = settings
        self.agents: dict[str, Agent] = {}  # calls that have not ended included
        self.ended: dict[str, Agent] = {}  # calls that have ended and still have tasks in the line
        self.dead = DeadLetters(settings.bytes_max)
        self.timers: dict[tuple[int, int], Timer] = {}
        self.asks = Asks()
        self.next_turn = 1
        self.failed = 0
        self.line_by_turn: dict[int, Task] = {}
        self.budget = LaneBudget(settings.bytes_max)
        self._notes = notes

    @property
    def open(self) -> dict[int, OpenAsk]:
        """The open asks, by the turn first asked."""
        return self.asks.open

    @property
    def deadlines(self) -> dict[int, int]:
        """When the tasks that have a deadline and no final outcome are due, by turn, in ms since 1970."""
        return self.asks.deadlines

    def instance(self, address: str) -> Agent | None:
        """Return an agent or call that has tasks in the line, whether or not it has ended."""
        return self.agents.get(address) or self.ended.get(address)

    def before(self, tasks: Sequence[Task]) -> tuple[bytes | None, tuple[int, ...], Past | None]:
        """Return what the next tasks of one target need besides their inputs: state, open turns, and the past of a
        call.
        """
        agent = tasks[0].agent
        if agent is None:
            return None, (), None
        if agent.call is not None:
            return None, (), agent.call.past(tasks, self.line_by_turn)
        return agent.state, agent.open, None

    # --- what a retired task leaves ---------------------------------------------------------------------------------

    def _leave(self, task: Task, outcome: Outcome) -> None:
        """Apply the effects of a retired task that is no step of a call."""
        growth = 0
        if type(outcome) is Done:
            growth = self._count_growth(task, outcome)
            if outcome.waits is not None:
                self._postpone(task)
            self._emit_all(task, outcome, None)
            if outcome.waits is not None:
                self._end_if_told(task)
                return
        else:
            assert type(outcome) is Failed
            self._bury(task.run, task.index, outcome, task.attempts)
        if task.run.wants_reply:
            self._reply(task, outcome, task.growth_max - growth)

    def _count_growth(self, task: Task, done: Done) -> int:
        """Count the state that a task left; return by how many bytes it grew the lane, including its emits."""
        run = task.run
        own = 0 if done.waits is None else content_bytes(run.kind, task.payload_bytes, run.tensors_of(task.index))
        if done.state_digest is None:
            return growth_of(done, 0, own)
        agent = task.agent
        assert agent is not None
        growth = growth_of(done, agent.counted_bytes, own)
        self.budget.state_bytes += done.state_bytes - agent.counted_bytes
        agent.counted_bytes = done.state_bytes
        return growth

    def _emit_all(self, task: Task, done: Done, call: FlowCall | None) -> None:
        for index, emit in enumerate(done.emits):
            self._emit(task, index, emit, call)

    def _emit(self, task: Task, index: int, emit: Emit, call: FlowCall | None) -> None:
        if emit.kind == TIMER:
            timer = Timer(task.turn, index, task.run.now_ms + emit.delay_ms, task.address, emit)
            self.timers[(task.turn, index)] = timer
            self.budget.timer_bytes += emit_bytes(emit)
            self._notes.timers.append(timer)
            if call is not None:
                call.timers[(task.turn, index)] = None
        elif emit.answers:
            self._settle(task, index, emit)
        else:
            turn = self.next_turn
            self._stamp_one(emit, task.address, task.run.now_ms, (task.turn, index))
            if emit.kind == ASK:
                if emit.delay_ms:
                    self.asks.limit(turn, task.run.now_ms + emit.delay_ms)
                if call is not None:
                    call.asked[turn] = None

    # --- steps of calls ---------------------------------------------------------------------------------------------

    def _leave_step(self, task: Task, outcome: Outcome, agent: Agent) -> None:
        """Apply the effects of a retired step of a call. Those of a call that has ended have none."""
        call = agent.call
        assert call is not None
        call.in_line -= 1
        if call.ended:
            if not call.in_line:
                self._forget(agent, call)
            return
        if is_postponed(outcome):
            assert type(outcome) is Done
            self._go_on(task, outcome, call)
            return
        if type(outcome) is Done:
            self._emit_all(task, outcome, call)  # what it asks now is answered to nobody, and its timers are dropped
        self._end_call(agent, call)
        if task.turn == call.turn:
            self._leave_first(task, outcome)
            return
        ask = self.asks.owed(call.turn)
        if ask is not None:
            growth = self._count_growth(task, outcome) if type(outcome) is Done else 0
            emits = len(outcome.emits) if type(outcome) is Done else 0
            self._close(ask, outcome)
            if ask.asker is not None:
                answer = reply(ask.run, outcome, task.growth_max - growth)
                self._answer(ask.run, answer, (task.turn, emits), task.address, task.run.now_ms)

    def _go_on(self, task: Task, outcome: Done, call: FlowCall) -> None:
        if task.turn == call.turn:
            self._postpone(task)
        size = step_bytes(task)
        call.counted_bytes += size
        self.budget.ask_bytes += size
        self._emit_all(task, outcome, call)
        self._end_if_told(task)

    def _leave_first(self, task: Task, outcome: Outcome) -> None:
        """Answer a call that ended with its first step, as any task."""
        growth = 0
        if type(outcome) is Done:
            growth = self._count_growth(task, outcome)
        else:
            assert type(outcome) is Failed
            self._bury(task.run, task.index, outcome, task.attempts)
        if task.run.wants_reply:
            self._reply(task, outcome, task.growth_max - growth)

    def _end_call(self, agent: Agent, call: FlowCall) -> None:
        """End a call: its timers are dropped, nothing is stamped for it any more."""
        call.ended = True
        del self.agents[agent.address]
        for key in call.timers:
            self.budget.timer_bytes -= emit_bytes(self.timers.pop(key).emit)
        self.ended[agent.address] = agent
        if not call.in_line:
            self._forget(agent, call)

    def _forget(self, agent: Agent, call: FlowCall) -> None:
        del self.ended[agent.address]
        self.budget.ask_bytes -= call.counted_bytes

    # --- open asks --------------------------------------------------------------------------------------------------

    def _postpone(self, task: Task) -> None:
        """Open the ask of a postponed task; one that was handed on to it is owed by its agent from now on."""
        if task.run.answers:
            ask = self.asks.open.get(task.run.answers)
            if ask is not None:  # else an input has ended it
                self.asks.move(ask, task.address, task.turn)
            return
        ask = OpenAsk.of(task)
        self.asks.add(ask)
        self.budget.ask_bytes += ask.bytes

    def _settle(self, task: Task, index: int, emit: Emit) -> None:
        """Answer an open ask by an emit, or hand it on. What an input has ended is settled in vain."""
        ask = self.asks.owed(emit.answers)
        origin = (task.turn, index)
        if emit.kind == ASK:
            if ask is not None:
                self.asks.move(ask, emit.target, self.next_turn)
                if emit.delay_ms:
                    self.asks.limit(ask.turn, task.run.now_ms + emit.delay_ms)
            first = emit.answers if ask is None else ask.turn
            self._stamp_one(emit, task.address, task.run.now_ms, origin, answers=first)
        elif ask is not None:
            self._close(ask, _settled(emit))
            if ask.asker is not None:
                answer = emit._replace(target=ask.asker, priority=ask.run.priority, answers=0)
                self._answer(ask.run, answer, origin, task.address, task.run.now_ms)

    def _reply(self, task: Task, outcome: Outcome, left: int) -> None:
        """Give the outcome of an asked task, in at most `left` bytes, to whoever asked first."""
        emits = len(outcome.emits) if type(outcome) is Done else 0
        asked = task.run
        if asked.answers:
            ask = self.asks.open.get(asked.answers)
            if ask is None:
                return  # an input has ended it
            asked = ask.run
            self._close(ask, outcome)
            if ask.asker is None:
                return
        self._answer(asked, reply(asked, outcome, left), (task.turn, emits), task.address, task.run.now_ms)

    def _answer(self, asked: Run, answer: Emit, origin: tuple[int, int], sender: str, now_ms: int) -> None:
        """Stamp an answer for the agent that asked, unless it is a call that has ended."""
        assert asked.sender is not None
        assert asked.parent is not None
        asker = self.agents.get(asked.sender)
        if asker is None:
            return
        if asker.call is not None:
            del asker.call.asked[asked.first_turn]
        reply_to = ReplyTo(origin[0], *asked.parent)
        self._stamp_one(answer, sender, now_ms, origin, reply_to)

    def _close(self, ask: OpenAsk, outcome: Outcome) -> None:
        """Note the final outcome of an open ask. A failure goes to the dead letters."""
        self.asks.close(ask)
        self.budget.ask_bytes -= ask.bytes
        if type(outcome) is Failed:
            self._bury(ask.run, 0, outcome, 0)
        self._notes.answered.append(ask.with_outcome(final(outcome)))

    def _end_ask(self, ask: OpenAsk, failure: Failed, now_ms: int) -> None:
        """End an open ask by an input. If a call owes it, the call ends, and nobody wants what it has asked."""
        if ask.owes != ask.turn:
            self._notes.orphans.append(ask.owes)  # a handed-on task, if it is still on its way
        owner = self.agents.get(ask.owner)
        if owner is not None and owner.call is not None and owner.call.turn == ask.owes:
            self._notes.orphans += owner.call.asked
            self._end_call(owner, owner.call)
        self._close(ask, failure)
        if ask.asker is not None:
            self._answer(ask.run, reply(ask.run, failure, 0), (ask.turn, ENDED_PLACE), ask.address, now_ms)

    def _end_if_told(self, task: Task) -> None:
        """End the ask of a task that has just opened it, if an input came between its completion and its retire."""
        if task.ends is not None:
            self._end_ask(self.asks.open[task.turn], task.ends, task.run.now_ms)

    def _bury(self, run: Run, index: int, failure: Failed, attempts: int) -> None:
        self.failed += 1
        self.dead.keep(
            DeadTask(
                run.first_seq + index, run.first_turn + index, run.target(index), run.priority, run.payloads[index],
                run.tensors_of(index), run.now_ms, failure, attempts, ASK if run.kind == ASK else TELL,
            )
        )  # fmt: skip

    def _stamp_one(
        self,
        emit: Emit,
        sender: str | None,
        now_ms: int,
        parent: tuple[int, int] | None,
        reply_to: ReplyTo | None = None,
        answers: int = 0,
    ) -> None:
        raise NotImplementedError


def _settled(emit: Emit) -> Outcome:
    """Return the outcome that an agent gives to a turn that it had postponed."""
    if emit.kind != FAILURE:
        return Done(emit.payload, None, (), (), 0, emit.tensors)
    failure = failure_of(emit.payload)
    assert failure is not None, f"turn {emit.answers} fails with what is no [kind, message]"
    return Failed(*failure, (), 0)
