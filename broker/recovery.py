"""From a run file to a broker that can go on: fold the journal, open an epoch, see that lane `main` is there."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Iterable
from importlib.metadata import version

from rota.broker import records
from rota.broker.journal import Journal
from rota.broker.requests import DEFAULT_LANE
from rota.broker.world import World
from rota.common.digests import ZERO_DIGEST, lane_seed
from rota.common.errors import JournalError
from rota.common.messages import LaneSettings

_NOBODY = records.Origin("", 0, ZERO_DIGEST)
_PROGRESS_EVERY_RECORDS = 20_000


def fold(world: World, found: Iterable[records.Record], progress: Callable[[int], None] | None = None) -> None:
    """Apply records in their order.

    Raises `JournalError`, with the number of the record, if one cannot follow from those before it.
    """
    number = 0
    for number, record in enumerate(found, start=1):
        try:
            world.apply(record)
        except JournalError as error:
            raise JournalError(f"record {number}: {error.message}", number=number, **error.fields) from error
        except (AssertionError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            what = f"record {number} does not follow from those before it ({type(error).__name__}: {error})"
            raise JournalError(what, number=number) from error
        if progress is not None and number % _PROGRESS_EVERY_RECORDS == 0:
            progress(number)


def open_epoch(world: World, journal: Journal, now_ms: int) -> None:
    """Write that a broker starts here, with the versions in force, and open the default lane in a new run file."""
    started: list[records.Record] = [records.Epoch(world.boot + 1, now_ms, facts())]
    if DEFAULT_LANE not in world.lanes:
        settings = LaneSettings(seed=lane_seed(DEFAULT_LANE))
        started.append(records.Opened(DEFAULT_LANE, now_ms, _NOBODY, settings, False, ()))
    journal.append(started)
    fold(world, started)


def facts() -> tuple[tuple[str, str], ...]:
    """Return what the broker's own part of a run depends on. Workers' fingerprints come with their results."""
    return (
        ("rota", version("rota")),
        ("format", str(records.FORMAT_VERSION)),
        ("python", platform.python_version()),
        ("sqlite", sqlite3.sqlite_version),
        ("msgpack", version("msgpack")),
        ("blake3", version("blake3")),
        ("pyzmq", version("pyzmq")),
        ("machine", platform.machine()),
        ("system", platform.system()),
    )
