"""What happened, and what is to be done about it: the types on both sides of `Sequencer.step`. PURE.

The model is the `Ready` of etcd's raft: the core never does anything, it says what must be done and in which order.
The shell's duty:

1. send everything in `now`: nothing in it can be contradicted by a crash (work may start before its input is durable),
2. write `records` in one transaction and wait until they are on the disk,
3. only then send everything in `after` and publish `news`.

If step 2 fails, nothing of step 3 may happen until a later write of the same records succeeds.
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
    """A request came on the frontend. Modules are stored and checked by the shell.

    `objection` is what the shell found against the request (a bad module, a missing tensor).
    """

    identity: bytes
    message: FrontendRequest
    objection: RotaError | None = None


class FromQuery(NamedTuple):
    """A question came on the query socket."""

    identity: bytes
    message: Query


class FromWorker(NamedTuple):
    """A message came on the backend."""

    identity: bytes
    message: WorkerMessage


class Subscribed(NamedTuple):
    """Somebody watches: a subscription to what begins so is in force."""

    topic: str


class WorkerDied(NamedTuple):
    """A worker's process ended; on its own host that is seen in milliseconds."""

    worker: str


class Unreachable(NamedTuple):
    """A send came back: nobody is behind this identity any more."""

    socket: str
    identity: bytes


class Slow(NamedTuple):
    """A producer's connection does not take what it is sent, or takes it again."""

    identity: bytes
    slow: bool


class StorageChanged(NamedTuple):
    """Writing the journal began to fail, or works again."""

    full: bool
    reason: str


class SnapshotWritten(NamedTuple):
    """The parts of a snapshot are on the disk; this record is to name them."""

    record: Snapshotted


class Tick(NamedTuple):
    """Time passed: timers, heartbeats and time limits are looked at."""


Event = (
    FromProducer
    | FromQuery
    | FromWorker
    | Subscribed
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

    number: int  # of the event, dense from 1 in each boot
    lane: str
    what: Happened


class WatchProcess(NamedTuple):
    """Watch a local worker's process, or stop watching it (`pid` 0)."""

    worker: str
    pid: int


class Effects:
    """What one step wants done, in the order given at the top of this file."""

    __slots__ = ("after", "news", "now", "records", "watches")

    def __init__(self) -> None:
        self.now: list[Send] = []
        self.records: list[Record] = []
        self.after: list[Send] = []
        self.news: list[News] = []
        self.watches: list[WatchProcess] = []
