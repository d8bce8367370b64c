"""Bisect: the first turn after which a predicate holds.

The run is executed again and the predicate evaluated after every turn. A binary search would need a predicate that
stays true; here a state may be bad for three turns and then good again, and the first of the three is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, Final, NamedTuple

import msgpack

from rota.broker.lane import Lane
from rota.broker.tasks import Task
from rota.common.errors import BadChange
from rota.common.work import Done, Failed
from rota.engine.engine import Runner
from rota.proof.seek import Follower
from rota.runs.open import RunSource
from rota.runs.walk import Walk, lane_of

_BUILTINS: Final = {
    name.__name__: name
    for name in (abs, all, any, bool, bytes, float, int, len, max, min, repr, round, sorted, str, sum)
}
NAMES: Final[Mapping[str, str]] = {
    "state(ADDRESS)": "the bytes of an agent's state; None before it has one",
    "unpack(BYTES)": "what MessagePack bytes hold",
    "text(BYTES)": "bytes as UTF-8",
    "number(BYTES)": "bytes as the digits of an integer",
    "turn, target, sender, kind, payload": "of the task that just retired",
    "result": "its result in bytes, None if it failed or has none",
    "failure, message, log": "what it failed with, None if it did not; its log lines",
    "retired, digest": "of the lane: how many tasks, and its digest as hex",
}


class Predicate:
    """A Python expression over NAMES. It does not hold where it raises (no state yet, a missing key)."""

    def __init__(self, expression: str) -> None:
        """Raises `BadChange` if it is not an expression."""
        self.expression = expression
        self.evaluated = 0  # how often it gave a value
        self.failure = ""  # the last error that it raised
        try:
            self._code: CodeType = compile(expression, "--bad", "eval")
        except (SyntaxError, ValueError) as error:
            raise BadChange(f"--bad {expression!r} is no Python expression: {error}") from error

    def holds(self, task: Task, lane: Lane) -> bool:
        """Return whether it holds after a task retired. Raises `BadChange` for an unknown name."""
        try:
            value = bool(eval(self._code, {"__builtins__": _BUILTINS}, _names(task, lane)))
        except NameError as error:
            raise BadChange(f"--bad {self.expression!r}: {error}; there are {', '.join(NAMES)}") from error
        except Exception as error:  # the user's expression over the user's data: anything may be raised
            self.failure = f"{type(error).__name__}: {error}"
            return False
        self.evaluated += 1
        return value


class Found(NamedTuple):
    """The first turn after which the predicate holds; None if it never does."""

    task: Task | None
    position: int
    digest: bytes
    tried: int  # after how many turns it was evaluated; less than `position` where the run was compacted


def find_first(
    source: RunSource,
    lane: str,
    predicate: Predicate,
    runner: Runner,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Execute a lane turn by turn until the predicate holds.

    Raises `UnknownLane`; `BadChange` if the predicate never gave a value; `JournalError` where the execution differs
    from the journal (verify first).
    """
    follower, walk, tried = Follower(lane, runner, batch_tasks=1), Walk(source), 0

    def asked(tasks: Any) -> Found | None:
        nonlocal tried
        for task in tasks:
            tried += 1
            at = _lane(follower)
            if progress is not None:
                progress(at.retired)
            if predicate.holds(task, at):
                return Found(task, at.retired, task.turn_digest or at.digest, tried)
        return None

    for step in walk.steps():
        found = asked(follower.hear(step, walk))
        if found is not None:
            return found
    retired = lane_of(walk.world, lane).retired
    assert follower.replay is not None
    found = asked(follower.replay.run_to(retired))
    if found is not None:
        return found
    if predicate.failure and not predicate.evaluated:
        raise BadChange(f"--bad {predicate.expression!r} never came to a value: {predicate.failure}")
    return Found(None, _lane(follower).retired, _lane(follower).digest, tried)


def _lane(follower: Follower) -> Lane:
    assert follower.replay is not None
    return follower.replay.lane


def _names(task: Task, lane: Lane) -> dict[str, Any]:
    run, outcome = task.run, task.outcome
    failed = outcome if type(outcome) is Failed else None

    def state(address: str) -> bytes | None:
        agent = lane.agents.get(address)
        return None if agent is None else agent.state

    return {
        "state": state,
        "unpack": msgpack.unpackb,
        "text": bytes.decode,
        "number": int,
        "turn": task.turn,
        "target": task.address,
        "sender": run.sender,
        "kind": run.kind,
        "payload": task.payload,
        "result": outcome.result if type(outcome) is Done else None,
        "failure": None if failed is None else failed.kind,
        "message": None if failed is None else failed.message,
        "log": () if outcome is None else outcome.log,
        "retired": lane.retired,
        "digest": lane.digest.hex(),
    }
