"""Small models for tests of batches: their bits depend on the size of the batch, or rows can fail or never end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 37  # odd: the vectorized part of Log ends in another place for one row than for two


def logarithm(path: Path) -> Path:
    """x [n, 37] -> log(x * x + 1) = y, and the sums of its rows = s [n]. One row has other bits than two."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Add", ["square", "one"], ["more"]),
        helper.make_node("Log", ["more"], ["y"]),
        helper.make_node("MatMul", ["y", "ones"], ["s"]),
    ]
    weights = {"one": np.float32(1), "ones": np.ones(WIDTH, np.float32)}
    outputs = [("y", TensorProto.FLOAT, ["n", WIDTH]), ("s", TensorProto.FLOAT, ["n"])]
    return _save(path, nodes, [("x", TensorProto.FLOAT, ["n", WIDTH])], outputs, weights)


def lookup(path: Path) -> Path:
    """at [n] -> row `at` of a table with four rows = y [n, 5]. Any other index is refused by the kernel."""
    nodes = [helper.make_node("Gather", ["table", "at"], ["y"])]
    weights = {"table": np.arange(20, dtype=np.float32).reshape(4, 5)}
    return _save(path, nodes, [("at", TensorProto.INT64, ["n"])], [("y", TensorProto.FLOAT, ["n", 5])], weights)


def patience(path: Path) -> Path:
    """x [n, 1] -> x + 1 = y, after as many turns of a loop as the largest x says. The loop changes nothing."""
    body = helper.make_graph(
        [helper.make_node("Add", ["before", "one"], ["after"]), helper.make_node("Identity", ["go_on"], ["still"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        helper.make_node("Loop", ["count", "yes", "zero"], ["turns"], body=body),
        helper.make_node("Mul", ["turns", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "one"], ["sum"]),
        helper.make_node("Add", ["sum", "nothing"], ["y"]),
    ]
    weights = {"yes": np.array(True), "zero": np.float32(0), "one": np.float32(1)}
    floats = TensorProto.FLOAT
    return _save(path, nodes, [("x", floats, ["n", 1])], [("y", floats, ["n", 1])], weights)


def difference(path: Path) -> Path:
    """x [n, 3], z [n, 3] -> x - z = y, and x = same."""
    nodes = [helper.make_node("Sub", ["x", "z"], ["y"]), helper.make_node("Identity", ["x"], ["same"])]
    floats = TensorProto.FLOAT
    ports = [[(name, floats, ["n", 3]) for name in names] for names in (("x", "z"), ("y", "same"))]
    return _save(path, nodes, ports[0], ports[1], {})


def heavy(path: Path) -> Path:
    """x [n, 1] -> x = y, after an LSTM over as many steps as the largest x says, with weights of zero: one kernel,
    which cannot be stopped.
    """
    hidden = 256
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        helper.make_node("Max", ["count", "one"], ["steps"]),
        helper.make_node("Mul", ["steps", "first"], ["times"]),
        helper.make_node("Max", ["times", "ones"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], ["sequence"]),
        helper.make_node("LSTM", ["sequence", "w", "r"], ["", "last"], hidden_size=hidden),
        helper.make_node("ReduceSum", ["last"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    weights = {
        "one": np.array(1),
        "first": np.array([1, 0, 0]),
        "ones": np.ones(3, np.int64),
        "w": np.zeros((1, 4 * hidden, 1), np.float32),
        "r": np.zeros((1, 4 * hidden, hidden), np.float32),
    }
    floats = TensorProto.FLOAT
    return _save(path, nodes, [("x", floats, ["n", 1])], [("y", floats, ["n", 1])], weights)


def dice(path: Path) -> Path:
    """x [n] -> random numbers of its shape: y. Class D."""
    nodes = [helper.make_node("RandomUniformLike", ["x"], ["y"])]
    return _save(path, nodes, [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.FLOAT, ["n"])], {})


def giant(path: Path) -> Path:
    """size [1] -> the sum of so many zeros: y []. A large size needs more memory than there is."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["y"], keepdims=0),
    ]
    return _save(path, nodes, [("size", TensorProto.INT64, [1])], [("y", TensorProto.FLOAT, [])], {})


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[Any]]],
    outputs: Sequence[tuple[str, int, Sequence[Any]]],
    weights: dict[str, Any],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
