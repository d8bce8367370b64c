"""Checks of the fields in a text call or a text result. PURE.

Each function returns the checked value, or raises `BadPayload` that names the field, what was expected and what came.
The values come out of MessagePack, or from a caller of a client, so tuples are as good as lists. A failure's text
enters the digest: it depends on the value only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from rota.common.errors import BadPayload
from rota.common.limits import NAME_CHARS_MAX, PAYLOAD_BYTES_MAX, VALUE_DEPTH_MAX
from rota.common.shown import shown
from rota.common.targets import is_name

TOKEN_ID_MAX: Final = (1 << 31) - 1
_JSON_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def refuse(name: str, expected: str, value: Any) -> NoReturn:
    """Raise the `BadPayload` of a field."""
    raise BadPayload(f'"{name}" must be {expected}, got {shown(value)}')


def check_fields(name: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """Return a map whose names are all in `known`."""
    if not isinstance(value, Mapping):
        refuse(name, "a map", value)
    for field in value:
        if field not in known:
            raise BadPayload(f'"{name}" has an unknown field {shown(field)}; known: {", ".join(known)}')
    return dict(value)


def check_list(name: str, value: Any, lowest: int, highest: int, of: str) -> list[Any]:
    """Return a list of `lowest` to `highest` items; `of` says of what, for the message."""
    if not isinstance(value, list | tuple) or not lowest <= len(value) <= highest:
        refuse(name, f"a list of {lowest} to {highest} {of}", value)
    return list(value)


def check_text(name: str, value: Any, lowest: int = 0, highest: int = PAYLOAD_BYTES_MAX) -> str:
    """Return text of `lowest` to `highest` characters that UTF-8 can encode."""
    size = f"text of {lowest} to {highest} characters" if lowest or highest < PAYLOAD_BYTES_MAX else "text"
    if not isinstance(value, str) or not lowest <= len(value) <= highest:
        refuse(name, size, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(name, f"{size} without lone surrogates", value)
    return value


def check_word(name: str, value: Any) -> str:
    """Return a name of letters, digits, _ . and -."""
    if not isinstance(value, str) or not is_name(value):
        refuse(name, f"a name of 1 to {NAME_CHARS_MAX} letters, digits, _ . and -", value)
    return value


def check_whole(name: str, value: Any, lowest: int, highest: int) -> int:
    """Return a whole number in this range. A bool is none."""
    if type(value) is not int or not lowest <= value <= highest:
        refuse(name, f"a whole number from {lowest} to {highest}", value)
    return value


def check_number(name: str, value: Any, lowest: float, highest: float, *, above: bool = False) -> float:
    """Return a finite number from `lowest`, or above it, to `highest`, as a float."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest
    if not fits or (above and value == lowest):
        least = f"above {lowest:g} and up" if above else f"from {lowest:g}"
        refuse(name, f"a number {least} to {highest:g}", value)
    return float(value)


def check_finite(name: str, value: Any) -> float:
    """Return any finite number as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 1e300 or not math.isfinite(value):
        refuse(name, "a finite number", value)
    return float(value)


def check_flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        refuse(name, "true or false", value)
    return value


def check_token(name: str, value: Any) -> int:
    """Return the id of a token."""
    return check_whole(name, value, 0, TOKEN_ID_MAX)


def check_plain(name: str, value: Any, depth: int = 0) -> Any:
    """Return a value of nil, booleans, finite numbers, text, lists and maps with text as keys, as JSON has them."""
    if depth > VALUE_DEPTH_MAX:
        raise BadPayload(f'"{name}" is nested more than {VALUE_DEPTH_MAX} levels deep')
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return check_text(name, value)
    if type(value) is int:
        return check_whole(name, value, -(1 << 63), (1 << 64) - 1)
    if isinstance(value, float):
        return check_finite(name, value)
    if isinstance(value, list | tuple):
        return [check_plain(name, item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {check_text(name, key): check_plain(name, item, depth + 1) for key, item in value.items()}
    refuse(name, "a plain value: nil, boolean, number, text, list or map", value)


def check_json_object(name: str, value: Any) -> str:
    """Return the text of a JSON object, given as text, which is returned as it is, or as a map."""
    if isinstance(value, Mapping):
        return json.dumps(check_plain(name, value), ensure_ascii=False, separators=(",", ":"))
    if not isinstance(value, str):
        refuse(name, "a JSON object, as text or as a map", value)
    text = check_text(name, value)
    # Before the parser sees it: at which depth that gives up depends on the depth of the caller's stack.
    if _depth(text) > VALUE_DEPTH_MAX:
        raise BadPayload(f'"{name}" is nested more than {VALUE_DEPTH_MAX} levels deep')
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except ValueError:
        refuse(name, "a JSON object, as text or as a map", value)
    if not isinstance(found, dict):
        refuse(name, "a JSON object, as text or as a map", value)
    return text


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in _JSON_STRING.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON
