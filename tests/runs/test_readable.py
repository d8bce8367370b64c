"""Readable bytes: the form is guessed in a fixed order and named; the length is bounded, control characters removed."""

from __future__ import annotations

import msgpack
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from rota.runs import readable as module
from rota.runs.readable import cut, readable, size_text
from rota.tensors.values import TENSOR_EXTENSION, pack_value


@pytest.mark.parametrize(
    ("data", "form", "text"),
    [
        (b"", "empty", ""),
        (b"hello", "text", "hello"),
        (b'{"a": [1]}', "json", '{"a": [1]}'),
        (b"{not json", "text", "{not json"),
        (b"two\nlines", "text", "two\\nlines"),
        ("gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n".encode(), "text", "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n"),
        (b"\x81\xa1a\x01", "msgpack", '{"a": 1}'),
        (b"\x92\xc4\x02\xff\x00\xc0", "msgpack", '["0xff00", null]'),
        (b"\x05\x00\x00\x00\x00\x00\x00\x00", "bytes", "0500000000000000"),
        (b"\xff\xfe\xfd", "bytes", "fffefd"),
        (b"\x1b[31mred", "bytes", "1b5b33316d726564"),
        (b"\x81\x90\x01", "bytes", "819001"),
    ],
)
def test_forms(data: bytes, form: str, text: str) -> None:
    """Goal: a person sees what it is. Method: one example of each form, and what almost is of one."""
    shown = readable(data, 100)
    assert (shown.form, shown.text, shown.size) == (form, text, len(data))


def test_arrays_are_named_not_printed() -> None:
    """Goal: a payload of a client is readable. Method: a packed value with an inline array."""
    payload, _ = pack_value({"x": numpy.zeros((2, 3), numpy.float32)}, None)
    assert readable(payload, 100).text == '{"x": "<tensor float32 [2, 3]>"}'
    assert module.TENSOR_EXTENSION == TENSOR_EXTENSION


@given(some.binary(max_size=300) | some.text(max_size=300).map(str.encode), some.integers(1, 80))
def test_nothing_is_longer_or_obeyed(data: bytes, chars_max: int) -> None:
    """Goal: no payload can spoil a terminal. Method: any bytes, any width."""
    shown = readable(data, chars_max)
    assert len(shown.text) <= chars_max
    assert all(char.isprintable() for char in shown.text)
    assert str(shown)


@settings(max_examples=50)
@given(
    some.recursive(
        some.none() | some.booleans() | some.integers(-9, 9) | some.floats() | some.text() | some.binary(),
        lambda inner: some.lists(inner) | some.dictionaries(some.text() | some.integers(-9, 9), inner),
        max_leaves=8,
    )
)
def test_every_value_is_shown(value: object) -> None:
    """Goal: whatever MessagePack holds can be shown. Method: any value, packed."""
    assert readable(msgpack.packb(value), 1_000).form in ("text", "json", "msgpack", "bytes")


def test_long_ones_are_cut() -> None:
    """Goal: a megabyte costs nothing. Method: long text, long text cut inside a character, long bytes."""
    assert readable(b"a" * (1 << 20), 10) == ("text", "aaaaaaaaa\N{HORIZONTAL ELLIPSIS}", 1 << 20)
    assert readable(b"a" + "\N{EURO SIGN}".encode() * 1_000, 10).form == "text"
    assert readable(b"\xff" * (1 << 20), 10).form == "bytes"
    assert cut("a\tb", 10) == "a\\tb"
    assert [size_text(size) for size in (1, 2, 10_240, 3 << 20)] == ["1 byte", "2 bytes", "10.0 KiB", "3.0 MiB"]
