"""`rota verify` for its user: verdicts, exit codes, JSON, missing files, and Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from run_kit import counting, forge_snapshot, rechain, records_of, write_run

from rota.broker import records, snapshot
from rota.broker.journal import Journal
from rota.broker.recovery import fold
from rota.broker.snapshot_rows import RowTag
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.world import World
from rota.cli.exits import ExitCode
from rota.cli.verify import verify
from rota.common.digests import digest
from rota.local import LocalLane
from rota.model_builds.random_encoder import build_random_encoder

AGENTS = Path(__file__).resolve().parents[2] / "examples" / "agents"
RELAY, COUNTER, TENSOR_SUM = (AGENTS / f"{name}.wasm" for name in ("relay", "counter", "tensor_sum"))
FIELDS = ["run", "verdict", "equal", "records", "damage", "lanes", "rounds", "divergences", "notes"]


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 45 tasks: trees of messages. Do not change it."""
    with LocalLane() as lane:
        lane.deploy("relay", RELAY)
        lane.submit_many("relay/0", [b"2 3 5", b"1 1 5", b"nonsense"])
        lane.submit_many("relay/1", [b"2 4 5", b"1 6 5"])
        lane.run()
        return Path(lane.save(tmp_path_factory.mktemp("verify") / "run"))


@pytest.fixture
def run(relayed: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(relayed, tmp_path / "run"))


def said(*arguments: object) -> tuple[int, str]:
    """Run the command and return its exit code and stdout, where only results are."""
    done = CliRunner().invoke(verify, list(map(str, arguments)), standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.stdout


def facts(*arguments: object) -> tuple[int, dict[str, Any]]:
    code, out = said(*arguments, "--json")
    return code, json.loads(out)


def rota(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rota.cli", "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def module_of(run: Path, module: Path) -> Path:
    return run / "modules" / f"{digest(module.read_bytes()).hex()}.wasm"


def test_an_equal_run_says_what_was_compared(relayed: Path) -> None:
    """Goal: success is told in full, and as documented. Method: text and JSON of the same run, in process and with
    two processes that are killed; the run folder stays as it is.
    """
    before = sorted(path.relative_to(relayed) for path in relayed.rglob("*"))
    code, text = said(relayed)
    assert code == ExitCode.OK
    code, told = facts(relayed, "--workers", "1,2", "--kill")
    assert code == ExitCode.OK
    assert list(told) == FIELDS
    (lane,) = told["lanes"]
    turns = lane["retired"]
    assert turns == lane["compared"] == lane["executed"] > 40
    assert (told["verdict"], told["equal"], told["divergences"], told["notes"]) == ("equal", True, [], [])
    assert [(one["workers"], one["turns"], one["equal"]) for one in told["rounds"]] == [
        (1, turns, True),
        (2, turns, True),
    ]
    assert all(one["kills"] >= 1 for one in told["rounds"])
    lines = text.splitlines()
    assert lines[0] == "lane main"
    assert lines[-1] == f"EQUAL: {turns} turn digests in 1 lane"
    assert f"  digest     {lane['digest']}" in lines
    assert f"  computed   {turns} outcomes of agents and functions, bit for bit" in lines
    assert sorted(path.relative_to(relayed) for path in relayed.rglob("*")) == before


def test_a_part_of_a_lane(relayed: Path) -> None:
    """Goal: --from and --to bound what is executed. Method: turns 20 to 30 of the only lane; then what is not there."""
    _, whole = facts(relayed)
    code, told = facts(relayed, "--from", 20, "--to", 30)
    (lane,) = told["lanes"]
    assert code == ExitCode.OK
    assert lane["believed"] + lane["compared"] == lane["retired"]
    assert 0 < lane["executed"] < whole["lanes"][0]["executed"]
    done = rota(relayed, "--to", 4_000)
    assert done.returncode == ExitCode.REFUSED
    assert "turn 4000 of lane 'main' is not among the " in done.stderr
    done = rota(relayed, "--lane", "nowhere")
    assert done.returncode == ExitCode.REFUSED
    assert "no lane 'nowhere'" in done.stderr


def test_a_changed_module_diverges(run: Path) -> None:
    """Goal: exit code 1, and the report. Method: the bytes of another agent under the digest of the first."""
    module_of(run, RELAY).write_bytes(COUNTER.read_bytes())
    code, told = facts(run, "--workers", "2")
    assert (code, told["verdict"], told["equal"]) == (ExitCode.FAILED, "diverged", False)
    (found,) = told["divergences"]
    assert (found["lane"], found["cause"], told["lanes"][0]["equal"]) == ("main", "code", False)
    code, text = said(run)
    assert code == ExitCode.FAILED
    assert "FIRST DIVERGENCE" in text
    assert text.splitlines()[-1] == "DIVERGED: lane main"


def test_a_missing_module_is_no_divergence(run: Path) -> None:
    """Goal: what cannot be computed again is named, with the remedy, and is not called equal. Method: no module."""
    module_of(run, RELAY).unlink()
    code, told = facts(run)
    assert (code, told["verdict"], told["divergences"]) == (ExitCode.CONFIG, "incomplete", [])
    (lane,) = told["lanes"]
    assert (lane["retired"], lane["equal"]) == (0, False)
    assert (lane["blocked"]["turn"], lane["blocked"]["target"]) == (1, "relay/0")
    assert "modules/" in lane["blocked"]["remedy"]


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    """Goal: the same for tensors that agents read. Method: a run copied without its tensor store; with it, it is equal,
    and an agent that reads none is not bothered.
    """
    tensors = tmp_path / "store"
    tensors.mkdir()
    with LocalLane(tensors=tensors) as lane:
        lane.deploy("sum", TENSOR_SUM)
        lane.deploy("counter", COUNTER)
        lane.submit("counter/a", b"")
        lane.submit("sum/a", np.arange(50_000, dtype=np.int32))
        lane.run()
        run = Path(lane.save(tmp_path / "run"))
    if not (run / "tensors").exists():
        shutil.copytree(tensors, run / "tensors")
    assert said(run)[0] == ExitCode.OK
    shutil.rmtree(run / "tensors")
    code, text = said(run)
    assert code == ExitCode.CONFIG
    assert "turn 2, seq 2, sum/a: it cannot be computed again here" in text
    assert "rota export RUN FILE --tensors" in text
    assert text.splitlines()[-1].startswith("INCOMPLETE: ")


def test_a_damaged_journal_is_no_success(run: Path) -> None:
    """Goal: equal up to a break is not equal. Method: flip a byte of the last record."""
    with closing(sqlite3.connect(run / "run.rota")) as connection, connection:
        ((number, body),) = connection.execute("SELECT number, body FROM records ORDER BY number DESC LIMIT 1")
        changed = body[:-1] + bytes([body[-1] ^ 1])
        connection.execute("UPDATE records SET body = ? WHERE number = ?", (changed, number))
    code, told = facts(run)
    assert (code, told["verdict"]) == (ExitCode.STORAGE, "damaged")
    assert told["damage"]["record"] == number
    assert told["divergences"][-1]["cause"] == "corrupt record"


def test_a_damaged_first_record_is_told_as_any_other(tmp_path: Path) -> None:
    """Goal: programs get JSON for each kind of damage. Method: another boot in record 1, with its chain."""
    run = write_run(tmp_path / "run", records_of(counting()))
    with closing(sqlite3.connect(run / "run.rota")) as connection, connection:
        ((body,),) = connection.execute("SELECT body FROM records WHERE number = 1")
        rechain(connection, {1: records.decode(body)._replace(boot=7)})
    code, told = facts(run)
    assert (code, told["verdict"], told["damage"]["record"]) == (ExitCode.STORAGE, "damaged", 1)
    (found,) = told["divergences"]
    assert (found["cause"], found["record"], found["last_good"]) == ("corrupt record", 1, 0)
    assert "epoch 7 follows epoch 0" in found["why"]


def test_a_forged_snapshot_is_no_success(run: Path) -> None:
    """Goal: a state that a broker would start from is part of the verdict. Method: add a snapshot to a run, then forge
    the lane's digest in it; all turns are still compared.
    """
    with closing(Journal.open(run / "run.rota")) as journal:
        world = World()
        fold(world, journal.read())
        named = SnapshotStore(journal).write(journal.last_number, snapshot.encode(snapshot.take(world)), journal.chain)
        journal.append([named])
    code, told = facts(run)
    assert (code, told["verdict"]) == (ExitCode.OK, "equal")
    turns = told["lanes"][0]["compared"]

    def change(items: list[list[Any]]) -> None:
        next(one for one in items if one[0] == RowTag.LANE)[9] = bytes(32)

    number = forge_snapshot(run, change)
    code, told = facts(run, "--workers", "1")
    assert (code, told["verdict"], told["lanes"][0]["compared"]) == (ExitCode.STORAGE, "damaged", turns)
    assert told["damage"]["record"] == number
    assert f"the snapshot of record {number} is not the state" in told["damage"]["message"]
    (found,) = told["divergences"]
    assert (found["cause"], found["record"], found["lane"]) == ("corrupt record", number, None)
    code, text = said(run)
    assert f"  journal     all records follow, up to record {number + 1}" in text
    assert text.splitlines()[-1] == "DAMAGED: all records are equal, but a snapshot is not what they give"


def test_wrong_arguments_are_refused(tmp_path: Path, relayed: Path) -> None:
    """Goal: the exit codes of docs/CLI.md. Method: a folder without a run, and numbers of workers that are none."""
    done = rota(tmp_path)
    assert done.returncode == ExitCode.CONFIG
    assert "there is no run to read" in done.stderr
    for counts in ("0", "1,,2", "two", "9999"):
        done = rota(relayed, "--workers", counts)
        assert done.returncode == ExitCode.USAGE
        assert "like 1,2,4,8" in done.stderr


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be sent Ctrl-C there")
def test_an_interrupt_ends_all_processes(tmp_path: Path) -> None:
    """Goal: Ctrl-C ends everything at once. Method: interrupt when the first turns are compared; that no process is
    left is checked after the last test.
    """
    with LocalLane() as lane:
        lane.deploy("relay", RELAY)
        lane.submit_many("relay/0", [b"2 20 50"] * 20)
        lane.run()
        run = lane.save(tmp_path / "run")
    command = [sys.executable, "-m", "rota.cli", "verify", str(run), "--workers", "2,2,2,2", "--progress"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert "2 worker processes: " in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (ExitCode.INTERRUPTED, "")
    assert err.splitlines()[-1] == "interrupted"


def test_results_of_a_model_that_was_removed_are_named(tmp_path: Path) -> None:
    """Goal: nobody looks for another processor where the model is gone. Method: a run of a model, then without it."""
    (tmp_path / "vectors").mkdir()
    build_random_encoder(tmp_path / "vectors")
    (tmp_path / "models").mkdir()
    with LocalLane(models=tmp_path / "models") as lane:
        lane.deploy("model:vectors", tmp_path / "vectors")
        lane.embed("vectors", ["a"])
        lane.save(tmp_path / "run")
    told = CliRunner().invoke(verify, [str(tmp_path / "run")], catch_exceptions=False).output
    assert "; 1 result of models that are not computed here" in told
    assert "another fingerprint" not in told
    assert "it cannot be run here" in told
