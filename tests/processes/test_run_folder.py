"""A broker and its run folder: a damaged run file is refused and not changed, and a folder has one broker."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rota.client import Client
from rota.host.service import Exit

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

COUNTER = Path(__file__).resolve().parents[2] / "examples" / "agents" / "counter.wasm"

StartProcess = Callable[..., Any]


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"a payload to be found")] ^= 1
    path.write_bytes(data)


def _without_a_record(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM records WHERE number = 3")


def _other_version(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 999")


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "torn": (_torn, "run.rota"),
    "one bit": (_flipped, "record 4 is damaged"),
    "record gone": (_without_a_record, "record 3 is missing"),
    "other version": (_other_version, "format version 999"),
    "foreign": (_foreign, "not one of rota's"),
    "empty": (_empty, "it is empty"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_run_file_is_refused_and_left_alone(start_process: StartProcess, run_dir: Path, damage: str) -> None:
    """Goal: what cannot be trusted is neither used nor overwritten. Method: damage the run file of a broker that ended,
    start another: it says which file and what, ends with STORAGE, and every byte is as before.
    """
    break_it, words = DAMAGES[damage]
    broker = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
    broker.wait_for("^ready broker ")
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER, check=False)
        client.submit("counter/a", b"a payload to be found")
        client.submit_many("counter/a", [b"x" * 1_000] * 20)
    broker.close()
    path = run_dir / "run.rota"
    with closing(sqlite3.connect(path)) as connection:  # moves what the killed broker left in the WAL into the file
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    break_it(path)
    before = _files(run_dir)
    again = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
    assert again.wait() == Exit.STORAGE
    assert str(path) in again.text
    assert words in again.text
    assert "Traceback" not in again.text
    assert _files(run_dir) == before


def test_nobody_else_reads_a_run_whatever_the_umask(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: payloads and modules are the owner's. Method: a folder that all may enter and umask 0; the modes of all
    files and folders while the broker works, and of a run file that was open to all at the next start.
    """
    run_dir.chmod(0o755)
    umask = os.umask(0)
    try:
        broker = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
        broker.wait_for("^ready broker ")
    finally:
        os.umask(umask)
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER, check=False)
        client.submit("counter/a", b"secret")
        found = {path.relative_to(run_dir): path for path in run_dir.rglob("*") if not path.is_socket()}
        assert {Path("run.rota"), Path("run.rota-wal"), Path("run.rota-shm"), Path("broker.lock")} < set(found)
        assert [str(name) for name, path in found.items() if path.stat().st_mode & 0o077] == []
        broker.close()
        for path in run_dir.glob("run.rota*"):
            path.chmod(0o644)
        start_process("-m", "rota.broker", ROTA_DIR=str(run_dir)).wait_for("^ready broker ")
        assert [path.name for path in run_dir.glob("run.rota*") if path.stat().st_mode & 0o077] == []


def test_a_broker_whose_folder_is_removed_says_so_and_ends(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: nothing is acknowledged into unlinked files. Method: remove the folder of a broker that has
    nothing to do, without a message to it; it ends by itself with STORAGE and names the file.
    """
    folder = run_dir / "run"
    broker = start_process("-m", "rota.broker", ROTA_DIR=str(folder))
    broker.wait_for("^ready broker ")
    with Client(folder) as client:
        client.deploy("counter", COUNTER, check=False)
        shutil.rmtree(folder)
        assert broker.wait() == Exit.STORAGE
        with pytest.raises(TimeoutError):
            client.submit("counter/a", b"x", timeout_s=0.3)
    assert "run.rota is not there any more" in broker.text
    assert "Traceback" not in broker.text
    assert not folder.exists()


def test_a_second_broker_takes_over_and_the_first_ends(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: a removed lock file does not let two brokers write. Method: remove the lock file of a live broker
    and start another one; the first ends with STORAGE as soon as it notices, and the second serves.
    """
    first = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
    first.wait_for("^ready broker boot=1 ")
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER, check=False)
        assert client.status()["boot"] == 1
        (run_dir / "broker.lock").unlink()
        start_process("-m", "rota.broker", ROTA_DIR=str(run_dir)).wait_for("^ready broker boot=2 ")
        assert client.submit("counter/a", b"x").seq == 1, "sent again to the second, when the first has gone"
        assert first.wait() == Exit.STORAGE
        assert "has taken it" in first.text
        with Client(run_dir) as another:
            assert another.status()["boot"] == 2, "the first has left the sockets of the second alone"


def test_a_lost_wal_is_refused_after_a_kill(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: acknowledged work does not go without a word. Method: kill a broker, remove what lies beside its run file,
    start another: it names the WAL, ends with STORAGE, and goes on when that is put back.
    """
    broker = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
    broker.wait_for("^ready broker ")
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER, check=False)
        client.submit("counter/a", b"x")
    broker.close()
    kept = run_dir.parent / f"{run_dir.name}-kept"
    shutil.copytree(run_dir, kept, ignore=shutil.ignore_patterns("sockets"))
    for path in run_dir.glob("run.rota-*"):
        path.unlink()
    again = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
    assert again.wait() == Exit.STORAGE
    assert "run.rota-wal is not there" in again.text
    shutil.copy(kept / "run.rota-wal", run_dir)
    shutil.rmtree(kept)
    start_process("-m", "rota.broker", ROTA_DIR=str(run_dir)).wait_for("^ready broker boot=2 ")
    with Client(run_dir) as client:
        assert client.status()["next_seq"] == 2


def test_second_broker_in_a_folder_is_refused(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: two brokers never share a journal. Method: start a second one; the first goes on working. When the first is
    killed, the folder is free at once.
    """
    first = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
    first.wait_for("^ready broker boot=1 ")
    second = start_process("-m", "rota.broker", ROTA_DIR=str(run_dir))
    assert second.wait() == Exit.CONFIG
    assert "another broker works in" in second.text
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER, check=False)
        assert client.status()["boot"] == 1
        first.close()
        start_process("-m", "rota.broker", ROTA_DIR=str(run_dir)).wait_for("^ready broker boot=2 ")
        assert client.status()["boot"] == 2


def _files(run_dir: Path) -> dict[str, bytes]:
    """The run file and its WAL, if that holds anything. The -shm file is an index that SQLite makes anew."""
    data = {path.name: path.read_bytes() for path in run_dir.glob("run.rota*") if not path.name.endswith("-shm")}
    return {name: content for name, content in data.items() if content or name == "run.rota"}
