"""The payloads of text tasks and their results: round trips; other bytes are `BadPayload` that names the field."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_call_strategies import calls, results

from rota.common.errors import BadPayload
from rota.common.model_call import Tensor
from rota.common.text_calls import (
    NEW_CONVERSATION,
    RULE_BYTES_MAX,
    TEXT_TASKS,
    TOOLS_BYTES_MAX,
    ChatMessage,
    ChatTool,
    ClassifyCall,
    GenerateCall,
    OutputRule,
    TextCall,
    decode_text_call,
    encode_text_call,
    generate_call,
)
from rota.common.text_results import (
    EmbedResult,
    GenerateResult,
    TextResult,
    Usage,
    decode_text_result,
    encode_text_result,
)
from rota.common.work import TensorRef

USER = {"role": "user", "content": "Hello"}
TOOL = {"name": "weather", "parameters": {"type": "object"}}
GOOD: dict[str, Any] = {
    "text": "a", "tokens": [1], "finish": "stop", "stop": None, "usage": {"prompt": 1, "generated": 1},
    "logprobs": None, "tool_calls": None, "conversation": None,
}  # fmt: skip


@given(calls)
def test_a_call_comes_back(call: TextCall) -> None:
    """Goal: decode(encode(call)) == call. Method: any calls."""
    assert decode_text_call(encode_text_call(call)) == call


@given(results)
def test_a_result_comes_back(result: TextResult) -> None:
    """Goal: decode(encode(result)) == result. Method: any results."""
    assert decode_text_result(encode_text_result(result)) == result


words = st.sampled_from([
    *TEXT_TASKS, *GenerateCall._fields, *ChatMessage._fields, *GenerateResult._fields, "texts", "truncate", "top",
    "json_schema", "vectors", "labels", "user", "{}", "float32",
])  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=8) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=12,
)


@given(
    st.binary(max_size=60)
    | values.map(msgpack.packb)
    | st.tuples(st.sampled_from(TEXT_TASKS), values).map(lambda pair: msgpack.packb(dict((pair,))))
)
def test_any_bytes_decode_or_are_bad(data: bytes) -> None:
    """Goal: no bytes raise anything but `BadPayload`, and what decodes encodes again. Method: bytes and structures."""
    for decode, encode in ((decode_text_call, encode_text_call), (decode_text_result, encode_text_result)):
        try:
            value: Any = decode(data)
        except BadPayload:
            continue
        assert decode(encode(value)) == value  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([], '"generate" must be a map, got []'),
        ({"prompt": "a", "temprature": 1}, "unknown field 'temprature'; known: prompt, tokens,"),
        ({}, "exactly one of prompt, tokens and messages, got none of them"),
        ({"prompt": "a", "messages": [USER]}, "got prompt and messages"),
        ({"prompt": "a", "conversation": None}, '"generate.conversation" needs messages, but the call has prompt'),
        ({"tokens": [1], "tools": [TOOL]}, '"generate.tools" needs messages, but the call has tokens'),
        ({"prompt": ""}, '"generate.prompt" must be text of 1 to'),
        ({"tokens": []}, '"generate.tokens" must be a list of 1 to'),
        ({"tokens": [-1]}, '"generate.tokens" must be a whole number from 0 to 2147483647, got -1'),
        ({"messages": [{**USER, "role": "boss"}]}, '"generate.messages[0].role" must be one of system, user'),
        ({"messages": [{"role": "user"}]}, '"generate.messages[0].content" must be text, got None'),
        ({"messages": [{**USER, "tool_call_id": "1"}]}, "is for the role tool, got user"),
        ({"messages": [{**USER, "tool_calls": [{}]}]}, "is for the role assistant, got user"),
        ({"messages": [{**USER, "mood": 1}]}, "\"generate.messages[0]\" has an unknown field 'mood'"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1", "name": "f"}]}]},
            '"generate.messages[0].tool_calls[0].arguments" must be a JSON object, as text or as a map, got None',
        ),
        ({"messages": [USER], "conversation": b"abc"}, "the 32 bytes of a head, or nil for a new conversation"),
        ({"prompt": "a", "max_tokens": 0}, '"generate.max_tokens" must be a whole number from 1 to'),
        ({"prompt": "a", "temperature": -0.5}, '"generate.temperature" must be a number from 0 to 100, got -0.5'),
        ({"prompt": "a", "temperature": float("nan")}, "from 0 to 100, got nan"),
        ({"prompt": "a", "top_p": 0}, '"generate.top_p" must be a number above 0 and up to 1, got 0'),
        ({"prompt": "a", "top_k": True}, '"generate.top_k" must be a whole number from 0'),
        ({"prompt": "a", "seed": 1 << 63}, '"generate.seed" must be a whole number from 0 to 9223372036854775807'),
        ({"prompt": "a", "stop": "end"}, "\"generate.stop\" must be a list of 0 to 16 texts, got 'end'"),
        ({"prompt": "a", "stop": [""]}, '"generate.stop[0]" must be text of 1 to 256 characters'),
        ({"prompt": "a", "logprobs": 21}, '"generate.logprobs" must be a whole number from 0 to 20, got 21'),
        ({"prompt": "a", "output": {}}, "exactly one of json_schema, regex, grammar, choices, got []"),
        ({"prompt": "a", "output": {"json_schema": "{"}}, '"generate.output.json_schema" must be a JSON object'),
        ({"prompt": "a", "output": {"json_schema": "[]"}}, "a JSON object, as text or as a map, got '[]'"),
        ({"prompt": "a", "output": {"json_schema": '{"a": NaN}'}}, "a JSON object, as text or as a map"),
        ({"prompt": "a", "output": {"json_schema": '{"a":' * 70}}, "is nested more than 64 levels deep"),
        ({"prompt": "a", "output": {"choices": ["a", "a"]}}, '"generate.output.choices" has a choice twice'),
        ({"prompt": "a", "tool_choice": "auto"}, "\"none\" where there are no tools, got 'auto'"),
        ({"messages": [USER], "tools": [TOOL], "tool_choice": "sun"}, "or the name of a tool, got 'sun'"),
        ({"messages": [USER], "tools": [TOOL, TOOL]}, "different names, and none of auto, none, required"),
        ({"messages": [USER], "tools": [{"name": "auto"}]}, "different names, and none of auto, none, required"),
        ({"messages": [USER], "tools": [{"name": "a b"}]}, "a name of 1 to 64 letters"),
        ({"messages": [USER], "tools": [TOOL], "output": {"regex": "a"}}, "exclude each other"),
        ({"messages": [USER], "template": {"x": b"a"}}, '"generate.template.x" must be a plain value'),
    ],
)
def test_what_is_wrong_is_named(fields: Any, words: str) -> None:
    """Goal: each rule names field, expected and got. Method: one payload that breaks it; a client's call as well."""
    for check in (lambda: decode_text_call(msgpack.packb({"generate": fields})), lambda: generate_call(fields)):
        with pytest.raises(BadPayload) as caught:
            check()
        assert words in caught.value.message


@pytest.mark.parametrize(
    ("payload", "task", "words"),
    [
        (7, None, 'one field, "generate" or "embed" or "classify"; its bytes mean 7'),
        ({"inputs": {}}, None, "but the payload has 'inputs'"),
        ({"inputs": {}}, "generate", "this model takes \"generate\", but the payload has 'inputs'"),
        ({"embed": {"texts": ["a"]}}, "generate", "this model takes \"generate\", but the payload has 'embed'"),
        ({"embed": {"texts": []}}, "embed", '"embed.texts" must be a list of 1 to 1024 texts, got []'),
        ({"embed": {"texts": [1]}}, "embed", '"embed.texts[0]" must be text, got 1'),
        ({"embed": {"texts": ["a"], "truncate": 1}}, "embed", '"embed.truncate" must be true or false, got 1'),
        ({"embed": {"texts": ["a"], "top": 1}}, "embed", "unknown field 'top'; known: texts, truncate"),
        ({"classify": {"texts": ["a"], "top": 0}}, None, '"classify.top" must be a whole number from 1'),
    ],
)
def test_another_task_is_named(payload: Any, task: str | None, words: str) -> None:
    """Goal: a call for another kind of model says so. Method: payloads of the wrong kind, and other bad fields."""
    with pytest.raises(BadPayload) as caught:
        decode_text_call(msgpack.packb(payload), task)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({**GOOD, "finish": "tired"}, '"generate.finish" must be one of stop, length, tool_calls'),
        ({**GOOD, "usage": {"prompt": 1}}, '"generate.usage.generated" must be a whole number'),
        ({**GOOD, "usage": {"prompt": 1, "generated": 1, "cached": 1}}, "unknown field 'cached'"),
        ({**GOOD, "logprobs": [[float("-inf"), []]]}, '"generate.logprobs" must be a finite number, got -inf'),
        ({**GOOD, "conversation": b""}, '"generate.conversation" must be 32 bytes or nil'),
    ],
)
def test_a_wrong_result_is_named(fields: Any, words: str) -> None:
    """Goal: a result that no model of ours can give is refused. Method: one field wrong in each."""
    with pytest.raises(BadPayload) as caught:
        decode_text_result(msgpack.packb({"generate": fields}))
    assert words in caught.value.message


def test_defaults_are_not_sent() -> None:
    """Goal: the journal holds what was said and no more. Method: the bytes of calls that leave everything out."""
    assert msgpack.unpackb(encode_text_call(GenerateCall(prompt="a"))) == {"generate": {"prompt": "a"}}
    call = GenerateCall(messages=(ChatMessage("user", "a"),), conversation=NEW_CONVERSATION, max_tokens=3)
    assert msgpack.unpackb(encode_text_call(call)) == {
        "generate": {"messages": [{"role": "user", "content": "a"}], "conversation": None, "max_tokens": 3}
    }
    assert msgpack.unpackb(encode_text_call(ClassifyCall(("a",)))) == {"classify": {"texts": ["a"]}}


def test_schemas_are_kept_as_they_were_written() -> None:
    """Goal: the order of names in a schema is the order of the output's. Method: a map, and the same as text."""
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {}}}
    text = '{"type":"object","properties":{"b":{"type":"string"},"a":{}}}'
    assert generate_call({"prompt": "x", "output": {"json_schema": schema}}).output == OutputRule("json_schema", text)
    assert generate_call({"prompt": "x", "output": {"json_schema": text}}).output == OutputRule("json_schema", text)
    call = generate_call({"messages": [USER], "tools": [{"name": "f", "parameters": schema}]})
    assert call.tools == (ChatTool("f", "", text),)
    assert call.tool_choice == "auto"


def test_vectors_may_be_a_reference() -> None:
    """Goal: many vectors fit into a result. Method: a tensor reference, and one of another shape."""
    reference = TensorRef(bytes(32), "float32", (4, 2))
    result = EmbedResult(Tensor("float32", (4, 2), 0), Usage(9))
    assert decode_text_result(encode_text_result(result), (reference,)) == result
    with pytest.raises(BadPayload, match="tensor reference 0 is"):
        decode_text_result(encode_text_result(EmbedResult(Tensor("float32", (2, 4), 0), Usage(9))), (reference,))


def test_the_length_of_rules_is_bounded() -> None:
    """Goal: a library that recurses over a rule has stack enough. Method: one byte more than the limit, each kind."""
    rule, tools = "x" * (RULE_BYTES_MAX + 1), '{"$comment":"' + "x" * TOOLS_BYTES_MAX + '"}'
    schema = '{"$comment":"' + "x" * RULE_BYTES_MAX + '"}'
    for output in (
        {"grammar": rule},
        {"regex": rule},
        {"json_schema": schema},
        {"choices": ["é" * 20_000, "é" * 20_000]},
    ):
        with pytest.raises(BadPayload, match=f"must have at most {RULE_BYTES_MAX} bytes"):
            generate_call({"prompt": "a", "output": output})
    with pytest.raises(BadPayload, match=f'"generate.tools.parameters" must have at most {TOOLS_BYTES_MAX} bytes'):
        generate_call({"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "t", "parameters": tools}]})
    assert generate_call({"prompt": "a", "output": {"grammar": rule[1:]}}).output is not None
