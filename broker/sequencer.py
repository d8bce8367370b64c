"""The core's only entry: `step(events) -> effects`. PURE.

Events are what happened (messages, deaths, time); effects are what to do (records, sends). The broker's state is a
`BrokerState` (state.py). Functions over it handle producers (requests.py), workers (workers.py) and queries
(queries.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rota.broker import awaits, deploys, endings, records, requests, workers
from rota.broker.effects import (
    FRONTEND,
    QUERY,
    Effects,
    Event,
    FromProducer,
    FromQuery,
    FromWorker,
    Slow,
    SnapshotWritten,
    StorageChanged,
    Subscribed,
    Tick,
    Unreachable,
    Unsubscribed,
    WorkerDied,
)
from rota.broker.queries import answer
from rota.broker.state import BrokerState
from rota.common.events import LaneMoved

LANE_NEWS_EVERY_MS: Final = 100  # between two events on progress: one per step would cost as much as its results
MARK_EVERY_TASKS: Final = 4_096  # retired tasks of a lane between two marks in the journal
TIMERS_PER_STEP: Final = 4_096  # about 40 ms of work, since many timers may be due together


class Sequencer:
    """The broker's core, without sockets, clock and disk."""

    def __init__(self, broker: BrokerState) -> None:
        self.broker = broker
        self._marked: dict[str, int] = {name: lane.retired for name, lane in broker.world.lanes.items()}
        self._moved: dict[str, None] = {}  # lanes in which tasks retired since the last event
        self._told_ms = 0

    def step(self, events: Iterable[Event], now_ms: int, mono_ms: int) -> Effects:
        """Take events and return effects. `now_ms` is wall-clock time, `mono_ms` monotonic time."""
        self.broker.begin(now_ms, mono_ms)
        for event in events:
            self._take(event)
            endings.end_orphans(self.broker)
        self._fire_timers()
        self._hand_out()
        self._mark()
        awaits.pay(self.broker)
        return self.broker.effects

    @property
    def is_behind(self) -> bool:
        """Return whether a step without new events would have something to send."""
        return self.broker.debts.due and not self.broker.storage_full

    def next_timer_ms(self) -> int | None:
        """Return the wall-clock time of the next timer, for the shell's poll timeout."""
        return self.broker.next_timer_ms()

    def _take(self, event: Event) -> None:
        broker = self.broker
        match event:
            case FromWorker(identity, message):
                workers.take(broker, identity, message)
            case FromProducer(identity, request, objection):
                requests.take(broker, identity, request, objection)
            case FromQuery(identity, query):
                broker.answer(identity, answer(broker, query), socket=QUERY)
            case Subscribed(topic):
                broker.subscribed(topic)
            case Unsubscribed(topic):
                broker.unsubscribed(topic)
            case WorkerDied(worker):
                workers.died(broker, worker, "its process ended")
            case Unreachable(socket, identity):
                if socket == FRONTEND:
                    broker.forget(identity)
            case Slow(identity, slow):
                broker.debts.set_slow(identity, slow)
            case StorageChanged(full, reason):
                broker.set_storage(full, reason)
            case SnapshotWritten(record):
                broker.commit(record)
            case Tick():
                workers.tick(broker)
                deploys.tick(broker)

    # --- the end of a step -------------------------------------------------------------------------------------------

    def _fire_timers(self) -> None:
        """Fire due timers and deadlines, up to a bound. The rest follows at once, since `next_timer_ms` has passed."""
        for _ in range(TIMERS_PER_STEP):
            if not endings.fire_due(self.broker):
                return
            endings.end_orphans(self.broker)

    def _hand_out(self) -> None:
        if self.broker.storage_full:
            return  # records that cannot be written must not pile up
        for worker, order in self.broker.dispatcher.assign(self.broker.mono_ms):
            self.broker.order(worker.identity, order)

    def _mark(self) -> None:
        """Record lane digests periodically, and publish the lanes' progress."""
        broker = self.broker
        for lane in broker.take_moved():
            self._moved[lane.name] = None
            if lane.retired - self._marked.get(lane.name, 0) >= MARK_EVERY_TASKS:
                self._marked[lane.name] = lane.retired
                broker.commit(records.Mark(lane.name, lane.retired, lane.digest))
        if self._moved and broker.mono_ms - self._told_ms >= LANE_NEWS_EVERY_MS:
            self._told_ms = broker.mono_ms
            for name in self._moved:
                lane = broker.world.lanes[name]
                broker.tell(name, LaneMoved(lane.retired, lane.digest, lane.waiting_count))
            self._moved = {}
