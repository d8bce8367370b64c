"""Constrained output: what is allowed, when it ends, and refusals with the library's reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rota.common.errors import BadPayload
from rota.common.text_calls import OutputRule
from rota.generation.constraint import Constraint, Grammars
from rota.generation.vocabulary import Vocabulary
from rota.model_builds.byte_tokenizer import STOP_TOKEN, VOCABULARY, tokenizer_json


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json()), encoding="utf-8")
    return Vocabulary(path)


@pytest.fixture
def grammars(vocabulary: Vocabulary) -> Grammars:
    return Grammars(vocabulary.path, VOCABULARY, [STOP_TOKEN])


def random_text(constraint: Constraint, vocabulary: Vocabulary, seed: int) -> str:
    """Follow a constraint by random tokens to its end."""
    random = np.random.default_rng(seed)
    data = b""
    for _ in range(300):
        allowed = np.flatnonzero(constraint.allowed())
        token = int(random.choice(allowed))
        if token == STOP_TOKEN:
            assert constraint.may_end
            return data.decode()
        constraint.accept(token)
        data += vocabulary.bytes_of(token)
        if constraint.is_complete:
            return data.decode()
    raise AssertionError(f"no end: {data!r}")


def test_choices(grammars: Grammars, vocabulary: Vocabulary) -> None:
    """Goal: one of the choices, whole, whatever characters it has. Method: random texts until all have come."""
    choices = ("yes", "no", 'a "quote" \\ and\nline', "é😀", "a|b")
    found = {random_text(grammars.constraint(OutputRule("choices", choices)), vocabulary, seed) for seed in range(60)}
    assert found == {*choices}


def test_a_choice_that_begins_another_one(grammars: Grammars, vocabulary: Vocabulary) -> None:
    """Goal: the shorter one can be chosen. Method: it may end there, and may go on."""
    rule = OutputRule("choices", ("yes", "yes please"))
    found = {random_text(grammars.constraint(rule), vocabulary, seed) for seed in range(40)}
    assert found == {"yes", "yes please"}


def test_a_schema(grammars: Grammars, vocabulary: Vocabulary) -> None:
    """Goal: JSON that fits, as json.dumps writes it. Method: random texts."""
    schema = {
        "type": "object",
        "properties": {"size": {"enum": [1, 20]}, "tags": {"type": "array", "items": {"const": "x"}, "maxItems": 3}},
        "required": ["size", "tags"],
        "additionalProperties": False,
    }
    for seed in range(30):
        text = random_text(grammars.constraint(OutputRule("json_schema", json.dumps(schema))), vocabulary, seed)
        value = json.loads(text)
        assert text == json.dumps(value)
        assert value["size"] in (1, 20)
        assert value["tags"] == ["x"] * len(value["tags"])


def test_a_regular_expression_and_a_grammar(grammars: Grammars, vocabulary: Vocabulary) -> None:
    """Goal: both kinds are followed. Method: random texts against the expression."""
    for kind, rule in (("regex", "[0-9]{2}(:[0-9]{2})?"), ("grammar", 'start: D D (":" D D)?\nD: /[0-9]/\n')):
        for seed in range(10):
            text = random_text(grammars.constraint(OutputRule(kind, rule)), vocabulary, seed)
            assert re.fullmatch("[0-9]{2}(:[0-9]{2})?", text), text


@pytest.mark.parametrize(
    ("kind", "rule", "reason"),
    [
        ("json_schema", '{"type":"foo"}', "Invalid type: foo"),
        ("json_schema", '{"type":"array","uniqueItems":true}', "Unimplemented keys"),
        ("json_schema", '{"$ref":"http://x.invalid/"}', "Resource"),
        ("regex", "([", "regex parse error"),
        ("grammar", "start: missing", "unknown name"),
    ],
)
def test_a_refusal_names_the_field_and_the_reason(kind: str, rule: str, reason: str, grammars: Grammars) -> None:
    """Goal: the user sees what to mend. Method: rules that the library does not take."""
    with pytest.raises(BadPayload, match=f'"generate.output.{kind}" is refused: .*(?:{reason})') as caught:
        grammars.constraint(OutputRule(kind, rule))
    assert len(caught.value.message) < 700


def test_a_model_without_stop_tokens_says_what_it_lacks(vocabulary: Vocabulary) -> None:
    """Goal: a clear error, since a constrained text could not end. Method: no stop token, and one that is none."""
    for stop_tokens, reason in (([], "names no generate.stop_tokens"), ([VOCABULARY], "out of range")):
        with pytest.raises(BadPayload, match=reason):
            Grammars(vocabulary.path, VOCABULARY, stop_tokens).constraint(OutputRule("regex", "a"))
