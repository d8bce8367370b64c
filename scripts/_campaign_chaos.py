"""The faults of a campaign round: a plan of faults against the processes of a `rota up`, and these processes.

Faults: kill -9 of a worker, of the broker, of all; a worker or the broker suspended (SIGSTOP) until it counts as lost,
and then resumed; a worker drained (TERM). `rota up` restarts what has ended; after a kill of all it is restarted here.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

READY_SECONDS_MAX = 60.0
PAUSE_SECONDS = (0.02, 1.5)  # between two faults
STOPPED_SECONDS = (0.2, 4.5)  # heartbeats are missed after 3 s
_BLOWS = ("kill worker",) * 5 + ("kill broker",) * 3 + ("stop worker", "stop broker", "drain worker", "kill all")
_STARTED = re.compile(r"started (\S+), pid (\d+)$", re.MULTILINE)


class Processes:
    """A `rota up` with its children; their output goes to a file. Use it in a `with` block."""

    def __init__(self, run_dir: Path, cpu_workers: int) -> None:
        self.workers = [f"cpu-{number}" for number in range(1, cpu_workers + 1)]
        self._run_dir = run_dir
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._start()

    def pids(self) -> dict[str, int]:
        """Return the process that was last started under each name; it may have ended."""
        return {name: int(pid) for name, pid in _STARTED.findall(self._said())}

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Signal a process; False if it has ended."""
        try:
            os.kill(self.pids()[name], number)
        except ProcessLookupError:
            return False
        return True

    def kill_all(self) -> None:
        """Kill everything at once and restart it."""
        pids = self.pids()
        self._up.kill()
        for pid in pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._up.wait()
        self._start()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_exception: object) -> None:
        for end in (self._up.terminate, self._up.kill):
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._up.wait(READY_SECONDS_MAX)
                break
        self._log.close()

    def _start(self) -> None:
        self._begins = self._log.seek(0, os.SEEK_END)
        command = [sys.executable, "-P", "-m", "rota.cli", "up", "--dir", str(self._run_dir), "--gpu-workers", "0"]
        self._up = subprocess.Popen(
            [*command, "--cpu-workers", str(len(self.workers))],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_SECONDS_MAX
        while "\nready up " not in self._said():
            assert self._up.poll() is None, f"`rota up` ended:\n{self._said()}"
            assert time.monotonic() < deadline, f"`rota up` is not ready:\n{self._said()}"
            time.sleep(0.02)

    def _said(self) -> str:
        """Return the output of the current `rota up`, which its children's goes through; it appends to the file."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size - self._begins, self._begins).decode(errors="replace")


class Chaos:
    """Injects faults by a plan that follows from the given random generator."""

    def __init__(self, processes: Processes, random_: random.Random) -> None:
        self._processes = processes
        self._random = random_
        self._dealt: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Inject faults for so many seconds."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            time.sleep(self._random.uniform(*PAUSE_SECONDS))
            blow, worker = self._random.choice(_BLOWS), self._random.choice(self._processes.workers)
            stopped_seconds = self._random.uniform(*STOPPED_SECONDS)
            self._deal(blow, "broker" if blow.endswith("broker") else worker, stopped_seconds)

    def summary(self) -> str:
        """Return what was done, in words."""
        return ", ".join(f"{count} x {blow}" for blow, count in sorted(self._dealt.items()))

    def _deal(self, blow: str, name: str, stopped_seconds: float) -> None:
        if blow == "kill all":
            self._processes.kill_all()
        elif blow.startswith("stop"):
            if not self._processes.signal(name, signal.SIGSTOP):
                return
            time.sleep(stopped_seconds)
            self._processes.signal(name, signal.SIGCONT)
        elif not self._processes.signal(name, signal.SIGKILL if blow.startswith("kill") else signal.SIGTERM):
            return
        self._dealt[blow] += 1
