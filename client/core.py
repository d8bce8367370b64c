"""The common part of both clients: the state machines, their links, the exchanges, and the broker's address.

A core belongs to one thread. It supplies clock, random numbers, ids and sockets to the PURE files of this package, and
never waits: client.py and aio.py do the waiting, and call `pump` when something can have happened.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zmq

from rota.client.exchanges import Exchanges, Timeouts
from rota.client.link import Link, TextLink
from rota.client.questions import Questions
from rota.client.session import Key, Session
from rota.client.texts import Texts
from rota.common import limits
from rota.common.arguments import seconds
from rota.common.errors import BadTarget, ConfigError, LocalError, NotReachable, RotaError
from rota.common.shown import shown
from rota.host.endpoints import Endpoints, RunFolder, shut_path
from rota.host.model_versions import check_version
from rota.host.sockets import Socket
from rota.host.sockets import context as new_context
from rota.tensors.payloads import Payloads

DEFAULT_DIR: Final = ".rota"
_FOREVER_MS: Final = 1 << 50  # a deadline that never comes

Where = Path | str | Endpoints | None
"""A run folder, a `tcp://127.0.0.1:PORT` that the broker was given with --bind, or the four addresses themselves.
None: ROTA_BIND or ROTA_DIR of the environment, else `.rota` here."""


class Core:
    """The core of one client."""

    def __init__(
        self,
        where: Where,
        producer: str | None,
        *,
        timeout_s: float,
        contact_s: float | None,
        tensors: Path | None,
        context: zmq.Context[Socket] | None,
    ) -> None:
        if producer is not None and not (isinstance(producer, str) and 0 < len(producer) <= limits.NAME_CHARS_MAX):
            raise BadTarget(f"producer={shown(producer)}: a producer id has 1 to {limits.NAME_CHARS_MAX} characters")
        if producer is not None and any("\ud800" <= sign <= "\udfff" for sign in producer):
            raise BadTarget(f"the producer id {producer!r} holds bytes that are not UTF-8")
        if where is None:
            where = os.environ.get("ROTA_BIND") or os.environ.get("ROTA_DIR") or DEFAULT_DIR
        if not isinstance(where, str | Path | Endpoints):
            raise ConfigError(f"where={shown(where)}: give a run folder, or the address of a broker")
        if tensors is not None and not isinstance(tensors, str | Path):
            raise ConfigError(f"tensors={shown(tensors)}: give the folder of the tensor store")
        self._where = where
        self.timeout_ms = milliseconds(seconds("timeout_s", timeout_s))
        contact_ms = self.timeout_ms if contact_s is None else milliseconds(seconds("contact_s", contact_s, zero=True))
        # A generated producer id has used no number yet. A given one may have; the clock is greater than all of them.
        first_number = 1 if producer is None else time.time_ns() // 1000
        self.session = Session(producer or f"producer-{secrets.token_hex(8)}", first_number)
        self.questions = Questions()
        self.texts = Texts()
        self.payloads = Payloads(Path(tensors) if tensors is not None else self._tensor_folder())
        self.exchanges = Exchanges(
            self.session,
            self.questions,
            self.texts,
            self.payloads,
            limits=Timeouts(self.timeout_ms, contact_ms),
            now_ms=now_ms,
            chance=random.random,
            not_reachable=self._not_reachable,
        )
        self._owns_context = context is None
        self.context = new_context() if context is None else context
        self._frontend: Link | None = None
        self._query: Link | None = None
        self._events: TextLink | None = None
        self._events_boot: int | None = None  # of the broker that it was connected to

    def endpoints(self) -> Endpoints:
        """Return the current addresses of the broker."""
        if isinstance(self._where, Endpoints):
            return self._where
        if isinstance(self._where, str) and "://" in self._where:
            return Endpoints.of(Path(DEFAULT_DIR), self._where)
        return Endpoints.of(Path(self._where))

    def pump(self) -> list[Key]:
        """Move frames on every needed connection; return what has arrived."""
        if self._frontend is None and self.session.is_busy:
            self._frontend = Link(self.context, lambda: self.endpoints().frontend, self.session)
        if self._query is None and self.questions.is_busy:
            self._query = Link(self.context, lambda: self.endpoints().query, self.questions)
        if self.texts.is_busy and (self._events is None or self._events_boot != self.session.boot):
            self._follow_texts()
        for link in self.links():
            link.pump(now_ms())
        return self.session.take_news() + self.questions.take_news() + self.texts.take_news()

    def end(self, error: RotaError) -> None:
        """Make all current and later waits and requests raise this error."""
        self.session.end(error)
        self.questions.end(error)

    def links(self) -> Iterator[Link | TextLink]:
        """Yield the open connections."""
        for link in (self._frontend, self._query, self._events):
            if link is not None:
                yield link

    def next_tick_ms(self) -> int | None:
        """Return when to pump again even if nothing arrives."""
        times = [link.next_tick_ms() for link in self.links()]
        return min((one for one in times if one is not None), default=None)

    def close(self) -> None:
        """Close the connections. What is outstanding goes on at the broker."""
        self.end(LocalError("the client is closed: make a new one"))
        for link in self.links():
            link.close()
        self._frontend = self._query = self._events = None
        if self._owns_context:
            self.context.destroy(linger=0)

    def _follow_texts(self) -> None:
        """Connect to the events of the current broker; one that was started again may have another address."""
        if self._events is not None:
            self._events.close()
        self._events = TextLink(self.context, self.endpoints().events, self.texts)
        self._events_boot = self.session.boot
        self.texts.begin_again()

    def _tensor_folder(self) -> Path | None:
        if isinstance(self._where, Endpoints) or "://" in str(self._where):
            return None
        return RunFolder(Path(self._where)).tensors

    def check_version(self, name: str, digest: bytes) -> None:
        """Check a model's name with a version, if the run folder is here. See `host.model_versions`."""
        if not isinstance(self._where, Endpoints) and "://" not in str(self._where):
            check_version(RunFolder(Path(self._where)).models, name, digest)

    def _not_reachable(self, what: str) -> NotReachable:
        endpoint = self.endpoints().frontend
        if shut_path(Path(endpoint.removeprefix("ipc://"))).exists():
            why = "it accepts no connections now, because too many are open: `rota doctor` says more; try again later"
            return NotReachable(f"{what} at {endpoint}: {why}", endpoint=endpoint)
        start = "" if isinstance(self._where, Endpoints) else self._start_command()
        return NotReachable(f"{what} at {endpoint}: is the broker running?{start}", endpoint=endpoint)

    def _start_command(self) -> str:
        flag = "--bind" if "://" in str(self._where) else "--dir"
        return f" `rota up {flag} {self._where}` starts it"


def milliseconds(time_s: float) -> int:
    """Return a time in whole milliseconds; `math.inf` becomes a time that never comes."""
    return int(min(time_s * 1000, _FOREVER_MS))


def now_ms() -> int:
    """Return the monotonic clock used for all waits."""
    return time.monotonic_ns() // 1_000_000
