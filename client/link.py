"""The connections of a client: each one socket, driven by one state machine (`Session`, `Questions` or `Texts`).

The machine decides what to send and when to reconnect; the link only moves frames. It never blocks: the shell polls
`socket` and calls `pump`. A link belongs to the thread that made it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import zmq

from rota.client.questions import Questions
from rota.client.session import Session
from rota.client.texts import Texts
from rota.host.sockets import Socket, dealer, subscriber

_FRAMES_PER_PUMP_MAX: Final = 256  # so that a flood of results cannot delay the caller's deadline


class Link:
    """`locate` returns the address for each new connection, since a restarted broker may have another one."""

    def __init__(self, context: zmq.Context[Socket], locate: Callable[[], str], machine: Session | Questions) -> None:
        self._context = context
        self._locate = locate
        self._machine = machine
        self._unsent: deque[bytes] = deque()
        self.socket = dealer(context, locate())

    def pump(self, now_ms: int) -> None:
        """Read what has arrived, advance the machine's time, send what is due."""
        self._read(now_ms)
        self._machine.tick(now_ms)
        output = self._machine.output()
        if output.reconnect:
            self._unsent.clear()
            self.socket.close(linger=0)
            self.socket = dealer(self._context, self._locate())
        self._unsent.extend(output.frames)
        self._send()

    @property
    def events(self) -> int:
        """What to poll the socket for."""
        return zmq.POLLIN | zmq.POLLOUT if self._unsent else zmq.POLLIN

    def has_input(self) -> bool:
        """Return whether frames wait to be read."""
        return has_input(self.socket)

    def next_tick_ms(self) -> int | None:
        """Return when `pump` has something to do even if nothing arrives."""
        return self._machine.next_tick_ms()

    def close(self) -> None:
        self.socket.close(linger=0)

    @property
    def descriptor(self) -> int:
        """The descriptor for an event loop. It is edge-triggered, see ZMQ_FD in zmq_getsockopt(3)."""
        return descriptor_of(self.socket)

    def _read(self, now_ms: int) -> None:
        for _ in range(_FRAMES_PER_PUMP_MAX):
            try:
                frame = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._machine.receive(frame, now_ms)

    def _send(self) -> None:
        while self._unsent:
            try:
                self.socket.send(self._unsent[0], zmq.NOBLOCK)
            except zmq.Again:
                return
            self._unsent.popleft()


class TextLink:
    """The connection on which the texts of running tasks come: one for all tasks that a client follows."""

    events: Final = zmq.POLLIN

    def __init__(self, context: zmq.Context[Socket], endpoint: str, texts: Texts) -> None:
        self._texts = texts
        self.socket = subscriber(context, endpoint, ())

    def pump(self, now_ms: int) -> None:
        """Read what has arrived, then change the subscriptions."""
        for _ in range(_FRAMES_PER_PUMP_MAX):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._texts.receive(frames[-1])
        for wanted, topic in self._texts.changes():
            self.socket.set(zmq.SUBSCRIBE if wanted else zmq.UNSUBSCRIBE, topic.encode())

    def has_input(self) -> bool:
        """Return whether frames wait to be read."""
        return has_input(self.socket)

    def next_tick_ms(self) -> int | None:
        """Return when `pump` has something to do even if nothing arrives: never."""
        return None

    def close(self) -> None:
        self.socket.close(linger=0)

    @property
    def descriptor(self) -> int:
        """The edge-triggered descriptor for an event loop."""
        return descriptor_of(self.socket)


def has_input(socket: Socket) -> bool:
    """Return whether frames wait to be read."""
    return bool(int(socket.get(zmq.EVENTS)) & zmq.POLLIN)


def descriptor_of(socket: Socket) -> int:
    """Return the edge-triggered descriptor of a socket."""
    return int(socket.get(zmq.FD))
