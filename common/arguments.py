"""Checks of arguments from callers of the clients and of `rota.local`. PURE.

Each function returns a valid value, or raises a typed error that names the argument and its allowed values. A bool is
an int in Python but is not accepted as one here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from rota.common import limits, wire
from rota.common.errors import BadPayload, BadTarget, ConfigError, LocalError, ProtocolError
from rota.common.shown import shown
from rota.common.targets import MODEL_PREFIX, is_name, is_target

Error = TypeVar("Error", bound=LocalError)

SEQ_MAX: Final = limits.NOW_MS_MAX  # the largest number in a field of a message


def check_name(name: Any, what: str) -> None:
    """Raise `BadTarget` for an invalid name; `what` says of what, for example "a lane"."""
    if not isinstance(name, str) or not is_name(name):
        raise BadTarget(
            f"{shown(name)} cannot name {what}: use letters, digits, _ . - ({limits.NAME_CHARS_MAX} at most)"
        )


def check_model_name(name: Any) -> str:
    """Return what a model is called, `NAME` or `NAME@VERSION`, without `model:` before it. Raises `BadTarget`."""
    bare = name.removeprefix(MODEL_PREFIX) if isinstance(name, str) else ""
    if not is_target(f"{MODEL_PREFIX}{bare}"):
        raise BadTarget(
            f"{shown(name)} cannot name a model: use NAME or NAME@VERSION, names of letters, digits, _ . - "
            f"({limits.NAME_CHARS_MAX} at most)"
        )
    return bare


def whole(name: str, value: Any, lowest: int, highest: int = SEQ_MAX, error: type[Error] | None = None) -> int:
    """Return a whole number in this range, else raise `error`, by default `LocalError`."""
    if type(value) is not int or not lowest <= value <= highest:
        raise (error or LocalError)(f"{name}={shown(value)}: give a whole number from {lowest} to {highest}")
    return value


def flag(name: str, value: Any) -> bool:
    """Return True or False, else raise `LocalError`."""
    if not isinstance(value, bool):
        raise LocalError(f"{name}={shown(value)}: give True or False")
    return value


def seconds(name: str, value: Any, *, zero: bool = False) -> float:
    """Return a time in seconds, which may be `math.inf` and, with `zero`, 0; else raise `ConfigError`."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if not fits or value < 0 or (value == 0 and not zero):
        least = "from 0 on" if zero else "more than 0"
        raise ConfigError(f"{name}={shown(value)}: give a time in seconds, {least}")
    return float(value)


def several(name: str, value: Any) -> Iterable[Any]:
    """Return an iterable, else raise `BadPayload`. Text and bytes are not accepted as iterables."""
    if isinstance(value, str | bytes | bytearray | memoryview) or not hasattr(value, "__iter__"):
        raise BadPayload(f"{name}={shown(value)}: give a list, or another iterable")
    found: Iterable[Any] = value
    return found


def check_options(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `ConfigError` for the first named argument that is not known."""
    names = list(known)
    for name in given:
        if name not in names:
            raise ConfigError(f"there is no option {name!r} here: use {', '.join(names)}")


def seq_of(task: Any, name: str = "seq") -> int:
    """Return the number of a task given as number, handle or result, else raise `LocalError`."""
    seq = getattr(task, name, task)
    if type(seq) is not int or not 1 <= seq <= SEQ_MAX:
        raise LocalError(f"{shown(task)} names no task: give its {name}, a whole number from 1 on, or its handle")
    return seq


def checked(request: Any, kind: type[LocalError], allowed: frozenset[type] = wire.FROM_PRODUCERS) -> Any:
    """Return a request as the broker decodes it. Raises `kind` for a request that the broker would refuse."""
    try:
        return wire.decode(wire.encode(request), allowed)
    except ProtocolError as error:
        raise kind(error.message, **error.fields) from error
    except (TypeError, ValueError, OverflowError) as error:  # from the encoder: a value that a frame cannot hold
        raise kind(f"{type(request).__name__} cannot be sent: {error}") from error
