"""Converts values to JSON's types. PURE.

JSON has no bytes: digests become hex, payloads become text if they are UTF-8, else `{"base64": ...}`. Digests are
recognized by their name, which must have `digest` in it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any


def plain(value: Any, key: str = "") -> Any:
    """Return a value in JSON's types."""
    if isinstance(value, bytes):
        return value.hex() if "digest" in key or key in ("seed", "fingerprint") else _text_or_base64(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item, str(name)) for name, item in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict(), key)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item, key) for item in value]
    return value


def _text_or_base64(data: bytes) -> Any:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}
