"""The demo's processes: `rota up` with a broker and workers in a run folder, and the killer of workers.

This file starts `rota up`, waits until it is ready, kills workers if wanted, and ends it. Nothing is left behind: a
temporary run folder is removed, and if this process dies, `rota up` sees a closed pipe and ends with all its children.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _demo_screen import Step

from rota.client import Client
from rota.common.errors import RotaError
from rota.host.endpoints import RunFolder
from rota.host.service import PARENT_FD_VARIABLE

READY_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 20.0
LOG_LINES_SHOWN = 15
# A task whose worker dies three times while it runs alone is `lost`, which would be another outcome. The first death
# does not count, so three kills per pool cannot cause that.
KILLS_MAX_PER_POOL = 3

_POLL_SECONDS = 0.05
# Leaves room for the names of the sockets: their paths have at most 107 bytes on Linux, 103 on macOS.
_TEMPORARY_CHARS_MAX = 60


class StartError(Exception):
    """The processes did not start, or have ended."""


@contextlib.contextmanager
def run_folder(keep: Path | None) -> Iterator[RunFolder]:
    """Yield a new run folder: `keep`, which stays, or a temporary one."""
    if keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise StartError(f"{keep} is not empty: --keep wants a folder that is new or empty")
        yield RunFolder(keep).prepare()
        return
    parent = tempfile.gettempdir()
    if len(parent) > _TEMPORARY_CHARS_MAX - 20 and os.path.isdir("/tmp"):  # macOS: /var/folders/...
        parent = "/tmp"
    root = Path(tempfile.mkdtemp(prefix="rota-demo-", dir=parent))
    try:
        yield RunFolder(root).prepare()
    finally:
        shutil.rmtree(root)


class Up:
    """A running `rota up`. Use it in a `with` block."""

    def __init__(self, folder: RunFolder, cpu_workers: int, gpu_workers: int) -> None:
        self._log = folder.logs / "up.log"
        self._processes = 1 + cpu_workers + gpu_workers
        command = [sys.executable, "-P", "-m", "rota.cli", "up", "--dir", str(folder.root)]
        command += ["--cpu-workers", str(cpu_workers), "--gpu-workers", str(gpu_workers)]
        environment = {name: value for name, value in os.environ.items() if name != "ROTA_BIND"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # never written to; closed when this process ends
                stdout=log,
                stderr=subprocess.STDOUT,
                # Otherwise ONNX Runtime 1.31 leaves a telemetry file in the temporary folder.
                env={**environment, PARENT_FD_VARIABLE: "0", "ORT_DISABLE_TELEMETRY": "1"},
                start_new_session=True,  # Ctrl-C of the terminal comes to the demo only
            )

    def __enter__(self) -> Up:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def wait_ready(self, tell: Callable[[str], None]) -> None:
        """Wait until every process is ready; `tell` gets the progress."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while "ready up" not in (text := self._log.read_text(encoding="utf-8", errors="replace")):
            self.check_running()
            if time.monotonic() > deadline:
                raise StartError(f"the processes are not ready after {READY_SECONDS_MAX:.0f} s")
            ready = min(text.count("| ready "), self._processes)
            tell(f"{ready} of {self._processes} ready")
            time.sleep(_POLL_SECONDS)

    def check_running(self) -> None:
        """Raise `StartError` if `rota up` has ended by itself."""
        if self._process.poll() is not None:
            raise StartError(f"`rota up` ended by itself, with exit code {self._process.returncode}")

    def last_lines(self) -> str:
        """Return the end of the log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-LOG_LINES_SHOWN:])

    def stop(self) -> None:
        """Stop everything: in order, or at once if that fails."""
        assert self._process.stdin is not None
        for end in (self._process.terminate, self._process.terminate, self._process.kill):
            end()
            try:
                self._process.wait(STOP_SECONDS_MAX)
                break
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                continue
        self._process.wait()
        self._process.stdin.close()

    def processor_seconds(self) -> dict[str, float] | None:
        """Return the processor time used so far, by kind of process; None without /proc."""
        seconds = {"broker": 0.0, "cpu_worker": 0.0, "gpu_worker": 0.0}
        try:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
            for pid in children.split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
                # utime and stime, fields 14 and 15 of proc_pid_stat(5), of which the first two are cut off here
                ticks = sum(int(field) for field in fields.split()[11:13])
                kind = command[-1].decode().removeprefix("rota.")
                seconds[kind] += ticks / os.sysconf("SC_CLK_TCK")
        except (OSError, KeyError):
            return None
        return seconds


@contextlib.contextmanager
def started(cpu_workers: int, gpu_workers: int, keep: Path | None) -> Iterator[tuple[Up, RunFolder]]:
    """Yield the running processes of a demo and their folder; end and remove them afterwards."""
    with run_folder(keep) as folder, Up(folder, cpu_workers, gpu_workers) as up:
        try:
            with Step("processes") as step:
                up.wait_ready(step.show)
                workers = f"{cpu_workers} CPU workers (agents), {gpu_workers} GPU workers (models)"
                step.show(f"1 broker, {workers}, in {folder.root}")
            yield up, folder
        except (StartError, RotaError, TimeoutError):
            print(f"the last lines that the processes wrote:\n{up.last_lines()}", file=sys.stderr)
            raise


def seconds_between(before: dict[str, float] | None, after: dict[str, float] | None) -> dict[str, float] | None:
    """Return the processor time used between two readings."""
    if before is None or after is None:
        return None
    return {kind: after[kind] - before[kind] for kind in after}


class Killer:
    """Kills workers with SIGKILL at random points of a run, CPU and GPU workers in turn; `rota up` restarts them.

    A point is a number of retired tasks, in the first half of the run, so that short runs get their kills too.
    """

    def __init__(self, tasks: int, kills: int) -> None:
        chance = random.Random()
        self._points = sorted(chance.randrange(1 + tasks // 2) for _ in range(kills))
        self._pools = [("gpu", "cpu")[place % 2] for place in range(kills)]
        self._chance = chance
        self.killed: list[str] = []

    def strike(self, client: Client, retired: int) -> str | None:
        """Kill a worker if the next point is reached, and return its name. Starting workers are not killed."""
        if not self._points or retired < self._points[0]:
            return None
        workers: list[dict[str, Any]] = client.query("workers")
        # The broker may list a worker for some milliseconds after its death; names are unique.
        chosen = [one for one in workers if one["pool"] == self._pools[0] and one["worker"] not in self.killed]
        if not chosen:
            return None
        worker = self._chance.choice(chosen)
        try:
            os.kill(worker["pid"], getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows: either one ends it at once
        except ProcessLookupError:
            return None  # it has just died by itself
        del self._points[0], self._pools[0]
        self.killed.append(str(worker["worker"]))
        return self.killed[-1]
