"""The payloads of text tasks from what a caller gives, for the clients and `rota.local`. PURE.

Whatever a worker would refuse as bad input of any model is refused here, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from rota.common import limits
from rota.common.arguments import several
from rota.common.errors import BadPayload, BadTarget
from rota.common.shown import shown
from rota.common.targets import MODEL_PREFIX, check_target
from rota.common.text_calls import (
    CLASSIFY,
    DIGEST_BYTES,
    EMBED,
    GENERATE,
    NEW_CONVERSATION,
    GenerateCall,
    TextCall,
    classify_call,
    embed_call,
    encode_text_call,
    generate_call,
)

_TEXTS_PER_TASK: Final = 64  # enough to fill a batch, few enough to keep several workers busy
_CALL_OF: Final[Mapping[str, Callable[[Any], TextCall]]] = {
    GENERATE: generate_call,
    EMBED: embed_call,
    CLASSIFY: classify_call,
}
_CHARS_PER_TASK: Final = limits.PAYLOAD_BYTES_MAX // 8  # at most four bytes each


def generate_payload(given: Mapping[str, Any]) -> bytes:
    """Return the payload of a generate task from named arguments; None: not given."""
    return encoded(call_of(given))


def call_of(given: Mapping[str, Any]) -> GenerateCall:
    """Return the generate task that named arguments mean; None: not given. Raises `BadPayload`."""
    fields = {name: value for name, value in given.items() if value is not None}
    if "conversation" in fields:
        fields["conversation"] = head_bytes(fields["conversation"])
    # A conversation that starts is nil in a payload, where None here means that there is none.
    if fields.get("conversation") == NEW_CONVERSATION:
        fields["conversation"] = None
    return generate_call(fields)


def head_bytes(head: Any) -> Any:
    """Return the bytes of a head that is given as hex digits, as commands print it; anything else as it is."""
    if isinstance(head, str) and len(head) == 2 * DIGEST_BYTES:
        try:
            return bytes.fromhex(head)
        except ValueError:
            pass
    return head


def text_payload(value: Mapping[str, Any]) -> bytes | None:
    """Return the payload of a text task that is given as its map, `{"generate": {...}}`; None for another map.

    Raises `BadPayload` for a text task that is wrong.
    """
    if len(value) != 1:
        return None
    ((kind, fields),) = value.items()
    check = _CALL_OF.get(kind)
    return encoded(check(fields)) if check is not None and isinstance(fields, Mapping) else None


def embed_payloads(texts: Iterable[str], truncate: bool) -> list[bytes]:
    """Return the payloads of the tasks that embed these texts."""
    return [encoded(embed_call({"texts": part, "truncate": truncate})) for part in _parts(texts)]


def classify_payloads(texts: Iterable[str], top: int | None, truncate: bool) -> list[bytes]:
    """Return the payloads of the tasks that classify these texts."""
    fields = {"truncate": truncate} if top is None else {"truncate": truncate, "top": top}
    return [encoded(classify_call({"texts": part, **fields})) for part in _parts(texts)]


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
