"""Hypothesis strategies: any text call and any text result."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

from rota.common.model_call import Tensor
from rota.common.text_calls import (
    NEW_CONVERSATION,
    ROLES,
    ChatMessage,
    ChatTool,
    ClassifyCall,
    EmbedCall,
    GenerateCall,
    OutputRule,
    ToolCall,
)
from rota.common.text_results import (
    FINISHES,
    ClassifyResult,
    EmbedResult,
    GenerateResult,
    TokenLogprob,
    Usage,
)

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_SOME_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
_NAMES = st.sampled_from(["f", "weather", "a.b-c_1"])
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e9, 1e9) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=5,
)
_JSON = st.dictionaries(_TEXT, _PLAIN, max_size=2).map(json.dumps)
_TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple)
_CALLS_OF_TOOLS = st.lists(st.builds(ToolCall, _SOME_TEXT, _SOME_TEXT, _JSON), max_size=2).map(tuple)
_COUNTS = st.integers(0, 1 << 40)


@st.composite
def messages(draw: st.DrawFn) -> ChatMessage:
    role = draw(st.sampled_from(ROLES))
    return ChatMessage(
        role,
        draw(_TEXT),
        draw(st.none() | _SOME_TEXT),
        draw(_CALLS_OF_TOOLS) if role == "assistant" else (),
        draw(st.none() | _SOME_TEXT) if role == "tool" else None,
    )


_OUTPUT = st.one_of(
    st.builds(OutputRule, st.just("json_schema"), _JSON),
    st.builds(OutputRule, st.sampled_from(["regex", "grammar"]), _SOME_TEXT),
    st.builds(OutputRule, st.just("choices"), st.lists(_SOME_TEXT, min_size=1, max_size=3, unique=True).map(tuple)),
)


@st.composite
def _generate(draw: st.DrawFn) -> GenerateCall:
    options: dict[str, Any] = {
        "max_tokens": draw(st.none() | st.integers(1, 1 << 20)),
        "temperature": draw(st.floats(0, 100)),
        "top_k": draw(st.integers(0, 1 << 31)),
        "top_p": draw(st.floats(0, 1, exclude_min=True)),
        "min_p": draw(st.floats(0, 1)),
        "repetition_penalty": draw(st.floats(0, 100, exclude_min=True)),
        "seed": draw(st.integers(0, (1 << 63) - 1)),
        "stop": tuple(draw(st.lists(_SOME_TEXT, max_size=3))),
        "stop_tokens": draw(_TOKENS),
        "logprobs": draw(st.none() | st.integers(0, 20)),
    }
    form = draw(st.sampled_from(["prompt", "tokens", "messages"]))
    if form == "prompt":
        options["prompt"] = draw(_SOME_TEXT)
    elif form == "tokens":
        options["tokens"] = tuple(draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4)))
    else:
        options["messages"] = tuple(draw(st.lists(messages(), min_size=1, max_size=3)))
        options["conversation"] = draw(st.sampled_from([None, NEW_CONVERSATION, bytes(range(32))]))
        options["template"] = draw(st.dictionaries(_SOME_TEXT, _PLAIN, max_size=2))
        names = draw(st.lists(_NAMES, max_size=2, unique=True))
        options["tools"] = tuple([ChatTool(name, draw(_TEXT), draw(_JSON)) for name in names])
        if names:
            options["tool_choice"] = draw(st.sampled_from(["auto", "none", "required", *names]))
    if options.get("tool_choice", "none") == "none":
        options["output"] = draw(st.none() | _OUTPUT)
    return GenerateCall(**options)


_TEXTS = st.lists(_TEXT, min_size=1, max_size=4).map(tuple)
calls = st.one_of(
    _generate(),
    st.builds(EmbedCall, _TEXTS, st.booleans()),
    st.builds(ClassifyCall, _TEXTS, st.booleans(), st.none() | st.integers(1, 1 << 16)),
)

_NUMBERS = st.floats(-1e9, 1e9)


@st.composite
def _vectors(draw: st.DrawFn) -> Tensor:
    shape = (draw(st.integers(1, 3)), draw(st.integers(0, 3)))
    return Tensor("float32", shape, draw(st.binary(min_size=4 * math.prod(shape), max_size=4 * math.prod(shape))))


results = st.one_of(
    st.builds(
        GenerateResult, _TEXT, _TOKENS, st.sampled_from(FINISHES), st.none() | _TEXT | st.integers(0, 2**31 - 1),
        st.builds(Usage, _COUNTS, _COUNTS),
        st.none() | st.lists(
            st.builds(TokenLogprob, _NUMBERS,
                      st.lists(st.tuples(st.integers(0, 2**31 - 1), _NUMBERS), max_size=2).map(tuple)),
            max_size=3,
        ).map(tuple),
        st.none() | _CALLS_OF_TOOLS, st.none() | st.just(bytes(range(32))),
    ),
    st.builds(EmbedResult, _vectors(), st.builds(Usage, _COUNTS, st.just(0))),
    st.builds(
        ClassifyResult,
        st.lists(st.lists(st.tuples(_TEXT, _NUMBERS), max_size=3).map(tuple), max_size=3).map(tuple),
        st.builds(Usage, _COUNTS, st.just(0)),
    ),
)  # fmt: skip
