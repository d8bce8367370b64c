"""The outbox, with real sockets and peers that do not read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmtp_peer import ZmtpPeer

from rota.broker.effects import FRONTEND, Send
from rota.broker.outbox import CREDIT_BYTES, Outbox, Peer
from rota.common import wire
from rota.common.messages import Answer, Welcome
from rota.host.sockets import Socket, context, router

SMALL = Welcome(1, 1, "test")


class Sockets:
    """A ROUTER, and peers of it."""

    def __init__(self, folder: Path, end: ExitStack) -> None:
        self.endpoint = f"ipc://{folder}/frontend"
        self._end = end
        self._context: zmq.Context[Socket] = end.enter_context(context())
        self.router = end.enter_context(closing(router(self._context, self.endpoint)))

    def outbox(self, **bounds: int) -> Outbox:
        return Outbox({FRONTEND: self.router}, **bounds)

    def deaf(self, name: bytes) -> Peer:
        """A peer that never reads."""
        peer = self._end.enter_context(closing(ZmtpPeer(self.endpoint)))
        peer.shake_hands(name)
        peer.say(b"hello")
        assert self.router.recv_multipart() == [name, b"hello"]
        return Peer(FRONTEND, name)

    def reader(self, name: bytes) -> Socket:
        made = self._end.enter_context(self._context.socket(zmq.DEALER))
        made.set(zmq.IDENTITY, name)
        made.set(zmq.LINGER, 0)
        made.connect(self.endpoint)
        made.send(b"hello")
        assert self.router.recv_multipart() == [name, b"hello"]
        return made


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Sockets]:
    with ExitStack() as end:
        yield Sockets(tmp_path, end)


def large(peer: Peer, size: int) -> Send:
    return Send(peer.socket, peer.identity, Answer(1, bytes(size)))


def test_little_lies_in_zeromq_and_the_rest_is_counted(sockets: Sockets) -> None:
    """Goal: what a peer that never reads costs is known and bounded. Method: send it frames of 100 kB until it is
    given up; libzmq holds its credit of them, and they all wait here until there are too many.
    """
    peer = sockets.deaf(b"deaf")
    outbox = sockets.outbox(peer_bytes_max=5_000_000)
    given_up: list[Peer] = []
    sent = 0
    while not given_up:
        outbox.send(large(peer, 100_000))
        outbox.flush()
        sent += 1
        given_up = outbox.take_lost()
        assert outbox.in_flight_bytes <= CREDIT_BYTES
        assert outbox.waiting_bytes <= 5_100_000
        assert sent < 200
    assert given_up == [peer]
    assert 50 <= sent <= 50 + 2 * CREDIT_BYTES // 100_000 + 20  # the kernel's buffers hold some too
    assert outbox.waiting_bytes == 0


def test_small_frames_are_bounded_by_their_number(sockets: Sockets) -> None:
    """Goal: acknowledgements need no tracking. Method: very many small frames to a peer that never reads; most wait
    here.
    """
    peer = sockets.deaf(b"deaf")
    outbox = sockets.outbox()
    frame = Send(peer.socket, peer.identity, Answer(1, bytes(3_000)))
    for _ in range(2_000):
        outbox.send(frame)
    assert outbox.in_flight_bytes == 0
    assert outbox.waiting_bytes >= 1_500 * 3_000


def test_the_worst_is_given_up_when_all_is_too_much(sockets: Sockets) -> None:
    """Goal: many slow peers together are bounded. Method: three, one of which is owed the most."""
    peers = [sockets.deaf(b"deaf%d" % n) for n in range(3)]
    outbox = sockets.outbox(bytes_max=12_000_000)
    for _ in range(60):
        outbox.send(large(peers[1], 100_000))
    assert outbox.take_lost() == []
    while not (lost := outbox.take_lost()):
        outbox.send(large(peers[0], 100_000))
        outbox.send(large(peers[2], 100_000))
    assert lost == [peers[1]]


def test_all_connections_together_are_bounded_in_zeromq_too(sockets: Sockets) -> None:
    """Goal: credit for many is not without end. Method: a bound of 300 kB over all, four peers with a frame each."""
    outbox = sockets.outbox(in_flight_bytes_max=300_000)
    for n in range(4):
        peer = sockets.deaf(b"deaf%d" % n)
        for _ in range(8):
            outbox.send(large(peer, 250_000))
    assert outbox.in_flight_bytes <= 300_000 + 250_000


def test_a_reader_gets_everything_in_order_and_is_told_slow_and_not(sockets: Sockets) -> None:
    """Goal: nothing is lost or turned round, small or large. Method: both kinds to a reader that begins late."""
    reader = sockets.reader(b"late")
    peer = Peer(FRONTEND, b"late")
    outbox = sockets.outbox()
    wanted: list[bytes] = []
    changes: list[Any] = []
    for number in range(400):
        message = Answer(number, bytes((10, 50_000, 200_000)[number % 3]))
        wanted.append(wire.encode(message))
        outbox.send(Send(*peer, message))
    changes += outbox.take_slow()
    found: list[bytes] = []
    while len(found) < len(wanted):
        outbox.flush()
        if reader.poll(outbox.wait_ms() or 1_000):
            found.append(reader.recv())
    assert found == wanted
    outbox.flush()
    changes += outbox.take_slow()
    assert [slow for _, slow in changes] in ([True, False], [False])
    assert outbox.wait_ms() is None
    assert outbox.take_lost() == []


def test_who_is_gone_is_told_once_and_costs_nothing(sockets: Sockets) -> None:
    """Goal: nothing is queued for an unknown peer. Method: an identity that never connected."""
    outbox = sockets.outbox()
    outbox.send(Send(FRONTEND, b"nobody", SMALL))
    outbox.send(large(Peer(FRONTEND, b"nobody"), 100_000))
    assert outbox.take_lost() == [Peer(FRONTEND, b"nobody")] * 2
    assert (outbox.waiting_bytes, outbox.in_flight_bytes) == (0, 0)
