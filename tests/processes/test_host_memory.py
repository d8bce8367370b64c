"""Hosts with less memory than a task may have: real workers under RLIMIT_DATA, and one without a limit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rota.client import Client, Limits, TaskFailed
from rota.common.work import FUNCTION

wasmtime = pytest.importorskip("wasmtime")

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts like this on Linux only"),
]

LIMIT_BYTES = 900_000 * 1024  # enough for a worker, and too little for what the guest wants
WAIT_SECONDS = 60.0

# Grows by 15,000 pages (983 MB) for a message, by none for an empty one, and answers what memory.grow returned.
GROWER = """(module (memory (export "memory") 1)
  (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "rota_call") (param $p i32) (param $n i32) (result i64)
    (i32.store (i32.const 1024) (memory.grow (i32.mul (i32.const 15000) (local.get $n))))
    (i64.const 0x400_0000_0004)))"""
GREW = b"\1\0\0\0"

LIMITED_WORKER = f"""
import resource
resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT_BYTES}, {LIMIT_BYTES}))
from rota.cpu_worker.__main__ import command
command()
"""


def deploy(client: Client) -> None:
    limits = Limits(memory_bytes=1 << 30)
    client.deploy("grow", bytes(wasmtime.wat2wasm(GROWER)), FUNCTION, code_limits=limits, timeout_s=WAIT_SECONDS)


def test_a_task_without_memory_on_one_host_is_done_on_another(start_process: Callable[..., Any], run_dir: Path) -> None:
    """Goal: what a worker has no memory for is a fault while it is alone, and done where another one is, and neither
    worker ends. Method: one under a limit, then one without.
    """
    start_process("-m", "rota.broker", "--dir", str(run_dir)).wait_for("ready")
    limited = start_process("-c", LIMITED_WORKER, "--dir", str(run_dir))
    limited.wait_for("ready")
    with Client(run_dir) as client:
        deploy(client)
        with pytest.raises(TaskFailed, match="faulted"):
            client.submit("grow", b"x").result(timeout_s=WAIT_SECONDS)
        assert client.submit("grow", b"").result(timeout_s=WAIT_SECONDS).payload == GREW
        start_process("-m", "rota.cpu_worker", "--dir", str(run_dir)).wait_for("ready")
        handles = client.submit_many("grow", [b"x", b""] * 10)
        assert [one.result(timeout_s=WAIT_SECONDS).payload for one in handles] == [GREW] * 20
        assert limited.pid in [worker["pid"] for worker in client.status()["workers"]]
    assert "the host refused memory within the limits of the task" in limited.text


def test_a_limit_that_is_set_while_a_worker_runs(rota_up: Callable[..., Any], run_dir: Path) -> None:
    """Goal: a worker that did not need to watch its host is not trusted any more once it would have had to.

    Method: two workers, one of which gets a limit; all tasks are done all the same.
    """
    import resource

    up = rota_up(run_dir, cpu_workers=2)
    with Client(run_dir) as client:
        deploy(client)
        resource.prlimit(up.pids()["cpu-1"], resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
        handles = client.submit_many("grow", [b"x", b""] * 20)
        assert [one.result(timeout_s=WAIT_SECONDS).payload for one in handles] == [GREW] * 40
        assert len(client.status()["workers"]) == 2
