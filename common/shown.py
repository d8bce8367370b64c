"""Shows any wrong value in an error message, in short. PURE.

A value from outside may have a million elements, or be as deep as the decoder allows; its `repr` would be as long, or
raise RecursionError. Messages become outcomes and enter digests, so the text is the same on every machine.
"""

from __future__ import annotations

from typing import Any, Final

_CHARS_MAX: Final = 60
_TOLD_CHARS_MAX: Final = 200
_ITEMS_MAX: Final = 40
_INT_BITS_MAX: Final = 128


def shown(value: Any) -> str:
    """Return a value for a message: flat lists and scalars as text, cut short; nested ones by their size."""
    if type(value) in (list, tuple) and (len(value) > _ITEMS_MAX or any(_is_more(item) for item in value)):
        return f"a list of {len(value)}"
    if type(value) is dict:
        return f"a map of {len(value)}"
    if type(value) is int and value.bit_length() > _INT_BITS_MAX:  # Python refuses to print very long ones
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _CHARS_MAX else f"{text[:_CHARS_MAX]}..."


def told(error: BaseException) -> str:
    """Return the class and arguments of an exception. Its `str` might show such a value in full."""
    given = [one[:_TOLD_CHARS_MAX] if isinstance(one, str) else shown(one) for one in error.args]
    return f"{type(error).__name__}: {', '.join(given)}"


def _is_more(value: Any) -> bool:
    return type(value) in (list, tuple, dict) or (type(value) is int and value.bit_length() > _INT_BITS_MAX)
