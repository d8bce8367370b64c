"""The text operations of a lane: generate, chat, embed, classify. They submit tasks to models, as in the client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rota.common.arguments import check_options
from rota.common.chat import Chat, Dialogue
from rota.common.results import Result
from rota.common.text_calls import GenerateCall
from rota.common.text_requests import classify_payloads, embed_payloads, generate_payload, model_target
from rota.local.generation import LocalGeneration
from rota.local.handles import LocalBatch, LocalHandle
from rota.tensors.arrays import Array
from rota.tensors.text_values import Labels, labels_of, vectors_of


class LocalTexts:
    """The part of `LocalLane` for texts."""

    name: str

    def outcome(self, turn: int | LocalHandle) -> Result:
        raise NotImplementedError

    def cancel(self, turn: int | LocalHandle) -> bool:
        raise NotImplementedError

    def submit(self, target: str, payload: Any = b"", *, priority: int = 0) -> LocalHandle:
        raise NotImplementedError

    def submit_many(self, targets: str, payloads: Iterable[Any], *, priority: int = 0) -> LocalBatch:
        raise NotImplementedError

    def generate(self, model: str, prompt: str | None = None, *, priority: int = 0, **options: Any) -> LocalGeneration:
        """Submit a generate task. Options as for a client: `messages`, `conversation`, `max_tokens` and the others."""
        check_options(options, GenerateCall._fields)
        payload = generate_payload({**options, "prompt": prompt})
        return LocalGeneration(self, self.submit(model_target(model), payload, priority=priority).turn)

    def chat(
        self, model: str, *, system: str | None = None, conversation: bytes | str | None = None, **options: Any
    ) -> Chat[LocalGeneration]:
        """Return a dialogue with a model, which begins, or goes on at the head `conversation`. Submits nothing yet."""
        dialogue = Dialogue(conversation, system, options)
        check_options(options, ("priority", *GenerateCall._fields))
        generate_payload({name: value for name, value in dialogue.turn("", {}).items() if name != "priority"})
        return Chat(self.generate, model_target(model), dialogue)

    def embed(self, model: str, texts: Iterable[str], *, truncate: bool = False, priority: int = 0) -> Array:
        """Run the lane until it has the vectors of texts; return them as an array [texts, dimensions]."""
        tasks = self.submit_many(model_target(model), embed_payloads(texts, truncate), priority=priority)
        return vectors_of(tasks.outcomes())

    def classify(
        self, model: str, texts: Iterable[str], *, top: int | None = None, truncate: bool = False, priority: int = 0
    ) -> Labels:
        """Run the lane until it has the labels of texts; return for each text its `top` ones, or all, with scores."""
        tasks = self.submit_many(model_target(model), classify_payloads(texts, top, truncate), priority=priority)
        return labels_of(tasks.outcomes())
