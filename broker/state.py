"""What the broker knows beside its lanes, and the verbs that change it. PURE.

Everything that changes a lane goes through `commit`, which writes a record and applies it with the same function that
recovery uses. The rest here (connections, workers, pending deploys, what one step wants sent) is volatile: it can be
lost at any moment without being missed. `requests.py`, `deploys.py`, `workers.py` and `queries.py` read what they need
and write through the verbs; `sequencer.py` calls them.
"""

from __future__ import annotations

import heapq

from rota.broker import records
from rota.broker.debts import Debts
from rota.broker.dispatch import Dispatcher
from rota.broker.effects import BACKEND, FRONTEND, QUERY, Effects, News, Send, WatchProcess
from rota.broker.lane import Lane, Notes
from rota.broker.pending_deploys import PendingDeploys
from rota.broker.results import result_item
from rota.broker.tasks import Task
from rota.broker.world import World
from rota.common import events
from rota.common.errors import UnknownLane
from rota.common.events import Happened
from rota.common.limits import CONNECTIONS_MAX, HEARTBEAT_MS, LANES_BYTES_DEFAULT
from rota.common.messages import Answer, FrontendReply, ResultItem, Revoke, WorkerOrder
from rota.common.work import Failed


class BrokerState:
    """The world and all that is volatile. Fields are for reading; what changes them is below."""

    def __init__(
        self, world: World, *, version: str, host: str = "", heartbeat_ms: int = HEARTBEAT_MS,
        lanes_bytes: int = LANES_BYTES_DEFAULT,
    ) -> None:  # fmt: skip
        assert world.boot > 0, "an epoch must be open"
        self.world = world
        self.version = version
        self.host = host
        self.heartbeat_ms = heartbeat_ms
        self.lanes_bytes = lanes_bytes  # what the budgets of all lanes may come to
        self.dispatcher = Dispatcher(world.boot)
        self.deploys = PendingDeploys(world.boot)
        self.debts = Debts()
        self.draining = False
        self.storage_full = ""  # why the journal cannot be written at present
        self.late_completions = 0
        self.now_ms = 0
        self.mono_ms = 0
        self.effects = Effects()
        self._told = 0  # events of this boot
        self._tick_ms = 0
        self._producers: dict[bytes, str] = {}  # by frontend identity, the longest silent one first
        self._timers: list[tuple[int, str, int, int]] = []
        self._moved: dict[str, None] = {}
        self._take_up()

    def begin(self, now_ms: int, mono_ms: int) -> None:
        """Begin a step at this time, with nothing to do yet."""
        self.effects = Effects()
        self.now_ms = now_ms
        self.mono_ms = mono_ms

    # --- lanes ------------------------------------------------------------------------------------------------------

    def lane(self, name: object) -> Lane:
        """Return an open lane. Raises `UnknownLane`."""
        lane = self.world.lanes.get(name) if type(name) is str else None
        if lane is None:
            known = ", ".join(sorted(self.world.lanes)[:8])
            raise UnknownLane(f"no lane {name!r}: open it first (open lanes: {known})", lane=name)
        return lane

    def commit(self, record: records.Record) -> None:
        """Write a record and let it take effect."""
        self.effects.records.append(record)
        self._absorb(self.world.apply(record))

    def decide(self, task: Task, kind: str, message: str) -> None:
        """Pass a verdict on a task that has not completed; what it travels with is revoked."""
        lane = self.world.lanes[task.run.lane]
        self.withdraw(task)
        self.commit(records.Verdict(lane.name, lane.retired, self.now_ms, task.seq, kind, message))

    def withdraw(self, task: Task) -> None:
        """Take an issued task out of dispatch; the assignment that it travels in is revoked as a whole."""
        revoked = self.dispatcher.withdraw(task)
        if revoked is not None:
            self.order(revoked.worker.identity, Revoke(revoked.number))

    def take_moved(self) -> list[Lane]:
        """Return the lanes in which tasks retired since this was last asked."""
        moved, self._moved = self._moved, {}
        return [self.world.lanes[name] for name in moved]

    # --- timers -----------------------------------------------------------------------------------------------------

    def next_timer_ms(self) -> int | None:
        """Return the wall time of the next timer; None if there is none, or none that could be written down."""
        return self._timers[0][0] if self._timers and not self.storage_full else None

    def fire_timer(self) -> bool:
        """Fire one timer that is due; False if none is."""
        due_ms = self.next_timer_ms()
        if due_ms is None or due_ms > self.now_ms:
            return False
        _, lane_name, turn, index_of_emit = heapq.heappop(self._timers)
        lane = self.world.lanes[lane_name]
        self.commit(records.TimerFired(lane_name, lane.retired, self.now_ms, turn, index_of_emit))
        return True

    # --- connections ------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> int:
        """How many connections of producers are remembered."""
        return len(self._producers)

    def producer(self, identity: bytes) -> str | None:
        """Return which producer a connection belongs to; None before it said Hello, or when it was forgotten."""
        return self._producers.get(identity)

    def greet(self, identity: bytes, producer: str) -> None:
        """Remember a connection, the newest last; beyond CONNECTIONS_MAX the longest silent one is forgotten."""
        self._producers.pop(identity, None)
        self._producers[identity] = producer
        if len(self._producers) > CONNECTIONS_MAX:
            self.forget(next(iter(self._producers)))

    def forget(self, identity: bytes) -> None:
        """Forget a connection behind which nobody is any more."""
        self._producers.pop(identity, None)
        self.debts.forget(identity)

    # --- what is to be done -----------------------------------------------------------------------------------------

    def order(self, identity: bytes, message: WorkerOrder) -> None:
        """Send to a worker at once: nothing that a worker does can be seen before its completion is durable."""
        self.effects.now.append(Send(BACKEND, identity, message))

    def answer(self, identity: bytes, message: FrontendReply, *, socket: str = FRONTEND) -> None:
        """Answer once everything so far is durable. What answers a question says which events it takes account of."""
        if socket == QUERY and type(message) is Answer:
            message = message._replace(boot=self.world.boot, event=self._told)
        self.effects.after.append(Send(socket, identity, message))

    def tell(self, lane: str, what: Happened) -> None:
        """Publish an event once everything so far is durable. It gets its number here, also if nobody will see it."""
        self._told += 1
        self.effects.news.append(News(self._told, lane, what))

    def watch(self, worker: str, pid: int) -> None:
        """Have the shell watch a local process (0: stop it)."""
        self.effects.watches.append(WatchProcess(worker, pid))

    def send_result(self, identity: bytes, task: Task) -> None:
        """Owe a connection a task's outcome; it travels with others at the end of a step."""
        self._owe(identity, result_item(task))

    # --- the broker itself ------------------------------------------------------------------------------------------

    def drain(self, draining: bool) -> None:
        """Take no more submits, or take them again."""
        self.draining = draining

    def set_storage(self, full: bool, reason: str) -> None:
        """Know that the journal cannot be written, or can again."""
        self.storage_full = reason if full else ""
        self.tell("", events.JournalChanged(full, reason))

    def tick(self) -> int:
        """Note a tick; return by how many milliseconds it came later than a heartbeat after the one before."""
        late_ms = max(0, self.mono_ms - self._tick_ms - self.heartbeat_ms) if self._tick_ms else 0
        self._tick_ms = self.mono_ms
        return late_ms

    def count_late_completion(self) -> None:
        """Count a completion of work that was taken away before it came."""
        self.late_completions += 1

    def check_invariants(self) -> None:
        """Assert everything that must hold between two steps; called after each test."""
        self.world.check_invariants()
        self.dispatcher.check_invariants()
        self.debts.check_invariants()
        running = [task for lane in self.world.lanes.values() for task in lane.line() if task.outcome is None]
        queued = self.dispatcher.unfinished_queued()
        out = sum(assignment.tasks for assignment in self.dispatcher.assignments.values())
        assert len(running) == queued + out, f"{len(running)} to run, {queued} queued, {out} out"

    # --- what a record did ------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Take up what a journal left: tasks to run and timers to wait for."""
        for task in self.world.unfinished():
            self.dispatcher.add(self.world.lanes[task.run.lane], task)
        for lane in self.world.lanes.values():
            for timer in lane.timers.values():
                heapq.heappush(self._timers, (timer.due_ms, lane.name, timer.turn, timer.index_of_emit))

    def _absorb(self, notes: Notes) -> None:
        """Pass on what a record did: tasks to dispatch, results to send, timers to wait for, failures to tell."""
        for task in notes.issued:
            self.dispatcher.add(self.world.lanes[task.run.lane], task)
        for task in notes.caught:
            self._tell_outcome(task)
        for task in notes.finished:
            if not task.run.verdicts or task.index not in task.run.verdicts:  # else it was told when it was caught
                self._tell_outcome(task)
        if not notes.retired:
            return
        lane_name = notes.retired[0].run.lane
        self._moved[lane_name] = None
        for timer in notes.timers:
            heapq.heappush(self._timers, (timer.due_ms, lane_name, timer.turn, timer.index_of_emit))

    def _tell_outcome(self, task: Task) -> None:
        if task.run.watchers is not None:
            self._send_to_watchers(task, task.run.watchers)
        if type(task.outcome) is Failed:
            self._tell_failure(task, task.outcome)

    def _send_to_watchers(self, task: Task, watchers: dict[bytes, tuple[int, int]]) -> None:
        item = result_item(task)
        for identity, (first_seq, last_seq) in watchers.items():
            if first_seq <= task.seq <= last_seq:
                self._owe(identity, item)

    def _owe(self, identity: bytes, item: ResultItem) -> None:
        """Nothing for who is gone, or forgotten: whoever comes back awaits again."""
        if identity in self._producers and not self.debts.owe(identity, item):
            self.forget(identity)

    def _tell_failure(self, task: Task, failure: Failed) -> None:
        told = events.TaskFailure(task.seq, task.turn, task.address, failure.kind, failure.message)
        self.tell(task.run.lane, told)
