"""Encoders against the numpy pass, and the reader of safetensors files."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import encoder_pass
import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from rota.common.errors import CodeError
from rota.gpu_worker.settings import parse_settings
from rota.model_builds.encoder import SafetensorsFile
from rota.model_builds.random_encoder import TINY_ENCODER, RandomEncoderWeights, build_random_encoder

TEXTS = ("a short one", "user: is the system true or false?", "é 漢")


def session_of(folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])


def batch_of(folder: Path, length: int) -> tuple[list[list[int]], dict[str, np.ndarray]]:
    """Return the tokens of the texts, and the inputs of a batch that is padded to `length`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = [one.ids for one in tokenizer.encode_batch(list(TEXTS))]
    ids, mask = np.zeros((len(tokens), length), np.int64), np.zeros((len(tokens), length), np.int64)
    for row, one in enumerate(tokens):
        ids[row, : len(one)], mask[row, : len(one)] = one, 1
    return tokens, {"input_ids": ids, "attention_mask": mask}


def test_an_encoder_computes_what_the_formulas_say(tmp_path: Path) -> None:
    """Goal: the graph is right, padding included. Method: three texts of other lengths in one batch against numpy."""
    folder = build_random_encoder(tmp_path)
    tokens, inputs = batch_of(folder, 64)
    (found,) = session_of(folder).run(["last_hidden_state"], inputs)
    for row, one in enumerate(tokens):
        wanted = encoder_pass.hidden_states(TINY_ENCODER, RandomEncoderWeights(TINY_ENCODER, 0), one)
        np.testing.assert_allclose(found[row, : len(one)], wanted, atol=1e-5)


def test_a_classifier_scores_its_labels(tmp_path: Path) -> None:
    """Goal: the head reads the first token. Method: three texts against numpy, and the settings."""
    folder = build_random_encoder(tmp_path, seed=3, labels=["good", "bad", 'a "quoted" one'])
    tokens, inputs = batch_of(folder, 64)
    (found,) = session_of(folder).run(["logits"], inputs)
    shape = dataclasses.replace(TINY_ENCODER, labels=3)
    wanted = [encoder_pass.labels(shape, RandomEncoderWeights(shape, 3), one) for one in tokens]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    settings = parse_settings((folder / "model.toml").read_text(encoding="utf-8"), "model.toml")
    assert settings.text is not None
    assert settings.text.labels == ("good", "bad", 'a "quoted" one')


def test_texts_are_framed(tmp_path: Path) -> None:
    """Goal: each text has its special tokens. Method: an empty text is just these two."""
    folder = build_random_encoder(tmp_path)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("").tokens == ["<|im_start|>", "<|im_end|>"]


def test_safetensors(tmp_path: Path) -> None:
    """Goal: weights come out of a safetensors file, and what is not understood is named. Method: a file by hand."""
    weights = np.arange(6, dtype="<f4").reshape(2, 3)
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "n": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + weights.tobytes() + bytes(8))
    file = SafetensorsFile(path)
    assert file.floats("w").tolist() == weights.tolist()
    with pytest.raises(CodeError, match=r"float32 weight n; it is I64"):
        file.floats("n")
    with pytest.raises(CodeError, match=r"float32 weight x; there is none"):
        file.floats("x")
    for damaged in (b"", b"abc", struct.pack("<Q", 99) + b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(CodeError, match="no safetensors file"):
            SafetensorsFile(path)
