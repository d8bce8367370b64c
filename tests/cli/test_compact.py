"""`rota compact`: its options and output. tests/broker/test_compaction.py tests what it does."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rota.broker.journal import Journal
from rota.broker.lock import FolderLock
from rota.broker.recovery import open_epoch, recover
from rota.cli.__main__ import main
from rota.cli.exits import ExitCode


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of five broker starts: six records."""
    path = tmp_path / "run"
    path.mkdir()
    with closing(Journal.open(path / "run.rota")) as journal:
        world = recover(journal)
        for now_ms in range(5):
            open_epoch(world, journal, now_ms)
    return path


def rota(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code and what it printed, errors behind the rest."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, out + err


def as_json(capfd: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, printed = rota(capfd, "compact", *arguments, "--json")
    assert code == ExitCode.OK, printed
    return json.loads(printed)


def test_records_are_cut_and_pins_kept(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Goal: the options do what their help says. Method: look first, then cut, with a pin in the way; by folder, by
    file, and by --dir.
    """
    looked = as_json(capfd, run, "--keep-records", 1, "--dry-run")
    names = ("first", "last", "cut_first", "cut_last")
    looked = as_json(capfd, run, "--keep-records", 1, "--dry-run")
    assert ([looked[name] for name in names], looked["dry_run"]) == ([6, 7, 1, 5], True)
    done = as_json(capfd, run / "run.rota", "--keep-records", 1, "--pin", "a=4", "--pin", "b")
    assert [done[name] for name in names] == [4, 7, 1, 3], "7 is the record of the snapshot"
    done = as_json(capfd, "--dir", run, "--keep-records", 0, "--unpin", "a")
    assert ([done[name] for name in names], done["pins"]) == ([6, 8, 4, 5], {"b": 6})
    idle = as_json(capfd, run)
    assert [idle[name] for name in names] == [6, 8, 0, 0]


def test_it_says_what_was_done(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Goal: a person reads what went. Method: nothing asked, something asked."""
    code, printed = rota(capfd, "compact", run)
    assert (code, printed.splitlines()[0]) == (ExitCode.OK, "no record is cut")
    code, printed = rota(capfd, "compact", run, "--keep-records", 2, "--pin", "here")
    assert printed.splitlines()[0] == "records 1 to 4 were cut"
    assert printed.splitlines()[-1] == "pin here: record 6"


@pytest.mark.parametrize("pin", ["", "=3", "a b=3", "a=", "a=x", "a=3@", "a=-1"])
def test_a_pin_that_means_nothing_is_refused(pin: str, run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Goal: the form of a pin is told. Method: wrong forms."""
    code, printed = rota(capfd, "compact", run, "--pin", pin)
    assert code == ExitCode.USAGE
    assert "--pin" in printed


def test_a_dry_run_beside_a_broker_foretells_no_sizes(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Goal: one can look while a broker works, and is told only what is known. Method: hold a broker's lock."""
    with FolderLock(run / "broker.lock"):
        looked = as_json(capfd, run, "--keep-records", 1, "--dry-run")
    assert (looked["cut_last"], looked["dry_run"]) == (5, True)
    assert "file_bytes_before" in looked
    assert not [name for name in looked if name.endswith(("_after", "_removed"))]


def test_refusals_have_their_codes(run: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Goal: scripts can tell why. Method: a broker in the folder, no run, a place that is not there, a broken file."""
    with FolderLock(run / "broker.lock"):
        code, printed = rota(capfd, "compact", run)
    assert code == ExitCode.CONFIG
    assert "stop it" in printed
    assert rota(capfd, "compact", tmp_path / "none")[0] == ExitCode.CONFIG
    assert rota(capfd, "compact", run, "--pin", "a=99")[0] == ExitCode.USAGE
    (run / "run.rota").write_bytes(b"something else")
    assert rota(capfd, "compact", run)[0] == ExitCode.STORAGE
