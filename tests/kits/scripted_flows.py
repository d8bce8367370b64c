"""The flows of the agent language (scripted.py): a procedure that waits in the middle, run over messages.

The first message is a program: the steps of an agent, and

    ["await", [steps], n]    send what these steps send, then wait until n more messages have come

What it asked for comes back as replies, failures and timers, and counts 100 and the answer, 1000, or 10. At its end the
call returns everything that it saw. It fails where it would wait for more than can still come.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any

from scripted_steps import Counter, NoOutcome, Run, failed, steps_of, too_large, wrong_emits

from rota.common.budget import content_bytes
from rota.common.calls import (
    FLOW_SETTLES_TEXT,
    bytes_overflow_text,
    other_path_text,
    path_of,
    steps_overflow_text,
)
from rota.common.digests import digest, entropy
from rota.common.work import AFTER_END, ASK, TIMER, Code, Done, Failed, FoldResult, Outcome, Past, TaskInput

SETTLING = ("postpone", "settle", "settle_failure", "hand_on")


class Call:
    """The guest of one call. `take` gives it its messages, one after another."""

    def __init__(self, seed: bytes, bound: Code, address: str) -> None:
        self.ended = False
        self._seed = seed
        self._bound = bound
        self._address = address
        self._memory = Counter(None)
        self._left: deque[Any] = deque()
        self._messages: list[list[Any]] = []
        self._content = 0
        self._waits_for = 0  # how many messages must come before it goes on
        self._coming = 0  # how many can still come
        self._padding = 0

    def take(self, task: TaskInput) -> Outcome:
        """Go on with a message, without regard to the bounds of the call. Raises `NoOutcome`."""
        run = Run(self._address, task.turn, self._memory, ())
        failure = self._begin(task) if not self._messages else self._go_on(task)
        self._messages.append(
            [task.turn, task.kind, task.sender, task.reply_to, task.now_ms, entropy(self._seed, task.turn).hex()[:8]]
        )
        self._content += content_bytes(task.kind, len(task.payload), task.tensors)
        steps = 1
        while failure is None and self._waits_for <= 0 and self._left:
            steps += 1
            failure = self._carry_out(self._left.popleft(), run)
        self.ended = failure is not None or self._waits_for <= 0
        self._padding = run.padding or self._padding
        if failure is not None:
            return failed(self._bound, *failure, run.log, steps)
        result, waits = None, f"{self._address} after {len(self._messages)}"
        if self.ended:
            seen = digest(json.dumps(self._messages).encode()).hex()[:16]
            told = [self._memory.counter, len(self._messages), seen, self._bound.digest.hex()[:4]]
            result = json.dumps(told).encode() + b" " * self._padding
        return Done(result, None, tuple(run.emits), tuple(run.log), steps, (), 0, None if self.ended else waits)

    def judge(self, task: TaskInput, fuel: int) -> Outcome:
        """Go on with a message within the bounds of the deploy; `fuel` is what the call has used before it."""
        limits = self._bound.limits
        if len(self._messages) >= limits.steps_max:
            return self._fail("overflow", steps_overflow_text(limits.steps_max), (), 0)
        if self._content + content_bytes(task.kind, len(task.payload), task.tensors) > limits.call_bytes:
            return self._fail("overflow", bytes_overflow_text(limits.call_bytes), (), 0)
        outcome = self.take(task)
        rest = limits.call_fuel - fuel
        if outcome.fuel > rest:
            return self._fail("fuel", "out of fuel in all", outcome.log, rest)
        if type(outcome) is Done:
            failure = wrong_emits(outcome.emits, task, outcome.waits is not None) or too_large(outcome, task, 0)
            if failure is not None:
                return self._fail(*failure, outcome.log, outcome.fuel)
        return outcome

    def _fail(self, kind: str, message: str, log: Sequence[str], fuel: int) -> Failed:
        self.ended = True
        return failed(self._bound, kind, message, log, fuel)

    def _begin(self, task: TaskInput) -> tuple[str, str] | None:
        steps = steps_of(task)
        if steps is None:
            return "error", "not a program"
        self._left.extend(steps)
        return None

    def _go_on(self, task: TaskInput) -> tuple[str, str] | None:
        self._waits_for -= 1
        self._coming -= 1
        self._memory.counter += 10 if task.kind == TIMER else sum(n for _, n, *_ in (steps_of(task) or [])[:1])
        return None

    def _carry_out(self, step: Any, run: Run) -> tuple[str, str] | None:
        match step:
            case ["await", list(sends), int(n)]:
                for send in sends:
                    failure = self._send(send, run)
                    if failure is not None:
                        return failure
                self._waits_for = n
                return ("error", "it waits for what cannot come") if n > self._coming else None
            case _:
                return self._send(step, run)

    def _send(self, step: Any, run: Run) -> tuple[str, str] | None:
        if isinstance(step, list) and step[:1] and step[0] in SETTLING:
            return "bad_settle", FLOW_SETTLES_TEXT
        before = len(run.emits)
        failure = run.take(step)
        self._coming += sum(emit.kind in (ASK, TIMER) for emit in run.emits[before:])
        return failure


def run_call(seed: bytes, bound: Code, address: str, past: Past, tasks: Sequence[TaskInput]) -> FoldResult:
    """Run messages of a call as a worker does: first again those that it has had, then these, behind its end none.

    Raises `NoOutcome("die")` if one of them kills the worker.
    """
    call, fuel = Call(seed, bound, address), past.fuel
    for step in past.steps:
        outcome = call.take(step.task)
        now = path_of(outcome.emits if type(outcome) is Done else ())
        if now != step.path:
            return FoldResult((), None, "faulted", other_path_text(address, step.task.turn, step.path, now))
    outcomes: list[Outcome] = []
    for place, task in enumerate(tasks):
        if call.ended or place >= past.alive:
            outcomes.append(AFTER_END)
            continue
        try:
            outcomes.append(call.judge(task, fuel))
        except NoOutcome as end:
            return end.result(outcomes, None, None)
        fuel += outcomes[-1].fuel
    return FoldResult(tuple(outcomes), None)
