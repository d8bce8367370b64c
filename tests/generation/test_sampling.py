"""Sampling: the fast way against a slow one that follows the definition word for word, and its edges."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from blake3 import blake3

from rota.generation.sampling import SamplingOptions, choose, log_probabilities, uniform


def slowly_chosen(logits, options, index, seen, allowed):
    """Return the token by the definition in docs/INFERENCE.md: python lists, full sorts, sums from the left."""
    scores = [float(value) for value in logits]
    if options.repetition_penalty != 1.0 and seen is not None:
        for token in np.flatnonzero(seen):
            score = scores[token]
            scores[token] = score / options.repetition_penalty if score > 0 else score * options.repetition_penalty
    left = [token for token in range(len(scores)) if allowed is None or allowed[token]]
    left = [token for token in left if scores[token] > -math.inf]
    if not left:
        return -1
    best_first = sorted(left, key=lambda token: (-scores[token], token))
    if options.temperature == 0:
        return best_first[0]
    if options.top_k:
        best_first = best_first[: options.top_k]
    highest = scores[best_first[0]]
    weight = {token: float(np.exp(np.float64((scores[token] - highest) / options.temperature))) for token in best_first}
    if options.top_p < 1:
        needed = options.top_p * summed(weight[token] for token in sorted(best_first))
        kept, total = [], 0.0
        for token in sorted(best_first, key=lambda token: (-weight[token], token)):
            kept.append(token)
            total += weight[token]
            if total >= needed:
                break
        best_first = kept
    by_id = [token for token in sorted(best_first) if weight[token] >= options.min_p]
    total = summed(weight[token] for token in by_id)
    number, reached = uniform(options.seed, index) * total, 0.0
    for token in by_id:
        reached += weight[token]
        if reached > number:
            return token
    raise AssertionError("rounding, which no test below meets")


def summed(values):
    total = 0.0
    for value in values:  # sum() compensates on newer Pythons
        total += value
    return total


def test_the_fast_way_is_the_slow_way() -> None:
    """Goal: every shortcut gives the token of the definition. Method: many random rows with ties, all options."""
    random = np.random.default_rng(8)
    for case in range(600):
        count = int(random.choice([3, 17, 300, 1000, 1003]))
        logits = random.standard_normal(count).astype(np.float32) * np.float32(random.choice([0.01, 1, 8]))
        if case % 3 == 0:
            logits = np.round(logits)  # many ties
        if case % 7 == 0:
            logits[random.integers(count)] = -np.inf
        options = SamplingOptions(
            temperature=float(random.choice([0, 0.3, 1, 2.5])),
            top_k=int(random.choice([0, 1, 5, 400])),
            top_p=float(random.choice([1, 0.9, 0.2, 1e-9])),
            min_p=float(random.choice([0, 0.05, 1])),
            repetition_penalty=float(random.choice([1, 1.3, 0.5])),
            seed=int(random.integers(1 << 62)),
        )
        seen = random.random(count) < 0.2
        allowed = random.random(count) < 0.5 if case % 2 else None
        index = int(random.integers(500))
        wanted = slowly_chosen(logits, options, index, seen, allowed)
        assert choose(logits, options, index, seen, allowed) == wanted, (case, options)


def test_a_flat_row_with_top_p_sorts_more_than_its_first_part() -> None:
    """Goal: the partial sort is no limit. Method: 5,000 almost equal logits, of which top-p keeps most."""
    logits = (np.arange(5000) % 11).astype(np.float32) / 1000
    for seed in range(20):
        options = SamplingOptions(temperature=1.0, top_p=0.97, seed=seed)
        assert choose(logits, options, seed, None, None) == slowly_chosen(logits, options, seed, None, None)


def test_the_numbers_are_a_function_of_seed_and_index() -> None:
    """Goal: a request draws the same numbers everywhere. Method: the definition, spelled out, and their spread."""
    for seed, index in ((0, 0), (1, 0), (0, 1), ((1 << 63) - 1, 1 << 20)):
        key = struct.pack("<QQ", seed, index)
        digest = blake3(key, derive_key_context="rota 2026-11 generation uniform").digest()
        assert uniform(seed, index) == (struct.unpack("<Q", digest[:8])[0] >> 11) / 2**53
    drawn = [uniform(seed, index) for seed in range(50) for index in range(50)]
    assert len(set(drawn)) == len(drawn)
    assert 0 <= min(drawn) < max(drawn) < 1
    assert abs(sum(drawn) / len(drawn) - 0.5) < 0.02


def test_the_choices_follow_the_probabilities() -> None:
    """Goal: the distribution is the softmax of the logits. Method: 4,000 seeds against the expected counts."""
    probabilities = [0.5, 0.3, 0.15, 0.05]
    logits = np.log(np.array(probabilities, np.float32))
    options = SamplingOptions(temperature=1.0)
    counts = [0] * 4
    for seed in range(4000):
        counts[choose(logits, options._replace(seed=seed), 0, None, None)] += 1
    for count, probability in zip(counts, probabilities, strict=True):
        assert abs(count / 4000 - probability) < 0.03


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (SamplingOptions(), 2),
        (SamplingOptions(temperature=1.0, top_k=1, seed=9), 2),
        (SamplingOptions(temperature=1.0, top_p=1e-12, seed=9), 2),
        (SamplingOptions(temperature=1.0, min_p=1.0, seed=9), None),
        (SamplingOptions(temperature=1e-300, seed=9), None),
    ],
)
def test_of_equal_logits_the_lowest_id_is_first(options: SamplingOptions, wanted: int | None) -> None:
    """Goal: ties have one answer. Method: two equal highest logits; None: both are possible."""
    logits = np.array([0, 1, 5, 5, 2], np.float32)
    token = choose(logits, options, 0, None, None)
    assert token == wanted if wanted is not None else token in (2, 3)


def test_no_token_is_left() -> None:
    """Goal: a constraint without a way out is seen. Method: all logits that it allows are -inf."""
    logits = np.array([1, -np.inf, -np.inf], np.float32)
    allowed = np.array([False, True, True])
    assert choose(logits, SamplingOptions(), 0, None, allowed) == -1


def test_log_probabilities_are_those_of_the_model() -> None:
    """Goal: exact logarithms, best first, ties by id, nothing infinite. Method: a row whose softmax is known."""
    logits = np.log(np.array([0.25, 0.5, 0.25, 0], np.float64) + 1e-300).astype(np.float32)
    logits[3] = -np.inf
    found = log_probabilities(logits, 2, 4)
    assert [token for token, _ in found.top] == [1, 0, 2]
    assert found.chosen == pytest.approx(math.log(0.25), abs=1e-6)
    assert found.top[0][1] == pytest.approx(math.log(0.5), abs=1e-6)
    assert log_probabilities(logits, 1, 0).top == ()
