"""The small ONNX models of the bench, built here with fixed weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def multilayer(path: Path) -> Path:
    """x [n, 256] -> relu(x w1) w2 = y [n, 10]."""
    random = np.random.default_rng(3)
    weights = {
        "w1": random.standard_normal((256, 256), np.float32),
        "w2": random.standard_normal((256, 10), np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["y"]),
    ]
    return _save(path, nodes, ["n", 256], ["n", 10], weights)


def add_one(path: Path) -> Path:
    """x [n] -> y = x + 1."""
    nodes = [helper.make_node("Add", ["x", "one"], ["y"])]
    return _save(path, nodes, ["n"], ["n"], {"one": np.ones(1, np.float32)})


def layers(path: Path, width: int, count: int, seed: int = 3) -> Path:
    """x [n, width] -> `count` times relu(x w) = y [n, width]."""
    random = np.random.default_rng(seed)
    weights = {f"w{at}": random.standard_normal((width, width), np.float32) / width**0.5 for at in range(count)}
    nodes = []
    for at in range(count):
        nodes.append(helper.make_node("MatMul", [f"r{at}" if at else "x", f"w{at}"], [f"a{at}"]))
        nodes.append(helper.make_node("Relu", [f"a{at}"], ["y" if at == count - 1 else f"r{at + 1}"]))
    return _save(path, nodes, ["n", width], ["n", width], weights)


def summed(path: Path) -> Path:
    """x [n] -> the sum of x = y [1]."""
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)]
    return _save(path, nodes, ["n"], [1], {})


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape_in: list[str | int],
    shape_out: list[str | int],
    weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
