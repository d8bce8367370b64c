"""Deploys that wait for a worker to compile or load their code. PURE.

Volatile: a producer without an answer asks again. deploys.py decides whom to ask and what to answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rota.broker.records import Origin
from rota.common.code_kinds import pool_of
from rota.common.limits import PENDING_DEPLOYS_MAX, POISON_DEATHS_MAX
from rota.common.messages import Deploy

NOBODY: Final = ""  # while the pool has no worker


class PendingDeploy:
    """A deploy that a worker checks before it takes effect."""

    __slots__ = ("deaths", "identity", "number", "origin", "request", "worker")

    def __init__(self, number: int, identity: bytes, request: Deploy, origin: Origin) -> None:
        self.number = number  # of its Prepare
        self.identity = identity  # the connection to answer
        self.request = request
        self.origin = origin
        self.worker = NOBODY  # the worker that was asked
        self.deaths = 0  # of workers that were asked

    @property
    def pool(self) -> str:
        return pool_of(self.request.code)


class PendingDeploys:
    """Pending deploys by number, the oldest first; at most PENDING_DEPLOYS_MAX."""

    def __init__(self, boot: int) -> None:
        self._by_number: dict[int, PendingDeploy] = {}
        self._next_number = (boot << 32) + 1  # an answer to an earlier broker must not match

    def __iter__(self) -> Iterator[PendingDeploy]:
        return iter(tuple(self._by_number.values()))

    def find(self, origin: Origin) -> PendingDeploy | None:
        """Return the pending deploy of the same request; None if there is none, or the request has no producer."""
        if not origin.producer:
            return None
        return next((pending for pending in self._by_number.values() if pending.origin == origin), None)

    def add(self, identity: bytes, request: Deploy, origin: Origin) -> tuple[PendingDeploy, PendingDeploy | None]:
        """Add a deploy. Returns it, and the oldest one if that was evicted: its producer is the most likely to be gone,
        which a ROUTER does not report.
        """
        oldest = None
        if len(self._by_number) >= PENDING_DEPLOYS_MAX:
            oldest = self._by_number.pop(next(iter(self._by_number)))
        pending = PendingDeploy(self._next_number, identity, request, origin)
        self._next_number += 1
        self._by_number[pending.number] = pending
        return pending, oldest

    def died(self, worker: str) -> list[PendingDeploy]:
        """Count the death of a worker. Returns the deploys that it was asked about for the last time: they are gone."""
        poison: list[PendingDeploy] = []
        for pending in self:
            if pending.worker == worker:
                pending.worker = NOBODY
                pending.deaths += 1
                if pending.deaths >= POISON_DEATHS_MAX:
                    poison.append(self._by_number.pop(pending.number))
        return poison

    def must_wait(self, pending: PendingDeploy) -> bool:
        """Return whether another suspect is being checked: suspects go one at a time, so that the cap counts the right
        one.
        """
        if not pending.deaths:
            return False
        asked = (one for one in self if one is not pending and one.deaths and one.worker != NOBODY)
        return any(one.pool == pending.pool for one in asked)

    def take(self, number: int, worker: str) -> PendingDeploy | None:
        """Remove and return the deploy that this worker was asked about; None if it is gone or another was asked."""
        pending = self._by_number.get(number)
        if pending is None or pending.worker != worker:
            return None
        return self._by_number.pop(number)
