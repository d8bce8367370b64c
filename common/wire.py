"""Messages to bytes and back: the only place where bytes become types. PURE.

A message is one ZeroMQ frame: a MessagePack array `[version, tag, field, ...]`. `decode` accepts exactly what
docs/PROTOCOL.md says and raises `ProtocolError` for anything else: every field has a check in the schema below,
nested parts included (checks.py), and what comes out is made of tuples, so that nobody can change it later. Tags are
never reused; a retired one stays in the enum as deprecated.

To change a message: its class in messages.py, its row in SCHEMA, its table in docs/PROTOCOL.md, and PROTOCOL_VERSION
if a peer could notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import msgpack

from rota.common import limits, messages, work
from rota.common.checks import (
    Check,
    anything,
    arguments,
    array,
    blob,
    code,
    code_name,
    completion,
    count,
    digest,
    flag,
    fold,
    integer,
    mapping,
    message_text,
    name,
    now,
    number,
    one_of,
    optional,
    preparation,
    producer,
    result,
    run,
    settings,
    target,
    text,
)
from rota.common.errors import ProtocolError, VersionMismatch


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
    REGISTERED = 50
    HEARTBEAT_ACK = 51
    ASSIGN = 52
    REVOKE = 53
    PREPARE = 54
    EVENT = 60


def encode(message: messages.Message) -> bytes:
    """Return the frame of a message. What we send is built by us, so it is not checked again here."""
    tag = _TAG_OF[type(message)]
    if type(message) is messages.Completed:
        message = message._replace(folds=tuple([_fold_fields(fold) for fold in message.folds]))
    packed: bytes = msgpack.packb((limits.PROTOCOL_VERSION, tag, *message))
    return packed


def decode(frame: bytes, allowed: frozenset[type] | None = None) -> messages.Message:
    """Return the message in a frame; `allowed` names the classes that may come on this socket.

    Raises `VersionMismatch` for another protocol version and `ProtocolError` for everything that is not a message.
    """
    fields = _unpack(frame)
    row = SCHEMA.get(fields[1])
    if row is None:
        raise ProtocolError(f"tag {fields[1]!r} names no message of protocol version {limits.PROTOCOL_VERSION}")
    cls, wanted = row
    if allowed is not None and cls not in allowed:
        raise ProtocolError(f"{cls.__name__} does not belong on this socket")
    if len(fields) != len(wanted) + 2:
        raise ProtocolError(f"{cls.__name__} has {len(wanted)} fields, got {len(fields) - 2}")
    try:
        message: messages.Message = cls._make([check(value) for check, value in zip(wanted, fields[2:], strict=True)])
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"{cls.__name__}: {_name_bad_field(cls, wanted, fields[2:])}: {error}") from None
    return message


def request_number(frame: bytes) -> int:
    """Return the number of a request that does not decode, so that its refusal can be paired with it; 0 if it has
    none.
    """
    try:
        fields = _unpack(frame, any_version=True)
    except ProtocolError:
        return 0
    number = fields[2] if len(fields) > 2 else 0
    return number if type(number) is int and 0 <= number <= limits.NOW_MS_MAX else 0


def _unpack(frame: bytes, any_version: bool = False) -> list[Any]:
    try:
        fields = msgpack.unpackb(
            frame,
            strict_map_key=True,
            max_str_len=limits.MESSAGE_BYTES_MAX,
            max_bin_len=limits.MESSAGE_BYTES_MAX,
            max_array_len=limits.MESSAGE_ITEMS_MAX,
            max_map_len=limits.MESSAGE_ITEMS_MAX,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises ValueError kinds, UnicodeDecodeError, OverflowError, StackError
        raise ProtocolError(f"not one MessagePack value: {type(error).__name__}: {error}") from None
    if type(fields) is not list or len(fields) < 2 or type(fields[0]) is not int or type(fields[1]) is not int:
        raise ProtocolError("not an array that starts with version and tag")
    if fields[0] != limits.PROTOCOL_VERSION and not any_version:
        raise VersionMismatch(
            f"the peer speaks protocol version {fields[0]}, this is version {limits.PROTOCOL_VERSION}: "
            "install the same rota on both",
            theirs=fields[0],
            ours=limits.PROTOCOL_VERSION,
        )
    return fields


def _name_bad_field(cls: Any, row: tuple[Check, ...], values: list[Any]) -> str:
    for field, check, value in zip(cls._fields, row, values, strict=True):
        try:
            check(value)
        except (ValueError, TypeError, RecursionError):
            return f"field {field}"
    return "a field"


def outcome_fields(outcome: work.Outcome) -> tuple[Any, ...]:
    """Return the wire form of an outcome: `[0, ...Done]` or `[1, ...Failed]`."""
    return (0, *outcome) if type(outcome) is work.Done else (1, *outcome)


def _fold_fields(fold: work.FoldResult) -> Any:
    return ([outcome_fields(outcome) for outcome in fold.outcomes], *fold[1:])


# --- the table ------------------------------------------------------------------------------------

SCHEMA: Final[Mapping[int, tuple[Any, tuple[Check, ...]]]] = {
    Tag.HELLO: (messages.Hello, (number, producer)),
    Tag.SUBMIT: (
        messages.Submit,
        (number, name, array(run, limits.RUN_TASKS_MAX), flag, optional(now), optional(count)),
    ),
    Tag.OPEN_LANE: (messages.OpenLane, (number, name, settings, flag, optional(name))),
    Tag.DEPLOY: (
        messages.Deploy,
        (number, name, code_name, code, optional(blob(limits.MODULE_BYTES_MAX)), flag),
    ),
    Tag.CANCEL: (messages.Cancel, (number, count)),
    Tag.SET_PAUSED: (messages.SetPaused, (number, name, flag)),
    Tag.SET_WINDOW: (messages.SetWindow, (number, name, integer(1, limits.WINDOW_TASKS_MAX))),
    Tag.DEAD_DROP: (messages.DeadDrop, (number, name, array(count, limits.DEAD_TASKS_MAX))),
    Tag.AWAIT: (messages.Await, (number, integer(1, limits.NOW_MS_MAX), integer(1, limits.NOW_MS_MAX))),
    Tag.DRAIN: (messages.Drain, (number, flag)),
    Tag.WELCOME: (messages.Welcome, (number, count, text(64))),
    Tag.ACCEPTED: (messages.Accepted, (number, count, count)),
    Tag.ANSWER: (messages.Answer, (number, anything)),
    Tag.REFUSED: (messages.Refused, (number, text(64), message_text, mapping)),
    Tag.RESULTS: (messages.Results, (array(result, limits.MESSAGE_ITEMS_MAX),)),
    Tag.QUERY: (messages.Query, (number, one_of(*messages.QUERIES), arguments)),
    Tag.REGISTER: (
        messages.Register,
        (
            text(128),
            one_of("cpu", "gpu"),
            integer(1, limits.RUN_TASKS_MAX),
            count,
            text(512),
            integer(0, limits.PID_MAX),
            mapping,
            count,
            array(count, limits.RUN_TASKS_MAX),
        ),
    ),
    Tag.HEARTBEAT: (
        messages.Heartbeat,
        (text(128), count, array(count, limits.ASSIGNMENTS_HELD_MAX), array(preparation, limits.PREPARATIONS_MAX)),
    ),
    Tag.COMPLETED: (messages.Completed, (text(128), count, array(completion, limits.RUN_TASKS_MAX), count)),
    Tag.PREPARED: (messages.Prepared, (text(128), number, flag, mapping, message_text)),
    Tag.GOODBYE: (messages.Goodbye, (text(128), flag)),
    Tag.REGISTERED: (messages.Registered, (count, count, array(count, limits.RUN_TASKS_MAX))),
    Tag.HEARTBEAT_ACK: (messages.HeartbeatAck, (count, flag)),
    Tag.ASSIGN: (
        messages.Assign,
        (count, digest, array(code, limits.RUN_TASKS_MAX), array(fold, limits.RUN_TASKS_MAX)),
    ),
    Tag.REVOKE: (messages.Revoke, (count,)),
    Tag.PREPARE: (messages.Prepare, (number, target, code)),
    Tag.EVENT: (
        messages.Event,
        (count, count, now, one_of(*messages.TOPICS), text(limits.NAME_CHARS_MAX), mapping),
    ),
}

_TAG_OF: Final[Mapping[type, int]] = {row[0]: int(tag) for tag, row in SCHEMA.items()}

FROM_PRODUCERS: Final = frozenset(
    {
        messages.Hello, messages.Submit, messages.OpenLane, messages.Deploy, messages.Cancel, messages.SetPaused,
        messages.SetWindow, messages.DeadDrop, messages.Await, messages.Drain,
    }
)  # fmt: skip
TO_PRODUCERS: Final = frozenset(
    {messages.Welcome, messages.Accepted, messages.Answer, messages.Refused, messages.Results}
)
FROM_WORKERS: Final = frozenset(
    {messages.Register, messages.Heartbeat, messages.Completed, messages.Prepared, messages.Goodbye}
)
TO_WORKERS: Final = frozenset(
    {messages.Registered, messages.HeartbeatAck, messages.Assign, messages.Revoke, messages.Prepare, messages.Refused}
)
QUERIES: Final = frozenset({messages.Query})
