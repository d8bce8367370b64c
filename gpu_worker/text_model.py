"""What the executor expects of models that take text: decoders, and encoders whose texts become rows. PURE.

executor.py owns threads, queues, timeouts, outcomes and conversations; a text model owns its session, tokenizer and
slots. All methods are called in the executor's thread. Numbers of requests are the executor's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rota.common.model_call import Call
from rota.common.work import TensorRef
from rota.generation.pieces import Generated, Piece


class GeneratingModel(Protocol):
    """A loaded decoder with its slots."""

    @property
    def is_full(self) -> bool:
        """Whether no further request can start now."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress, so that `step` would do nothing."""
        ...

    @property
    def held_bytes(self) -> int:
        """The memory held beside the weights: the buffers of the slots, and the prefix cache at its largest."""
        ...

    @property
    def counters(self) -> Mapping[str, int]:
        """Counts since it was loaded, for operators: tokens `prefilled`, `cached` and `generated`."""
        ...

    def description(self) -> Mapping[str, Any]:
        """Return what producers and operators see of it, in MessagePack's types."""
        ...

    def start(self, request: int, call: Any, messages: Sequence[Any], now_ms: int) -> None:
        """Accept a request: a `GenerateCall`, with the whole history as `messages` if it has any.

        Raises `BadPayload` if it cannot be done: too long, a schema that is refused, an unknown template variable.
        """
        ...

    def step(self, run_options: Any) -> Sequence[Piece | Generated]:
        """Do one prefill, or one decode of all slots. Call only if not idle.

        `run_options` go to every run of the session: the executor stops a run through them. An error of the library is
        raised as it is; the requests that have not ended are then as before the step, or can only be dropped.
        """
        ...

    def drop(self, request: int) -> None:
        """Forget a request and free its slot; does nothing if it has ended."""
        ...

    def close(self) -> None:
        """Release session and buffers."""
        ...


class EncodedTexts(Protocol):
    """The texts of one `embed` or `classify` call as rows for the model, and the way back."""

    @property
    def calls(self) -> Sequence[Call]:
        """One call of one row for each text, in order; its shape is that of the text's bucket."""
        ...

    def packed(self, outputs: Sequence[Mapping[str, Any]]) -> tuple[bytes, tuple[TensorRef, ...]]:
        """Return the payload of the result and its tensor references, from the output arrays of each call: one row
        each, read-only, in order.
        """
        ...


class EncodingModel(Protocol):
    """Tokenizer, buckets, pooling and labels of a model whose task is `embed` or `classify`."""

    def rows(self, payload: bytes) -> EncodedTexts:
        """Decode and tokenize a call. Raises `BadPayload` for what is no call of this model's task, or is too long."""
        ...
