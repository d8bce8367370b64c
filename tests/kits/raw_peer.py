"""A misbehaving peer: a bare DEALER that sends any frames, and a generator of frames that are not messages.

It can also send messages of common/wire.py, so a test can act as a worker that lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar

import msgpack

from rota.common import wire
from rota.common.errors import ProtocolError
from rota.common.limits import PROTOCOL_VERSION
from rota.common.messages import Message
from rota.common.work import Code
from rota.host.endpoints import Endpoints
from rota.host.sockets import context, dealer

WAIT_MS = 30_000
TAKES = {"frontend": wire.FROM_PRODUCERS, "backend": wire.FROM_WORKERS, "query": wire.QUERIES}

T = TypeVar("T")


class RawPeer:
    """One connection to one of the broker's sockets. Use it in a `with` block."""

    def __init__(self, run_dir: Path, socket: str) -> None:
        self._context = context()
        self._socket = dealer(self._context, getattr(Endpoints.of(run_dir), socket))

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def say(self, message: Message) -> None:
        self.send(wire.encode(message))

    def hear(self, kind: type[T]) -> T:
        """Wait for the next message, which must be of this kind."""
        message = self.hear_any()
        assert isinstance(message, kind), message
        return message

    def hear_any(self) -> Any:
        assert self._socket.poll(WAIT_MS), "the broker says nothing"
        return wire.decode(self._socket.recv(), wire.TO_PRODUCERS | wire.TO_WORKERS)

    def is_quiet(self, milliseconds: int) -> bool:
        """Return whether nothing arrives for so long."""
        return not self._socket.poll(milliseconds)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)


# --- frames that are no messages ------------------------------------------------------------------


def malformed(random: Random, socket: str, count: int) -> Iterator[tuple[bytes, ...]]:
    """Yield a number of messages, in frames, that this socket must refuse."""
    examples = [wire.encode(message) for message in _examples()]
    makers = (_noise, _cut, _flipped, _wrong_field, _wrong_count, _nested, _no_array, _other_version, _several)
    made = 0
    while made < count:
        frames = random.choice(makers)(random, random.choice(examples))
        if len(frames) != 1 or _is_refused(frames[0], socket):
            made += 1
            yield frames


def _is_refused(frame: bytes, socket: str) -> bool:
    try:
        wire.decode(frame, TAKES[socket])
    except ProtocolError:
        return True
    return False


def _examples() -> list[Message]:
    from rota.common import messages
    from rota.common.work import Done, FoldResult, Limits

    code = Code(bytes(32), "agent", limits=Limits())
    run = messages.TaskRun.of("echo/a", 0, (b"x" * 40, b"y"), None)
    done = Done(b"result", bytes(32), (), ("line",), 7, ())
    return [
        messages.Hello(1, "stranger"),
        messages.Submit(2, "main", (run,), True, 1, None),
        messages.OpenLane(3, "lane", messages.LaneSettings(seed=bytes(32)), False, None),
        messages.Keep(11, code.digest, b"\0asm" * 20),
        messages.Deploy(4, "main", "name", code, True),
        messages.Await(5, 1, 10),
        messages.Query(6, "tasks", {"lane": "main", "limit": 5}),
        messages.Register("liar", "cpu", 8, 1 << 20, "here", 1, {"a": [1, 2]}, 0, ()),
        messages.Completed("liar", 1, (FoldResult((done,), b"state"),), 5),
        messages.Prepared("liar", 1, True, {}, ""),
    ]


def _noise(random: Random, example: bytes) -> tuple[bytes, ...]:
    return (random.randbytes(random.choice([0, 1, 3, 30, 3_000])),)


def _cut(random: Random, example: bytes) -> tuple[bytes, ...]:
    return (example[: random.randrange(len(example))],)


def _flipped(random: Random, example: bytes) -> tuple[bytes, ...]:
    changed = bytearray(example)
    for _ in range(random.randint(1, 4)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return (bytes(changed),)


def _wrong_field(random: Random, example: bytes) -> tuple[bytes, ...]:
    fields = msgpack.unpackb(example)
    wrong = (None, -1, 1 << 63, "x" * 70_000, b"", [], {}, {1: 2}, [[[]]] * 9, 0.5, float("nan"), True, "\udcff")
    fields[random.randrange(1, len(fields))] = random.choice(wrong)
    return (msgpack.packb(fields, unicode_errors="surrogatepass"),)


def _wrong_count(random: Random, example: bytes) -> tuple[bytes, ...]:
    fields = msgpack.unpackb(example)
    fields = fields + [0] * random.randint(1, 5) if random.random() < 0.5 else fields[: random.randrange(len(fields))]
    return (msgpack.packb(fields),)


def _nested(random: Random, example: bytes) -> tuple[bytes, ...]:
    depth = random.choice([50, 600, 5_000])
    return (b"\x91" * depth if random.random() < 0.5 else b"\x81\xa1a" * depth,)


def _no_array(random: Random, example: bytes) -> tuple[bytes, ...]:
    # The last ones announce four thousand million elements or bytes and have none.
    values = (msgpack.packb({"version": 1}), b"\xc0", b"\x07", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
              b"\xc6\xff\xff\xff\xff", b"\x94\x01\x02\xdd\xff\xff\xff\xff")  # fmt: skip
    return (random.choice(values),)


def _other_version(random: Random, example: bytes) -> tuple[bytes, ...]:
    fields = msgpack.unpackb(example)
    fields[0] = random.choice([0, PROTOCOL_VERSION + 1, 99, -1])
    return (msgpack.packb(fields),)


def _several(random: Random, example: bytes) -> tuple[bytes, ...]:
    return (example,) * random.randint(2, 6)
