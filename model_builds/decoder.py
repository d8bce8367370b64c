"""A decoder of the Llama kind as an ONNX graph, with the inputs and outputs that the GPU worker generates with.

    input_ids                    int64 [rows, length]
    attention_mask               int64 [rows, context]: ones for the row's cells, this call's included, then zeros
    past_key_values.N.key|value  [rows, kv heads, context, head size]
    logits                       float32 [rows, min(length, 2), vocabulary], of the last positions
    present.N.key|value          as past; the caller binds both to the same memory

The call writes the cells of its own positions into `present`. A call of length 1 takes rows of different lengths, a
longer one a single row. `context` is fixed in the graph. The head sees two positions where there are two, because a
matrix product with a single row is another kernel with other bits.

docs/INFERENCE.md describes the interface for users who bring their own model; change both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from rota.model_builds.weights import BLOCK, Array, Blocks, Floats, GraphWriter, packed

ELEMENTS: Final = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
"""The element types that a decoder can be built in: its weights, cells and hidden values."""

_MICROSOFT: Final = "com.microsoft"
_END: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """The sizes of a decoder. `context`: cells per row of the cache; `inner`: width of the feed-forward part."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int
    context: int
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-5
    element: str = "float32"

    def __post_init__(self) -> None:
        assert self.element in ELEMENTS, f"no element type {self.element!r}; there are {', '.join(ELEMENTS)}"
        assert self.heads % self.kv_heads == 0, f"{self.heads} heads over {self.kv_heads} of keys and values"


class DecoderWeights(Protocol):
    """Where the weights of a decoder come from. Matrices are [outputs, inputs]; names are GGUF's, without `.weight`.

    `token_embd` [vocabulary, hidden], also the head; `output_norm` [hidden]; for each layer N: `blk.N.attn_norm`,
    `blk.N.ffn_norm`, `blk.N.attn_q`, `attn_k`, `attn_v`, `attn_output`, `ffn_gate`, `ffn_up`, `ffn_down`. Rows of Q and
    K are in the order for interleaved rotation: pairs (2i, 2i+1) turn together.
    """

    def floats(self, name: str) -> Floats: ...

    def blocks(self, name: str) -> Blocks | None:
        """Return the matrix in 4-bit blocks, or None if it is not to be kept so."""
        ...


def build_decoder(shape: DecoderShape, weights: DecoderWeights, folder: Path) -> None:
    """Write the decoder's `model.onnx` and `weights.bin` into `folder`, which must exist."""
    _Builder(shape, weights, folder).build()


class _Builder:
    def __init__(self, shape: DecoderShape, weights: DecoderWeights, folder: Path) -> None:
        self._shape = shape
        self._weights = weights
        self._graph = GraphWriter(folder)

    def build(self) -> None:
        graph, shape = self._graph, self._shape
        self._lengths()
        self._rotation()
        graph.weight("embedding", self._cast(self._weights.floats("token_embd")))
        hidden = graph.node("Gather", ["embedding", "input_ids"], ["hidden"], axis=0)
        norm = self._norm_weight("blk.0.attn_norm")
        normed = graph.node(
            "SimplifiedLayerNormalization", [hidden, norm], ["blk.0.attn_normed"],
            axis=-1, epsilon=shape.norm_epsilon, stash_type=1,
        )  # fmt: skip
        for layer in range(shape.layers):
            normed, hidden = self._layer(layer, normed, hidden)
        self._head(normed)
        graph.save("decoder", self._inputs(), self._outputs())

    def _lengths(self) -> None:
        """Cells per row minus one, as the attention wants it. A row without any (an unused one) counts as one cell."""
        graph = self._graph
        graph.weight("one", np.array([1], np.int64))
        graph.weight("axis_1", np.array([1], np.int64))
        graph.weight("context", np.array(self._shape.context, np.int32))
        graph.node("ReduceSum", ["attention_mask", "axis_1"], ["cells"], keepdims=0)
        graph.node("Max", ["cells", "one"], ["cells_1"])
        graph.node("Sub", ["cells_1", "one"], ["last_cell"])
        graph.node("Cast", ["last_cell"], ["last_cell_32"], to=TensorProto.INT32)

    def _rotation(self) -> None:
        """The turns of each position. By the C library: numpy's own cosine has other last bits on other processors."""
        shape = self._shape
        steps = [shape.rope_base ** (-pair / shape.head_size) for pair in range(0, shape.head_size, 2)]
        for name, function in (("cosines", math.cos), ("sines", math.sin)):
            table = [[function(position * step) for step in steps] for position in range(shape.context)]
            self._graph.weight(name, self._cast(np.array(table, np.float32)))

    def _layer(self, layer: int, normed: str, hidden: str) -> tuple[str, str]:
        """Add one layer. Takes and returns (the normed input of the layer, the sum that goes past it)."""
        graph, shape = self._graph, self._shape
        name = f"blk.{layer}"
        qkv = self._product(normed, f"{name}.qkv", [f"{name}.attn_q", f"{name}.attn_k", f"{name}.attn_v"])
        past = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        graph.node(
            "GroupQueryAttention",
            [qkv, "", "", *past, "last_cell_32", "context", "cosines", "sines"],
            [f"{name}.attended", f"present.{layer}.key", f"present.{layer}.value"],
            _MICROSOFT, num_heads=shape.heads, kv_num_heads=shape.kv_heads, scale=float(shape.head_size**-0.5),
            do_rotary=1, rotary_interleaved=1,
        )  # fmt: skip
        attended = self._product(f"{name}.attended", f"{name}.attn_out", [f"{name}.attn_output"])
        normed, hidden = self._skip_norm(hidden, attended, f"{name}.ffn_norm", f"{name}.middle")
        both = self._product(normed, f"{name}.gate_up", [f"{name}.ffn_gate", f"{name}.ffn_up"])
        graph.weight("halves", np.array([shape.inner, shape.inner], np.int64))
        graph.node("Split", [both, "halves"], [f"{name}.gate", f"{name}.up"], axis=-1)
        graph.node("QuickGelu", [f"{name}.gate"], [f"{name}.silu"], _MICROSOFT, alpha=1.0)
        graph.node("Mul", [f"{name}.silu", f"{name}.up"], [f"{name}.gated"])
        down = self._product(f"{name}.gated", f"{name}.down", [f"{name}.ffn_down"])
        following = f"blk.{layer + 1}.attn_norm" if layer + 1 < shape.layers else "output_norm"
        return self._skip_norm(hidden, down, following, f"{name}.end")

    def _skip_norm(self, hidden: str, added: str, norm: str, name: str) -> tuple[str, str]:
        outputs = [f"{name}.normed", "", "", f"{name}.sum"]
        self._graph.node(
            "SkipSimplifiedLayerNormalization", [hidden, added, self._norm_weight(norm)], outputs,
            _MICROSOFT, epsilon=self._shape.norm_epsilon,
        )  # fmt: skip
        return outputs[0], outputs[3]

    def _head(self, normed: str) -> None:
        graph = self._graph
        for name, value in (("last_two", -2), ("end", _END)):
            graph.weight(name, np.array([value], np.int64))
        graph.node("Slice", [normed, "last_two", "end", "axis_1"], ["last"])
        graph.node("Transpose", ["embedding"], ["head"], perm=[1, 0])
        graph.node("MatMul", ["last", "head"], ["scores"])
        graph.node("Cast", ["scores"], ["logits"], to=TensorProto.FLOAT)

    def _product(self, source: str, name: str, parts: list[str]) -> str:
        """Add source x [parts, one below the other] transposed, in 4-bit blocks if all parts are. Returns its name."""
        blocks = [self._weights.blocks(part) for part in parts]
        kept = [one for one in blocks if one is not None]
        if len(kept) == len(parts):
            return self._block_product(source, name, kept[0].stacked(*kept[1:]))
        matrix = np.concatenate([self._weights.floats(part) for part in parts]).T
        weight = self._graph.weight(f"{name}.weight", self._cast(matrix))
        return self._graph.node("MatMul", [source, weight], [f"{name}.product"])

    def _block_product(self, source: str, name: str, blocks: Blocks) -> str:
        """MatMulNBits gives scale * (nibble - 8), so a second product adds minimum + 8 * scale for each block."""
        graph = self._graph
        outputs, count = blocks.scales.shape
        weight = graph.weight(f"{name}.nibbles", packed(blocks.nibbles))
        scales = graph.weight(f"{name}.scales", self._cast(blocks.scales))
        # Level 0 on the CPU: activations are not rounded to 8 bits.
        graph.node(
            "MatMulNBits", [source, weight, scales], [f"{name}.scaled"], _MICROSOFT,
            K=count * BLOCK, N=outputs, bits=4, block_size=BLOCK, accuracy_level=0,
        )  # fmt: skip
        rest = (blocks.minima.astype(np.float64) + 8 * blocks.scales.astype(np.float64)).astype(np.float32)
        graph.weight(f"{name}.rest", self._cast(rest.T))
        graph.weight(f"blocks_{count}", np.array([0, 0, count, BLOCK], np.int64))
        graph.weight("axis_3", np.array([3], np.int64))
        graph.node("Reshape", [source, f"blocks_{count}"], [f"{name}.in_blocks"])
        graph.node("ReduceSum", [f"{name}.in_blocks", "axis_3"], [f"{name}.sums"], keepdims=0)
        graph.node("MatMul", [f"{name}.sums", f"{name}.rest"], [f"{name}.shift"])
        return graph.node("Add", [f"{name}.scaled", f"{name}.shift"], [f"{name}.product"])

    def _norm_weight(self, name: str) -> str:
        return self._graph.weight(f"{name}.weight", self._cast(self._weights.floats(name)))

    def _cast(self, array: Floats) -> Array:
        if self._shape.element == "bfloat16":
            import ml_dtypes

            return array.astype(ml_dtypes.bfloat16)
        return array.astype(self._shape.element)

    def _cells(self, role: str) -> list[onnx.ValueInfoProto]:
        shape = self._shape
        extents: list[Any] = ["rows", shape.kv_heads, shape.context, shape.head_size]
        return [
            helper.make_tensor_value_info(f"{role}.{layer}.{part}", ELEMENTS[shape.element], extents)
            for layer in range(shape.layers)
            for part in ("key", "value")
        ]

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "length"])
        mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["rows", self._shape.context])
        return [ids, mask, *self._cells("past_key_values")]

    def _outputs(self) -> list[onnx.ValueInfoProto]:
        extents: list[Any] = ["rows", "last", self._shape.vocabulary]
        return [helper.make_tensor_value_info("logits", TensorProto.FLOAT, extents), *self._cells("present")]
