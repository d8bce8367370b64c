"""A decoder of the Llama kind in numpy, float64, written from the formulas and not from our graphs: the yardstick.

It holds no cache: every call computes the whole text. Rotation is interleaved, as in GGUF's order of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def logits(shape: Any, weights: Any, tokens: list[int]) -> np.ndarray:
    """Return the scores after each token, float64 [tokens, vocabulary]. `shape`, `weights`: of rota.model_builds."""

    def matrix(name: str) -> np.ndarray:
        return np.asarray(weights.floats(name), np.float64)

    def norm(values: np.ndarray, name: str) -> np.ndarray:
        return values / np.sqrt((values**2).mean(-1, keepdims=True) + shape.norm_epsilon) * matrix(name)

    embedding = matrix("token_embd")
    hidden = embedding[tokens]
    for layer in range(shape.layers):
        name = f"blk.{layer}."
        x = norm(hidden, name + "attn_norm")
        q, k, v = (x @ matrix(name + part).T for part in ("attn_q", "attn_k", "attn_v"))
        hidden = hidden + _attention(shape, q, k, v) @ matrix(name + "attn_output").T
        x = norm(hidden, name + "ffn_norm")
        gate, up = x @ matrix(name + "ffn_gate").T, x @ matrix(name + "ffn_up").T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ matrix(name + "ffn_down").T
    return norm(hidden, "output_norm") @ embedding.T


def _attention(shape: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    count = len(q)
    queries = _rotated(shape, q.reshape(count, shape.heads, shape.head_size))
    keys = _rotated(shape, k.reshape(count, shape.kv_heads, shape.head_size))
    values = v.reshape(count, shape.kv_heads, shape.head_size)
    group = shape.heads // shape.kv_heads
    outputs = []
    for head in range(shape.heads):
        scores = queries[:, head] @ keys[:, head // group].T / np.sqrt(shape.head_size)
        scores[np.triu_indices(count, 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        outputs.append(shares / shares.sum(-1, keepdims=True) @ values[:, head // group])
    return np.stack(outputs, 1).reshape(count, -1)


def _rotated(shape: Any, heads: np.ndarray) -> np.ndarray:
    pairs = np.arange(shape.head_size // 2)
    angles = np.arange(len(heads))[:, None] / shape.rope_base ** (2 * pairs / shape.head_size)
    turn = np.exp(1j * angles)[:, None, :]
    turned = (heads[..., 0::2] + 1j * heads[..., 1::2]) * turn
    result = np.empty_like(heads)
    result[..., 0::2], result[..., 1::2] = turned.real, turned.imag
    return result
