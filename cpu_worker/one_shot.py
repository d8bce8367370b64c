"""Processes that do one thing and end: they compile a module or make an image, with limits and without keys."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rota.common.errors import CodeError


class ProcessEnd(NamedTuple):
    """How a process ended: its exit code, its standard output if that was not given away, what it said on stderr."""

    returncode: int
    output: bytes
    said: str


class OneShots:
    """The processes that run for one worker. All methods may be called in any thread."""

    def __init__(self) -> None:
        self.processes: dict[int, subprocess.Popen[bytes]] = {}  # by process id
        self._stopped = False

    def run(
        self, arguments: Sequence[str], given: bytes, ms_max: int, *, stdout: int = subprocess.PIPE,
        descriptors: Sequence[int] = (),
    ) -> ProcessEnd:  # fmt: skip
        """Run `python -m` with these arguments and `given` on standard input, and wait for the end.

        Raises `subprocess.TimeoutExpired` after `ms_max`, `OSError` if the host starts no process.
        """
        # -P keeps the working directory, which may hold anything, off the module path.
        command = [sys.executable, "-P", "-m", *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=stdout, stderr=pipe, pass_fds=descriptors) as process:
            self.processes[process.pid] = process
            try:
                output, said = process.communicate(given, timeout=ms_max / 1000)
            finally:
                process.kill()
                del self.processes[process.pid]
        return ProcessEnd(process.returncode, output or b"", said.decode(errors="replace").strip())

    def check_going_on(self, what: str) -> None:
        """Raise `CodeError` saying that nothing more is done (`what`, such as "compiles") once `stop` was called."""
        if self._stopped:
            raise CodeError(f"the worker is ending and {what} nothing more")

    def stop(self) -> None:
        """End the processes."""
        self._stopped = True
        for process in list(self.processes.values()):
            process.kill()
