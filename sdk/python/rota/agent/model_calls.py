"""What a flow asks of models and what it makes of their answers: texts, vectors, labels, arrays.

The payloads are those of docs/PROTOCOL.md (text tasks) and docs/MODELS.md (arrays).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rota.agent.tensors import Array, Tensor

PREFIX: Final = "model:"
ANSWERS: Final = {  # of each function below that reads one
    "generated": '{"generate": {"text": ..., "finish": ...}}',
    "vectors": '{"embed": {"vectors": ["float32", [texts, width], data]}}',
    "labels": '{"classify": {"labels": [[[label, score], ...] of each text]}}',
    "outputs": '{"outputs": {name: [dtype, shape, data]}}',
}
Input = Tensor | Array | tuple[str, Sequence[int], Any]


class Generated(NamedTuple):
    """The answer of a language model; docs/PROTOCOL.md has the fields."""

    text: str
    tokens: list[int]
    finish: str
    """`stop`, `length` or `tool_calls`."""
    stop: Any
    usage: dict[str, int]
    logprobs: list[Any] | None
    tool_calls: list[Any] | None
    conversation: bytes | None


def target_of(model: str) -> str:
    """Return the target of a model that is given with or without `model:`. Raises `TypeError`."""
    if type(model) is not str:
        raise TypeError(f"a model is named by a str, not {type(model).__name__}")
    return model if model.startswith(PREFIX) else PREFIX + model


def generate_payload(prompt: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value that asks for text. Options that are None are left out, but for `conversation`."""
    fields = {key: value for key, value in options.items() if value is not None or key == "conversation"}
    if prompt is not None:
        fields = {"prompt": prompt, **fields}
    if not any(key in fields for key in ("prompt", "tokens", "messages")):
        raise TypeError("generate needs a prompt, messages=[...] or tokens=[...]")
    return {"generate": fields}


def texts_payload(what: str, texts: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value that asks for vectors or labels of texts."""
    if isinstance(texts, str):
        raise TypeError(f"{what} takes a list of texts; for one: [text]")
    return {what: {"texts": list(texts), **{key: value for key, value in options.items() if value}}}


def model_payload(inputs: Mapping[str, Input], outputs: Sequence[str]) -> tuple[dict[str, Any], list[Tensor]]:
    """Return the value that runs a model on named inputs, and the tensors that go with it."""
    tensors: list[Tensor] = []
    named: dict[str, Any] = {}
    for name, given in inputs.items():
        if isinstance(given, Tensor):
            named[name] = [given.dtype, list(given.shape), len(tensors)]
            tensors.append(given)
            continue
        if isinstance(given, tuple) and len(given) == 3:
            given = Array(*given)
        if not isinstance(given, Array):
            raise TypeError(
                f"input {name}: give a tensor, an Array, or (dtype, shape, data), not {type(given).__name__}"
            )
        named[name] = [given.dtype, list(given.shape), given.read()]
    value: dict[str, Any] = {"inputs": named}
    if outputs:
        value["outputs"] = list(outputs)
    return value, tensors


def generated(value: Any, _tensors: Sequence[Tensor]) -> Generated:
    """Return the text of a model's answer."""
    fields = value["generate"]
    return Generated(*[fields.get(name) for name in Generated._fields])


def vectors(value: Any, tensors: Sequence[Tensor]) -> list[array[Any]]:
    """Return one vector for each text."""
    found = _array(value["embed"]["vectors"], tensors)
    (_, width), flat = found.shape, found.array()
    return [flat[place : place + width] for place in range(0, len(flat), width)]


def labels(value: Any, _tensors: Sequence[Tensor]) -> list[list[tuple[str, float]]]:
    """Return the labels of each text with their scores, the best first."""
    return [[(label, score) for label, score in one] for one in value["classify"]["labels"]]


def outputs(value: Any, tensors: Sequence[Tensor]) -> dict[str, Tensor | Array]:
    """Return the outputs of a model by name."""
    return {name: _array(one, tensors) for name, one in value["outputs"].items()}


def _array(one: Any, tensors: Sequence[Tensor]) -> Tensor | Array:
    dtype, shape, data = one
    return tensors[data] if isinstance(data, int) else Array(dtype, shape, data)
