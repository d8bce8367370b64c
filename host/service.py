"""The entry-point kit of every process: exit codes, logging, stop signals, the death of the parent.

One rule for all processes: the first TERM or INT drains, the second stops at once, as does the death of the supervisor
that started the process. Signal handlers do nothing; the byte that Python writes to the wake-up descriptor wakes the
poller, because a ZeroMQ poll does not return on a signal. Exit codes are listed in docs/CLI.md; change both.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rota.common.errors import ConfigError, DeviceLost, JournalError, ProtocolError, RemoteError, RotaError, StorageFull
from rota.host.sockets import WakePair

log = logging.getLogger(__name__)

PARENT_FD_VARIABLE: Final = "ROTA_PARENT_FD"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_PARENT_GRACE_SECONDS: Final = 5.0  # for an orderly end after the parent died


class Exit(IntEnum):
    """The exit code of a process. Numbers from 64 on are from sysexits.h, which service managers know."""

    OK = 0  # asked to end, and ended cleanly
    FAILED = 1  # the task or request that a command was about failed
    USAGE = 2  # the command line is wrong (click's own number)
    STOPPED = 3  # asked twice: ended at once; another process will do the unfinished work
    CRASH_LOOP = 69  # EX_UNAVAILABLE: the broker ended again and again, so `rota up` gave up
    BUG = 70  # EX_SOFTWARE: an error in Rota; the log has the traceback
    DEVICE = 71  # EX_OSERR: the GPU failed in a way that only a new process can mend
    STORAGE = 74  # EX_IOERR: the run file is torn, corrupt, foreign, removed or taken over, or has no room to grow
    STUCK = 75  # EX_TEMPFAIL: a task that could not be stopped held up this worker; another process can go on
    REFUSED = 76  # EX_PROTOCOL: the broker does not take this process, or does not speak its protocol version
    CONFIG = 78  # EX_CONFIG: a setting that cannot be used; starting again changes nothing

    @property
    def is_final(self) -> bool:
        """Return whether a restarted process would end the same way."""
        return self in (Exit.USAGE, Exit.STORAGE, Exit.REFUSED, Exit.CONFIG)


def run_process(name: str, log_level: str, serve: Callable[[], Exit]) -> Exit:
    """Run the body of a process; turn an exception into one log line and an exit code."""
    try:
        start_logging(name, log_level)
        check_interpreter()
        return serve()
    except RotaError as error:
        log.error("%s", error.message)
        return exit_of(error)
    except Exception:
        log.exception("this is a bug in Rota; please report it with the lines below")
        return Exit.BUG


def exit_of(error: RotaError) -> Exit:
    """Return the exit code of a process that ends with this error."""
    for kind, code in (
        (JournalError, Exit.STORAGE),
        (StorageFull, Exit.STORAGE),
        (ProtocolError, Exit.REFUSED),
        (RemoteError, Exit.REFUSED),
        (ConfigError, Exit.CONFIG),
        (DeviceLost, Exit.DEVICE),
    ):
        if isinstance(error, kind):
            return code
    return Exit.FAILED


def check_interpreter() -> None:
    """Refuse `python -O`: it removes the asserts that check invariants."""
    if not __debug__:
        raise ConfigError("python -O removes the checks that Rota relies on: start it without -O and PYTHONOPTIMIZE")


def start_logging(name: str, level: str) -> None:
    """Send log lines to stderr, one per event, each with date, time, process and level."""
    if level not in LOG_LEVELS:
        raise ConfigError(f"log level {level!r}: use one of {', '.join(LOG_LEVELS)} (--log-level, ROTA_LOG_LEVEL)")
    handler = logging.StreamHandler(sys.stderr)
    line = f"%(asctime)s.%(msecs)03d {name} %(levelname)-7s %(message)s"
    handler.setFormatter(logging.Formatter(line, datefmt="%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def say_ready(kind: str, **fields: Any) -> None:
    """Print the one line that tells the starter that the process is ready."""
    print(" ".join(["ready", kind, *(f"{name}={value}" for name, value in fields.items())]), flush=True)


def host_identity() -> str:
    """Return an identity of this machine since its last boot, and of its process id namespace.

    A broker with the same identity can watch a worker by its process id.
    """
    parts = [socket.gethostname()]
    if sys.platform == "linux":
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    else:
        parts.append(sys.platform)
    return " ".join(parts)


class StopLevel(IntEnum):
    """How urgently the process was asked to end."""

    NONE = 0
    DRAIN = 1  # take no more work, finish, exit
    STOP = 2  # exit


class StopSignals:
    """Makes stop signals and the death of the parent pollable. Only in the main thread; use `with`.

    Put it in the poller (it has `fileno`), and call `read` when it is readable.
    """

    def __init__(self) -> None:
        self._pair = WakePair()
        self._level = StopLevel.NONE
        self._previous: dict[int, Any] = {}
        self._previous_fd = -1

    def __enter__(self) -> StopSignals:
        # A full buffer loses nothing: only the first two bytes matter.
        self._previous_fd = signal.set_wakeup_fd(self._pair.write_fileno(), warn_on_full_buffer=False)
        for number in _stop_signals():
            self._previous[number] = signal.signal(number, _note_signal)
        parent = os.environ.get(PARENT_FD_VARIABLE)
        if parent is not None:
            _watch_parent(_parent_fd(parent), self._pair)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._pair.close()

    def fileno(self) -> int:
        return self._pair.fileno()

    def read(self) -> StopLevel:
        """Return how urgently the process was asked to end so far."""
        for byte in self._pair.take():
            if byte == _PARENT_DIED:
                self._level = StopLevel.STOP
            elif byte in _stop_signals():
                self._level = StopLevel(min(self._level + 1, StopLevel.STOP))
        return self._level


_PARENT_DIED: Final = 255  # no signal has this number


def _stop_signals() -> tuple[int, ...]:
    if sys.platform == "win32":
        return (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
    return (signal.SIGINT, signal.SIGTERM)


def _note_signal(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the byte that Python wrote to the wake-up descriptor is enough."""


def _parent_fd(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{PARENT_FD_VARIABLE}={text!r} is not a descriptor number; only `rota up` sets it: unset it")
    return int(text)


def _watch_parent(descriptor: int, pair: WakePair) -> None:
    """Stop the process when the pipe that its parent holds open is closed.

    It runs in a thread, because Windows cannot poll a pipe; if the main thread does not end in time, this one ends the
    process. The alternative, PR_SET_PDEATHSIG, is Linux only and follows the thread that forked, not the process.
    """

    def watch() -> None:
        try:
            while os.read(descriptor, 4_096):
                pass
        except OSError as error:
            os.write(2, f"{PARENT_FD_VARIABLE}={descriptor} cannot be read ({error.strerror})\n".encode())
        _end_orphan(pair)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _end_orphan(pair: WakePair) -> None:
    try:
        pair.wake(bytes([_PARENT_DIED]))
    except OSError:
        return  # the pair is closed: this process is already ending
    threading.Event().wait(_PARENT_GRACE_SECONDS)
    os._exit(Exit.STOPPED)
