"""Events and effects: the types on both sides of `Sequencer.step`. PURE.

As with `Ready` in etcd's raft, the core does no IO: it returns what to do and in which order. The shell must:

1. send everything in `now`: a crash cannot contradict any of it (work may start before its input is durable),
2. write `records` in one transaction and wait until they are on the disk,
3. only then send everything in `after` and publish `news`.

If step 2 fails, step 3 must wait until a later write of the same records succeeds.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rota.broker.records import Record, Snapshotted
from rota.common.errors import RotaError
from rota.common.events import Happened
from rota.common.messages import FrontendReply, FrontendRequest, Query, WorkerMessage, WorkerOrder

FRONTEND: Final = "frontend"
BACKEND: Final = "backend"
QUERY: Final = "query"

# --- events -----------------------------------------------------------------------------------------


class FromProducer(NamedTuple):
    """A request from the frontend socket. The shell has stored what a Keep brings, and checked the code of a deploy.

    `objection` is the shell's reason to refuse the request (a bad module, a missing tensor).
    """

    identity: bytes
    message: FrontendRequest
    objection: RotaError | None = None


class FromQuery(NamedTuple):
    """A query from the query socket."""

    identity: bytes
    message: Query


class FromWorker(NamedTuple):
    """A message from the backend socket."""

    identity: bytes
    message: WorkerMessage


class Subscribed(NamedTuple):
    """A subscription to topics with this prefix is active."""

    topic: str


class Unsubscribed(NamedTuple):
    """Nobody is subscribed to this prefix any more."""

    topic: str


class WorkerDied(NamedTuple):
    """A worker's process ended; noticed within milliseconds for workers on this host."""

    worker: str


class Unreachable(NamedTuple):
    """A send failed: this identity has no connection any more."""

    socket: str
    identity: bytes


class Slow(NamedTuple):
    """A producer's connection does not accept messages, or accepts them again."""

    identity: bytes
    slow: bool


class StorageChanged(NamedTuple):
    """Writing the journal began to fail, or works again."""

    full: bool
    reason: str


class SnapshotWritten(NamedTuple):
    """The parts of a snapshot are on the disk; this record shall name them."""

    record: Snapshotted


class Tick(NamedTuple):
    """Time has passed: check timers, heartbeats and timeouts."""


Event = (
    FromProducer
    | FromQuery
    | FromWorker
    | Subscribed
    | Unsubscribed
    | WorkerDied
    | Unreachable
    | Slow
    | StorageChanged
    | SnapshotWritten
    | Tick
)

# --- effects ------------------------------------------------------------------------------------------


class Send(NamedTuple):
    """A message for one connection."""

    socket: str
    identity: bytes
    message: FrontendReply | WorkerOrder


class News(NamedTuple):
    """An event for the PUB socket."""

    number: int  # of the event, dense from 1 in each boot; 0: not counted
    lane: str
    what: Happened


class WatchProcess(NamedTuple):
    """Watch a local worker's process, or stop watching it (`pid` 0)."""

    worker: str
    pid: int


class Effects:
    """The effects of one step, to be carried out in the order given at the top of this file."""

    __slots__ = ("after", "news", "now", "records", "watches")

    def __init__(self) -> None:
        self.now: list[Send] = []
        self.records: list[Record] = []
        self.after: list[Send] = []
        self.news: list[News] = []
        self.watches: list[WatchProcess] = []
