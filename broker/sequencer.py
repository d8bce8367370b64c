"""The core: `step(events) -> effects`. PURE.

One door. Events are what happened (messages, deaths, time); effects are what is to be done (records, sends).
Everything that changes a lane goes through `commit`, which writes a record and applies it with the same function that
recovery uses; the rest of the state here (connections, workers, pending deploys) is volatile and can be lost at any
moment without being missed.

`requests.py` answers producers, `workers.py` answers workers, `queries.py` answers questions; they are functions over
this class.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final

from rota.broker import records, requests, workers
from rota.broker.dispatch import Dispatcher
from rota.broker.effects import (
    BACKEND,
    FRONTEND,
    QUERY,
    Effects,
    Event,
    FromProducer,
    FromQuery,
    FromWorker,
    News,
    Send,
    SnapshotWritten,
    StorageChanged,
    Tick,
    Unreachable,
    Watch,
    WorkerDied,
)
from rota.broker.lane import Notes
from rota.broker.queries import answer
from rota.broker.results import result_item
from rota.broker.tasks import Task, Watcher
from rota.broker.world import World
from rota.common.limits import HEARTBEAT_MS
from rota.common.messages import ResultItem, Results
from rota.common.work import Failed

LANE_NEWS_EVERY_MS: Final = 100  # how far lanes are is told so often: an event a step would cost as much as its results
MARK_EVERY_TASKS: Final = 4_096  # retired tasks of a lane between two marks in the journal
TIMERS_PER_STEP: Final = 4_096  # about 40 ms of work; agents that set theirs together wake together
_RESULT_BYTES_PER_MESSAGE: Final = 8 << 20
_RESULTS_PER_MESSAGE: Final = 8_192
_REFERENCE_BYTES: Final = 100  # digest, dtype and shape of a tensor


class Sequencer:
    """The broker without sockets, clock and disk."""

    def __init__(self, world: World, *, version: str, host: str = "", heartbeat_ms: int = HEARTBEAT_MS) -> None:
        assert world.boot > 0, "an epoch must be open"
        self.world = world
        self.version = version
        self.host = host
        self.heartbeat_ms = heartbeat_ms
        self.dispatcher = Dispatcher(world.boot)
        self.deploys = requests.PendingDeploys(world.boot)
        self.connections: dict[bytes, str] = {}  # frontend identity -> producer
        self.draining = False
        self.storage_full = ""  # why the journal cannot be written at present
        self.late_completions = 0
        self.now_ms = 0
        self.tick_ms = 0
        self.mono_ms = 0
        self.effects = Effects()
        self._timers: list[tuple[int, str, int, int]] = []
        self._results: dict[bytes, list[ResultItem]] = {}
        self._marked: dict[str, int] = {name: lane.retired for name, lane in world.lanes.items()}
        self._moved: dict[str, None] = {}  # lanes in which tasks retired since watchers were told
        self._told_ms = 0
        self._resume()

    def step(self, events: Iterable[Event], now_ms: int, mono_ms: int) -> Effects:
        """Take what happened and return what is to be done. `now_ms` is wall time, `mono_ms` time that never jumps."""
        self.effects = Effects()
        self.now_ms = now_ms
        self.mono_ms = mono_ms
        for event in events:
            self._take(event)
        self._fire_timers()
        self._hand_out()
        self._mark()
        self._flush_results()
        return self.effects

    def next_timer_ms(self) -> int | None:
        """Wall time of the next timer, so that the shell need not wake up for nothing."""
        return self._timers[0][0] if self._timers and not self.storage_full else None

    # --- what the functions over this class use ------------------------------------------------------------------

    def commit(self, record: records.Record) -> None:
        """Write a record and let it take effect."""
        self.effects.records.append(record)
        self._absorb(self.world.apply(record))

    def reply(self, socket: str, identity: bytes, message: object) -> None:
        """Answer once everything so far is durable."""
        self.effects.after.append(Send(socket, identity, message))  # type: ignore[arg-type]

    def tell(self, topic: str, lane: str, **fields: object) -> None:
        """Publish an event once everything so far is durable."""
        self.effects.news.append(News(topic, lane, fields))

    def watch(self, worker: str, pid: int) -> None:
        """Have the shell watch a local process (0: stop it)."""
        self.effects.watches.append(Watch(worker, pid))

    def send_result(self, identity: bytes, task: Task) -> None:
        """Queue a task's outcome for a connection; it travels with the others at the end of the step."""
        self._queue_result(identity, result_item(task))

    def decide(self, task: Task, kind: str, message: str) -> None:
        """Pass a verdict on a task that has not completed; what it travels with is revoked."""
        lane = self.world.lanes[task.run.lane]
        self.withdraw(task)
        self.commit(records.Verdict(lane.name, lane.retired, self.now_ms, task.seq, kind, message))

    def withdraw(self, task: Task) -> None:
        """Take an issued task out of dispatch; the assignment that it travels in is revoked as a whole."""
        revoked = self.dispatcher.withdraw(task)
        if revoked is not None:
            workers.revoke(self, revoked)

    def check_invariants(self) -> None:
        """Assert everything that must hold between two steps; called after each test."""
        self.world.check_invariants()
        self.dispatcher.check_invariants()
        running = [task for lane in self.world.lanes.values() for task in lane.line() if task.outcome is None]
        queued = self.dispatcher.unfinished_queued()
        out = sum(assignment.tasks for assignment in self.dispatcher.assignments.values())
        assert len(running) == queued + out, f"{len(running)} to run, {queued} queued, {out} out"

    # --- events --------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case FromWorker(identity, message):
                workers.take(self, identity, message)
            case FromProducer(identity, request, objection):
                requests.take(self, identity, request, objection)
            case FromQuery(identity, query):
                self.reply(QUERY, identity, answer(self, query))
            case WorkerDied(worker):
                workers.died(self, worker, "its process ended")
            case Unreachable(socket, identity):
                if socket == FRONTEND:
                    self.connections.pop(identity, None)
            case StorageChanged(full, reason):
                self.storage_full = reason if full else ""
                self.tell("journal", "", full=full, reason=reason)
            case SnapshotWritten(record):
                self.commit(record)
            case Tick():
                workers.tick(self)
                self.deploys.tick(self)

    def _resume(self) -> None:
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

    def _send_to_watchers(self, task: Task, watchers: list[Watcher]) -> None:
        item = result_item(task)
        for identity, first_seq, last_seq in watchers:
            if first_seq <= task.seq <= last_seq:
                self._queue_result(identity, item)

    def _queue_result(self, identity: bytes, item: ResultItem) -> None:
        items = self._results.get(identity)
        if items is not None:
            items.append(item)
        elif identity in self.connections:  # else it is gone, or forgotten: whoever comes back awaits again
            self._results[identity] = [item]

    def _tell_failure(self, task: Task, failure: Failed) -> None:
        self.tell(
            "task", task.run.lane, seq=task.seq, turn=task.turn, target=task.address, kind=failure.kind,
            message=failure.message
        )  # fmt: skip

    # --- the end of a step -------------------------------------------------------------------------------------------

    def _fire_timers(self) -> None:
        """Fire what is due. What is left over is due at once: `next_timer_ms` has passed already."""
        for _ in range(TIMERS_PER_STEP):
            if not self._timers or self._timers[0][0] > self.now_ms or self.storage_full:
                return
            _, lane_name, turn, index_of_emit = heapq.heappop(self._timers)
            lane = self.world.lanes[lane_name]
            self.commit(records.TimerFired(lane_name, lane.retired, self.now_ms, turn, index_of_emit))

    def _hand_out(self) -> None:
        if self.storage_full:
            return  # what cannot be written down must not grow
        for worker, order in self.dispatcher.assign(self.mono_ms):
            self.effects.now.append(Send(BACKEND, worker.identity, order))

    def _mark(self) -> None:
        """Write a lane's digest now and then, and tell watchers how far each lane is."""
        for name in self._moved:
            lane = self.world.lanes[name]
            if lane.retired - self._marked.get(name, 0) >= MARK_EVERY_TASKS:
                self._marked[name] = lane.retired
                self.commit(records.Mark(name, lane.retired, lane.digest))
        if self._moved and self.mono_ms - self._told_ms >= LANE_NEWS_EVERY_MS:
            self._told_ms = self.mono_ms
            for name in self._moved:
                lane = self.world.lanes[name]
                self.tell("lane", name, retired=lane.retired, digest=lane.digest, waiting=lane.waiting_count)
            self._moved = {}

    def _flush_results(self) -> None:
        """Send every connection its results, in messages of bounded size."""
        for identity, items in self._results.items():
            batch: list[ResultItem] = []
            size = 0
            for item in items:
                batch.append(item)
                size += _size(item)
                if size >= _RESULT_BYTES_PER_MESSAGE or len(batch) >= _RESULTS_PER_MESSAGE:
                    self.reply(FRONTEND, identity, Results(tuple(batch)))
                    batch, size = [], 0
            if batch:
                self.reply(FRONTEND, identity, Results(tuple(batch)))
        self._results = {}


def _size(item: ResultItem) -> int:
    """About how many bytes an outcome takes on the wire; text counts by its characters."""
    result = 0 if item.result is None else len(item.result)
    return result + len(item.message) + sum(map(len, item.log)) + _REFERENCE_BYTES * len(item.tensors)
