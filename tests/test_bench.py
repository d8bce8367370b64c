"""The bench runs, and its output can be read. Speed is not tested; see docs/BENCHMARKS.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parent.parent / "scripts" / "bench.py"
SECONDS_MAX = 280  # on a busy machine; about 30 alone
WITHOUT_BOUND = ("p99", "max", "fsync", "the same", "run file", "counter in", "planner.", "memory of the worker with")


def run_bench(*arguments: str, temporary: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
        env=dict(os.environ) if temporary is None else {**os.environ, "TMPDIR": str(temporary)},
    )


@pytest.mark.processes
@pytest.mark.timeout(SECONDS_MAX + 10)
def test_a_quick_run_measures_every_case_and_leaves_nothing_behind(run_dir: Path) -> None:
    """Goal: a figure and its bounds for every case, nothing left. Method: `--quick --json`; read it, and its TMPDIR.

    That no process is left is seen at the end of the session, by conftest.py.
    """
    done = run_bench("--quick", "--json", temporary=run_dir)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["quick"] is True
    assert report["rounds"] == 1
    assert len(report["load_average"]) == 2
    assert report["machine"]["processors"] > 0
    assert report["machine"]["packages"]["rota"]
    cases = {
        "tasks", "latency", "agents", "asks", "flows", "tensor", "inference", "texts", "generation", "local",
        "recovery", "start by length of journal", "verify",
    }  # fmt: skip
    assert {row["case"] for row in report["rows"]} == cases
    for row in report["rows"]:
        assert 0 < row["min"] <= row["median"] <= row["max"], row
        assert row["unit"], row
        assert len(row["rounds"]) == 1, row
        assert bool(row["bounds"]) != any(word in row["name"] for word in WITHOUT_BOUND), row
        for bound in row["bounds"]:
            assert 0 < bound["min"] <= bound["median"] <= bound["max"], row
            assert bound["ratio"] > 0, row
    assert list(run_dir.iterdir()) == []


def test_a_wrong_case_is_refused_with_the_ones_there_are() -> None:
    """Goal: no run that measures nothing. Method: `--only` with a name that is no case."""
    done = run_bench("--only", "nothing")
    assert done.returncode == 2
    assert "recovery" in done.stderr
