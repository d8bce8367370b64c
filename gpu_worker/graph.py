"""Reads the inputs, outputs and external files of an ONNX graph. PURE.

It runs when a model is added, without ONNX Runtime, and parses only the few protobuf fields that matter here, see
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. ONNX Runtime checks the rest when a worker loads the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rota.common.errors import CodeError
from rota.common.limits import TENSORS_PER_TASK_MAX
from rota.common.model_call import NAME_CHARS_MAX
from rota.gpu_worker.protobuf import decoded, fields, parts, text_of

# Field numbers. Tensors are in initializers and in the attributes of nodes; attributes may also hold graphs.
_MODEL: Final = {7: "main", 25: "function"}
_GRAPH: Final = {1: "node", 5: "initializer", 11: "input", 12: "output", 15: "sparse"}
_FUNCTION: Final = {7: "node", 11: "attribute"}
_NODE: Final = {5: "attribute"}
_ATTRIBUTE: Final = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_SPARSE: Final = {1: "tensor", 2: "tensor"}
_PARTS: Final = {
    "main": _GRAPH, "graph": _GRAPH, "function": _FUNCTION, "node": _NODE, "attribute": _ATTRIBUTE, "sparse": _SPARSE,
}  # fmt: skip
_NAME_OF_TENSOR: Final = 8
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_EXTERNAL: Final = 1
_NAME_OF_VALUE: Final = 1

_TYPE_OF_VALUE: Final = 2

# TensorProto.DataType: the number of each dtype that can travel.
ELEMENT_NUMBERS: Final = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
    "float64": 11, "uint32": 12, "uint64": 13, "bfloat16": 16, "float8_e4m3fn": 17, "float8_e4m3fnuz": 18,
    "float8_e5m2": 19, "float8_e5m2fnuz": 20,
}  # fmt: skip
_DTYPES: Final = {number: dtype for dtype, number in ELEMENT_NUMBERS.items()}

_FIELDS_MAX: Final = 5_000_000  # a graph of a million nodes has fewer


class Declared(NamedTuple):
    """The type of an input or output. An extent is a number, a name, or None if free; `shape` is None if any fits."""

    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(slots=True)
class Graph:
    """What was read. `external` maps each file with tensor data to the name of one such tensor."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    initializers: dict[str, None] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    declared: dict[str, Declared] = field(default_factory=dict)

    @property
    def called(self) -> list[str]:
        """The inputs that a task gives: an initializer that is also listed as an input keeps its value."""
        return [name for name in self.inputs if name not in self.initializers]


def read_graph(data: memoryview) -> Graph:
    """Read the graph of an ONNX file. Raises `CodeError` for bytes that are not such a protobuf."""
    found = Graph()
    try:
        _read(data, found)
    except ValueError as error:
        raise CodeError(f"it is no ONNX model: {error}") from None
    return found


def check_graph(graph: Graph, files: dict[str, None]) -> None:
    """Raise `CodeError` for a model whose tasks or results could not be sent, or that needs a file not in `files`, the
    paths of the model's own files.
    """
    for role, names in (("input", graph.called), ("output", graph.outputs)):
        if len(names) > TENSORS_PER_TASK_MAX:
            raise CodeError(f"it has {len(names)} {role}s; a task carries at most {TENSORS_PER_TASK_MAX} tensors")
        for name in names:
            if not 0 < len(name) <= NAME_CHARS_MAX:
                what = f"its {role} {name[:40]!r}... has a name of {len(name)} characters"
                raise CodeError(f"{what}; 1 to {NAME_CHARS_MAX} can travel")
    for location, tensor in graph.external.items():
        steps = [step for step in location.split("/") if step != "."]
        if "/".join(steps) not in files:  # a path with `..` or a leading slash never is
            raise CodeError(
                f"the data of its tensor {tensor[:60]!r} are in {location[:200]!r}, which is no file of the model: "
                "put it into the model's folder and add the folder"
            )


def _read(data: memoryview, found: Graph) -> None:
    stack: list[tuple[str, int, int]] = []
    count = 0
    for number, start, end in fields(data, 0, len(data)):
        if number in _MODEL and end >= 0:
            stack.append((_MODEL[number], start, end))
    while stack:
        kind, begin, stop = stack.pop()
        is_main = kind == "main"  # its inputs, outputs and initializers are the model's
        for number, start, end in fields(data, begin, stop):
            count += 1
            if count > _FIELDS_MAX:
                raise ValueError(f"its graph has over {_FIELDS_MAX} parts")
            part = _PARTS[kind].get(number)
            if part is None or end < 0:
                continue
            if part in ("input", "output"):
                if is_main:
                    name = text_of(data, start, end, _NAME_OF_VALUE)
                    (found.inputs if part == "input" else found.outputs).append(name)
                    found.declared[name] = _declared(data, start, end)
            elif part in ("tensor", "initializer"):
                name = _tensor(data, start, end, found)
                if is_main and part == "initializer":
                    found.initializers[name] = None
            else:
                stack.append((part, start, end))


def _tensor(data: memoryview, begin: int, stop: int, found: Graph) -> str:
    name, location, is_external = "", "", False
    for number, start, end in fields(data, begin, stop):
        if number == _NAME_OF_TENSOR and end >= 0:
            name = decoded(data, start, end)
        elif number == _EXTERNAL_DATA and end >= 0 and text_of(data, start, end, 1) == "location":
            location = text_of(data, start, end, 2)
        elif number == _DATA_LOCATION and end < 0:
            is_external = start & 0xFFFF_FFFF == _EXTERNAL  # an enum has 32 bits; higher ones are cut off
    if is_external:
        found.external[location] = name
    return name


def _declared(data: memoryview, begin: int, stop: int) -> Declared:
    """Return the type in a ValueInfoProto."""
    dtype, shape = "unknown", None
    for tensor in [part for kind in parts(data, (begin, stop), _TYPE_OF_VALUE) for part in parts(data, kind, 1)]:
        for number, start, end in fields(data, *tensor):
            if number == 1 and end < 0:
                dtype = _DTYPES.get(start, "unknown")
            elif number == 2 and end >= 0:
                shape = tuple([_extent(data, *part) for part in parts(data, (start, end), 1)])
    return Declared(dtype, shape)


def _extent(data: memoryview, begin: int, stop: int) -> int | str | None:
    for number, start, end in fields(data, begin, stop):
        if number == 1 and end < 0:
            return start if start < 1 << 63 else None  # some exporters write a free extent as a negative one
        if number == 2 and end >= 0:
            return decoded(data, start, end) or None
    return None
