"""From the outputs of an encoder to vectors and scores. PURE.

Everything is computed in float64, element by element or in a fixed order, by operations that IEEE 754 rounds in one way
only: numpy sums in an order that depends on the memory's layout, and its exponential on the processor. So a text has
the same bits alone and among others, and the same on every processor that gives the model's outputs the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LN2_HIGH: Final = float.fromhex("0x1.62e42fee00000p-1")  # its last bits are zeros: whole multiples of it are exact
_LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
_LN2_INVERSE: Final = float.fromhex("0x1.71547652b82fep+0")
_EXPONENT_MIN: Final = -708.0  # below, the result would be subnormal or zero
_TERMS: Final = 14  # of the series; the argument is at most ln(2)/2


def mean_of_tokens(tokens: npt.NDArray[Any], count: int) -> Floats:
    """Return the mean of the first `count` of the vectors `tokens` [length, d], added up from the first to the last."""
    summed: Floats = np.add.accumulate(tokens[:count].astype(np.float64), axis=0)[-1]
    mean: Floats = summed / count
    return mean


def normalised(vector: Floats) -> Floats:
    """Return a vector [d] divided by its length; one of zeros as it is."""
    length = np.sqrt(np.add.accumulate(vector * vector)[-1])
    unit: Floats = vector / length if length > 0 else vector
    return unit


def softmax(scores: Floats) -> Floats:
    """Return shares of 1 for scores [labels]."""
    powers = exponential(scores - scores.max())
    shares: Floats = powers / np.add.accumulate(powers)[-1]
    return shares


def sigmoid(scores: Floats) -> Floats:
    """Return 1 / (1 + e to the power of minus the score) for scores [labels], from the side that does not overflow."""
    powers = exponential(-np.abs(scores))
    return np.where(scores >= 0, 1.0, powers) / (1.0 + powers)


def unchanged(scores: Floats) -> Floats:
    """Return scores as they are."""
    return scores


ACTIVATIONS: Final[Mapping[str, Callable[[Floats], Floats]]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": unchanged,
}


def exponential(values: Floats) -> Floats:
    """Return e to the power of each value, which must not be above 0, within two units in the last place.

    Values below -708 give 0. A multiple of ln(2) is taken off, which is a shift of the exponent; the rest is a series.
    """
    assert not np.any(values > 0), "only for shares and the like"
    bounded = np.maximum(values, _EXPONENT_MIN)
    shift = np.rint(bounded * _LN2_INVERSE)
    rest = (bounded - shift * _LN2_HIGH) - shift * _LN2_LOW
    summed = np.ones_like(rest)
    for divisor in range(_TERMS, 0, -1):
        summed = summed * (rest / divisor) + 1.0
    return np.where(values < _EXPONENT_MIN, 0.0, np.ldexp(summed, shift.astype(np.int64)))


def best(scores: Floats, labels: Sequence[str], top: int | None) -> tuple[tuple[str, float], ...]:
    """Return labels with their scores, the highest first, of equal ones the first in `labels`; at most `top`."""
    order: list[int] = np.argsort(-scores, kind="stable")[: len(labels) if top is None else top].tolist()
    return tuple([(labels[at], float(scores[at])) for at in order])
