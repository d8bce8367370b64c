"""Checks that the tensors of a submit exist, and removes unreferenced ones.

A tensor is kept while its lease lasts, or a task, timer, dead letter or kept result names it (docs/TENSORS.md). The
lease covers the time between sealing a file and submitting it.
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
    """Remove unreferenced tensors whose lease has expired; return how many, and their bytes. For compaction, which also
    keeps tensors named by any kept record, unlike a live broker.
    """
    if not folder.is_dir():
        return 0, 0
    report = TensorStore(folder).collect(referenced.keys(), now_ms / 1_000, lease_ms / 1_000)
    return report.removed, report.bytes


class TensorKeeper:
    """Checks the references of submits, and collects periodically."""

    def __init__(self, store: TensorStore, world: World, lease_ms: int, clock: Clock) -> None:
        self._store = store
        self._world = world
        self._lease_ms = lease_ms
        self._clock = clock
        self._next_ms = 0

    def admit(self, request: Submit) -> None:
        """Renew the lease of every tensor that a submit names. Raises `TensorError` for a missing one."""
        named = [ref for run in request.runs for ref in run.named_tensors]
        for ref in dict.fromkeys(named):
            self._store.touch(ref)

    def collect(self, mono_ms: int) -> None:
        """Remove unreferenced tensors whose lease has expired, if a collection is due."""
        if mono_ms < self._next_ms:
            return
        self._next_ms = mono_ms + max(self._lease_ms // _COLLECTIONS_PER_LEASE, 1_000)
        in_use = self._world.tensors_in_use().keys()
        report = self._store.collect(in_use, self._clock.wall_ms() / 1_000, self._lease_ms / 1_000)
        if report.removed:
            log.info("removed %d unreferenced tensors: %d bytes", report.removed, report.bytes)
