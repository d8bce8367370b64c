"""MessagePack values that JSON has too, made into JSON and back: much faster than JavaScript in an interpreter. PURE.

Both directions return None for what they leave to messagepack.js, which does everything, says what is wrong, and gives
the same for what is done here. What comes in may be anything. So each step is linear, without regular expressions, and
whether the host does it depends on the bytes alone: depth, items and digits are counted before anything recurses, makes
objects or reads a number, since this process has bounds of its own for those. The caller charges for the bytes.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any, Final

import msgpack

from rota.common.msgpack_check import is_whole

BYTES_MAX: Final = 1 << 20
ITEMS_MAX: Final = 1 << 16  # in arrays and objects; an item takes up to some 100 bytes here
DEPTH_MAX: Final = 64
DIGITS_MAX: Final = 24  # behind each other; a number of JavaScript has fewer

_STEPS: Final = [1 if byte in b"[{" else -1 for byte in range(256)]
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[{]}")
_DIGITS: Final = bytes(ord("0") if byte in b"0123456789" else byte if byte in b"." else ord(" ") for byte in range(256))
_TOO_MANY_DIGITS: Final = b"0" * (DIGITS_MAX + 1)
# At least 2**53, so perhaps a BigInt in JavaScript. Of a float, no more than 16 digits stand before the point.
_LARGE_INTEGERS: Final = (b" " + b"0" * 16 + b" ", b" " + b"0" * 17)


def pack(text: bytes) -> bytes | None:
    """Return the MessagePack of a JSON text; None for lone surrogates, and for what is no JSON."""
    if len(text) > BYTES_MAX or b"\\ud" in text or _TOO_MANY_DIGITS in text.translate(_DIGITS):
        return None
    outside = outside_texts(text)
    if _items(outside) > ITEMS_MAX or depth_of(outside) > DEPTH_MAX:
        return None
    try:
        packed: bytes = msgpack.packb(json.loads(text.decode()))
    except (ValueError, TypeError, OverflowError):
        return None
    return packed


def unpack(packed: bytes) -> bytes | None:
    """Return the JSON of a MessagePack value; None for bins, NaN, large integers and keys that are no texts."""
    if len(packed) > BYTES_MAX or not is_whole(packed):
        return None
    containers = _Count()
    try:
        value = msgpack.unpackb(packed, ext_hook=_refuse, list_hook=containers.add, object_hook=containers.add)
        if is_deeper(value, DEPTH_MAX):
            return None
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    digits = b" %b " % text.translate(_DIGITS)
    return None if any(large in digits for large in _LARGE_INTEGERS) else text


class _Count:
    """Counts the items of arrays and maps."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = ITEMS_MAX

    def add(self, container: Any) -> Any:
        self._left -= len(container)
        if self._left < 0:
            raise ValueError("too many items")
        return container


def outside_texts(text: bytes) -> bytes:
    """Return a JSON text without what is in its texts.

    In JSON a backslash stands in texts only, so pairs of them, then escaped quotes, can be taken out first. Of what is
    no JSON, this is right up to the place where a parser stops.
    """
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(text.split(b'"')[::2])


def _items(outside: bytes) -> int:
    """Return at least the number of items."""
    return outside.count(b",") + outside.count(b"[") + outside.count(b"{")


def depth_of(outside: bytes) -> int:
    """Return how deep arrays and objects are nested."""
    return max(accumulate(map(_STEPS.__getitem__, outside.translate(None, _NO_BRACKETS))), default=0)


def is_deeper(value: Any, depth: int) -> bool:
    """Return whether lists and dictionaries are nested deeper than that."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(is_deeper(item, depth - 1) for item in items if isinstance(item, (dict, list)))


def _refuse(code: int, data: bytes) -> Any:
    raise ValueError("an extension")
