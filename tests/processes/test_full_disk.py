"""A full disk: producers get an error, acknowledged work is not affected, and work goes on when there is room.

Two kinds of full: a limit on the size of a file (EFBIG, which SQLite reports as an I/O error), and a small file system
(ENOSPC, which it reports as full). Both can be lifted while the broker runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rota.client import Batch, Client
from rota.common.errors import StorageFull
from rota.host.service import Exit

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prlimit and tmpfs are Linux's"),
]

if sys.platform.startswith("linux"):
    import resource

COUNTER = Path(__file__).resolve().parents[2] / "examples" / "agents" / "counter.wasm"
FILE_BYTES_MAX = 2 << 20
FIRST_NUMBER = 1_000
SUBMITS_MAX = 200  # of 100 kB each: far more than fits
PAYLOAD = b"x" * 100_000

StartProcess = Callable[..., Any]


@pytest.fixture
def small_disk(run_dir: Path) -> Iterator[Path]:
    """A file system of 3 MiB in memory, for those who may mount one."""
    folder = run_dir / "disk"
    folder.mkdir()
    mounted = _run("mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(folder))
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    assert _run("umount", "-l", str(folder)).returncode == 0


def test_file_size_limit_is_survived(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: EFBIG costs nothing that was acknowledged. Method: limit the size of the broker's files, submit until it
    refuses, look at the status, lift the limit: the same broker takes work again and has all that it acknowledged.
    """
    broker = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
    broker.wait_for("^ready broker ")
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER, check=False)
        _limit_files(broker.pid, FILE_BYTES_MAX)
        accepted = _submit_until_full(client)
        _check_that_all_is_closed(client)
        _limit_files(broker.pid, resource.RLIM_INFINITY)
        broker.wait_for("the journal can be written again")
        start_process("-m", "rota.cpu_worker", ROTA_DIR=str(run_dir))
        _check_results(client, accepted)


def test_broker_killed_on_a_full_disk_keeps_what_it_acknowledged(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: not even the end of the broker adds to the damage. Method: as above, but kill it while the disk is full."""
    broker = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
    broker.wait_for("^ready broker ")
    with Client(run_dir, producer="till") as client:
        client.deploy("counter", COUNTER, check=False)
        _limit_files(broker.pid, FILE_BYTES_MAX)
        accepted = _submit_until_full(client)
        broker.close()
        start_process("-m", "rota.broker", ROTA_DIR=str(run_dir)).wait_for("^ready broker boot=2 ")
        start_process("-m", "rota.cpu_worker", ROTA_DIR=str(run_dir))
        _check_results(client, accepted)


def test_full_file_system_is_survived(start_process: StartProcess, small_disk: Path) -> None:
    """Goal: the same for ENOSPC, with a worker at work. Method: fill a small file system, make it larger."""
    broker = start_process("-m", "rota.broker", ROTA_DIR=str(small_disk))
    broker.wait_for("^ready broker ")
    with Client(small_disk) as client:
        client.deploy("counter", COUNTER, check=False)
        accepted = _submit_until_full(client)
        _check_that_all_is_closed(client)
        assert _run("mount", "-o", "remount,size=64m", str(small_disk)).returncode == 0
        broker.wait_for("the journal can be written again")
        start_process("-m", "rota.cpu_worker", ROTA_DIR=str(small_disk))
        _check_results(client, accepted)


@pytest.mark.parametrize("is_new", [True, False])
def test_no_room_to_start_is_said(start_process: StartProcess, small_disk: Path, is_new: bool) -> None:
    """Goal: a remedy, not a traceback. Method: start a broker on a file system without a free byte, with and without a
    run file in it.
    """
    if not is_new:
        earlier = start_process("-m", "rota.broker", ROTA_DIR=str(small_disk))
        earlier.wait_for("^ready broker ")
        earlier.send(signal.SIGTERM)
        assert earlier.wait() == Exit.OK
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filler").write_bytes(bytes(4 << 20))
    broker = start_process("-m", "rota.broker", ROTA_DIR=str(small_disk))
    assert broker.wait() == Exit.STORAGE
    assert "run.rota cannot be written" in broker.text
    assert "free some space" in broker.text
    assert "Traceback" not in broker.text


def _submit_until_full(client: Client) -> list[Batch]:
    """Submit tasks with rising numbers until the broker refuses one."""
    accepted: list[Batch] = []

    def submit_all() -> None:
        for number in range(FIRST_NUMBER, FIRST_NUMBER + SUBMITS_MAX):
            accepted.append(client.submit_many("counter/a", [PAYLOAD], number=number))

    with pytest.raises(StorageFull, match="free some space") as refused:
        submit_all()
    assert refused.value.fields["reason"]
    assert len(accepted) > 3
    return accepted


def _check_that_all_is_closed(client: Client) -> None:
    """Everything that would have to be written is refused; queries are answered."""
    for change in (
        lambda: client.open_lane("late"),
        client.pause,
        lambda: client.deploy("late", COUNTER, check=False),
        lambda: client.cancel(1),
        lambda: client.submit("counter/a", b"late"),
    ):
        with pytest.raises(StorageFull):
            change()
    assert client.status()["storage_full"]
    with pytest.raises(StorageFull):  # it could speak of what is not durable
        client.query("lanes")


def _check_results(client: Client, accepted: list[Batch]) -> None:
    """Every acknowledged task is done, once and in order; what was refused first is done once if it is sent again under
    its number; then new work is taken.
    """
    again = client.submit_many("counter/a", [PAYLOAD], number=FIRST_NUMBER + len(accepted))
    new = client.submit_many("counter/a", [PAYLOAD])
    counts = [int(batch.results(timeout_s=30)[0].payload or b"") for batch in (*accepted, again, new)]
    assert counts == list(range(1, len(accepted) + 3))
    assert client.status()["storage_full"] == ""


def _limit_files(pid: int, size: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
