"""Numpy arrays to and from the tensors of a model task and its result.

Not pure: it needs numpy, and ml_dtypes for bfloat16 and float8. common/model_call.py has the payload's format, store.py
the tensor store. Returned arrays are read-only views of the input, never copies.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rota.common.errors import BadPayload
from rota.common.limits import INLINE_BYTES_MAX
from rota.common.model_call import DTYPE_BYTES, Tensor, decode_result, encode_call
from rota.common.tensor_heads import TensorHeads
from rota.common.work import TensorRef
from rota.tensors.format import ALIGNMENT_BYTES, inline_bytes_max, numpy_dtype
from rota.tensors.store import TensorStore

Array = NDArray[Any]

assert sys.byteorder == "little", "payloads are little-endian and are mapped, not converted"


def aligned_empty(dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """Return a new array whose data is 64-byte aligned and uninitialized."""
    size_bytes = math.prod(shape) * dtype.itemsize
    room = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -room.ctypes.data % ALIGNMENT_BYTES
    return room[start : start + size_bytes].view(dtype).reshape(shape)


def inline(array: Array) -> Tensor:
    """Return an array as an inline tensor."""
    return Tensor(_name_of(array.dtype), array.shape, array.tobytes())


def array_of(tensor: Tensor, references: Sequence[TensorRef], store: TensorStore | None) -> Array:
    """Return a tensor as a read-only array: a view of its bytes, or a mapped file of the store.

    Raises `TensorError` if the store has no such tensor, `BadPayload` if there is no store.
    """
    if isinstance(tensor.data, bytes):
        return np.frombuffer(tensor.data, numpy_dtype(tensor.dtype)).reshape(tensor.shape)
    if store is None:
        raise BadPayload("a tensor came by reference, but there is no tensor store here: send it inline")
    return store.open(references[tensor.data])


def encode_arrays(
    inputs: Mapping[str, Array], outputs: Iterable[str] = (), *, store: TensorStore | None
) -> tuple[bytes, tuple[TensorRef, ...]]:
    """Return the payload and the tensor references of a model task; large arrays go into the store."""
    references: list[TensorRef] = []
    tensors = {}
    inline_max = inline_bytes_max([array.nbytes for array in inputs.values()])
    for name, array in inputs.items():
        if store is None or array.nbytes <= inline_max:
            tensors[name] = inline(array)
        else:
            tensors[name] = Tensor(_name_of(array.dtype), array.shape, len(references))
            references.append(store.put(array))
    return encode_call(tensors, outputs), tuple(references)


class CallPacker:
    """Makes payloads as `encode_arrays` does; what many calls have in common is encoded once (tensor_heads.py)."""

    def __init__(self, store: TensorStore | None) -> None:
        self._store = store
        self._heads = TensorHeads("inputs")

    def pack(self, inputs: Mapping[str, Array]) -> tuple[bytes, tuple[TensorRef, ...]]:
        """Return the payload and the tensor references of a model task."""
        described, size = [], 0
        for name, array in inputs.items():
            described.append((name, _NAMES.get(array.dtype) or _name_of(array.dtype), array.shape, array.nbytes))
            size += array.nbytes
        if size > INLINE_BYTES_MAX or not described:  # so far each one is inline, whichever they are
            return encode_arrays(inputs, store=self._store)
        parts: list[bytes] = []
        for head, array in zip(self._heads.of(tuple(described)), inputs.values(), strict=True):
            parts += (head, array.tobytes())
        return b"".join(parts), ()


def decode_arrays(payload: bytes, references: Sequence[TensorRef], store: TensorStore | None) -> dict[str, Array]:
    """Return the arrays in a model's result; those in the store are mapped.

    Raises `BadPayload` or `TensorError`.
    """
    return {name: array_of(tensor, references, store) for name, tensor in decode_result(payload, references).items()}


_NAMES: Final[dict[np.dtype[Any], str]] = {}  # of those met so far: numpy works a name out anew each time


def _name_of(dtype: np.dtype[Any]) -> str:
    """Return the dtype's name in a payload. Unlike the store, models here do not take complex numbers."""
    known = _NAMES.get(dtype)
    if known is not None:
        return known
    if dtype.name not in DTYPE_BYTES or not dtype.isnative:
        raise BadPayload(f"arrays of {dtype!r} cannot be sent to a model; convert to one of {', '.join(DTYPE_BYTES)}")
    return _NAMES.setdefault(dtype, dtype.name)
