"""Messages to bytes and back: the only place where bytes become messages. PURE.

A message is one ZeroMQ frame: a MessagePack array `[version, tag, field, ...]`. `decode` accepts exactly what
docs/PROTOCOL.md says and raises `ProtocolError` for anything else. The bounds are at the fields (messages.py, work.py,
outcomes.py, columns.py); decoded messages are immutable tuples and columns. Tags are never reused; a retired one stays
in the enum as deprecated.

To change a message: its class, its table in docs/PROTOCOL.md, and PROTOCOL_VERSION if a peer could notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import msgpack
import msgspec

from rota.common import limits, messages
from rota.common.errors import ProtocolError, VersionMismatch
from rota.common.shape import Shape

_ARGUMENT_CHARS_MAX: Final = 512  # of a query; an address has up to 265


class Tag(IntEnum):
    """The second element of every message."""

    HELLO = 1
    SUBMIT = 2
    OPEN_LANE = 3
    DEPLOY = 4
    CANCEL = 5
    SET_PAUSED = 6
    SET_WINDOW = 7
    DEAD_DROP = 8
    AWAIT = 9
    DRAIN = 10
    KEEP = 11
    WELCOME = 20
    ACCEPTED = 21
    ANSWER = 22
    REFUSED = 23
    RESULTS = 24
    QUERY = 30
    REGISTER = 40
    HEARTBEAT = 41
    COMPLETED = 42
    PREPARED = 43
    GOODBYE = 44
    STREAMED = 45
    REGISTERED = 50
    HEARTBEAT_ACK = 51
    ASSIGN = 52
    REVOKE = 53
    PREPARE = 54
    EVENT = 60


_CLASSES: Final[Mapping[Tag, Any]] = {
    Tag.HELLO: messages.Hello,
    Tag.SUBMIT: messages.Submit,
    Tag.OPEN_LANE: messages.OpenLane,
    Tag.DEPLOY: messages.Deploy,
    Tag.CANCEL: messages.Cancel,
    Tag.SET_PAUSED: messages.SetPaused,
    Tag.SET_WINDOW: messages.SetWindow,
    Tag.DEAD_DROP: messages.DeadDrop,
    Tag.AWAIT: messages.Await,
    Tag.DRAIN: messages.Drain,
    Tag.KEEP: messages.Keep,
    Tag.WELCOME: messages.Welcome,
    Tag.ACCEPTED: messages.Accepted,
    Tag.ANSWER: messages.Answer,
    Tag.REFUSED: messages.Refused,
    Tag.RESULTS: messages.Results,
    Tag.QUERY: messages.Query,
    Tag.REGISTER: messages.Register,
    Tag.HEARTBEAT: messages.Heartbeat,
    Tag.COMPLETED: messages.Completed,
    Tag.PREPARED: messages.Prepared,
    Tag.GOODBYE: messages.Goodbye,
    Tag.STREAMED: messages.Streamed,
    Tag.REGISTERED: messages.Registered,
    Tag.HEARTBEAT_ACK: messages.HeartbeatAck,
    Tag.ASSIGN: messages.Assign,
    Tag.REVOKE: messages.Revoke,
    Tag.PREPARE: messages.Prepare,
    Tag.EVENT: messages.Event,
}
SCHEMA: Final[Mapping[int, Shape]] = {
    int(tag): Shape(cls, limits.PROTOCOL_VERSION, int(tag)) for tag, cls in _CLASSES.items()
}
_SHAPE_OF: Final[Mapping[type, Shape]] = {shape.cls: shape for shape in SCHEMA.values()}
# Of messages with a field of any shape: what is nested in it takes many times its bytes, and seconds to decode.
_BYTES_MAX: Final[Mapping[type, int]] = {
    messages.Query: 64 << 10, messages.Register: 256 << 10, messages.Prepared: 256 << 10,
}  # fmt: skip
_HEAD_BYTES: Final = 32  # an array's header and three integers in their longest form
_items: Final = msgspec.msgpack.Decoder(tuple[msgspec.Raw, ...])
_integer: Final = msgspec.msgpack.Decoder(int)


def encode(message: messages.Message) -> bytes:
    """Return the frame of a message. Our own messages are not checked again."""
    return _SHAPE_OF[type(message)].encode(message)


def decode(frame: bytes, allowed: frozenset[type] | None = None) -> messages.Message:
    """Return the message in a frame; `allowed` are the classes accepted on this socket.

    Raises `VersionMismatch` for another protocol version and `ProtocolError` for bytes that are not a message.
    """
    version, tag = _head(frame)
    if version != limits.PROTOCOL_VERSION:
        raise VersionMismatch(
            f"the peer speaks protocol version {version}, this is version {limits.PROTOCOL_VERSION}: "
            "install the same rota on both",
            theirs=version,
            ours=limits.PROTOCOL_VERSION,
        )
    row = SCHEMA.get(tag)
    if row is None:
        raise ProtocolError(f"tag {tag} names no message of protocol version {limits.PROTOCOL_VERSION}")
    if allowed is not None and row.cls not in allowed:
        raise ProtocolError(f"{row.cls.__name__} does not belong on this socket")
    bytes_max = _BYTES_MAX.get(row.cls)
    if bytes_max is not None and len(frame) > bytes_max:
        raise ProtocolError(f"{row.cls.__name__}: {len(frame)} bytes, at most {bytes_max}")
    try:
        message: messages.Message = row.decode(frame)
        if type(message) is messages.Query:
            _check_arguments(message.arguments)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"not one MessagePack value: {error}") from None
    except ValueError as error:
        raise ProtocolError(str(error)) from None
    return message


def request_number(frame: bytes) -> int:
    """Return the number of a request that cannot be decoded, for its refusal; 0 if it has none."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(frame[:_HEAD_BYTES])  # the rest may be of any size or depth
    try:
        unpacker.read_array_header()
        number = [unpacker.unpack() for _ in range(3)][2]
    except Exception:  # msgpack raises many kinds of errors, and UnicodeDecodeError
        return 0
    return number if type(number) is int and 0 <= number <= limits.NOW_MS_MAX else 0


def _head(frame: bytes) -> tuple[int, int]:
    """Return version and tag, in our own messages the second and third byte."""
    if len(frame) > 2 and 0x92 <= frame[0] <= 0x9F and frame[1] < 0x80 and frame[2] < 0x80:
        return frame[1], frame[2]
    try:  # integers may have any encoding, and a peer of another version may have more fields
        version, tag = map(_integer.decode, _items.decode(frame)[:2])
    except msgspec.ValidationError:
        raise ProtocolError("not an array that starts with version and tag") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"not one MessagePack value: {error}") from None
    except ValueError:  # fewer than two
        raise ProtocolError("not an array that starts with version and tag") from None
    return version, tag


def _check_arguments(arguments: dict[str, Any]) -> None:
    """Raise ValueError unless these are a few short values, since refusals repeat them."""
    for name, argument in arguments.items():
        if not isinstance(argument, str | int | bool | None):
            raise ValueError("Query: field arguments: wants text, integers, booleans or nil by name")
        if max(len(name), len(argument) if isinstance(argument, str) else 0) > _ARGUMENT_CHARS_MAX:
            raise ValueError(
                f"Query: field arguments: wants names and texts of at most {_ARGUMENT_CHARS_MAX} characters"
            )


FROM_PRODUCERS: Final = frozenset(
    {
        messages.Hello, messages.Submit, messages.OpenLane, messages.Deploy, messages.Cancel, messages.SetPaused,
        messages.SetWindow, messages.DeadDrop, messages.Await, messages.Drain, messages.Keep,
    }
)  # fmt: skip
TO_PRODUCERS: Final = frozenset(
    {messages.Welcome, messages.Accepted, messages.Answer, messages.Refused, messages.Results}
)
FROM_WORKERS: Final = frozenset(
    {
        messages.Register, messages.Heartbeat, messages.Streamed, messages.Completed, messages.Prepared,
        messages.Goodbye,
    }
)  # fmt: skip
TO_WORKERS: Final = frozenset(
    {messages.Registered, messages.HeartbeatAck, messages.Assign, messages.Revoke, messages.Prepare, messages.Refused}
)
QUERIES: Final = frozenset({messages.Query})
