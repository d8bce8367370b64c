"""The broker's shell: sockets, clock and disk around the core. Poll, decode, step, send, journal, send.

The order inside `_carry_out` is the durability contract (effects.py): orders to workers leave before their input is
durable, so that the first fsync and the execution overlap; acknowledgements and results leave after it. When the
journal cannot be written, what waits for it is kept and tried again, producers are told, and nothing that was
acknowledged is touched.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import zmq

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
    WorkerDied,
)
from rota.broker.journal import Journal
from rota.broker.modules import ModuleStore
from rota.broker.records import Record
from rota.broker.sequencer import Sequencer
from rota.broker.snapshotter import Snapshotter
from rota.broker.tensor_keeper import TensorKeeper
from rota.common import messages, wire
from rota.common.errors import ProtocolError, RotaError, StorageFull
from rota.common.limits import CLIENT_UNSENT_BYTES
from rota.host.endpoints import Endpoints
from rota.host.process_watch import ProcessWatch
from rota.host.service import StopLevel, StopSignals
from rota.host.sockets import Socket, publisher, router

log = logging.getLogger(__name__)

MESSAGES_PER_WAKE: Final = 256  # of one socket before the others get their turn
TICK_MS: Final = 100
STORAGE_RETRY_MS: Final = 200
RESULTS_HELD_MAX: Final = 1_000  # messages with results that wait for the journal
NEWS_HELD_MAX: Final = 10_000  # events that wait for the journal; watchers see a gap in their numbers
_SAME_NUMBER: Final = "free some space and send it again under the same number, which answers whether it did"


class Server:
    """Owns the sockets. One thread; `serve` returns when it was told to stop."""

    def __init__(
        self,
        core: Sequencer,
        journal: Journal,
        modules: ModuleStore,
        tensors: TensorKeeper,
        context: zmq.Context[Socket],
        endpoints: Endpoints,
        snapshots: Snapshotter | None = None,
    ) -> None:
        self._core = core
        self._journal = journal
        self._modules = modules
        self._tensors = tensors
        self._snapshots = snapshots
        self._sockets = {
            FRONTEND: router(context, endpoints.frontend),
            BACKEND: router(context, endpoints.backend),
            QUERY: router(context, endpoints.query),
        }
        self._events = publisher(context, endpoints.events)
        self._watch = ProcessWatch()
        self._outbox = _Outbox(self._sockets)
        self._unwritten: list[Record] = []
        self._held: list[Send] = []  # waits for records that could not be written
        self._held_news: list[News] = []
        self._storage_full = False
        self._next_retry_ms = 0
        self._event_number = 0
        self._next_tick_ms = 0

    def serve(self, stop: StopSignals) -> None:
        """Work until told to stop. Whoever wants workers to finish first stops them first, as `rota up` does."""
        poller = zmq.Poller()
        for socket in self._sockets.values():
            poller.register(socket, zmq.POLLIN)
        for descriptor in (stop.fileno(), *self._watch.fds()):
            poller.register(descriptor, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(self._timeout_ms()))
            if stop.fileno() in ready and self._should_stop(stop):
                return
            self._turn(ready)

    def close(self) -> None:
        """Close the sockets; what the last turn sent may leave for a moment."""
        self._watch.close()
        for socket in (*self._sockets.values(), self._events):
            socket.close(linger=500)

    def _turn(self, ready: dict[object, int]) -> None:
        now_ms, mono_ms = time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000
        events = self._collect(ready, mono_ms)
        if self._snapshots is not None and not self._unwritten:
            record = self._snapshots.work(now_ms, mono_ms)
            events += [] if record is None else [SnapshotWritten(record)]
        self._carry_out(self._core.step(events, now_ms, mono_ms), now_ms, mono_ms)
        self._outbox.flush()  # also while the journal cannot be written: what waits here is durable

    # --- in ---------------------------------------------------------------------------------------------------------

    def _should_stop(self, stop: StopSignals) -> bool:
        level = stop.read()
        if level is StopLevel.NONE:
            return False
        # Nothing is lost by leaving now: what workers still hold is in the journal as issued and runs again.
        log.info("stopping: %d assignments are left to the next start", len(self._core.dispatcher.assignments))
        self._take_last_snapshot()
        return True

    def _take_last_snapshot(self) -> None:
        """Leave a short way to the next start."""
        if self._snapshots is None or self._unwritten:
            return
        record = self._snapshots.last(time.time_ns() // 1_000_000, lambda: time.monotonic_ns() // 1_000_000)
        if record is not None:
            with contextlib.suppress(StorageFull):  # then no record names it, and it is not used
                self._journal.append([record])

    def _timeout_ms(self) -> int:
        if self._snapshots is not None and self._snapshots.busy and not self._storage_full:
            return 0
        now_ms = time.monotonic_ns() // 1_000_000
        wait_ms = max(0, self._next_tick_ms - now_ms)
        due_ms = self._core.next_timer_ms()
        if due_ms is not None:
            wait_ms = min(wait_ms, max(0, due_ms - time.time_ns() // 1_000_000))
        return wait_ms

    def _collect(self, ready: dict[object, int], mono_ms: int) -> list[Event]:
        """Everything that has happened since the last turn: messages first, so that nobody is declared dead unheard."""
        events: list[Event] = []
        for name, socket in self._sockets.items():
            if socket in ready:
                self._receive(name, socket, events)
        events.extend(Unreachable(*lost) for lost in self._outbox.take_lost())
        if mono_ms >= self._next_tick_ms or any(descriptor in ready for descriptor in self._watch.fds()):
            events.extend(WorkerDied(worker) for worker in self._watch.gone())
        if mono_ms >= self._next_tick_ms:
            self._next_tick_ms = mono_ms + TICK_MS
            self._tensors.collect(mono_ms)
            events.append(Tick())
        return events

    def _receive(self, name: str, socket: Socket, events: list[Event]) -> None:
        for _ in range(MESSAGES_PER_WAKE):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                events.append(self._decode(name, frames))
            except RotaError as error:
                number = wire.request_number(frames[-1])
                log.warning("refused a message on %s: %s", name, error.message)
                self._outbox.send(
                    Send(name, frames[0], messages.Refused(number, error.code, error.message, error.fields))
                )

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
            if isinstance(request, messages.Deploy):
                self._modules.admit(request)
            elif isinstance(request, messages.Submit):
                self._tensors.admit(request)
        except RotaError as error:
            return FromProducer(identity, request, error)  # type: ignore[arg-type]
        return FromProducer(identity, request)  # type: ignore[arg-type]

    # --- out ----------------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: Effects, now_ms: int, mono_ms: int) -> None:
        self._take(effects)
        if self._storage_full and mono_ms < self._next_retry_ms:
            self._refuse_held("the journal cannot be written at present")
            return
        try:
            self._journal.append(self._unwritten)
        except StorageFull as error:
            self._next_retry_ms = mono_ms + STORAGE_RETRY_MS
            self._refuse_held(str(error.fields.get("reason", error.message)))
            self._change_storage(True, error.message, now_ms, mono_ms)
            return
        self._unwritten = []
        self._release(now_ms)
        self._change_storage(False, "", now_ms, mono_ms)

    def _take(self, effects: Effects) -> None:
        """Do what need not wait for the disk, and keep the rest."""
        for send in effects.now:
            self._outbox.send(send)
        for worker, pid in effects.watches:
            if pid:
                self._watch.add(worker, pid)
            else:
                self._watch.remove(worker)
        self._unwritten += effects.records
        self._held += effects.after
        self._held_news += effects.news
        dropped = max(0, len(self._held_news) - NEWS_HELD_MAX)
        del self._held_news[:dropped]
        self._event_number += dropped

    def _release(self, now_ms: int) -> None:
        """Everything so far is durable: say so."""
        held, self._held = self._held, []
        for send in held:
            self._outbox.send(send)
        news, self._held_news = self._held_news, []
        for topic, lane, fields in news:
            self._event_number += 1
            event = messages.Event(self._core.world.boot, self._event_number, now_ms, topic, lane, fields)
            self._events.send_multipart([topic.encode(), wire.encode(event)], zmq.NOBLOCK)

    def _refuse_held(self, reason: str) -> None:
        """The records are not durable: refuse the inputs they came from, answer what depends on none, keep results.

        A refused input did take effect in memory. Should its record be written after all, the same request sent again
        gets its answer; should the broker end first, it never happened. Neither contradicts what the producer was told.
        """
        kept = []
        for send in self._held:
            message = send.message
            if isinstance(message, messages.Results):
                kept.append(send)
                continue
            if send.socket == FRONTEND and isinstance(message, messages.Accepted | messages.Answer):
                text = f"the journal cannot be written ({reason}): this request may still take effect; {_SAME_NUMBER}"
                fields = {"reason": reason, "pending": True}
                send = send._replace(message=messages.Refused(message.number, StorageFull.code, text, fields))
            elif send.socket == QUERY and not self._storage_full and isinstance(message, messages.Answer):
                # It was made before the core knew that writing fails, so a crash could take back what it tells.
                text = f"the journal cannot be written ({reason}): ask again"
                fields = {"reason": reason}
                send = send._replace(message=messages.Refused(message.number, StorageFull.code, text, fields))
            self._outbox.send(send)
        # Results that are let go here are awaited again by their producers: nothing says that they were sent.
        self._held = kept[-RESULTS_HELD_MAX:]

    def _change_storage(self, full: bool, reason: str, now_ms: int, mono_ms: int) -> None:
        """Let the core know when writing begins to fail or works again."""
        if full == self._storage_full:
            return
        self._storage_full = full
        if full:
            log.error("the journal cannot be written, producers are refused: %s", reason)
        else:
            log.warning("the journal can be written again")
        self._take(self._core.step([StorageChanged(full, reason)], now_ms, mono_ms))


class _Outbox:
    """Sends without ever blocking: what a slow peer cannot take waits here, in order and bounded."""

    def __init__(self, sockets: dict[str, Socket]) -> None:
        self._sockets = sockets
        self._waiting: dict[tuple[str, bytes], deque[bytes]] = {}
        self._bytes: dict[tuple[str, bytes], int] = {}
        self._lost: list[tuple[str, bytes]] = []

    def send(self, send: Send) -> None:
        """Send now, or behind what waits for this peer already."""
        peer = (send.socket, send.identity)
        frame = wire.encode(send.message)
        if peer in self._waiting:
            self._keep(peer, frame)
        elif not self._try(peer, frame):
            self._waiting[peer] = deque()
            self._bytes[peer] = 0
            self._keep(peer, frame)

    def flush(self) -> None:
        """Send on to peers that were slow."""
        for peer in list(self._waiting):
            frames = self._waiting.get(peer)
            while frames and self._try(peer, frames[0]):
                self._bytes[peer] -= len(frames.popleft())
            if not frames:
                self._forget(peer)

    def take_lost(self) -> list[tuple[str, bytes]]:
        """Return peers that are gone or were given up."""
        lost, self._lost = self._lost, []
        return lost

    def _try(self, peer: tuple[str, bytes], frame: bytes) -> bool:
        socket, identity = peer
        try:
            self._sockets[socket].send_multipart([identity, frame], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._lost.append(peer)
        return True

    def _keep(self, peer: tuple[str, bytes], frame: bytes) -> None:
        self._waiting[peer].append(frame)
        self._bytes[peer] += len(frame)
        if self._bytes[peer] > CLIENT_UNSENT_BYTES:
            log.warning(
                "a peer on %s does not take its messages: given up with %d bytes unsent", peer[0], self._bytes[peer]
            )
            self._forget(peer)
            self._lost.append(peer)

    def _forget(self, peer: tuple[str, bytes]) -> None:
        self._waiting.pop(peer, None)
        self._bytes.pop(peer, None)
