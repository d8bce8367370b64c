"""Numpy arrays to and from the tensors of a model task and its result.

Not pure: it needs numpy, and ml_dtypes for bfloat16 and float8. common/model_call.py has the payload's format, store.py
the tensor store. Returned arrays are read-only views of the input, never copies.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rota.common.errors import BadPayload
from rota.common.model_call import DTYPE_BYTES, Tensor, decode_result, encode_call
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


def decode_arrays(payload: bytes, references: Sequence[TensorRef], store: TensorStore | None) -> dict[str, Array]:
    """Return the arrays in a model's result; those in the store are mapped.

    Raises `BadPayload` or `TensorError`.
    """
    return {name: array_of(tensor, references, store) for name, tensor in decode_result(payload, references).items()}


def _name_of(dtype: np.dtype[Any]) -> str:
    """Return the dtype's name in a payload. Unlike the store, models here do not take complex numbers."""
    if dtype.name not in DTYPE_BYTES or not dtype.isnative:
        raise BadPayload(f"arrays of {dtype!r} cannot be sent to a model; convert to one of {', '.join(DTYPE_BYTES)}")
    return dtype.name
