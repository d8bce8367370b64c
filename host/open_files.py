"""The limit of open files and sockets, and a door that keeps connections below it.

libzmq aborts the process when it accepts a connection on a socket file and no descriptor is left (`ipc_listener.cpp`,
EMFILE). A listener cannot be paused, and unbinding it ends its connections. So the socket files are moved aside while
too many descriptors are in use: new connections fail and are retried by the other end, existing ones go on.

The number of connections that come in before that is bounded: libzmq reports each accepted one through a monitor, and
waits when 1,000 of these events are unread. See zmq_socket_monitor(3).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Final

import zmq

from rota.host.endpoints import PORTS, shut_path
from rota.host.sockets import BACKLOG, Socket

log = logging.getLogger(__name__)

_UNREAD_MAX: Final = 1_001  # events of a monitor that libzmq sends before it waits for the reader
_LIMIT_MAX: Final = 1 << 20  # enough, and systems that say "unlimited" accept no larger number
_COUNT_AGAIN_MS: Final = 200  # while the door is shut


_BURST_MAX: Final = PORTS * (_UNREAD_MAX + BACKLOG)  # connections on all sockets before the door is shut
LIMIT_WANTED: Final = 2 * _BURST_MAX  # with fewer, a burst may be too many


def let_in(limit: int) -> int:
    """Return how many descriptors may be in use before the door shuts: the rest, at most half, is for a burst."""
    return limit - min(_BURST_MAX, limit // 2)


if sys.platform == "win32":

    def raise_limit() -> int:
        """Return how many files this process may have open; no limit matters here."""
        return _LIMIT_MAX

    def hard_limit() -> int:
        """Return how many files a process may have open at most."""
        return _LIMIT_MAX

else:
    import resource

    def raise_limit() -> int:
        """Raise the soft limit of open files to the hard limit; return it."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            return hard_limit()
        return _LIMIT_MAX if soft == resource.RLIM_INFINITY else soft

    def hard_limit() -> int:
        """Return how many files a process may have open at most."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return _LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, _LIMIT_MAX)


class Door:
    """Shuts the socket files of a process while too many descriptors are in use.

    Put `monitors` in the poller, and call `look` in every turn with what is readable.
    """

    def __init__(self, listeners: Sequence[Socket], endpoints: Sequence[str], limit: int) -> None:
        """`endpoints`: where the listeners are bound. tcp is left out: there libzmq itself refuses connections."""
        files = [endpoint.removeprefix("ipc://") for endpoint in endpoints if endpoint.startswith("ipc://")]
        self._files = [Path(file) for file in files]
        self._shut_at = let_in(limit)
        self._is_shut = False
        self._next_ms = 0
        self._used_max = self._shut_at  # an upper bound of those in use; counted when it comes near the limit
        self.monitors = [_monitor(listener) for listener in listeners] if files else []

    def look(self, ready: Container[object], mono_ms: int) -> None:
        """Shut or open the door as the number of open files demands."""
        self._used_max += sum([_accepted(monitor) for monitor in self.monitors if monitor in ready])
        if not self._files or self._used_max < self._shut_at or mono_ms < self._next_ms:
            return
        used = _open_files()
        self._next_ms = mono_ms + _COUNT_AGAIN_MS if self._is_shut else 0
        self._used_max = used + self._shut_at // 10  # a margin for files opened elsewhere until the next count
        if not self._is_shut and used >= self._shut_at:
            log.warning(
                "%d files and connections are open: no more are let in until some close. Raise the limit of open files "
                "(ulimit -Hn, LimitNOFILE), which allows %d",
                used, self._shut_at,
            )  # fmt: skip
            self._move(shut=True)
        elif self._is_shut and self._used_max < self._shut_at:
            log.warning("%d files and connections are open: connections are let in again", used)
            self._move(shut=False)

    def close(self) -> None:
        """Close the monitors. The listeners belong to the caller."""
        for monitor in self.monitors:
            monitor.close(linger=0)

    def _move(self, *, shut: bool) -> None:
        self._is_shut = shut
        for file in self._files:
            old, new = (file, shut_path(file)) if shut else (shut_path(file), file)
            with contextlib.suppress(FileNotFoundError):
                os.rename(old, new)


def _open_files() -> int:
    """Return how many descriptors are in use; 0 where the system does not tell, and the door stays open."""
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0


def _monitor(listener: Socket) -> Socket:
    address = f"inproc://accepted-{listener.get(zmq.FD)!r}"
    listener.monitor(address, zmq.Event.ACCEPTED)
    monitor: Socket = listener.context.socket(zmq.PAIR)
    monitor.set(zmq.RCVHWM, 1)  # must be set before it connects
    monitor.connect(address)
    return monitor


def _accepted(monitor: Socket) -> int:
    """Return how many connections were accepted since the last call."""
    count = 0
    with contextlib.suppress(zmq.Again):
        while True:
            monitor.recv_multipart(zmq.NOBLOCK)
            count += 1
    return count
