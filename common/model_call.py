"""The payload of a model task and of its result: named tensors, inline or by reference. PURE.

    task    {"inputs": {name: tensor}, "outputs": [name, ...]}      "outputs" may be left out: all of the model's
    result  {"outputs": {name: tensor}}
    tensor  [dtype, shape, data]      data: bin (little-endian, C order), or int: an index into the tensor
                                      references beside the payload (`TaskInput.tensors`, `Done.tensors`)

Both are MessagePack and are checked completely before use: every `BadPayload` names the tensor and the rule. The broker
never reads them. docs/MODELS.md shows the bytes; change it and tensors/arrays.py with this file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from rota.common.errors import BadPayload
from rota.common.limits import TENSOR_BYTES_MAX, TENSOR_RANK_MAX, TENSORS_PER_TASK_MAX
from rota.common.msgpack_check import is_whole
from rota.common.shown import shown
from rota.common.work import NO_MODEL_PAYLOAD, TensorRef

# Names as in numpy and ml_dtypes. Strings, complex numbers and sub-byte types are not supported.
DTYPE_BYTES: Final[Mapping[str, int]] = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
}
TEXT_TASKS: Final = ("generate", "embed", "classify")  # the payloads of text_calls.py
NAME_CHARS_MAX: Final = 200  # names in a graph include their whole scope


class Tensor(NamedTuple):
    """A tensor of a payload. `data` is its bytes, or the index of its reference."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | int


class Call(NamedTuple):
    """A checked model task. `outputs` is empty if all are wanted."""

    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def encode_call(inputs: Mapping[str, Tensor], outputs: Iterable[str] = ()) -> bytes:
    """Return the payload of a model task."""
    wanted = list(outputs)
    packed: bytes = msgpack.packb({"inputs": inputs, "outputs": wanted} if wanted else {"inputs": inputs})
    return packed


def encode_result(outputs: Mapping[str, Tensor]) -> bytes:
    """Return the payload of a model's result."""
    packed: bytes = msgpack.packb({"outputs": outputs})
    return packed


def decode_call(payload: bytes, references: Sequence[TensorRef]) -> Call:
    """Return the call in `payload`, whose tensors may be indexes into `references`.

    Raises `BadPayload` if it is not a model task.
    """
    fields = _fields(payload, needed="inputs", optional="outputs")
    return Call(
        _tensors(fields["inputs"], "input", references), _wanted(fields["outputs"]) if "outputs" in fields else ()
    )


def decode_result(payload: bytes, references: Sequence[TensorRef]) -> dict[str, Tensor]:
    """Return the outputs in the result `payload`, whose tensors may be indexes into `references`.

    Raises `BadPayload` if it is not a model's result.
    """
    return _tensors(_fields(payload, needed="outputs", optional="")["outputs"], "output", references)


def unpacked(payload: bytes) -> Any:
    """Return the MessagePack value in `payload`. Raises `BadPayload` for other bytes, or a map with a name twice."""
    try:
        if not is_whole(payload):
            raise ValueError
        return msgpack.unpackb(payload, object_pairs_hook=_unique)
    except ValueError:  # of any kind; msgpack's texts may change, and a failure's text enters the digest
        raise BadPayload(NO_MODEL_PAYLOAD) from None


def _fields(payload: bytes, needed: str, optional: str) -> dict[str, Any]:
    fields = unpacked(payload)
    if not isinstance(fields, dict):
        raise BadPayload(f'the payload must be a MessagePack map with "{needed}"; its bytes mean {shown(fields)}')
    if needed == "inputs" and next(iter(fields), None) in TEXT_TASKS:
        raise BadPayload(
            f'this model takes named arrays (task = "tensors"), and no text: the payload has "{next(iter(fields))}"'
        )
    if needed not in fields:
        raise BadPayload(f'the payload must be a MessagePack map with "{needed}", got {shown(fields)}')
    for name in fields:
        if name not in (needed, optional):
            raise BadPayload(f"the payload has an unknown field {shown(name)}")
    return fields


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Build a map. Duplicate names are refused, since decoders treat them differently."""
    pairs = list(pairs)
    built = dict(pairs)
    if len(built) != len(pairs):
        raise BadPayload("the payload has a name twice in one map")
    return built


def _tensors(value: Any, role: str, references: Sequence[TensorRef]) -> dict[str, Tensor]:
    if not isinstance(value, dict):
        raise BadPayload(f'"{role}s" must be a map of name to tensor, got {shown(value)}')
    if len(value) > TENSORS_PER_TASK_MAX:
        raise BadPayload(f"{len(value)} {role}s are more than the {TENSORS_PER_TASK_MAX} that are allowed")
    return {name: decode_tensor(name, fields, role, references) for name, fields in value.items()}


def decode_tensor(name: Any, value: Any, role: str, references: Sequence[TensorRef]) -> Tensor:
    """Return a tensor out of a payload. Raises `BadPayload`; `name` and `role` are for its message."""
    if not _is_name(name):
        raise BadPayload(f"{role} names are text of 1 to {NAME_CHARS_MAX} characters, got {shown(name)}")
    if not isinstance(value, list) or len(value) != 3:
        raise BadPayload(f'{role} "{name}" must be [dtype, shape, data], got {shown(value)}')
    dtype, shape, data = value
    width = DTYPE_BYTES.get(dtype) if isinstance(dtype, str) else None
    if width is None:
        raise BadPayload(f'{role} "{name}" has the unknown dtype {shown(dtype)}; known: {", ".join(DTYPE_BYTES)}')
    if not _is_shape(shape):
        raise BadPayload(
            f'{role} "{name}" has the shape {shown(shape)}; it must be a list of up to {TENSOR_RANK_MAX} counts'
        )
    size_bytes = math.prod(shape) * width
    # For empty tensors the other extents are checked too: numpy cannot make a shape whose product overflows.
    if size_bytes > TENSOR_BYTES_MAX or (size_bytes == 0 and math.prod(filter(None, shape)) > TENSOR_BYTES_MAX):
        raise BadPayload(f'{role} "{name}" of {shape} is over the {TENSOR_BYTES_MAX} bytes that are allowed')
    tensor = Tensor(dtype, tuple(shape), data)
    if isinstance(data, bytes):
        _check_inline(name, tensor, size_bytes, role)
    else:
        _check_reference(name, tensor, role, references)
    return tensor


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > TENSOR_RANK_MAX:
        return False
    # A bool is an int in Python but not here. No machine can map 2**48 elements.
    return all(type(extent) is int and 0 <= extent < 1 << 48 for extent in value)


def _check_inline(name: str, tensor: Tensor, size_bytes: int, role: str) -> None:
    assert isinstance(tensor.data, bytes)
    if len(tensor.data) != size_bytes:
        raise BadPayload(
            f'{role} "{name}" has {len(tensor.data)} bytes, but {tensor.dtype} {list(tensor.shape)} needs {size_bytes}'
        )
    # Native code reads a bool as one byte; other values than 0 and 1 are undefined behaviour.
    if tensor.dtype == "bool" and tensor.data.translate(None, b"\0\1"):
        raise BadPayload(f'{role} "{name}" is bool and holds bytes other than 0 and 1')


def _check_reference(name: str, tensor: Tensor, role: str, references: Sequence[TensorRef]) -> None:
    index = tensor.data
    if not isinstance(index, int) or isinstance(index, bool):
        raise BadPayload(f'{role} "{name}" must hold bin or the index of a tensor reference, got {shown(index)}')
    if not 0 <= index < len(references):
        raise BadPayload(f'{role} "{name}" points at tensor reference {index}; there are {len(references)}')
    reference = references[index]
    if (reference.dtype, tuple(reference.shape)) != (tensor.dtype, tensor.shape):
        raise BadPayload(
            f'{role} "{name}" is {tensor.dtype} {list(tensor.shape)}, but tensor reference {index} is '
            f"{reference.dtype} {list(reference.shape)}"
        )


def _wanted(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > TENSORS_PER_TASK_MAX or not all(_is_name(name) for name in value):
        raise BadPayload(f'"outputs" must be a list of up to {TENSORS_PER_TASK_MAX} names, got {shown(value)}')
    if len(dict.fromkeys(value)) != len(value):
        raise BadPayload('"outputs" names an output twice')
    return tuple(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX
