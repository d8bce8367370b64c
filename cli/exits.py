"""Exit codes of commands, and how errors are printed. docs/CLI.md lists the codes.

Numbers from 64 on are from sysexits.h, as in host/service.py, which has the codes of processes that serve.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from rota.common.errors import (
    Busy,
    ConfigError,
    Draining,
    JournalError,
    LocalError,
    NotReachable,
    ProtocolError,
    RemoteError,
    RotaError,
    StorageFull,
    TaskFailed,
)


class ExitCode(IntEnum):
    """The exit code of a command."""

    OK = 0
    FAILED = 1  # the task failed, was not cancelled, or the doctor found an error
    USAGE = 2  # the command line or what it names is wrong (click's own number)
    UNTESTED = 3  # check-upgrade: no turn ran the new code
    NOT_REACHABLE = 69  # EX_UNAVAILABLE: no broker answered
    BUG = 70  # EX_SOFTWARE: an error in Rota, with a traceback
    STORAGE = 74  # EX_IOERR: a run file that is torn, corrupt or foreign
    TRY_LATER = 75  # EX_TEMPFAIL: the lane is full, the broker drains, its disk is full, or a timeout
    REFUSED = 76  # EX_PROTOCOL: the broker refused, or speaks another version
    CONFIG = 78  # EX_CONFIG: a setting that cannot be used
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it
    TERMINATED = 143  # 128 + SIGTERM


# The first kind that fits counts, so special ones come before general ones.
_CODE_OF: Final = (
    (TaskFailed, ExitCode.FAILED),
    (NotReachable, ExitCode.NOT_REACHABLE),
    (Busy, ExitCode.TRY_LATER),
    (Draining, ExitCode.TRY_LATER),
    (StorageFull, ExitCode.TRY_LATER),
    (RemoteError, ExitCode.REFUSED),
    (ProtocolError, ExitCode.REFUSED),
    (JournalError, ExitCode.STORAGE),
    (ConfigError, ExitCode.CONFIG),
    (LocalError, ExitCode.USAGE),
)


def exit_code_of(error: RotaError | TimeoutError) -> ExitCode:
    """Return the exit code of a command that ends with this error."""
    if isinstance(error, TimeoutError):
        return ExitCode.TRY_LATER
    return next((code for kind, code in _CODE_OF if isinstance(error, kind)), ExitCode.FAILED)


def error_lines(error: RotaError | TimeoutError) -> list[str]:
    """Return the lines to print: the error, and below it the agent's log lines if a task failed."""
    lines = [f"error: {str(error) or type(error).__name__}"]
    log = error.fields.get("log") if isinstance(error, TaskFailed) else None
    return lines + [f"  log: {line}" for line in log or ()]
