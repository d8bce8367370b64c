"""`rota fork`, `rota check-upgrade`, `rota bisect`: their output for people and for programs, and their exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rota import local
from rota.cli.exits import ExitCode

AGENTS = Path(__file__).resolve().parents[2] / "examples" / "agents"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a relay and a counter."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with local.open_lane(keep=folder) as lane:
        lane.deploy("relay", AGENTS / "relay.wasm")
        lane.deploy("counter", AGENTS / "counter.wasm")
        lane.submit_many("counter/a", [b"", b"", b""])
        lane.run()
        lane.submit("relay/0", b"1 2 4")
        lane.run()
    return folder


def records_of(call: Call, run: Path, kind: str) -> list[int]:
    _, out, _ = call("log", run, "--kind", kind, "--json")
    return [json.loads(line)["number"] for line in out.splitlines()]


def records_in(call: Call, run: Path) -> int:
    _, out, _ = call("log", run, "--json")
    return len(out.splitlines())


def test_fork_says_what_followed(run: Path, tmp_path: Path, call: Call) -> None:
    """Goal: a person reads what is shared and what changed. Method: edit a payload; the lines that say it."""
    *_, last = records_of(call, run, "submitted")
    code, out, err = call("fork", run, "--at", 0, "--to", tmp_path / "fork", "--edit", f"{last}:0=1 3 4")
    assert (code, err) == (ExitCode.OK, "")
    lines = out.splitlines()
    assert f"change  edit {last}:0" in lines
    assert any(line.startswith("shared  0 turns, digest 00") for line in lines)
    assert "first change: turn 4 of relay/0, retired as number 4" in lines
    assert "  payload: 1 2 4 -> 1 3 4" in lines
    assert lines[-1] == f"compare: rota diff {run} {tmp_path / 'fork'} --lane main"
    assert call("diff", run, tmp_path / "fork")[0] == ExitCode.FAILED


def test_fork_for_programs(run: Path, tmp_path: Path, call: Call) -> None:
    """Goal: a script reads the same. Method: other code from turn 2 on, as JSON."""
    deploy = f"counter={AGENTS / 'echo.wasm'}"
    code, out, _ = call("fork", run, "--at", 2, "--to", tmp_path / "fork", "--deploy", deploy, "--json")
    came = json.loads(out)
    assert code == ExitCode.OK
    assert (came["position"], came["same"], came["was_retired"]) == (2, True, came["retired"])  # all are issued by then
    code, out, _ = call("fork", run, "--at", 0, "--to", tmp_path / "two", "--deploy", deploy, "--no-inputs", "--json")
    assert (json.loads(out)["retired"], json.loads(out)["first"]["fields"]) == (0, ["turn"])


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--edit", "x"], ExitCode.USAGE, "is not RECORD[:INDEX]=TEXT"),
        (["--edit", "5=@/no/such/file"], ExitCode.USAGE, "No such file"),
        (["--deploy", "counter"], ExitCode.USAGE, "is not NAME=FILE"),
        (["--drop-input", "1"], ExitCode.USAGE, "record 1 is no input"),
        (["--seed", "12"], ExitCode.USAGE, "a seed is 32 bytes"),
        (["--lane", "ghost"], ExitCode.REFUSED, "no lane 'ghost'"),
    ],
)
def test_fork_refuses(run: Path, tmp_path: Path, call: Call, arguments: list[str], code: int, what: str) -> None:
    """Goal: typed refusals with a remedy, and nothing left. Method: one wrong argument each."""
    ended, _, err = call("fork", run, "--at", 0, "--to", tmp_path / "fork", *arguments)
    assert ended == code
    assert what in err
    assert not (tmp_path / "fork").exists()


def test_check_upgrade(run: Path, tmp_path: Path, call: Call) -> None:
    """Goal: the exit code is the answer. Method: the same code, the same with a note in it, and other code."""
    noted = tmp_path / "noted.wasm"
    noted.write_bytes((AGENTS / "counter.wasm").read_bytes() + b"\x00\x05\x04note")
    for file in (AGENTS / "counter.wasm", noted):
        code, out, _ = call("check-upgrade", run, f"counter={file}")
        assert (code, out.splitlines()[-1]) == (ExitCode.OK, f"accept: counter = {file}")
    code, out, _ = call("check-upgrade", run, f"counter={AGENTS / 'echo.wasm'}")
    assert code == ExitCode.FAILED
    assert "first change: turn 1 of counter/a, retired as number 1" in out
    assert "2 later turns also changed" in out
    code, out, _ = call("check-upgrade", run, f"counter={AGENTS / 'echo.wasm'}", "--json")
    assert (code, json.loads(out)["verdict"], json.loads(out)["lanes"][0]["changed"]) == (ExitCode.FAILED, "reject", 3)


@pytest.fixture
def cut_run(run: Path, tmp_path: Path, call: Call) -> Path:
    """The run without the records of the first three turns, the only ones of the counter."""
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    *_, last = records_of(call, run, "submitted")
    _, out, _ = call("compact", cut, "--keep-records", records_in(call, run) - last + 1, "--json")
    assert json.loads(out)["cut_last"] == last - 1
    return cut


def test_an_upgrade_that_no_turn_ran_is_untested(run: Path, cut_run: Path, call: Call) -> None:
    """Goal: an upgrade about which the run says nothing is not accepted. Method: the turns of a name are cut off, so
    even other code for it changes nothing.
    """
    upgrade = f"counter={AGENTS / 'echo.wasm'}"
    assert call("check-upgrade", run, upgrade)[0] == ExitCode.FAILED
    code, out, err = call("check-upgrade", cut_run, upgrade)
    assert (code, out.splitlines()[-1]) == (ExitCode.UNTESTED, f"untested: {upgrade.replace('=', ' = ')}")
    assert "no turn ran counter with the new code; records 1 to" in err
    code, out, _ = call("check-upgrade", cut_run, upgrade, "--json")
    assert (code, json.loads(out)["verdict"]) == (ExitCode.UNTESTED, "untested")


def test_bisect_says_which_turns_it_tried(run: Path, cut_run: Path, call: Call) -> None:
    """Goal: "never" claims no more than was tried. Method: the whole run, and one that was cut after three turns."""
    _, _, err = call("bisect", run, "--bad", "False")
    assert err.startswith("never: tried after each of ")
    assert "cut" not in err
    code, _, err = call("bisect", cut_run, "--bad", "False")
    assert (code, err.endswith("; the 3 before were cut by a compaction\n")) == (ExitCode.FAILED, True)
    _, out, _ = call("bisect", cut_run, "--bad", "False", "--json")
    assert json.loads(out)["tried"] == json.loads(out)["retired"] - 3


def test_a_run_that_is_left_out(run: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a missing RUN is told, or taken from ROTA_DIR. Method: each command with too few arguments."""
    for command, said in [
        (("bisect", "--bad", "False"), "or set ROTA_DIR"),
        (("verify",), "or set ROTA_DIR"),
        (("check-upgrade", "counter=x.wasm"), "rota check-upgrade RUN NAME=FILE"),
        (("export", "x.zip"), "rota export RUN FILE"),
        (("diff", run), "rota diff RUN1 RUN2"),
    ]:
        code, _, err = call(*command)
        assert (code, said in err) == (ExitCode.USAGE, True), err
    monkeypatch.setenv("ROTA_DIR", str(run))
    assert call("bisect", "--bad", "True")[0] == ExitCode.OK


def test_bisect(run: Path, call: Call) -> None:
    """Goal: the first turn, or exit code 1. Method: a count that is reached, one that is not, no expression."""
    code, out, _ = call("bisect", run, "--bad", 'target == "counter/a" and number(result) == 2')
    assert code == ExitCode.OK
    assert "turn     2" in out.splitlines()
    code, out, _ = call("bisect", run, "--bad", "turn > 99", "--json")
    assert (code, json.loads(out)["found"]) == (ExitCode.FAILED, False)
    code, _, err = call("bisect", run, "--bad", "1 +")
    assert code == ExitCode.USAGE
    assert "no Python expression" in err
