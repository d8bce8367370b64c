"""`model.toml`: the session settings in a model's folder. PURE.

    threads = 1                     # intra-op threads; part of the fingerprint, may change bits
    graph_level = "all"             # none, basic, extended, layout or all; changes bits
    outputs = ["label"]             # the outputs to give when a task names none
    allow_cpu_nodes = false         # let ONNX Runtime place single nodes on the CPU beside CUDA

    [probe_shapes]                  # shapes for the warm-up where the free dimensions cannot be 1
    audio = [1, 16000]

Every key is optional; an unknown one is an error, so that a misspelt key is not ignored. docs/MODELS.md lists the keys.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rota.common.errors import CodeError
from rota.common.limits import TENSOR_RANK_MAX
from rota.common.shown import shown

FILE_NAME: Final = "model.toml"
GRAPH_LEVELS: Final = ("none", "basic", "extended", "layout", "all")
THREADS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The settings of one model. `threads` None: what the worker was started with."""

    threads: int | None = None
    graph_level: str = "all"
    outputs: tuple[str, ...] = ()
    allow_cpu_nodes: bool = False
    probe_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def parse_settings(text: str, where: str) -> ModelSettings:
    """Return the settings in `text`, the content of the file `where`.

    Raises `CodeError` naming the file, the key and its allowed values.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # plain ValueError too: int() refuses very long numbers
        raise CodeError(f"{where} is no TOML: {str(error)[:200]}") from None
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _RULES:
            raise CodeError(f"{where}: unknown key {shown(key)}; known: {', '.join(_RULES)}")
        check, meaning = _RULES[key]
        if not check(value):
            raise CodeError(f"{where}: {key} must be {meaning}, got {shown(value)}")
        values[key] = _frozen(value)
    return ModelSettings(**values)


def _is_threads(value: Any) -> bool:
    return type(value) is int and 1 <= value <= THREADS_MAX


def _is_outputs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _is_shapes(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_shape(shape) for shape in value.values())


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= TENSOR_RANK_MAX and all(type(n) is int and n >= 0 for n in value)


_RULES: Final = {
    "threads": (_is_threads, f"a whole number from 1 to {THREADS_MAX}"),
    "graph_level": (lambda value: value in GRAPH_LEVELS, f"one of {', '.join(GRAPH_LEVELS)}"),
    "outputs": (_is_outputs, "a list of output names"),
    "allow_cpu_nodes": (lambda value: isinstance(value, bool), "true or false"),
    "probe_shapes": (_is_shapes, "a table of input name = [extent, ...]"),
}


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict):
        return {name: tuple(shape) for name, shape in value.items()}
    return value
