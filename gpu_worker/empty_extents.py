"""Free extents that a call sets to 0: which ones a model stands is found by probes, and other calls are refused. PURE.

A kernel may end its whole process for an input without values (LSTM and GRU of ONNX Runtime do), so each free extent is
set to 0 once in the process that probes. An extent goes by the name in the graph, or else by its axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rota.common.model_call import Call

LABELS_MAX: Final = 16  # extents of one model that are tried

_ANY: Final = "any axis"  # of an input of any rank

_REMEDY: Final = "leave out calls without values"

Declared = Mapping[str, tuple[int | str | None, ...]]
"""The extents of each input as the graph declares them: fixed, named, or free; none for a scalar or any rank."""

Shapes = Mapping[str, tuple[int, ...]]


def labels_of(declared: Declared) -> tuple[str, ...]:
    """Return the free extents of the inputs, each once, in the order of the graph; not more than LABELS_MAX."""
    found: dict[str, None] = {}
    for extents in declared.values():
        for axis in range(len(extents) or 1):
            if label := _label(extents, axis):
                found[label] = None
    return tuple(found)[:LABELS_MAX]


def emptied(declared: Declared, shapes: Shapes, label: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes with this free extent set to 0."""
    found = {}
    for name, shape in shapes.items():
        extents = declared[name]
        is_scalar = not extents and label == _ANY
        found[name] = (
            (0,) if is_scalar else tuple([0 if _label(extents, at) == label else n for at, n in enumerate(shape)])
        )
    return found


def misfit(declared: Declared, call: Call, stood: tuple[str, ...]) -> str:
    """Return a sentence on why a call with extents of 0 is refused, or an empty text. `stood`: those that may be 0."""
    for name, tensor in call.inputs.items():
        for axis, extent in enumerate(tensor.shape):
            label = "" if extent else _label(declared[name], axis)
            if label and label not in stood:
                shape = list(tensor.shape)
                return f'input "{name}" has the shape {shape}, and this model cannot run with {label!r} at 0: {_REMEDY}'
    return ""


def _label(extents: tuple[int | str | None, ...], axis: int) -> str:
    """Return the name of a free extent; empty if it is fixed."""
    if not extents:
        return _ANY
    extent = extents[axis]
    return "" if isinstance(extent, int) else extent or f"axis {axis}"
