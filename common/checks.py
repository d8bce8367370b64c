"""What a decoded value may be: checks of single values, and of the parts that messages are made of. PURE.

A check takes a value that MessagePack gave and returns what the message holds, made of tuples; it raises ValueError,
with what it wants and what it got in a few words, never the value itself. `wire.py` puts them together. Parts that come
by the hundred thousand have a short way for their common form; the long way is the rule, and tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, Final, cast

from rota.common import limits, messages, work
from rota.common.targets import is_name, is_target

Check = Callable[[Any], Any]

_ARGUMENTS_MAX: Final = 16
_ARGUMENT_CHARS_MAX: Final = 512  # an address has up to 265

_new_tuple: Final[Any] = cast(Any, tuple).__new__  # past NamedTuple's own constructor, which takes twice as long


def integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"wants an integer {low}..{high}, got {_short(value)}")
        return value

    return check


def text(chars_max: int) -> Check:
    def check(value: Any) -> str:
        if type(value) is not str or len(value) > chars_max:
            raise ValueError(f"wants text of at most {chars_max} characters, got {_short(value)}")
        return value

    return check


def blob(bytes_max: int) -> Check:
    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > bytes_max:
            raise ValueError(f"wants at most {bytes_max} bytes, got {_short(value)}")
        return value

    return check


def one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if type(value) is not str or value not in choices:
            raise ValueError(f"wants one of {', '.join(choices)}, got {_short(value)}")
        return value

    return check


def optional(inner: Check) -> Check:
    return lambda value: None if value is None else inner(value)


def array(inner: Check, items_max: int) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > items_max:
            raise ValueError(f"wants an array of at most {items_max} elements, got {_short(value)}")
        return tuple([inner(item) for item in value])

    return check


def record(make: Callable[[list[Any]], Any], *checks: Check) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not list or len(value) != len(checks):
            raise ValueError(f"wants an array of {len(checks)} elements, got {_short(value)}")
        return make([inner(item) for inner, item in zip(checks, value, strict=True)])

    return check


def payloads(value: Any) -> tuple[bytes, ...]:
    """A hand-made `array(blob(...))`: the payloads of a run come by the thousand."""
    if type(value) is not list or len(value) > limits.RUN_TASKS_MAX:
        raise ValueError(f"wants at most {limits.RUN_TASKS_MAX} payloads, got {_short(value)}")
    for item in value:
        if type(item) is not bytes or len(item) > limits.PAYLOAD_BYTES_MAX:
            raise ValueError(
                f"wants payloads of at most {limits.PAYLOAD_BYTES_MAX} bytes, got {_short(item)}; send more as tensors"
            )
    return tuple(value)


def name(value: Any) -> str:
    if type(value) is not str or not is_name(value):
        raise ValueError(
            f"wants a name of letters, digits, _ . - (at most {limits.NAME_CHARS_MAX}), got {_short(value)}"
        )
    return value


def code_name(value: Any) -> str:
    if type(value) is not str or not is_name(value.removeprefix("model:")):
        raise ValueError(f"wants a name or model:NAME, got {_short(value)}")
    return value


def target(value: Any) -> str:
    if type(value) is not str or not is_target(value):
        raise ValueError(f"wants a target (name/key, name or model:NAME), got {_short(value)}")
    return value


def targets(value: Any) -> str | tuple[str, ...]:
    return target(value) if type(value) is str else array(target, limits.RUN_TASKS_MAX)(value)


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"wants true or false, got {_short(value)}")
    return value


def digest(value: Any) -> bytes:
    if type(value) is not bytes or len(value) != 32:
        raise ValueError(f"wants a digest of 32 bytes, got {_short(value)}")
    return value


def mapping(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError(f"wants a map with text keys, got {_short(value)}")
    _check_inside(value)
    return value


def _check_inside(value: dict[str, Any]) -> None:
    """Level by level: whoever prints or packs a value later recurses into it, and would not come back. Keys are text at
    every level: some are sorted and joined.
    """
    level: list[Any] = [value]
    for _ in range(limits.VALUE_DEPTH_MAX):
        if not all(type(key) is str for item in level if type(item) is dict for key in item):
            raise ValueError("wants a map with text keys, got another key")
        inner = [item.values() if type(item) is dict else item for item in level]
        level = [item for items in inner for item in items if type(item) in (list, dict)]
        if not level:
            return
    raise ValueError(f"wants at most {limits.VALUE_DEPTH_MAX} levels of lists and maps inside each other")


def arguments(value: Any) -> dict[str, Any]:
    """Of a question: a few plain values, because refusals repeat them."""
    if type(value) is not dict or len(value) > _ARGUMENTS_MAX:
        raise ValueError(f"wants a map of at most {_ARGUMENTS_MAX} arguments, got {_short(value)}")
    for name, argument in value.items():
        if type(name) is not str or type(argument) not in (str, int, bool, NoneType):
            raise ValueError(f"wants text, integers, booleans or nil by name, got {_short(argument)}")
        if max(len(name), len(argument) if type(argument) is str else 0) > _ARGUMENT_CHARS_MAX:
            raise ValueError(f"wants names and texts of at most {_ARGUMENT_CHARS_MAX} characters")
    return value


def anything(value: Any) -> Any:
    return value


def run(value: Any) -> messages.TaskRun:
    run: messages.TaskRun = record(
        messages.TaskRun._make, targets, priority, payloads, optional(array(tensors, limits.RUN_TASKS_MAX))
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


count = integer(0, limits.NOW_MS_MAX)
number = integer(0, limits.NOW_MS_MAX)
fuel = integer(0, limits.FUEL_MAX)
now = integer(0, limits.NOW_MS_MAX)
priority = integer(limits.PRIORITY_MIN, limits.PRIORITY_MAX)
producer = text(limits.NAME_CHARS_MAX)
message_text = text(limits.MESSAGE_BYTES_MAX)
module_or_state = blob(limits.MESSAGE_BYTES_MAX)
ref = record(work.TensorRef._make, digest, text(32), array(count, 32))
tensors = array(ref, limits.TENSORS_PER_TASK_MAX)
limits_of_code = record(
    work.Limits._make,
    integer(1, limits.FUEL_MAX),
    integer(1 << 16, limits.MEMORY_BYTES_MAX),
    integer(1, limits.TIMEOUT_MS_MAX),
    integer(0, limits.EMITS_MAX),
    integer(0, limits.OUTPUT_BYTES_MAX),
    integer(0, limits.OUTPUT_BYTES_MAX),
    integer(0, limits.PAYLOAD_BYTES_MAX),
    integer(0, limits.GROWTH_BYTES_MAX),
)
code = record(
    work.Code._make,
    digest,
    one_of(*work.CODE_KINDS),
    flag,
    array(record(tuple, text(32), text(256)), 8),
    limits_of_code,
)
settings = record(
    messages.LaneSettings._make,
    one_of("derived", "recorded"),
    integer(1, limits.WINDOW_TASKS_MAX),
    integer(1, 1 << 32),
    integer(1, 1 << 32),
    optional(digest),
    integer(1, limits.LANE_BYTES_MAX),
    integer(1, limits.LANE_AGENTS_MAX),
)
provenance = record(work.Provenance._make, one_of(work.BITWISE, work.RECORDED), text(64), digest)
log = array(text(limits.PAYLOAD_BYTES_MAX), limits.LOG_LINES_MAX)
emit = record(
    work.Emit._make, target, blob(limits.PAYLOAD_BYTES_MAX), priority, one_of(*work.EMIT_KINDS), tensors,
    integer(0, limits.DELAY_MS_MAX),
)  # fmt: skip
done = record(
    work.Done._make, optional(module_or_state), optional(digest), array(emit, limits.EMITS_MAX), log, fuel,
    tensors, integer(0, limits.MESSAGE_BYTES_MAX)
)  # fmt: skip
failed = record(
    work.Failed._make, one_of(*work.FAILURE_KINDS), text(limits.MESSAGE_CHARS_MAX), log, fuel
)  # fmt: skip


def check_outcome(value: Any) -> work.Outcome:
    """Return the outcome in `[0, ...Done]` or `[1, ...Failed]`; raises ValueError if it is neither."""
    if type(value) is list and len(value) == 8 and _is_plain_done(value):
        plain: work.Done = _new_tuple(work.Done, (value[1], value[2], (), (), value[5], (), value[7]))
        return plain
    if type(value) is not list or not value or value[0] not in (0, 1):
        raise ValueError(f"wants an outcome, got {_short(value)}")
    outcome: work.Outcome = (done if value[0] == 0 else failed)(value[1:])
    return outcome


def _is_plain_done(value: list[Any]) -> bool:
    """A result with nothing beside it: most outcomes are that, and this is a tenth of the work of the full check."""
    tag, result, state_digest, emits, log, fuel, tensors, state_bytes = value
    return (
        type(tag) is int
        and tag == 0
        and (result is None or (type(result) is bytes and len(result) <= limits.MESSAGE_BYTES_MAX))
        and (state_digest is None or (type(state_digest) is bytes and len(state_digest) == 32))
        and not (emits or log or tensors)
        and type(emits) is type(log) is type(tensors) is list
        and type(fuel) is type(state_bytes) is int
        and 0 <= fuel <= limits.FUEL_MAX
        and 0 <= state_bytes <= limits.MESSAGE_BYTES_MAX
    )


_any_segment = record(
    messages.Segment._make,
    one_of(*work.MESSAGE_KINDS),
    optional(target),
    now,
    optional(record(work.ReplyTo._make, count, count, count)),
    integer(0, limits.EMITS_MAX),
    integer(0, limits.GROWTH_BYTES_MAX),
    array(count, limits.RUN_TASKS_MAX),
    payloads,
    optional(array(tensors, limits.RUN_TASKS_MAX)),
)


def segment(value: Any) -> messages.Segment:
    """Return a segment; the common one, whose tasks came from outside, by a short way."""
    if type(value) is list and len(value) == 9 and value[1] is value[3] is value[8] is None:
        kind, _, now_ms, _, emits_max, growth, turns, data, _ = value
        if (
            kind == work.TELL
            and type(now_ms) is int
            and 0 <= now_ms <= limits.NOW_MS_MAX
            and type(emits_max) is int
            and 0 <= emits_max <= limits.EMITS_MAX
            and type(growth) is int
            and 0 <= growth <= limits.GROWTH_BYTES_MAX
            and type(turns) is list
            and len(turns) == 1
            and type(turns[0]) is int
            and 0 <= turns[0] <= limits.NOW_MS_MAX
        ):
            return messages.Segment(kind, None, now_ms, None, emits_max, growth, tuple(turns), payloads(data), None)
    whole: messages.Segment = _any_segment(value)
    return whole


fold = record(
    messages.FoldAssignment._make, count, target, optional(module_or_state), array(segment, limits.RUN_TASKS_MAX)
)  # fmt: skip
preparation = record(messages.Preparation._make, count, target, count)
completion = record(
    work.FoldResult._make,
    array(check_outcome, limits.RUN_TASKS_MAX),
    optional(module_or_state),
    optional(one_of("timeout", "interrupted", "refused", "faulted")),
    message_text,
    optional(provenance),
)
_any_result = record(
    messages.ResultItem._make,
    count, name, count, count, flag, optional(module_or_state), tensors, text(32), message_text, log,
    optional(provenance),
)  # fmt: skip


def result(value: Any) -> messages.ResultItem:
    """Return a result; one that is nothing but bytes by a short way."""
    if type(value) is list and len(value) == 11 and value[4] is True and type(value[5]) is bytes:
        seq, lane, turn, attempts, ok, data, refs, kind, message, lines, source = value
        if (
            type(seq) is type(turn) is type(attempts) is int
            and min(seq, turn, attempts) >= 0
            and max(seq, turn, attempts) <= limits.NOW_MS_MAX
            and type(lane) is str
            and is_name(lane)
            and kind == message == ""
            and type(refs) is type(lines) is list
            and not (refs or lines)
            and source is None
        ):
            fields = (seq, lane, turn, attempts, ok, data, (), kind, message, (), None)
            plain: messages.ResultItem = _new_tuple(messages.ResultItem, fields)
            return plain
    whole: messages.ResultItem = _any_result(value)
    return whole
