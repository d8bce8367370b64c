"""The read-only part of a lane. It changes nothing, takes no lock, and works after the lane is closed."""

from __future__ import annotations

import weakref
from typing import Any

from rota.broker.lane import Lane as CoreLane
from rota.broker.tasks import DeadTask, Timer
from rota.common.arguments import seq_of, whole
from rota.common.errors import Expired, LocalError, UnknownTask
from rota.common.targets import check_target
from rota.common.work import Code
from rota.engine.engine import Engine
from rota.local.calls import LocalAsk, LocalCall, ask_table
from rota.local.handles import LocalHandle
from rota.local.tables import Table
from rota.local.turns import History, Pending, Turn, dead_table, pending_of, pending_table, timer_table, turn_table
from rota.tensors.payloads import Payloads
from rota.tensors.store import TensorStore


class View:
    """The read-only part of `Lane`."""

    name: str
    _engine: Engine
    _finalizer: weakref.finalize[..., Any]
    _history: History
    _lane: CoreLane
    _payloads: Payloads

    def state(self, address: str) -> bytes | None:
        """Return the state of an agent, None if it has none yet."""
        agent = self._lane.agents.get(check_target(address))
        return None if agent is None else agent.state

    @property
    def agents(self) -> tuple[str, ...]:
        """The addresses of all agents that have had a task, in the order of their first issue."""
        return tuple(self._lane.agents)

    @property
    def turns(self) -> Table[Turn]:
        """The retired turns in retire order, at most the newest `history`."""
        return turn_table(self._history.newest())

    def turn(self, turn: int | LocalHandle) -> Turn:
        """Return a retired turn. Raises `UnknownTask` if it has not retired, `Expired` if it is forgotten."""
        number = self._stamped(turn)
        found = self._history.find(number)
        if found is None and self._is_open(number):
            raise UnknownTask(f"turn {number} has not retired yet: step or run the lane", turn=number)
        return self._remembered(number, found)

    @property
    def digest(self) -> bytes:
        """The lane's digest after its last retired turn."""
        return self._lane.digest

    @property
    def retired(self) -> int:
        """How many tasks have retired: the lane's position."""
        return self._lane.retired

    @property
    def line(self) -> Table[Pending]:
        """The issued tasks, in the order in which they retire."""
        return pending_table(pending_of(task.run, task.index) for task in self._lane.line())

    @property
    def waiting(self) -> Table[Pending]:
        """The stamped tasks that are not issued yet, by turn."""
        runs = self._lane.waiting_runs()
        return pending_table(pending_of(run, index) for run in runs for index in range(run.issued, len(run.payloads)))

    @property
    def timers(self) -> Table[Timer]:
        """The waiting timers, in the order in which they come due."""
        return timer_table(
            sorted(self._lane.timers.values(), key=lambda timer: (timer.due_ms, timer.turn, timer.index_of_emit))
        )

    @property
    def asks(self) -> Table[LocalAsk]:
        """The open asks, by turn: postponed, or of a call that goes on, and not answered."""
        lane = self._lane
        return ask_table(
            LocalAsk(turn, ask.asker, ask.address, ask.owner, ask.owes, ask.run.now_ms, lane.deadlines.get(turn))
            for turn, ask in sorted(lane.open.items())
        )

    def call(self, turn: int | LocalHandle) -> LocalCall:
        """Return the call of a flow to which a retired turn is a message.

        Raises `UnknownTask` if the turn has not retired, `LocalError` if it is a message to no flow, `Expired` if the
        first turn of the call is forgotten.
        """
        found = self.turn(turn)
        if found.call is None:
            raise LocalError(f"turn {found.turn} is a message to {found.target}, which is no flow", turn=found.turn)
        self._remembered(found.call, self._history.find(found.call))
        return LocalCall(found.target, self._history.of_call(found.target), lives=found.target in self._lane.agents)

    @property
    def dead(self) -> Table[DeadTask]:
        """The failed tasks kept for a retry."""
        return dead_table(self._lane.dead.values())

    @property
    def deploys(self) -> dict[str, Code]:
        """The code that each name is bound to."""
        return dict(self._lane.deploys)

    @property
    def now_ms(self) -> int:
        """The lane's clock: the time that a task submitted now will see."""
        return self._engine.now_ms

    @property
    def seed(self) -> bytes:
        return self._lane.seed

    @property
    def window(self) -> int:
        return self._lane.window

    @property
    def paused(self) -> bool:
        return self._lane.paused

    @property
    def tensors(self) -> TensorStore:
        """The lane's tensor store, to store arrays and open references."""
        store = self._payloads.store()
        assert store is not None
        return store

    def report(self, turns: int = 20) -> str:
        """Return the last turns, their logs, and the tasks that have not retired, as text."""
        newest = self._history.newest(whole("turns", turns, 0))
        logs = [f"turn {turn.turn} log: {line}" for turn in newest for line in turn.log]
        rest = [
            f"{title}:\n{table.text(turns)}"
            for title, table in (
                ("line", self.line),
                ("waiting", self.waiting),
                ("timers", self.timers),
                ("open asks", self.asks),
            )
            if table
        ]
        return "\n".join([repr(self), turn_table(newest).text(turns), *logs, *rest])

    def __repr__(self) -> str:
        lane = self._lane
        parts = [f"{lane.retired} retired ({lane.failed} failed)", f"{lane.line_count} in line"]
        parts += [f"{lane.waiting_count} waiting", f"{len(lane.timers)} timers"]
        parts += [f"{len(lane.open)} open asks"] * bool(lane.open) + [f"now {self.now_ms} ms"]
        parts += ["paused"] * lane.paused + ["closed"] * (not self._finalizer.alive)
        return f"<lane {self.name}: {', '.join(parts)}, digest {lane.digest.hex()[:12]}>"

    # --- inside ---------------------------------------------------------------------------------------

    def _stamped(self, turn: int | LocalHandle) -> int:
        number = number_of(turn)
        if not 1 <= number < self._lane.next_turn:
            raise UnknownTask(f"no turn {number}: the last one stamped is {self._lane.next_turn - 1}", turn=number)
        return number

    def _is_open(self, number: int) -> bool:
        """Whether a stamped task has not retired."""
        if number in self._lane.line_by_turn:
            return True
        run = self._engine.world.runs.find(number)
        return run is not None and number - run.first_seq >= run.issued

    def _remembered(self, number: int, turn: Turn | None) -> Turn:
        if turn is None:
            raise Expired(f"turn {number} is forgotten: open the lane with a longer `history`", seqs=[number])
        return turn


def number_of(turn: int | LocalHandle) -> int:
    """Return the number of a turn. Raises `LocalError` for anything else."""
    return seq_of(turn, "turn")
