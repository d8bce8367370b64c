"""kill -9 while calls and open asks wait: of workers and of the broker, at 1, 2, 4 and 8 workers. Nobody may notice.

scripts/campaign.py does the same with many seeds, and more kinds of faults.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import society

from rota.client import Client
from rota.proof.verification import prove
from rota.proof.verify import VerifyOptions
from rota.runs.open import open_run

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

SEED, WINDOW, TASKS, CLOCK_ROUNDS = bytes(range(32)), 16, 20, 2
CALLS = 3  # that wait when processes are killed
COUNTS = (1, 2, 4, 8)


class System:
    """A broker and a number of workers, which are killed and started again."""

    def __init__(self, start: Callable[..., Any], run_dir: Path) -> None:
        self._start, self._run_dir = start, run_dir
        self._broker = self._new("broker")
        self._broker.wait_for("^ready broker")
        self._workers: list[Any] = []

    def grow(self, count: int) -> None:
        """Have so many workers, all of them ready."""
        new = [self._new("cpu-worker") for _ in range(count - len(self._workers))]
        self._workers += new
        for worker in new:
            worker.wait_for("^ready ")

    def kill(self, workers: int, *, broker: bool) -> None:
        """Kill at once, and start as many again."""
        doomed = [self._workers.pop(0) for _ in range(workers)]
        for process in [*doomed, *([self._broker] if broker else [])]:
            process.kill()
        for process in doomed:
            process.wait()
        if broker:
            self._broker.wait()
            self._broker = self._new("broker")
            self._broker.wait_for("^ready broker")
        self.grow(len(self._workers) + workers)

    def _new(self, role: str) -> Any:
        return self._start("-m", "rota.cli", role, "--dir", str(self._run_dir), ROTA_HEARTBEAT_MS="300")


def until_calls_wait(client: Client, lane: str) -> bool:
    """Wait until calls of a lane wait; return whether other tasks of it run meanwhile."""
    deadline = time.monotonic() + 60
    while True:
        rows = client.query("asks", lane=lane)["asks"]
        numbers = next(row for row in client.query("lanes") if row["lane"] == lane)
        if sum(row["state"] == "waits" for row in rows) >= CALLS:
            return bool(numbers["line"])
        assert time.monotonic() < deadline, numbers


def test_kills_while_calls_wait_leave_no_trace(
    start_process: Callable[..., Any], run_dir: Path, threads: ThreadPoolExecutor
) -> None:
    """Goal: nothing of kills can be seen in what waits. Method: in a lane for each number of workers, calls of calls,
    agents that postpone and hand on, and cancels; in another one a call that sleeps and meets deadlines. The broker and
    a worker are killed while calls wait and others run, then half of the workers while all that is open waits for the
    gates. Digests and answers are those of a lane without processes, of a clock without kills, and of `rota verify`.
    """
    retired, digest, answers = society.undisturbed(SEED, 1, TASKS, WINDOW)
    system, in_the_middle = System(start_process, run_dir), 0
    calls = society.Driver(run_dir, "calls")
    with Client(run_dir, timeout_s=60) as client, contextlib.closing(calls):
        system.grow(1)
        society.deploy(client)
        lanes = [("clock-0", "calls-0")] + [(f"clock-{count}", f"calls-{count}") for count in COUNTS]
        for lane in itertools.chain(*lanes):
            client.open_lane(lane, seed=SEED, window=WINDOW)
        ticks = society.clock(run_dir, "clock-0", CLOCK_ROUNDS)
        for count, (ticks_in, calls_in) in zip(COUNTS, lanes[1:], strict=True):
            system.grow(count)
            ticking = threads.submit(society.clock, run_dir, ticks_in, CLOCK_ROUNDS)

            def kill_while_calls_wait(lane: str = calls_in) -> None:
                nonlocal in_the_middle
                in_the_middle += until_calls_wait(client, lane)
                system.kill(1, broker=True)

            kill_half = functools.partial(system.kill, (count + 1) // 2, broker=False)
            assert calls.cycle(calls_in, TASKS, kill_while_calls_wait, kill_half) == answers
            assert ticking.result() == ticks
            told = calls.idle(calls_in)
            assert (told["retired"], told["digest"], told["asks"], told["timers"]) == (retired, digest, 0, 0)
        assert len({client.digest(lane)["digest"] for lane, _ in lanes}) == 1
        assert client.status()["divergences"] == 0
        assert in_the_middle
    with open_run(run_dir) as source:
        proof = prove(source, (0,), VerifyOptions())
    assert proof.verdict == "equal", proof.divergences
