"""Requests from start to end: what ends them, what they report, and what is refused before a slot is taken."""

from __future__ import annotations

import json
import re

import pytest
from decoder_kit import CONTEXT, TinyDecoder, outcome_of, outcomes_of

from rota.common.errors import BadPayload
from rota.common.text_calls import generate_call
from rota.common.text_results import decode_text_result, encode_text_result
from rota.common.work import Failed
from rota.generation.vocabulary import Vocabulary
from rota.model_builds.byte_tokenizer import STOP_TOKEN, TEMPLATE, VOCABULARY

USER = [{"role": "user", "content": "Hi"}]
TOOL = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Bern", "Basel"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TAGGED = "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"


def test_max_tokens_and_the_context_end_a_text(plain: TinyDecoder) -> None:
    """Goal: "length". Method: the request's limit, the model's, and a prompt that leaves three tokens."""
    generator = plain.generator(max_tokens=9)
    tokens = [5] * (CONTEXT - 3)
    for fields, count in (
        ({"prompt": "Hi", "max_tokens": 4}, 4),
        ({"prompt": "Hi"}, 9),
        ({"tokens": tokens, "max_tokens": 50}, 3),
        ({"tokens": tokens[1:], "max_tokens": 1 << 20}, 4),
    ):
        result = outcome_of(generator, generate_call(fields))
        assert (result.finish, result.stop, len(result.tokens)) == ("length", None, count)
        assert result.usage.generated == count


def test_stop_tokens_end_a_text_and_are_not_in_it(plain: TinyDecoder) -> None:
    """Goal: "stop" with the token. Method: the token that comes third anyway, as a stop token of the request."""
    generator = plain.generator()
    free = outcome_of(generator, generate_call({"prompt": "hello the world", "max_tokens": 12}))
    third = free.tokens[2]
    assert third not in free.tokens[:2]
    result = outcome_of(generator, generate_call({"prompt": "hello the world", "stop_tokens": [third]}))
    assert (result.tokens, result.finish, result.stop) == (free.tokens[:3], "stop", third)
    vocabulary = Vocabulary(plain.folder / "tokenizer.json")
    assert result.text == b"".join(vocabulary.bytes_of(token) for token in free.tokens[:2]).decode(errors="replace")


def test_stop_texts_end_a_text_before_them(plain: TinyDecoder) -> None:
    """Goal: "stop" with the text, over token borders. Method: three characters of what comes anyway."""
    generator = plain.generator()
    fields = {"prompt": "hello the world", "max_tokens": 20}
    free = outcome_of(generator, generate_call(fields))
    stop = free.text[4:7]
    result = outcome_of(generator, generate_call({**fields, "stop": ["never in it", stop]}))
    assert (result.text, result.finish, result.stop) == (free.text[: free.text.index(stop)], "stop", stop)
    assert result.tokens == free.tokens[: len(result.tokens)]
    assert len(result.tokens) < len(free.tokens)


def test_log_probabilities_on_request(plain: TinyDecoder) -> None:
    """Goal: one for each token, with the likeliest ones. Method: a greedy text, whose tokens are the first of each."""
    result = outcome_of(plain.generator(), generate_call({"prompt": "Hi", "logprobs": 2, "max_tokens": 5}))
    assert len(result.logprobs) == len(result.tokens)
    for token, logprob in zip(result.tokens, result.logprobs, strict=True):
        assert logprob.top[0] == (token, logprob.chosen)
        assert len(logprob.top) == 2
    assert decode_text_result(encode_text_result(result)) == result
    assert outcome_of(plain.generator(), generate_call({"prompt": "Hi", "max_tokens": 5})).logprobs is None


def test_a_seed_is_the_text(plain: TinyDecoder) -> None:
    """Goal: `seed` is true. Method: equal and different seeds."""
    generator = plain.generator()
    fields = {"prompt": "Hi", "temperature": 2.0, "max_tokens": 12}
    texts = [outcome_of(generator, generate_call({**fields, "seed": seed})).tokens for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize("seed", range(5))
def test_constrained_output_is_what_it_must_be(plain: TinyDecoder, seed: int) -> None:
    """Goal: a random model says what the rule says. Method: choices and a schema at a high temperature."""
    generator = plain.generator(max_tokens=100)
    fields = {"prompt": "Hi", "temperature": 3.0, "seed": seed}
    result = outcome_of(generator, generate_call({**fields, "output": {"choices": ["yes", "no"]}}))
    assert result.text in ("yes", "no")
    assert (result.finish, result.stop) == ("stop", None)
    schema = {"type": "object", "properties": {"size": {"enum": [1, 20]}}, "required": ["size"]}
    output = {"json_schema": {**schema, "additionalProperties": False}}
    assert json.loads(outcome_of(generator, generate_call({**fields, "output": output})).text)["size"] in (1, 20)


@pytest.mark.parametrize("template", [TEMPLATE, TAGGED], ids=["plain template", "template with tools"])
@pytest.mark.parametrize("choice", ["required", "weather"])
def test_a_tool_must_be_called(roomy: TinyDecoder, template: str, choice: str) -> None:
    """Goal: a call of the tool that fits its schema, and no text. Method: both formats, a random model."""
    generator = roomy.generator((2,), 0, template, 100)
    call = {"messages": USER, "tools": [TOOL], "tool_choice": choice, "temperature": 2.0}
    result = outcome_of(generator, generate_call(call))
    assert (result.finish, result.text) == ("tool_calls", "")
    (made,) = result.tool_calls
    assert (made.id, made.name) == ("call_0", "weather")
    assert json.loads(made.arguments)["city"] in ("Bern", "Basel")
    assert decode_text_result(encode_text_result(result)) == result


def test_tools_that_need_not_be_called_change_no_text(plain: TinyDecoder) -> None:
    """Goal: without a call, all of the text comes. Method: a random model, which makes none."""
    generator = plain.generator((4,), 0, TAGGED, 30)
    tool = {"name": "f"}
    result = outcome_of(generator, generate_call({"messages": USER, "tools": [tool]}))
    assert (result.finish, result.tool_calls) == ("length", None)
    assert result.text


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tokens": [5] * CONTEXT}, f"has {CONTEXT} tokens; the model's context holds {CONTEXT} with the answer"),
        ({"prompt": "the" * 10_000}, f"has 30000 characters; the model's context holds {CONTEXT} tokens"),
        ({"tokens": [VOCABULARY]}, f'"prompt" has the token {VOCABULARY}; the model has tokens 0 to {VOCABULARY - 1}'),
        ({"prompt": "Hi", "stop_tokens": [VOCABULARY]}, "generate.stop_tokens"),
        ({"prompt": "Hi", "output": {"regex": "(["}}, '"generate.output.regex" is refused'),
        ({"prompt": "Hi", "output": {"json_schema": {"type": "foo"}}}, "Invalid type: foo"),
        ({"messages": USER, "template": {"thinking": True}}, "takes no variable 'thinking'"),
    ],
)
def test_what_cannot_be_done_takes_no_slot(plain: TinyDecoder, fields, reason: str) -> None:
    """Goal: a typed error that names the thing, and the slot is free. Method: one of each kind, then a good one."""
    generator = plain.generator((2,))
    call = generate_call(fields)
    with pytest.raises(BadPayload, match=re.escape(reason)):
        generator.start(0, call, call.messages or (), 0)
    assert generator.is_idle
    assert outcome_of(generator, generate_call({"prompt": "Hi", "max_tokens": 2})).usage == (2, 2)


def test_more_log_probabilities_than_the_model_gives(plain: TinyDecoder) -> None:
    """Goal: model.toml's limit. Method: one more."""
    generator = plain.generator()
    generator._setup = generator._setup._replace(logprobs_max=3)
    with pytest.raises(BadPayload, match=r'"generate.logprobs" is 4; this model gives 3'):
        generator.start(0, generate_call({"prompt": "Hi", "logprobs": 4}), (), 0)


def test_messages_need_a_template(plain: TinyDecoder) -> None:
    """Goal: said before anything runs. Method: a model without one."""
    generator = plain.generator((2,), 0, None)
    call = generate_call({"messages": USER, "tools": [TOOL]})
    with pytest.raises(BadPayload, match="has no chat template"):
        generator.start(0, call, call.messages, 0)


def test_logits_that_are_no_numbers_end_a_request_alone(plain: TinyDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a broken answer of the model is a failure of that task. Method: NaN in one row of a decode."""
    generator = plain.generator((2,))
    decode = generator._decoder.decode

    def broken(*arguments):
        logits = decode(*arguments).copy()
        logits[0, 7] = float("nan")
        return logits

    monkeypatch.setattr(generator._decoder, "decode", broken)
    calls = [generate_call({"prompt": "Hi", "max_tokens": 3}), generate_call({"prompt": "Ho", "max_tokens": 3})]
    first, second = outcomes_of(generator, calls)
    assert isinstance(first, Failed)
    assert first.kind == "bad_output"
    assert second == outcome_of(plain.generator((2,)), calls[1])


def test_tokens_without_a_name_are_never_chosen(plain: TinyDecoder) -> None:
    """Goal: logits that pad a vocabulary mean nothing. Method: a vocabulary that lacks the tokens chosen before."""
    call = generate_call({"prompt": "hello the world", "max_tokens": 12})
    free = outcome_of(plain.generator(), call)
    generator = plain.generator()
    generator._nameless = None
    vocabulary = generator._setup.vocabulary
    vocabulary.ids = [token for token in vocabulary.ids if token not in free.tokens]
    generator = type(generator)(generator._decoder, generator._setup, generator._cache)
    assert not {*outcome_of(generator, call).tokens} & {*free.tokens}


@pytest.mark.parametrize(("length", "between"), [(100, 2), (60, 2), (40, 3)])
def test_prompts_do_not_hold_up_the_others(plain: TinyDecoder, length: int, between: int) -> None:
    """Goal: few tokens of prompts are read between two tokens of a text. Method: prompts beside a text in progress; the
    steps until each decode.
    """
    generator = plain.generator((4,))
    generator.start(0, generate_call({"prompt": "Hi", "max_tokens": 30, "stop_tokens": []}), (), 0)
    generator.step()
    generator.step()
    assert (generator.counters["prefills"], generator.counters["decodes"]) == (1, 1)
    for number in (1, 2, 3):
        generator.start(number, generate_call({"tokens": [5] * length, "max_tokens": 9}), (), 0)
    for _ in range(between):
        generator.step()
        assert generator.counters["decodes"] == 1
    generator.step()
    assert (generator.counters["prefills"], generator.counters["decodes"]) == (1 + between, 2)


def test_counters(plain: TinyDecoder) -> None:
    """Goal: what an operator sees. Method: a prompt twice."""
    generator = plain.generator((2,), 1 << 20)
    call = generate_call({"tokens": [*range(3, 103)], "max_tokens": 4, "stop_tokens": [STOP_TOKEN]})
    for _ in range(2):
        outcome_of(generator, call)
    assert generator.counters["prefilled"] == 100 + 36
    assert generator.counters["cached"] == 64
    assert generator.counters["generated"] == 8
    assert generator.held_bytes > 1 << 20
