"""Decoders with random weights: any size, the same bits for the same seed. They speak nonsense, but run like real ones.

Tests use tiny ones. A larger one in float16 or bfloat16 shows a GPU's speed without a download.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np

from rota.model_builds.byte_tokenizer import STOP_TOKEN, TEMPLATE, VOCABULARY, tokenizer_json
from rota.model_builds.decoder import DecoderShape, build_decoder
from rota.model_builds.text_files import write_decoder_files
from rota.model_builds.weights import Blocks, Floats

TINY: Final = DecoderShape(
    vocabulary=VOCABULARY, hidden=64, layers=2, heads=4, kv_heads=2, head_size=16, inner=128, context=128
)

# Times the usual 1/sqrt(inputs): with tied embedding and head, smaller weights would only repeat the last token.
_GAIN: Final = 2.0


class RandomWeights:
    """The weights of a decoder from a seed: `DecoderWeights`. Each depends on seed and name only, not on the order."""

    def __init__(self, shape: DecoderShape, seed: int, *, quantised: bool) -> None:
        self._shape = shape
        self._seed = seed
        self._quantised = quantised

    def floats(self, name: str) -> Floats:
        blocks = self.blocks(name)
        return self._drawn(name) if blocks is None else blocks.to_floats()

    def blocks(self, name: str) -> Blocks | None:
        if not self._quantised or name == "token_embd" or name.endswith("norm"):
            return None
        return Blocks.of_floats(self._drawn(name))

    def _drawn(self, name: str) -> Floats:
        extents = self._extents(name.rpartition(".")[2])
        drawn = drawn_floats(self._seed, name, extents)
        if len(extents) == 1:
            return np.float32(1) + np.float32(0.1) * drawn
        # A wide spread of the embedding's rows keeps the argmax away from ties.
        return drawn * np.float32(1.0 if name == "token_embd" else _GAIN / extents[1] ** 0.5)

    def _extents(self, kind: str) -> tuple[int, ...]:
        shape = self._shape
        queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        return {
            "token_embd": (shape.vocabulary, shape.hidden),
            "attn_q": (queries, shape.hidden),
            "attn_k": (keys, shape.hidden),
            "attn_v": (keys, shape.hidden),
            "attn_output": (shape.hidden, queries),
            "ffn_gate": (shape.inner, shape.hidden),
            "ffn_up": (shape.inner, shape.hidden),
            "ffn_down": (shape.hidden, shape.inner),
        }.get(kind, (shape.hidden,))


def drawn_floats(seed: int, name: str, extents: tuple[int, ...]) -> Floats:
    """Return normally distributed numbers that depend on seed and name only (and on numpy's generator)."""
    words = np.frombuffer(hashlib.sha256(f"{seed} {name}".encode()).digest(), "<u4")
    return np.random.default_rng(words).standard_normal(extents, np.float32)


def build_random_decoder(
    folder: Path, shape: DecoderShape = TINY, *, seed: int = 0, quantised: bool = False, slots: int = 4
) -> Path:
    """Write a whole model folder: graph, weights, tokenizer, chat template, settings. Returns `folder`.

    `quantised` keeps the matrices of the layers in 4-bit blocks. The tokenizer has 300 tokens (bytes and a few
    merges); a larger vocabulary of the graph leaves the rest unused, a smaller one is not possible.
    """
    assert shape.vocabulary >= VOCABULARY, f"the tokenizer has {VOCABULARY} tokens, the graph {shape.vocabulary}"
    folder.mkdir(parents=True, exist_ok=True)
    build_decoder(shape, RandomWeights(shape, seed, quantised=quantised), folder)
    write_decoder_files(
        folder, tokenizer_json(), TEMPLATE, context=shape.context, slots=slots, stop_tokens=[STOP_TOKEN], max_tokens=32
    )
    return folder
