"""`rota model deploy`, `rota model rm` and `rota model ls`, with a broker and without."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from smallest_model import SMALLEST_MODEL

from rota.cli.exits import ExitCode
from rota.client import Client
from rota.common.errors import CodeError
from rota.gpu_worker.repository import Repository

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

Rota = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rota(call: Rota, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rota:
    """Call `rota` in the test's run folder, which has three versions of a model `m`."""
    monkeypatch.setenv("ROTA_DIR", str(run_dir))
    for version in range(3):
        (tmp_path / "model.onnx").write_bytes(SMALLEST_MODEL)
        (tmp_path / "note").write_text(str(version), encoding="utf-8")
        Repository(run_dir / "models").add(tmp_path, "m")
    return call


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[None]:
    """Run a broker without workers."""
    command = [sys.executable, "-m", "rota.cli", "broker", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with Client(folder, contact_s=30) as client:
                client.status()
            yield
        finally:
            process.kill()


@pytest.fixture
def broker(rota: Rota, run_dir: Path) -> Iterator[Path]:
    with running_broker(run_dir):
        yield run_dir


def bindings(folder: Path) -> dict[str, bytes]:
    with Client(folder) as client:
        return {row["name"]: row["digest"] for row in client.query("deploys")}


def test_names_are_bound_to_versions(rota: Rota, broker: Path) -> None:
    """Goal: a name goes to the newest version, back to another, and a name with a version stays with it. Method: each
    form of the command, then what the lane binds.
    """
    digests = [entry.digest for entry in Repository(broker / "models").list()]
    assert rota("model", "deploy", "m", "--no-check")[0] == ExitCode.OK
    assert rota("model", "deploy", "m@2", "--no-check")[0] == ExitCode.OK
    assert bindings(broker) == {"model:m": digests[2], "model:m@2": digests[1]}
    assert rota("model", "deploy", "m", "--version", "1", "--no-check")[0] == ExitCode.OK
    assert bindings(broker) == {"model:m": digests[0], "model:m@2": digests[1]}
    code, _, err = rota("model", "deploy", "m@2", "--version", "1", "--no-check")
    assert (code, "names a version already" in err) == (ExitCode.USAGE, True)
    code, _, err = rota("model", "deploy", "m@9", "--no-check")
    assert (code, "there is no version 9 of model 'm'" in err) == (ExitCode.USAGE, True)
    with Client(broker) as client, pytest.raises(CodeError, match="a name with a version always means that version"):
        client.deploy_model("m@2", digests[0], check=False)
    with Client(broker) as client:
        client.deploy_model("model:m@3", digests[2], check=False, recorded=True)
        (row,) = [row for row in client.query("deploys") if row["name"] == "model:m@3"]
        assert row["recorded"] is True


def test_a_version_in_use_is_not_removed(rota: Rota, broker: Path) -> None:
    """Goal: nothing that a lane needs is removed, and what it needs is said. Method: bind a version, leave a task that
    no worker takes, bind another; remove each; cancel the task.
    """
    rota("model", "deploy", "m@1", "--no-check")
    rota("model", "deploy", "m", "--version", "2", "--no-check")
    with Client(broker) as client:
        seq = client.submit("model:m", b"x").seq  # no worker is there, so it stays
        rota("model", "deploy", "m", "--version", "3", "--no-check")
        code, _, err = rota("model", "rm", "m@1")
        assert (code, "bound as model:m@1 in lane main" in err) == (ExitCode.USAGE, True), err
        assert "or give --force" in err
        code, _, err = rota("model", "rm", "m@2")
        assert (code, "1 unfinished tasks run it: wait for them" in err) == (ExitCode.USAGE, True), err
        code, _, err = rota("model", "rm", "m@2", "--force")
        assert (code, "1 unfinished tasks run it" in err) == (ExitCode.USAGE, True), err
        code, _, err = rota("model", "rm", "m")
        assert (code, "is in use" in err) == (ExitCode.USAGE, True), err
        assert len(Repository(broker / "models").list()) == 3, "all or nothing"
        client.cancel(seq)
        code, out, err = rota("model", "rm", "m@2", "--json")
        assert (code, json.loads(out)) == (ExitCode.OK, {"name": "m", "removed": [2]}), err
    assert [entry.version for entry in Repository(broker / "models").list()] == [1, 3]
    assert rota("model", "rm", "m@1", "--force")[0] == ExitCode.OK
    assert [entry.version for entry in Repository(broker / "models").list()] == [3]


def test_without_a_broker_the_run_file_is_read(rota: Rota, run_dir: Path) -> None:
    """Goal: a stopped run keeps what it needs. Method: bind one version, end the broker, remove it and another."""
    assert rota("model", "rm", "m@3", "--timeout", "0.2")[0] == ExitCode.OK  # no run yet
    with running_broker(run_dir):
        rota("model", "deploy", "m", "--version", "1", "--no-check")
    code, _, err = rota("model", "rm", "m@1", "--timeout", "0.2")
    assert (code, "bound as model:m in lane main" in err) == (ExitCode.USAGE, True), err
    assert rota("model", "rm", "m@2", "--timeout", "0.2")[0] == ExitCode.OK
    assert [entry.version for entry in Repository(run_dir / "models").list()] == [1]


def test_models_are_listed_with_what_is_wrong(rota: Rota, run_dir: Path) -> None:
    """Goal: one row per version, also for a damaged one. Method: damage one; text and JSON."""
    manifest = run_dir / "models" / "m" / "2" / "rota-manifest.json"
    manifest.unlink()
    manifest.write_text("{", encoding="utf-8")
    code, out, _ = rota("model", "ls", "--json")
    rows = json.loads(out)
    assert (code, [row["version"] for row in rows]) == (ExitCode.OK, [1, 2, 3])
    assert [(row["task"], row["class"]) for row in rows] == [("tensors", ""), (None, None), ("tensors", "")]
    assert "is not a manifest" in rows[1]["problem"]
    code, out, _ = rota("model", "ls")
    assert (code, "m@2 cannot be used: " in out) == (ExitCode.OK, True)
    assert rota("model", "rm", "m@2")[0] == ExitCode.OK


def test_a_model_folder_that_is_not_there(rota: Rota, tmp_path: Path) -> None:
    """Goal: a mistyped folder is not an empty one. Method: the commands that read it."""
    for arguments in (["ls"], ["show", "m"], ["deploy", "m"], ["rm", "m"]):
        code, _, err = rota("model", *arguments, "--models", str(tmp_path / "nowhere"))
        assert (code, "nowhere is not a folder" in err) == (ExitCode.CONFIG, True), err
