"""Finds the operators of an ONNX graph that draw random numbers. PURE.

A model with one of them gives other bits in every run, also where it names a seed: the generator goes on from run to
run. Looked for in the graph, in the branches and bodies of its operators, and in the model's own functions, whether or
not they can be reached. Dropout draws only in training; an operator of its kind counts unless it says nothing of a
training mode, or names a constant false.
"""

from __future__ import annotations

from typing import Final

from rota.common.errors import CodeError
from rota.gpu_worker.protobuf import Span, decoded, fields, parts, text_of

_DRAWS: Final = (
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Sampling",
)  # fmt: skip
# At which input each kind of Dropout takes its training mode.
_TRAINING_INPUT: Final = {"Dropout": 2, "BitmaskDropout": 2, "BiasDropout": 4, "BitmaskBiasDropout": 4}
_DOMAINS: Final = ("", "ai.onnx", "com.microsoft")  # of the operators above; others are the model's own functions

# Field numbers, see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
_MODEL_GRAPH: Final = 7
_MODEL_FUNCTION: Final = 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_FUNCTION_INPUT, _FUNCTION_NODE = 4, 7
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR = 1, 5
_ATTRIBUTE_GRAPHS: Final = (6, 11)
_TENSOR_TYPE, _TENSOR_INTEGERS, _TENSOR_NAME, _TENSOR_RAW = 2, 5, 8, 9
_BOOL: Final = 9

_TITLE_CHARS_MAX: Final = 100
_GRAPHS_MAX: Final = 100_000


def drawing_operator(data: memoryview) -> str:
    """Return the first operator of an ONNX file that draws numbers, as text for a person; empty if there is none.

    Raises `CodeError` for bytes that are no such protobuf.
    """
    try:
        nodes = _nodes(data)
        constants: dict[str, bool] | None = None  # read only if there is a Dropout with a training mode
        for span in nodes:
            operator = text_of(data, *span, _NODE_TYPE)
            if operator not in _DRAWS and operator not in _TRAINING_INPUT:
                continue
            if text_of(data, *span, _NODE_DOMAIN) not in _DOMAINS:
                continue
            if operator in _DRAWS:
                return _title(data, span, operator)
            inputs = [decoded(data, *part) for part in parts(data, span, _NODE_INPUT)]
            mode = inputs[_TRAINING_INPUT[operator] :][:1]
            if mode in ([], [""]):
                continue
            if constants is None:
                constants = _constants(data, nodes)
            if not constants.get(mode[0], False):
                return f"{_title(data, span, operator)}, whose training mode is not a constant false"
    except ValueError as error:
        raise CodeError(f"it is no ONNX model: {error}") from None
    return ""


def _title(data: memoryview, span: Span, operator: str) -> str:
    name = text_of(data, *span, _NODE_NAME)
    return f'{operator} "{name[:_TITLE_CHARS_MAX]}"' if name else operator


def _graphs(data: memoryview) -> list[tuple[Span, bool]]:
    """Return the graph, the functions, and all graphs in the attributes of their nodes; and which are functions."""
    whole = (0, len(data))
    found = [(span, False) for span in parts(data, whole, _MODEL_GRAPH)]
    found += [(span, True) for span in parts(data, whole, _MODEL_FUNCTION)]
    for graph, is_function in found:  # which grows meanwhile
        if len(found) > _GRAPHS_MAX:
            raise ValueError(f"it has over {_GRAPHS_MAX} graphs")
        for node in parts(data, graph, _FUNCTION_NODE if is_function else _GRAPH_NODE):
            for attribute in parts(data, node, _NODE_ATTRIBUTE):
                found += [(span, False) for kind in _ATTRIBUTE_GRAPHS for span in parts(data, attribute, kind)]
    return found


def _nodes(data: memoryview) -> list[Span]:
    return [
        node
        for graph, is_function in _graphs(data)
        for node in parts(data, graph, _FUNCTION_NODE if is_function else _GRAPH_NODE)
    ]


def _constants(data: memoryview, nodes: list[Span]) -> dict[str, bool]:
    """Return for each name of a value whether all its definitions, in whichever graph, are a constant false."""
    found: dict[str, bool] = {}

    def define(name: str, *, is_false: bool) -> None:
        found[name] = is_false and found.get(name, True)

    for graph, is_function in _graphs(data):
        initialized: dict[str, None] = {}
        for tensor in [] if is_function else parts(data, graph, _GRAPH_INITIALIZER):
            name = text_of(data, *tensor, _TENSOR_NAME)
            initialized[name] = None
            define(name, is_false=_is_false(data, tensor))
        for part in parts(data, graph, _FUNCTION_INPUT if is_function else _GRAPH_INPUT):
            name = decoded(data, *part) if is_function else text_of(data, *part, 1)
            if name not in initialized:  # else it keeps its value, whatever a task gives
                define(name, is_false=False)
    for span in nodes:
        is_false = text_of(data, *span, _NODE_TYPE) == "Constant" and _is_false_constant(data, span)
        for part in parts(data, span, _NODE_OUTPUT):
            define(decoded(data, *part), is_false=is_false)
    return found


def _is_false_constant(data: memoryview, span: Span) -> bool:
    tensors = [
        tensor
        for attribute in parts(data, span, _NODE_ATTRIBUTE)
        if text_of(data, *attribute, _ATTRIBUTE_NAME) == "value"
        for tensor in parts(data, attribute, _ATTRIBUTE_TENSOR)
    ]
    return len(tensors) == 1 and _is_false(data, tensors[0])


def _is_false(data: memoryview, tensor: Span) -> bool:
    """Return whether a tensor of the file is a bool with its values in place, all of them false."""
    element, values = 0, b""
    for number, start, end in fields(data, *tensor):
        if number == _TENSOR_TYPE and end < 0:
            element = start
        elif number == _TENSOR_INTEGERS:
            values += bytes(data[start:end]) if end >= 0 else bytes([start != 0])
        elif number == _TENSOR_RAW and end >= 0:
            values += bytes(data[start:end])
    return element == _BOOL and values != b"" and not any(values)
