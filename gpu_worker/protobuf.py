"""Reads the fields of protobuf messages in place, as far as ONNX files need it. PURE.

A message is a span of the file: nothing is copied but the names. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

Span = tuple[int, int]
"""Where a message is: its first byte and the one behind its last."""


def parts(data: memoryview, span: Span, wanted: int) -> list[Span]:
    """Return where the messages in a field of a message are."""
    return [(start, end) for number, start, end in fields(data, *span) if number == wanted and end >= 0]


def text_of(data: memoryview, begin: int, stop: int, wanted: int) -> str:
    """Return a text field of a message: the last of its number, as in protobuf."""
    text = ""
    for number, start, end in fields(data, begin, stop):
        if number == wanted and end >= 0:
            text = decoded(data, start, end)
    return text


def decoded(data: memoryview, start: int, end: int) -> str:
    try:
        return bytes(data[start:end]).decode()
    except UnicodeDecodeError:
        raise ValueError("a name in it is not UTF-8") from None


def fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the fields of a message: number, start and end of its bytes; for an integer its value and -1."""
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at, end)
            yield key >> 3, value, -1
        elif kind == 2:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise ValueError("a field is longer than what holds it")
            yield key >> 3, at, at + size
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"there is no kind {kind} of field")
    if at > end:
        raise ValueError("it is cut off")


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError("it is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("an integer is longer than ten bytes")
