"""MessagePack values that JSON has too, made into JSON and back: much faster than JavaScript in an interpreter. PURE.

Both directions return None for what they leave to messagepack.js, which does everything, says what is wrong, and gives
the same for what is done here. Whether they do may not depend on this process, as the interpreter's own bound of
recursion would. So the depth is counted before anything recurses, and sizes are bounded.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, Final

import msgpack

BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 64

_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_STEPS: Final = [1 if byte in b"[{" else -1 for byte in range(256)]
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[{]}")
# At least 2**53, so perhaps a BigInt in JavaScript; or the same digits in a text.
_LARGE_INTEGER: Final = re.compile(r"(?<![\d.])\d{16,}(?![\d.])")


def pack(text: bytes) -> bytes | None:
    """Return the MessagePack of a JSON text; None for lone surrogates."""
    if len(text) > 2 * BYTES_MAX or b"\\ud" in text:
        return None
    try:
        packed: bytes = msgpack.packb(parse(text))
    except (ValueError, TypeError, OverflowError):
        return None
    return packed


def unpack(packed: bytes) -> bytes | None:
    """Return the JSON of a MessagePack value; None for bins, NaN, large integers and keys that are no texts."""
    if len(packed) > BYTES_MAX:
        return None
    try:
        value = msgpack.unpackb(packed, ext_hook=_refuse)
        if _is_deeper(value, DEPTH_MAX):
            return None
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return None if _LARGE_INTEGER.search(text) else text.encode()


def parse(text: bytes) -> Any:
    """Return the value of a JSON text. Raises `ValueError` if it is none, or nested too deep."""
    if _depth(text) > DEPTH_MAX:
        raise ValueError("nested too deep")
    return json.loads(text)


def _depth(text: bytes) -> int:
    """Return how deep arrays and objects are nested in a JSON text."""
    brackets = _STRINGS.sub(b"", text).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _is_deeper(value: Any, depth: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(_is_deeper(item, depth - 1) for item in items if isinstance(item, (dict, list)))


def _refuse(code: int, data: bytes) -> Any:
    raise ValueError("an extension")
