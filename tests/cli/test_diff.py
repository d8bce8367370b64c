"""`rota diff`: its output for people and for programs, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_kit import counting, program, records_of, write_run

from rota.broker import records
from rota.cli.exits import ExitCode
from rota.common.digests import lane_seed
from rota.common.messages import LaneSettings
from rota.runs.export import export_run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs that differ from position 11 on, by a payload with control characters."""
    one = write_run(tmp_path / "one", records_of(counting()))
    changed = program(["add", 99], ["log", "\x1b[2J"])
    other = write_run(tmp_path / "other", records_of(counting(change={5: changed})))
    return one, other


def test_the_verdict_in_words(runs: tuple[Path, Path], call: Call) -> None:
    """Goal: a person reads where, what and why. Method: the lines that say it; nothing raw reaches the terminal."""
    code, out, err = call("diff", *runs)
    assert (code, err) == (ExitCode.FAILED, "")
    lines = out.splitlines()
    assert lines[0].startswith("run 1  24 retired, digest ")
    assert lines[3] == "lane main: the same up to position 10, first difference at position 11"
    assert "why: another task came from outside: it differs in payload (input)" in lines
    at = next(place for place, line in enumerate(lines) if line.startswith("  payload"))
    assert "first differs at byte 8" in lines[at]
    assert lines[at + 3].index("^") == lines[at + 1].index('6],["tell"')
    assert any("Submitted by alice, its number 7) > turn 11; its code by record" in line for line in lines)
    assert any(line.startswith("  tasks only in run 1: 2 (turn 11 counter/a2, turn 12 counter/sum1)") for line in lines)
    assert "\x1b" not in out


def test_lanes_that_are_not_compared_are_named(tmp_path: Path, call: Call) -> None:
    """Goal: "the same" claims no more than was compared. Method: equal runs of one lane, and of two."""
    made = records_of(counting())
    side = records.Opened("side", 1, records.Origin("", 0, bytes(32)), LaneSettings(seed=lane_seed("side")), False, ())
    for name, run in (("one", made), ("two", [*made, side])):
        write_run(tmp_path / name, run)
    code, out, _ = call("diff", tmp_path / "one", tmp_path / "one")
    assert (code, "not compared" in out) == (ExitCode.OK, False)
    code, out, _ = call("diff", tmp_path / "one", tmp_path / "two")
    assert (code, out.splitlines()[-1]) == (ExitCode.OK, "not compared: side (--lane names another lane)")
    _, out, _ = call("diff", tmp_path / "two", tmp_path / "one", "--json")
    assert json.loads(out)["lanes_not_compared"] == ["side"]


def test_the_verdict_for_programs(runs: tuple[Path, Path], call: Call) -> None:
    """Goal: the same as values. Method: the JSON of two runs that differ, and of a run and its archive."""
    code, out, _ = call("diff", *runs, "--json")
    found = json.loads(out)
    assert code == ExitCode.FAILED
    assert (found["equal"], found["shared"], found["first"]["position"], found["first"]["cause"]) == (
        False, 10, 11, "input",
    )  # fmt: skip
    differs = {part["name"]: part for part in found["first"]["differs"]}
    assert differs["payload"]["first_byte"] == 8
    assert [len(digest) for digest in differs["state digest"]["digests"]] == [64, 64]
    assert [side["task"]["turn"] for side in found["first"]["sides"]] == [11, 11]
    archive = runs[0].parent / "one.rota.zip"
    export_run(runs[0], archive)
    code, out, _ = call("diff", runs[0], archive, "--json")
    found = json.loads(out)
    assert (code, found["equal"], found["first"], found["agents"]["same"]) == (ExitCode.OK, True, None, 5)


def test_how_it_ends_otherwise(runs: tuple[Path, Path], call: Call) -> None:
    """Goal: an error is not taken for a difference. Method: no such run, no such lane; equal in words."""
    assert call("diff", runs[0], runs[0] / "nowhere")[0] == ExitCode.CONFIG
    code, _, err = call("diff", *runs, "--lane", "x")
    assert code == ExitCode.REFUSED
    assert "has no lane 'x'" in err
    code, out, _ = call("diff", runs[0], runs[0])
    assert code == ExitCode.OK
    assert out.endswith("lane main: the same, turn for turn\n")
