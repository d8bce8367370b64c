"""The broker's shell: sockets, clock and disk around the core. Poll, decode, step, send, journal, send.

The order in `carry_out` is the durability contract (effects.py): orders to workers leave before their input is durable,
so that the first fsync and the execution overlap; acknowledgements and results leave after it. durability.py decides
what waits, and what happens to it when the journal cannot be written.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import zmq

from rota.broker.durability import Durability
from rota.broker.effects import (
    BACKEND,
    FRONTEND,
    QUERY,
    Effects,
    Event,
    FromProducer,
    FromQuery,
    FromWorker,
    Send,
    Slow,
    SnapshotWritten,
    StorageChanged,
    Subscribed,
    Tick,
    Unreachable,
    Unsubscribed,
    WorkerDied,
)
from rota.broker.journal import Journal
from rota.broker.log_limit import LogLimit
from rota.broker.modules import ModuleStore
from rota.broker.news_log import line_of
from rota.broker.outbox import Outbox
from rota.broker.records import Record
from rota.broker.sequencer import Sequencer
from rota.broker.snapshotter import Snapshotter
from rota.broker.tensor_keeper import TensorKeeper
from rota.common import messages, wire
from rota.common.errors import ProtocolError, RotaError, StorageFull
from rota.common.events import ASKS, TOPICS, followed_text
from rota.host.clock import Clock
from rota.host.endpoints import Endpoints
from rota.host.open_files import Door
from rota.host.process_watch import ProcessWatch
from rota.host.service import StopLevel, StopSignals
from rota.host.sockets import LINGER_LAST_MS, Socket, publisher, router

log = logging.getLogger(__name__)

MESSAGES_PER_WAKE: Final = 256  # of one socket before the others are served
WEIGHT_PER_WAKE: Final = 4 << 20  # of one socket, roughly in bytes: some tens of milliseconds of work
_TASK_WEIGHT: Final = 64  # of a submitted task besides its bytes
_ROW_WEIGHT: Final = 1 << 10  # of a row of an answer
TICK_MS: Final = 100


class ServerSockets(NamedTuple):
    """The broker's four sockets: three ROUTERs and one PUB."""

    frontend: Socket
    backend: Socket
    query: Socket
    events: Socket

    @classmethod
    def bind(cls, context: zmq.Context[Socket], endpoints: Endpoints) -> ServerSockets:
        """Make and bind the sockets."""
        return cls(
            router(context, endpoints.frontend),
            router(context, endpoints.backend),
            router(context, endpoints.query),
            publisher(context, endpoints.events),
        )

    def close(self) -> None:
        """Close the sockets; the last messages have a moment to leave."""
        for socket in self:
            socket.close(linger=LINGER_LAST_MS)


class Server:
    """Runs the core on the sockets, in one thread. `serve` returns when told to stop."""

    def __init__(
        self,
        sequencer: Sequencer,
        journal: Journal,
        modules: ModuleStore,
        tensors: TensorKeeper,
        sockets: ServerSockets,
        watch: ProcessWatch,
        clock: Clock,
        snapshots: Snapshotter | None = None,
        door: Door | None = None,
    ) -> None:
        """All arguments belong to the caller, who closes them."""
        self._sequencer = sequencer
        self._journal = journal
        self._modules = modules
        self._tensors = tensors
        self._snapshots = snapshots
        self._door = door
        self._sockets = sockets
        self._watch = watch
        self._clock = clock
        self._routers = {FRONTEND: sockets.frontend, BACKEND: sockets.backend, QUERY: sockets.query}
        self._outbox = Outbox(self._routers)
        self._waiting = Durability()
        self._refusals = LogLimit()
        self._next_tick_ms = 0

    def serve(self, stop: StopSignals) -> None:
        """Serve until told to stop. To let workers finish, stop them first, as `rota up` does."""
        poller = zmq.Poller()
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        for descriptor in (stop.fileno(), *self._watch.fds()):
            poller.register(descriptor, zmq.POLLIN)
        for monitor in self._door.monitors if self._door is not None else ():
            poller.register(monitor, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(self.timeout_ms()))
            if stop.fileno() in ready and self._should_stop(stop):
                return
            self.turn(ready)

    def turn(self, ready: Mapping[object, int]) -> None:
        """Collect events, step the core, carry out the effects. `ready`: sockets and descriptors to read."""
        now_ms, mono_ms = self._clock.wall_ms(), self._clock.mono_ms()
        if self._door is not None:
            self._door.look(ready, mono_ms)  # in every turn, since libzmq waits for it when many connect at once
        events = self._collect(ready, mono_ms)
        if self._snapshots is not None and not self._waiting.unwritten:
            record = self._snapshots.work(now_ms, mono_ms)
            events += [] if record is None else [SnapshotWritten(record)]
        self.carry_out(self._sequencer.step(events, now_ms, mono_ms), now_ms, mono_ms)
        self._outbox.flush()  # also while the journal cannot be written, since what is queued here is durable

    # --- in ---------------------------------------------------------------------------------------------------------

    def _should_stop(self, stop: StopSignals) -> bool:
        level = stop.read()
        if level is StopLevel.NONE:
            return False
        # Leaving now loses nothing: what workers still hold is issued by the journal and runs again.
        held = len(self._sequencer.broker.dispatcher.assignments)
        self._tell_left_out(self._refusals.take_left_out(self._clock.mono_ms(), last=True))
        log.info("stopping: %d assignments are left to the next start", held)
        self._take_last_snapshot()
        return True

    def _take_last_snapshot(self) -> None:
        """Take a snapshot, so that the next start is fast."""
        if self._snapshots is None or self._waiting.unwritten:
            return
        record = self._snapshots.last(self._clock.wall_ms(), self._clock.mono_ms)
        if record is not None:
            with contextlib.suppress(StorageFull):  # no record names it then, so it is not used
                self._journal.append([record])

    @property
    def unwritten(self) -> Sequence[Record]:
        """Records that took effect but are not durable yet, because the last write failed."""
        return self._waiting.unwritten

    def timeout_ms(self) -> int:
        """Return the poll timeout before the next turn."""
        if self._snapshots is not None and self._snapshots.busy and not self._waiting.full:
            return 0
        if self._sequencer.is_behind:
            return 0
        wait_ms = max(0, self._next_tick_ms - self._clock.mono_ms())
        unsent_ms = self._outbox.wait_ms()
        if unsent_ms is not None:
            wait_ms = min(wait_ms, unsent_ms)
        due_ms = self._sequencer.next_timer_ms()
        if due_ms is not None:
            wait_ms = min(wait_ms, max(0, due_ms - self._clock.wall_ms()))
        return wait_ms

    def _collect(self, ready: Mapping[object, int], mono_ms: int) -> list[Event]:
        """Return the events since the last turn, messages first, so that a worker's message counts before its death."""
        events: list[Event] = []
        for name, socket in self._routers.items():
            if socket in ready:
                self._receive(name, socket, events, mono_ms)
        if self._sockets.events in ready:
            events += self._subscriptions()
        events.extend(Slow(peer.identity, slow) for peer, slow in self._outbox.take_slow() if peer.socket == FRONTEND)
        events.extend(Unreachable(*lost) for lost in self._outbox.take_lost())
        if mono_ms >= self._next_tick_ms or any(descriptor in ready for descriptor in self._watch.fds()):
            events.extend(WorkerDied(worker) for worker in self._watch.gone())
        if mono_ms >= self._next_tick_ms:
            self._next_tick_ms = mono_ms + TICK_MS
            self._journal.log.check()  # even if nothing is written: answers must still be true for the next reader
            self._tensors.collect(mono_ms)
            self._tell_left_out(self._refusals.take_left_out(mono_ms))
            events.append(Tick())
        return events

    def _receive(self, name: str, socket: Socket, events: list[Event], mono_ms: int) -> None:
        weight = 0
        for _ in range(MESSAGES_PER_WAKE):
            if weight >= WEIGHT_PER_WAKE:
                return
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            weight += len(frames[-1])
            try:
                event = self._decode(name, frames)
                weight += weight_of(event)
                events.append(event)
            except RotaError as error:
                number = wire.request_number(frames[-1])
                if self._refusals.allows(mono_ms):
                    log.warning("refused a message on %s: %s", name, error.message)
                self._outbox.send(
                    Send(name, frames[0], messages.Refused(number, error.code, error.message, error.fields))
                )

    def _tell_left_out(self, count: int) -> None:
        if count:
            log.warning("refused %d more messages within about a second", count)

    def _subscriptions(self) -> list[Event]:
        """Return new subscriptions, and the ends of those to texts or asks; other messages of watchers are ignored."""
        found: list[Event] = []
        for _ in range(MESSAGES_PER_WAKE):
            try:
                frame = self._sockets.events.recv_multipart(zmq.NOBLOCK)[0]
            except zmq.Again:
                break
            topic = frame[1:].decode(errors="replace")
            is_text = followed_text(topic) is not None
            if frame[:1] == b"\x01" and (is_text or any(one.startswith(topic) for one in TOPICS)):
                found.append(Subscribed(topic))
            elif frame[:1] == b"\x00" and (is_text or ASKS.startswith(topic)):  # once, when the last one has gone
                found.append(Unsubscribed(topic))
        return found

    def _decode(self, name: str, frames: Sequence[bytes]) -> Event:
        if len(frames) != 2:
            raise ProtocolError(f"a message has one frame, got {len(frames) - 1}")
        identity, frame = frames
        if name == BACKEND:
            return FromWorker(identity, wire.decode(frame, wire.FROM_WORKERS))  # type: ignore[arg-type]
        if name == QUERY:
            return FromQuery(identity, wire.decode(frame, wire.QUERIES))  # type: ignore[arg-type]
        request = wire.decode(frame, wire.FROM_PRODUCERS)
        try:
            if isinstance(request, messages.Keep):
                self._modules.keep(request.digest, request.data)
            elif isinstance(request, messages.Deploy):
                self._modules.admit(request.name, request.code)
            elif isinstance(request, messages.Submit):
                self._tensors.admit(request)
        except RotaError as error:
            return FromProducer(identity, request, error)  # type: ignore[arg-type]
        return FromProducer(identity, request)  # type: ignore[arg-type]

    # --- out ----------------------------------------------------------------------------------------------------------

    def carry_out(self, effects: Effects, now_ms: int, mono_ms: int) -> None:
        """Carry out the effects of a step, in the order that durability requires."""
        waiting = self._waiting
        self._take(effects)
        if not waiting.may_try(mono_ms):
            self._send_all(waiting.refuse("the journal cannot be written at present"))
            return
        was_full = waiting.full
        try:
            self._journal.append(waiting.unwritten)
        except StorageFull as error:
            self._send_all(waiting.failed(str(error.fields.get("reason", error.message)), mono_ms))
            if not was_full:
                log.error("the journal cannot be written, producers are refused: %s", error.message)
                self._change_storage(True, error.message, now_ms, mono_ms)
            return
        sends, events = waiting.written(self._sequencer.broker.world.boot, now_ms)
        self._send_all(sends)
        for event in events:
            self._sockets.events.send_multipart([event.topic.encode(), wire.encode(event)], zmq.NOBLOCK)
            line = line_of(event)
            if line is not None:
                log.log(logging.WARNING if line.is_warning else logging.INFO, "%s", line.text)
        if was_full:
            log.warning("the journal can be written again")
            self._change_storage(False, "", now_ms, mono_ms)

    def _take(self, effects: Effects) -> None:
        """Carry out what need not wait for the disk, and keep the rest."""
        self._send_all(effects.now)
        for worker, pid in effects.watches:
            if pid:
                self._watch.add(worker, pid)
            else:
                self._watch.remove(worker)
        self._waiting.take(effects)

    def _send_all(self, sends: Sequence[Send]) -> None:
        for send in sends:
            self._outbox.send(send)

    def _change_storage(self, full: bool, reason: str, now_ms: int, mono_ms: int) -> None:
        """Tell the core that writing has begun to fail, or works again."""
        self._take(self._sequencer.step([StorageChanged(full, reason)], now_ms, mono_ms))


def weight_of(event: Event) -> int:
    """Return what an event costs the broker besides the bytes of its message, expressed in bytes."""
    if isinstance(event, FromProducer) and isinstance(event.message, messages.Submit):
        return _TASK_WEIGHT * sum(len(run.payloads) for run in event.message.runs)
    if isinstance(event, FromQuery):
        limit = event.message.arguments.get("limit", 100)
        return _ROW_WEIGHT * limit if type(limit) is int and limit > 0 else _ROW_WEIGHT
    return 0
