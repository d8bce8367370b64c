"""`rota up` and the single processes, as a user runs them: start, work, loss of each kind of process, stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rota.client.client import Client
from rota.host.service import Exit

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

REPOSITORY = Path(__file__).resolve().parents[2]
COUNTER = REPOSITORY / "examples" / "agents" / "counter.wasm"

RotaUp = Callable[..., Any]
StartProcess = Callable[..., Any]


def test_work_is_done_and_ctrl_c_drains(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: the whole line works, and ends in order. Method: count on two workers, then INT."""
    up = rota_up(run_dir, cpu_workers=2)
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER)
        results = client.submit_many("counter/a", [b"x"] * 50).results()
        assert len(results) == 50
        assert client.digest()["retired"] == 50
    up.send(signal.SIGINT)
    assert up.wait() == Exit.OK
    ends = [up.text.index(words) for words in ("ending: workers finish", "left: drained", "stopping: 0 assignments")]
    assert ends == sorted(ends), "workers first, then the broker"
    up.wait_children_gone()


def test_killed_worker_is_replaced(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: the death of a worker costs no task. Method: kill the only one, submit at once, wait for the results."""
    up = rota_up(run_dir)
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER)
        old = up.kill_child("cpu-1")
        results = client.submit_many("counter/a", [b"x"] * 20).results()
        assert len(results) == 20
        (worker,) = client.status()["workers"]
        assert worker["pid"] == up.pids()["cpu-1"] != old


def test_killed_broker_is_replaced_and_workers_find_it(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: a broker's death loses nothing. Method: submit, kill it, get the results from the next one."""
    up = rota_up(run_dir, ROTA_HEARTBEAT_MS="50")
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER)
        before = up.pids()["cpu-1"]
        batch = client.submit_many("counter/a", [b"x"] * 20)
        up.kill_child("broker")
        up.wait_child_ready("broker", 2)
        up.wait_for(r"registered again, with boot 2")
        assert len(batch.results()) == 20
        assert up.pids()["cpu-1"] == before, "the worker stayed"


def test_children_do_not_outlive_the_supervisor(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: no orphans. Method: kill the supervisor with SIGKILL, wait for the end of all it started."""
    up = rota_up(run_dir, cpu_workers=1)
    up.kill()
    up.wait_children_gone()


def test_second_signal_stops_at_once(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: a second signal ends the wait. Method: stop a worker so that it cannot drain, then signal twice."""
    up = rota_up(run_dir)
    os.kill(up.pids()["cpu-1"], signal.SIGSTOP)
    up.send(signal.SIGTERM)
    up.wait_for("ending: workers finish")
    up.send(signal.SIGTERM)
    assert up.wait() == Exit.STOPPED
    up.wait_children_gone()


def test_child_that_can_never_run_ends_all(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: no restarts where they change nothing. Method: a run folder whose run file is not one."""
    (run_dir / "run.rota").write_bytes(b"something else entirely, and not a run file" * 200)
    process = start_process("-m", "rota.cli", "up", "--dir", str(run_dir), "--cpu-workers", "1")
    assert process.wait() == Exit.STORAGE
    assert "broker cannot run" in process.text
    assert "run.rota" in process.text
    assert "started cpu-1" not in process.text


def test_bad_setting_is_named(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: a message and an exit code. Method: an address that other hosts could reach."""
    process = start_process("-m", "rota.cli", "up", "--dir", str(run_dir), "--bind", "tcp://0.0.0.0:4100")
    assert process.wait() == Exit.CONFIG
    assert "CURVE" in process.text


def test_crashing_worker_ends_nothing_else(start_process: StartProcess, run_dir: Path, tmp_path: Path) -> None:
    """Goal: whatever a worker does, broker and other workers go on. Method: one worker that always exits with 70,
    beside a real one; wait until it has crashed more often than a broker may, then get a result.
    """
    (tmp_path / "always_70.py").write_text("import sys; sys.exit(70)", encoding="utf-8")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from rota.cli.supervisor import Plan, Supervisor; from rota.host.service import run_process\n"
        f"shared = {{'ROTA_DIR': {str(run_dir)!r}, 'PYTHONPATH': {str(tmp_path)!r}}}\n"
        "modules = ('rota.broker', 'always_70', 'rota.cpu_worker')\n"
        "plans = [Plan(module, module, shared) for module in modules]\n"
        "sys.exit(run_process('up', 'info', lambda: Supervisor(plans).run()))"
    )
    up = start_process("-c", code)
    up.wait_for(r"always_70 ended 6 times in a row, at last with exit code 70 \(BUG\); the others go on")
    waits = [int(ms) for ms in re.findall(r"always_70 ended .* starting it again in (\d+) ms", up.text)]
    assert waits == sorted(waits)
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER)
        assert client.submit("counter/a", b"x").result().ok
    up.send(signal.SIGINT)
    assert up.wait() == Exit.OK


def test_supervisor_gives_up_on_a_crash_loop_of_the_broker(start_process: StartProcess) -> None:
    """Goal: a process that never starts ends all with an error. Method: a module that does not exist."""
    code = (
        "import sys; from rota.cli.supervisor import Plan, Supervisor; from rota.host.service import run_process\n"
        "plans = [Plan('broker', 'rota.no_such_module', {})]\n"
        "sys.exit(run_process('up', 'info', lambda: Supervisor(plans).run()))"
    )
    process = start_process("-c", code)
    assert process.wait() == Exit.CRASH_LOOP
    assert process.text.count("No module named rota.no_such_module") == 5
    assert "broker ended 5 times in a row" in process.text


def test_gpu_worker_runs_without_a_gpu(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: a host without a GPU has models too, visibly on the CPU. Method: ask for the CPU, look at the worker."""
    pytest.importorskip("onnxruntime")
    rota_up(run_dir, cpu_workers=0, gpu_workers=1, ROTA_REQUIRE="cpu")
    with Client(run_dir) as client:
        (worker,) = client.status()["workers"]
        assert worker["pool"] == "gpu"


def test_status_is_for_people_and_tells_where_models_run(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: a fall back to the CPU is visible, and times can be read. Method: a GPU worker that takes
    what there is; the two commands that list workers, and the broker's log.
    """
    pytest.importorskip("onnxruntime")
    from rota.gpu_worker.providers import why_not

    reason = why_not("cuda")
    up = rota_up(run_dir, cpu_workers=1, gpu_workers=1)
    up.wait_for(r"worker gpu-\S+ joined, models on " + (r"cpu \(" + re.escape(reason) if reason else "cuda"))
    for command in ("status", "workers"):
        told = subprocess.run(
            [sys.executable, "-m", "rota.cli", command, "--dir", str(run_dir)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "models on" in told
        assert (f"runs models on the CPU: {reason}" in told) == bool(reason), told
        assert not re.search(r"\b(now|silent) ms\b", told), "raw milliseconds"
        assert not re.search(r"^[a-z ]+ {2,}$", told, re.MULTILINE), "a line without a value"
    old = up.kill_child("cpu-1")
    up.wait_for(rf"worker cpu-\S+-{old}-\S+ is lost: its process ended")


def test_processes_by_themselves_in_any_order(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: the Procfile's lines work in any order. Method: a worker before its broker, then TERM to each."""
    lines = dict(line.split(": ", 1) for line in (REPOSITORY / "Procfile").read_text(encoding="utf-8").splitlines())
    assert lines["cpu_worker"].split()[0] == lines["broker"].split()[0] == "python"
    worker = start_process(*lines["cpu_worker"].split()[1:], ROTA_DIR=str(run_dir))
    broker = start_process(*lines["broker"].split()[1:], ROTA_DIR=str(run_dir))
    broker.wait_for("^ready broker ")
    worker.wait_for("^ready cpu-worker ")
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.OK
    broker.send(signal.SIGTERM)
    assert broker.wait() == Exit.OK


def test_broker_on_ports_is_found_through_the_run_folder(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: with --bind the ports are found by themselves. Method: a client that knows only the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = min(free.getsockname()[1], 65_000)
    rota_up(run_dir, ROTA_BIND=f"tcp://127.0.0.1:{port}")
    with Client(run_dir) as client:
        assert len(client.status()["workers"]) == 1
    assert not list((run_dir / "sockets").iterdir())
