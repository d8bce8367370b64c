"""What an agent emits: the arrays of one output as `Emit`, each field checked. PURE.

`EMIT_FIELDS` has every field and bound; docs/AGENTS.md shows the same table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rota.common.calls import SETTLED_KIND, is_instance, reserved_text
from rota.common.digests import pack
from rota.common.limits import (
    DELAY_MS_MAX,
    EMITS_MAX,
    NOW_MS_MAX,
    PAYLOAD_BYTES_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
    TENSORS_PER_TASK_MAX,
)
from rota.common.targets import is_target
from rota.common.work import ASK, EMIT_KINDS, FAILURE, REPLY, TELL, TIMER, Emit, Limits, TaskInput, TensorRef
from rota.cpu_worker.abi_values import UNPACK_ERRORS, BadOutput, TooMany, error_message, show, unpacked

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
EMIT_FIELDS_MIN: Final = 2
_TO_ITSELF: Final = (TIMER, REPLY, FAILURE)


class Overflow(Exception):
    """The output has more emits than allowed, or grows its lane by too many bytes."""


def emits_of(
    value: Any, waits: str | None, address: str, task: TaskInput, limits: Limits, tensors: Sequence[TensorRef]
) -> tuple[Emit, ...]:
    """Return the emits of an output. `waits`: as of `Done`; `tensors`: those that an index may name.

    Raises `BadOutput`, or `Overflow` if there are too many.
    """
    if type(value) is not list:
        raise BadOutput(f"emits: {show(value)}, not an array")
    count_max = min(task.emits_max, limits.emits_max, EMITS_MAX)
    if len(value) + (waits is not None) > count_max:  # what is postponed stays open, and counts as an emit does
        waiting = "the call that waits" if is_instance(address) else "what is postponed"
        what = "emits" if waits is None else f"emits (asks are, too), and one for {waiting}"
        count = len(value) + (waits is not None)
        raise Overflow(f"{what}: {count}, at most {count_max} (emits_max)")
    return tuple([_emit(fields, f"emits[{index}]", address, tensors) for index, fields in enumerate(value)])


def _emit(fields: Any, where: str, address: str, tensors: Sequence[TensorRef]) -> Emit:
    if type(fields) is not list or not EMIT_FIELDS_MIN <= len(fields) <= len(EMIT_FIELDS):
        raise BadOutput(f"{where}: not an array of {EMIT_FIELDS_MIN} to {len(EMIT_FIELDS)} fields")
    count = len(fields)
    target, payload = fields[0], fields[1]
    priority = fields[2] if count > 2 else 0
    kind = fields[3] if count > 3 else TELL
    delay_ms = fields[5] if count > 5 else 0
    answers = fields[6] if count > 6 else 0
    if type(target) is not str or not is_target(target):
        raise BadOutput(f"{where}.target: {show(target)}, not name/key, name or model:NAME")
    if type(payload) is not bytes or len(payload) > PAYLOAD_BYTES_MAX:
        raise BadOutput(f"{where}.payload: {show(payload)}, not bin of at most {PAYLOAD_BYTES_MAX} bytes")
    if type(priority) is not int or not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise BadOutput(f"{where}.priority: {show(priority)}, not {PRIORITY_MIN} to {PRIORITY_MAX}")
    if kind not in EMIT_KINDS:
        raise BadOutput(f"{where}.kind: {show(kind)}, not {', '.join(EMIT_KINDS)}")
    if type(delay_ms) is not int or not 0 <= delay_ms <= DELAY_MS_MAX:
        raise BadOutput(f"{where}.delay_ms: {show(delay_ms)}, not 0 to {DELAY_MS_MAX}")
    if type(answers) is not int or not 0 <= answers <= NOW_MS_MAX:
        raise BadOutput(f"{where}.answers: {show(answers)}, not a turn")
    chosen = tensors_of(fields[4], f"{where}.tensors", tensors) if count > 4 else ()
    emit = Emit(target, payload, priority, kind, chosen, delay_ms, answers)
    _check_kind(emit, where, address)
    return emit if kind != FAILURE else emit._replace(payload=_failure(payload, f"{where}.payload"))


def _check_kind(emit: Emit, where: str, address: str) -> None:
    """Check what depends on the kind of an emit."""
    target, kind = emit.target, emit.kind
    is_own = kind in _TO_ITSELF
    if is_own and target != address:
        raise BadOutput(f"{where}.target: {show(target)}, but a {kind} goes to the agent itself, {address}")
    if not is_own and is_instance(target):
        raise BadOutput(f"{where}.target: {reserved_text(target)}")
    if emit.delay_ms and kind not in (TIMER, ASK):
        raise BadOutput(f"{where}.delay_ms: {emit.delay_ms}, but a {kind} has no delay")
    if kind not in (REPLY, FAILURE):
        if emit.answers and kind != ASK:
            raise BadOutput(f"{where}.answers: {emit.answers}, but a {kind} answers nothing")
        return
    if not emit.answers:
        raise BadOutput(f"{where}.answers: 0, but a {kind} names the postponed turn that it settles")
    if emit.priority:
        raise BadOutput(f"{where}.priority: {emit.priority}, but a {kind} has that of the turn that it settles")
    if kind == FAILURE and emit.tensors:
        raise BadOutput(f"{where}.tensors: {len(emit.tensors)}, but a failure has none")


def _failure(payload: bytes, where: str) -> bytes:
    """Return the payload of the failure that the asker gets for the guest's [code, message]."""
    try:
        fields = unpacked(payload)
    except (TooMany, *UNPACK_ERRORS):
        fields = None
    if type(fields) is not list or len(fields) != 2:
        raise BadOutput(f"{where}: not MessagePack [code, message]")
    try:
        message = error_message(*fields)
    except BadOutput as error:
        raise BadOutput(f"{where}: {error}") from None
    return pack([SETTLED_KIND, message])


def tensors_of(value: Any, where: str, tensors: Sequence[TensorRef]) -> tuple[TensorRef, ...]:
    """Return the tensors that the indices choose: of the task, then those that it made."""
    if type(value) is not list or len(value) > TENSORS_PER_TASK_MAX:
        raise BadOutput(f"{where}: {show(value)}, not an array of at most {TENSORS_PER_TASK_MAX} indices")
    for index in value:
        if type(index) is not int or not 0 <= index < len(tensors):
            raise BadOutput(f"{where}: {show(index)}, not an index into the task's {len(tensors)} tensors")
    return tuple([tensors[index] for index in value])
