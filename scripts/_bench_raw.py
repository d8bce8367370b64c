"""The raw loop that the bench compares with: a producer, a broker and workers over ZeroMQ, and nothing else.

The topology is Rota's: DEALER, ROUTER, ROUTER, DEALER over `ipc://`, with the socket options of host/sockets.py, and
two messages per worker in flight. Nothing is stored, ordered, checked or run: the broker forwards frames unchanged, a
worker unpacks the payloads of a message and packs them again. Broker and workers are processes that run this file; they
exit when their stdin closes, so nothing is left behind however the bench ends.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
import zmq

from rota.host.sockets import Socket, context, dealer, router

IN_FLIGHT_PER_WORKER = 2
WAIT_MS = 30_000
END_SECONDS_MAX = 10.0


class RawLoop:
    """The producer's side of a running loop."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def tasks_per_second(self, tasks: int, tasks_per_message: int, payload: bytes) -> float:
        """Send the tasks at once; return how many came back per second, from the first send to the last answer."""
        sizes = [min(tasks_per_message, tasks - first) for first in range(0, tasks, tasks_per_message)]
        started = time.perf_counter()
        for size in sizes:
            self._socket.send(msgpack.packb([payload] * size))
        came = 0
        while came < tasks:
            came += len(self._receive())
        return tasks / (time.perf_counter() - started)

    def round_trip_seconds(self, payload: bytes) -> float:
        """Send one task, wait for its answer, and return the time taken."""
        started = time.perf_counter()
        self._socket.send(msgpack.packb([payload]))
        self._receive()
        return time.perf_counter() - started

    def _receive(self) -> list[bytes]:
        if not self._socket.poll(WAIT_MS):
            raise TimeoutError(f"nothing came back through the raw ZeroMQ loop for {WAIT_MS} ms")
        payloads: list[bytes] = msgpack.unpackb(self._socket.recv())
        return payloads


@contextlib.contextmanager
def raw_loop(folder: Path, workers: int) -> Iterator[RawLoop]:
    """Run a broker and workers of the raw loop, and yield its producer."""
    front, back = (f"ipc://{folder}/raw-{name}-{workers}.sock" for name in ("front", "back"))
    commands = [["broker", front, back], *[["worker", back]] * workers]
    with contextlib.ExitStack() as open_now:
        for arguments in commands:
            open_now.enter_context(_process(arguments))
        sockets = open_now.enter_context(context())
        loop = RawLoop(open_now.enter_context(dealer(sockets, front)))
        loop.tasks_per_second(64 * workers, 1, b"")  # wait until all are connected and warm
        yield loop


@contextlib.contextmanager
def _process(arguments: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- the processes --------------------------------------------------------------------------------


def run_broker(front_address: str, back_address: str) -> None:
    """Forward messages in order of arrival to workers with room, and answers back."""
    with context() as sockets, router(sockets, front_address) as front, router(sockets, back_address) as back:
        waiting: deque[list[bytes]] = deque()
        free: deque[bytes] = deque()
        for ready in _wakes(front, back):
            if front in ready:
                waiting.extend(_all_of(front))
            if back in ready:
                for worker, *answer in _all_of(back):
                    free.append(worker)
                    if answer[0]:
                        front.send_multipart(answer)
            while waiting and free:
                back.send_multipart([free.popleft(), *waiting.popleft()])


def run_worker(address: str) -> None:
    """Unpack each message, pack it again, and send it back."""
    with context() as sockets, dealer(sockets, address) as socket:
        for _ in range(IN_FLIGHT_PER_WORKER):
            socket.send_multipart([b"", b""])
        for ready in _wakes(socket):
            if socket in ready:
                for producer, frame in _all_of(socket):
                    socket.send_multipart([producer, msgpack.packb(msgpack.unpackb(frame))])


def _wakes(*sockets: Socket) -> Iterator[dict[object, int]]:
    """Yield the ready sockets of each poll until stdin closes."""
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
    poller.register(sys.stdin, zmq.POLLIN)
    while sys.stdin.fileno() not in (ready := dict(poller.poll())):
        yield ready


def _all_of(socket: Socket) -> Iterator[list[bytes]]:
    with contextlib.suppress(zmq.Again):
        while True:
            yield socket.recv_multipart(zmq.NOBLOCK)


if __name__ == "__main__":
    if sys.argv[1] == "broker":
        run_broker(sys.argv[2], sys.argv[3])
    else:
        run_worker(sys.argv[2])
