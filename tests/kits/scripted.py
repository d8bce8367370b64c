"""A small agent language: the payload of a task is a program, whose outcome is a function of state and task alone.

A program is a JSON list of steps, run in order:

    ["add", n]                             add to the counter, which is the agent's state
    ["tell", target, program, priority?]   emit a message
    ["ask", target, program, priority?, deadline_ms?]   emit one and want the outcome back
    ["timer", delay_ms, program]           emit a message to oneself
    ["postpone"]                           answer later
    ["settle", which, n] ["settle_failure", which, text]   answer a postponed turn: with the result [n], or a failure
    ["hand_on", which, target, program, priority?, deadline_ms?]   have another one answer it
    ["spawn", n, target, size?]            emit n messages with empty programs, padded to `size` bytes
    ["flood", n, size]                     emit n messages of `size` bytes, each to a new key, that do the same again
    ["fail", text] ["trap"]                fail
    ["log", text] ["size", n] ["grow", n]  write a log line, make the result or the state n bytes longer
    ["hang"] ["die"] ["fault"]             no outcome: run past the timeout, kill the worker, or fault

`which` is a turn, or 0 for the task's own (handing it on postpones it), or -N for the Nth from the end of those that
are open at the agent. scripted_flows.py has the programs of flows (`FLOW`).

The result holds everything that a task can see, so anything that should not be visible would show in the digest. No
worker can run `UNRUNNABLE`. `MODEL_CODE` is a model of certificate A, `UNSTABLE_CODE` one of D whose binding accepts
recorded results, and `UNSTABLE_REFUSED` the same without that. The simulated workers and the sequential reference run
the same function.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from scripted_flows import run_call
from scripted_steps import Counter, NoOutcome, Run, failed, program, steps_of, too_large, wrong_emits

from rota.common.calls import asks_overflow_text, nobody_asked_text, not_open_text
from rota.common.code_kinds import KINDS
from rota.common.digests import digest, entropy
from rota.common.work import (
    AGENT,
    ASK,
    COMMAND,
    FUNCTION,
    MODEL,
    RECORDED,
    SOURCE,
    Code,
    Done,
    Fold,
    FoldResult,
    Limits,
    Outcome,
    Provenance,
    TaskInput,
)


def code(name: str, kind: str = AGENT, **limits: int) -> Code:
    """Return code of the language; names only make digests different."""
    return Code(digest(name.encode()), kind, limits=Limits(**limits))


def run_task(
    seed: bytes, bound: Code, address: str, state: bytes | None, task: TaskInput, open_turns: Sequence[int] = ()
) -> tuple[Outcome, bytes | None]:
    """Run one task of an agent, function or model; return its outcome and the state after it.

    `open_turns`: those that the agent has postponed and not settled, ascending.
    """
    steps = steps_of(task)
    if steps is None:
        return failed(bound, "error", "not a program", (), 0), state
    before = Counter(state)
    run = Run(address, task.turn, Counter(state), open_turns)
    for step in steps:
        failure = run.take(step)
        if failure is not None:
            return failed(bound, *failure, tuple(run.log), len(steps)), state
    failure = wrong_emits(run.emits, task, run.is_postponed) or _wrong_settle(run, task, open_turns, bound)
    if failure is not None:
        return failed(bound, *failure, tuple(run.log), len(steps)), state
    after = run.state
    seen = [after.counter, task.turn, task.kind, task.sender, task.reply_to, task.now_ms, bound.digest.hex()[:4]]
    told = json.dumps([*seen, entropy(seed, task.turn).hex()[:8], *open_turns]).encode() + b" " * run.padding
    result, waits = (None, f"{address} at {task.turn}") if run.is_postponed else (told, None)
    changed = KINDS[bound.kind].keeps_state and (after.counter, after.padding) != (before.counter, before.padding)
    packed = after.pack() if changed else state
    state_digest = digest(packed) if changed and packed is not None else None
    size = 0 if state_digest is None or packed is None else len(packed)
    done = Done(result, state_digest, tuple(run.emits), tuple(run.log), len(steps), (), size, waits)
    failure = too_large(done, task, len(state or b""))
    if failure is not None:
        return failed(bound, *failure, tuple(run.log), len(steps)), state
    return done, packed


def open_after(open_turns: Sequence[int], turn: int, outcome: Outcome) -> tuple[int, ...]:
    """Return what an agent has open after a task."""
    if type(outcome) is not Done:
        return tuple(open_turns)
    left = [*open_turns, turn] if outcome.waits is not None else list(open_turns)
    settled = [emit.answers for emit in outcome.emits if emit.answers]
    return tuple(sorted(one for one in left if one not in settled))


def _wrong_settle(run: Run, task: TaskInput, open_turns: Sequence[int], bound: Code) -> tuple[str, str] | None:
    """Return kind and message if a task settles what is not its own to settle, or postpones what nobody asked for."""
    if run.is_postponed and task.kind != ASK and task.sender is not None:
        return "bad_settle", nobody_asked_text(task.turn)
    left, own = list(open_turns), run.is_postponed
    for emit in run.emits:
        if own and emit.kind == ASK and emit.answers == task.turn:
            own = False
        elif emit.answers in left:
            left.remove(emit.answers)
        elif emit.answers:
            return "bad_settle", not_open_text(emit.answers, run.address)
    most = bound.limits.asks_max
    return ("overflow", asks_overflow_text(most)) if own and len(left) >= most else None


def run_fold(fold: Fold) -> FoldResult:
    """Run tasks one after another, as a worker does. Raises `NoOutcome("die")` if one of them kills the worker."""
    bound = fold.code
    if bound.digest == UNRUNNABLE.digest:
        return FoldResult((), None, "refused", "no such device")
    if fold.past is not None:
        return run_call(fold.lane_seed, bound, fold.address, fold.past, fold.tasks)
    source = None
    if bound.kind == MODEL:
        source = UNSTABLE if bound.digest == UNSTABLE_CODE.digest else STABLE
        if source.result_class == RECORDED and not bound.recorded:
            return FoldResult((), None, "unrepeatable", "its results differ from run to run")
    outcomes: list[Outcome] = []
    current, changed, open_turns = fold.state, False, fold.open
    for task in fold.tasks:
        try:
            outcome, current = run_task(fold.lane_seed, bound, fold.address, current, task, open_turns)
        except NoOutcome as end:
            return end.result(outcomes, current if changed else None, source)
        changed = changed or (type(outcome) is Done and outcome.state_digest is not None)
        open_turns = open_after(open_turns, task.turn, outcome)
        outcomes.append(outcome)
    return FoldResult(tuple(outcomes), current if changed else None, provenance=source)


COUNTER = code("counter")
FUNCTION_CODE = code("function", FUNCTION)
COMMAND_CODE = code("command", COMMAND)
SOURCE_CODE = code("source", SOURCE)
FLOW = code("flow")._replace(flow=True)
SOURCE_FLOW = code("source flow", SOURCE)._replace(flow=True)
MODEL_CODE = code("model", MODEL)
UNRUNNABLE = code("unrunnable")
UNSTABLE_REFUSED = code("unstable", MODEL)
UNSTABLE_CODE = UNSTABLE_REFUSED._replace(recorded=True)
STABLE = Provenance("bitwise", "cpu", b"f" * 32, "A")
UNSTABLE = Provenance("recorded", "cpu", b"f" * 32, "D")

__all__ = ["NoOutcome", "open_after", "program", "run_call", "run_fold", "run_task"]
