"""Open asks and calls of flows, for the user of a lane. PURE.

A call is told from the turns that the lane remembers: its messages, what each step waited for, and its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rota.broker.lane import Lane
from rota.broker.tasks import Agent
from rota.common.targets import code_name
from rota.common.work import ASK, TIMER, Emit, Failed, Outcome
from rota.engine.waits import Seen, waits_of
from rota.local.tables import Column, Table, shown_bytes, shown_text
from rota.local.turns import Turn, turn_table


class LocalAsk(NamedTuple):
    """An ask without its answer. `turn`, `target`: of the task that was asked first; `asker`: None if from outside.

    `owner`: the agent or call that owes the answer; `owes`: the turn that it has postponed, 0 while the task to which
    the ask was handed on has not come to anything. `due_ms`: its deadline.
    """

    turn: int
    asker: str | None
    target: str
    owner: str
    owes: int
    now_ms: int
    due_ms: int | None


class LocalWait(NamedTuple):
    """An ask or timer of a call: the turn of its step, what was emitted there, and the turn that answered it."""

    step: Turn
    emit_index: int
    emit: Emit
    answer: Turn | None


class LocalCall:
    """A call of a flow, as it is now."""

    def __init__(self, address: str, turns: Iterable[Turn], *, lives: bool) -> None:
        """`turns`: the retired ones of its address up to its end, in order; `lives`: whether the lane still has it."""
        self.address = address
        self.ended = not lives
        self._messages = list(turns)

    @property
    def turn(self) -> int:
        """The turn that began it."""
        return self._messages[0].turn

    @property
    def flow(self) -> str:
        """The name that was called."""
        return code_name(self.address)

    @property
    def messages(self) -> Table[Turn]:
        """The turns of its messages so far; each ran it up to its next wait."""
        return turn_table(self._messages)

    @property
    def waits(self) -> Table[LocalWait]:
        """All asks and timers so far, in the order in which it made them."""
        turns = self._messages
        seen = [Seen(one.turn, one.kind, one.parent_emit, one.reply_to, one.outcome) for one in turns]
        return Table(
            [
                LocalWait(turns[wait.step], wait.emit_index, wait.emit, _at(turns, wait.answered_by))
                for wait in waits_of(seen)
            ],
            _WAIT_COLUMNS,
        )

    @property
    def open(self) -> Table[LocalWait]:
        """What it waits for; nothing once it has ended."""
        return Table([] if self.ended else [wait for wait in self.waits if wait.answer is None], _WAIT_COLUMNS)

    @property
    def waits_at(self) -> str | None:
        """Where in its source it waits, empty if its runtime cannot say; None once it has ended."""
        return None if self.ended else self._messages[-1].waits

    @property
    def fuel(self) -> int:
        """The fuel of all its steps."""
        return sum([turn.fuel for turn in self._messages])

    @property
    def outcome(self) -> Outcome | None:
        """How it ended: what it returned, or its failure; None if it goes on."""
        return self._messages[0].answer

    def __repr__(self) -> str:
        head = f"call {self.address}: {len(self._messages)} messages, {self.fuel} fuel"
        outcome = self.outcome
        if isinstance(outcome, Failed):
            return f"<{head}, failed {outcome.kind}: {shown_text(outcome.message)}>"
        if outcome is not None:
            return f"<{head}, returned {shown_bytes(outcome.result)}>"
        return f"<{head}, {waiting_text(self.waits_at, [wait.emit for wait in self.open])}>"


def waiting_text(where: str | None, waits: Sequence[Emit]) -> str:
    """Return where a call waits, and for what."""
    shown = [f"a timer of {emit.delay_ms} ms" if emit.kind == TIMER else emit.target for emit in waits[:_WAITS_SHOWN]]
    more = f" and {len(waits) - len(shown)} more" if len(waits) > len(shown) else ""
    at = f" at {shown_text(where)}" if where else ""
    return f"waits{at}" + (f" for {', '.join(shown)}{more}" if shown else "")


def missing_text(lane: Lane, turn: int) -> str:
    """Return who owes the answer of an open ask, and for what they wait in turn."""
    said: list[str] = []
    met: dict[str, None] = {}
    ask = lane.open.get(turn)
    while ask is not None:
        owner = ask.owner
        agent = lane.agents.get(owner)
        said.append(f"{owner} {_owes(agent, ask.owes)}")
        if owner in met:
            said[-1] = f"{owner} waits for itself"
            break
        met[owner] = None
        due_ms = min([timer.due_ms for timer in lane.timers.values() if timer.sender == owner], default=None)
        if due_ms is not None:
            said.append(f"it has a timer that is due at {due_ms} ms: `advance` or `run_for` moves the clock")
        ask = next((one for one in lane.open.values() if one.asker == owner), None)
        if ask is not None:
            said.append(f"it waits for {ask.address}, turn {ask.turn}")
    return "; ".join(said)


def _owes(agent: Agent | None, turn: int) -> str:
    if agent is not None and agent.call is not None and agent.call.waits:
        return f"waits at {shown_text(agent.call.waits)}"
    return f"has postponed turn {turn}" if agent is not None and turn in agent.open else "has not answered"


def ask_table(asks: Iterable[LocalAsk]) -> Table[LocalAsk]:
    return Table(asks, _ASK_COLUMNS, first=True)


def _at(turns: Sequence[Turn], place: int | None) -> Turn | None:
    return None if place is None else turns[place]


_WAITS_SHOWN: Final = 4
_WAIT_COLUMNS: Final[tuple[Column, ...]] = (
    ("step", lambda wait: str(wait.step.turn)),
    ("kind", lambda wait: wait.emit.kind),
    ("of", lambda wait: wait.emit.target if wait.emit.kind == ASK else f"{wait.emit.delay_ms} ms"),
    ("payload", lambda wait: shown_bytes(wait.emit.payload)),
    ("answer", lambda wait: "-" if wait.answer is None else f"{wait.answer.kind} in turn {wait.answer.turn}"),
)
_ASK_COLUMNS: Final[tuple[Column, ...]] = (
    ("turn", lambda ask: str(ask.turn)),
    ("asked by", lambda ask: ask.asker or "-"),
    ("target", lambda ask: ask.target),
    ("owed by", lambda ask: ask.owner),
    ("since ms", lambda ask: str(ask.now_ms)),
    ("due ms", lambda ask: "-" if ask.due_ms is None else str(ask.due_ms)),
)
