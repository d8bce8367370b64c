"""Encodes values of a client as payloads, and decodes them: canonical MessagePack with numpy arrays.

Equal values give equal bytes, in every process and whatever the insertion order of a dict, so that equal submits have
equal digests. A payload of bytes or text is not packed but sent as it is (payloads.py); only the receiver knows which
of the two a payload is.

docs/TENSORS.md describes the encoding under "Values of a client"; change both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgpack
import numpy
import numpy.typing

from rota.common.errors import BadPayload, TensorError
from rota.common.limits import (
    INLINE_BYTES_MAX,
    MESSAGE_ITEMS_MAX,
    PAYLOAD_BYTES_MAX,
    TENSORS_PER_TASK_MAX,
    VALUE_DEPTH_MAX,
)
from rota.common.shown import shown
from rota.common.work import TensorRef
from rota.tensors.format import (
    ALIGNMENT_BYTES,
    DIGEST_BYTES,
    check_tensor,
    dtype_name,
    flat_bytes,
    inline_bytes_max,
    numpy_dtype,
)
from rota.tensors.store import TensorStore

TENSOR_EXTENSION: Final = 1  # MessagePack's application types are 0 to 127

# Extension -1, MessagePack's own. The stubs of msgpack leave it out.
_Timestamp: Final[Any] = msgpack.Timestamp  # type: ignore[attr-defined]
_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 64) - 1


def pack_value(value: Any, store: TensorStore | None) -> tuple[bytes, list[TensorRef]]:
    """Return the payload of a value and the tensors that it refers to; both go into the submit.

    Large arrays go into the store (see `inline_bytes_max`); without a store all are inline, if they fit. A `TensorRef`
    stands for its tensor, which is not read. Raises `BadPayload` with the path to what cannot be packed, `TensorError`
    if the store cannot take an array.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _checked_size(bytes(value)), []
    packing = _Packing(store)
    try:
        payload: bytes = msgpack.packb(packing.canonical(value, 0), default=packing.small_array)
    except _Misfit as misfit:
        path = "value" + "".join(reversed(misfit.steps))
        raise BadPayload(f"{path} {misfit.message}", path=path) from misfit
    return _checked_size(payload), packing.tensors


def unpack_value(payload: bytes, tensors: Sequence[TensorRef], store: TensorStore | None) -> Any:
    """Return the value in a payload. Arrays are read-only and 64-byte aligned; those in the store are mapped.

    Without a store, arrays by reference are returned as their `TensorRef`. Any valid MessagePack is accepted, canonical
    or not. Raises `BadPayload` for other bytes, `TensorError` if a tensor is not in the store.
    """

    def extension(code: int, data: bytes) -> Any:
        if code != TENSOR_EXTENSION:
            raise BadPayload(
                f"the payload has an unknown MessagePack extension type {code}: only tensors (1) are known"
            )
        return _array(data, tensors, store)

    try:
        return msgpack.unpackb(
            payload,
            ext_hook=extension,
            object_pairs_hook=_map,
            strict_map_key=False,
            max_array_len=MESSAGE_ITEMS_MAX,
            max_map_len=MESSAGE_ITEMS_MAX,
        )
    # As msgpack documents for `unpackb`: ValueError and subclasses for malformed input, UnpackException for the rest.
    except (ValueError, msgpack.UnpackException) as error:
        raise BadPayload(
            f"the payload is not a MessagePack value ({type(error).__name__}: {str(error)[:200]}): "
            "if it is text, read .text of the result, else its bytes, .payload"
        ) from error


class _Misfit(Exception):
    """Something that cannot be packed; each level adds its step of the path, the innermost first."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.steps: list[str] = []


class _Packing:
    """Packs one value and collects its tensors in order; those in the store only because of the sum come last."""

    def __init__(self, store: TensorStore | None) -> None:
        self.tensors: list[TensorRef] = []
        self._places: dict[TensorRef, int] = {}
        self._small_sizes: list[int] = []
        self._inline_max: int | None = None
        self._store = store

    def canonical(self, value: Any, depth: int) -> Any:
        """Return `value` in plain types for msgpack, with maps in canonical order."""
        if depth > VALUE_DEPTH_MAX:
            raise _Misfit(f"is over {VALUE_DEPTH_MAX} levels deep, or contains itself: make it flatter")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, TensorRef):  # before tuples, since it is one
            return self._by_reference(_checked_reference(value))
        if isinstance(value, dict):
            return self._map(value, depth)
        if isinstance(value, (list, tuple)):
            return self._list(value, depth)
        if isinstance(value, numpy.ndarray):
            return self._array(value)
        if isinstance(value, _Timestamp):
            return value
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        return _scalar(value)

    def _list(self, values: Sequence[Any], depth: int) -> list[Any]:
        _check_length(values)
        out = []
        for index, item in enumerate(values):
            try:
                out.append(self.canonical(item, depth + 1))
            except _Misfit as misfit:
                misfit.steps.append(f"[{index}]")
                raise
        return out

    def _map(self, values: dict[Any, Any], depth: int) -> dict[Any, Any]:
        _check_length(values)
        out: dict[Any, Any] = {}
        previous = None
        for encoded, key in sorted(((_key_bytes(key), key) for key in values), key=lambda pair: pair[0]):
            if encoded == previous:
                raise _Misfit(f"has two keys that are packed alike: {shown(key)}")
            try:
                out[_scalar(key)] = self.canonical(values[key], depth + 1)
            except _Misfit as misfit:
                misfit.steps.append(f"[{shown(key)}]")
                raise
            previous = encoded
        return out

    def _array(self, array: numpy.typing.NDArray[Any]) -> Any:
        """Return the extension of an array. A small one is returned unchanged, for `small_array` when all are known."""
        if isinstance(array, numpy.ma.MaskedArray):
            raise _Misfit("is a masked array, whose mask would be lost: send array.filled() or data and mask")
        try:
            name, shape = dtype_name(array.dtype), tuple(array.shape)
            check_tensor(name, shape)
        except TensorError as error:
            raise _Misfit(f"cannot be sent: {error.message}") from error
        if self._store is None:
            return _tensor_extension(name, shape, flat_bytes(array))
        if array.nbytes > INLINE_BYTES_MAX:
            return self._by_reference(self._store.put(array))
        self._small_sizes.append(array.nbytes)
        return array

    def small_array(self, array: numpy.typing.NDArray[Any]) -> msgpack.ExtType:
        """Return the extension of an array of at most INLINE_BYTES_MAX: inline if the sum of all allows it."""
        assert self._store is not None
        if self._inline_max is None:
            self._inline_max = inline_bytes_max(self._small_sizes)
        if array.nbytes > self._inline_max:
            return self._by_reference(self._store.put(array))
        return _tensor_extension(dtype_name(array.dtype), tuple(array.shape), flat_bytes(array))

    def _by_reference(self, ref: TensorRef) -> msgpack.ExtType:
        place = self._places.setdefault(ref, len(self.tensors))
        if place == len(self.tensors):
            if place == TENSORS_PER_TASK_MAX:
                raise _Misfit(f"is tensor {place + 1} and a task takes {TENSORS_PER_TASK_MAX}: stack some into one")
            self.tensors.append(ref)
        return _tensor_extension(ref.dtype, ref.shape, place)


def _scalar(value: Any) -> Any:
    """Return a scalar as a plain type."""
    if isinstance(value, numpy.generic) and not isinstance(value, (str, bytes)):
        item = value.item()
        if not isinstance(item, (bool, int, float)):
            raise _Misfit(f"is a {type(value).__name__}, which has no MessagePack form: send it as an array")
        value = item
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise _Misfit(f"is an integer outside {_INT_MIN}..{_INT_MAX}: send it as text")
        return int(value)
    if isinstance(value, float):
        return math.nan if math.isnan(value) else float(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _Misfit("is text with half a surrogate pair, which UTF-8 cannot hold: send it as bytes") from error
        return str(value)
    if isinstance(value, bytes):
        return bytes(value)
    raise _Misfit(f"is of type {type(value).__name__}, which has no MessagePack form: {_remedy(value)}")


def _remedy(value: Any) -> str:
    if isinstance(value, (set, frozenset)):
        return "send a sorted list"
    if isinstance(value, complex):
        return "send [real, imag] or a numpy array"
    return "send a dict, list, text, number, bytes or numpy array of what it holds"


def _key_bytes(key: Any) -> bytes:
    if isinstance(key, bool) or not isinstance(key, (str, bytes, int, numpy.integer)):
        raise _Misfit(f"has a key of type {type(key).__name__} ({shown(key)}): keys are str, bytes or integers")
    try:
        packed: bytes = msgpack.packb(_scalar(key))
    except _Misfit as misfit:
        misfit.steps.append(f"[{shown(key)}]")
        raise
    return packed


def _check_length(values: Sequence[Any] | dict[Any, Any]) -> None:
    if len(values) > MESSAGE_ITEMS_MAX:
        raise _Misfit(f"has {len(values)} elements and at most {MESSAGE_ITEMS_MAX} are taken: send a numpy array")


def _checked_size(payload: bytes) -> bytes:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BadPayload(
            f"the payload has {len(payload)} bytes and a task takes {PAYLOAD_BYTES_MAX}: split it, or send what is "
            "large as numpy arrays through a tensor store",
            bytes=len(payload),
        )
    return payload


def _checked_reference(ref: TensorRef) -> TensorRef:
    if not isinstance(ref.digest, bytes) or len(ref.digest) != DIGEST_BYTES:
        raise _Misfit(f"is a tensor reference whose digest is not {DIGEST_BYTES} bytes: take it from the store")
    try:
        check_tensor(ref.dtype, ref.shape)
    except TensorError as error:
        raise _Misfit(f"is a wrong tensor reference: {error.message}") from error
    return ref


def _tensor_extension(name: str, shape: tuple[int, ...], data: memoryview | int) -> msgpack.ExtType:
    return msgpack.ExtType(TENSOR_EXTENSION, msgpack.packb([name, shape, data]))


# --- decoding ---------------------------------------------------------------------------------------------------------


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    try:
        out = dict(pairs)
    except TypeError as error:
        raise BadPayload(
            "the payload has a map whose key is a list, map or tensor: use str, bytes or integers"
        ) from error
    if len(out) != len(pairs):
        raise BadPayload("the payload has a map in which a key comes twice")
    return out


def _array(data: bytes, tensors: Sequence[TensorRef], store: TensorStore | None) -> Any:
    """Return the array of a tensor extension, or its reference if there is no store."""
    fields = msgpack.unpackb(data, strict_map_key=False, object_pairs_hook=_map)
    if not isinstance(fields, list) or len(fields) != 3 or not isinstance(fields[1], list):
        raise BadPayload("a tensor in the payload is not [dtype, [length, ...], data]")
    name, shape, content = fields[0], tuple(fields[1]), fields[2]
    try:
        size = check_tensor(name, shape)
        if isinstance(content, bytes) and len(content) == size:
            return _aligned(content, numpy_dtype(name), shape)
    except TensorError as error:
        raise BadPayload(f"a tensor in the payload is wrong: {error.message}") from error
    if type(content) is not int or not 0 <= content < len(tensors) or tensors[content][1:] != (name, shape):
        raise BadPayload(
            f"a tensor {name} {shape} in the payload has neither {size} bytes of data nor the index of such a tensor "
            f"among the task's {len(tensors)}"
        )
    return tensors[content] if store is None else store.open(tensors[content])


def _aligned(data: bytes, dtype: numpy.dtype[Any], shape: tuple[int, ...]) -> numpy.typing.NDArray[Any]:
    """Return a read-only, 64-byte aligned copy of inline data: alignment changes bits in some kernels."""
    room = numpy.empty(len(data) + ALIGNMENT_BYTES, numpy.uint8)
    start = -room.ctypes.data % ALIGNMENT_BYTES
    part = room[start : start + len(data)]
    part[:] = numpy.frombuffer(data, numpy.uint8)
    array = part.view(dtype).reshape(shape)
    array.flags.writeable = False
    return array
