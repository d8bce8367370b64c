"""Input and output of a guest of kind `agent`. PURE.

`encode_input` makes the MessagePack array that an agent gets for a task, `decode_output` turns its answer into an
outcome. The tables below name every field and bound; docs/AGENTS.md shows the same tables to authors of agents, and a
test compares the two. Anything a guest returns becomes an outcome: it makes nothing here raise, and the messages are
the same on every machine. Adding a field is a new ABI version: `ABI_VERSION` in profile.py, these tables and
docs/AGENTS.md change together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

from rota.common.budget import growth_max, growth_of
from rota.common.calls import FLOW_SETTLES_TEXT, is_instance, reserved_text
from rota.common.digests import digest, pack
from rota.common.limits import (
    DELAY_MS_MAX,
    EMITS_MAX,
    LOG_LINES_MAX,
    MESSAGE_CHARS_MAX,
    NOW_MS_MAX,
    PAYLOAD_BYTES_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
    TENSORS_PER_TASK_MAX,
)
from rota.common.msgpack_check import is_whole
from rota.common.targets import is_target
from rota.common.work import (
    ASK,
    EMIT_KINDS,
    FAILURE,
    REPLY,
    TELL,
    TIMER,
    Done,
    Emit,
    Failed,
    Limits,
    Outcome,
    TaskInput,
    TensorRef,
)
from rota.cpu_worker.open_turns import NONE_OPEN, BadSettle, OpenTurns, TooManyOpen
from rota.cpu_worker.task_log import TaskLog

VERSION: Final = 1
STATUS_DONE: Final = 0
STATUS_ERROR: Final = 1
_FIELD_DEPTH_MAX: Final = 3  # the tensors of an emit in emits
_TO_ITSELF: Final = (TIMER, REPLY, FAILURE)
WAITS_CHARS_MAX: Final = 256
UNCHECKED_BYTES_MAX: Final = 256  # of an output that may be no whole value
CONTAINERS_MAX: Final = 1 << 16  # arrays, maps, extensions in one output; an emit has two, and at most 4096 are there

# Field, type, bound.
IN_FIELDS: Final = (
    ("version", "int", "1"),
    ("state", "bin or nil", "nil: no state yet"),
    ("kind", "str", "tell, ask, reply, failure or timer"),
    ("sender", "str or nil", "an agent's address; nil: a producer"),
    ("payload", "bin", f"at most {PAYLOAD_BYTES_MAX} bytes"),
    ("turn", "int", "1 or more"),
    ("now_ms", "int", "milliseconds since 1970"),
    ("entropy", "bin", "32 bytes"),
    ("reply_to", "[turn, asked_in, emit] or nil", "what a reply or failure answers"),
    ("tensors", "array of [digest, dtype, shape]", f"at most {TENSORS_PER_TASK_MAX}"),
    ("address", "str", "the agent's own: name or name/key"),
)
DONE_FIELDS: Final = (
    ("version", "int", "1"),
    ("status", "int", "0"),
    ("state", "bin or nil", "at most state_bytes; nil: unchanged"),
    ("result", "bin or nil", "at most result_bytes"),
    ("emits", "array of emits", "at most emits_max"),
    ("log", "array of str", f"the first log_bytes bytes and {LOG_LINES_MAX} lines are kept"),
    ("tensors", "array of int", f"at most {TENSORS_PER_TASK_MAX}, indices of the task's tensors, then of new ones"),
    ("waits", "str or nil", f"not nil: postponed, or a call that goes on; cut after {WAITS_CHARS_MAX} characters"),
)
ERROR_FIELDS: Final = (
    ("version", "int", "1"),
    ("status", "int", "1"),
    ("code", "str", "not empty"),
    ("message", "str", f"code and message together are cut after {MESSAGE_CHARS_MAX} characters"),
    ("log", "array of str", "as above"),
)
EMIT_FIELDS: Final = (
    ("target", "str", "name/key, name or model:NAME; of a timer, reply or failure the agent's own address"),
    ("payload", "bin", f"at most {PAYLOAD_BYTES_MAX} bytes"),
    ("priority", "int", f"{PRIORITY_MIN} to {PRIORITY_MAX}; 0 if left out"),
    ("kind", "str", "tell, ask, timer, reply or failure; tell if left out"),
    (
        "tensors",
        "array of int",
        f"at most {TENSORS_PER_TASK_MAX}, indices of the task's tensors, then of new ones; empty if left out",
    ),
    ("delay_ms", "int", f"0 to {DELAY_MS_MAX}: of a timer, or the deadline of an ask (0: none); 0 if left out"),
    ("answers", "int", "the postponed turn that a reply or failure settles, or an ask hands on; 0 if left out: none"),
)
DONE_FIELDS_MIN: Final = 4  # emits, log, tensors and waits may be left out at the end
ERROR_FIELDS_MIN: Final = 4
EMIT_FIELDS_MIN: Final = 2

_packer = msgpack.Packer(autoreset=True)
_UNPACK_ERRORS: Final = (ValueError, TypeError, msgpack.UnpackException)


class _Map(NamedTuple):
    """Stands for a map, which no valid output has. Its items are dropped: keys that a guest chooses could collide."""

    size: int


class _Extension:
    """Stands for a value of an extension."""


_EXTENSION: Final = _Extension()


class _BadOutput(Exception):
    """The output breaks a rule; the message names field and bound."""


class _TooMany(Exception):
    """The output has more arrays and maps than any valid one; unpacking it all would take seconds."""


class _Overflow(Exception):
    """The output has more emits than allowed, or grows its lane by too many bytes."""


def encode_input(task: TaskInput, *, address: str, state: bytes | None, entropy: bytes) -> bytes:
    """Return the guest's input. `entropy`: 32 bytes."""
    packed: bytes = _packer.pack(
        (
            VERSION,
            state,
            task.kind,
            task.sender,
            task.payload,
            task.turn,
            task.now_ms,
            entropy,
            task.reply_to,
            task.tensors,
            address,
        )
    )
    return packed


def decode_output(
    data: bytes,
    *,
    address: str,
    state: bytes | None,
    task: TaskInput,
    limits: Limits,
    fuel: int,
    log: TaskLog,
    made: Sequence[TensorRef] = (),
    open_turns: OpenTurns = NONE_OPEN,
    call: Sequence[TensorRef] | None = None,
) -> tuple[Outcome, bytes | None]:
    """Return the outcome of a guest's answer, and the new state (None: unchanged). `state`: the one before.

    `log` has the lines that the guest wrote during the call; those of the answer are added. `made` are the tensors that
    it made; their indices follow those of the task's own. `open_turns`: what the agent may settle. `call`: of a step of
    a call, the tensors of the messages before, whose indices come first; None: the task of an agent.
    """
    own = task.tensors if not (made or call) else (*(call or ()), *task.tensors, *made)
    held = 0 if state is None else len(state)
    try:
        fields = _unpack(data)
        count = len(fields)
        if 5 < count < 8 and fields[4] == fields[5] == [] and (count == 6 or fields[6] == []):
            # A fast path: most outputs have no emits, log or tensors, and end the task.
            new, result = fields[2], _result(fields[3], limits.result_bytes)
            if new is None:
                return Done(result, None, (), log.lines(), fuel, ()), None
            new = _state(new, limits.state_bytes, call)
            return _done(task, held, new, result, (), log.lines(), fuel, ()), new
        if fields[1] == STATUS_ERROR:
            _add_log(fields, 4, log)
            return Failed("error", _error_message(fields), log.lines(), fuel), None
        _add_log(fields, 5, log)
        new = _state(fields[2], limits.state_bytes, call)
        result = _result(fields[3], limits.result_bytes)
        waits = _waits(fields[7], fields) if len(fields) > 7 else None
        emits = _emits(fields[4], waits, address, task, limits, own) if len(fields) > 4 else ()
        tensors = _tensors(fields[6], "tensors", own) if len(fields) > 6 else ()
        if waits is not None or emits:
            _judge(task, emits, waits, open_turns, address, limits, is_call=call is not None)
        return _done(task, held, new, result, emits, log.lines(), fuel, tensors, waits), new
    except _BadOutput as error:
        return Failed("bad_output", str(error)[:MESSAGE_CHARS_MAX], log.lines(), fuel), None
    except (_Overflow, TooManyOpen) as error:
        return Failed("overflow", str(error), log.lines(), fuel), None
    except BadSettle as error:
        return Failed("bad_settle", str(error), log.lines(), fuel), None


def _done(
    task: TaskInput,
    held: int,
    state: bytes | None,
    result: bytes | None,
    emits: tuple[Emit, ...],
    log: tuple[str, ...],
    fuel: int,
    tensors: tuple[TensorRef, ...],
    waits: str | None = None,
) -> Done:
    """Return the outcome if the task's lane has room for it. `held`: the size of the state before."""
    if state is None:
        done = Done(result, None, emits, log, fuel, tensors, 0, waits)
        if not emits and waits is None:
            return done
    else:
        done = Done(result, digest(state), emits, log, fuel, tensors, len(state), waits)
    growth, most = growth_of(done, held), growth_max(task.growth_bytes, task.kind, len(task.payload), task.tensors)
    if growth > most:
        raise _Overflow(
            f"emits and state: {growth} bytes more than before, at most {most}: growth_bytes = {task.growth_bytes} and "
            f"{most - task.growth_bytes} of its own content; deploy with more (--growth) or emit less"
        )
    return done


def _unpack(data: bytes) -> list[Any]:
    """Return the fields of an output whose version, status and length are right."""
    try:
        if len(data) > UNCHECKED_BYTES_MAX and not is_whole(data):
            raise ValueError
        # An array takes at least a byte, so short outputs, which are most, need no count.
        hooks = _HOOKS if len(data) <= CONTAINERS_MAX else _counting_hooks()
        fields = msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=1, **hooks)
    except _TooMany:
        raise _BadOutput(f"output: more than {CONTAINERS_MAX} arrays and maps") from None
    except UnicodeDecodeError:
        raise _BadOutput(f"{_where_not_utf8(data)}: a str that is not UTF-8") from None
    except _UNPACK_ERRORS:
        raise _BadOutput(f"output: {len(data)} bytes that are not one MessagePack value") from None
    if type(fields) is not list or len(fields) < 2:
        raise _BadOutput("output: not an array that starts with version and status")
    if fields[0] != VERSION or type(fields[0]) is not int:
        raise _BadOutput(f"version: {_show(fields[0])}, not {VERSION}")
    if type(fields[1]) is not int or fields[1] not in (STATUS_DONE, STATUS_ERROR):
        raise _BadOutput(f"status: {_show(fields[1])}, not 0 or 1")
    table, least = (DONE_FIELDS, DONE_FIELDS_MIN) if fields[1] == STATUS_DONE else (ERROR_FIELDS, ERROR_FIELDS_MIN)
    if not least <= len(fields) <= len(table):
        raise _BadOutput(f"output: {len(fields)} fields with status {fields[1]}, not {least} to {len(table)}")
    return fields


def _map_of(pairs: list[Any]) -> _Map:
    return _Map(len(pairs))


def _extension_of(code: int, data: bytes) -> _Extension:
    return _EXTENSION


_HOOKS: Final[dict[str, Any]] = {"object_pairs_hook": _map_of, "ext_hook": _extension_of}


def _counting_hooks() -> dict[str, Any]:
    left = CONTAINERS_MAX

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooMany

    def array(items: list[Any]) -> list[Any]:
        count()
        return items

    def pairs(items: list[Any]) -> _Map:
        count()
        return _Map(len(items))

    def extension(code: int, data: bytes) -> _Extension:
        count()
        return _EXTENSION

    return {"list_hook": array, "object_pairs_hook": pairs, "ext_hook": extension}


def _where_not_utf8(data: bytes) -> str:
    """Return the name of the first field with text that is not UTF-8."""
    try:
        fields = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            timestamp=1,
            unicode_errors="surrogateescape",
            **_counting_hooks(),
        )
    except (_TooMany, *_UNPACK_ERRORS):
        return "output"
    if type(fields) is not list:
        return "output"
    table = ERROR_FIELDS if len(fields) > 1 and fields[1] == STATUS_ERROR else DONE_FIELDS
    for index, value in enumerate(fields):
        found = _path_not_utf8(value)
        if found is not None:
            return (table[index][0] if index < len(table) else f"output[{index}]") + found
    return "output"


def _path_not_utf8(value: Any, depth: int = 0) -> str | None:
    """Return the path from a value to its first text that is not UTF-8: empty if the value is that text, None if there
    is none in the depth of fields.
    """
    if type(value) is str:
        return "" if any("\udc80" <= sign <= "\udcff" for sign in value) else None
    if type(value) is list and depth < _FIELD_DEPTH_MAX:
        for index, item in enumerate(value):
            found = _path_not_utf8(item, depth + 1)
            if found is not None:
                return f"[{index}]{found}"
    return None


def _error_message(fields: list[Any]) -> str:
    code, message = fields[2], fields[3]
    if type(code) is not str or not code:
        raise _BadOutput(f"code: {_show(code)}, not a str that is not empty")
    if type(message) is not str:
        raise _BadOutput(f"message: {_show(message)}, not a str")
    return f"{code}: {message}"[:MESSAGE_CHARS_MAX]


def _judge(
    task: TaskInput,
    emits: tuple[Emit, ...],
    waits: str | None,
    open_turns: OpenTurns,
    address: str,
    limits: Limits,
    *,
    is_call: bool,
) -> None:
    """Raise if a task may not end in this way: it settles what it may not, or postpones what it may not."""
    if is_call:
        if any(emit.answers for emit in emits):
            raise BadSettle(FLOW_SETTLES_TEXT)
        return
    for index, emit in enumerate(emits):
        if emit.answers == task.turn and emit.kind == ASK and waits is None:
            raise _BadOutput(f"emits[{index}].answers: {task.turn}, the task's own turn, but the task is over (waits)")
    open_turns.check(task, address, emits, waits, limits.asks_max)


def _waits(value: Any, fields: list[Any]) -> str | None:
    """Return where a task waits that is not over; None if it is."""
    if value is None:
        return None
    if type(value) is not str:
        raise _BadOutput(f"waits: {_show(value)}, not str or nil")
    if fields[3] is not None or fields[6] != []:
        raise _BadOutput("waits: a task that is not over has no result and no tensors yet")
    return value[:WAITS_CHARS_MAX]


def _state(value: Any, bytes_max: int, call: Sequence[TensorRef] | None) -> bytes | None:
    if value is not None and call is not None:
        raise _BadOutput(f"state: {_show(value)}, but a call of a flow has none: what it keeps stays in its memory")
    if value is not None and (type(value) is not bytes or len(value) > bytes_max):
        if isinstance(value, bytes):
            raise _BadOutput(f"the state has {len(value)} bytes, and at most {bytes_max} are kept: state_bytes")
        raise _BadOutput(f"state: {_show(value)}, not bin of at most {bytes_max} bytes (state_bytes) or nil")
    return value


def _result(value: Any, bytes_max: int) -> bytes | None:
    if value is not None and (type(value) is not bytes or len(value) > bytes_max):
        raise _BadOutput(f"result: {_show(value)}, not bin of at most {bytes_max} bytes (result_bytes) or nil")
    return value


def _add_log(fields: list[Any], index: int, log: TaskLog) -> None:
    """Add the lines of an answer to the log."""
    if len(fields) <= index:
        return
    lines = fields[index]
    if type(lines) is not list:
        raise _BadOutput(f"log: {_show(lines)}, not an array of str")
    log.flush()
    for position, line in enumerate(lines):
        if type(line) is not str:
            raise _BadOutput(f"log[{position}]: {_show(line)}, not a str")
        log.text(line)


def _emits(
    value: Any, waits: str | None, address: str, task: TaskInput, limits: Limits, tensors: Sequence[TensorRef]
) -> tuple[Emit, ...]:
    if type(value) is not list:
        raise _BadOutput(f"emits: {_show(value)}, not an array")
    count_max = min(task.emits_max, limits.emits_max, EMITS_MAX)
    if len(value) + (waits is not None) > count_max:  # what is postponed stays open, and counts as an emit does
        what = "emits" if waits is None else "emits, and one for what is postponed"
        count = len(value) + (waits is not None)
        raise _Overflow(f"{what}: {count}, at most {count_max} (emits_max); --emits allows more")
    return tuple([_emit(fields, f"emits[{index}]", address, tensors) for index, fields in enumerate(value)])


def _emit(fields: Any, where: str, address: str, tensors: Sequence[TensorRef]) -> Emit:
    if type(fields) is not list or not EMIT_FIELDS_MIN <= len(fields) <= len(EMIT_FIELDS):
        raise _BadOutput(f"{where}: not an array of {EMIT_FIELDS_MIN} to {len(EMIT_FIELDS)} fields")
    count = len(fields)
    target, payload = fields[0], fields[1]
    priority = fields[2] if count > 2 else 0
    kind = fields[3] if count > 3 else TELL
    delay_ms = fields[5] if count > 5 else 0
    answers = fields[6] if count > 6 else 0
    if type(target) is not str or not is_target(target):
        raise _BadOutput(f"{where}.target: {_show(target)}, not name/key, name or model:NAME")
    if type(payload) is not bytes or len(payload) > PAYLOAD_BYTES_MAX:
        raise _BadOutput(f"{where}.payload: {_show(payload)}, not bin of at most {PAYLOAD_BYTES_MAX} bytes")
    if type(priority) is not int or not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise _BadOutput(f"{where}.priority: {_show(priority)}, not {PRIORITY_MIN} to {PRIORITY_MAX}")
    if kind not in EMIT_KINDS:
        raise _BadOutput(f"{where}.kind: {_show(kind)}, not {', '.join(EMIT_KINDS)}")
    if type(delay_ms) is not int or not 0 <= delay_ms <= DELAY_MS_MAX:
        raise _BadOutput(f"{where}.delay_ms: {_show(delay_ms)}, not 0 to {DELAY_MS_MAX}")
    if type(answers) is not int or not 0 <= answers <= NOW_MS_MAX:
        raise _BadOutput(f"{where}.answers: {_show(answers)}, not a turn")
    chosen = _tensors(fields[4], f"{where}.tensors", tensors) if count > 4 else ()
    emit = Emit(target, payload, priority, kind, chosen, delay_ms, answers)
    _check_kind(emit, where, address)
    return emit if kind != FAILURE else emit._replace(payload=_failure(payload, f"{where}.payload"))


def _check_kind(emit: Emit, where: str, address: str) -> None:
    """Check what depends on the kind of an emit."""
    target, kind = emit.target, emit.kind
    is_own = kind in _TO_ITSELF
    if is_own and target != address:
        raise _BadOutput(f"{where}.target: {_show(target)}, but a {kind} goes to the agent itself, {address}")
    if not is_own and is_instance(target):
        raise _BadOutput(f"{where}.target: {reserved_text(target)}")
    if emit.delay_ms and kind not in (TIMER, ASK):
        raise _BadOutput(f"{where}.delay_ms: {emit.delay_ms}, but a {kind} has no delay")
    if kind not in (REPLY, FAILURE):
        if emit.answers and kind != ASK:
            raise _BadOutput(f"{where}.answers: {emit.answers}, but a {kind} answers nothing")
        return
    if not emit.answers:
        raise _BadOutput(f"{where}.answers: 0, but a {kind} names the postponed turn that it settles")
    if emit.priority:
        raise _BadOutput(f"{where}.priority: {emit.priority}, but a {kind} has that of the turn that it settles")
    if kind == FAILURE and emit.tensors:
        raise _BadOutput(f"{where}.tensors: {len(emit.tensors)}, but a failure has none")


def _failure(payload: bytes, where: str) -> bytes:
    """Return the payload of the failure that the asker gets for the guest's [code, message]."""
    try:
        if not is_whole(payload):
            raise ValueError
        fields = msgpack.unpackb(payload, raw=False, strict_map_key=False, timestamp=1, **_counting_hooks())
    except (_TooMany, *_UNPACK_ERRORS):
        fields = None
    if type(fields) is not list or len(fields) != 2:
        raise _BadOutput(f"{where}: not MessagePack [code, message]")
    try:
        message = _error_message([None, None, *fields])
    except _BadOutput as error:
        raise _BadOutput(f"{where}: {error}") from None
    return pack(["error", message])


def _tensors(value: Any, where: str, tensors: Sequence[TensorRef]) -> tuple[TensorRef, ...]:
    """Return the tensors that the indices choose: of the task, then those that it made."""
    if type(value) is not list or len(value) > TENSORS_PER_TASK_MAX:
        raise _BadOutput(f"{where}: {_show(value)}, not an array of at most {TENSORS_PER_TASK_MAX} indices")
    for index in value:
        if type(index) is not int or not 0 <= index < len(tensors):
            raise _BadOutput(f"{where}: {_show(index)}, not an index into the task's {len(tensors)} tensors")
    return tuple([tensors[index] for index in value])


def _show(value: Any) -> str:
    """Return a short text for a value, with sizes in place of long contents."""
    if type(value) is bytes:
        return f"bin of {len(value)} bytes"
    if type(value) is list:
        return f"array of {len(value)}"
    if type(value) is _Map:
        return f"map of {value.size}"
    if type(value) is str and len(value) > 80:
        return f"str of {len(value)} characters"
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    return "a MessagePack extension"
