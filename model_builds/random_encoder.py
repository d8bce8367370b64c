"""Encoders with random weights: the same bits for the same seed. Their vectors mean nothing, but tests need no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from rota.model_builds.byte_tokenizer import SPECIAL, VOCABULARY, tokenizer_json
from rota.model_builds.encoder import EncoderShape, build_encoder
from rota.model_builds.random_decoder import drawn_floats
from rota.model_builds.text_files import write_classifier_files, write_embedder_files
from rota.model_builds.weights import Floats

TINY_ENCODER: Final = EncoderShape(vocabulary=VOCABULARY, hidden=32, layers=2, heads=2, inner=64, positions=64)
TINY_BUCKETS: Final = (16, 32, 64)


class RandomEncoderWeights:
    """The weights of an encoder from a seed: `EncoderWeights`."""

    def __init__(self, shape: EncoderShape, seed: int) -> None:
        self._shape = shape
        self._seed = seed

    def floats(self, name: str) -> Floats:
        drawn = drawn_floats(self._seed, name, self._extents(name))
        if name.endswith("LayerNorm.weight"):
            return np.float32(1) + np.float32(0.1) * drawn
        if drawn.ndim == 1:
            return np.float32(0.1) * drawn
        return drawn * np.float32(1.0 if name.startswith("embeddings") else 2 / drawn.shape[1] ** 0.5)

    def _extents(self, name: str) -> tuple[int, ...]:
        shape = self._shape
        outer, inner = shape.hidden, shape.hidden
        if name.startswith("embeddings.") and "LayerNorm" not in name:
            rows = {"word": shape.vocabulary, "token": 2, "position": shape.positions}
            return (rows[name.split(".")[1].split("_")[0]], shape.hidden)
        if ".intermediate." in name:
            outer = shape.inner
        elif name.endswith("output.dense.weight") and "attention" not in name:
            inner = shape.inner
        elif name.startswith("classifier."):
            outer = shape.labels
        return (outer, inner) if name.endswith("weight") and "LayerNorm" not in name else (outer,)


def build_random_encoder(
    folder: Path,
    shape: EncoderShape = TINY_ENCODER,
    *,
    seed: int = 0,
    labels: Sequence[str] = (),
    buckets: Sequence[int] = TINY_BUCKETS,
) -> Path:
    """Write a whole model folder, for `embed` or, with `labels`, for `classify`. Returns `folder`."""
    assert buckets[-1] <= shape.positions, (
        f"the graph has {shape.positions} positions, the largest bucket {buckets[-1]}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    shape = replace(shape, labels=len(labels))
    build_encoder(shape, RandomEncoderWeights(shape, seed), folder)
    if labels:
        write_classifier_files(folder, _framed(tokenizer_json()), labels, buckets)
    else:
        write_embedder_files(folder, _framed(tokenizer_json()), buckets)
    return folder


def _framed(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer with a special token before and after each text, as encoders expect."""
    start, end = SPECIAL[1], SPECIAL[2]
    parts = [{"SpecialToken": {"id": start, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    parts.append({"SpecialToken": {"id": end, "type_id": 0}})
    special = {text: {"id": text, "ids": [SPECIAL.index(text)], "tokens": [text]} for text in (start, end)}
    pair = [*parts, {"Sequence": {"id": "B", "type_id": 1}}]
    processor = {"type": "TemplateProcessing", "single": parts, "pair": pair, "special_tokens": special}
    return {**tokenizer, "post_processor": processor}
