"""Deploys that wait for a worker to compile or load what they name. PURE.

Volatile: a producer that hears nothing asks again. Who is asked and what is answered stands in deploys.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rota.broker.records import Origin
from rota.common.limits import PENDING_DEPLOYS_MAX
from rota.common.messages import Deploy

NOBODY: Final = ""  # while no worker of the pool is there


class PendingDeploy:
    """A deploy that a worker looks at before it takes effect."""

    __slots__ = ("identity", "number", "origin", "request", "worker")

    def __init__(self, number: int, identity: bytes, request: Deploy, origin: Origin) -> None:
        self.number = number  # of the Prepare that asks for it
        self.identity = identity  # whom to answer
        self.request = request  # without the module's bytes, which are stored
        self.origin = origin
        self.worker = NOBODY  # who was asked


class PendingDeploys:
    """Pending deploys by number, the oldest first; at most PENDING_DEPLOYS_MAX."""

    def __init__(self, boot: int) -> None:
        self._by_number: dict[int, PendingDeploy] = {}
        self._next_number = (boot << 32) + 1  # an answer to a broker before this one is no answer to us

    def __iter__(self) -> Iterator[PendingDeploy]:
        return iter(tuple(self._by_number.values()))

    def find(self, origin: Origin) -> PendingDeploy | None:
        """Return the deploy that came with this request before; None if there is none, or nobody stands behind it."""
        if not origin.producer:
            return None
        return next((pending for pending in self._by_number.values() if pending.origin == origin), None)

    def add(self, identity: bytes, request: Deploy, origin: Origin) -> tuple[PendingDeploy, PendingDeploy | None]:
        """Take a deploy. Returns it, and the oldest one if that had to go: its producer is the likeliest to have given
        up, which a ROUTER does not tell.
        """
        oldest = None
        if len(self._by_number) >= PENDING_DEPLOYS_MAX:
            oldest = self._by_number.pop(next(iter(self._by_number)))
        pending = PendingDeploy(self._next_number, identity, request._replace(module=None), origin)
        self._next_number += 1
        self._by_number[pending.number] = pending
        return pending, oldest

    def take(self, number: int, worker: str) -> PendingDeploy | None:
        """Take out the deploy that this worker was asked about; None if it is gone or another one was asked."""
        pending = self._by_number.get(number)
        if pending is None or pending.worker != worker:
            return None
        return self._by_number.pop(number)
