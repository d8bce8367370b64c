"""A small agent language: the payload of a task is a program, whose outcome is a function of state and task alone.

A program is a JSON list of steps, run in order:

    ["add", n]                             add to the counter, which is the agent's state
    ["tell", target, program, priority?]   emit a message; ["ask", ...] wants the outcome back
    ["timer", delay_ms, program]           emit a message to oneself
    ["spawn", n, target, size?]            emit n messages with empty programs, padded to `size` bytes
    ["flood", n, size]                     emit n messages of `size` bytes, each to a new key, that do the same again
    ["fail", text] ["trap"]                fail
    ["log", text] ["size", n] ["grow", n]  write a log line, make the result or the state n bytes longer
    ["hang"] ["die"] ["fault"]             no outcome: run past the timeout, kill the worker, or fault

The result holds everything that a task can see, so anything that should not be visible would show in the digest. No
worker can run `UNRUNNABLE`. `MODEL_CODE` is a model of certificate A, `UNSTABLE_CODE` one of D whose binding accepts
recorded results, and `UNSTABLE_REFUSED` the same without that. The simulated workers and the sequential reference run
the same function.
"""

from __future__ import annotations

import json
from typing import Any

import msgpack

from rota.common.budget import growth_max, growth_of
from rota.common.code_kinds import KINDS
from rota.common.digests import digest, entropy
from rota.common.work import (
    AGENT,
    ASK,
    COMMAND,
    FAILURE,
    FUNCTION,
    MODEL,
    RECORDED,
    REPLY,
    SOURCE,
    TELL,
    TIMER,
    Code,
    Done,
    Emit,
    Failed,
    FoldResult,
    Limits,
    Outcome,
    Provenance,
    TaskInput,
)


class NoOutcome(Exception):
    """The task has no outcome: `why` is hang, die or fault."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def program(*steps: Any) -> bytes:
    """Return the payload that runs these steps."""
    return json.dumps(steps, separators=(",", ":")).encode()


def code(name: str, kind: str = AGENT, **limits: int) -> Code:
    """Return code of the language; names only make digests different."""
    return Code(digest(name.encode()), kind, limits=Limits(**limits))


def run_task(
    seed: bytes, bound: Code, address: str, state: bytes | None, task: TaskInput
) -> tuple[Outcome, bytes | None]:
    """Run one task and return its outcome and the state after it."""
    steps = _steps(task)
    if steps is None:
        return _failed(bound, "error", "not a program", (), 0), state
    before = _State(state)
    run = _Run(address, task.turn, _State(state))
    for step in steps:
        failure = run.take(step)
        if failure is not None:
            return _failed(bound, *failure, tuple(run.log), len(steps)), state
    if len(run.emits) > task.emits_max:
        text = f"{len(run.emits)} emits, {task.emits_max} allowed"
        return _failed(bound, "overflow", text, tuple(run.log), len(steps)), state
    after = run.state
    seen = [after.counter, task.turn, task.kind, task.sender, task.reply_to, task.now_ms, bound.digest.hex()[:4]]
    result = json.dumps([*seen, entropy(seed, task.turn).hex()[:8]]).encode() + b" " * run.padding
    changed = KINDS[bound.kind].keeps_state and (after.counter, after.padding) != (before.counter, before.padding)
    packed = after.pack() if changed else state
    state_digest = digest(packed) if changed and packed is not None else None
    size = 0 if state_digest is None or packed is None else len(packed)
    done = Done(result, state_digest, tuple(run.emits), tuple(run.log), len(steps), (), size)
    most = growth_max(task.growth_bytes, task.kind, len(task.payload), task.tensors)
    growth = growth_of(done, len(state or b""))
    if growth > most:
        return _failed(bound, "overflow", f"grows by {growth} bytes, {most} allowed", tuple(run.log), len(steps)), state
    return done, packed


def _failed(bound: Code, kind: str, message: str, log: tuple[str, ...], fuel: int) -> Failed:
    """Return a failure of a kind that this kind of code can have."""
    known = KINDS[bound.kind].failures
    return Failed(kind if kind in known else known[0], message, log, fuel)


def run_fold(seed: bytes, bound: Code, address: str, state: bytes | None, tasks: list[TaskInput]) -> FoldResult:
    """Run tasks one after another, as a worker does. Raises `NoOutcome("die")` if one of them kills the worker."""
    if bound.digest == UNRUNNABLE.digest:
        return FoldResult((), None, "refused", "no such device")
    source = None
    if bound.kind == MODEL:
        source = UNSTABLE if bound.digest == UNSTABLE_CODE.digest else STABLE
        if source.result_class == RECORDED and not bound.recorded:
            return FoldResult((), None, "unrepeatable", "its results differ from run to run")
    outcomes: list[Outcome] = []
    current, changed = state, False
    for task in tasks:
        try:
            outcome, current = run_task(seed, bound, address, current, task)
        except NoOutcome as end:
            if end.why == "die":
                raise
            stopped: Any = "timeout" if end.why == "hang" else "faulted"
            left = current if changed else None
            reason = "out of memory" if stopped == "faulted" else ""
            return FoldResult(tuple(outcomes), left, stopped, reason, source if outcomes else None)
        changed = changed or (type(outcome) is Done and outcome.state_digest is not None)
        outcomes.append(outcome)
    return FoldResult(tuple(outcomes), current if changed else None, provenance=source)


class _State:
    """The counter, and how many bytes follow it."""

    def __init__(self, packed: bytes | None) -> None:
        self.counter = 0 if packed is None else int(packed.split(b" ", 1)[0])
        self.padding = 0 if packed is None else packed.count(b" ")

    def pack(self) -> bytes:
        return b"%d" % self.counter + b" " * self.padding


class _Run:
    """The effects of a task so far."""

    def __init__(self, address: str, turn: int, state: _State) -> None:
        self.address = address
        self.turn = turn
        self.state = state
        self.emits: list[Emit] = []
        self.log: list[str] = []
        self.padding = 0

    def take(self, step: Any) -> tuple[str, str] | None:
        """Carry out a step; return kind and message if it fails."""
        match step:
            case ["add", int(n)]:
                self.state.counter += n
            case ["tell" | "ask" as kind, str(target), list(steps)]:
                self._emit(target, steps, 0, kind)
            case ["tell" | "ask" as kind, str(target), list(steps), int(priority)]:
                self._emit(target, steps, priority, kind)
            case ["timer", int(delay_ms), list(steps)]:
                self.emits.append(Emit(self.address, program(*steps), 0, TIMER, (), delay_ms))
            case ["spawn", int(n), str(target), *size]:
                self.emits += [Emit(target, program().ljust(sum(size)), 0, TELL, (), 0)] * n
            case ["flood", int(n), int(size)]:
                payload = program(step).ljust(size)
                keys = [f"{self.address.split('/')[0]}/{self.turn}.{index}" for index in range(n)]
                self.emits += [Emit(key, payload, 0, TELL, (), 0) for key in keys]
            case ["log", str(text)]:
                self.log.append(text)
            case ["size", int(n)]:
                self.padding = n
            case ["grow", int(n)]:
                self.state.padding = max(0, self.state.padding + n)
            case ["fail", str(text)]:
                return "error", text
            case ["trap"]:
                return "trap", "unreachable"
            case ["hang" | "die" | "fault" as why]:
                raise NoOutcome(why)
            case _:
                return "error", f"no such step: {step}"
        return None

    def _emit(self, target: str, steps: list[Any], priority: int, kind: str) -> None:
        self.emits.append(Emit(target, program(*steps), priority, ASK if kind == "ask" else TELL, (), 0))


def _steps(task: TaskInput) -> list[Any] | None:
    """The steps of a task; answers to what the agent asked are counted in its state."""
    if task.kind == FAILURE:
        kind, _ = msgpack.unpackb(task.payload)
        return [["add", 1000], ["log", kind]]
    try:
        steps = json.loads(task.payload)
    except ValueError:
        return None
    if task.kind == REPLY:
        return [["add", 100 + steps[0]]]
    return steps if isinstance(steps, list) else None


COUNTER = code("counter")
FUNCTION_CODE = code("function", FUNCTION)
COMMAND_CODE = code("command", COMMAND)
SOURCE_CODE = code("source", SOURCE)
MODEL_CODE = code("model", MODEL)
UNRUNNABLE = code("unrunnable")
UNSTABLE_REFUSED = code("unstable", MODEL)
UNSTABLE_CODE = UNSTABLE_REFUSED._replace(recorded=True)
STABLE = Provenance("bitwise", "cpu", b"f" * 32, "A")
UNSTABLE = Provenance("recorded", "cpu", b"f" * 32, "D")
