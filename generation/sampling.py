"""Chooses the next token from a row of logits. PURE.

The choice is a function of the logits, the request's options, the tokens before it and the index of the token, in this
order: repetition penalty, constraint, temperature, top-k, top-p, min-p; then the inverse of the cumulative distribution
over the tokens that are left, by rising id, at a number in [0, 1) that BLAKE3 derives from the request's seed and the
index. So a request draws the same numbers in any slot, beside any neighbours, and after a worker's death. All of it is
float64, and sums run in a stated order, so that each shortcut gives the bits of the long way (tests/generation has it).
Ties are broken by the lowest id.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from rota.common.text_results import TokenLogprob

_UNIFORM_CONTEXT: Final = "rota 2026-11 generation uniform"
_SORTED_FIRST: Final = (256, 4096)  # of the weights that top-p sorts; it sorts more only if these are too few
_BLOCKS_PER_WANTED: Final = 4
_BLOCK_MIN: Final = 4

Logits = NDArray[Any]  # float32 or float16, one row
Scores = NDArray[np.float64]
Ids = NDArray[np.int64]
Marks = NDArray[np.bool_]  # one for each logit


class SamplingOptions(NamedTuple):
    """The options of a request that decide its tokens; common/text_calls.py has their ranges.

    `temperature` 0 is greedy; then `top_k` (0: off), `top_p`, `min_p` and `seed` have no effect.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) for token `index` of a request with this seed: 53 bits of BLAKE3."""
    digest = blake3(struct.pack("<QQ", seed, index), derive_key_context=_UNIFORM_CONTEXT).digest(length=8)
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53


def choose(
    logits: Logits,
    options: SamplingOptions,
    index: int,
    seen: Marks | None,
    allowed: Marks | None,
) -> int:
    """Return the id of token `index` of a request, or -1 if no token is possible: all logits that are left are -inf.

    `seen` marks the tokens of the prompt and of the text so far, for the repetition penalty; `allowed` marks those that
    a constraint allows. Both are None if there are none. The logits must be no NaN and not +inf.
    """
    penalty = options.repetition_penalty
    if options.temperature == 0.0 and (penalty == 1.0 or seen is None):  # more digits would not change the order
        best = int((logits if allowed is None else np.where(allowed, logits, -np.inf)).argmax())
        return best if allowed is None or (allowed[best] and logits[best] > -np.inf) else -1
    scores = logits.astype(np.float64)
    if penalty != 1.0 and seen is not None:
        some = scores[seen]
        scores[seen] = np.where(some > 0, some / penalty, some * penalty)
    if allowed is not None:
        scores[~allowed] = -np.inf
    best = int(scores.argmax())
    highest = scores[best]
    if highest == -np.inf:
        return -1
    if options.temperature == 0.0:
        return best
    ids, relative = _scaled(scores, highest, options)
    weights = np.exp(relative)
    if options.top_p < 1.0:
        kept = _top_p(weights, options.top_p)
        ids, weights = ids[kept], weights[kept]
    if options.min_p > 0.0:
        likely = weights >= options.min_p  # the most probable token has the weight 1
        ids, weights = ids[likely], weights[likely]
    return int(ids[_drawn(weights, uniform(options.seed, index))])


def log_probabilities(logits: Logits, token: int, count: int) -> TokenLogprob:
    """Return the logarithms of the probabilities that the model itself gives: without penalty, constraint, temperature.

    `count` is how many of the most probable tokens are wanted. The logits must be no NaN and not +inf.
    """
    scores = logits.astype(np.float64)
    highest = scores.max()
    total = highest + math.log(np.cumsum(np.exp(scores - highest))[-1])
    best = _highest(scores, count)
    best = best[np.argsort(-scores[best], kind="stable")]
    best = best[scores[best] > -np.inf]
    return TokenLogprob(float(scores[token] - total), tuple([(int(one), float(scores[one] - total)) for one in best]))


def _scaled(scores: Scores, highest: np.float64, options: SamplingOptions) -> tuple[Ids, Scores]:
    """Return the tokens that top-k leaves, by rising id, and their scores below the highest over the temperature."""
    if 0 < options.top_k < len(scores):
        ids = _highest(scores, options.top_k)
        scores = scores[ids]
    else:
        ids = np.arange(len(scores))
    with np.errstate(over="ignore", under="ignore"):  # -inf, whose weight is 0
        return ids, (scores - highest) / options.temperature


def _highest(scores: Scores, count: int) -> Ids:
    """Return the ids of the `count` highest scores, by rising id. Of equal ones the lowest ids are taken."""
    if count <= 0:
        return np.empty(0, np.int64)
    if count >= len(scores):
        return np.arange(len(scores))
    candidates = _candidates(scores, count)
    left = scores if candidates is None else scores[candidates]
    threshold = np.partition(left, len(left) - count)[len(left) - count]
    above = np.flatnonzero(left > threshold)
    equal = np.flatnonzero(left == threshold)[: count - len(above)]
    best = np.sort(np.concatenate((above, equal)))
    return best if candidates is None else candidates[best]


def _candidates(scores: Scores, count: int) -> Ids | None:
    """Return the ids of few scores, rising, among them all of the `count` highest and their equals; None: all scores.

    So many blocks have a maximum that is not below the `count`-th highest of the maxima, and that is then a lower bound
    of the `count`-th highest score. It saves most of the time of a partition.
    """
    size = len(scores) // (_BLOCKS_PER_WANTED * count)
    if size < _BLOCK_MIN:
        return None
    blocks = len(scores) // size
    maxima = scores[: blocks * size].reshape(blocks, size).max(axis=1)
    bound = np.partition(maxima, blocks - count)[blocks - count]
    return np.flatnonzero(scores >= bound)


def _top_p(weights: Scores, top_p: float) -> Ids:
    """Return the indexes, rising, of the smallest set of the heaviest weights that holds `top_p` of their sum."""
    needed = top_p * np.cumsum(weights)[-1]
    for count in (*_SORTED_FIRST, len(weights)):
        heaviest = np.sort(weights[_highest(weights, count)])[::-1]
        reached = np.flatnonzero(np.cumsum(heaviest) >= needed)
        if reached.size:
            return _highest(weights, int(reached[0]) + 1)
    return np.arange(len(weights))  # rounding: all of them do not reach their own sum in the other order


def _drawn(weights: Scores, number: float) -> int:
    """Return the index at which the cumulative distribution first exceeds `number`, in [0, 1)."""
    cumulative = np.cumsum(weights)
    index = int(np.searchsorted(cumulative, number * cumulative[-1], side="right"))
    if index < len(weights):
        return index
    return int(np.flatnonzero(weights)[-1])  # rounding: the number times the sum is the sum
