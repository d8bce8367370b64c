"""What is on its way out of the broker: sends that never block, with what slow peers cannot take yet counted in bytes.

ZeroMQ's own queues are counted in messages, so little may lie in them: routers have short ones, and of frames of
TRACKED_BYTES and more no more than CREDIT_BYTES are given to a connection before libzmq has let go of them. What else
there is waits here, in order. Whoever takes nothing is given up, and so is the worst where all of it is too much.
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

CREDIT_BYTES: Final = 1 << 20  # of large frames that libzmq may hold for a connection; one of any size alone
IN_FLIGHT_BYTES_MAX: Final = 256 << 20  # of large frames that libzmq may hold for all of them
WAIT_MS: Final = 1  # before the next try while a peer takes; doubles while none does
WAIT_MS_MAX: Final = 64


class Peer(NamedTuple):
    """One connection of one socket."""

    socket: str
    identity: bytes


class _Queue:
    """What is on its way to one peer."""

    __slots__ = ("given", "given_bytes", "waiting", "waiting_bytes")

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.waiting_bytes = 0
        self.given: deque[tuple[Any, int]] = deque()  # large frames that libzmq holds: tracker and size
        self.given_bytes = 0

    def settle(self) -> int:
        """Forget large frames that libzmq has let go of; return their bytes."""
        freed = 0
        while self.given and self.given[0][0].done:
            freed += self.given.popleft()[1]
        self.given_bytes -= freed
        return freed


class Outbox:
    """Sends without ever blocking."""

    def __init__(
        self,
        sockets: Mapping[str, Socket],
        *,
        peer_bytes_max: int = CLIENT_UNSENT_BYTES,
        bytes_max: int = UNSENT_BYTES_MAX,
        in_flight_bytes_max: int = IN_FLIGHT_BYTES_MAX,
    ) -> None:
        self.waiting_bytes = 0  # all that waits here
        self.in_flight_bytes = 0  # large frames that libzmq holds
        self._sockets = sockets
        self._peer_bytes_max = peer_bytes_max
        self._bytes_max = bytes_max
        self._in_flight_bytes_max = in_flight_bytes_max
        self._queues: dict[Peer, _Queue] = {}
        self._slow: dict[Peer, bool] = {}  # changes that nobody has taken yet
        self._lost: list[Peer] = []
        self._wait_ms = WAIT_MS

    def send(self, send: Send) -> None:
        """Send now, or behind what waits for this peer already."""
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
        """Send on to peers that were slow."""
        moved = False
        for peer, queue in list(self._queues.items()):
            freed = queue.settle()
            self.in_flight_bytes -= freed
            moved |= freed > 0
            while queue.waiting and self._give(peer, queue, queue.waiting[0]):
                moved = True
                if not queue.waiting:  # nobody is there any more
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
        """How long to wait before the next `flush`; None: nothing waits."""
        return self._wait_ms if self.waiting_bytes else None

    def take_lost(self) -> list[Peer]:
        """Return peers that are gone or were given up."""
        lost, self._lost = self._lost, []
        return lost

    def take_slow(self) -> list[tuple[Peer, bool]]:
        """Return peers that began to be slow (True) or take everything again (False)."""
        slow, self._slow = self._slow, {}
        return list(slow.items())

    def _give(self, peer: Peer, queue: _Queue, frame: bytes) -> bool:
        """Hand a frame to libzmq, unless it holds enough."""
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
        """Whether the frame need not be kept, because nobody is behind the identity any more."""
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
        """Drop what waits for a peer. What libzmq holds for it counts until it is let go of."""
        queue = self._queues.get(peer)
        if queue is not None:
            self.waiting_bytes -= queue.waiting_bytes
            queue.waiting.clear()
            queue.waiting_bytes = 0
            if not queue.given:
                del self._queues[peer]
        self._slow[peer] = False
        self._lost.append(peer)
