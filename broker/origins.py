"""The digest of a request, and the check of an input against it. PURE.

The same number of a producer with another digest is refused, and a record that does not match the digest of its request
was changed. Fields that only affect the answer are not covered (docs/JOURNAL.md, "The digest of a request").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rota.broker import records
from rota.common import messages
from rota.common.digests import digest_of, lane_seed


def request_digest(request: messages.FrontendRequest) -> bytes:
    """Return the digest of a request."""
    match request:
        case messages.Submit():
            _, lane, runs, _, *rest = request  # all but number and wait
            content: Any = (lane, runs, *rest)
        case messages.Deploy():
            content = (request.lane, request.name, request.code)
        case _:
            content = request[1:]
    return digest_of((type(request).__name__, content))


def fits_origin(record: Any, lanes: Iterable[str]) -> bool:
    """Return whether an input can have come from a request with the digest that it names.

    `lanes`: the names of lanes that a new lane may take its deploys from.
    """
    return any(request_digest(request) == record.origin.request for request in _requests(record, lanes))


def _requests(record: Any, lanes: Iterable[str]) -> Iterator[messages.FrontendRequest]:
    number = record.origin.number
    match record:
        case records.Opened():
            asked = record.settings._replace(seed=None)
            seeds = (record.settings, asked) if record.settings.seed == lane_seed(record.lane) else (record.settings,)
            for settings in seeds:
                for deploys_from in (None, *lanes):
                    yield messages.OpenLane(number, record.lane, settings, record.paused, deploys_from)
        case records.Submitted():
            for now_ms in (None, record.now_ms):  # the producer may have pinned it
                yield messages.Submit(number, record.lane, record.runs, False, now_ms, *record[6:])
        case records.Deployed():
            yield messages.Deploy(number, record.lane, record.name, record.code, False)
        case records.Cancelled():
            yield messages.Cancel(number, record.seq)
        case records.WindowSet():
            yield messages.SetWindow(number, record.lane, record.window)
        case records.PauseSet():
            yield messages.SetPaused(number, record.lane, record.paused)
        case records.DeadDropped():
            yield messages.DeadDrop(number, record.lane, record.seqs)
        case _:
            raise AssertionError(type(record).__name__)
