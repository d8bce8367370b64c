"""What embed and classify tasks returned, joined: the vectors as one array, the labels as one list.

Not pure: vectors may be in the tensor store.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeVar

import numpy

from rota.common.errors import BadPayload, TaskFailed
from rota.common.results import Result
from rota.common.text_results import ClassifyResult, EmbedResult, decode_text_result
from rota.tensors.arrays import Array, array_of

T = TypeVar("T")

_TEXT: Final = re.compile(r"((?:embed|classify)\.texts\[)(\d+)\]")

Labels = list[list[tuple[str, float]]]


def vectors_of(results: Sequence[Result]) -> Array:
    """Return the vectors of embed tasks, one row per text. Raises `TaskFailed`, `BadPayload`, `TensorError`."""
    arrays: list[Array] = []
    for result in results:
        vectors = _of_task(result, EmbedResult, sum([len(array) for array in arrays])).vectors
        if isinstance(vectors.data, int):
            arrays.append(result.tensor_arrays[vectors.data])
        else:
            arrays.append(array_of(vectors, (), None))
    return arrays[0] if len(arrays) == 1 else numpy.concatenate(arrays)


def labels_of(results: Sequence[Result]) -> Labels:
    """Return the labels of classify tasks, one list per text. Raises `TaskFailed`, `BadPayload`."""
    labels: Labels = []
    for result in results:
        labels += [list(pairs) for pairs in _of_task(result, ClassifyResult, len(labels)).labels]
    return labels


def _of_task(result: Result, kind: type[T], before: int) -> T:
    """Return what a task returned. If it failed, the error counts the texts as the caller does: `before` of them were
    in earlier tasks.
    """
    try:
        result.raise_if_failed()
    except TaskFailed as error:
        text = _TEXT.sub(lambda found: f"{found[1]}{before + int(found[2])}]", error.message)
        raise TaskFailed(text, **error.fields) from None
    found = decode_text_result(result.payload or b"", result.tensors)
    if not isinstance(found, kind):
        raise BadPayload(f"the result of task {result.seq} is no {kind.__name__}")
    return found
