"""The turns that an agent has postponed and not settled: what its tasks may settle or hand on. PURE.

They change only by the agent's own tasks in line order, as its state does, so a worker can judge a settle by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rota.common.calls import asks_overflow_text, nobody_asked_text, not_open_text
from rota.common.work import ASK, Done, Emit, TaskInput


class BadSettle(Exception):
    """The task settles what it may not, or postpones what nobody waits for: its outcome `bad_settle`."""


class TooManyOpen(Exception):
    """The agent would have more postponed turns than it may: the outcome `overflow`."""


class OpenTurns:
    """Those of one agent, from the beginning of a fold on."""

    __slots__ = ("_turns",)

    def __init__(self, turns: Iterable[int] = ()) -> None:
        self._turns = dict.fromkeys(turns)

    def check(self, task: TaskInput, address: str, emits: Sequence[Emit], waits: str | None, asks_max: int) -> None:
        """Raise `BadSettle` or `TooManyOpen` if a task may not end in this way. `waits`: as of `Done`."""
        if waits is not None and task.kind != ASK and task.sender is not None:
            raise BadSettle(nobody_asked_text(task.turn))
        named: dict[int, None] = {}
        for emit in emits:
            turn = emit.answers
            if not turn:
                continue
            is_own = turn == task.turn and emit.kind == ASK and waits is not None
            if turn in named or not (is_own or turn in self._turns):
                raise BadSettle(not_open_text(turn, address))
            named[turn] = None
        if waits is None or task.turn in named:
            return
        if len(self._turns) - len(named) >= asks_max:
            raise TooManyOpen(asks_overflow_text(asks_max))

    def take(self, task: TaskInput, done: Done) -> None:
        """Note what a task has settled, handed on and postponed."""
        for emit in done.emits:
            if emit.answers:
                self._turns.pop(emit.answers, None)
        if done.waits is not None and all(emit.answers != task.turn for emit in done.emits):
            self._turns[task.turn] = None


NONE_OPEN: Final = OpenTurns()
