"""Weights of a model under construction: the file beside the graph that holds the large ones, and 4-bit blocks.

A graph is written with its large weights in `weights.bin`, so that a worker maps them instead of parsing them, and so
that a model may be larger than the 2 GiB of one protobuf message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS_FILE: Final = "weights.bin"
MODEL_FILE: Final = "model.onnx"
BLOCK: Final = 32
"""Weights in a row that share one scale and one minimum."""

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_EXTERNAL_BYTES: Final = 1024  # smaller ones stand in the graph: shapes, slices, norms
_ALIGNMENT: Final = 4096  # ONNX asks for pages, so that each weight can be mapped by itself
_IR_VERSION: Final = 10
OPSET: Final = 21


class Blocks(NamedTuple):
    """A matrix [outputs, inputs] in blocks of 32 inputs: weight = scale * nibble + minimum (GGUF's Q4_1).

    `nibbles` uint8 [outputs, inputs / 32, 32], 0 to 15; `scales` and `minima` float32 [outputs, inputs / 32].
    """

    nibbles: npt.NDArray[np.uint8]
    scales: Floats
    minima: Floats

    def to_floats(self) -> Floats:
        """Return the matrix, float32 [outputs, inputs]."""
        blocks = self.scales[:, :, None] * self.nibbles.astype(np.float32) + self.minima[:, :, None]
        return blocks.reshape(len(self.nibbles), -1)

    @classmethod
    def of_floats(cls, matrix: Floats) -> Blocks:
        """Return the nearest blocks of a matrix [outputs, inputs]. Its inputs must be a multiple of 32."""
        rows, columns = matrix.shape
        assert columns % BLOCK == 0, f"{columns} inputs are no multiple of {BLOCK}"
        blocks = matrix.reshape(rows, columns // BLOCK, BLOCK)
        minima = blocks.min(axis=2).astype(np.float16).astype(np.float32)
        scales = ((blocks.max(axis=2) - minima) / np.float32(15)).astype(np.float16).astype(np.float32)
        safe = np.where(scales == 0, np.float32(1), scales)
        nibbles = np.clip(np.rint((blocks - minima[:, :, None]) / safe[:, :, None]), 0, 15).astype(np.uint8)
        return cls(nibbles, scales, minima)

    def stacked(self, *others: Blocks) -> Blocks:
        """Return the matrix with the rows of others below its own."""
        every = (self, *others)
        return Blocks(*(np.concatenate([one[part] for one in every]) for part in range(3)))


class GraphWriter:
    """Collects nodes and weights and writes `model.onnx` and `weights.bin` into `folder`, which must exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._known: set[str] = set()
        self._end = 0
        (folder / WEIGHTS_FILE).write_bytes(b"")

    def node(self, kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> str:
        """Add a node, named as its first output. Returns that output."""
        self._nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], domain=domain, **attributes))
        return outputs[0]

    def weight(self, name: str, array: Array) -> str:
        """Add a weight, unless there is one of this name. Returns the name."""
        if name in self._known:
            return name
        self._known.add(name)
        array = np.asarray(array, order="C")
        if array.nbytes < _EXTERNAL_BYTES:
            self._weights.append(numpy_helper.from_array(array, name))
            return name
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        self._end = start + array.nbytes
        place = {"location": WEIGHTS_FILE, "offset": str(start), "length": str(array.nbytes)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        with open(self._folder / WEIGHTS_FILE, "r+b") as file:
            file.seek(start)
            array.tofile(file)
        self._weights.append(tensor)
        return name

    def save(self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        """Write `model.onnx`."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="rota")
        (self._folder / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))


def packed(nibbles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return nibbles [..., 32] as MatMulNBits wants them, [..., 16]: weight 2i in the low half of byte i."""
    low, high = nibbles[..., 0::2], nibbles[..., 1::2]
    return (low | (high << 4)).astype(np.uint8)
