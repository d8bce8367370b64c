"""The broker's part in the life of tensors: a submit must name tensors that are there; what nobody names is removed.

A tensor lives by its lease until a task names it, then as long as a task, a timer, a dead letter or a kept result does,
and after that by its lease again (docs/TENSORS.md). The lease covers the time between sealing a file and submitting it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from rota.broker.world import World
from rota.common.messages import Submit
from rota.host.clock import Clock
from rota.tensors.store import TensorStore

log = logging.getLogger(__name__)

_COLLECTIONS_PER_LEASE: Final = 4


def collect_tensors(folder: Path, referenced: dict[bytes, None], lease_ms: int, now_ms: int) -> tuple[int, int]:
    """Remove tensors that nothing refers to and whose lease is over; return how many, and their bytes. For compaction,
    to which every kept record counts: it asks for less than a live broker, which may have removed more already.
    """
    if not folder.is_dir():
        return 0, 0
    report = TensorStore(folder).collect(referenced.keys(), now_ms / 1_000, lease_ms / 1_000)
    return report.removed, report.bytes


class TensorKeeper:
    """Checks references as they come in, and collects now and then."""

    def __init__(self, store: TensorStore, world: World, lease_ms: int, clock: Clock) -> None:
        self._store = store
        self._world = world
        self._lease_ms = lease_ms
        self._clock = clock
        self._next_ms = 0

    def admit(self, request: Submit) -> None:
        """Renew the lease of every tensor that a submit names; raises `TensorError` for one that is not there."""
        named = [ref for run in request.runs for ref in run.named_tensors]
        for ref in dict.fromkeys(named):
            self._store.touch(ref)

    def collect(self, mono_ms: int) -> None:
        """Remove what nobody names and whose lease is over, if it is time to look."""
        if mono_ms < self._next_ms:
            return
        self._next_ms = mono_ms + max(self._lease_ms // _COLLECTIONS_PER_LEASE, 1_000)
        in_use = self._world.tensors_in_use().keys()
        report = self._store.collect(in_use, self._clock.wall_ms() / 1_000, self._lease_ms / 1_000)
        if report.removed:
            log.info("removed %d tensors that nobody names: %d bytes", report.removed, report.bytes)
