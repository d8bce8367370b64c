"""Decoders in GGUF files: a small one is written with the gguf package, which also says what its weights are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forward_pass
import gguf
import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from rota.common.errors import CodeError
from rota.model_builds.byte_tokenizer import TEMPLATE, tokenizer_json
from rota.model_builds.gguf_file import GgufDecoder
from rota.model_builds.random_decoder import TINY, RandomWeights
from rota.model_builds.smollm2 import build_from_gguf

CONTEXT = 64


def write_gguf(path: Path, *, matrices: Any = gguf.GGMLQuantizationType.Q4_1, **changes: Any) -> dict[str, np.ndarray]:
    """Write TINY's random weights as llama.cpp would. Returns the weights as the gguf package reads them."""
    writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
    writer.add_context_length(CONTEXT)
    writer.add_vocab_size(TINY.vocabulary)
    writer.add_embedding_length(TINY.hidden)
    writer.add_block_count(TINY.layers)
    writer.add_feed_forward_length(TINY.inner)
    writer.add_head_count(TINY.heads)
    writer.add_head_count_kv(TINY.kv_heads)
    writer.add_rope_freq_base(TINY.rope_base)
    writer.add_layer_norm_rms_eps(TINY.norm_epsilon)
    tokenizer = tokenizer_json()
    special = {one["id"] for one in tokenizer["added_tokens"]}
    writer.add_tokenizer_model(changes.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(changes.get("splitting", "smollm"))
    writer.add_token_list(list(tokenizer["model"]["vocab"]))
    writer.add_token_types([changes.get("kind", 3) if token in special else 1 for token in range(TINY.vocabulary)])
    writer.add_token_merges(tokenizer["model"]["merges"])
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    source = RandomWeights(TINY, 4, quantised=False)
    names = ["token_embd", "output_norm", *changes.get("more", ())]
    for layer in range(TINY.layers):
        parts = ("attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        names += [f"blk.{layer}.{part}" for part in parts]
    read = {}
    for name in names:
        weights = source.floats(name)
        kind = gguf.GGMLQuantizationType.Q8_0 if name == "token_embd" else matrices
        if weights.ndim == 1:
            kind = gguf.GGMLQuantizationType.F32
        raw = gguf.quants.quantize(weights, kind)
        read[name] = gguf.quants.dequantize(raw, kind)
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


class Read:
    """Weights as the gguf package reads them."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._weights = weights

    def floats(self, name: str) -> np.ndarray:
        return self._weights[name]


@pytest.mark.parametrize("form", ["fp32", "q4"])
def test_a_gguf_file_becomes_the_same_decoder(tmp_path: Path, form: str) -> None:
    """Goal: blocks, order of nibbles, sizes and tokenizer come over. Method: numpy on gguf's own reading."""
    read = write_gguf(tmp_path / "tiny.gguf")
    folder = tmp_path / "model"
    folder.mkdir()
    build_from_gguf(tmp_path / "tiny.gguf", folder, form, lambda _: None, CONTEXT)
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("<|im_start|>user\nis it 12?<|im_end|>").ids
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    cells = {one.name: np.zeros((1, *one.shape[1:]), np.float32) for one in session.get_inputs()[2:]}
    mask = (np.arange(CONTEXT) < len(tokens))[None].astype(np.int64)
    (found,) = session.run(["logits"], {"input_ids": [tokens], "attention_mask": mask, **cells})
    np.testing.assert_allclose(found[0], forward_pass.logits(TINY, Read(read), tokens)[-2:], atol=1e-3)
    size = (folder / "weights.bin").stat().st_size
    assert size < 250_000 if form == "q4" else size > 300_000


def test_digits_are_tokens_of_their_own(tmp_path: Path) -> None:
    """Goal: text is split as the model was trained. Method: a number, whose digits must not be merged."""
    write_gguf(tmp_path / "tiny.gguf")
    found = Tokenizer.from_str(json.dumps(GgufDecoder(tmp_path / "tiny.gguf", quantised=False).tokenizer()))
    assert found.encode("123").tokens == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gemma"}, r"architecture 'gemma'; only 'llama'"),
        ({"more": ["output"]}, r"a head of its own"),
        ({"tokenizer": "llama"}, r"tokenizer of kind 'llama'; only byte-level BPE"),
        ({"splitting": "qwen2"}, r"splits text like 'qwen2'; only smollm, gpt-2, default"),
        ({"kind": 6}, r"tokens of the kinds \[6\]"),
        ({"matrices": gguf.GGMLQuantizationType.Q5_0}, r"attn_q is Q5_0; only F32, Q8_0 and Q4_1"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Goal: another kind of GGUF file is an error and not a wrong model. Method: one change each."""
    source = RandomWeights.floats

    def floats(self: RandomWeights, name: str) -> np.ndarray:
        return source(self, "token_embd" if name == "output" else name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RandomWeights, "floats", floats)
        write_gguf(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(CodeError, match=message):
        build_from_gguf(tmp_path / "tiny.gguf", tmp_path, "fp32", lambda _: None, CONTEXT)


def test_damaged_files_and_long_contexts_are_named(tmp_path: Path) -> None:
    """Goal: what cannot be read is a typed error. Method: no GGUF, a cut one, a context that was not trained."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    with pytest.raises(CodeError, match=r"a context of 65 is too long: tiny.gguf was trained for 64"):
        build_from_gguf(path, tmp_path, "fp32", lambda _: None, 65)
    data = path.read_bytes()
    for damaged in (b"", b"nonsense", data[:100], data[: len(data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(CodeError, match="no GGUF file that can be read"):
            GgufDecoder(path, quantised=False)
