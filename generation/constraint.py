"""Constrained output: which tokens may come next, by a JSON schema, a regular expression, a grammar or choices.

The library is llguidance. Its limits count work and not time, so a refusal depends on the request only.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import llguidance
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from rota.common.errors import BadPayload
from rota.common.text_calls import OutputRule

# As json.dumps writes it. With free whitespace, a weak model can go on with spaces for ever.
_JSON_OPTIONS: Final[Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_REASON_CHARS_MAX: Final = 500


class Grammars:
    """Makes the constraints of one tokenizer, which the library reads before the first one, or at `prepare`."""

    def __init__(self, path: Path, vocabulary: int, stop_tokens: Sequence[int]) -> None:
        """`vocabulary` is the number of logits."""
        self._path = path
        self._vocabulary = vocabulary
        self._stop_tokens = list(stop_tokens)
        self._tokenizer: Any = None

    def prepare(self) -> None:
        """Let the library read the tokenizer now. What it refuses is said when a constraint is wanted."""
        with contextlib.suppress(BadPayload):
            self._tokenizer = self._load()

    def constraint(self, rule: OutputRule) -> Constraint:
        """Return the constraint of a request.

        Raises `BadPayload` with the library's reason if it refuses the rule, or if the model cannot constrain anything.
        """
        return self._made(_grammar_of(rule), f"generate.output.{rule.kind}")

    def tool_call(self, opening: str, closing: str, schema: dict[str, Any]) -> Constraint:
        """Return the constraint to one JSON value of `schema` between two texts."""
        start = " ".join([*_quoted(opening), "call", *_quoted(closing)])
        grammar = f"start: {start}\ncall: %json {json.dumps({**schema, 'x-guidance': _JSON_OPTIONS})}\n"
        return self._made(LLMatcher.grammar_from_lark(grammar), "generate.tools")

    def _made(self, grammar: str, field: str) -> Constraint:
        if self._tokenizer is None:
            self._tokenizer = self._load()
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise BadPayload(f'"{field}" is refused: {_reason(matcher)}')
        return Constraint(matcher, self._vocabulary)

    def _load(self) -> Any:
        if not self._stop_tokens:
            raise BadPayload("this model cannot constrain its output: its model.toml names no generate.stop_tokens")
        try:
            return LLTokenizer(str(self._path), n_vocab=self._vocabulary, eos_token=self._stop_tokens)
        except Exception as error:  # the library's own kinds derive from nothing else
            raise BadPayload(f"this model cannot constrain its output: {str(error)[:300]}") from None


class Constraint:
    """What one request may still say."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._words: NDArray[np.uint32] = np.zeros((vocabulary + 31) // 32, np.uint32)

    def allowed(self) -> NDArray[np.bool_]:
        """Return which tokens may come next, a bool for each logit. Raises `BadPayload` if that is too much work."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._check()
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little", count=self._vocabulary)
        return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        """Take a token that was allowed, no stop token. Raises `BadPayload` if that is too much work."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def may_end(self) -> bool:
        """Whether the text so far is whole, so that a stop token may follow."""
        return bool(self._matcher.is_accepting())

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow the text so far."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise BadPayload(f"the constraint of the output cannot be followed: {_reason(self._matcher)}")


def _grammar_of(rule: OutputRule) -> str:
    if isinstance(rule.rule, tuple):
        choices = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in rule.rule)
        return str(LLMatcher.grammar_from_lark(f"start: {choices}\n"))
    if rule.kind == "json_schema":
        return str(LLMatcher.grammar_from_json_schema(rule.rule, overrides=_JSON_OPTIONS))
    if rule.kind == "regex":
        return str(LLMatcher.grammar_from_regex(rule.rule))
    return str(LLMatcher.grammar_from_lark(rule.rule))


def _quoted(text: str) -> list[str]:
    return [json.dumps(text, ensure_ascii=False)] if text else []


def _reason(matcher: Any) -> str:
    """Return the first lines of the library's reason; what follows shows its inside."""
    text = str(matcher.get_error()).partition("\n\n")[0]
    return " ".join(text.split())[:_REASON_CHARS_MAX]


def facts() -> dict[str, str]:
    """Return the version of the library, for the fingerprint."""
    return {"llguidance": llguidance.get_version()}
