"""Workers that die, are drained, or get tasks that do not end: what the broker does, and how soon."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rota.client import Client, Limits, Missed
from rota.common.events import WorkerLeft
from rota.common.limits import ASSIGNMENTS_PER_WORKER, FUEL_MAX, POISON_DEATHS_MAX
from rota.common.work import FUNCTION
from rota.host.service import Exit

wasmtime = pytest.importorskip("wasmtime")

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

COUNTER = Path(__file__).resolve().parents[2] / "examples" / "agents" / "counter.wasm"
WAIT_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 0.05
FIRST_FOLD_TASKS_MAX = 4  # broker/dispatch.py: before it knows how long a task of this code takes

# A function that turns a loop as often as its payload's first 8 bytes say (0: for ever) and gives the payload back.
BURN = """(module (memory (export "memory") 1)
  (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "rota_call") (param $p i32) (param $n i32) (result i64) (local $left i64)
    (local.set $left (i64.load (local.get $p)))
    (loop $again (local.set $left (i64.sub (local.get $left) (i64.const 1)))
      (br_if $again (i64.ne (local.get $left) (i64.const 0))))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $p)) (i64.const 32)) (i64.extend_i32_u (local.get $n)))))"""
FOR_EVER = bytes(8)

RotaUp = Callable[..., Any]
StartProcess = Callable[..., Any]


def test_death_is_noticed_at_once(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: a worker's death on the host is acted on long before its heartbeats are missed (3 s). Method: kill one of
    two, wait for the event that says that it left.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("elsewhere it is seen at a tick")
    up = rota_up(run_dir, cpu_workers=2)
    with Client(run_dir) as client:
        names = {worker["pid"]: worker["worker"] for worker in client.status()["workers"]}
        events = client.events(["worker"], timeout_s=WAIT_SECONDS)
        pid = up.pids()["cpu-1"]
        # The first event tells that the subscription is there: a third worker says that it goes.
        os.kill(up.pids()["cpu-2"], signal.SIGTERM)
        next(events)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        for event in events:
            assert not isinstance(event, Missed)
            if isinstance(event.what, WorkerLeft) and event.what.worker == names[pid]:
                break
        assert time.monotonic() - killed < 1.0
        assert event.what.reason == "its process ended"


def test_killed_worker_costs_only_what_it_held(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: at-least-once inside, exactly once outside. Method: 60 tasks of some 20 ms on two workers, kill -9 one
    after ten results: 60 results, and only what it held was begun twice.
    """
    up = rota_up(run_dir, cpu_workers=2)
    with Client(run_dir) as client:
        burn = _deploy_burn(client)
        payloads = [burn + number.to_bytes(2, "big") for number in range(60)]
        batch = client.submit_many("burn", payloads)
        results = []
        for result in batch.as_completed(timeout_s=WAIT_SECONDS):
            results.append(result)
            if len(results) == 10:
                os.kill(up.pids()["cpu-1"], signal.SIGKILL)
        assert sorted(result.payload for result in results) == payloads
        assert client.digest()["retired"] == 60
        again = [result.seq for result in results if result.attempts > 1]
        assert 0 < len(again) <= ASSIGNMENTS_PER_WORKER * FIRST_FOLD_TASKS_MAX
        assert max(result.attempts for result in results) == 2


def test_endless_task_times_out_and_its_worker_goes_on(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: the wall clock ends what fuel does not. Method: an endless loop with all the fuel there is and 200 ms, with
    tasks around it; it alone fails, with `timeout`, and the worker is the same process.
    """
    up = rota_up(run_dir)
    with Client(run_dir) as client:
        burn = _deploy_burn(client, fuel=FUEL_MAX, timeout_ms=200)
        outcomes = client.submit_many("burn", [burn, FOR_EVER, burn]).outcomes(WAIT_SECONDS)
        assert [(outcome.ok, outcome.kind) for outcome in outcomes] == [(True, ""), (False, "timeout"), (True, "")]
        assert [dead["kind"] for dead in client.query("dead")] == ["timeout"]
        (worker,) = client.status()["workers"]
        assert worker["pid"] == up.pids()["cpu-1"]


def test_task_that_kills_its_workers_is_lost_and_no_other(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: a poisoned task is stopped. Method: whenever a worker runs the endless task, kill it; after the cap it is
    `lost`, and the tasks that were with it are done.
    """
    up = rota_up(run_dir)
    with Client(run_dir) as client:
        burn = _deploy_burn(client, fuel=FUEL_MAX)
        client.deploy("counter", COUNTER)
        innocent = client.submit_many("counter/a", [b"x"] * 5)
        poison = client.submit("burn", FOR_EVER)
        others = client.submit_many("burn", [burn] * 5)
        killed: list[int] = []
        while (pid := _pid_that_runs(client, poison.seq, killed, up)) is not None:
            assert len(killed) <= POISON_DEATHS_MAX
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        outcome = client.outcome(poison.seq, WAIT_SECONDS)
        assert outcome.kind == "lost"
        assert outcome.attempts == len(killed)
        assert POISON_DEATHS_MAX <= len(killed) <= POISON_DEATHS_MAX + 1, "the first death may be another's fault"
        assert [result.payload for result in innocent.results(WAIT_SECONDS)] == [b"%d" % n for n in range(1, 6)]
        assert len(others.results(WAIT_SECONDS)) == 5


def test_drained_worker_finishes_what_it_holds(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: TERM costs nothing. Method: two workers, TERM to one in mid-work: it ends with 0, and no task was begun
    twice.
    """
    start_process("-m", "rota.broker", ROTA_DIR=str(run_dir)).wait_for("^ready broker ")
    first, _ = [start_process("-m", "rota.cpu_worker", ROTA_DIR=str(run_dir)) for _ in range(2)]
    first.wait_for("^ready cpu-worker ")
    with Client(run_dir) as client:
        burn = _deploy_burn(client)
        batch = client.submit_many("burn", [burn] * 40)
        results = []
        for result in batch.as_completed(timeout_s=WAIT_SECONDS):
            results.append(result)
            if len(results) == 5:
                first.send(signal.SIGTERM)
        assert first.wait() == Exit.OK
        assert {result.attempts for result in results} == {1}
        assert len(results) == 40


def _deploy_burn(client: Client, **limits: int) -> bytes:
    """Deploy the function, and return the payload of a task that takes some 20 ms."""
    client.deploy("burn", bytes(wasmtime.wat2wasm(BURN)), kind=FUNCTION, code_limits=Limits(**limits))
    return (10_000_000).to_bytes(8, "little")


def _pid_that_runs(client: Client, seq: int, killed: list[int], up: Any) -> int | None:
    """Wait until a worker that lives runs the task, and return its process; None once the task has its outcome."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            client.outcome(seq, LOOK_AGAIN_SECONDS)  # to ask without a break would take the processor from the worker
        except TimeoutError:
            running = client.query("task", seq=seq)["state"] == "running"
            holding = [worker["pid"] for worker in client.query("workers") if worker["held_tasks"]]
            if running and holding and holding[0] not in killed:
                pid: int = holding[0]
                return pid
        else:
            return None
    raise AssertionError(f"task {seq} neither runs nor ends; the processes said:\n{up.text}")
