"""MessagePack that JSON has too, made by the host: right where it answers, and silent where JavaScript must do it."""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.runtimes import plain_values

_TEXTS = st.text('abü🎉"\\[]{}:, \n\0\x7f')  # without digits, since sixteen of them look like an integer
_NUMBERS = st.integers(-(10**15) + 1, 10**15 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_SCALARS = st.none() | st.booleans() | _NUMBERS | _TEXTS
VALUES = st.recursive(_SCALARS, lambda item: st.lists(item) | st.dictionaries(_TEXTS, item), max_leaves=20)


@given(VALUES)
def test_values_that_both_have_go_both_ways(value: Any) -> None:
    packed = msgpack.packb(value)
    text = plain_values.unpack(packed)
    assert text is not None
    assert json.loads(text) == value
    assert plain_values.pack(text) == packed


@pytest.mark.parametrize(
    "value",
    [
        b"bytes",
        {"in": b"bytes"},
        {1: 2},
        {b"k": 1},
        2**53,
        -(2**63),
        2**63,
        math.nan,
        math.inf,
        msgpack.ExtType(1, b""),
    ],
)
def test_what_json_lacks_is_left_to_javascript(value: Any) -> None:
    assert plain_values.unpack(msgpack.packb([value])) is None


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x92\x01", b"\x01\x01", b"\xa1\xff", b"\xdd\xff\xff\xff\xff"])
def test_bytes_that_are_no_value_are_left_to_javascript(packed: bytes) -> None:
    assert plain_values.unpack(packed) is None


def test_a_decimal_with_many_digits_is_no_large_integer() -> None:
    assert plain_values.unpack(msgpack.packb(0.30000000000000004)) == b"0.30000000000000004"
    assert plain_values.unpack(msgpack.packb(1234567890123456.5)) == b"1234567890123456.5"


@pytest.mark.parametrize(
    "text",
    [b"", b"[", b'"\\ud800"', b"1e999x", b"9" * 24, b"9" * 30, b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65],
)
def test_texts_that_the_host_cannot_take_are_left_to_javascript(text: bytes) -> None:
    assert plain_values.pack(text) is None


def test_depth_is_counted_before_anything_recurses() -> None:
    deepest = b"[" * 64 + b"]" * 64
    assert plain_values.pack(deepest) is not None
    assert plain_values.pack(b'["' + b"[" * 1000 + b'\\"' + b'"]') is not None  # brackets in a text do not count
    assert plain_values.unpack(b"\x91" * 63 + b"\x90") is not None
    assert plain_values.unpack(b"\x91" * 64 + b"\x90") is None
    assert plain_values.pack(b"[" * 100_000 + b"]" * 100_000) is None


@given(st.binary(max_size=30) | st.lists(st.sampled_from([b'"', b"\\", b"[", b"]", b"1", b","])).map(b"".join))
def test_what_is_outside_of_texts_is_what_a_parser_sees(text: bytes) -> None:
    """Goal: no nesting hides in texts, also in those that are no JSON. Method: count what the parser has opened."""
    plain_values.pack(text)  # raises nothing
    depth = plain_values.depth_of(plain_values.outside_texts(text))
    assert _parsed_depth(text) <= max(0, depth)


def _parsed_depth(text: bytes) -> int:
    """Return how deep a parser of JSON may be in `text`; it stops at what stands nowhere in JSON."""
    deepest = depth = 0
    in_text = escaped = False
    for byte in text:
        sign = chr(byte)
        if escaped:
            escaped = False
        elif in_text:
            escaped, in_text = sign == "\\", sign != '"'
        elif sign == "\\":
            return deepest
        else:
            in_text = sign == '"'
            depth += (sign in "[{") - (sign in "]}")
            if depth < 0:
                return deepest
            deepest = max(deepest, depth)
    return deepest


@pytest.mark.parametrize(
    "text",
    [
        b'\\"' * 500_000,  # a text that never ends, from each quote on
        b"9" * plain_values.BYTES_MAX,
        "[1]".encode("utf-16"),
        b"[" + b"[]," * plain_values.ITEMS_MAX + b"[]]",
        b"1e999999999999999999999999999",
    ],
)
def test_a_hostile_text_is_left_to_javascript_at_once(text: bytes) -> None:
    """Goal: no text takes more than linear time. (A quadratic one would not end here.)"""
    assert plain_values.pack(text) is None


def test_many_items_are_left_to_javascript() -> None:
    many = [[0]] * (plain_values.ITEMS_MAX // 2 - 1)
    assert plain_values.unpack(msgpack.packb(many)) is not None
    assert plain_values.unpack(msgpack.packb(many * 2)) is None
    assert plain_values.unpack(msgpack.packb({str(key): 0 for key in range(plain_values.ITEMS_MAX + 1)})) is None


def test_large_values_are_left_to_javascript() -> None:
    assert plain_values.unpack(msgpack.packb("x" * plain_values.BYTES_MAX)) is None
    assert plain_values.pack(b'"' + b"x" * plain_values.BYTES_MAX + b'"') is None
