"""The sequential reference of a lane: the execution model, parts 2 to 4 and 8, one task at a time, unoptimized.

The reference applies a lane's inputs at their positions and runs everything else itself, task after task in line order.
It has no workers, dispatch, folds, completions or restarts. It shares types (records, outcomes) and the agent language
with the core, but no code that decides anything. It is for derived lanes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack
import scripted
from blake3 import blake3

from rota.broker import records
from rota.common.work import Code, Done, Emit, Failed, Outcome, ReplyTo, TaskInput

TASK_BYTES, FAILURE_FREE = 256, 288  # what a task counts besides its payload, and how much of a failure is free
STATEFUL = ("agent", "source", "component")  # the kinds whose addresses have a state
UNPLACED = (records.Epoch, records.Completion, records.Mark, records.Diverged)


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
    caught: Failed | None = None
    code: Code | None = None  # this and the next two: bound at issue
    emits_max: int = 0
    growth_bytes: int = 0
    outcome: Outcome | None = None


def weight(payload: bytes, kind: str) -> int:
    """How many bytes the content of a message counts against its lane's budget."""
    return len(payload) if kind != "failure" else max(0, len(payload) - FAILURE_FREE)


def _dead_bytes(task: Stamped) -> int:
    assert isinstance(task.outcome, Failed)
    said = [task.outcome.message, *task.outcome.log]
    return TASK_BYTES + len(task.payload) + sum(len(text.encode()) for text in said)


@dataclass
class Reference:
    """A lane that executes in line order. `turn_of` translates the numbers that cancels and retries name."""

    opened: records.Opened
    turn_of: dict[int, int]
    retired: int = 0
    digest: bytes = bytes(32)
    next_turn: int = 1
    waiting: list[Stamped] = field(default_factory=list)
    line: list[Stamped] = field(default_factory=list)
    done: dict[int, Stamped] = field(default_factory=dict)
    dead: dict[int, Stamped] = field(default_factory=dict)
    timers: dict[tuple[int, int], tuple[str, Emit]] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    agents: dict[str, None] = field(default_factory=dict)
    passes: dict[int, int] = field(default_factory=dict)
    said: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.window = self.opened.settings.window
        self.paused = self.opened.paused
        self.deploys = dict(self.opened.deploys)

    def run_to(self, position: int) -> None:
        """Execute and retire the head of the line until `retired` tasks have retired."""
        while self.retired < position:
            self._execute_head()

    def take(self, record: Any) -> None:
        """Apply an input at its position."""
        self.run_to(record.position)
        match record:
            case records.Submitted():
                self._submit(record)
            case records.Deployed():
                self.deploys[record.name] = record.code
            case records.Cancelled():
                self._catch(record.seq, Failed("cancelled", "cancelled on request", (), 0))
            case records.Verdict(failure="faulted" | "refused"):  # those we know ourselves, but not what workers said
                self.said[self.turn_of[record.seq]] = record.log
            case records.Verdict():
                self._catch(record.seq, Failed(record.failure, record.message, (), 0))
            case records.TimerFired():
                sender, emit = self.timers.pop((record.turn, record.index_of_emit))
                self._stamp(sender, emit.payload, emit.priority, "timer", sender, record.now_ms)
            case records.WindowSet():
                self.window = record.window
            case records.PauseSet():
                self.paused = record.paused
            case records.DeadDropped():
                for turn in [self.turn_of[seq] for seq in record.seqs] or list(self.dead):
                    self.dead.pop(turn, None)
        self._issue()

    # --- stamp and issue -----------------------------------------------------------------------------------------

    def _submit(self, record: records.Submitted) -> None:
        if record.retry_of is not None:
            old = self.dead.pop(self.turn_of[record.retry_of])
            self._stamp(old.target, old.payload, old.priority, "tell", None, record.now_ms)
        for run in record.runs:
            for index, payload in enumerate(run.payloads):
                target = run.targets if isinstance(run.targets, str) else run.targets[index]
                self._stamp(target, payload, run.priority, "tell", None, record.now_ms)

    def _stamp(
        self, target: str, payload: bytes, priority: int, kind: str, sender: str | None, now_ms: int,
        asked_by: tuple[int, int] | None = None, reply_to: ReplyTo | None = None,
    ) -> None:  # fmt: skip
        self.waiting.append(
            Stamped(self.next_turn, target, payload, priority, kind, sender, now_ms, asked_by, reply_to)
        )
        self.next_turn += 1

    def _issue(self) -> None:
        while self.waiting and not self.paused and len(self.line) < self.window:
            task = self._next()
            task.code = self.deploys.get(task.target.split("/")[0])
            allowance = self._allowance(task)
            if allowance is None:
                return
            task.emits_max, task.growth_bytes = allowance
            self._count_passes(task.priority)
            self.waiting.remove(task)
            self.line.append(task)
            self._meet_agent(task)

    def _next(self) -> Stamped:
        """The next task: of all starved levels the lowest turn, else the lowest turn of the highest level."""
        heads: dict[int, Stamped] = {}
        for task in self.waiting:  # by turn, so the first of a level is its head
            heads.setdefault(task.priority, task)
        starved = [
            head
            for level, head in heads.items()
            if self.passes.get(level, 0) >= self.opened.settings.starvation_passes and len(heads) > 1
        ]
        return min(starved, key=lambda task: task.turn) if starved else heads[max(heads)]

    def _count_passes(self, served: int) -> None:
        """A level counts the issues from higher levels since it was served, or since it had something waiting."""
        levels = {task.priority for task in self.waiting}
        self.passes = {level: self.passes.get(level, 0) + (level < served) for level in levels}
        self.passes[served] = 0
        if sum(task.priority == served for task in self.waiting) == 1:
            del self.passes[served]

    def _allowance(self, task: Stamped) -> tuple[int, int] | None:
        """How many tasks may be emitted, and how many bytes added, without ever passing the lane's bounds; None: wait
        for room.
        """
        emits = growth = 0
        if task.code is not None and task.code.kind in STATEFUL:
            emits = task.code.limits.emits_max
        if task.code is not None and (task.code.kind in STATEFUL or task.kind == "ask"):
            growth = task.code.limits.growth_bytes
        settings = self.opened.settings
        promised = sum(other.emits_max for other in self.line)
        room = max(settings.tasks_max - len(self.waiting) - len(self.line) - len(self.timers) - promised, 0)
        there = [(other.payload, other.kind) for other in [*self.waiting, *self.line]]
        there += [(emit.payload, emit.kind) for _, emit in self.timers.values()]
        held = sum(TASK_BYTES + weight(*message) for message in there) + sum(map(len, self.states.values()))
        held += sum(other.growth_bytes for other in self.line) + TASK_BYTES * promised
        free = settings.bytes_max - held
        if emits <= room and emits * TASK_BYTES + growth <= free:
            return emits, growth
        emits = min(emits, room, free // TASK_BYTES)
        return None if self.line else (emits, min(growth, free - emits * TASK_BYTES))

    def _meet_agent(self, task: Stamped) -> None:
        """Let a task for a new address make its agent, or fail where the lane has as many as it may."""
        if task.caught is not None or task.code is None or task.code.kind not in STATEFUL or task.target in self.agents:
            return
        agents_max = self.opened.settings.agents_max
        if len(self.agents) < agents_max:
            self.agents[task.target] = None
        else:
            task.caught = Failed("overflow", f"no new agent: the lane has {agents_max} (agents_max)", (), 0)

    def _catch(self, seq: int, failure: Failed) -> None:
        turn = self.turn_of[seq]
        (task,) = [task for task in [*self.waiting, *self.line] if task.turn == turn]
        assert task.caught is None
        task.caught = failure

    # --- execute and retire ----------------------------------------------------------------------------------------

    def _execute_head(self) -> None:
        task = self.line.pop(0)
        size_before = len(self.states.get(task.target, b""))
        if task.caught is not None:
            task.outcome = task.caught
        elif task.code is None:
            kind = "unknown_model" if task.target.startswith("model:") else "unknown_agent"
            task.outcome = Failed(kind, f"{task.target.split('/')[0]!r} was not deployed in this lane", (), 0)
        else:
            task.outcome = self._execute(task, task.code)
        self.retired += 1
        self._retire(task, task.outcome, len(self.states.get(task.target, b"")) - size_before)
        self._issue()

    def _execute(self, task: Stamped, code: Code) -> Outcome:
        seed = self.opened.settings.seed
        assert seed is not None
        seen = TaskInput(
            task.turn, task.kind, task.sender, task.payload, task.now_ms, task.reply_to, (), task.emits_max,
            task.growth_bytes,
        )  # fmt: skip
        if code.digest == scripted.UNRUNNABLE.digest:
            return Failed("refused", "no worker can run its code", self._said(task, "no such device"), 0)
        if code.digest == scripted.UNSTABLE_CODE.digest and not code.recorded:
            remedy = "deploy the model with --recorded to accept them as recorded values"
            said = self._said(task, "its results differ from run to run")
            return Failed("refused", f"its results would not be repeatable: {remedy}", said, 0)
        before = self.states.get(task.target) if code.kind in STATEFUL else None
        try:
            outcome, after = scripted.run_task(seed, code, task.target, before, seen)
        except scripted.NoOutcome as end:
            if end.why != "fault":
                raise AssertionError(f"turn {task.turn} has no outcome and got no verdict") from None
            return Failed("faulted", "no worker could do it, in 3 tries", self._said(task, "out of memory"), 0)
        if code.kind in STATEFUL and after is not None:
            self.states[task.target] = after
        return outcome

    def _said(self, task: Stamped, reason: str) -> tuple[str, ...]:
        """Return what the verdict says that workers said; the last one gave this reason."""
        said = self.said[task.turn]
        assert said[-1:] == (reason,), f"turn {task.turn}: {said}, not {reason}"
        return said

    def _retire(self, task: Stamped, outcome: Outcome, grown: int) -> None:
        self.digest = self._extend(task, outcome)
        self.done[task.turn] = task
        if isinstance(outcome, Failed):
            self.dead[task.turn] = task
            while sum(map(_dead_bytes, self.dead.values())) > self.opened.settings.bytes_max // 8:
                del self.dead[next(iter(self.dead))]
            answer, kind = self._failure(outcome, task.growth_bytes + weight(task.payload, task.kind)), "failure"
        else:
            answer, kind = outcome.result or b"", "reply"
            grown += sum(weight(emit.payload, emit.kind) for emit in outcome.emits)
            left = task.growth_bytes + weight(task.payload, task.kind) - grown
            if weight(answer, kind) > left:
                text = f"a reply of {weight(answer, kind)} bytes, at most {left} (growth_bytes)"
                answer, kind = self._failure(Failed("overflow", text, (), 0), left), "failure"
            for index, emit in enumerate(outcome.emits):
                if emit.kind == "timer":
                    self.timers[(task.turn, index)] = (task.target, emit)
                else:
                    origin = (task.turn, index)
                    self._stamp(emit.target, emit.payload, emit.priority, emit.kind, task.target, task.now_ms, origin)
        if task.kind == "ask":
            assert task.sender is not None
            assert task.asked_by is not None
            reply_to = ReplyTo(task.turn, *task.asked_by)
            self._stamp(task.sender, answer, task.priority, kind, task.target, task.now_ms, None, reply_to)

    @staticmethod
    def _failure(failure: Failed, left: int) -> bytes:
        text = failure.message.encode()[: left + FAILURE_FREE - 32].decode(errors="ignore")
        packed: bytes = msgpack.packb([failure.kind, text])
        return packed

    def _extend(self, task: Stamped, outcome: Outcome) -> bytes:
        """H(previous, turn, the task's content and code digest, outcome, new state digest, emitted tasks)."""
        code_digest = None if task.code is None else task.code.digest
        content = [
            task.turn, task.target, task.kind, task.sender, task.priority, task.payload, (), task.reply_to, code_digest
        ]  # fmt: skip
        if isinstance(outcome, Done):
            state = self.states.get(task.target) if task.code is not None and task.code.kind in STATEFUL else None
            state_digest = None if state is None else blake3(state).digest()
            effect: list[Any] = [0, outcome.result, outcome.tensors, outcome.emits]
        else:
            state_digest, effect = None, [1, outcome.kind, outcome.message]
        return blake3(msgpack.packb([self.digest, *content, effect, state_digest])).digest()


def run_reference(
    journal: list[Any], turn_of: dict[int, int], retired: dict[str, int], kind: type[Reference] = Reference
) -> dict[str, Reference]:
    """Run the inputs of a journal, lane by lane, each up to `retired` tasks. Completions are ignored."""
    lanes: dict[str, Reference] = {}
    for record in journal:
        if isinstance(record, records.Opened):
            lanes[record.lane] = kind(record, turn_of)
        elif not isinstance(record, UNPLACED):
            lanes[record.lane].take(record)
    for name, lane in lanes.items():
        lane.run_to(retired[name])
    return lanes
