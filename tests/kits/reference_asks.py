"""The sequential reference of a lane (reference.py): who answers what, and how calls end; parts 10 and 11."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgpack import packb, unpackb

from rota.broker import records
from rota.common.calls import path_of
from rota.common.work import CallStep, Code, Done, Emit, Failed, Outcome, ReplyTo, TaskInput

TASK_BYTES, FAILURE_FREE = 256, 288  # what a task counts besides its payload, and how much of a failure is free
ENDED_PLACE = 4_096


@dataclass(eq=False)
class Call:
    """A call of a flow: `over` once a step ended it, `ended` once nothing has effects for it any more."""

    code: Code
    turn: int
    steps: list[CallStep] = field(default_factory=list)
    fuel: int = 0
    held: int = 0
    timers: list[tuple[int, int]] = field(default_factory=list)
    over: bool = False
    ended: bool = False

    def take(self, task: Stamped, outcome: Outcome) -> None:
        if isinstance(outcome, Done) and outcome.waits is not None:
            self.steps.append(CallStep(task.seen, path_of(outcome.emits)))
            self.fuel += outcome.fuel
        else:
            self.over = True


@dataclass
class Stamped:
    """One stamped task."""

    turn: int
    target: str
    payload: bytes
    priority: int
    kind: str
    sender: str | None
    now_ms: int
    asked_by: tuple[int, int] | None  # the turn that emitted it, and its index among the emits there
    reply_to: ReplyTo | None
    answers: int = 0  # whose answer its outcome is
    address: str = ""
    caught: Failed | None = None
    ends: Failed | None = None
    code: Code | None = None  # this and the next three: bound at issue
    emits_max: int = 0
    growth_bytes: int = 0
    call: Call | None = None
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        self.address = self.target
        key = self.target.partition("/")[2]
        self.is_for_call = self.kind not in ("tell", "ask") and key[:1] == "~" and key[1:].isdecimal()

    @property
    def weight(self) -> int:
        return weight(self.payload, self.kind)

    @property
    def seen(self) -> TaskInput:
        return TaskInput(
            self.turn, self.kind, self.sender, self.payload, self.now_ms, self.reply_to, (), self.emits_max,
            self.growth_bytes,
        )  # fmt: skip


@dataclass
class Ask:
    """An open ask: who owes the answer, and by which turn of its own."""

    task: Stamped
    owner: str
    owes: int


def weight(payload: bytes, kind: str) -> int:
    """How many bytes the content of a message counts against its lane's budget."""
    return len(payload) if kind != "failure" else max(0, len(payload) - FAILURE_FREE)


def dead_bytes(task: Stamped, failure: Failed) -> int:
    said = [failure.message, *failure.log]
    return TASK_BYTES + len(task.payload) + sum(len(text.encode()) for text in said)


@dataclass
class Answers:
    """What the reference keeps of asks, calls, timers and dead letters."""

    opened: records.Opened
    next_turn: int = field(default=1, init=False)
    waiting: list[Stamped] = field(default_factory=list, init=False)
    line: list[Stamped] = field(default_factory=list, init=False)
    agents: dict[str, None] = field(default_factory=dict, init=False)
    dead: dict[int, tuple[Stamped, Failed]] = field(default_factory=dict, init=False)
    timers: dict[tuple[int, int], tuple[str, Emit]] = field(default_factory=dict, init=False)
    open: dict[int, Ask] = field(default_factory=dict, init=False)
    owes: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False)
    calls: dict[str, Call] = field(default_factory=dict, init=False)
    all_calls: list[Call] = field(default_factory=list, init=False)
    answered: dict[int, Outcome] = field(default_factory=dict, init=False)

    def _stamp(
        self, target: str, payload: bytes, priority: int, kind: str, sender: str | None, now_ms: int,
        asked_by: tuple[int, int] | None = None, reply_to: ReplyTo | None = None, answers: int = 0,
    ) -> None:  # fmt: skip
        self.waiting.append(
            Stamped(self.next_turn, target, payload, priority, kind, sender, now_ms, asked_by, reply_to, answers)
        )
        self.next_turn += 1

    def _leave(self, task: Stamped, outcome: Outcome, grown: int) -> None:
        """Apply the effects of a retired task."""
        call = task.call
        if call is not None and call.ended:
            return
        postponed, left = False, task.growth_bytes + task.weight
        if isinstance(outcome, Done):
            postponed = outcome.waits is not None
            left -= grown + sum(weight(emit.payload, emit.kind) for emit in outcome.emits)
            if postponed:
                self._postpone(task)
            for index, emit in enumerate(outcome.emits):
                self._emit(task, index, emit)
        elif call is None or call.turn == task.turn:
            self._bury(task, outcome)
        if postponed:
            if task.ends is not None:
                self._end(self.open[task.turn], task.ends, task.now_ms)
            return
        if call is not None:
            self._end_call(task.address, call)
        self._answer(task, outcome, left)

    def _postpone(self, task: Stamped) -> None:
        call = task.call
        if call is not None:
            call.held += TASK_BYTES + (task.weight if task.turn != call.turn or task.answers else 0)
            if task.turn != call.turn:
                return
        if not task.answers:
            self.open[task.turn] = Ask(task, task.address, task.turn)
        elif task.answers in self.open:
            ask = self.open[task.answers]
            ask.owner, ask.owes = task.address, task.turn

    def _emit(self, task: Stamped, index: int, emit: Emit) -> None:
        origin = (task.turn, index)
        if emit.kind == "timer":
            self.timers[origin] = (task.address, emit)
            if task.call is not None:
                task.call.timers.append(origin)
            return
        if not emit.answers:
            self._stamp(emit.target, emit.payload, emit.priority, emit.kind, task.address, task.now_ms, origin)
            return
        ask = self._owed(emit.answers)
        if emit.kind == "ask":
            first = emit.answers if ask is None else ask.task.turn
            if ask is not None:
                ask.owner, ask.owes = emit.target, self.next_turn
            self._stamp(emit.target, emit.payload, emit.priority, "ask", task.address, task.now_ms, origin, None, first)
        elif ask is not None:
            settled = Done(emit.payload, None, (), (), 0, ())
            self._close(ask, Failed(*unpackb(emit.payload), (), 0) if emit.kind == "failure" else settled)
            self._tell(ask.task, emit.payload, emit.kind, origin, task.address, task.now_ms)

    def _answer(self, task: Stamped, outcome: Outcome, left: int) -> None:
        """Give the outcome of a task or call to whoever asked for it, in at most `left` bytes."""
        asked, ask = task, None
        if task.call is not None and task.turn != task.call.turn:
            ask = self._owed(task.call.turn)
            if ask is None:
                return
        elif task.answers:
            ask = self.open.get(task.answers)
            if ask is None:
                return
        if ask is not None:
            self._close(ask, outcome)
            asked = ask.task
        emits = len(outcome.emits) if isinstance(outcome, Done) else 0
        if isinstance(outcome, Done):
            answer, kind = outcome.result or b"", "reply"
            if weight(answer, kind) > left:
                text = f"a reply of {weight(answer, kind)} bytes, at most {left} (growth_bytes)"
                answer, kind = self._failure(Failed("overflow", text, (), 0), left), "failure"
        else:
            answer, kind = self._failure(outcome, left), "failure"
        self._tell(asked, answer, kind, (task.turn, emits), task.address, task.now_ms)

    def _tell(
        self, asked: Stamped, answer: bytes, kind: str, origin: tuple[int, int], sender: str, now_ms: int
    ) -> None:
        """Stamp an answer for the agent or call that asked, if it is there."""
        if asked.kind == "ask" and asked.sender in self.agents and asked.asked_by is not None:
            reply_to = ReplyTo(origin[0], *asked.asked_by)
            self._stamp(asked.sender, answer, asked.priority, kind, sender, now_ms, origin, reply_to)

    def _owed(self, turn: int) -> Ask | None:
        return next((ask for ask in self.open.values() if ask.owes == turn), None)

    def _close(self, ask: Ask, outcome: Outcome) -> None:
        del self.open[ask.task.turn]
        self.answered[ask.task.turn] = outcome
        if isinstance(outcome, Failed):
            self._bury(ask.task, outcome)

    def _end(self, ask: Ask, failure: Failed, now_ms: int) -> None:
        """End an open ask by an input, and the call that owes it."""
        call = self.calls.get(ask.owner)
        if call is not None and call.turn == ask.owes:
            self._end_call(ask.owner, call)
        self._close(ask, failure)
        asked = ask.task
        self._tell(asked, self._failure(failure, 0), "failure", (asked.turn, ENDED_PLACE), asked.address, now_ms)

    def _end_call(self, address: str, call: Call) -> None:
        call.ended = True
        del self.calls[address], self.agents[address]
        for key in call.timers:
            self.timers.pop(key, None)

    def _bury(self, task: Stamped, failure: Failed) -> None:
        self.dead[task.turn] = (task, failure)
        while sum(dead_bytes(*one) for one in self.dead.values()) > self.opened.settings.bytes_max // 8:
            del self.dead[next(iter(self.dead))]

    @staticmethod
    def _failure(failure: Failed, left: int) -> bytes:
        text = failure.message.encode()[: left + FAILURE_FREE - 32].decode(errors="ignore")
        packed: bytes = packb([failure.kind, text])
        return packed
