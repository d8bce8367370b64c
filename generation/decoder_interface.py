"""The inputs and outputs that a graph must have to generate text.

    input_ids                    int64 [rows, length]
    attention_mask               int64 [rows, context]: ones for the row's cells, this call's included, then zeros
    position_ids                 int64 [rows, length]; optional
    past_key_values.N.key|value  [rows, heads, context, size]
    logits                       float32 or float16 [rows, length or the last two positions or one, vocabulary]
    present.N.key|value          as past, and bound to the same memory

These are the names of the common exporters, with a buffer for past and present. docs/INFERENCE.md has the interface for
users who bring a model; change both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from rota.common.errors import CodeError
from rota.generation.cells import CellsShape

IDS, MASK, POSITIONS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"

_PAST: Final = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_ELEMENTS: Final = {"tensor(float)": (1, "float32"), "tensor(float16)": (10, "float16"), "tensor(bfloat16)": (16, "")}


class DecoderInterface(NamedTuple):
    """What a graph says about itself. `parts` are the names behind `past_key_values.` and `present.`, in order."""

    parts: tuple[str, ...]
    heads: int
    size: int
    dtype: np.dtype[Any]
    element: int
    has_positions: bool
    logits_dtype: np.dtype[Any]
    logits_element: int

    def cells_shape(self, slots: int, context: int) -> CellsShape:
        return CellsShape(len(self.parts), slots, self.heads, context, self.size, self.dtype)


def interface_of(session: Any, context: int, title: str) -> DecoderInterface:
    """Return the interface of a graph. Raises `CodeError` naming the first thing that differs from the one above."""
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = {node.name: node for node in session.get_outputs()}
    parts = [name.partition(".")[2] for name in inputs if _PAST.fullmatch(name)]
    parts.sort(key=lambda part: (int(part.partition(".")[0]), part))
    problem = _lack(inputs, outputs, parts) or _misfit(inputs, outputs, parts, context)
    if problem:
        raise CodeError(f"{title} cannot generate text: {problem}; docs/INFERENCE.md says what a decoder has")
    first, logits = inputs[f"past_key_values.{parts[0]}"], outputs[LOGITS]
    number, name = _ELEMENTS[first.type]
    logits_number, logits_name = _ELEMENTS[logits.type]
    return DecoderInterface(
        parts=tuple(parts),
        heads=first.shape[1],
        size=first.shape[3],
        dtype=_dtype(name),
        element=number,
        has_positions=POSITIONS in inputs,
        logits_dtype=_dtype(logits_name),
        logits_element=logits_number,
    )


def _lack(inputs: Mapping[str, Any], outputs: Mapping[str, Any], parts: Sequence[str]) -> str:
    """Return which input or output is missing, or too many."""
    if not parts:
        return 'it has no inputs "past_key_values.0.key" and so on'
    wanted = [IDS, MASK, *[f"past_key_values.{part}" for part in parts]]
    for name in wanted:
        if name not in inputs:
            return f'it has no input "{name}"'
    for name in inputs:
        if name not in (*wanted, POSITIONS):
            return f'it has an input "{name}"'
    for name in (LOGITS, *[f"present.{part}" for part in parts]):
        if name not in outputs:
            return f'it has no output "{name}"'
    return ""


def _misfit(inputs: Mapping[str, Any], outputs: Mapping[str, Any], parts: Sequence[str], context: int) -> str:
    """Return which type or shape is wrong."""
    for name in (IDS, MASK, POSITIONS):
        if name in inputs and inputs[name].type != "tensor(int64)":
            return f'its input "{name}" is a {inputs[name].type}, not a tensor(int64)'
    first = inputs[f"past_key_values.{parts[0]}"]
    for part in parts:
        node = inputs[f"past_key_values.{part}"]
        shape = node.shape
        if node.type not in _ELEMENTS or node.type != first.type:
            return f'its input "{node.name}" is a {node.type}; all must be float32, float16 or bfloat16 alike'
        if len(shape) != 4 or not all(isinstance(shape[axis], int) for axis in (1, 3)) or shape[1:] != first.shape[1:]:
            return f'its input "{node.name}" is {shape}, not [rows, heads, context, size] like the others'
        if isinstance(shape[2], int) and shape[2] != context:
            return f"its cells are for a context of {shape[2]}, and model.toml says {context}"
    mask, logits = inputs[MASK].shape, outputs[LOGITS]
    if len(mask) != 2 or (isinstance(mask[1], int) and mask[1] != context):
        return f'its input "{MASK}" is {mask}, not [rows, {context}]'
    if logits.type not in ("tensor(float)", "tensor(float16)") or len(logits.shape) != 3:
        return f'its output "{LOGITS}" is a {logits.type} {logits.shape}, not floats [rows, length, vocabulary]'
    return ""


def _dtype(name: str) -> np.dtype[Any]:
    if name:
        return np.dtype(name)
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found
