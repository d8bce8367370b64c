"""The core's one door: `step(events) -> effects`. PURE.

Events are what happened (messages, deaths, time); effects are what is to be done (records, sends). What the broker
knows is a `BrokerState` (state.py); `requests.py` answers producers, `workers.py` answers workers, `queries.py` answers
questions, each a row of functions over it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rota.broker import awaits, deploys, records, requests, workers
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
    WorkerDied,
)
from rota.broker.queries import answer
from rota.broker.state import BrokerState
from rota.common.events import LaneMoved, Watching

LANE_NEWS_EVERY_MS: Final = 100  # how far lanes are is told so often: an event a step would cost as much as its results
MARK_EVERY_TASKS: Final = 4_096  # retired tasks of a lane between two marks in the journal
TIMERS_PER_STEP: Final = 4_096  # about 40 ms of work; agents that set theirs together wake together


class Sequencer:
    """The broker without sockets, clock and disk."""

    def __init__(self, broker: BrokerState) -> None:
        self.broker = broker
        self._marked: dict[str, int] = {name: lane.retired for name, lane in broker.world.lanes.items()}
        self._moved: dict[str, None] = {}  # lanes in which tasks retired since watchers were told
        self._told_ms = 0

    def step(self, events: Iterable[Event], now_ms: int, mono_ms: int) -> Effects:
        """Take what happened and return what is to be done. `now_ms` is wall time, `mono_ms` time that never jumps."""
        self.broker.begin(now_ms, mono_ms)
        for event in events:
            self._take(event)
        self._fire_timers()
        self._hand_out()
        self._mark()
        awaits.pay(self.broker)
        return self.broker.effects

    @property
    def is_behind(self) -> bool:
        """Whether a step would have something to send although nothing new has happened."""
        return self.broker.debts.due and not self.broker.storage_full

    def next_timer_ms(self) -> int | None:
        """Wall time of the next timer, so that the shell need not wake up for nothing."""
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
                broker.tell("", Watching(topic))
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
        """Fire what is due. What is left over is due at once: `next_timer_ms` has passed already."""
        for _ in range(TIMERS_PER_STEP):
            if not self.broker.fire_timer():
                return

    def _hand_out(self) -> None:
        if self.broker.storage_full:
            return  # what cannot be written down must not grow
        for worker, order in self.broker.dispatcher.assign(self.broker.mono_ms):
            self.broker.order(worker.identity, order)

    def _mark(self) -> None:
        """Write a lane's digest now and then, and tell watchers how far each lane is."""
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
