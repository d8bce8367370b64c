"""`rota doctor`: findings on this machine, and that problems are found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from rota.broker import records
from rota.broker.journal import Journal
from rota.cli import checks
from rota.cli.__main__ import main
from rota.cli.common_options import Connection
from rota.cli.exits import ExitCode


def levels(findings: list[checks.Finding]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


def test_this_installation_has_no_errors(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Goal: the doctor finds a tested installation healthy. Method: run it, nothing but the broker missing."""
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--dir", str(run_dir), "--timeout", "0.01", "--json"])
    findings = json.loads(capfd.readouterr().out)
    assert end.value.code == ExitCode.OK, [one for one in findings if one["level"] == "error"]
    found = {one["check"]: one for one in findings}
    assert found["broker"]["level"] == "note"
    assert found["wasmtime"]["level"] == "ok"
    assert {"python", "run folder", "disk", "fsync", "sockets", "open files"} <= set(found)
    assert all(one["remedy"] for one in findings if one["level"] != "ok")


@pytest.mark.skipif(sys.platform != "linux", reason="these limits count like this on Linux only")
@pytest.mark.parametrize(
    ("limits", "level", "said"),
    [
        ("-d 500000", "warning", "may have 512000000 bytes of data (ulimit -d)"),
        ("-v 20000000", "warning", "address space (ulimit -v)"),
        ("-v 700000000", "warning", "(ulimit -v), so it keeps 128 calls of flows in memory and not 256"),
        ("-v 3000000", "error", "bytes of address space for one agent and gets less"),
        ("-S -d 500000", "ok", "nothing here limits it"),
    ],
)
def test_limits_that_agents_would_meet_are_found(run_dir: Path, limits: str, level: str, said: str) -> None:
    """Goal: one learns that a worker has too little memory before it starts. Method: the doctor under such limits."""
    command = f"ulimit {limits}; exec {sys.executable} -m rota.cli doctor --dir {run_dir} --timeout 0.01 --json"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    (found,) = [one for one in json.loads(done.stdout) if one["check"] == "agents' memory"]
    assert (found["level"], said in found["message"]) == (level, True), found
    assert ("unlimited" in found["remedy"]) == (level != "ok")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions as POSIX has them")
def test_a_folder_that_others_can_enter_is_found(tmp_path: Path) -> None:
    """Goal: one learns that the run is not private. Method: a folder of its owner alone, then one for all."""
    for mode, expected in ((0o700, []), (0o755, [f"chmod 700 {tmp_path / 'run'}"])):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run").chmod(mode)
        findings = checks.check_run_folder(Connection(tmp_path / "run", None, 1))
        assert [one.remedy for one in findings if "other users" in one.message] == expected


def test_risky_variables_are_named(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    """Goal: what breaks workers quietly is said. Method: set one such variable."""
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    findings = list(checks.check_python(Connection(run_dir, None, 1)))
    assert [(one.level, one.message) for one in findings][1:] == [("warning", "PYTHONFAULTHANDLER is set")]


def test_a_folder_that_cannot_be_entered_privately_is_an_error(run_dir: Path) -> None:
    """Goal: sockets that others can reach are found. Method: a socket folder that others may enter."""
    sockets = run_dir / "sockets"
    sockets.mkdir(mode=0o755)
    sockets.chmod(0o755)
    assert levels(list(checks.check_sockets(Connection(run_dir, None, 1)))) == {"sockets": "error"}
    sockets.chmod(0o700)
    assert levels(list(checks.check_sockets(Connection(run_dir, None, 1)))) == {"sockets": "ok"}


def test_a_run_file_that_is_not_all_there_is_an_error(run_dir: Path) -> None:
    """Goal: one learns of lost records before a broker refuses the file. Method: as a kill leaves it, whole, with half
    of its WAL, and without it.
    """
    connection = Connection(run_dir, None, 1)
    path = connection.run_folder().journal
    live = run_dir / "live"
    live.mkdir()
    with closing(Journal.open(live / path.name)) as journal:
        list(journal.read())
        journal.append([records.Epoch(1, 0, ())])
        journal.append([records.Mark("main", 1, bytes(32))])
        for file in live.glob("run.rota*"):
            shutil.copy(file, run_dir)
    wal = run_dir / "run.rota-wal"
    assert levels(list(checks.check_run_file(connection))) == {"run file": "ok"}
    wal.write_bytes(wal.read_bytes()[:4_000])
    (finding,) = checks.check_run_file(connection)
    assert (finding.level, "was acknowledged" in finding.message) == ("error", True)
    wal.unlink()
    (run_dir / "run.rota-end").unlink()
    (finding,) = checks.check_run_file(connection)
    assert (finding.level, "is not there" in finding.message) == ("error", True)


def test_a_foreign_run_file_is_an_error(run_dir: Path) -> None:
    """Goal: one learns of a damaged run file before a broker refuses it. Method: none, a new one, another file."""
    connection = Connection(run_dir, None, 1)
    path = connection.run_folder().journal
    assert list(checks.check_run_file(connection)) == []
    Journal.open(path).close()
    assert levels(list(checks.check_run_file(connection))) == {"run file": "ok"}
    path.write_bytes(b"something else")
    (finding,) = checks.check_run_file(connection)
    assert (finding.check, finding.level) == ("run file", "error")
    assert "does not begin like an SQLite file" in finding.message
    assert "--dir" in finding.remedy


def test_a_long_path_is_noted(run_dir: Path) -> None:
    """Goal: one learns where the sockets went. Method: a folder whose path no socket can have."""
    connection = Connection(run_dir / ("x" * 120), None, 1)
    assert levels(list(checks.check_sockets(connection))) == {"sockets": "note"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["click>=1.0"], ("click", "ok")),
        (["click>=999.0"], ("click", "error")),
        (["no-such-package-of-anybody>=1"], ("no-such-package-of-anybody", "error")),
        (['no-such-package-of-anybody==1; extra == "cpu"'], ("no-such-package-of-anybody", "note")),
        (['click==0.1; extra == "cpu"'], ("click", "error")),
    ],
)
def test_packages_are_compared_with_what_is_asked(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, asked: list[str], expected: tuple[str, str]
) -> None:
    """Goal: missing, old and unpinned packages are told apart. Method: other requirements for the same packages."""
    monkeypatch.setattr(checks.metadata, "requires", lambda _: asked)
    (finding,) = checks.check_packages(Connection(run_dir, None, 1))
    assert (finding.check, finding.level) == expected


def test_where_models_run_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: one learns before a worker starts whether it uses a GPU, and why not. Method: no CUDA, then a stand-in."""
    providers = pytest.importorskip("rota.gpu_worker.providers")
    import cuda_stand_in

    none = Connection(Path("nowhere"), None, 0.01)
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(providers, "gpu_facts", lambda: {"name": "a stand-in"})
    monkeypatch.setattr(providers, "_load_cuda_libraries", lambda: None)
    (found,) = [one for one in checks.check_onnxruntime(none) if one.check == "providers"]
    assert found.level == "note"
    assert "models run on the CPU: the installed onnxruntime" in found.message
    assert "has no CUDA: install onnxruntime-gpu" in found.message
    cuda_stand_in.install(monkeypatch.setattr)
    (found,) = [one for one in checks.check_onnxruntime(none) if one.check == "providers"]
    assert (found.level, found.message) == ("ok", "models run on CUDA")
