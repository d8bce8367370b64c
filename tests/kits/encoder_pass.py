"""An encoder of the BERT kind in numpy, float64, written from the formulas and not from our graphs: the yardstick."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_erf = np.vectorize(math.erf)


def hidden_states(shape: Any, weights: Any, tokens: list[int]) -> np.ndarray:
    """Return the vectors of one text's tokens, float64 [tokens, hidden]. `shape`, `weights`: of rota.model_builds."""

    def matrix(name: str) -> np.ndarray:
        return np.asarray(weights.floats(name), np.float64)

    def dense(values: np.ndarray, name: str) -> np.ndarray:
        return values @ matrix(f"{name}.weight").T + matrix(f"{name}.bias")

    def norm(values: np.ndarray, name: str) -> np.ndarray:
        mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
        normed = (values - mean) / np.sqrt(variance + shape.norm_epsilon)
        return normed * matrix(f"{name}.weight") + matrix(f"{name}.bias")

    embedded = matrix("embeddings.word_embeddings.weight")[tokens]
    embedded = embedded + matrix("embeddings.position_embeddings.weight")[: len(tokens)]
    hidden = norm(embedded + matrix("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
    size = shape.hidden // shape.heads
    for layer in range(shape.layers):
        name = f"encoder.layer.{layer}"
        q, k, v = (dense(hidden, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        mixed = []
        for head in range(shape.heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[:, part] @ k[:, part].T / np.sqrt(size)
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(shares / shares.sum(-1, keepdims=True) @ v[:, part])
        attended = dense(np.concatenate(mixed, -1), f"{name}.attention.output.dense")
        hidden = norm(hidden + attended, f"{name}.attention.output.LayerNorm")
        inner = dense(hidden, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + _erf(inner / np.sqrt(2)))
        hidden = norm(hidden + dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return hidden


def labels(shape: Any, weights: Any, tokens: list[int]) -> np.ndarray:
    """Return the scores of the labels, float64 [labels]."""
    first = hidden_states(shape, weights, tokens)[0]
    matrix = np.asarray(weights.floats("classifier.weight"), np.float64)
    scores: np.ndarray = first @ matrix.T + np.asarray(weights.floats("classifier.bias"), np.float64)
    return scores
