"""Values as JSON has them. PURE.

JSON has no bytes: digests are hex, payloads are text where they are UTF-8 and `{"base64": ...}` where they are not. The
name that a value has tells whether it is a digest, so names of digests have `digest` in them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any


def plain(value: Any, key: str = "") -> Any:
    """Return a value with nothing in it that JSON has not got."""
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
