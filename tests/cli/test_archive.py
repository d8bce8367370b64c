"""`rota export` and `rota import`: their output and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rota.broker import records
from rota.broker.journal import Journal
from rota.cli.exits import ExitCode
from rota.common.digests import ZERO_DIGEST, digest, lane_seed
from rota.common.messages import LaneSettings
from rota.common.work import AGENT, MODEL, Code
from rota.host.endpoints import RunFolder

Call = Callable[..., tuple[int, str, str]]
NOBODY = records.Origin("", 0, ZERO_DIGEST)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder whose journal names a module that is there, one that is not, and a model."""
    folder = RunFolder(tmp_path / "run").prepare()
    codes = (Code(digest(b"a"), AGENT), Code(digest(b"b"), AGENT), Code(digest(b"m"), MODEL))
    deploys = tuple((f"name{place}", code) for place, code in enumerate(codes))
    with closing(Journal.open(folder.journal)) as journal:
        assert list(journal.read()) == []
        settings = LaneSettings(seed=lane_seed("main"))
        opened = records.Opened("main", 1, NOBODY, settings, False, deploys)
        journal.append([records.Epoch(1, 1, (("rota", "test"),)), opened])
    (folder.modules / f"{digest(b'a').hex()}.wasm").write_bytes(b"a")
    return folder.root


def test_export_and_import_say_what_they_did(run: Path, tmp_path: Path, call: Call) -> None:
    """Goal: a person sees what is in the file and what is not. Method: text and JSON of both commands."""
    file, folder = tmp_path / "a.rota.zip", tmp_path / "there"
    code, out, err = call("export", run, file, "--no-progress")
    assert code == ExitCode.OK
    facts = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    assert {name: facts[name].strip() for name in ("made", "records", "modules", "models", "tensors")} == {
        "made": str(file), "records": "2", "modules": "1 of 2", "models": "0 of 1", "tensors": "0 of 0",
    }  # fmt: skip
    assert f"lane main: 0 retired, digest {'00' * 32}" in out
    assert "not there: 1 module that the run names" in err
    assert "not packed: 1 model that the run names; --models packs them" in err
    code, out, err = call("import", file, folder, "--json")
    assert "not packed: 1 model that the run names; export it again with --models" in err
    told = json.loads(out)
    assert code == ExitCode.OK
    assert told["made"] == str(folder)
    assert told["digest"].encode() == file.read_bytes()[-64:]
    assert facts["digest"].strip() == told["digest"]
    assert [member["path"] for member in told["members"]] == [f"modules/{digest(b'a').hex()}.wasm", "run.rota"]
    assert [(one["kind"], one["why"]) for one in told["missing"]] == [("module", "not there"), ("model", "not packed")]


def test_how_they_end(run: Path, tmp_path: Path, call: Call) -> None:
    """Goal: scripts can tell why nothing came of it. Method: exit codes and the one line of each error."""
    file = tmp_path / "a.rota.zip"
    assert call("export", run, file)[0] == ExitCode.OK
    code, _, err = call("export", run, file)
    assert (code, err) == (ExitCode.CONFIG, f"error: {file} is there already: remove it, or name another file\n")
    assert call("export", tmp_path / "nowhere", tmp_path / "b")[0] == ExitCode.CONFIG
    assert call("import", file, run)[0] == ExitCode.CONFIG
    file.write_bytes(file.read_bytes()[:-1])
    code, _, err = call("import", file, tmp_path / "there")
    assert code == ExitCode.STORAGE
    assert err.startswith(f"error: {file} is not an archive that can be used: ")
    assert err.count("\n") == 1


def test_progress_on_request(run: Path, tmp_path: Path, call: Call) -> None:
    """Goal: long work can be watched. Method: ask for progress; stdout stays as it is."""
    _, out, err = call("export", run, tmp_path / "a", "--progress")
    assert "bytes packed" in err
    assert "bytes" not in out.replace("size bytes", "")


def test_commands_load_only_what_they_need() -> None:
    """Goal: help and completion stay quick. Method: the command file alone brings no core with it."""

    code = "import sys, rota.cli.archive; print(any(name.startswith('rota.broker') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
