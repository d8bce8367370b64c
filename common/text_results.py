"""The results of text tasks. PURE.

    {"generate": {"text", "tokens", "finish", "stop", "usage", "logprobs", "tool_calls", "conversation"}}
    {"embed": {"vectors": tensor, "usage"}}
    {"classify": {"labels": [[[label, score], ...] per text], "usage"}}

Nothing in them depends on load, neighbours or caches: usage counts the tokens of the request, whoever computed them.
text_calls.py has the calls; docs/PROTOCOL.md lists the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgpack

from rota.common.errors import BadPayload
from rota.common.limits import MESSAGE_ITEMS_MAX
from rota.common.model_call import TEXT_TASKS, Tensor, decode_tensor, unpacked
from rota.common.text_calls import CLASSIFY, DIGEST_BYTES, EMBED, GENERATE, ToolCall, tool_calls
from rota.common.text_checks import (
    check_fields,
    check_finite,
    check_list,
    check_text,
    check_token,
    check_whole,
    refuse,
)
from rota.common.work import TensorRef

FINISHES: Final = ("stop", "length", "tool_calls")


class Usage(NamedTuple):
    """Counted tokens: of the prompt, the whole history included, and of the answer."""

    prompt: int
    generated: int = 0


class TokenLogprob(NamedTuple):
    """The log-probability of a chosen token, and [id, log-probability] of the likeliest ones."""

    chosen: float
    top: tuple[tuple[int, float], ...]


class GenerateResult(NamedTuple):
    """What a generate task returns.

    `finish`: "stop" (a stop token or text, or the end of a constrained output), "length" or "tool_calls". `stop` is
    the text or token that matched. `conversation` is the head after the answer, None if no chain is kept.
    """

    text: str
    tokens: tuple[int, ...]
    finish: str
    stop: str | int | None
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    conversation: bytes | None = None


class EmbedResult(NamedTuple):
    """What an embed task returns: `vectors` [texts, dimensions]."""

    vectors: Tensor
    usage: Usage


class ClassifyResult(NamedTuple):
    """What a classify task returns: for each text (label, score), the best first."""

    labels: tuple[tuple[tuple[str, float], ...], ...]
    usage: Usage


TextResult: TypeAlias = GenerateResult | EmbedResult | ClassifyResult


def encode_text_result(result: TextResult) -> bytes:
    """Return the payload of a text task's result."""
    fields = result._asdict()
    fields["usage"] = result.usage._asdict()
    if isinstance(result, GenerateResult):
        kind = GENERATE
        if result.tool_calls is not None:
            fields["tool_calls"] = [call._asdict() for call in result.tool_calls]
    else:
        kind = EMBED if isinstance(result, EmbedResult) else CLASSIFY
        del fields["usage"]["generated"]
    packed: bytes = msgpack.packb({kind: fields})
    return packed


def decode_text_result(payload: bytes, references: Sequence[TensorRef] = ()) -> TextResult:
    """Return the result in `payload`, whose tensors may be indexes into `references`. Raises `BadPayload`."""
    value = unpacked(payload)
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in TEXT_TASKS:
        raise BadPayload(f"the result must be a MessagePack map with one field of {', '.join(TEXT_TASKS)}")
    ((kind, fields),) = value.items()
    if kind == GENERATE:
        return _generate_result(fields)
    return _embed_result(fields, references) if kind == EMBED else _classify_result(fields)


def _generate_result(value: Any) -> GenerateResult:
    fields = check_fields(GENERATE, value, GenerateResult._fields)
    finish, stop, conversation = fields.get("finish"), fields.get("stop"), fields.get("conversation")
    if finish not in FINISHES:
        refuse("generate.finish", f"one of {', '.join(FINISHES)}", finish)
    if isinstance(stop, str):
        check_text("generate.stop", stop)
    elif stop is not None:
        check_token("generate.stop", stop)
    if conversation is not None and not (isinstance(conversation, bytes) and len(conversation) == DIGEST_BYTES):
        refuse("generate.conversation", f"{DIGEST_BYTES} bytes or nil", conversation)
    tokens = check_list("generate.tokens", fields.get("tokens"), 0, MESSAGE_ITEMS_MAX, "tokens")
    logprobs, calls = fields.get("logprobs"), fields.get("tool_calls")
    return GenerateResult(
        check_text("generate.text", fields.get("text")),
        tuple([check_token("generate.tokens", token) for token in tokens]),
        finish,
        stop,
        _usage(GENERATE, fields, Usage._fields),
        None if logprobs is None else _logprobs("generate.logprobs", logprobs),
        None if calls is None else tool_calls("generate.tool_calls", calls),
        conversation,
    )


def _logprobs(name: str, value: Any) -> tuple[TokenLogprob, ...]:
    found: list[TokenLogprob] = []
    for item in check_list(name, value, 0, MESSAGE_ITEMS_MAX, "tokens"):
        chosen, top = check_list(name, item, 2, 2, "values")
        pairs = [
            check_list(name, pair, 2, 2, "values") for pair in check_list(name, top, 0, MESSAGE_ITEMS_MAX, "pairs")
        ]
        top_pairs = tuple([(check_token(name, token), check_finite(name, logprob)) for token, logprob in pairs])
        found.append(TokenLogprob(check_finite(name, chosen), top_pairs))
    return tuple(found)


def _embed_result(value: Any, references: Sequence[TensorRef]) -> EmbedResult:
    fields = check_fields(EMBED, value, EmbedResult._fields)
    vectors = decode_tensor("vectors", fields.get("vectors"), "output", references)
    return EmbedResult(vectors, _usage(EMBED, fields, ("prompt",)))


def _classify_result(value: Any) -> ClassifyResult:
    fields = check_fields(CLASSIFY, value, ClassifyResult._fields)
    name = "classify.labels"
    texts: list[tuple[tuple[str, float], ...]] = []
    for text in check_list(name, fields.get("labels"), 0, MESSAGE_ITEMS_MAX, "texts"):
        pairs = [
            check_list(name, pair, 2, 2, "values") for pair in check_list(name, text, 0, MESSAGE_ITEMS_MAX, "pairs")
        ]
        texts.append(tuple([(check_text(name, label), check_finite(name, score)) for label, score in pairs]))
    return ClassifyResult(tuple(texts), _usage(CLASSIFY, fields, ("prompt",)))


def _usage(task: str, fields: dict[str, Any], known: tuple[str, ...]) -> Usage:
    name = f"{task}.usage"
    counts = check_fields(name, fields.get("usage"), known)
    return Usage(*[check_whole(f"{name}.{field}", counts.get(field), 0, (1 << 53) - 1) for field in known])
