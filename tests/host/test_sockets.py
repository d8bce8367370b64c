"""Our sockets and the effects of their options, over real addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq
from zmtp_peer import GREETING, ZmtpPeer

from rota.common.errors import ConfigError
from rota.host.endpoints import Endpoints, RunFolder
from rota.host.sockets import Socket, WakePair, context, dealer, publisher, router, subscriber

WAIT_MS = 10_000


@pytest.fixture
def endpoints(run_dir: Path) -> Endpoints:
    RunFolder(run_dir).prepare()
    return Endpoints.publish(run_dir)


@pytest.fixture
def zmq_context() -> Iterator[zmq.Context[Socket]]:
    """A context whose end waits for every socket: a test that leaves one open hangs and fails."""
    made = context()
    yield made
    made.term()


def test_message_to_a_peer_that_has_gone_is_an_error(zmq_context: zmq.Context[Socket], endpoints: Endpoints) -> None:
    """Goal: nothing is lost in silence. Method: answer a dealer, close it, answer again until the loss is noticed."""
    with router(zmq_context, endpoints.backend) as ours:
        with dealer(zmq_context, endpoints.backend) as theirs:
            theirs.send(b"hello")
            assert ours.poll(WAIT_MS)
            peer, _ = ours.recv_multipart()
            ours.send_multipart([peer, b"welcome"], zmq.NOBLOCK)
            assert theirs.poll(WAIT_MS)
        with pytest.raises(zmq.ZMQError) as caught:
            send_for_ever(ours, peer)
        assert caught.value.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN)


def send_for_ever(ours: Socket, peer: bytes) -> None:
    while True:
        ours.send_multipart([peer, b"still there?"], zmq.NOBLOCK)


def test_dealer_may_come_before_the_broker(zmq_context: zmq.Context[Socket], endpoints: Endpoints) -> None:
    """Goal: start order does not matter. Method: send first, bind after."""
    with dealer(zmq_context, endpoints.backend) as theirs:
        theirs.send(b"early")
        with router(zmq_context, endpoints.backend) as ours:
            assert ours.poll(WAIT_MS)
            assert ours.recv_multipart()[1] == b"early"


def test_events_reach_those_who_asked_for_their_topic(zmq_context: zmq.Context[Socket], endpoints: Endpoints) -> None:
    """Goal: topics select. Method: publish two kinds until one that was asked for comes in."""
    with (
        publisher(zmq_context, endpoints.events) as ours,
        subscriber(zmq_context, endpoints.events, ["lane"]) as theirs,
    ):
        while not theirs.poll(10):
            ours.send_multipart([b"task", b"no"])
            ours.send_multipart([b"lane", b"yes"])
        assert theirs.recv_multipart() == [b"lane", b"yes"]


def test_address_in_use_is_named(zmq_context: zmq.Context[Socket]) -> None:
    """Goal: a message instead of a traceback. Method: bind a port twice."""
    with router(zmq_context, "tcp://127.0.0.1:*") as ours:
        endpoint = ours.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        with pytest.raises(ConfigError, match=r"cannot be bound.*--bind"):
            router(zmq_context, endpoint)


def test_wake_pair_wakes_once_and_never_blocks() -> None:
    """Goal: any number of wakes makes one poll return. Method: fill the buffer."""
    pair = WakePair()
    poller = zmq.Poller()
    poller.register(pair.fileno(), zmq.POLLIN)
    assert poller.poll(0) == []
    for _ in range(100_000):
        pair.wake()
    assert poller.poll(0)
    while pair.take():
        pass
    assert poller.poll(0) == []
    pair.close()


def test_connections_that_do_not_shake_hands_end(zmq_context: zmq.Context[Socket], tmp_path: Path) -> None:
    """Goal: half-open connections do not pile up. Method: one that says nothing, one that stops in its greeting, one
    that stops behind it, one that is no ZMTP; a DEALER beside them stays.
    """
    endpoint = f"ipc://{tmp_path}/s"
    with router(zmq_context, endpoint, handshake_ms=100) as ours, dealer(zmq_context, endpoint) as good:
        good.send(b"first")
        name, _ = ours.recv_multipart()
        for said in (b"", GREETING[:9], GREETING, b"GET / HTTP/1.1\r\n\r\n"):
            with closing(ZmtpPeer(endpoint)) as peer:
                peer.send(said)
                assert peer.is_closed(), said
        ours.send_multipart([name, b"still there"])
        assert good.recv() == b"still there"


def test_a_peer_that_dies_with_unread_messages_ends_nothing(zmq_context: zmq.Context[Socket], tmp_path: Path) -> None:
    """Goal: no death of a peer aborts this process. Method: one sends more than is read and closes; with pings libzmq
    asserts at the next one. Nothing waits here for a ping, so look at the option too.
    """
    endpoint = f"ipc://{tmp_path}/s"
    with router(zmq_context, endpoint) as ours, dealer(zmq_context, endpoint) as good:
        assert ours.get(zmq.HEARTBEAT_IVL) == 0
        with dealer(zmq_context, endpoint) as dying:
            for number in range(100):
                dying.send(b"%d" % number)
            assert ours.recv_multipart()[1] == b"0"
        good.send(b"here")
        while ours.recv_multipart()[1] != b"here":
            pass


def test_what_waits_to_be_read_is_bounded(zmq_context: zmq.Context[Socket], tmp_path: Path) -> None:
    """Goal: a peer cannot fill our memory with messages that are not read yet. Method: one sends without end; libzmq
    takes no more from it than both queues hold.
    """
    endpoint = f"ipc://{tmp_path}/s"
    with router(zmq_context, endpoint) as ours, dealer(zmq_context, endpoint) as peer:
        assert ours.get(zmq.RCVHWM) == 16
        peer.set(zmq.SNDTIMEO, 500)
        sent = 0
        with contextlib.suppress(zmq.Again):
            while sent < 2_000:
                peer.send(bytes(1 << 10))
                sent += 1
        assert sent < 2_000
