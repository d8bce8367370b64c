"""Checks the arguments of a lane's callers and converts them for the core; bad ones raise a typed error."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from rota.common.digests import DIGEST_BYTES, lane_seed, pack
from rota.common.errors import ConfigError, LocalError
from rota.common.limits import NOW_MS_MAX
from rota.common.shape import Shape
from rota.common.shown import shown
from rota.common.work import Limits

_limits = Shape(Limits)


class LimitChanges(TypedDict, total=False):
    """The limits of a deploy, by name (see `Limits`)."""

    fuel: int
    memory_bytes: int
    timeout_ms: int
    emits_max: int
    result_bytes: int
    state_bytes: int
    log_bytes: int
    growth_bytes: int
    tensor_bytes: int
    asks_max: int
    steps_max: int
    call_fuel: int
    call_bytes: int


def limits_of(limits: Limits | None, changes: LimitChanges) -> Limits:
    """Return the limits of a deploy, given as `Limits`, by name, or both. Raises `ConfigError` naming the wrong one."""
    unknown = [name for name in changes if name not in Limits._fields]
    if unknown:
        raise ConfigError(f"there is no limit {unknown[0]!r}: use {', '.join(Limits._fields)}")
    if limits is not None and not isinstance(limits, Limits):
        raise ConfigError(f"limits={shown(limits)}: give a Limits, or limits by their names")
    found = (limits or Limits())._replace(**changes)
    try:
        _limits.decode(pack(found))
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error).replace("Limits: field", "limit")) from error
    return found


def seed_of(seed: bytes | int | None, lane: str) -> bytes:
    """Return the seed of a lane. A number means its 32 bytes, big-endian, as in `rota lane open --seed`."""
    if seed is None:
        return lane_seed(lane)
    if isinstance(seed, int):
        if not 0 <= seed < 1 << 8 * DIGEST_BYTES:
            raise ConfigError(f"seed {seed}: a number from 0 to 2**256 - 1 is a seed")
        return seed.to_bytes(DIGEST_BYTES, "big")
    if not isinstance(seed, bytes) or len(seed) != DIGEST_BYTES:
        raise ConfigError(f"seed {seed!r}: give {DIGEST_BYTES} bytes or a number")
    return seed


def path_of(name: str, path: Path | str | None) -> Path | None:
    """Return a path, or None if none was given. Raises `ConfigError` naming the argument."""
    if path is not None and not isinstance(path, str | Path):
        raise ConfigError(f"{name}={shown(path)}: give the path of a folder")
    return None if path is None else Path(path)


def duration(ms: int) -> int:
    """Return a step of the clock. Raises `LocalError` if it goes back, or past what a journal can hold."""
    if not isinstance(ms, int) or not 0 <= ms <= NOW_MS_MAX:
        raise LocalError(f"{ms!r} ms: a lane's clock goes forward, in whole milliseconds")
    return ms


def positive(name: str, value: int) -> int:
    """Return a number, which must be 1 or more. Raises `ConfigError` naming it."""
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}={value!r}: give a whole number from 1 on")
    return value
