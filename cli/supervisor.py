"""`rota up`: runs a broker and its workers as child processes, restarts them, and stops them in order.

A worker that keeps crashing is restarted with growing back-off and affects nothing else. Nothing works without a
broker, so a broker that cannot run stops everything.

Every child holds the read end of a pipe whose other end only this process has, so children end when it dies in any way.
They are not in the terminal's process group: Ctrl-C reaches only this process, which decides the order.

Order of a stop: workers first, while the broker can still take what they finish; then the broker. A second signal kills
all: the journal has what was acknowledged, and the rest runs after the next start.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from rota.common.errors import ConfigError
from rota.host.service import PARENT_FD_VARIABLE, Exit, StopLevel, StopSignals, say_ready
from rota.host.sockets import WakePair

if TYPE_CHECKING:
    from rota.cli.processes import UpSettings

log = logging.getLogger(__name__)

RESTART_MS: Final = 100
RESTART_MS_MAX: Final = 5_000
CRASH_RESTART_MS_MAX: Final = 60_000  # back-off for a worker after CRASHES_MAX
STABLE_MS: Final = 10_000  # a process that ran this long restarts with RESTART_MS
CRASHES_MAX: Final = 5  # crashes in a row, each within STABLE_MS; for the broker, the end of everything
_LAST_LINES_SECONDS: Final = 1.0  # wait for a process's last output before reporting its end

if sys.platform == "win32":
    _NEW_GROUP: Final = subprocess.CREATE_NEW_PROCESS_GROUP
    _END_SIGNAL: Final = signal.CTRL_BREAK_EVENT
else:
    _NEW_GROUP: Final = 0
    _END_SIGNAL: Final = signal.SIGTERM

_COLORS: Final = (36, 33, 32, 35, 34, 31)  # ANSI foregrounds; the broker gets the first


class Plan(NamedTuple):
    """A child process to run."""

    name: str
    module: str
    variables: Mapping[str, str]


def plan(settings: UpSettings, cpu_workers: int, gpu_workers: int) -> list[Plan]:
    """Return the processes of a run folder: the broker, then the workers, one GPU worker per device."""
    shared = {"ROTA_DIR": str(settings.folder().root), "ROTA_BIND": settings.bind, "ROTA_LOG_LEVEL": settings.log_level}
    devices = nvidia_devices()
    if devices and gpu_workers > devices:
        raise ConfigError(
            f"--gpu-workers {gpu_workers}: this host has {devices} GPU, and each takes one worker; a further one would "
            "fall back to the CPU, whose bits are others"
        )
    plans = [Plan("broker", "rota.broker", shared)]
    plans += [Plan(f"cpu-{number}", "rota.cpu_worker", shared) for number in range(1, cpu_workers + 1)]
    for number in range(gpu_workers):
        plans.append(Plan(f"gpu-{number + 1}", "rota.gpu_worker", {**shared, "ROTA_DEVICE": str(number)}))
    return plans


def nvidia_devices() -> int:
    """Return how many NVIDIA GPUs the kernel driver lists; 0 if there are none or it is unknown."""
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0


class _Stage(Enum):
    STARTING = "starting"  # until the broker is ready: before that, workers would find old addresses
    RUNNING = "running"
    ENDING_WORKERS = "ending workers"
    ENDING_BROKER = "ending the broker"


class Supervisor:
    """Keeps the planned processes running until it is told to stop. The first plan is the broker's."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._lines: queue.SimpleQueue[tuple[_Child, str | None]] = queue.SimpleQueue()
        self._wake = WakePair()
        width = max(len(one.name) for one in plans)
        self._children = [
            _Child(one, self._lines, self._wake, _prefix(one.name, width, place)) for place, one in enumerate(plans)
        ]
        self._broker, self._workers = self._children[0], self._children[1:]
        self._phase = _Stage.STARTING
        self._announced = False
        self._exit = Exit.OK

    def run(self) -> Exit:
        """Start everything, supervise it, and return the exit code."""
        with StopSignals() as signals, selectors.DefaultSelector() as selector:
            selector.register(signals.fileno(), selectors.EVENT_READ)
            selector.register(self._wake.fileno(), selectors.EVENT_READ)
            level = StopLevel.NONE
            try:
                self._broker.start()
                while self._children_left():
                    selector.select(self._wait_seconds())
                    if signals.read() > level:
                        level = signals.read()
                        self._stop(level)
                    self._take_lines()
                    self._start_due()
                    self._go_on()
            finally:
                for child in self._children:
                    child.kill()
        return self._exit

    def _children_left(self) -> bool:
        return self._phase in (_Stage.STARTING, _Stage.RUNNING) or any(child.is_running for child in self._children)

    def _wait_seconds(self) -> float | None:
        due = [child.start_at_ms for child in self._children if child.start_at_ms is not None]
        return max(0, min(due) - _now_ms()) / 1_000 if due else None

    def _take_lines(self) -> None:
        self._wake.take()
        while not self._lines.empty():
            child, line = self._lines.get()
            if line is None:
                self._child_ended(child)
                continue
            print(f"{child.prefix}{line}", flush=True)
            if line.startswith("ready "):
                child.is_ready = True

    def _child_ended(self, child: _Child) -> None:
        code = child.collect()
        if self._phase not in (_Stage.STARTING, _Stage.RUNNING):
            return
        is_broker = child is self._broker
        if code in set(Exit) and Exit(code).is_final and (is_broker or child.has_never_run):
            log.error("%s cannot run, see its last lines: %s; stopping", child.plan.name, _describe(code))
            self._give_up(Exit(code))
        elif is_broker and child.crashes >= CRASHES_MAX:
            log.error(
                "%s ended %d times in a row, at last with %s; nothing works without it: stopping",
                child.plan.name, child.crashes, _describe(code),
            )  # fmt: skip
            self._give_up(Exit.CRASH_LOOP)
        else:
            self._plan_restart(child, code)

    def _plan_restart(self, child: _Child, code: int) -> None:
        wait_ms = child.plan_restart()
        if child.crashes < CRASHES_MAX:
            log.warning("%s ended with %s; starting it again in %d ms", child.plan.name, _describe(code), wait_ms)
        else:
            log.error(
                "%s ended %d times in a row, at last with %s; the others go on without it; starting it again in %d ms",
                child.plan.name, child.crashes, _describe(code), wait_ms,
            )  # fmt: skip

    def _start_due(self) -> None:
        for child in self._children:
            if child.start_at_ms is not None and child.start_at_ms <= _now_ms():
                child.start()

    def _go_on(self) -> None:
        """Take the next step of starting or stopping, if its condition is met."""
        if self._phase is _Stage.STARTING and self._broker.is_ready:
            self._phase = _Stage.RUNNING
            for worker in self._workers:
                worker.start()
        if self._phase is _Stage.RUNNING and not self._announced and all(child.is_ready for child in self._children):
            self._announced = True
            say_ready("up", processes=len(self._children), pid=os.getpid())
        if self._phase is _Stage.ENDING_WORKERS and not any(worker.is_running for worker in self._workers):
            self._phase = _Stage.ENDING_BROKER
            self._broker.ask_to_end()

    def _stop(self, level: StopLevel) -> None:
        if level is StopLevel.DRAIN:
            log.info("ending: workers finish what they hold, then the broker ends; a second signal stops at once")
            self._end_workers()
            return
        log.info("stopping at once")
        self._end_workers()
        self._exit = self._exit or Exit.STOPPED
        for child in self._children:
            child.kill()

    def _give_up(self, code: Exit) -> None:
        self._exit = code
        self._end_workers()

    def _end_workers(self) -> None:
        if self._phase in (_Stage.STARTING, _Stage.RUNNING):
            self._phase = _Stage.ENDING_WORKERS
            for child in self._children:
                child.start_at_ms = None
            for worker in self._workers:
                worker.ask_to_end()


class _Child:
    """One planned process: running, or due to be started, or neither."""

    def __init__(
        self, plan: Plan, lines: queue.SimpleQueue[tuple[_Child, str | None]], wake: WakePair, prefix: str
    ) -> None:
        self.plan = plan
        self.prefix = prefix
        self.is_ready = False
        self.start_at_ms: int | None = None
        self.crashes = 0
        self._starts = 0
        self._short_lives = 0
        self._lines = lines
        self._wake = wake
        self._process: subprocess.Popen[str] | None = None
        self._started_ms = 0

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def has_never_run(self) -> bool:
        """Whether it has never been ready."""
        return self._starts == 1 and not self.is_ready

    def start(self) -> None:
        """Start the process, a thread that reads its output, and one that waits for its end.

        It needs two threads, because the process's children may keep its output open.
        """
        self.start_at_ms = None
        self.is_ready = False
        self._starts += 1
        self._started_ms = _now_ms()
        # -P: a file in the current folder must not shadow one of our modules.
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", "-m", self.plan.module],
            stdin=subprocess.PIPE,  # never written to; closed when this process ends
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_child_environment(self.plan.variables),
            start_new_session=True,  # POSIX
            creationflags=_NEW_GROUP,  # Windows
        )
        log.info("started %s, pid %d", self.plan.name, process.pid)
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        threading.Thread(target=self._await_end, args=(process, reader), daemon=True).start()

    def collect(self) -> int:
        """Reap the process and return its exit code."""
        process, self._process = self._process, None
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        code = process.wait()
        if _now_ms() - self._started_ms >= STABLE_MS:
            self.crashes = self._short_lives = 0
        self._short_lives += 1
        # Killed after it was ready: not its own fault, but the OOM killer's, a person's or a test's.
        self.crashes += int(code > 0 or not self.is_ready)
        return code

    def plan_restart(self) -> int:
        """Schedule a restart with exponential back-off; return the wait."""
        longest_ms = RESTART_MS_MAX if self.crashes < CRASHES_MAX else CRASH_RESTART_MS_MAX
        wait_ms = min(RESTART_MS << min(self._short_lives - 1, 16), longest_ms)
        wait_ms = int(wait_ms * random.uniform(0.75, 1.25))  # jitter, so that they do not restart together
        self.start_at_ms = _now_ms() + wait_ms
        return wait_ms

    def ask_to_end(self) -> None:
        if self._process is not None:
            self._process.send_signal(_END_SIGNAL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._say(line.rstrip("\n"))

    def _await_end(self, process: subprocess.Popen[str], reader: threading.Thread) -> None:
        process.wait()
        reader.join(_LAST_LINES_SECONDS)
        self._say(None)

    def _say(self, line: str | None) -> None:
        self._lines.put((self, line))
        self._wake.wake()


def _child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    # Worker names must be unique, so one set for a single worker is not passed on.
    inherited = {name: value for name, value in os.environ.items() if name != "ROTA_WORKER_ID"}
    return {**inherited, **variables, PARENT_FD_VARIABLE: "0"}


def _prefix(name: str, width: int, place: int) -> str:
    text = f"{name:<{width}} | "
    return f"\033[{_COLORS[place % len(_COLORS)]}m{text}\033[0m" if sys.stdout.isatty() else text


def _describe(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}" + (f" ({Exit(code).name})" if code in set(Exit) else "")


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
