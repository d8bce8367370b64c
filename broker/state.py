"""The broker's state: the lanes and everything volatile, with the methods that change it. PURE.

Every change of a lane goes through `commit`, which records it and applies the record with the function that recovery
uses. The rest (connections, workers, pending deploys, the effects of a step) is volatile and may be lost at any moment.
requests.py, deploys.py, workers.py and queries.py read the fields and change them only by the methods; sequencer.py
calls them.
"""

from __future__ import annotations

from collections import deque

from rota.broker import records
from rota.broker.asks import is_pending
from rota.broker.debts import Debts
from rota.broker.dispatch import Dispatcher
from rota.broker.effects import BACKEND, FRONTEND, QUERY, Effects, News, Send, WatchProcess
from rota.broker.lane import Lane
from rota.broker.notes import Notes
from rota.broker.pending_deploys import PendingDeploys
from rota.broker.results import Watchers, by_run, result_item
from rota.broker.schedule import DEADLINE, Due, Schedule
from rota.broker.streams import Streams
from rota.broker.tasks import Task
from rota.broker.world import World
from rota.common import events
from rota.common.errors import UnknownLane
from rota.common.events import Happened, TextStreamed, followed_text
from rota.common.limits import CONNECTIONS_MAX, HEARTBEAT_MS, LANES_BYTES_DEFAULT
from rota.common.messages import Answer, FrontendReply, ResultItem, Revoke, WorkerOrder
from rota.common.work import Failed


class BrokerState:
    """The world and everything volatile. Fields are read-only for others; the methods change them."""

    def __init__(
        self, world: World, *, version: str, host: str = "", heartbeat_ms: int = HEARTBEAT_MS,
        lanes_bytes: int = LANES_BYTES_DEFAULT,
    ) -> None:  # fmt: skip
        assert world.boot > 0, "an epoch must be open"
        self.world = world
        self.version = version
        self.host = host
        self.heartbeat_ms = heartbeat_ms
        self.lanes_bytes = lanes_bytes  # the maximum sum of the budgets of all lanes
        self.dispatcher = Dispatcher(world.boot)
        self.deploys = PendingDeploys(world.boot)
        self.debts = Debts()
        self.streams = Streams()
        self.watchers = Watchers()  # of pending tasks
        self.schedule = Schedule(world.lanes)
        self.draining = False
        self.storage_full = ""  # why the journal cannot be written now; "" if it can
        self.late_completions = 0
        self.now_ms = 0
        self.mono_ms = 0
        self.effects = Effects()
        self._told = 0  # events of this boot
        self._ask_watchers: dict[str, None] = {}  # the prefixes of the topic of asks that are subscribed to
        self._tick_ms = 0
        self._producers: dict[bytes, str] = {}  # by frontend identity, the longest silent one first
        self._orphans: deque[tuple[str, int]] = deque()  # lane and turn
        self._moved: dict[str, None] = {}
        self._take_up()

    def begin(self, now_ms: int, mono_ms: int) -> None:
        """Begin a step at this time, without effects so far."""
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
        """Record and apply a change."""
        self.effects.records.append(record)
        self._absorb(self.world.apply(record))

    def decide(self, task: Task, kind: str, message: str, log: tuple[str, ...]) -> None:
        """Give a verdict to a task that has not completed; its assignment is revoked. `log`: what workers said."""
        lane = self.world.lanes[task.run.lane]
        self.withdraw(task)
        self.commit(records.Verdict(lane.name, lane.retired, self.now_ms, task.seq, kind, message, log))

    def withdraw(self, task: Task) -> None:
        """Remove an issued task from dispatch; its whole assignment is revoked."""
        revoked = self.dispatcher.withdraw(task)
        if revoked is not None:
            self.order(revoked.worker.identity, Revoke(revoked.number))

    def take_moved(self) -> list[Lane]:
        """Return the lanes in which tasks retired since the last call."""
        moved, self._moved = self._moved, {}
        return [self.world.lanes[name] for name in moved]

    # --- timers -----------------------------------------------------------------------------------------------------

    def next_timer_ms(self) -> int | None:
        """Return the wall-clock time at which a timer or deadline is due next; None if there is none, or the journal
        cannot be written.
        """
        first = None if self.storage_full else self.schedule.first()
        return None if first is None else first.due_ms

    def take_due(self) -> Due | None:
        """Remove and return a timer or deadline that is due; None if there is none."""
        due_ms = self.next_timer_ms()
        return None if due_ms is None or due_ms > self.now_ms else self.schedule.take()

    def fire_timer(self, due: Due) -> None:
        """Fire a timer."""
        lane = self.world.lanes[due.lane]
        self.commit(records.TimerFired(due.lane, lane.retired, self.now_ms, due.turn, due.index_of_emit))

    def take_orphan(self) -> tuple[Lane, int] | None:
        """Remove and return an ask of a call that an input has ended, by lane and turn; None if there is none."""
        if not self._orphans:
            return None
        name, turn = self._orphans.popleft()
        return self.world.lanes[name], turn

    # --- connections ------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> int:
        """How many connections of producers are remembered."""
        return len(self._producers)

    def producer(self, identity: bytes) -> str | None:
        """Return the producer of a connection; None before its Hello, or after it was forgotten."""
        return self._producers.get(identity)

    def greet(self, identity: bytes, producer: str) -> None:
        """Remember a connection, the newest last; beyond CONNECTIONS_MAX the longest silent one is forgotten."""
        self._producers.pop(identity, None)
        self._producers[identity] = producer
        if len(self._producers) > CONNECTIONS_MAX:
            self.forget(next(iter(self._producers)))

    def forget(self, identity: bytes) -> None:
        """Forget a connection that is gone."""
        self._producers.pop(identity, None)
        self.debts.forget(identity)
        self.watchers.forget(identity)

    # --- effects ----------------------------------------------------------------------------------------------------

    def order(self, identity: bytes, message: WorkerOrder) -> None:
        """Send to a worker at once: its work cannot be seen before its completion is durable."""
        self.effects.now.append(Send(BACKEND, identity, message))

    def answer(self, identity: bytes, message: FrontendReply, *, socket: str = FRONTEND) -> None:
        """Answer when everything so far is durable. An answer to a query names the last event that it includes."""
        if socket == QUERY and type(message) is Answer:
            message = message._replace(boot=self.world.boot, event=self._told)
        self.effects.after.append(Send(socket, identity, message))

    def tell(self, lane: str, what: Happened) -> None:
        """Publish an event when everything so far is durable. It is numbered here, even if it is never sent."""
        self._told += 1
        self.effects.news.append(News(self._told, lane, what))

    def stream(self, task: Task, offset: int, text: str) -> None:
        """Publish and keep a piece of what a running task generates."""
        self._tell_text(task.run.lane, self.streams.add(task, offset, text))

    def subscribed(self, topic: str) -> None:
        """Answer a new subscription; one to a task's text gets what is there so far."""
        if events.ASKS.startswith(topic):
            self._ask_watchers[topic] = None
        self.tell("", events.Watching(topic))
        seq = followed_text(topic)
        if seq is not None:
            so_far = self.streams.follow(seq)
            self._tell_text("" if so_far is None else self.streams.lane_of(seq), so_far)

    def unsubscribed(self, topic: str) -> None:
        """Note that nobody is subscribed to a topic any more."""
        self._ask_watchers.pop(topic, None)
        seq = followed_text(topic)
        if seq is not None:
            self.streams.unfollow(seq)

    def watch(self, worker: str, pid: int) -> None:
        """Have the shell watch a local process (pid 0: stop watching)."""
        self.effects.watches.append(WatchProcess(worker, pid))

    def send_result(self, identity: bytes, task: Task) -> None:
        """Owe a connection a task's outcome; it is sent with others at the end of a step."""
        self._owe(identity, [result_item(task)])

    # --- the broker itself ------------------------------------------------------------------------------------------

    def drain(self, draining: bool) -> None:
        """Accept no more submits, or accept them again."""
        self.draining = draining

    def set_storage(self, full: bool, reason: str) -> None:
        """Note that the journal cannot be written, or can again."""
        self.storage_full = reason if full else ""
        self.tell("", events.JournalChanged(full, reason))

    def tick(self) -> int:
        """Note a tick; return by how many milliseconds it is later than one heartbeat after the last one."""
        late_ms = max(0, self.mono_ms - self._tick_ms - self.heartbeat_ms) if self._tick_ms else 0
        self._tick_ms = self.mono_ms
        return late_ms

    def count_late_completion(self) -> None:
        """Count a completion of work that had been revoked."""
        self.late_completions += 1

    def check_invariants(self) -> None:
        """Assert everything that must hold between two steps; called after each test."""
        self.world.check_invariants()
        self.dispatcher.check_invariants()
        self.debts.check_invariants()
        self.streams.check_invariants()
        self.watchers.check_invariants()
        self.schedule.check_invariants()
        assert not self._orphans
        running = [task for lane in self.world.lanes.values() for task in lane.line() if task.outcome is None]
        queued = self.dispatcher.unfinished_queued()
        out = sum(assignment.tasks for assignment in self.dispatcher.assignments.values())
        assert len(running) == queued + out, f"{len(running)} to run, {queued} queued, {out} out"

    # --- effects of records -----------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Queue the unfinished tasks of a recovered world."""
        for lane in self.world.lanes.values():
            self.dispatcher.add(lane, lane.unfinished())

    def _absorb(self, notes: Notes) -> None:
        """Process the notes of a record: tasks to dispatch, results to send, timers, failures to publish."""
        if notes.issued:
            self.dispatcher.add(self.world.lanes[notes.issued[0].run.lane], notes.issued)
        self.streams.end(notes.finished)
        self._tell_outcomes(notes.caught)
        for run, tasks in by_run(notes.finished):
            if run.verdicts:  # those outcomes were sent when the tasks were caught
                tasks = [task for task in tasks if task.index not in run.verdicts]
            if self.world.pending or notes.answered:  # else none was postponed
                tasks = [task for task in tasks if not self._is_pending(task)]
            self._tell_outcomes(tasks)
        self._absorb_answers(notes)
        self._absorb_times(notes)
        if notes.retired:
            self._moved[notes.retired[0].run.lane] = None

    def _is_pending(self, task: Task) -> bool:
        """Return whether a task that has completed has its answer later, maybe in the same record; if so, those who
        watch its run watch it.
        """
        if not is_pending(task):
            return False
        for identity, (first_seq, last_seq) in (task.run.watchers or {}).items():
            if first_seq <= task.seq <= last_seq and identity in self._producers:
                self.watchers.add(identity, task.seq)
        if self._ask_watchers:
            run = task.run
            asker = run.sender if run.wants_reply and run.sender is not None else ""
            self.tell(run.lane, events.AskOpened(task.seq, task.turn, task.address, asker))
        return True

    def _absorb_answers(self, notes: Notes) -> None:
        """Send the answers of pending tasks, and keep for `take_orphan` what nobody waits for any more."""
        for task in notes.answered:
            for identity in self.watchers.take(task.seq):
                self._owe(identity, [result_item(task)])
            failure = task.outcome if type(task.outcome) is Failed else None
            if failure is not None:
                self._tell_failure(task, failure)
            if self._ask_watchers:
                kind = "" if failure is None else failure.kind
                self.tell(task.run.lane, events.AskAnswered(task.seq, task.turn, task.address, kind))
        self._orphans.extend([(notes.answered[0].run.lane, turn) for turn in notes.orphans])

    def _absorb_times(self, notes: Notes) -> None:
        """Note the timers and deadlines that a record has brought."""
        for timer in notes.timers:
            lane_name = notes.retired[0].run.lane
            self.schedule.add(Due(timer.due_ms, lane_name, timer.turn, timer.index_of_emit))
        deadlines = self.world.lanes[notes.stamped[0].lane].deadlines if notes.stamped else {}
        for run in notes.stamped if deadlines else ():
            turns = (run.answers,) if run.answers else range(run.first_turn, run.first_turn + len(run.payloads))
            for turn in turns:
                if turn in deadlines:
                    self.schedule.add(Due(deadlines[turn], run.lane, turn, DEADLINE))

    def _tell_text(self, lane: str, what: TextStreamed | None) -> None:
        # Not while the journal cannot be written: nothing is published then, and text would pile up.
        if what is not None and not self.storage_full:
            self.effects.news.append(News(0, lane, what))

    def _tell_outcomes(self, tasks: list[Task]) -> None:
        """Send the outcomes of tasks of one run to those who watch it, and publish the failures."""
        watchers = tasks[0].run.watchers if tasks else None
        if watchers:
            items = [result_item(task) for task in tasks]
            for identity, (first_seq, last_seq) in watchers.items():
                self._owe(identity, [item for item in items if first_seq <= item.seq <= last_seq])
        for task in tasks:
            if type(task.outcome) is Failed:
                self._tell_failure(task, task.outcome)

    def _owe(self, identity: bytes, items: list[ResultItem]) -> None:
        """Owe a connection outcomes, unless it is gone; a returning producer sends Await again."""
        if items and identity in self._producers and not self.debts.owe(identity, items):
            self.forget(identity)

    def _tell_failure(self, task: Task, failure: Failed) -> None:
        told = events.TaskFailure(task.seq, task.turn, task.address, failure.kind, failure.message)
        self.tell(task.run.lane, told)
