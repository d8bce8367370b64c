"""Real processes for tests: started, awaited by their output, and always ended.

Nothing here sleeps: a wait is for a line or for the end of a process, with a deadline that fails the test and shows the
process's output.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import text_worker
import zmq

from rota.client import Client
from rota.host.process_watch import ProcessWatch

# The plain modules beside this file; pytest's importlib mode does not put a test's folder on the path.

WAIT_SECONDS = 60.0

_STARTED = re.compile(r"started (\S+), pid (\d+)$")


class Process:
    """A process of ours, and everything it has printed so far, stdout and stderr together."""

    def __init__(self, arguments: Sequence[str], variables: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROTA_")}
        self._popen = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**inherited, **variables},
        )
        self.pid = self._popen.pid
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._at_end = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        with self._changed:
            return "\n".join(self.lines)

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until `count` lines match, and return the match of the last of them."""
        found: list[re.Match[str]] = []

        def is_there() -> bool:
            found[:] = [match for line in self.lines if (match := re.search(pattern, line))]
            return len(found) >= count or self._at_end

        with self._changed:
            in_time = self._changed.wait_for(is_there, WAIT_SECONDS)
        why = "it ended" if self._at_end else "time is up" if not in_time else ""
        assert len(found) >= count, f"{len(found)} lines of {count} match {pattern!r}, {why}; it said:\n{self.text}"
        return found[count - 1]

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        self._popen.kill()

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        try:
            code = self._popen.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {WAIT_SECONDS} s; it said:\n{self.text}")
        self._reader.join(WAIT_SECONDS)
        return code

    def close(self) -> None:
        """End it, however it is."""
        self.kill()
        self._popen.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            for line in stream:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._at_end = True
            self._changed.notify_all()


class Up(Process):
    """`rota up`: the supervisor, and by its output its child processes."""

    def __init__(self, run_dir: Path, cpu_workers: int, gpu_workers: int, variables: dict[str, str]) -> None:
        self.run_dir = run_dir
        options = ["--dir", str(run_dir), "--cpu-workers", str(cpu_workers), "--gpu-workers", str(gpu_workers)]
        super().__init__(["-m", "rota.cli", "up", *options], variables)

    def wait_ready(self) -> None:
        """Wait until the broker and all workers are ready."""
        self.wait_for(r"^ready up ")

    def pids(self) -> dict[str, int]:
        """Return the process that was last started under each name; it may have ended."""
        with self._changed:
            started = [match for line in self.lines if (match := _STARTED.search(line))]
        return {match[1]: int(match[2]) for match in started}

    def kill_child(self, name: str) -> int:
        """Kill a child with SIGKILL, wait until the supervisor has seen it, and return its pid."""
        pid = self.pids()[name]
        ended = rf" {re.escape(name)} ended with signal SIGKILL"
        seen = len(re.findall(ended, self.text))
        os.kill(pid, signal.SIGKILL)
        self.wait_for(ended, seen + 1)
        return pid

    def wait_child_ready(self, name: str, count: int) -> None:
        """Wait until the child of this name has been ready for the `count`-th time."""
        self.wait_for(rf"^{re.escape(name)} *\| ready ", count)

    def wait_children_gone(self, untold: Sequence[int] = ()) -> None:
        """Wait until no process started by the supervisor runs; the supervisor must have ended. `untold`: children that
        it may not have told of.
        """
        self.wait()
        watch = ProcessWatch()
        poller = zmq.Poller()
        for descriptor in watch.fds():
            poller.register(descriptor, zmq.POLLIN)
        left = {**{str(pid): pid for pid in untold}, **self.pids()}
        for name, pid in left.items():
            watch.add(name, pid)
        deadline = time.monotonic() + WAIT_SECONDS
        while left:
            for name in watch.gone():
                del left[name]
            assert time.monotonic() < deadline, f"still running: {left}; the supervisor said:\n{self.text}"
            if left:
                poller.poll(100)
        watch.close()

    def close(self) -> None:
        """Kill the supervisor, and wait until its children have ended by themselves."""
        untold = self._children()
        super().close()
        self.wait_children_gone(untold)

    def _children(self) -> list[int]:
        """Stop the supervisor, so that it starts nothing more, and return its children. One that it has just started
        again is in no line yet, and would write into a folder that the test removes.
        """
        process = Path(f"/proc/{self.pid}")
        if not sys.platform.startswith("linux") or self._popen.poll() is not None:
            return []
        self.send(signal.SIGSTOP)
        while (process / "stat").read_text().rpartition(")")[2].split()[0] not in "TZX":
            os.sched_yield()
        return [int(pid) for task in (process / "task").iterdir() for pid in (task / "children").read_text().split()]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads of the test, joined after it."""
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture
def start_process() -> Iterator[Callable[..., Process]]:
    """Start Python with these arguments and variables; each process is ended after the test."""
    started: list[Process] = []

    def start(*arguments: str, **variables: str) -> Process:
        process = Process(arguments, variables)
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.close()


@pytest.fixture
def rota_up() -> Iterator[Callable[..., Up]]:
    """Start `rota up` and wait until it is ready; it is ended after the test, with all its children."""
    started: list[Up] = []

    def start(run_dir: Path, *, cpu_workers: int = 1, gpu_workers: int = 0, **variables: str) -> Up:
        up = Up(run_dir, cpu_workers, gpu_workers, variables)
        started.append(up)
        up.wait_ready()
        return up

    yield start
    for up in started:
        up.close()


@pytest.fixture
def speaker(run_dir: Path, start_process: Callable[..., Process]) -> Path:
    """A broker and a worker that speaks by script (tests/kits/text_worker.py), deployed as `model:script`."""
    start_process("-m", "rota.cli", "broker", "--dir", str(run_dir)).wait_for("^ready broker")
    start_process(text_worker.__file__, str(run_dir), "speaker-1").wait_for("ready")
    with Client(run_dir) as client:
        client.deploy_model("script", bytes(32), check=False)
    return run_dir
