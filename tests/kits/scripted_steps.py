"""The single steps of the agent language (scripted.py), shared by its agents and its flows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgpack

from rota.common.budget import growth_max, growth_of
from rota.common.calls import is_instance, reserved_text
from rota.common.code_kinds import KINDS
from rota.common.work import (
    ASK,
    FAILURE,
    REPLY,
    SUBMIT_KINDS,
    TELL,
    TIMER,
    Code,
    Done,
    Emit,
    Failed,
    FoldResult,
    Outcome,
    Provenance,
    TaskInput,
)

NO_TURN = 999_999_999  # what is settled where nothing is open


class NoOutcome(Exception):
    """The task has no outcome: `why` is hang, die or fault."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def result(self, outcomes: Sequence[Outcome], state: bytes | None, source: Provenance | None) -> FoldResult:
        """Return the result of a fold that it stops; raise itself if it kills the worker."""
        if self.why == "die":
            raise self
        reason = "out of memory" if self.why == "fault" else ""
        stopped: Any = "timeout" if self.why == "hang" else "faulted"
        return FoldResult(tuple(outcomes), state, stopped, reason, source if outcomes else None)


def program(*steps: Any) -> bytes:
    """Return the payload that runs these steps."""
    return json.dumps(steps, separators=(",", ":")).encode()


def steps_of(task: TaskInput) -> list[Any] | None:
    """Return the steps of a task; answers to what the agent asked are counted in its state."""
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


class Counter:
    """The counter, and how many bytes follow it: the state of an agent, or what a call keeps in its memory."""

    def __init__(self, packed: bytes | None) -> None:
        self.counter = 0 if packed is None else int(packed.split(b" ", 1)[0])
        self.padding = 0 if packed is None else packed.count(b" ")

    def pack(self) -> bytes:
        return b"%d" % self.counter + b" " * self.padding


class Run:
    """The effects of a task so far. `open_turns`: what its agent has postponed and not settled."""

    def __init__(self, address: str, turn: int, state: Counter, open_turns: Sequence[int]) -> None:
        self.address = address
        self.turn = turn
        self.state = state
        self.emits: list[Emit] = []
        self.log: list[str] = []
        self.padding = 0
        self.is_postponed = False
        self._open = open_turns

    def take(self, step: Any) -> tuple[str, str] | None:
        """Carry out a step; return kind and message if it fails."""
        match step:
            case ["add", int(n)]:
                self.state.counter += n
            case ["tell" | "ask" as kind, str(target), list(steps), *more]:
                self._emit(target, steps, ASK if kind == "ask" else TELL, more)
            case ["hand_on", int(which), str(target), list(steps), *more]:
                self._emit(target, steps, ASK, more, self._turn(which))
                self.is_postponed = self.is_postponed or which == 0
            case ["settle", int(which), int(n)]:
                self._settle(which, REPLY, program(n))
            case ["settle_failure", int(which), str(text)]:
                self._settle(which, FAILURE, msgpack.packb(["error", text]))
            case ["postpone"]:
                self.is_postponed = True
            case ["timer", int(delay_ms), list(steps)]:
                self.emits.append(Emit(self.address, program(*steps), 0, TIMER, (), delay_ms))
            case ["spawn", int(n), str(target), *size]:
                self.emits += [Emit(target, program().ljust(sum(size)), 0, TELL, (), 0)] * n
            case ["flood", int(n), int(size)]:
                payload = program(step).ljust(size)
                keys = [f"{self.address.split('/')[0]}/{self.turn}.{index}" for index in range(n)]
                self.emits += [Emit(key, payload, 0, TELL, (), 0) for key in keys]
            case _:
                return self._take_plain(step)
        return None

    def _take_plain(self, step: Any) -> tuple[str, str] | None:
        match step:
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

    def _turn(self, which: int) -> int:
        if which < 0:
            return self._open[which] if -which <= len(self._open) else NO_TURN
        return which or self.turn

    def _settle(self, which: int, kind: str, payload: bytes) -> None:
        self.emits.append(Emit(self.address, payload, 0, kind, (), 0, self._turn(which)))

    def _emit(self, target: str, steps: list[Any], kind: str, more: list[int], answers: int = 0) -> None:
        priority, deadline_ms, *_ = (*more, 0, 0)
        self.emits.append(Emit(target, program(*steps), priority, kind, (), deadline_ms, answers))


def failed(bound: Code, kind: str, message: str, log: Sequence[str], fuel: int) -> Failed:
    """Return a failure of a kind that this kind of code can have."""
    known = KINDS[bound.kind].failures
    return Failed(kind if kind in known else known[0], message, tuple(log), fuel)


def wrong_emits(emits: Sequence[Emit], task: TaskInput, waits: bool) -> tuple[str, str] | None:
    """Return kind and message if a task emits to a call, or more than it may; being postponed counts as an emit."""
    for emit in emits:
        if emit.kind in SUBMIT_KINDS and is_instance(emit.target):
            return "bad_output", reserved_text(emit.target)
    count = len(emits) + waits
    return ("overflow", f"{count} emits, {task.emits_max} allowed") if count > task.emits_max else None


def too_large(done: Done, task: TaskInput, state_bytes: int) -> tuple[str, str] | None:
    """Return kind and message if a task grows its lane by more than it may."""
    most = growth_max(task.growth_bytes, task.kind, len(task.payload), task.tensors)
    growth = growth_of(done, state_bytes, most - task.growth_bytes)
    return ("overflow", f"grows by {growth} bytes, {most} allowed") if growth > most else None
