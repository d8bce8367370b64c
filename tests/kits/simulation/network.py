"""A simulated ZeroMQ, in place of a `zmq.Context`.

Within one connection frames arrive once and in order, with delay. When a connection breaks, frames in flight arrive up
to some frame; the rest is lost, or sent again on the next connection, which the dealer makes by itself under a new
identity and without notice. So frames of the old connection can arrive after those of the new one, twice, or never. A
router knows peers for a while after they are gone. Partitions hold frames back. The behaviour is that of zmq_socket(7).
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any, ClassVar, NamedTuple, Protocol

import zmq
from simulation.clock import Clock, Transcript

UNSENT_MAX = 1_000  # as in host/sockets.py
RECONNECT_US = 50_000
RECONNECT_US_MAX = 2_000_000
SLOW_READER_FRAMES = 3  # in flight to a peer that does not read, before a router's send would block


class Process(Protocol):
    """The owner of a socket."""

    name: str
    elapsed_us: int  # elapsed in its current turn

    def wake(self) -> None:
        """Note that there is something to read."""

    def point(self, what: str) -> None:
        """Pass a crash point before an effect; the process may end here."""


class Network:
    """All connections, and their faults."""

    def __init__(self, clock: Clock, chance: Random, transcript: Transcript) -> None:
        self.clock = clock
        self.chance = chance
        self.transcript = transcript
        self.bound: dict[str, Router] = {}
        self.connections: dict[bytes, Connection] = {}
        self.dealers: dict[str, list[Dealer]] = {}  # by process
        self.latency_us = (20, 400)
        self.cut_off: dict[str, int] = {}  # process -> end of its partition
        self.slow_readers: dict[str, int] = {}
        self._next_identity = 1

    def identity(self) -> bytes:
        self._next_identity += 1
        return b"\x00%04x" % self._next_identity

    def delay_us(self) -> int:
        low, high = self.latency_us
        return low + int((high - low) * self.chance.random() ** 3)

    def blocked_until_us(self, *names: str) -> int:
        return max(self.cut_off.get(name, 0) for name in names)

    def is_slow(self, name: str) -> bool:
        return self.slow_readers.get(name, 0) > self.clock.now_us

    def break_some(self, chance: Random, everything: bool) -> int:
        """Break one connection, or all of them; return how many."""
        alive = list(self.connections.values())
        chosen = alive if everything else ([chance.choice(alive)] if alive else [])
        for connection in chosen:
            connection.break_()
        return len(chosen)

    def end_process(self, name: str) -> None:
        """Remove the sockets of a process that is gone."""
        for dealer in self.dealers.pop(name, []):
            dealer.closed = True
        for endpoint, router in list(self.bound.items()):
            if router.process.name == name:
                del self.bound[endpoint]
                router.closed = True
        for connection in list(self.connections.values()):
            ends = connection.dealer.process.name == name and not connection.lingers
            if ends or connection.router.process.name == name:
                connection.break_()

    def heal(self) -> None:
        """End all faults of the network."""
        self.cut_off.clear()
        self.slow_readers.clear()
        self.latency_us = (20, 400)


class Left(NamedTuple):
    """A `zmq.MessageTracker` of a frame that was sent at once."""

    done: bool = True


class Way:
    """One direction of a connection."""

    def __init__(self, network: Network, sink: Router | Dealer, connection: Connection) -> None:
        self.network = network
        self.sink = sink
        self.connection = connection
        self.frames: deque[bytes] = deque()
        self.last_us = 0

    def push(self, frame: bytes, process: Process) -> None:
        clock = self.network.clock
        arrives_us = max(self.last_us, clock.now_us + process.elapsed_us + self.network.delay_us())
        self.last_us = arrives_us
        self.frames.append(frame)
        clock.at(arrives_us, self._arrive)

    def _arrive(self) -> None:
        if not self.frames:
            return  # lost when the connection broke
        names = self.connection.names()
        blocked_us = self.network.blocked_until_us(*names)
        if isinstance(self.sink, Dealer):
            blocked_us = max(blocked_us, self.network.slow_readers.get(names[0], 0))
        if blocked_us > self.network.clock.now_us:
            self.network.clock.at(blocked_us + self.network.delay_us(), self._arrive)
            return
        self.sink.take(self.connection.identity, self.frames.popleft())

    def lose(self, chance: Random, sink_is_gone: bool) -> list[bytes]:
        """Break the connection: deliver some first frames, and return the others."""
        count = len(self.frames)
        kept = 0 if sink_is_gone else chance.choice((0, count, chance.randint(0, count)))
        lost = list(self.frames)[kept:]
        self.frames = deque(list(self.frames)[:kept])
        return lost


class Connection:
    """One dealer's connection to one router."""

    def __init__(self, network: Network, dealer: Dealer, router: Router) -> None:
        self.network = network
        self.dealer = dealer
        self.router = router
        self.identity = network.identity()
        self.lingers = False  # its process is gone, but what was sent still leaves
        self.to_router = Way(network, router, self)
        self.to_dealer = Way(network, dealer, self)
        network.connections[self.identity] = self
        router.peers[self.identity] = self

    def names(self) -> tuple[str, str]:
        return self.dealer.process.name, self.router.process.name

    def break_(self) -> None:
        """End the connection; the dealer connects again unless it is closed."""
        network, chance = self.network, self.network.chance
        if self.network.connections.pop(self.identity, None) is None:
            return
        lost = self.to_router.lose(chance, self.router.closed)
        arriving = list(self.to_router.frames)
        self.to_dealer.lose(chance, self.dealer.closed)
        self.dealer.connection = None
        network.transcript.note("break", *self.names(), self.identity.hex(), len(lost))
        notice_us = chance.choice((0, 1_000, 200_000))
        network.clock.after(notice_us, lambda: self.router.forget(self.identity))
        if not self.dealer.closed:
            # Frames without confirmed delivery are sent again, though some may have arrived.
            again = chance.choice(([], [], lost, arriving[-1:] + lost))
            self.dealer.unsent.extendleft(reversed(again))
            self.dealer.connect_later()


class _Socket:
    """Base of all sockets."""

    def __init__(self, network: Network, process: Process) -> None:
        self.network = network
        self.process = process
        self.closed = False

    def set(self, _option: int, _value: Any) -> None:
        """Ignore options."""


class Dealer(_Socket):
    """The connecting side."""

    def __init__(self, network: Network, process: Process) -> None:
        super().__init__(network, process)
        self.inbox: deque[bytes] = deque()
        self.unsent: deque[bytes] = deque()
        self.connection: Connection | None = None
        network.dealers.setdefault(process.name, []).append(self)
        self._endpoint = ""
        self._wait_us = RECONNECT_US

    def connect(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.network.clock.after(self.network.delay_us(), self._attach)

    def connect_later(self) -> None:
        wait_us = int(self._wait_us * (0.5 + self.network.chance.random()))
        self._wait_us = min(2 * self._wait_us, RECONNECT_US_MAX)
        self.network.clock.after(wait_us, self._attach)

    def send(self, frame: bytes, _flags: int = 0) -> None:
        self.process.point("send")
        if self.connection is not None:
            self.connection.to_router.push(frame, self.process)
        elif len(self.unsent) >= UNSENT_MAX:
            raise zmq.Again
        else:
            self.unsent.append(frame)

    def recv(self, _flags: int = 0) -> bytes:
        if not self.inbox:
            raise zmq.Again
        return self.inbox.popleft()

    def take(self, identity: bytes, frame: bytes) -> None:
        if not self.closed:
            self.network.transcript.frame(self.process.name, identity, frame)
            self.inbox.append(frame)
            self.process.wake()

    def close(self, linger: int = 0) -> None:
        self.closed = True
        self.inbox.clear()
        if self.connection is not None:
            connection, self.connection = self.connection, None
            if linger:
                connection.lingers = True
                self.network.clock.after(self.network.delay_us() + 1_000, connection.break_)
            else:
                connection.break_()

    def _attach(self) -> None:
        if self.closed or self.connection is not None:
            return
        router = self.network.bound.get(self._endpoint)
        names = (self.process.name, router.process.name if router is not None else "")
        if router is None or self.network.blocked_until_us(*names) > self.network.clock.now_us:
            self.connect_later()
            return
        self._wait_us = RECONNECT_US
        self.connection = Connection(self.network, self, router)
        while self.unsent:
            self.connection.to_router.push(self.unsent.popleft(), self.process)


class Router(_Socket):
    """The binding side. As with ROUTER_MANDATORY, an unknown peer is an error."""

    def __init__(self, network: Network, process: Process) -> None:
        super().__init__(network, process)
        self.inbox: deque[tuple[bytes, bytes]] = deque()
        self.peers: dict[bytes, Connection] = {}

    def bind(self, endpoint: str) -> None:
        assert endpoint not in self.network.bound, f"{endpoint} is bound twice"
        self.network.bound[endpoint] = self

    def recv_multipart(self, _flags: int = 0) -> list[bytes]:
        if not self.inbox:
            raise zmq.Again
        return list(self.inbox.popleft())

    def send_multipart(self, parts: list[bytes], _flags: int = 0, *, copy: bool = True, track: bool = False) -> Left:
        identity, frame = parts
        self.process.point("send")
        connection = self.peers.get(identity)
        if connection is None:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        if identity not in self.network.connections:
            return Left()  # it is broken, but this side has not noticed
        way = connection.to_dealer
        if self.network.is_slow(connection.dealer.process.name) and len(way.frames) >= SLOW_READER_FRAMES:
            raise zmq.Again
        way.push(frame, self.process)
        return Left()

    def take(self, identity: bytes, frame: bytes) -> None:
        if not self.closed:
            self.network.transcript.frame(self.process.name, identity, frame)
            self.inbox.append((identity, frame))
            self.process.wake()

    def forget(self, identity: bytes) -> None:
        self.peers.pop(identity, None)

    def close(self, linger: int = 0) -> None:
        self.closed = True


class Publisher(_Socket):
    """The XPUB socket: one watcher that misses nothing, and subscriptions to texts."""

    def __init__(self, network: Network, process: Process) -> None:
        super().__init__(network, process)
        self.published: list[bytes] = []
        self.subscriptions: deque[bytes] = deque()

    def recv_multipart(self, _flags: int = 0) -> list[bytes]:
        if not self.subscriptions:
            raise zmq.Again
        return [self.subscriptions.popleft()]

    def bind(self, endpoint: str) -> None:
        pass

    def send_multipart(self, parts: list[bytes], _flags: int = 0) -> None:
        self.process.point("publish")
        self.network.transcript.frame("events", b"", parts[1])
        self.published.append(parts[1])

    def close(self, linger: int = 0) -> None:
        self.closed = True


class Context:
    """A process's `zmq.Context`."""

    _KINDS: ClassVar = {zmq.DEALER: Dealer, zmq.ROUTER: Router, zmq.XPUB: Publisher}

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process

    def socket(self, kind: int) -> Any:
        return self._KINDS[kind](self._network, self._process)
