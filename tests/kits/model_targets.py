"""Fuzz target: the graphs of models, which `rota model add` reads, compared with the onnx package."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

import numpy
import onnx
from _fuzz_engine import Target
from _fuzz_mutators import mutate_bytes
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from rota.common.errors import CodeError
from rota.gpu_worker.graph import check_graph, read_graph

_FLOAT = TensorProto.FLOAT


@cache
def model(at: int) -> bytes:
    """Small models: a weight in the file, a weight elsewhere, and one elsewhere deep in a branch."""
    tensor = numpy_helper.from_array(numpy.ones(4, numpy.float32), "w")
    if at:
        tensor = TensorProto(name="w", data_type=_FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="w.bin")
        tensor.external_data.add(key="length", value="16")
    x, y, v = (helper.make_tensor_value_info(name, _FLOAT, [4]) for name in "xyv")
    if at < 2:
        graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    else:
        branch = helper.make_graph([helper.make_node("Constant", [], ["v"], value=tensor)], "b", [], [v])
        node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
        yes = helper.make_tensor_value_info("yes", TensorProto.BOOL, [])
        graph = helper.make_graph([node], "g", [yes, x], [y])
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return made


def mutate_model(rng: Random, data: bytes, other: bytes) -> bytes:
    return mutate_bytes(rng, data, other)


def check_model(data: bytes) -> bool:
    """An accepted graph has the inputs, outputs and external data that the onnx package finds."""
    try:
        graph = read_graph(memoryview(data))
        check_graph(graph, {"w.bin": None})
    except CodeError:
        return False
    try:
        seen = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError):
        return True  # the runtime will refuse it
    assert sorted(graph.inputs) == sorted(one.name for one in seen.graph.input)
    assert sorted(graph.outputs) == sorted(one.name for one in seen.graph.output)
    for location in _external(seen):
        assert location in ("w.bin", "./w.bin"), location
    return True


def _external(message: Any) -> Iterator[str]:
    """The locations of all tensors, at any depth, that are external to the onnx package."""
    if isinstance(message, TensorProto) and message.data_location == TensorProto.EXTERNAL:
        yield next((one.value for one in reversed(message.external_data) if one.key == "location"), "")
    for _, value in message.ListFields():
        for item in value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else (value,):
            if hasattr(item, "ListFields"):
                yield from _external(item)


TARGETS = [
    Target("model-graph", st.integers(0, 2).map(model), mutate_model, lambda _: check_model, bases=40, damaged=20),
]
