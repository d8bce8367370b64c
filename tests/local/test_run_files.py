"""A lane's run file: readable like a broker's, the same each time, and complete."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rota import local
from rota.broker.journal import Journal
from rota.broker.records import Epoch
from rota.broker.recovery import fold, open_epoch
from rota.broker.world import World
from rota.common.limits import INLINE_BYTES_MAX
from rota.host.endpoints import RunFolder
from rota.tensors.store import TensorStore

Factory = Callable[..., local.LocalLane]


def work(lane: local.LocalLane, agents: Path) -> None:
    lane.deploy("relay", agents / "relay.wasm")
    lane.deploy("reminder", agents / "reminder.wasm")
    lane.deploy("sum", agents / "tensor_sum.wasm", fuel=10**10)
    lane.submit_many("relay/1", [b"2 3", b"wrong"])
    lane.submit("reminder/a", b"100 hi")
    lane.submit("sum", np.arange(INLINE_BYTES_MAX + 1, dtype=np.uint8))
    lane.run(3)
    lane.submit("nobody", b"x")
    lane.run_for(1_000)


def folded(run: Path) -> tuple[World, list[object]]:
    """Read a run file as a broker does when it starts."""
    with contextlib.closing(Journal.open(RunFolder(run).journal, read_only=True)) as journal:
        found = list(journal.read())
    world = World()
    fold(world, found)
    return world, list(found)


def test_a_kept_run_and_a_saved_one_are_the_lane(rota_lane_factory: Factory, agents: Path, tmp_path: Path) -> None:
    """Goal: both ways to a run folder give the run. Method: the same work kept and saved; fold each; equal records and
    digests, modules and tensors beside them.
    """
    kept, saved, twice = tmp_path / "kept", tmp_path / "saved", tmp_path / "twice"
    lane = rota_lane_factory(keep=kept)
    work(lane, agents)
    other = rota_lane_factory()
    work(other, agents)
    assert other.save(saved) == saved
    lane.save(twice)
    assert lane.digest == other.digest
    records = [folded(run)[1] for run in (kept, saved, twice)]
    assert records[0] == records[1] == records[2]
    for run in (kept, saved, twice):
        world, _ = folded(run)
        assert (world.lanes["main"].retired, world.lanes["main"].digest) == (lane.retired, lane.digest)
        modules = sorted(path.name for path in RunFolder(run).modules.iterdir())
        assert modules == sorted(f"{code.digest.hex()}.wasm" for code in lane.deploys.values())
        assert TensorStore(RunFolder(run).tensors).stats().files == 1


def test_records_are_on_the_disk_when_a_call_returns(rota_lane_factory: Factory, agents: Path, tmp_path: Path) -> None:
    """Goal: a kept run survives a crash up to the last call. Method: read the file beside the open lane after each."""
    lane = rota_lane_factory(keep=tmp_path / "run")
    lane.deploy("counter", agents / "counter.wasm")
    for number in range(1, 4):
        lane.submit("counter/a", b"+")
        assert folded(tmp_path / "run")[0].lanes["main"].line_count == 1
        lane.step()
        assert folded(tmp_path / "run")[0].lanes["main"].retired == number


def test_a_broker_goes_on_with_a_kept_run(agents: Path, tmp_path: Path) -> None:
    """Goal: a lane that was tried here can move into a broker. Method: keep a run, recover it as a broker starts."""
    with local.open_lane(keep=tmp_path / "run") as lane:
        work(lane, agents)
        lane.submit("relay/7", b"0 0")
        digest = lane.digest
    with contextlib.closing(Journal.open(RunFolder(tmp_path / "run").journal)) as journal:
        world = World()
        fold(world, journal.read())
        open_epoch(world, journal, 5_000)
        assert world.boot == 2
        assert world.lanes["main"].digest == digest
        assert [task.address for task in world.lanes["main"].unfinished()] == ["relay/7"]
        world.check_invariants()


@pytest.mark.processes
def test_a_kept_run_is_verified(agents: Path, tmp_path: Path) -> None:
    """Goal: the command line takes it for a run. Method: `rota verify` executes it again: every digest is equal."""
    with local.open_lane("experiment", keep=tmp_path / "run", window=4) as lane:
        work(lane, agents)
    command = [sys.executable, "-m", "rota.cli", "verify", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lane.digest.hex() in done.stdout


def test_two_runs_are_the_same_bytes_of_records(agents: Path, tmp_path: Path) -> None:
    """Goal: nothing of the host's clock or chance is in a run. Method: the same work twice, record by record."""
    for name in ("one", "two"):
        with local.open_lane(keep=tmp_path / name) as lane:
            work(lane, agents)
    one, two = folded(tmp_path / "one")[1], folded(tmp_path / "two")[1]
    assert isinstance(one[0], Epoch)
    assert one == two


def test_nothing_is_written_over(rota_lane_factory: Factory, agents: Path, tmp_path: Path) -> None:
    """Goal: no run is lost to a slip. Method: keep and save where a run is, and where another lane works."""
    lane = rota_lane_factory(keep=tmp_path / "run")
    for call in (lambda: rota_lane_factory(keep=tmp_path / "run"), lambda: lane.save(tmp_path / "run")):
        with pytest.raises(local.ConfigError, match="holds a run already"):
            call()
    (tmp_path / "file").write_text("x")
    with pytest.raises(local.ConfigError, match="cannot be made"):
        rota_lane_factory(keep=tmp_path / "file" / "run")
