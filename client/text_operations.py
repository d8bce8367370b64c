"""Generate, embed and classify for both shells: checks the arguments, makes the calls, and returns exchanges.
common/text_requests.py makes the payloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rota.client.exchanges import Exchange, Pause, Ranges
from rota.client.operations import Operations
from rota.client.options import SubmitOptions, TextNames, generate_options
from rota.client.texts import TextSoFar
from rota.common.chat import Dialogue
from rota.common.results import Result
from rota.common.text_requests import classify_payloads, embed_payloads, generate_payload, model_target

if TYPE_CHECKING:
    from rota.tensors.arrays import Array
    from rota.tensors.text_values import Labels

T = TypeVar("T")


class TextOperations:
    """The text operations of one client, as exchanges."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def generate(self, model: str, given: Mapping[str, Any]) -> Exchange[Ranges]:
        fields, options = generate_options(given)
        return self._operations.submit(model_target(model), generate_payload(fields), options)

    def dialogue(
        self, model: str, system: str | None, conversation: bytes | str | None, given: Mapping[str, Any]
    ) -> Dialogue:
        model_target(model)
        dialogue = Dialogue(conversation, system, given)
        fields, _ = generate_options(dialogue.turn("", {}))
        generate_payload(fields)  # raises what the first message would
        return dialogue

    def more_text(self, seq: int, so_far: TextSoFar, timeout_s: float | None) -> Exchange[str]:
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

    def embed(self, model: str, texts: Iterable[str], truncate: bool, given: Mapping[str, Any]) -> Exchange[Array]:
        from rota.tensors.text_values import vectors_of

        return self._of_all(vectors_of, self._tasks(model, embed_payloads(texts, truncate), given))

    def classify(
        self, model: str, texts: Iterable[str], top: int | None, truncate: bool, given: Mapping[str, Any]
    ) -> Exchange[Labels]:
        from rota.tensors.text_values import labels_of

        return self._of_all(labels_of, self._tasks(model, classify_payloads(texts, top, truncate), given))

    # --- inside ---------------------------------------------------------------------------------------

    def _tasks(self, model: str, payloads: Sequence[bytes], given: Mapping[str, Any]) -> Exchange[list[Result]]:
        """Submit calls together and return their outcomes in order."""
        options = SubmitOptions.of(given, TextNames)
        return self._submitted(self._operations.submit_many(model_target(model), payloads, options), options)

    def _submitted(self, submit: Exchange[Ranges], options: SubmitOptions) -> Exchange[list[Result]]:
        ranges = yield from submit
        results: list[Result] = []
        for step in self._operations.outcomes(ranges, options.timeout_s):
            if isinstance(step, Pause):
                yield step
            else:
                results.append(step)
        return results

    def _of_all(self, join: Callable[[Sequence[Result]], T], tasks: Exchange[list[Result]]) -> Exchange[T]:
        return join((yield from tasks))
