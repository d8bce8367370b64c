"""Generate, embed and classify for both shells: checks the arguments, makes the calls, and returns flows.

Whatever a worker would refuse as bad input for any model is refused here, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rota.client.dialogue import Dialogue
from rota.client.flows import Flow, Ranges
from rota.client.operations import Operations
from rota.client.options import SubmitOptions, TextNames, generate_options
from rota.client.texts import TextSoFar
from rota.common import limits
from rota.common.arguments import several
from rota.common.errors import BadPayload, BadTarget
from rota.common.results import Result
from rota.common.shown import shown
from rota.common.targets import MODEL_PREFIX, check_target
from rota.common.text_calls import (
    GenerateCall,
    TextCall,
    classify_call,
    embed_call,
    encode_text_call,
)
from rota.common.text_results import ClassifyResult, EmbedResult, decode_text_result

if TYPE_CHECKING:
    from rota.tensors.arrays import Array

_TEXTS_PER_TASK: Final = 64  # enough to fill a batch, few enough to keep several workers busy
_CHARS_PER_TASK: Final = limits.PAYLOAD_BYTES_MAX // 8  # at most four bytes each

Labels = list[list[tuple[str, float]]]


class TextOperations:
    """The text operations of one client, as flows."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def generate(self, model: str, given: Mapping[str, Any]) -> Flow[Ranges]:
        call, options = generate_options(given)
        return self._operations.submit(model_target(model), encoded(call), options)

    def dialogue(
        self, model: str, system: str | None, conversation: bytes | None, given: Mapping[str, Any]
    ) -> Dialogue:
        model_target(model)
        dialogue = Dialogue(conversation, system, given)
        generate_options(dialogue.turn("", {}))  # raises what the first message would
        return dialogue

    def more_text(self, seq: int, so_far: TextSoFar, timeout_s: float | None) -> Flow[str]:
        """Wait for more text of a generate task and return it; empty: that was all."""
        if so_far.is_done:
            return ""
        outcome = so_far.outcome
        if outcome is None:
            found = yield from self._operations.text_or_outcome(seq, so_far.chars, timeout_s)
            if isinstance(found, str):
                return so_far.show(found)
            outcome = found
        self._operations.drop_text(seq)
        return so_far.show_rest(outcome)

    def embed(self, model: str, texts: Iterable[str], truncate: bool, given: Mapping[str, Any]) -> Flow[Array]:
        calls: list[TextCall] = [embed_call({"texts": some, "truncate": truncate}) for some in _parts(texts)]
        return self._vectors(self._text_tasks(model, calls, given))

    def classify(
        self, model: str, texts: Iterable[str], top: int | None, truncate: bool, given: Mapping[str, Any]
    ) -> Flow[Labels]:
        calls: list[TextCall] = [
            classify_call({"texts": some, "truncate": truncate, "top": top}) for some in _parts(texts)
        ]
        return self._labels(self._text_tasks(model, calls, given))

    # --- inside ---------------------------------------------------------------------------------------

    def _text_tasks(self, model: str, calls: Sequence[TextCall], given: Mapping[str, Any]) -> Flow[list[Result]]:
        """Submit calls together and return their results in order."""
        options = SubmitOptions.of(given, TextNames)
        payloads = [encoded(call) for call in calls]
        return self._submitted(self._operations.submit_many(model_target(model), payloads, options), options)

    def _submitted(self, submit: Flow[Ranges], options: SubmitOptions) -> Flow[list[Result]]:
        ranges = yield from submit
        seqs = [seq for first_seq, tasks in ranges for seq in range(first_seq, first_seq + tasks)]
        results: list[Result] = []
        for seq in seqs:
            results.append((yield from self._operations.outcome(seq, options.timeout_s)))
        return [result.raise_if_failed() for result in results]

    def _vectors(self, tasks: Flow[list[Result]]) -> Flow[Array]:
        import numpy

        arrays: list[Array] = []
        for result in (yield from tasks):
            found = decode_text_result(result.payload or b"", result.tensors)
            if not isinstance(found, EmbedResult):
                raise BadPayload(f"the result of task {result.seq} is not that of an embed task")
            arrays.append(self._operations.array_of(found.vectors, result.tensors))
        return arrays[0] if len(arrays) == 1 else numpy.concatenate(arrays)

    def _labels(self, tasks: Flow[list[Result]]) -> Flow[Labels]:
        labels: Labels = []
        for result in (yield from tasks):
            found = decode_text_result(result.payload or b"", result.tensors)
            if not isinstance(found, ClassifyResult):
                raise BadPayload(f"the result of task {result.seq} is not that of a classify task")
            labels += [list(pairs) for pairs in found.labels]
        return labels


def model_target(model: str) -> str:
    """Return the target of a model's tasks. `model` is NAME or NAME@VERSION, with or without `model:`."""
    if not isinstance(model, str):
        raise BadTarget(f"model={shown(model)}: give the name of a model")
    return check_target(model if model.startswith(MODEL_PREFIX) else MODEL_PREFIX + model)


def encoded(call: TextCall) -> bytes:
    """Return the payload of a call. Raises `BadPayload` if it is too large."""
    payload = encode_text_call(call)
    if len(payload) > limits.PAYLOAD_BYTES_MAX:
        remedy = "send less text at once"
        if isinstance(call, GenerateCall) and call.messages is not None:
            remedy = "keep the history in a conversation, and send only what is new"
        raise BadPayload(f"the call has {len(payload)} bytes, the limit is {limits.PAYLOAD_BYTES_MAX}: {remedy}")
    return payload


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in parts, each for one task."""
    part: list[str] = []
    held = 0
    for text in several("texts", texts):
        size = len(text) if isinstance(text, str) else 0
        if part and (len(part) == _TEXTS_PER_TASK or held + size > _CHARS_PER_TASK):
            yield part
            part, held = [], 0
        part.append(text)
        held += size
    yield part
