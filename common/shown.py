"""How a wrong value is shown in an error: short, and whatever it is. PURE.

What comes from outside may be a million elements long, or as deep as the decoder lets it be; `repr` of that is as long,
or ends in a RecursionError. Messages become outcomes and are digested, so this is the same on every machine.
"""

from __future__ import annotations

from typing import Any, Final

_CHARS_MAX: Final = 60
_TOLD_CHARS_MAX: Final = 200
_ITEMS_MAX: Final = 40
_INT_BITS_MAX: Final = 128


def shown(value: Any) -> str:
    """Return a value for a message: flat lists and scalars as they are, cut; what holds more by its size."""
    if type(value) in (list, tuple) and (len(value) > _ITEMS_MAX or any(_is_more(item) for item in value)):
        return f"a list of {len(value)}"
    if type(value) is dict:
        return f"a map of {len(value)}"
    if type(value) is int and value.bit_length() > _INT_BITS_MAX:  # Python refuses to write very long ones
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _CHARS_MAX else f"{text[:_CHARS_MAX]}..."


def told(error: BaseException) -> str:
    """Return what an error of another sort says: its class and what it was given. `str` would have the same trouble."""
    given = [one[:_TOLD_CHARS_MAX] if isinstance(one, str) else shown(one) for one in error.args]
    return f"{type(error).__name__}: {', '.join(given)}"


def _is_more(value: Any) -> bool:
    return type(value) in (list, tuple, dict) or (type(value) is int and value.bit_length() > _INT_BITS_MAX)
