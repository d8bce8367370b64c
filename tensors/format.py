"""The file format of a tensor, and its digest: the same bytes for the same dtype, shape and data, everywhere. PURE.

A tensor file is a plain `.npy` file, version 1.0, whose header is fully determined by dtype and shape, so the file is a
function of the tensor. Its digest is the BLAKE3 of the file, so `b3sum` checks a file, and dtype and shape are covered.
A reader compares the header with the one it would write and never parses it.

Changing a byte here renames every tensor: that is a new format; change docs/TENSORS.md and docs/JOURNAL.md with it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy
import numpy.typing
from blake3 import blake3

from rota.common.errors import TensorError
from rota.common.limits import INLINE_BYTES_MAX, INLINE_TOTAL_BYTES_MAX, TENSOR_BYTES_MAX, TENSOR_RANK_MAX
from rota.common.shown import shown

ALIGNMENT_BYTES: Final = 64  # alignment changes bits in some kernels; 64 covers a cache line and the widest vector
DIGEST_BYTES: Final = 32

# https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, "Format version 1.0": magic, version,
# little-endian length of the header as two bytes, then a Python literal padded with spaces and ended by a newline.
_MAGIC: Final = b"\x93NUMPY\x01\x00"
_PREFIX_BYTES: Final = len(_MAGIC) + 2

# Threads are slower below this size and faster above it (on two cores, blake3 1.0.11).
_THREADS_BYTES_MIN: Final = 1 << 20


class _Type(NamedTuple):
    descr: str  # as in the header
    item_bytes: int
    extension: bool = False  # from ml_dtypes


# numpy's format has no names for the types of ml_dtypes: as plain `|V1`, two kinds of float8 would have the same file.
# A record with one named field keeps them apart, and numpy.load can still read it:
# `load(path)["bfloat16"].view(ml_dtypes.bfloat16)`.
_TYPES: Final[dict[str, _Type]] = {
    "bool": _Type("'|b1'", 1),
    "int8": _Type("'|i1'", 1),
    "int16": _Type("'<i2'", 2),
    "int32": _Type("'<i4'", 4),
    "int64": _Type("'<i8'", 8),
    "uint8": _Type("'|u1'", 1),
    "uint16": _Type("'<u2'", 2),
    "uint32": _Type("'<u4'", 4),
    "uint64": _Type("'<u8'", 8),
    "float16": _Type("'<f2'", 2),
    "float32": _Type("'<f4'", 4),
    "float64": _Type("'<f8'", 8),
    "complex64": _Type("'<c8'", 8),
    "complex128": _Type("'<c16'", 16),
    "bfloat16": _Type("[('bfloat16', '|V2')]", 2, True),
    "float8_e4m3fn": _Type("[('float8_e4m3fn', '|V1')]", 1, True),
    "float8_e4m3fnuz": _Type("[('float8_e4m3fnuz', '|V1')]", 1, True),
    "float8_e5m2": _Type("[('float8_e5m2', '|V1')]", 1, True),
    "float8_e5m2fnuz": _Type("[('float8_e5m2fnuz', '|V1')]", 1, True),
}
DTYPES: Final = tuple(_TYPES)


def dtype_name(dtype: numpy.typing.DTypeLike) -> str:
    """Return the name of a numpy dtype in messages.

    Raises `TensorError` for types that cannot be sent: objects, text, dates, records, big-endian numbers.
    """
    if isinstance(dtype, str) and dtype in _TYPES:
        return dtype
    try:
        found = numpy.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise TensorError(f"{dtype!r} is no dtype: use one of {', '.join(DTYPES)}") from error
    if found.name not in _TYPES:
        raise TensorError(f"dtype {found} cannot be stored: use one of {', '.join(DTYPES)}", dtype=str(found))
    if found.byteorder == ">" or (found.byteorder == "=" and sys.byteorder != "little"):
        raise TensorError(
            f"dtype {found.str} is big-endian, tensors are little-endian: array.astype(array.dtype.newbyteorder('<'))",
            dtype=found.str,
        )
    return found.name


def numpy_dtype(name: str) -> numpy.dtype[Any]:
    """Return the numpy dtype of a dtype name. Raises `TensorError` if it needs ml_dtypes and that is missing."""
    known = _known(name)
    if not known.extension:
        return numpy.dtype(name)
    try:
        import ml_dtypes  # optional: producers without such tensors need not have it
    except ImportError as error:
        raise TensorError(f"dtype {name} needs the package ml_dtypes: pip install ml_dtypes", dtype=name) from error
    extension: numpy.dtype[Any] = numpy.dtype(getattr(ml_dtypes, name))
    return extension


def check_tensor(dtype: str, shape: tuple[int, ...]) -> int:
    """Return how many bytes of data a tensor has. Raises `TensorError` for a bad dtype, shape or size."""
    known = _known(dtype)
    if not isinstance(shape, tuple) or len(shape) > TENSOR_RANK_MAX:
        raise TensorError(f"shape {shown(shape)} is not a tuple of at most {TENSOR_RANK_MAX} lengths")
    # With a zero the size is zero whatever the other lengths, so each length is bounded too.
    for length in shape:
        if type(length) is not int or not 0 <= length <= TENSOR_BYTES_MAX:
            raise TensorError(f"shape {shown(shape)} has a length that is not an integer from 0 to {TENSOR_BYTES_MAX}")
    data_bytes = math.prod(shape) * known.item_bytes
    if data_bytes > TENSOR_BYTES_MAX:
        raise TensorError(
            f"a tensor {dtype} {shape} has {data_bytes} bytes, over TENSOR_BYTES_MAX = {TENSOR_BYTES_MAX}: split it",
            bytes=data_bytes,
        )
    return data_bytes


def inline_bytes_max(sizes: Iterable[int]) -> int:
    """Return the largest size of an inline tensor in a payload whose tensors have these sizes; larger ones go into the
    store.

    It is INLINE_BYTES_MAX, or less if the inline ones would exceed INLINE_TOTAL_BYTES_MAX together: then the largest go
    into the store, all of equal size together. Both sides of a call use this rule, so its bytes are always the same.
    """
    bound = INLINE_BYTES_MAX
    small = sorted(size for size in sizes if size <= bound)
    total = sum(small)
    while total > INLINE_TOTAL_BYTES_MAX:
        largest = small[-1]
        while small and small[-1] == largest:
            total -= small.pop()
        bound = largest - 1
    return bound


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return everything before the data of a tensor file; its length is a multiple of 64."""
    text = f"{{'descr': {_known(dtype).descr}, 'fortran_order': False, 'shape': {shape!r}, }}".encode("ascii")
    padding = -(_PREFIX_BYTES + len(text) + 1) % ALIGNMENT_BYTES
    body = text + b" " * padding + b"\n"
    return _MAGIC + len(body).to_bytes(2, "little") + body


def tensor_digest(dtype: str, shape: tuple[int, ...], data: bytes | memoryview) -> bytes:
    """Return the digest of a tensor: the BLAKE3 of its file, that is of header and data.

    `data` is the row-major, little-endian data as flat bytes (see `flat_bytes`).
    """
    assert memoryview(data).nbytes == check_tensor(dtype, shape), "the data does not fit dtype and shape"
    return file_digest(npy_header(dtype, shape), data)


def file_digest(*parts: Any) -> bytes:
    """Return the BLAKE3 of the concatenated parts, using threads where they help."""
    hasher = blake3(max_threads=1)
    if sum(memoryview(part).nbytes for part in parts) >= _THREADS_BYTES_MIN:
        hasher = blake3(max_threads=blake3.AUTO)
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def flat_bytes(array: numpy.typing.NDArray[Any]) -> memoryview:
    """Return the data of an array as flat bytes in row-major order, without a copy if it is contiguous."""
    ordered = array if array.flags.c_contiguous else array.copy(order="C")
    return ordered.reshape(-1).view(numpy.uint8).data


def _known(name: str) -> _Type:
    known = _TYPES.get(name) if isinstance(name, str) else None
    if known is None:
        raise TensorError(f"{shown(name)} is no dtype of a tensor: use one of {', '.join(DTYPES)}", dtype=shown(name))
    return known
