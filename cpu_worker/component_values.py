"""Turns the input of `rota_step` into the arguments of a component's `handle`, and its answer into the output.

A component gets the same fields as an agent and answers the same, as typed values of sdk/wit/agent.wit, so abi.py
makes and judges both. The arguments are built, and the answer read, over the C API: the package's own conversion looks
up each type again for each value, and it would convert an answer of any size, which takes no fuel. Here everything is
counted before it is copied.

`check_type` compares the whole type of `handle` when a component is prepared, so what is read here has the right shape.
The C API: https://docs.wasmtime.dev/c-api/, `wasmtime/component/val.h`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import byref
from typing import Any, Final

import msgpack
from wasmtime import _ffi as ffi
from wasmtime.component import (
    EnumType,
    FuncType,
    ListType,
    OptionType,
    RecordType,
    ResultType,
    ValType,
    VariantType,
)

from rota.common.component_binary import HANDLE, WORLD
from rota.common.errors import CodeError
from rota.common.limits import (
    EMITS_MAX,
    LOG_LINES_MAX,
    MESSAGE_CHARS_MAX,
    OUTPUT_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    TENSORS_PER_TASK_MAX,
)
from rota.common.work import EMIT_KINDS, MESSAGE_KINDS
from rota.cpu_worker import abi
from rota.cpu_worker.guest import GuestFault

_CONTENT: Final = "variant{text(string), binary(string)}"
_MESSAGE: Final = (
    f"record{{kind: enum{{{', '.join(MESSAGE_KINDS)}}}, sender: option<string>, payload: {_CONTENT}, turn: u64, "
    "now-ms: u64, entropy: string, reply-to: option<record{turn: u64, asked-in: u64, emit: u64}>, "
    "tensors: list<record{digest: string, dtype: string, shape: list<u64>}>, address: string}"
)
_EMIT: Final = (
    f"record{{target: string, payload: {_CONTENT}, priority: s8, kind: enum{{{', '.join(EMIT_KINDS)}}}, "
    "tensors: list<u32>, delay-ms: u64, answers: u64}"
)
_DONE: Final = (
    f"record{{state: option<{_CONTENT}>, output: option<{_CONTENT}>, emits: list<{_EMIT}>, log: list<string>, "
    "tensors: list<u32>, waits: option<string>}"
)
_FAILURE: Final = "record{code: string, message: string, log: list<string>}"
HANDLE_TYPE: Final = f"func(state: option<{_CONTENT}>, messages: list<{_MESSAGE}>) -> list<result<{_DONE}, {_FAILURE}>>"

_ENUM: Final[int] = ffi.WASMTIME_COMPONENT_ENUM.value
_LIST: Final[int] = ffi.WASMTIME_COMPONENT_LIST.value
_OPTION: Final[int] = ffi.WASMTIME_COMPONENT_OPTION.value
_RECORD: Final[int] = ffi.WASMTIME_COMPONENT_RECORD.value
_STRING: Final[int] = ffi.WASMTIME_COMPONENT_STRING.value
_U64: Final[int] = ffi.WASMTIME_COMPONENT_U64.value
_VARIANT: Final[int] = ffi.WASMTIME_COMPONENT_VARIANT.value

_packer = msgpack.Packer(autoreset=True)

# --- types ------------------------------------------------------------------------------------------------------------


def check_type(found: object) -> None:
    """Raise `CodeError` unless this is the type of `handle` in our world."""
    type_text = describe(found) if isinstance(found, FuncType) else "no function"
    if type_text != HANDLE_TYPE:
        raise CodeError(
            f"the component's {HANDLE} is {type_text[:500]}, and another type is needed: build it for the world "
            f"{WORLD} from sdk/wit/agent.wit of this version"
        )


def describe(found: FuncType | ValType | None) -> str:
    """Return the text of a type, with everything in it."""
    if isinstance(found, FuncType):
        params = ", ".join([f"{name}: {describe(value)}" for name, value in found.params])
        return f"func({params}) -> {describe(found.result)}"
    if isinstance(found, ListType):
        return f"list<{describe(found.element)}>"
    if isinstance(found, OptionType):
        return f"option<{describe(found.payload)}>"
    if isinstance(found, ResultType):
        return f"result<{describe(found.ok)}, {describe(found.err)}>"
    if isinstance(found, EnumType):
        return f"enum{{{', '.join(found.names)}}}"
    if isinstance(found, RecordType):
        return f"record{{{', '.join([f'{name}: {describe(value)}' for name, value in found.fields])}}}"
    if isinstance(found, VariantType):
        return f"variant{{{', '.join([f'{name}({describe(value)})' for name, value in found.cases])}}}"
    return "none" if found is None else type(found).__name__.lower()


# --- arguments --------------------------------------------------------------------------------------------------------

_Value = Any  # a wasmtime_component_val_t; ctypes has no types for the checker
_Put = Callable[[_Value, Any], None]


def put_arguments(data: bytes, slots: Any) -> None:
    """Write the arguments of `handle` into two values, which the caller deletes, from what `abi.encode_input` made."""
    fields = msgpack.unpackb(data, raw=False)
    _, state, kind, sender, payload, turn, now_ms, entropy, reply_to, tensors, address = fields
    _put_option(slots[0], state, _put_content)
    _put_list(slots[1], [fields], lambda slot, _: _put_record(slot, (
        (b"kind", kind, _put_enum), (b"sender", sender, _put_optional_text), (b"payload", payload, _put_content),
        (b"turn", turn, _put_u64), (b"now-ms", now_ms, _put_u64), (b"entropy", entropy.hex(), _put_text),
        (b"reply-to", reply_to, _put_optional_reply), (b"tensors", tensors, _put_tensors),
        (b"address", address, _put_text),
    )))  # fmt: skip


def _put_bytes(slot: _Value, kind: int, data: bytes) -> None:
    slot.kind = kind
    slot.of.string = ffi.bytes_to_capi(data)


def _put_text(slot: _Value, text: str) -> None:
    _put_bytes(slot, _STRING, text.encode())


def _put_enum(slot: _Value, name: str) -> None:
    _put_bytes(slot, _ENUM, name.encode())


def _put_u64(slot: _Value, value: int) -> None:
    slot.kind = _U64
    slot.of.u64 = value


def _put_content(slot: _Value, data: bytes) -> None:
    inner = ffi.wasmtime_component_val_t()
    try:
        data.decode()
        case = b"text"
    except UnicodeDecodeError:
        data, case = data.decode("latin-1").encode(), b"binary"
    _put_bytes(inner, _STRING, data)
    slot.kind = _VARIANT
    slot.of.variant.discriminant = ffi.bytes_to_capi(case)
    slot.of.variant.val = ffi.wasmtime_component_val_new(byref(inner))


def _put_option(slot: _Value, value: Any, put: _Put) -> None:
    slot.kind = _OPTION
    slot.of.option = None
    if value is not None:
        inner = ffi.wasmtime_component_val_t()
        put(inner, value)
        slot.of.option = ffi.wasmtime_component_val_new(byref(inner))


def _put_optional_text(slot: _Value, text: str | None) -> None:
    _put_option(slot, text, _put_text)


def _put_optional_reply(slot: _Value, reply_to: Sequence[int] | None) -> None:
    _put_option(slot, reply_to, _put_reply)


def _put_reply(slot: _Value, reply_to: Sequence[int]) -> None:
    turn, asked_in, emit = reply_to
    _put_record(slot, ((b"turn", turn, _put_u64), (b"asked-in", asked_in, _put_u64), (b"emit", emit, _put_u64)))


def _put_tensors(slot: _Value, tensors: Sequence[Any]) -> None:
    _put_list(slot, tensors, _put_tensor)


def _put_tensor(slot: _Value, tensor: Sequence[Any]) -> None:
    digest, dtype, shape = tensor
    _put_record(
        slot,
        (
            (b"digest", digest.hex(), _put_text),
            (b"dtype", dtype, _put_text),
            (b"shape", shape, lambda inner, axes: _put_list(inner, axes, _put_u64)),
        ),
    )


def _put_list(slot: _Value, items: Sequence[Any], put: _Put) -> None:
    slot.kind = _LIST
    ffi.wasmtime_component_vallist_new_uninit(byref(slot.of.list), len(items))
    for index, item in enumerate(items):
        put(slot.of.list.data[index], item)


def _put_record(slot: _Value, fields: Sequence[tuple[bytes, Any, _Put]]) -> None:
    slot.kind = _RECORD
    ffi.wasmtime_component_valrecord_new_uninit(byref(slot.of.record), len(fields))
    for index, (name, value, put) in enumerate(fields):
        entry = slot.of.record.data[index]
        entry.name = ffi.bytes_to_capi(name)
        put(entry.val, value)


# --- the answer -------------------------------------------------------------------------------------------------------


def read_answer(answer: _Value) -> bytes:
    """Return the output, as `abi.decode_output` takes it, from what `handle` returned.

    Raises `GuestFault` for an answer that has none: no outcome or several, or too many bytes.
    """
    count = answer.of.list.size
    if count != 1:
        raise GuestFault("bad_output", f"{HANDLE}: {count} outcomes for 1 message")
    outcome = answer.of.list.data[0].of.result
    reader = _AnswerReader()
    if outcome.is_ok:
        state, output, emits, log, tensors, waits = _fields(outcome.val.contents)
        fields: list[Any] = [
            abi.VERSION, abi.STATUS_DONE, reader.optional_content(state, "state"),
            reader.optional_content(output, "result"), reader.emits(emits), reader.lines(log), _indices(tensors),
        ]  # fmt: skip
        if waits.of.option:
            fields.append(_cut_text(waits.of.option.contents))
    else:
        code, message, log = _fields(outcome.val.contents)
        fields = [abi.VERSION, abi.STATUS_ERROR, _cut_text(code), _cut_text(message), reader.lines(log)]
    packed: bytes = _packer.pack(fields)
    return packed


class _AnswerReader:
    """Reads strings while all of them together are within what one task may return."""

    def __init__(self) -> None:
        self._left = OUTPUT_BYTES_MAX

    def optional_content(self, value: _Value, where: str) -> bytes | None:
        return self.content(value.of.option.contents, where) if value.of.option else None

    def content(self, value: _Value, where: str) -> bytes:
        variant = value.of.variant
        data = self.string(variant.val.contents)
        if _bytes(variant.discriminant) == b"text":
            return data
        try:
            return data.decode().encode("latin-1")
        except UnicodeEncodeError:
            text = f"{where}: a character above U+00FF in a binary, which has one for each byte"
            raise GuestFault("bad_output", text) from None

    def string(self, value: _Value) -> bytes:
        self._left -= value.of.string.size
        if self._left < 0:
            raise GuestFault("bad_output", f"{HANDLE}: more than {OUTPUT_BYTES_MAX} bytes returned")
        return _bytes(value.of.string)

    def emits(self, value: _Value) -> list[Any]:
        """Return the emits; only their number if there are more than any task may have."""
        count = value.of.list.size
        if count > EMITS_MAX:
            return [None] * count
        return [self._emit(value.of.list.data[index], f"emits[{index}]") for index in range(count)]

    def _emit(self, value: _Value, where: str) -> list[Any]:
        target, payload, priority, kind, tensors, delay_ms, answers = _fields(value)
        return [
            self.string(target).decode(), self.content(payload, f"{where}.payload"), priority.of.s8,
            _bytes(kind.of.enumeration).decode(), _indices(tensors), delay_ms.of.u64, answers.of.u64,
        ]  # fmt: skip

    def lines(self, value: _Value) -> list[str]:
        """Return the first log lines: more than any task may keep, so that what is too much is dropped as usual."""
        lines: list[str] = []
        left = PAYLOAD_BYTES_MAX
        for index in range(min(value.of.list.size, LOG_LINES_MAX)):
            vector = value.of.list.data[index].of.string
            lines.append(_bytes(vector, left).decode(errors="ignore"))
            left -= vector.size
            if left <= 0:
                break
        return lines


def _fields(record: _Value) -> list[_Value]:
    return [record.of.record.data[index].val for index in range(record.of.record.size)]


def _bytes(vector: Any, most: int = OUTPUT_BYTES_MAX) -> bytes:
    return ctypes.string_at(vector.data, min(vector.size, most)) if vector.size else b""


def _cut_text(value: _Value) -> str:
    """Return the beginning of a text: all that a failure's message keeps."""
    return _bytes(value.of.string, 4 * MESSAGE_CHARS_MAX).decode(errors="ignore")


def _indices(value: _Value) -> list[int]:
    """Return a list of u32; only zeros if it is longer than any task may have."""
    count = value.of.list.size
    if count > TENSORS_PER_TASK_MAX:
        return [0] * count
    return [value.of.list.data[index].of.u32 for index in range(count)]
