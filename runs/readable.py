"""Bytes made readable: as text, JSON, MessagePack or hex, each cut to a length. PURE.

The encoding of a payload is known only to its receiver, so this guesses, in a fixed order, and always names the form
that it guessed. Programs get the bytes themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgpack

DECODED_BYTES_MAX: Final = 64 << 10  # longer ones are not decoded; their first bytes are shown
TENSOR_EXTENSION: Final = 1  # as in tensors/values.py, which is not PURE and loads numpy
_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"
_SPACES: Final = "\t\r\n"


class Readable(NamedTuple):
    """Bytes in readable form. `form`: empty, text, json, msgpack or bytes."""

    form: str
    text: str
    size: int

    def __str__(self) -> str:
        return self.form if self.form == "empty" else f"{self.text} ({self.form}, {size_text(self.size)})"


def readable(data: bytes, chars_max: int) -> Readable:
    """Return the bytes in readable form, in one line of at most `chars_max` characters."""
    form, text = _decoded(data, chars_max)
    return Readable(form, cut(text, chars_max), len(data))


def message_pack_value(data: bytes) -> Any:
    """Return the value of bytes that `readable` takes for MessagePack, in JSON's types; None if it does not."""
    if not data or len(data) > DECODED_BYTES_MAX or _text(data, DECODED_BYTES_MAX) is not None:
        return None
    value = _unpacked(data)
    return None if value is _NOTHING else _plain(value)


def cut(text: str, chars_max: int) -> str:
    """Return the text in one line of at most `chars_max` characters, without terminal control characters."""
    shown = "".join([char if char.isprintable() else _escaped(char) for char in text[: chars_max + 1]])
    return shown if len(shown) <= chars_max else shown[: chars_max - 1] + _ELLIPSIS


def size_text(size: int) -> str:
    """Return a number of bytes for people."""
    if size < 10_000:
        return f"{size} byte" if size == 1 else f"{size} bytes"
    return f"{size / 1024:.1f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"


def _decoded(data: bytes, chars_max: int) -> tuple[str, str]:
    if not data:
        return "empty", ""
    text = _text(data, chars_max)
    if text is not None:
        return ("json" if _is_json(data) else "text"), text
    if len(data) <= DECODED_BYTES_MAX:
        value = _unpacked(data)
        if value is not _NOTHING:
            return "msgpack", json.dumps(_plain(value), ensure_ascii=False, separators=(", ", ": "))
    return "bytes", data[:chars_max].hex()


def _text(data: bytes, chars_max: int) -> str | None:
    """Return the beginning of the bytes as text; None if it is not UTF-8 or has control characters."""
    head = data[: 4 * chars_max + 4]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) == len(data) or error.start < len(head) - 3:  # more than a character cut in half
            return None
        text = head[: error.start].decode()
    return text if all(char.isprintable() or char in _SPACES for char in text) else None


def _is_json(data: bytes) -> bool:
    if len(data) > DECODED_BYTES_MAX or data.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


_NOTHING: Final = msgpack.ExtType(0, b"")


def _unpacked(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False, timestamp=0)
    except (ValueError, TypeError, RecursionError):
        return _NOTHING


def _plain(value: Any) -> Any:
    """Return a value in JSON's types."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, msgpack.ExtType):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, msgpack.ExtType):
        return _extension(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def _extension(value: msgpack.ExtType) -> str:
    if value.code == TENSOR_EXTENSION:
        parts = _unpacked(value.data)
        if isinstance(parts, list) and len(parts) >= 2:
            return f"<tensor {parts[0]} {parts[1]}>"
    return f"<extension {value.code}, {size_text(len(value.data))}>"


def _escaped(char: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char, "\N{REPLACEMENT CHARACTER}")
