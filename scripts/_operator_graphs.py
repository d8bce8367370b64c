"""Small ONNX models, one for each family of operators whose bits may depend on the batch.

scripts/certify_models.py finds their classes and compares with brute force, scripts/gpu_check.py runs them on a GPU,
and tests use a few. Every input has a free first extent. Weights come from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = dict[str, Any]
Extents = Sequence[int | str]
Node = Any

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
MICROSOFT: Final = "com.microsoft"
_OPSET: Final = 21


class OperatorGraph:
    """One model: its nodes from `x` [n, ...] to `y`, and what it needs."""

    def __init__(
        self, nodes: Sequence[Node], extents: Sequence[int], weights: Weights | None = None, *,
        others: Mapping[str, Sequence[int]] | None = None, kind: int = FLOAT, out: int | None = None,
    ) -> None:  # fmt: skip
        """`extents` are those of `x` after the first; `others` more inputs with theirs. `kind` is the type of all
        inputs, `out` of `y`.
        """
        self.nodes, self.weights, self.kind, self.out = nodes, weights or {}, kind, out or kind
        self.inputs = {"x": extents, **(others or {})}

    def save(self, path: Path) -> Path:
        """Write the model and return `path`."""
        value = helper.make_tensor_value_info
        inputs = [value(name, self.kind, ["n", *extents]) for name, extents in self.inputs.items()]
        tensors = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "family", inputs, [value("y", self.out, None)], tensors)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path


def node(operator: str, inputs: str, outputs: str = "y", **attributes: Any) -> Node:
    """Return a node; the names of its inputs and outputs are separated by spaces, `-` is none."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(operator, names, outputs.split(), **attributes)


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _unary(operator: str, width: int) -> OperatorGraph:
    return OperatorGraph([node(operator, "x")], [width])


def _positive(operator: str, width: int) -> OperatorGraph:
    """An operator for numbers above zero."""
    one = {"one": np.array(1.5, np.float32)}
    return OperatorGraph([node("Abs", "x", "a"), node("Add", "a one", "b"), node(operator, "b")], [width], one)


def _attention() -> OperatorGraph:
    """Four heads of 16 over 12 places, from MatMul and Softmax."""
    weights: Weights = {name: normal(at, 64, 64) for at, name in enumerate(("q", "k", "v"))}
    weights |= {"split": np.array([0, 0, 4, 16]), "join": np.array([0, 0, 64]), "scale": np.array(0.25, np.float32)}
    nodes = []
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", f"x {name}", f"{name}0"),
            node("Reshape", f"{name}0 split", f"{name}1"),
            node("Transpose", f"{name}1", f"{name}2", perm=order),
        ]
    nodes += [
        node("MatMul", "q2 k2", "s"), node("Mul", "s scale", "s1"), node("Softmax", "s1", "s2", axis=-1),
        node("MatMul", "s2 v2", "o"), node("Transpose", "o", "o1", perm=[0, 2, 1, 3]), node("Reshape", "o1 join"),
    ]  # fmt: skip
    return OperatorGraph(nodes, [12, 64], weights)


def _recurrent(operator: str, gates: int) -> OperatorGraph:
    hidden = 32
    weights = {"w": normal(1, 1, gates * hidden, 24) / 5, "r": normal(2, 1, gates * hidden, hidden) / 6}
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node(operator, "t w r", "h", hidden_size=hidden),
        node("Transpose", "h", perm=[2, 0, 1, 3]),
    ]
    return OperatorGraph(nodes, [10, 24], weights)


def _quantized(level: int) -> OperatorGraph:
    """A matrix of 4 bits a weight, with an accuracy level."""
    blocks = np.random.default_rng(3).integers(0, 256, (48, 2, 16), np.uint8)
    weights = {"b": blocks, "scales": np.abs(normal(4, 48 * 2)) / 50}
    attributes: Weights = {"K": 64, "N": 48, "bits": 4, "block_size": 32, "accuracy_level": level, "domain": MICROSOFT}
    return OperatorGraph([node("MatMulNBits", "x b scales", **attributes)], [64], weights)


def _static_int8() -> OperatorGraph:
    """Quantized at fixed scales around a product: QDQ form."""
    weights: Weights = {
        "s": np.array(0.03, np.float32), "z": np.array(3, np.uint8), "ws": np.array(0.01, np.float32),
        "wz": np.array(0, np.int8), "w": np.random.default_rng(5).integers(-127, 128, (64, 48), np.int8),
        "ys": np.array(0.2, np.float32),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "a"),
        node("DequantizeLinear", "w ws wz", "b"), node("MatMul", "a b", "c"),
        node("QuantizeLinear", "c ys z", "d"), node("DequantizeLinear", "d ys z"),
    ]  # fmt: skip
    return OperatorGraph(nodes, [64], weights)


def _dynamic_int8() -> OperatorGraph:
    """Scales are measured over the whole batch in each run."""
    weights: Weights = {
        "w": np.random.default_rng(6).integers(-127, 128, (64, 48), np.int8), "wz": np.array(0, np.int8),
    }  # fmt: skip
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"), node("MatMulInteger", "q w z wz", "i"),
        node("Cast", "i", "f", to=FLOAT), node("Mul", "f s"),
    ]  # fmt: skip
    return OperatorGraph(nodes, [64], weights)


def _fused_classifier(width: int) -> OperatorGraph:
    """A layer and a Softmax over rows whose bytes are no multiple of 16."""
    nodes = [node("MatMul", "x w", "a"), node("Softmax", "a", axis=-1)]
    return OperatorGraph(nodes, [64], {"w": normal(7, 64, width)})


def _conv_net() -> OperatorGraph:
    """Three convolutions, pooling and a layer over images of 3 x 24 x 24."""
    weights = {
        "k1": normal(8, 16, 3, 3, 3) / 5, "k2": normal(9, 32, 16, 3, 3) / 12, "k3": normal(10, 32, 32, 3, 3) / 17,
        "w": normal(11, 32, 10),
    }  # fmt: skip
    nodes = [
        node("Conv", "x k1", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "b"),
        node("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "c k2", "d", pads=[1, 1, 1, 1]), node("Relu", "d", "e"),
        node("Conv", "e k3", "f", pads=[1, 1, 1, 1], strides=[2, 2]), node("Relu", "f", "g"),
        node("GlobalAveragePool", "g", "h"), node("Flatten", "h", "i"), node("MatMul", "i w"),
    ]  # fmt: skip
    return OperatorGraph(nodes, [3, 24, 24], weights)


def _half_product() -> OperatorGraph:
    return OperatorGraph([node("MatMul", "x w")], [64], {"w": normal(12, 64, 48).astype(np.float16)}, kind=HALF)


def _reduce(operator: str, axes: list[int], extents: list[int]) -> OperatorGraph:
    return OperatorGraph([node(operator, "x axes", keepdims=0)], extents, {"axes": np.array(axes)})


# A one that graph optimization cannot know: so weights times it are not constant.
_ONE: Final = (
    node("Shape", "x", "n", end=1), node("Div", "n n", "i"), node("Cast", "i", "one", to=FLOAT),
)  # fmt: skip


def _drawn() -> OperatorGraph:
    return OperatorGraph([node("RandomUniformLike", "x", "a", seed=1.0), node("Add", "x a")], [16])


FAMILIES: Final[Mapping[str, Callable[[], OperatorGraph]]] = {
    "matmul-constant": lambda: OperatorGraph([node("MatMul", "x w")], [256], {"w": normal(0, 256, 64)}),
    "gemm-constant": lambda: OperatorGraph(
        [node("Gemm", "x w c")], [256], {"w": normal(0, 256, 64), "c": normal(1, 64)}
    ),
    "matmul-runtime": lambda: OperatorGraph([*_ONE, node("Mul", "w0 one", "w"), node("MatMul", "x w")], [64], {
        "w0": normal(0, 64, 48)
    }),
    "matmul-batched": lambda: OperatorGraph([node("MatMul", "x w")], [5, 64], others={"w": [64, 48]}),
    "mlp-256-256-10": lambda: OperatorGraph(
        [node("MatMul", "x w1", "a"), node("Relu", "a", "b"), node("MatMul", "b w2")],
        [256], {"w1": normal(0, 256, 256) / 16, "w2": normal(1, 256, 10)},
    ),
    "weights-from-batch": lambda: OperatorGraph(
        [node("Identity", "w", "v"), node("ReduceMean", "v zero", "m", keepdims=0), node("MatMul", "x m")],
        [96], {"zero": np.array([0])}, others={"w": [96, 32]},
    ),
    "attention": _attention,
    "layer-norm": lambda: OperatorGraph([node("LayerNormalization", "x g")], [12, 50], {"g": normal(1, 50)}),
    "rms-norm": lambda: OperatorGraph(
        [node("SimplifiedLayerNormalization", "x g", axis=-1)], [12, 50], {"g": normal(1, 50)}
    ),
    "softmax": lambda: _unary("Softmax", 50),
    "softmax-classifier-214": lambda: _fused_classifier(214),
    "lstm": lambda: _recurrent("LSTM", 4),
    "gru": lambda: _recurrent("GRU", 3),
    "conv-1d": lambda: OperatorGraph([node("Conv", "x k", pads=[1, 1])], [8, 33], {"k": normal(1, 16, 8, 3)}),
    "conv-2d": lambda: OperatorGraph([node("Conv", "x k", pads=[1] * 4)], [4, 15, 17], {"k": normal(1, 16, 4, 3, 3)}),
    "conv-transpose": lambda: OperatorGraph(
        [node("ConvTranspose", "x k", strides=[2, 2])], [8, 9, 9], {"k": normal(1, 8, 4, 3, 3)}
    ),
    "global-average-pool": lambda: OperatorGraph([node("GlobalAveragePool", "x")], [16, 13, 13]),
    "conv-net": _conv_net,
    "exp": lambda: _unary("Exp", 37),
    "tanh": lambda: _unary("Tanh", 37),
    "erf": lambda: _unary("Erf", 37),
    "sigmoid": lambda: _unary("Sigmoid", 37),
    "gelu": lambda: _unary("Gelu", 37),
    "sqrt": lambda: _positive("Sqrt", 37),
    "log": lambda: _positive("Log", 37),
    "sin": lambda: _unary("Sin", 37),
    "cos": lambda: _unary("Cos", 37),
    "softplus": lambda: _unary("Softplus", 37),
    "mish": lambda: _unary("Mish", 37),
    "reduce-sum-middle": lambda: _reduce("ReduceSum", [1], [19, 24]),
    "reduce-mean-trailing": lambda: _reduce("ReduceMean", [-1], [5, 50]),
    "reduce-sum-trailing": lambda: _reduce("ReduceSum", [-2, -1], [7, 9]),
    "matmul-4-bits-level-0": lambda: _quantized(0),
    "matmul-4-bits-level-4": lambda: _quantized(4),
    "static-int8": _static_int8,
    "dynamic-int8": _dynamic_int8,
    "matmul-fp16": _half_product,
    "random-uniform": _drawn,
}  # fmt: skip
