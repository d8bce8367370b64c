"""The sequential reference of a lane: the execution model, parts 2 to 4, 8, 10 and 11, one task at a time, unoptimized.

The reference applies a lane's inputs at their positions and runs everything else itself, task after task in line order.
It has no workers, dispatch, folds, completions or restarts. It shares types (records, outcomes) and the agent language
with the core, but no code that decides anything. It is for derived lanes. Who answers what is in reference_asks.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import scripted
from blake3 import blake3
from msgpack import packb
from reference_asks import TASK_BYTES, Answers, Call, Stamped, weight

from rota.broker import records
from rota.common.work import AFTER_END, Code, Done, Failed, Fold, Outcome, Past

STATEFUL = ("agent", "source", "component")  # the kinds whose addresses have a state
UNPLACED = (records.Epoch, records.Completion, records.Mark, records.Diverged)


@dataclass
class Reference(Answers):
    """A lane that executes in line order. `turn_of` translates the numbers that cancels and retries name."""

    turn_of: dict[int, int]
    retired: int = 0
    digest: bytes = bytes(32)
    done: dict[int, Stamped] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
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
                self._decide(record, Failed("cancelled", "cancelled on request", (), 0))
            case records.Verdict(failure="faulted" | "refused"):  # those we know ourselves, but not what workers said
                self.said[self.turn_of[record.seq]] = record.log
            case records.Verdict():
                self._decide(record, Failed(record.failure, record.message, (), 0))
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
            old, _ = self.dead.pop(self.turn_of[record.retry_of])
            kind = "ask" if old.kind == "ask" else "tell"
            self._stamp(old.target, old.payload, old.priority, kind, None, record.now_ms)
        for run in record.runs:
            for index, payload in enumerate(run.payloads):
                target = run.targets if isinstance(run.targets, str) else run.targets[index]
                self._stamp(target, payload, run.priority, record.kind, None, record.now_ms)

    def _issue(self) -> None:
        while self.waiting and not self.paused and len(self.line) < self.window:
            task = self._next()
            self._bind(task)
            allowance = self._allowance(task)
            if allowance is None:
                return
            task.emits_max, task.growth_bytes = allowance
            self._count_passes(task.priority)
            self.waiting.remove(task)
            self.line.append(task)
            self._meet_agent(task)

    def _bind(self, task: Stamped) -> None:
        """Bind code. A call of a flow gets its address; a message for a call has its code, as long as that is there."""
        name, _, key = task.target.partition("/")
        task.code = self.deploys.get(name)
        if task.is_for_call:
            task.code = self.calls[task.target].code if task.target in self.calls else None
        elif task.code is not None and task.code.flow and task.kind in ("tell", "ask") and not key:
            task.address = f"{name}/~{task.turn}"

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
        if task.code is not None and (task.code.kind in STATEFUL or (task.kind == "ask" and task.sender)):
            growth = task.code.limits.growth_bytes
        settings = self.opened.settings
        promised = sum(other.emits_max for other in self.line)
        load = len(self.waiting) + len(self.line) + len(self.timers) + len(self.open)
        room = max(settings.tasks_max - load - promised, 0)
        asked = [ask.task for ask in self.open.values()]
        there = [(other.payload, other.kind) for other in [*self.waiting, *self.line, *asked]]
        there += [(emit.payload, emit.kind) for _, emit in self.timers.values()]
        held = sum(TASK_BYTES + weight(*message) for message in there) + sum(map(len, self.states.values()))
        in_line = [other.call for other in self.line]
        held += sum(call.held for call in self.all_calls if not call.ended or call in in_line)
        held += sum(other.growth_bytes for other in self.line) + TASK_BYTES * promised
        free = settings.bytes_max - held
        if emits <= room and emits * TASK_BYTES + growth <= free:
            return emits, growth
        emits = min(emits, room, free // TASK_BYTES)
        return None if self.line else (emits, min(growth, free - emits * TASK_BYTES))

    def _meet_agent(self, task: Stamped) -> None:
        """Let a task join its agent or call, which is made if it is new, or fail where that cannot be."""
        code, address = task.code, task.address
        if code is None or code.kind not in STATEFUL:
            return
        if task.is_for_call:
            task.call = self.calls[address]
        elif task.caught is not None:
            return
        elif code.flow and address == task.target:
            name = address.split("/")[0]
            keyed = f"{name!r} is a flow: send to {name!r}, each call is an instance of its own"
            rebound = f"{name!r} is bound to a flow now, so the agent {address!r} gets nothing"
            called = task.kind in ("tell", "ask")
            task.caught = Failed("bad_input" if called else "unknown_agent", keyed if called else rebound, (), 0)
        elif address not in self.agents:
            agents_max = self.opened.settings.agents_max
            if len(self.agents) >= agents_max:
                task.caught = Failed("overflow", f"no new agent: the lane has {agents_max} (agents_max)", (), 0)
                return
            self.agents[address] = None
            if code.flow:
                task.call = self.calls[address] = Call(code, task.turn)
                self.all_calls.append(task.call)

    def _decide(self, record: records.Cancelled | records.Verdict, failure: Failed) -> None:
        turn = self.turn_of[record.seq]
        if record.ends:
            self.digest = blake3(packb([self.digest, turn, failure.kind, failure.message])).digest()
        if record.ends and turn in self.open:
            self._end(self.open[turn], failure, record.now_ms)
            return
        (task,) = [task for task in [*self.waiting, *self.line] if task.turn == turn]
        if record.ends:
            task.ends = failure
        else:
            assert task.caught is None
            task.caught = failure

    # --- execute and retire ----------------------------------------------------------------------------------------

    def _execute_head(self) -> None:
        task = self.line.pop(0)
        size_before = len(self.states.get(task.address, b""))
        if task.caught is not None:
            task.outcome = task.caught
        elif task.is_for_call and (task.call is None or task.call.over):
            task.outcome = AFTER_END
        elif task.code is None:
            kind = "unknown_model" if task.target.startswith("model:") else "unknown_agent"
            task.outcome = Failed(kind, f"{task.target.split('/')[0]!r} was not deployed in this lane", (), 0)
        else:
            task.outcome = self._execute(task, task.code)
        self.retired += 1
        if task.call is not None:
            task.call.take(task, task.outcome)
        self.digest = self._extend(task, task.outcome)
        self.done[task.turn] = task
        self._leave(task, task.outcome, len(self.states.get(task.address, b"")) - size_before)
        self._issue()

    def _execute(self, task: Stamped, code: Code) -> Outcome:
        seed = self.opened.settings.seed
        assert seed is not None
        seen, address = task.seen, task.address
        if code.digest == scripted.UNRUNNABLE.digest:
            return Failed("refused", "no worker can run its code", self._said(task, "no such device"), 0)
        if code.digest == scripted.UNSTABLE_CODE.digest and not code.recorded:
            remedy = "deploy the model with --recorded to accept them as recorded values"
            said = self._said(task, "its results differ from run to run")
            return Failed("refused", f"its results would not be repeatable: {remedy}", said, 0)
        past = None if task.call is None else Past(tuple(task.call.steps), 1, task.call.fuel)
        before = self.states.get(address) if code.kind in STATEFUL else None
        owes = self.owes.get(address, ())
        result = scripted.run_fold(Fold(seed, code, address, before, (seen,), owes, past))
        if result.stopped == "faulted":
            return Failed("faulted", "no worker could do it, in 3 tries", self._said(task, "out of memory"), 0)
        assert result.stopped is None, f"turn {task.turn} has no outcome and got no verdict"
        (outcome,) = result.outcomes
        if code.kind in STATEFUL and result.state is not None:
            self.states[address] = result.state
        self.owes[address] = scripted.open_after(owes, task.turn, outcome) if past is None else ()
        return outcome

    def _said(self, task: Stamped, reason: str) -> tuple[str, ...]:
        """Return what the verdict says that workers said; the last one gave this reason."""
        said = self.said[task.turn]
        assert said[-1:] == (reason,), f"turn {task.turn}: {said}, not {reason}"
        return said

    def _extend(self, task: Stamped, outcome: Outcome) -> bytes:
        """H(previous, turn, the task's content and code digest, outcome, new state digest, emitted tasks)."""
        code_digest = None if task.code is None else task.code.digest
        content = [
            task.turn, task.address, task.kind, task.sender, task.priority, task.payload, (), task.reply_to, code_digest
        ]  # fmt: skip
        if isinstance(outcome, Done):
            state = self.states.get(task.address) if task.code is not None and task.code.kind in STATEFUL else None
            state_digest = None if state is None else blake3(state).digest()
            effect: list[Any] = [0 if outcome.waits is None else 2, outcome.result, outcome.tensors, outcome.emits]
        else:
            state_digest, effect = None, [1, outcome.kind, outcome.message]
        return blake3(packb([self.digest, *content, effect, state_digest])).digest()


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
