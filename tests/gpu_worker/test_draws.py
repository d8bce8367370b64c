"""Operators that draw random numbers are found wherever they stand in a graph."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from rota.common.errors import CodeError
from rota.gpu_worker.draws import drawing_operator

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
X, Y = (helper.make_tensor_value_info(name, FLOAT, ["n", 4]) for name in "xy")
NOISE = helper.make_node("RandomNormalLike", ["x"], ["y"], name="noise")
PLAIN = helper.make_node("Relu", ["x"], ["y"])


def found(graph: Any, functions: tuple[Any, ...] = ()) -> str:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)
    return drawing_operator(memoryview(model.SerializeToString()))


def graph_of(*nodes: Any, inputs: tuple[Any, ...] = (X,), tensors: tuple[Any, ...] = ()) -> Any:
    return helper.make_graph(nodes, "g", inputs, [Y], tensors)


def bool_tensor(name: str, value: bool) -> Any:
    return numpy_helper.from_array(np.array(value), name)


def in_branch(node: Any) -> Any:
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("y", FLOAT, ["n", 4])])
    yes = helper.make_tensor_value_info("yes", BOOL, [])
    decision = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    return graph_of(decision, inputs=(yes, X))


def function(node: Any) -> Any:
    return helper.make_function("own", "Layer", ["x"], ["y"], [node], [helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("RandomNormalLike", {}), ("RandomUniformLike", {"seed": 1.0}), ("Bernoulli", {}), ("Multinomial", {}),
        ("RandomNormal", {"shape": [1]}), ("RandomUniform", {"shape": [1], "seed": 1.0}),
    ],
)  # fmt: skip
def test_each_operator_that_draws_is_found(operator: str, attributes: dict[str, Any]) -> None:
    """Goal: none is missed, with a seed or without. Method: one graph for each."""
    node = helper.make_node(operator, ["x"] if not attributes.get("shape") else [], ["y"], **attributes)
    assert found(graph_of(node)) == operator


def test_it_is_found_in_branches_and_functions() -> None:
    """Goal: nothing hides a draw. Method: in a branch, in a branch of a branch, and in a function of the model."""
    call = helper.make_node("Layer", ["x"], ["y"], domain="own")
    assert found(in_branch(NOISE)) == 'RandomNormalLike "noise"'
    inner = in_branch(NOISE).node[0]
    assert found(in_branch(inner)) == 'RandomNormalLike "noise"'
    assert found(graph_of(call), (function(NOISE),)) == 'RandomNormalLike "noise"'
    assert found(graph_of(call), (function(inner),)) == 'RandomNormalLike "noise"'
    assert not found(graph_of(call), (function(PLAIN),))
    assert not found(in_branch(PLAIN))


def test_a_name_in_another_domain_draws_nothing() -> None:
    """Goal: a model's own function may have any name. Method: a function called Bernoulli that does not draw."""
    own = helper.make_function("own", "Bernoulli", ["x"], ["y"], [PLAIN], [helper.make_opsetid("", 17)])
    assert not found(graph_of(helper.make_node("Bernoulli", ["x"], ["y"], domain="own")), (own,))


DROPOUT = helper.make_node("Dropout", ["x", "ratio", "mode"], ["y"], name="drop")
RATIO = numpy_helper.from_array(np.array(0.5, np.float32), "ratio")
MODE_INPUT = helper.make_tensor_value_info("mode", BOOL, [])


def constant_node(value: bool) -> Any:
    return helper.make_node("Constant", [], ["mode"], value=bool_tensor("", value))


def old_style(value: int) -> Any:
    """A bool whose value is in `int32_data`."""
    return helper.make_tensor("mode", BOOL, [], [value])


@pytest.mark.parametrize(
    ("graph", "draws"),
    [
        (graph_of(helper.make_node("Dropout", ["x"], ["y"])), False),
        (graph_of(helper.make_node("Dropout", ["x", "ratio"], ["y"]), tensors=(RATIO,)), False),
        (graph_of(helper.make_node("Dropout", ["x", "ratio", ""], ["y"]), tensors=(RATIO,)), False),
        (graph_of(DROPOUT, tensors=(RATIO, bool_tensor("mode", False))), False),
        (graph_of(DROPOUT, tensors=(RATIO, bool_tensor("mode", True))), True),
        (graph_of(DROPOUT, tensors=(RATIO, old_style(0))), False),
        (graph_of(DROPOUT, tensors=(RATIO, old_style(1))), True),
        (graph_of(constant_node(False), DROPOUT, tensors=(RATIO,)), False),
        (graph_of(constant_node(True), DROPOUT, tensors=(RATIO,)), True),
        (graph_of(DROPOUT, inputs=(X, MODE_INPUT), tensors=(RATIO,)), True),
        (graph_of(DROPOUT, inputs=(X, MODE_INPUT), tensors=(RATIO, bool_tensor("mode", False))), False),
        (
            graph_of(
                helper.make_node("Not", ["yes"], ["mode"]), DROPOUT, tensors=(RATIO, bool_tensor("yes", True))
            ),
            True,
        ),
        (
            graph_of(
                helper.make_node("BiasDropout", ["x", "x", "", "ratio", "mode"], ["y"], domain="com.microsoft"),
                tensors=(RATIO, bool_tensor("mode", True)),
            ),
            True,
        ),
    ],
)  # fmt: skip
def test_dropout_draws_in_training_only(graph: Any, draws: bool) -> None:
    """Goal: Dropout of an exported model is harmless; one that may train is not. Method: each way to say the mode."""
    assert bool(found(graph)) == draws


def test_a_name_defined_twice_is_no_constant() -> None:
    """Goal: a constant false in one branch says nothing of another. Method: a branch whose mode is its own constant,
    beside a graph where the same name is true.
    """
    inner = helper.make_graph([constant_node(False)], "b", [], [helper.make_tensor_value_info("mode", BOOL, [])])
    decision = helper.make_node("If", ["mode"], ["z"], then_branch=inner, else_branch=inner)
    assert found(graph_of(decision, DROPOUT, tensors=(RATIO, bool_tensor("mode", True))))


def test_a_dropout_that_is_found_does_draw(tmp_path: Any) -> None:
    """Goal: the rule speaks of what ONNX Runtime does. Method: run a Dropout with training mode true twice."""
    import onnxruntime

    model = helper.make_model(
        graph_of(DROPOUT, tensors=(RATIO, bool_tensor("mode", True))),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = {"x": np.ones((16, 4), np.float32)}
    assert session.run(None, rows)[0].tobytes() != session.run(None, rows)[0].tobytes()


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(0, 200))
def test_damaged_files_are_refused_with_a_typed_error(extra: bytes, cut: int) -> None:
    """Goal: no file makes the reader fail otherwise. Method: a model cut somewhere, with random bytes behind."""
    model = helper.make_model(in_branch(NOISE), opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    with contextlib.suppress(CodeError):
        drawing_operator(memoryview(model[:cut] + extra))
