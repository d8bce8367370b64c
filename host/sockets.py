"""The only file that creates sockets: ZeroMQ's, and the pairs that wake a poller.

Every option that matters is set here, with its reason. A socket belongs to the thread that made it. Nothing blocks:
senders pass `zmq.NOBLOCK` and keep what does not fit in their own bounded queues. Options are explained in
zmq_setsockopt(3). With a queue length here, change what docs/PROTOCOL.md says about slow peers.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from typing import Final

import zmq

from rota.common.errors import ConfigError
from rota.common.limits import MESSAGE_BYTES_MAX

LINGER_LAST_MS: Final = 1_000  # how long a last message (Goodbye, a refusal) may take to leave at an orderly end

TRACKED_BYTES: Final = 4 << 10  # a frame of so many bytes is not copied, and its sender learns when it has left
_ROUTER_QUEUE_MESSAGES: Final = 256  # so a megabyte of smaller frames per connection
_ROUTER_RECEIVED_MESSAGES: Final = 16  # per connection, each up to MESSAGE_BYTES_MAX, that wait to be read
_QUEUE_MESSAGES: Final = 1_000  # libzmq's default, per connection; messages are batches
_EVENTS_QUEUE_MESSAGES: Final = 10_000  # events are small; a watcher that lags more sees a gap in their numbers
_MESSAGE_SLACK_BYTES: Final = 1 << 10  # a message a little too large gets an answer, not a cut connection
BACKLOG: Final = 128  # connections that wait to be accepted; if full, the other end retries after _RECONNECT_MS
_HANDSHAKE_MS: Final = 5_000  # connections that do not speak ZMTP are closed after this
_RECONNECT_MS: Final = 50
_RECONNECT_MS_MAX: Final = 2_000  # exponential back-off up to this, so that a starting broker is not flooded

Socket = zmq.Socket[bytes]


def context() -> zmq.Context[Socket]:
    """Return the one context of a process; `destroy` it last."""
    made = zmq.Context(io_threads=1)  # one thread moves gigabytes per second (zguide, chapter 2)
    # Counts the sockets made here, not their connections; libzmq's default is 1,023.
    made.set(zmq.MAX_SOCKETS, 64)
    return made


def router(context: zmq.Context[Socket], endpoint: str, *, handshake_ms: int = _HANDSHAKE_MS) -> Socket:
    """Bind a ROUTER: the broker's side for producers, workers and queries.

    A connection is closed if its handshake takes longer than `handshake_ms`. There are no ZMTP pings: libzmq 4.3 aborts
    the process if a peer dies while its messages wait to be read and a ping is due (zeromq/libzmq issue 4364).
    """
    made = _socket(context, zmq.ROUTER)
    made.set(zmq.SNDHWM, _ROUTER_QUEUE_MESSAGES)
    made.set(zmq.RCVHWM, _ROUTER_RECEIVED_MESSAGES)
    made.copy_threshold = TRACKED_BYTES
    made.set(zmq.HANDSHAKE_IVL, handshake_ms)
    # libzmq treats a peer that does not begin as ZMTP 3 as an old one, whose handshake ends with its first byte. With a
    # ZAP domain it accepts no old peers. There is no ZAP handler here, so the domain has no other effect.
    made.set(zmq.ZAP_DOMAIN, b"rota")
    made.set(zmq.ROUTER_MANDATORY, 1)  # a message to a peer that is gone raises an error
    made.set(zmq.ROUTER_HANDOVER, 0)  # a new connection cannot take the identity of a live one
    _bind(made, endpoint)
    return made


def dealer(context: zmq.Context[Socket], endpoint: str) -> Socket:
    """Connect a DEALER: the side of a producer, a worker or a query.

    It sets no identity, so the broker gives each connection a new one and an old connection never gets messages for the
    next. It connects in the background and reconnects after a loss; what is sent meanwhile is queued.
    """
    made = _socket(context, zmq.DEALER)
    made.set(zmq.IMMEDIATE, 0)  # queue while not connected, so that the first message need not wait
    _connect(made, endpoint)
    return made


def publisher(context: zmq.Context[Socket], endpoint: str) -> Socket:
    """Bind the socket of events: an XPUB, which receives each subscription as a message of one byte 1 and a topic.

    A watcher that does not keep up loses events; the broker never waits.
    """
    made = _socket(context, zmq.XPUB)
    made.set(zmq.XPUB_VERBOSE, 1)  # also for topics that are subscribed already
    made.set(zmq.SNDHWM, _EVENTS_QUEUE_MESSAGES)
    _bind(made, endpoint)
    return made


def subscriber(context: zmq.Context[Socket], endpoint: str, topics: Iterable[str]) -> Socket:
    """Connect a SUB socket for these topics; an empty string means all."""
    made = _socket(context, zmq.SUB)
    made.set(zmq.RCVHWM, _EVENTS_QUEUE_MESSAGES)
    for topic in topics:
        made.set(zmq.SUBSCRIBE, topic.encode())
    _connect(made, endpoint)
    return made


class WakePair:
    """A local connection by which any thread or signal handler wakes a poller."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._read.fileno()

    def write_fileno(self) -> int:
        """Return the other end, for `signal.set_wakeup_fd`."""
        return self._write.fileno()

    def wake(self, data: bytes = b"\0") -> None:
        """Make the poller return. If the buffer is full, it is about to return anyway."""
        with contextlib.suppress(BlockingIOError):
            self._write.send(data)

    def take(self) -> bytes:
        """Return and clear the bytes received."""
        try:
            return self._read.recv(4_096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self._read.close()
        self._write.close()


def _socket(context: zmq.Context[Socket], kind: int) -> Socket:
    made = context.socket(kind)
    made.set(zmq.LINGER, 0)  # unsent messages of a closed connection must not leave later; see LINGER_LAST_MS
    made.set(zmq.SNDHWM, _QUEUE_MESSAGES)
    made.set(zmq.RCVHWM, _QUEUE_MESSAGES)
    made.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX + _MESSAGE_SLACK_BYTES)  # bounds the memory that one peer can take
    made.set(zmq.IPV6, 0)  # only IPv4 loopback addresses are used
    made.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    made.set(zmq.TCP_KEEPALIVE, 1)  # detects a vanished peer without traffic: after 30 s, 3 probes
    made.set(zmq.TCP_KEEPALIVE_IDLE, 30)
    made.set(zmq.TCP_KEEPALIVE_INTVL, 10)
    made.set(zmq.TCP_KEEPALIVE_CNT, 3)
    return made


def _bind(made: Socket, endpoint: str) -> None:
    made.set(zmq.BACKLOG, BACKLOG)
    try:
        # libzmq replaces an existing socket file: hold the journal's lock first, or two brokers would displace each
        # other.
        made.bind(endpoint)
    except zmq.ZMQError as error:
        made.close(linger=0)
        raise ConfigError(
            f"{endpoint} cannot be bound: {error.strerror}; stop what uses it, or name another with --bind or --dir",
            endpoint=endpoint,
        ) from error


def _connect(made: Socket, endpoint: str) -> None:
    made.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
    made.set(zmq.RECONNECT_IVL_MAX, _RECONNECT_MS_MAX)
    try:
        made.connect(endpoint)
    except zmq.ZMQError as error:
        made.close(linger=0)
        raise ConfigError(f"{endpoint} is not an address to connect to: {error.strerror}", endpoint=endpoint) from error
