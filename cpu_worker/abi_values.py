"""MessagePack that a guest made, as values: bounded, whole, and shown in messages by size. PURE."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from rota.common.limits import MESSAGE_CHARS_MAX
from rota.common.msgpack_check import is_whole

UNCHECKED_BYTES_MAX: Final = 256  # of an output that may be no whole value
CONTAINERS_MAX: Final = 1 << 16  # arrays, maps, extensions in one output; an emit has two, and at most 4096 are there
UNPACK_ERRORS: Final = (ValueError, TypeError, msgpack.UnpackException)


class _Map(NamedTuple):
    """Stands for a map, which no valid output has. Its items are dropped: keys that a guest chooses could collide."""

    size: int


class _Extension:
    """Stands for a value of an extension."""


_EXTENSION: Final = _Extension()


class BadOutput(Exception):
    """The output breaks a rule; the message names field and bound."""


class TooMany(Exception):
    """The output has more arrays and maps than any valid one; unpacking it all would take seconds."""


def unpacked(data: bytes) -> Any:
    """Return the value that `data` is. Raises one of UNPACK_ERRORS, `TooMany`, or `UnicodeDecodeError`."""
    if len(data) > UNCHECKED_BYTES_MAX and not is_whole(data):
        raise ValueError
    # An array takes at least a byte, so short outputs, which are most, need no count.
    hooks = _HOOKS if len(data) <= CONTAINERS_MAX else counting_hooks()
    return msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=1, **hooks)


def _map_of(pairs: list[Any]) -> _Map:
    return _Map(len(pairs))


def _extension_of(code: int, data: bytes) -> _Extension:
    return _EXTENSION


_HOOKS: Final[dict[str, Any]] = {"object_pairs_hook": _map_of, "ext_hook": _extension_of}


def counting_hooks() -> dict[str, Any]:
    """Return hooks for unpacking, which raise `TooMany` past CONTAINERS_MAX."""
    left = CONTAINERS_MAX

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooMany

    def array(items: list[Any]) -> list[Any]:
        count()
        return items

    def pairs(items: list[Any]) -> _Map:
        count()
        return _Map(len(items))

    def extension(code: int, data: bytes) -> _Extension:
        count()
        return _EXTENSION

    return {"list_hook": array, "object_pairs_hook": pairs, "ext_hook": extension}


def error_message(code: Any, message: Any) -> str:
    """Return the message of the failure that a guest gives code and text of. Raises `BadOutput`."""
    if type(code) is not str or not code:
        raise BadOutput(f"code: {show(code)}, not a str that is not empty")
    if type(message) is not str:
        raise BadOutput(f"message: {show(message)}, not a str")
    return f"{code}: {message}"[:MESSAGE_CHARS_MAX]


def show(value: Any) -> str:
    """Return a short text for a value, with sizes in place of long contents."""
    if type(value) is bytes:
        return f"bin of {len(value)} bytes"
    if type(value) is list:
        return f"array of {len(value)}"
    if type(value) is _Map:
        return f"map of {value.size}"
    if type(value) is str and len(value) > 80:
        return f"str of {len(value)} characters"
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    return "a MessagePack extension"
