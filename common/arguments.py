"""What callers of the clients and of `rota.local` hand in, checked before anything is done with it. PURE.

Each function returns a value that fits, or raises a typed error that names the argument and what it may be. A bool is
an int in Python but never meant as one here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from rota.common import limits, wire
from rota.common.errors import BadPayload, BadTarget, ConfigError, LocalError, ProtocolError
from rota.common.shown import shown
from rota.common.targets import is_name

Error = TypeVar("Error", bound=LocalError)

SEQ_MAX: Final = limits.NOW_MS_MAX  # what a number field of a message holds


def check_name(name: Any, what: str) -> None:
    """Raise `BadTarget` for a name that cannot be one; `what` says whose, for example "a lane"."""
    if not isinstance(name, str) or not is_name(name):
        raise BadTarget(
            f"{shown(name)} cannot name {what}: use letters, digits, _ . - ({limits.NAME_CHARS_MAX} at most)"
        )


def whole(name: str, value: Any, lowest: int, highest: int = SEQ_MAX, error: type[Error] | None = None) -> int:
    """Return a whole number of this range, else raise `error`, a `LocalError` if not told otherwise."""
    if type(value) is not int or not lowest <= value <= highest:
        raise (error or LocalError)(f"{name}={shown(value)}: give a whole number from {lowest} to {highest}")
    return value


def flag(name: str, value: Any) -> bool:
    """Return True or False, else raise `LocalError`."""
    if not isinstance(value, bool):
        raise LocalError(f"{name}={shown(value)}: give True or False")
    return value


def seconds(name: str, value: Any, *, zero: bool = False) -> float:
    """Return a time in seconds, `math.inf` included, else raise `ConfigError`. With `zero`, 0 is one too."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if not fits or value < 0 or (value == 0 and not zero):
        least = "from 0 on" if zero else "more than 0"
        raise ConfigError(f"{name}={shown(value)}: give a time in seconds, {least}")
    return float(value)


def several(name: str, value: Any) -> Iterable[Any]:
    """Return something to go through, else raise `BadPayload`. One text or one run of bytes is not several things."""
    if isinstance(value, str | bytes | bytearray | memoryview) or not hasattr(value, "__iter__"):
        raise BadPayload(f"{name}={shown(value)}: give a list, or another iterable")
    found: Iterable[Any] = value
    return found


def seq_of(task: Any, name: str = "seq") -> int:
    """Return the number of a task that is named by its number, its handle or its result, else raise `LocalError`."""
    seq = getattr(task, name, task)
    if type(seq) is not int or not 1 <= seq <= SEQ_MAX:
        raise LocalError(f"{shown(task)} names no task: give its {name}, a whole number from 1 on, or its handle")
    return seq


def checked(request: Any, kind: type[LocalError], allowed: frozenset[type] = wire.FROM_PRODUCERS) -> Any:
    """Return a request as the broker reads it. Raises an error of this kind for what the broker would not take."""
    try:
        return wire.decode(wire.encode(request), allowed)
    except ProtocolError as error:
        raise kind(error.message, **error.fields) from error
    except (TypeError, ValueError, OverflowError) as error:  # of the encoder: a value that no frame can hold
        raise kind(f"{type(request).__name__} cannot be sent: {error}") from error
