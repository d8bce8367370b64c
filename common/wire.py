"""Messages to bytes and back: the only place where bytes become types. PURE.

A message is one ZeroMQ frame: a MessagePack array `[version, tag, field, ...]`. `decode` accepts exactly what
docs/PROTOCOL.md says and raises `ProtocolError` for anything else: every field has a check in the schema below,
nested parts included, and what comes out is made of tuples, so that nobody can change it later. Tags are never
reused; a retired one stays in the enum as deprecated.

To change a message: its class in messages.py, its row in SCHEMA, its table in docs/PROTOCOL.md, and PROTOCOL_VERSION
if a peer could notice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import NoneType
from typing import Any, Final

import msgpack

from rota.common import limits, messages, work
from rota.common.errors import ProtocolError, VersionMismatch
from rota.common.targets import is_name, is_target

Check = Callable[[Any], Any]
"""Takes a decoded value, returns what the message holds, raises ValueError if it is not allowed."""

_ARGUMENTS_MAX: Final = 16
_ARGUMENT_CHARS_MAX: Final = 512  # an address has up to 265


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
    cls, checks = row
    if allowed is not None and cls not in allowed:
        raise ProtocolError(f"{cls.__name__} does not belong on this socket")
    if len(fields) != len(checks) + 2:
        raise ProtocolError(f"{cls.__name__} has {len(checks)} fields, got {len(fields) - 2}")
    try:
        return cls._make([check(value) for check, value in zip(checks, fields[2:], strict=True)])  # type: ignore[no-any-return]
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"{cls.__name__}: {_name_bad_field(cls, checks, fields[2:])}: {error}") from None


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


def _name_bad_field(cls: Any, checks: tuple[Check, ...], values: list[Any]) -> str:
    for name, check, value in zip(cls._fields, checks, values, strict=True):
        try:
            check(value)
        except (ValueError, TypeError, RecursionError):
            return f"field {name}"
    return "a field"


# --- checks ---------------------------------------------------------------------------------------


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"wants an integer {low}..{high}, got {_short(value)}")
        return value

    return check


def _text(chars_max: int) -> Check:
    def check(value: Any) -> str:
        if type(value) is not str or len(value) > chars_max:
            raise ValueError(f"wants text of at most {chars_max} characters, got {_short(value)}")
        return value

    return check


def _blob(bytes_max: int) -> Check:
    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > bytes_max:
            raise ValueError(f"wants at most {bytes_max} bytes, got {_short(value)}")
        return value

    return check


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if type(value) is not str or value not in choices:
            raise ValueError(f"wants one of {', '.join(choices)}, got {_short(value)}")
        return value

    return check


def _optional(inner: Check) -> Check:
    return lambda value: None if value is None else inner(value)


def _array(inner: Check, items_max: int) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > items_max:
            raise ValueError(f"wants an array of at most {items_max} elements, got {_short(value)}")
        return tuple([inner(item) for item in value])

    return check


def _record(make: Callable[[list[Any]], Any], *checks: Check) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not list or len(value) != len(checks):
            raise ValueError(f"wants an array of {len(checks)} elements, got {_short(value)}")
        return make([inner(item) for inner, item in zip(checks, value, strict=True)])

    return check


def _payloads(value: Any) -> tuple[bytes, ...]:
    """A hand-made `_array(_blob(...))`: the payloads of a run come by the thousand."""
    if type(value) is not list or len(value) > limits.RUN_TASKS_MAX:
        raise ValueError(f"wants at most {limits.RUN_TASKS_MAX} payloads, got {_short(value)}")
    for item in value:
        if type(item) is not bytes or len(item) > limits.PAYLOAD_BYTES_MAX:
            raise ValueError(
                f"wants payloads of at most {limits.PAYLOAD_BYTES_MAX} bytes, got {_short(item)}; send more as tensors"
            )
    return tuple(value)


def _name(value: Any) -> str:
    if type(value) is not str or not is_name(value):
        raise ValueError(
            f"wants a name of letters, digits, _ . - (at most {limits.NAME_CHARS_MAX}), got {_short(value)}"
        )
    return value


def _code_name(value: Any) -> str:
    if type(value) is not str or not is_name(value.removeprefix("model:")):
        raise ValueError(f"wants a name or model:NAME, got {_short(value)}")
    return value


def _target(value: Any) -> str:
    if type(value) is not str or not is_target(value):
        raise ValueError(f"wants a target (name/key, name or model:NAME), got {_short(value)}")
    return value


def _targets(value: Any) -> str | tuple[str, ...]:
    return _target(value) if type(value) is str else _array(_target, limits.RUN_TASKS_MAX)(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"wants true or false, got {_short(value)}")
    return value


def _digest(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != 32:
        raise ValueError(f"wants a digest of 32 bytes, got {_short(value)}")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise ValueError(f"wants a map with text keys, got {_short(value)}")
    _check_depth(value)
    return value


def _check_depth(value: dict[str, Any]) -> None:
    """Level by level: whoever prints or packs a value later recurses into it, and would not come back."""
    level: list[Any] = [value]
    for _ in range(limits.VALUE_DEPTH_MAX):
        inner = [item.values() if type(item) is dict else item for item in level]
        level = [item for items in inner for item in items if type(item) in (list, dict)]
        if not level:
            return
    raise ValueError(f"wants at most {limits.VALUE_DEPTH_MAX} levels of lists and maps inside each other")


def _arguments(value: Any) -> dict[str, Any]:
    """Of a question: a few plain values, because refusals repeat them."""
    if type(value) is not dict or len(value) > _ARGUMENTS_MAX:
        raise ValueError(f"wants a map of at most {_ARGUMENTS_MAX} arguments, got {_short(value)}")
    for name, argument in value.items():
        if type(name) is not str or type(argument) not in (str, int, bool, NoneType):
            raise ValueError(f"wants text, integers, booleans or nil by name, got {_short(argument)}")
        if max(len(name), len(argument) if type(argument) is str else 0) > _ARGUMENT_CHARS_MAX:
            raise ValueError(f"wants names and texts of at most {_ARGUMENT_CHARS_MAX} characters")
    return value


def _anything(value: Any) -> Any:
    return value


def _run(value: Any) -> messages.TaskRun:
    run: messages.TaskRun = _record(
        messages.TaskRun._make, _targets, _priority, _payloads, _optional(_array(_tensors, limits.RUN_TASKS_MAX))
    )(value)
    count = len(run.payloads)
    if count == 0:
        raise ValueError("a run holds at least one payload")
    if type(run.targets) is tuple and len(run.targets) != count:
        raise ValueError(f"{len(run.targets)} targets for {count} payloads")
    if run.tensors is not None and len(run.tensors) != count:
        raise ValueError(f"{len(run.tensors)} lists of tensors for {count} payloads")
    return run


def _short(value: Any) -> str:
    """What was got, short enough for a log line and never the whole payload."""
    if isinstance(value, bytes | str | list | dict):
        return f"{type(value).__name__} of length {len(value)}"
    return repr(value)[:40]


_count = _integer(0, limits.NOW_MS_MAX)
_number = _integer(0, limits.NOW_MS_MAX)
_fuel = _integer(0, limits.FUEL_MAX)
_now = _integer(0, limits.NOW_MS_MAX)
_priority = _integer(limits.PRIORITY_MIN, limits.PRIORITY_MAX)
_producer = _text(limits.NAME_CHARS_MAX)
_message_text = _text(limits.MESSAGE_BYTES_MAX)
_module_or_state = _blob(limits.MESSAGE_BYTES_MAX)
_ref = _record(work.TensorRef._make, _digest, _text(32), _array(_count, 32))
_tensors = _array(_ref, limits.TENSORS_PER_TASK_MAX)
_limits_of_code = _record(
    work.Limits._make,
    _integer(1, limits.FUEL_MAX),
    _integer(1 << 16, limits.MEMORY_BYTES_MAX),
    _integer(1, limits.TIMEOUT_MS_MAX),
    _integer(0, limits.EMITS_MAX),
    _integer(0, limits.MESSAGE_BYTES_MAX // 2),
    _integer(0, limits.MESSAGE_BYTES_MAX // 2),
    _integer(0, limits.PAYLOAD_BYTES_MAX),
)
_code = _record(
    work.Code._make,
    _digest,
    _one_of(*work.CODE_KINDS),
    _flag,
    _array(_record(tuple, _text(32), _text(256)), 8),
    _limits_of_code,
)
_settings = _record(
    messages.LaneSettings._make,
    _one_of("derived", "recorded"),
    _integer(1, limits.WINDOW_TASKS_MAX),
    _integer(1, 1 << 32),
    _integer(1, 1 << 32),
    _optional(_digest),
)
_provenance = _record(work.Provenance._make, _one_of(work.BITWISE, work.RECORDED), _text(64), _digest)
_log = _array(_text(limits.PAYLOAD_BYTES_MAX), limits.LOG_LINES_MAX)
_emit = _record(
    work.Emit._make, _target, _blob(limits.PAYLOAD_BYTES_MAX), _priority, _one_of(*work.EMIT_KINDS), _tensors,
    _integer(0, limits.DELAY_MS_MAX),
)  # fmt: skip
_done = _record(
    work.Done._make, _optional(_module_or_state), _optional(_digest), _array(_emit, limits.EMITS_MAX), _log, _fuel,
    _tensors
)  # fmt: skip
_failed = _record(
    work.Failed._make, _one_of(*work.FAILURE_KINDS), _text(limits.MESSAGE_CHARS_MAX), _log, _fuel
)  # fmt: skip


def check_outcome(value: Any) -> work.Outcome:
    """Return the outcome in `[0, ...Done]` or `[1, ...Failed]`; raises ValueError if it is neither."""
    if type(value) is not list or not value or value[0] not in (0, 1):
        raise ValueError(f"wants an outcome, got {_short(value)}")
    if len(value) == 7 and _is_plain_done(value):
        return work.Done(value[1], value[2], (), (), value[5], ())
    outcome: work.Outcome = (_done if value[0] == 0 else _failed)(value[1:])
    return outcome


def _is_plain_done(value: list[Any]) -> bool:
    """A result with nothing beside it: most outcomes are that, and this is a tenth of the work of the full check."""
    tag, result, state_digest, emits, log, fuel, tensors = value
    return (
        tag == 0
        and (result is None or (type(result) is bytes and len(result) <= limits.MESSAGE_BYTES_MAX))
        and (state_digest is None or (type(state_digest) is bytes and len(state_digest) == 32))
        and emits == log == tensors == []
        and type(fuel) is int
        and 0 <= fuel <= limits.FUEL_MAX
    )


def outcome_fields(outcome: work.Outcome) -> tuple[Any, ...]:
    """Return the wire form of an outcome: `[0, ...Done]` or `[1, ...Failed]`."""
    return (0, *outcome) if type(outcome) is work.Done else (1, *outcome)


def _fold_fields(fold: work.FoldResult) -> Any:
    return ([outcome_fields(outcome) for outcome in fold.outcomes], *fold[1:])


_segment = _record(
    messages.Segment._make,
    _one_of(*work.MESSAGE_KINDS),
    _optional(_target),
    _now,
    _optional(_record(work.ReplyTo._make, _count, _count, _count)),
    _integer(0, limits.EMITS_MAX),
    _array(_count, limits.RUN_TASKS_MAX),
    _payloads,
    _optional(_array(_tensors, limits.RUN_TASKS_MAX)),
)
_fold = _record(
    messages.FoldAssignment._make, _count, _target, _optional(_module_or_state), _array(_segment, limits.RUN_TASKS_MAX)
)  # fmt: skip
_completion = _record(
    work.FoldResult._make,
    _array(check_outcome, limits.RUN_TASKS_MAX),
    _optional(_module_or_state),
    _optional(_one_of("timeout", "interrupted", "refused")),
    _message_text,
    _optional(_provenance),
)
_result = _record(
    messages.ResultItem._make,
    _count, _name, _count, _count, _flag, _optional(_module_or_state), _tensors, _text(32), _message_text, _log,
    _optional(_provenance),
)  # fmt: skip

# --- the table ------------------------------------------------------------------------------------

SCHEMA: Final[Mapping[int, tuple[Any, tuple[Check, ...]]]] = {
    Tag.HELLO: (messages.Hello, (_number, _producer)),
    Tag.SUBMIT: (
        messages.Submit,
        (_number, _name, _array(_run, limits.RUN_TASKS_MAX), _flag, _optional(_now), _optional(_count)),
    ),
    Tag.OPEN_LANE: (messages.OpenLane, (_number, _name, _settings, _flag, _optional(_name))),
    Tag.DEPLOY: (
        messages.Deploy,
        (_number, _name, _code_name, _code, _optional(_blob(limits.MODULE_BYTES_MAX)), _flag),
    ),
    Tag.CANCEL: (messages.Cancel, (_number, _count)),
    Tag.SET_PAUSED: (messages.SetPaused, (_number, _name, _flag)),
    Tag.SET_WINDOW: (messages.SetWindow, (_number, _name, _integer(1, limits.WINDOW_TASKS_MAX))),
    Tag.DEAD_DROP: (messages.DeadDrop, (_number, _name, _array(_count, limits.DEAD_TASKS_MAX))),
    Tag.AWAIT: (messages.Await, (_number, _integer(1, limits.NOW_MS_MAX), _integer(1, limits.NOW_MS_MAX))),
    Tag.DRAIN: (messages.Drain, (_number, _flag)),
    Tag.WELCOME: (messages.Welcome, (_number, _count, _text(64))),
    Tag.ACCEPTED: (messages.Accepted, (_number, _count, _count)),
    Tag.ANSWER: (messages.Answer, (_number, _anything)),
    Tag.REFUSED: (messages.Refused, (_number, _text(64), _message_text, _mapping)),
    Tag.RESULTS: (messages.Results, (_array(_result, limits.MESSAGE_ITEMS_MAX),)),
    Tag.QUERY: (messages.Query, (_number, _one_of(*messages.QUERIES), _arguments)),
    Tag.REGISTER: (
        messages.Register,
        (
            _text(128), _one_of("cpu", "gpu"), _integer(1, limits.RUN_TASKS_MAX), _count, _text(512), _count, _mapping,
            _count,
            _array(_count, limits.RUN_TASKS_MAX),
        ),
    ),
    Tag.HEARTBEAT: (messages.Heartbeat, (_text(128), _count)),
    Tag.COMPLETED: (messages.Completed, (_text(128), _count, _array(_completion, limits.RUN_TASKS_MAX), _count)),
    Tag.PREPARED: (messages.Prepared, (_text(128), _number, _flag, _mapping, _message_text)),
    Tag.GOODBYE: (messages.Goodbye, (_text(128), _flag)),
    Tag.REGISTERED: (messages.Registered, (_count, _count, _array(_count, limits.RUN_TASKS_MAX))),
    Tag.HEARTBEAT_ACK: (messages.HeartbeatAck, (_count, _flag)),
    Tag.ASSIGN: (
        messages.Assign,
        (_count, _digest, _array(_code, limits.RUN_TASKS_MAX), _array(_fold, limits.RUN_TASKS_MAX)),
    ),
    Tag.REVOKE: (messages.Revoke, (_count,)),
    Tag.PREPARE: (messages.Prepare, (_number, _target, _code)),
    Tag.EVENT: (
        messages.Event,
        (_count, _count, _now, _one_of(*messages.TOPICS), _text(limits.NAME_CHARS_MAX), _mapping),
    ),
}  # fmt: skip

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
