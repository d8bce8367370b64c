"""The reference for the inputs and outputs of the magika model (file types from content).

docs/MODELS.md has the rules; agents in other languages implement them and are compared with this file. They are those
of magika 1.0.3, model standard_v3_3 (https://github.com/google/magika, Apache-2.0), reimplemented. When the model
changes, this file, docs/MODELS.md and scripts/fetch_magika.py change together.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 4096  # read from each end of the content
END_TOKENS: Final = 1024  # fed to the model from each end
PADDING: Final = 256  # the token of a position that has no byte
SIZE_MIN: Final = 8  # with fewer bytes the model is not asked
WHITESPACE: Final = b"\t\n\v\f\r "

INPUT: Final = "bytes"
INPUT_DTYPE: Final = "int32"
INPUT_SHAPE: Final = (1, 2 * END_TOKENS)
OUTPUT: Final = "target_label"


def features(content: bytes) -> bytes | None:
    """Return the model's input, 2,048 little-endian int32; None if it must not be asked (see `label_of_few`)."""
    if len(content) < SIZE_MIN:
        return None
    head = content[:BLOCK_BYTES].lstrip(WHITESPACE)[:END_TOKENS]
    tail = content[-BLOCK_BYTES:].rstrip(WHITESPACE)[-END_TOKENS:]
    if len(head) < SIZE_MIN:
        return None
    tokens = [*head, *_padding(head), *_padding(tail), *tail]
    return struct.pack(f"<{len(tokens)}i", *tokens)


def _padding(part: bytes) -> list[int]:
    return [PADDING] * (END_TOKENS - len(part))


def label_of_few(content: bytes) -> str:
    """Return the label of content with too few bytes for the model."""
    if not content:
        return "empty"
    try:
        content[:BLOCK_BYTES].decode()
    except UnicodeDecodeError:
        return "unknown"
    return "txt"


@dataclass(frozen=True)
class Labels:
    """labels.json: one entry per position of the model's output."""

    labels: Sequence[str]
    output: Sequence[str]
    threshold: Sequence[float]
    is_text: Sequence[bool]

    @staticmethod
    def read(path: Path) -> Labels:
        return Labels(**json.loads(path.read_text(encoding="utf-8")))


def label_of_scores(labels: Labels, scores: Sequence[float]) -> tuple[str, float]:
    """Return the label for the model's scores, and its score. Of equal maxima the first counts."""
    best = max(range(len(scores)), key=scores.__getitem__)
    if scores[best] >= labels.threshold[best]:
        return labels.output[best], scores[best]
    return ("txt" if labels.is_text[best] else "unknown"), scores[best]
