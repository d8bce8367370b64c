"""The rows that the probes run: made up from a fixed stream, so that a certificate is a function of the model.

A kernel may fail, or do nothing worth comparing, for values that its model never sees, so the values have to be
plausible. `[ranges]` in model.toml says what an input takes. Without it, masks, positions and types of tokens are known
by their names; other integers are 0 to 255 if the model accepts them, else 0 to 3; floats are in [-1, 1) in one row and
in [-4, 4) in the next.

Behind the ordinary rows are outliers, which are neighbours only: values far from the others show a model that scales a
whole batch at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from rota.tensors.arrays import Array
from rota.tensors.format import numpy_dtype

OUTLIERS: Final = 4  # zeros or the lowest values, the highest, and two of large values
ZEROS: Final = 0  # the first of the outliers

_CONTEXT: Final = "rota 2026-11 probe rows"
_WIDE: Final = (0.0, 255.0)
_NARROW: Final = (0.0, 3.0)
_FAR: Final = 256.0  # times an ordinary value; every float type holds it

Range = tuple[float, float]


def make_rows(name: str, dtype: str, extents: Sequence[int], count: int, limits: Range | None, *, wide: bool) -> Array:
    """Return `count` rows of an input and then OUTLIERS more: [count + OUTLIERS, *extents].

    `limits` are the lowest and the highest value, if the model says them. `wide` gives other integers the range 0 to
    255.
    """
    kind = numpy_dtype(dtype).kind
    shape = (count + OUTLIERS, *extents)
    if kind == "b":
        values: NDArray[Any] = np.floor(_uniform(name, shape) * 2)
        _spread(values, count, 0, 1)
    elif limits is not None:
        values = _between(name, shape, limits, whole=kind in "iu")
        _spread(values, count, *limits)
    elif kind in "iu":
        values = _integers(name, dtype, shape, count, wide=wide)
    else:
        values = _uniform(name, shape) * 2 - 1
        values[1:count:2] *= 4
        values[count + ZEROS] = 0
        values[count + 1 :] *= _FAR
    return values.astype(numpy_dtype(dtype))


def takes_wide_integers(ports: Mapping[str, Any], limits: Mapping[str, Range]) -> bool:
    """Return whether some input has integers whose range has to be tried."""
    return any(_is_plain_integer(name, port.dtype) and name not in limits for name, port in ports.items())


def _is_plain_integer(name: str, dtype: str) -> bool:
    return numpy_dtype(dtype).kind in "iu" and not any(word in name for word in ("mask", "position", "type", "segment"))


def _integers(name: str, dtype: str, shape: tuple[int, ...], count: int, *, wide: bool) -> NDArray[Any]:
    if "mask" in name:
        return _masks(name, shape, count)
    if "position" in name:
        last = shape[-1] if len(shape) > 1 else 1
        return np.broadcast_to(np.arange(last, dtype=np.float64), shape).copy() if last > 1 else np.zeros(shape)
    limits = _NARROW
    if "type" in name or "segment" in name:
        limits = (0.0, 1.0)
    elif wide and len(shape) > 1:
        limits = (-128.0, 127.0) if dtype == "int8" else _WIDE
    values = _between(name, shape, limits, whole=True)
    _spread(values, count, *limits)
    return values


def _masks(name: str, shape: tuple[int, ...], count: int) -> NDArray[Any]:
    """Return ones and then zeros along the last axis, in each row from another place on; the first row has no zeros."""
    if len(shape) == 1:
        return np.ones(shape)
    ones = 1 + np.floor(_uniform(name, (shape[0],)) * shape[-1])
    ones[0] = shape[-1]
    ones[count:] = [1, shape[-1], *ones[count + 2 :]]
    places = np.arange(shape[-1])
    rows = (places < ones[:, None]).astype(np.float64)
    return np.broadcast_to(rows.reshape(shape[0], *[1] * (len(shape) - 2), shape[-1]), shape).copy()


def _between(name: str, shape: tuple[int, ...], limits: Range, *, whole: bool) -> NDArray[Any]:
    low, high = limits
    drawn = _uniform(name, shape)
    return np.minimum(np.floor(low + drawn * (high - low + 1)), high) if whole else low + drawn * (high - low)


def _spread(values: NDArray[Any], count: int, low: float, high: float) -> None:
    """Set the outliers of an input with known limits to its ends; the last one stays ordinary."""
    values[count + ZEROS] = low
    values[count + 1] = high
    values[count + 2] = high


def _uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return numbers in [0, 1), pseudo-random, seeded by the name."""
    count = int(np.prod(shape, dtype=np.int64))
    stream = blake3(name.encode(), derive_key_context=_CONTEXT).digest(length=4 * count)
    return np.frombuffer(stream, "<u4").reshape(shape) / 2**32
