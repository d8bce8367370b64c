"""The broker's outgoing messages: non-blocking sends, and queues for slow peers that are bounded in bytes.

ZeroMQ bounds its queues in messages, not bytes, so they are kept short: routers have a low high-water mark, and of
frames of TRACKED_BYTES and more, at most CREDIT_BYTES per connection are in libzmq at a time. The rest is queued here,
in order. A peer that accepts nothing is dropped, as is the largest queue if all of them together are too large.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import zmq

from rota.broker.effects import Send
from rota.common import wire
from rota.common.limits import CLIENT_UNSENT_BYTES, UNSENT_BYTES_MAX
from rota.host.sockets import TRACKED_BYTES, Socket

log = logging.getLogger(__name__)

CREDIT_BYTES: Final = 1 << 20  # of large frames in libzmq per connection; a single one may be larger
IN_FLIGHT_BYTES_MAX: Final = 256 << 20  # of large frames in libzmq for all connections
WAIT_MS: Final = 1  # before the next try while a peer accepts messages; doubles while none does
WAIT_MS_MAX: Final = 64


class Peer(NamedTuple):
    """One connection of one socket."""

    socket: str
    identity: bytes


class _Queue:
    """The queue of one peer."""

    __slots__ = ("given", "given_bytes", "waiting", "waiting_bytes")

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.waiting_bytes = 0
        self.given: deque[tuple[Any, int]] = deque()  # large frames in libzmq: tracker and size
        self.given_bytes = 0

    def settle(self) -> int:
        """Remove large frames that libzmq has released; return their bytes."""
        freed = 0
        while self.given and self.given[0][0].done:
            freed += self.given.popleft()[1]
        self.given_bytes -= freed
        return freed


class Outbox:
    """Sends without blocking."""

    def __init__(
        self,
        sockets: Mapping[str, Socket],
        *,
        peer_bytes_max: int = CLIENT_UNSENT_BYTES,
        bytes_max: int = UNSENT_BYTES_MAX,
        in_flight_bytes_max: int = IN_FLIGHT_BYTES_MAX,
    ) -> None:
        self.waiting_bytes = 0  # of all queues
        self.in_flight_bytes = 0  # of large frames in libzmq
        self._sockets = sockets
        self._peer_bytes_max = peer_bytes_max
        self._bytes_max = bytes_max
        self._in_flight_bytes_max = in_flight_bytes_max
        self._queues: dict[Peer, _Queue] = {}
        self._slow: dict[Peer, bool] = {}  # changes not yet returned by `take_slow`
        self._lost: list[Peer] = []
        self._wait_ms = WAIT_MS

    def send(self, send: Send) -> None:
        """Send now, or queue behind what already waits for this peer."""
        peer = Peer(send.socket, send.identity)
        frame = wire.encode(send.message)
        queue = self._queues.get(peer)
        if queue is None and len(frame) < TRACKED_BYTES:
            if not self._give_small(peer, frame):
                self._keep(peer, _Queue(), frame)
            return
        if queue is None:
            queue = self._queues[peer] = _Queue()
        if queue.waiting or not self._give(peer, queue, frame):
            self._keep(peer, queue, frame)

    def flush(self) -> None:
        """Send queued messages to peers that accept them."""
        moved = False
        for peer, queue in list(self._queues.items()):
            freed = queue.settle()
            self.in_flight_bytes -= freed
            moved |= freed > 0
            while queue.waiting and self._give(peer, queue, queue.waiting[0]):
                moved = True
                if not queue.waiting:  # the peer is gone
                    break
                size = len(queue.waiting.popleft())
                queue.waiting_bytes -= size
                self.waiting_bytes -= size
                if not queue.waiting:
                    self._slow[peer] = False
            if not queue.waiting and not queue.given:
                self._queues.pop(peer, None)
        self._wait_ms = WAIT_MS if moved else min(2 * self._wait_ms, WAIT_MS_MAX)

    def wait_ms(self) -> int | None:
        """Return how long to wait before the next `flush`; None: nothing is queued."""
        return self._wait_ms if self.waiting_bytes else None

    def take_lost(self) -> list[Peer]:
        """Return peers that are gone or were dropped."""
        lost, self._lost = self._lost, []
        return lost

    def take_slow(self) -> list[tuple[Peer, bool]]:
        """Return peers that have become slow (True) or accept messages again (False)."""
        slow, self._slow = self._slow, {}
        return list(slow.items())

    def _give(self, peer: Peer, queue: _Queue, frame: bytes) -> bool:
        """Pass a frame to libzmq, unless the peer's credit is used up."""
        size = len(frame)
        if size < TRACKED_BYTES:
            return self._give_small(peer, frame)
        self.in_flight_bytes -= queue.settle()
        full = queue.given_bytes + size > CREDIT_BYTES or self.in_flight_bytes + size > self._in_flight_bytes_max
        if full and (queue.given or self.in_flight_bytes):
            return False
        try:
            tracker = self._sockets[peer.socket].send_multipart(
                [peer.identity, frame], zmq.NOBLOCK, copy=False, track=True
            )
        except zmq.ZMQError as error:
            return self._is_gone(peer, error)
        queue.given.append((tracker, size))
        queue.given_bytes += size
        self.in_flight_bytes += size
        return True

    def _give_small(self, peer: Peer, frame: bytes) -> bool:
        try:
            self._sockets[peer.socket].send_multipart([peer.identity, frame], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            return self._is_gone(peer, error)
        return True

    def _is_gone(self, peer: Peer, error: zmq.ZMQError) -> bool:
        """Return whether the frame can be dropped because the peer is gone."""
        if error.errno == zmq.EAGAIN:
            return False
        if error.errno != zmq.EHOSTUNREACH:
            raise error
        self._forget(peer)
        return True

    def _keep(self, peer: Peer, queue: _Queue, frame: bytes) -> None:
        self._queues[peer] = queue
        if not queue.waiting:
            self._slow[peer] = True
        queue.waiting.append(frame)
        queue.waiting_bytes += len(frame)
        self.waiting_bytes += len(frame)
        if queue.waiting_bytes > self._peer_bytes_max:
            self._give_up(peer)
        elif self.waiting_bytes > self._bytes_max:
            self._give_up(max(self._queues, key=lambda other: self._queues[other].waiting_bytes))

    def _give_up(self, peer: Peer) -> None:
        unsent = self._queues[peer].waiting_bytes
        log.warning("a peer on %s does not take its messages: given up with %d bytes unsent", peer.socket, unsent)
        self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        """Drop a peer's queue. Its frames in libzmq count until they are released."""
        queue = self._queues.get(peer)
        if queue is not None:
            self.waiting_bytes -= queue.waiting_bytes
            queue.waiting.clear()
            queue.waiting_bytes = 0
            if not queue.given:
                del self._queues[peer]
        self._slow[peer] = False
        self._lost.append(peer)
