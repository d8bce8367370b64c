"""An encoder of the BERT kind as an ONNX graph, for tasks of kind `embed` and `classify`.

    input_ids          int64 [rows, length]
    attention_mask     int64 [rows, length]: 1 for tokens, 0 for padding at the end
    last_hidden_state  float32 [rows, length, hidden]; or, with labels,
    logits             float32 [rows, labels], from the first token

Every text is of the one token type 0, whose embedding is added to the positions'. Attention is written as products and
softmax: fused kernels choose their tiles by the size of the processor's cache.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from onnx import TensorProto, helper

from rota.common.errors import CodeError
from rota.model_builds.weights import Floats, GraphWriter

# Added to the scores of padding: its exponential is exactly 0 in float32, and rows of nothing but padding stay finite.
_MASKED: Final = -10_000.0


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes of an encoder. `labels` 0: give the vectors of the tokens; else the scores of so many labels."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    inner: int
    positions: int
    labels: int = 0
    norm_epsilon: float = 1e-12


class EncoderWeights(Protocol):
    """Where the weights come from, float32; matrices are [outputs, inputs]. Names are those of BERT checkpoints.

    `embeddings.word_embeddings.weight` and so on, `encoder.layer.N...`; with labels also `classifier.weight|bias`.
    """

    def floats(self, name: str) -> Floats: ...


def build_encoder(shape: EncoderShape, weights: EncoderWeights, folder: Path) -> None:
    """Write the encoder's `model.onnx` and `weights.bin` into `folder`, which must exist."""
    _EncoderBuilder(shape, weights, folder).build()


class _EncoderBuilder:
    def __init__(self, shape: EncoderShape, weights: EncoderWeights, folder: Path) -> None:
        self._shape = shape
        self._weights = weights
        self._graph = GraphWriter(folder)

    def build(self) -> None:
        graph, shape = self._graph, self._shape
        hidden = self._embedded()
        self._mask()
        for layer in range(shape.layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden)
        if shape.labels:
            graph.node("Gather", [hidden, graph.weight("first", np.array(0, np.int64))], ["first_token"], axis=1)
            scores = self._dense("first_token", "classifier")
            graph.node("Identity", [scores], ["logits"])
            output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", shape.labels])
        else:
            graph.node("Identity", [hidden], ["last_hidden_state"])
            extents: list[Any] = ["rows", "length", shape.hidden]
            output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, extents)
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "length"])
            for name in ("input_ids", "attention_mask")
        ]
        graph.save("encoder", inputs, [output])

    def _embedded(self) -> str:
        graph = self._graph
        words = graph.weight("words", self._weights.floats("embeddings.word_embeddings.weight"))
        types = self._weights.floats("embeddings.token_type_embeddings.weight")
        places = self._weights.floats("embeddings.position_embeddings.weight") + types[0]
        graph.weight("places", places[None])
        for name, value in (("zero", 0), ("axis_1", 1)):
            graph.weight(name, np.array([value], np.int64))
        graph.node("Shape", ["input_ids"], ["length"], start=1, end=2)
        graph.node("Slice", ["places", "zero", "length", "axis_1"], ["places_used"])
        graph.node("Gather", [words, "input_ids"], ["words_used"], axis=0)
        graph.node("Add", ["words_used", "places_used"], ["embedded"])
        return self._norm("embedded", "embeddings.LayerNorm")

    def _mask(self) -> None:
        """Add what is added to the scores: float32 [rows, 1, 1, length]."""
        graph = self._graph
        graph.weight("axes_1_2", np.array([1, 2], np.int64))
        graph.weight("masked", np.array(_MASKED, np.float32))
        graph.weight("unmasked", np.array(0, np.float32))
        graph.node("Unsqueeze", ["attention_mask", "axes_1_2"], ["mask_4"])
        graph.node("Cast", ["mask_4"], ["is_token"], to=TensorProto.BOOL)
        graph.node("Where", ["is_token", "unmasked", "masked"], ["mask_added"])

    def _layer(self, name: str, hidden: str) -> str:
        graph, shape = self._graph, self._shape
        size = shape.hidden // shape.heads
        graph.weight("in_heads", np.array([0, 0, shape.heads, size], np.int64))
        graph.weight("whole", np.array([0, 0, shape.hidden], np.int64))
        graph.weight("scale", np.array(size**-0.5, np.float32))
        heads = {}
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            flat = self._dense(hidden, f"{name}.attention.self.{part}")
            graph.node("Reshape", [flat, "in_heads"], [f"{name}.{part}.split"])
            heads[part] = graph.node("Transpose", [f"{name}.{part}.split"], [f"{name}.{part}.heads"], perm=order)
        graph.node("MatMul", [heads["query"], heads["key"]], [f"{name}.products"])
        graph.node("Mul", [f"{name}.products", "scale"], [f"{name}.scores"])
        graph.node("Add", [f"{name}.scores", "mask_added"], [f"{name}.scores_masked"])
        graph.node("Softmax", [f"{name}.scores_masked"], [f"{name}.shares"], axis=-1)
        graph.node("MatMul", [f"{name}.shares", heads["value"]], [f"{name}.mixed"])
        graph.node("Transpose", [f"{name}.mixed"], [f"{name}.mixed.back"], perm=[0, 2, 1, 3])
        graph.node("Reshape", [f"{name}.mixed.back", "whole"], [f"{name}.mixed.whole"])
        attended = self._dense(f"{name}.mixed.whole", f"{name}.attention.output.dense")
        hidden = self._added(hidden, attended, f"{name}.attention.output.LayerNorm")
        graph.node("Gelu", [self._dense(hidden, f"{name}.intermediate.dense")], [f"{name}.gelu"])
        return self._added(hidden, self._dense(f"{name}.gelu", f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _dense(self, source: str, name: str) -> str:
        weight = self._graph.weight(f"{name}.weight", self._weights.floats(f"{name}.weight").T)
        bias = self._graph.weight(f"{name}.bias", self._weights.floats(f"{name}.bias"))
        self._graph.node("MatMul", [source, weight], [f"{name}.product"])
        return self._graph.node("Add", [f"{name}.product", bias], [f"{name}.sum"])

    def _added(self, hidden: str, more: str, norm: str) -> str:
        self._graph.node("Add", [hidden, more], [f"{norm}.input"])
        return self._norm(f"{norm}.input", norm)

    def _norm(self, source: str, name: str) -> str:
        gain = self._graph.weight(f"{name}.weight", self._weights.floats(f"{name}.weight"))
        bias = self._graph.weight(f"{name}.bias", self._weights.floats(f"{name}.bias"))
        epsilon = self._shape.norm_epsilon
        return self._graph.node(
            "LayerNormalization", [source, gain, bias], [f"{name}.normed"], axis=-1, epsilon=epsilon
        )


class SafetensorsFile:
    """The float32 weights in a safetensors file, mapped: `EncoderWeights`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._data = np.memmap(path, np.uint8, "r")
            self._start = 8 + int(self._data[:8].view("<u8")[0])
            if self._start > len(self._data):
                raise ValueError("it is shorter than its header")
            self._header: dict[str, Any] = json.loads(bytes(self._data[8 : self._start]))
        except (OSError, ValueError, IndexError) as error:
            raise CodeError(f"{path} is no safetensors file that can be read: {str(error)[:200]}") from None

    def floats(self, name: str) -> Floats:
        entry = self._header.get(name)
        if entry is None or entry["dtype"] != "F32":
            found = "there is none" if entry is None else f"it is {entry['dtype']}"
            raise CodeError(f"{self._path} must have a float32 weight {name}; {found}")
        start, end = (self._start + place for place in entry["data_offsets"])
        floats: Floats = self._data[start:end].view("<f4").reshape(entry["shape"])
        return floats
