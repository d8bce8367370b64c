"""A decoder in a GGUF file (the format of llama.cpp): its sizes, weights, tokenizer and chat template.

Only what Rota builds from is understood: the architecture `llama` with tied embedding and head, float32, Q8_0 and Q4_1
weights, and a byte-level BPE. Anything else is a `CodeError` that names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from gguf import GGUFReader, ReaderTensor

from rota.common.errors import CodeError
from rota.model_builds.decoder import DecoderShape
from rota.model_builds.text_files import bpe_tokenizer
from rota.model_builds.weights import BLOCK, Blocks, Floats

_NORMAL_TOKEN: Final = 1
_CONTROL_TOKEN: Final = 3
# Splitting that the tokenizer's name stands for: whether each digit is a token of its own.
_SPLITS_DIGITS: Final = {"smollm": True, "gpt-2": False, "default": False}


class GgufDecoder:
    """An open GGUF file: `DecoderWeights`, with the rest of the model beside. `quantised`: keep Q4_1 as it is."""

    def __init__(self, path: Path, *, quantised: bool) -> None:
        try:
            reader = GGUFReader(path)
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise CodeError(f"{path} is no GGUF file that can be read: {str(error)[:200]}") from None
        self._path = path
        self._quantised = quantised
        self._fields = reader.fields
        self._tensors: dict[str, ReaderTensor] = {one.name: one for one in reader.tensors}
        if (kind := self.value("general.architecture")) != "llama":
            raise CodeError(f"{path} holds the architecture {kind!r}; only 'llama' can be built")
        if "output.weight" in self._tensors:
            raise CodeError(f"{path} has a head of its own (output.weight); only tied ones can be built")

    def value(self, key: str) -> Any:
        """Return a value of the file's header. Raises `CodeError` if it is missing."""
        field = self._fields.get(key)
        if field is None:
            raise CodeError(f"{self._path} has no value {key!r} in its header")
        return field.contents()

    def shape(self, context: int) -> DecoderShape:
        """Return the sizes with a cache of `context` cells, at most what the model was trained for."""
        known: int = self.value("llama.context_length")
        if context > known:
            raise CodeError(f"a context of {context} is too long: {self._path.name} was trained for {known}")
        heads, hidden = self.value("llama.attention.head_count"), self.value("llama.embedding_length")
        return DecoderShape(
            vocabulary=self.value("llama.vocab_size"),
            hidden=hidden,
            layers=self.value("llama.block_count"),
            heads=heads,
            kv_heads=self.value("llama.attention.head_count_kv"),
            head_size=hidden // heads,
            inner=self.value("llama.feed_forward_length"),
            context=context,
            rope_base=self.value("llama.rope.freq_base"),
            norm_epsilon=self.value("llama.attention.layer_norm_rms_epsilon"),
        )

    def floats(self, name: str) -> Floats:
        tensor = self._tensor(name)
        kind = tensor.tensor_type.name
        if kind == "F32":
            return np.array(tensor.data, np.float32)
        if kind == "Q4_1":
            return _q4_1_blocks(tensor.data).to_floats()
        if kind == "Q8_0":
            return _q8_0_floats(tensor.data)
        raise CodeError(f"{self._path.name}: the weight {name} is {kind}; only F32, Q8_0 and Q4_1 can be read")

    def blocks(self, name: str) -> Blocks | None:
        tensor = self._tensor(name)
        if not self._quantised or tensor.tensor_type.name != "Q4_1":
            return None
        return _q4_1_blocks(tensor.data)

    def tokenizer(self) -> dict[str, Any]:
        """Return the content of `tokenizer.json`."""
        if (model := self.value("tokenizer.ggml.model")) != "gpt2":
            raise CodeError(f"{self._path.name} has a tokenizer of kind {model!r}; only byte-level BPE can be built")
        name = self.value("tokenizer.ggml.pre")
        if name not in _SPLITS_DIGITS:
            raise CodeError(
                f"{self._path.name} splits text like {name!r}; only {', '.join(_SPLITS_DIGITS)} can be built"
            )
        kinds = self.value("tokenizer.ggml.token_type")
        special = [token for token, kind in enumerate(kinds) if kind == _CONTROL_TOKEN]
        others = sorted({kind for kind in kinds if kind not in (_NORMAL_TOKEN, _CONTROL_TOKEN)})
        if others:
            raise CodeError(
                f"{self._path.name} has tokens of the kinds {others}; only normal and control ones are read"
            )
        tokens, merges = self.value("tokenizer.ggml.tokens"), self.value("tokenizer.ggml.merges")
        return bpe_tokenizer(tokens, merges, special, digits=_SPLITS_DIGITS[name])

    def template(self) -> str:
        text: str = self.value("tokenizer.chat_template")
        return text

    def stop_tokens(self) -> list[int]:
        return [int(self.value("tokenizer.ggml.eos_token_id"))]

    def _tensor(self, name: str) -> ReaderTensor:
        tensor = self._tensors.get(f"{name}.weight")
        if tensor is None:
            raise CodeError(f"{self._path.name} has no weight {name}.weight")
        return tensor


def _q4_1_blocks(data: Any) -> Blocks:
    """Blocks of 20 bytes: scale and minimum in float16, then 16 bytes; byte j holds the weights j and j + 16."""
    raw = np.asarray(data, np.uint8).reshape(len(data), -1, 4 + BLOCK // 2)
    halves = np.ascontiguousarray(raw[..., :4]).view(np.float16).astype(np.float32)
    nibbles = np.concatenate([raw[..., 4:] & 15, raw[..., 4:] >> 4], axis=-1)
    return Blocks(nibbles, halves[..., 0], halves[..., 1])


def _q8_0_floats(data: Any) -> Floats:
    """Blocks of 34 bytes: scale in float16, then 32 signed bytes."""
    raw = np.asarray(data, np.uint8).reshape(len(data), -1, 2 + BLOCK)
    scales = np.ascontiguousarray(raw[..., :2]).view(np.float16).astype(np.float32)
    steps = np.ascontiguousarray(raw[..., 2:]).view(np.int8).astype(np.float32)
    floats: Floats = (scales * steps).reshape(len(data), -1)
    return floats
