"""Vectors and scores from the outputs of an encoder: the right values, and the same bits in every layout."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.gpu_worker.pooling import (
    ACTIVATIONS,
    best,
    exponential,
    mean_of_tokens,
    normalised,
    sigmoid,
    softmax,
)

_SCORES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40)


def test_a_mean_has_the_same_bits_in_every_layout() -> None:
    """Goal: neither strides nor what lies behind the text count. Method: one text in five layouts; the slow sum."""
    random = np.random.default_rng(1)  # of such different sizes that float64 has to round
    tokens = (random.standard_normal((33, 48)) * 10.0 ** random.integers(-15, 15, (33, 48))).astype(np.float32)
    count = 21
    slow = [float(sum(map(Fraction, tokens[:count, 0].tolist())) / count)]
    expected = []
    for at in range(48):
        total = 0.0
        for one in tokens[:count, at].tolist():
            total += one
        expected.append(total / count)
    batch = np.full((3, 64, 48), np.nan, np.float32)
    batch[1, :33] = tokens
    wide = np.zeros((33, 96), np.float32)
    wide[:, ::2] = tokens
    for same in (tokens, np.asfortranarray(tokens), batch[1], wide[:, ::2], tokens[:count].copy()):
        assert mean_of_tokens(same, count).tolist() == expected
    assert expected[0] == pytest.approx(slow[0], rel=1e-9)
    one_wide = tokens[:, :1]  # numpy would add a single column in pairs
    assert mean_of_tokens(one_wide, count).tolist() == expected[:1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_normalised_vector_has_length_one(dtype: type) -> None:
    """Goal: the usual meaning. Method: the length of the result, for three dtypes, and zeros."""
    vector = np.random.default_rng(2).standard_normal(384).astype(dtype).astype(np.float64)
    assert math.fsum(x * x for x in normalised(vector).tolist()) == pytest.approx(1.0, abs=1e-14)
    assert normalised(np.zeros(4)).tolist() == [0.0] * 4


def test_the_exponential_is_close_to_the_true_one() -> None:
    """Goal: our exponential is right. Method: against the C library, over the whole range, within two units."""
    values = np.concatenate([-np.random.default_rng(3).exponential(30, 5_000), np.array([0.0, -0.0, -1e-300, -708.0])])
    values = np.maximum(values, -708.0)
    for value, found in zip(values.tolist(), exponential(values).tolist(), strict=True):
        assert abs(found - math.exp(value)) <= 2 * math.ulp(math.exp(value)), value
    assert exponential(np.array([-709.0, -1e9, -math.inf])).tolist() == [0.0, 0.0, 0.0]


def test_the_exponential_of_a_value_does_not_depend_on_its_place() -> None:
    """Goal: no vector instruction shows. Method: each value alone, and among others at every offset."""
    values = -np.random.default_rng(4).exponential(5, 67)
    alone = [exponential(np.array([value])).tobytes() for value in values]
    for start in range(9):
        found = exponential(values[start:])
        assert [one.tobytes() for one in found] == alone[start:]


@given(_SCORES)
def test_softmax_gives_shares_of_one(scores: list[float]) -> None:
    """Goal: the usual meaning, without overflow. Method: any scores, against the definition in exact fractions."""
    found = softmax(np.array(scores))
    assert math.fsum(found.tolist()) == pytest.approx(1.0, abs=1e-12)
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    assert found.tolist() == pytest.approx([power / math.fsum(powers) for power in powers], rel=1e-12, abs=1e-300)


@given(_SCORES)
def test_sigmoid_never_overflows(scores: list[float]) -> None:
    """Goal: the usual meaning at any size. Method: against the definition from the side that does not overflow."""
    expected = [1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x)) for x in scores]
    assert sigmoid(np.array(scores)).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_the_best_labels_come_first_and_equal_ones_in_their_order() -> None:
    """Goal: ties are decided by the list of labels. Method: equal scores, with and without a top."""
    scores = np.array([0.25, 0.5, 0.25, 0.5])
    assert best(scores, "abcd", None) == (("b", 0.5), ("d", 0.5), ("a", 0.25), ("c", 0.25))
    assert best(scores, "abcd", 3) == (("b", 0.5), ("d", 0.5), ("a", 0.25))
    assert best(ACTIVATIONS["none"](scores), "abcd", 9) == best(scores, "abcd", None)
