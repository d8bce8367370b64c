"""Input and output of a guest of kind `agent`. PURE.

`encode_input` makes the MessagePack array that an agent gets for a task, `decode_output` turns its answer into an
outcome. The tables below, and that of abi_emits.py, name every field and bound; docs/AGENTS.md shows the same tables to
authors of agents, and a test compares the two. Anything a guest returns becomes an outcome: it makes nothing here
raise, and the messages are the same on every machine. Adding a field is a new ABI version: `ABI_VERSION` in profile.py,
these tables and docs/AGENTS.md change together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack

from rota.common.budget import growth_max, growth_of
from rota.common.calls import FLOW_SETTLES_TEXT
from rota.common.digests import digest
from rota.common.limits import LOG_LINES_MAX, MESSAGE_CHARS_MAX, PAYLOAD_BYTES_MAX, TENSORS_PER_TASK_MAX
from rota.common.work import ASK, Done, Emit, Failed, Limits, Outcome, TaskInput, TensorRef
from rota.cpu_worker.abi_emits import Overflow, emits_of, tensors_of
from rota.cpu_worker.abi_values import (
    CONTAINERS_MAX,
    UNPACK_ERRORS,
    BadOutput,
    TooMany,
    counting_hooks,
    error_message,
    show,
    unpacked,
)
from rota.cpu_worker.open_turns import NONE_OPEN, BadSettle, OpenTurns, TooManyOpen
from rota.cpu_worker.task_log import TaskLog

VERSION: Final = 1
STATUS_DONE: Final = 0
STATUS_ERROR: Final = 1
_FIELD_DEPTH_MAX: Final = 3  # the tensors of an emit in emits
WAITS_CHARS_MAX: Final = 256


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
DONE_FIELDS_MIN: Final = 4  # emits, log, tensors and waits may be left out at the end
ERROR_FIELDS_MIN: Final = 4

_packer = msgpack.Packer(autoreset=True)


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
            return Failed("error", error_message(fields[2], fields[3]), log.lines(), fuel), None
        _add_log(fields, 5, log)
        new = _state(fields[2], limits.state_bytes, call)
        result = _result(fields[3], limits.result_bytes)
        waits = _waits(fields[7], fields) if len(fields) > 7 else None
        emits = emits_of(fields[4], waits, address, task, limits, own) if len(fields) > 4 else ()
        tensors = tensors_of(fields[6], "tensors", own) if len(fields) > 6 else ()
        if waits is not None or emits:
            _judge(task, emits, waits, open_turns, address, limits, is_call=call is not None)
        return _done(task, held, new, result, emits, log.lines(), fuel, tensors, waits), new
    except BadOutput as error:
        return Failed("bad_output", str(error)[:MESSAGE_CHARS_MAX], log.lines(), fuel), None
    except (Overflow, TooManyOpen) as error:
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
    most = growth_max(task.growth_bytes, task.kind, len(task.payload), task.tensors)
    growth = growth_of(done, held, most - task.growth_bytes)
    if growth > most:
        raise Overflow(
            f"emits and state: {growth} bytes more than before, at most {most}: {task.growth_bytes} and "
            f"{most - task.growth_bytes} of its own content (growth_bytes)"
        )
    return done


def _unpack(data: bytes) -> list[Any]:
    """Return the fields of an output whose version, status and length are right."""
    try:
        fields = unpacked(data)
    except TooMany:
        raise BadOutput(f"output: more than {CONTAINERS_MAX} arrays and maps") from None
    except UnicodeDecodeError:
        raise BadOutput(f"{_where_not_utf8(data)}: a str that is not UTF-8") from None
    except UNPACK_ERRORS:
        raise BadOutput(f"output: {len(data)} bytes that are not one MessagePack value") from None
    if type(fields) is not list or len(fields) < 2:
        raise BadOutput("output: not an array that starts with version and status")
    if fields[0] != VERSION or type(fields[0]) is not int:
        raise BadOutput(f"version: {show(fields[0])}, not {VERSION}")
    if type(fields[1]) is not int or fields[1] not in (STATUS_DONE, STATUS_ERROR):
        raise BadOutput(f"status: {show(fields[1])}, not 0 or 1")
    table, least = (DONE_FIELDS, DONE_FIELDS_MIN) if fields[1] == STATUS_DONE else (ERROR_FIELDS, ERROR_FIELDS_MIN)
    if not least <= len(fields) <= len(table):
        raise BadOutput(f"output: {len(fields)} fields with status {fields[1]}, not {least} to {len(table)}")
    return fields


def _where_not_utf8(data: bytes) -> str:
    """Return the name of the first field with text that is not UTF-8."""
    try:
        fields = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            timestamp=1,
            unicode_errors="surrogateescape",
            **counting_hooks(),
        )
    except (TooMany, *UNPACK_ERRORS):
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
            raise BadOutput(f"emits[{index}].answers: {task.turn}, the task's own turn, but the task is over (waits)")
    open_turns.check(task, address, emits, waits, limits.asks_max)


def _waits(value: Any, fields: list[Any]) -> str | None:
    """Return where a task waits that is not over; None if it is."""
    if value is None:
        return None
    if type(value) is not str:
        raise BadOutput(f"waits: {show(value)}, not str or nil")
    if fields[3] is not None or fields[6] != []:
        raise BadOutput("waits: a task that is not over has no result and no tensors yet")
    return value[:WAITS_CHARS_MAX]


def _state(value: Any, bytes_max: int, call: Sequence[TensorRef] | None) -> bytes | None:
    if value is not None and call is not None:
        raise BadOutput(f"state: {show(value)}, but a call of a flow has none: what it keeps stays in its memory")
    if value is not None and (type(value) is not bytes or len(value) > bytes_max):
        if isinstance(value, bytes):
            raise BadOutput(f"the state has {len(value)} bytes, and at most {bytes_max} are kept: state_bytes")
        raise BadOutput(f"state: {show(value)}, not bin of at most {bytes_max} bytes (state_bytes) or nil")
    return value


def _result(value: Any, bytes_max: int) -> bytes | None:
    if value is not None and (type(value) is not bytes or len(value) > bytes_max):
        raise BadOutput(f"result: {show(value)}, not bin of at most {bytes_max} bytes (result_bytes) or nil")
    return value


def _add_log(fields: list[Any], index: int, log: TaskLog) -> None:
    """Add the lines of an answer to the log."""
    if len(fields) <= index:
        return
    lines = fields[index]
    if type(lines) is not list:
        raise BadOutput(f"log: {show(lines)}, not an array of str")
    log.flush()
    for position, line in enumerate(lines):
        if type(line) is not str:
            raise BadOutput(f"log[{position}]: {show(line)}, not a str")
        log.text(line)
