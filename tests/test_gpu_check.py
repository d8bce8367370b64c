"""scripts/gpu_check.py: its half for the CPU with tiny sizes, and what its report says of results made up here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _gpu_report import failures, markdown

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "gpu_check.py"
FACTS = {"gpu": {"name": "a GPU"}, "processor": {}, "runtime": "1", "package": "onnxruntime-gpu", "environment": {}}
REFUSED = {"failed": "no kernel"}
FIRST = {"provider": "cuda", "reason": "", "tensorrt": "works", "fallbacks": {"sin": "no kernel"}, "facts": FACTS}


def operators(*, stable: bool) -> dict[str, Any]:
    facts = {"provider": "cuda", "stable": stable, "neighbours": False, "positions": [4], "equal_sizes": [[1], [2, 4]]}
    return {"stage": "operators", "variant": "ours", "result": {"exp": facts}}


def report(*results: dict[str, Any]) -> dict[str, Any]:
    first = {"stage": "providers", "variant": "ours", "result": FIRST}
    return {"cuda": True, "quick": False, "results": [first, *results]}


@pytest.mark.processes
def test_the_half_for_the_cpu_runs(tmp_path: Path) -> None:
    """Goal: the script works before anybody has a GPU for it, and says what it did not measure. Method: tiny sizes."""
    out = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(out), "--seconds", "280"],
        capture_output=True, text=True, check=False, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [one for one in found["results"] if "failed" in one] == []
    measured = {one["stage"] for one in found["results"] if "result" in one}
    assert {"providers", "operators", "decoder", "pair", "convolutions", "throughput"} <= measured
    assert "| matmul-constant" in done.stdout
    if not found["cuda"]:
        assert "CUDA: not measured" in done.stdout
        assert "| graphs | ours | no CUDA |" in done.stdout


def test_without_time_nothing_is_claimed(tmp_path: Path) -> None:
    """Goal: what was not run is said. Method: no time at all."""
    out = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(out), "--seconds", "0"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert {one["missing"] for one in json.loads(out.read_text(encoding="utf-8"))["results"]} <= {
        "no time left",
        "no CUDA",
    }
    assert "The first stage gave no result." in done.stdout


def test_what_must_be_equal_is_checked() -> None:
    """Goal: the script fails where bits differ that must not. Method: results of two processes, and of two runs."""
    same = {"stage": "pair", "variant": "ours", "result": {"alone": [{"a": "1"}], "together": [{"a": "1"}, {"a": "1"}]}}
    other = {**same, "result": {"alone": [{"a": "1"}], "together": [{"a": "1"}, {"a": "2"}]}}
    assert failures(report(same, operators(stable=True))) == []
    assert failures(report(other)) == ["pair (ours): processes that share a device differ from one alone"]
    assert failures(report(operators(stable=False))) == ["operators (ours): differ from run to run: exp"]
    assert failures(report({"stage": "graphs", "variant": "ours", "failed": "x"})) == ["graphs (ours): x"]


def test_the_tables_say_what_was_found() -> None:
    """Goal: the report can be read without the JSON. Method: one result of each kind."""
    graphs = {"ours": {"digest": "a", "microseconds": 9.0}, "graphs": {"digest": "b", "microseconds": 5.0}}
    evidence = [{"rows": 9, "differing": 2}]
    decoder = {"class": "C", "reason": "slots", "slots": 1, "evidence": evidence}
    text = markdown(
        report(
            operators(stable=True),
            {"stage": "graphs", "variant": "ours", "result": graphs},
            {"stage": "decoder", "variant": "math", "result": {"float16": decoder, "bfloat16": REFUSED}},
            {"stage": "tokens", "variant": "ours", "result": {
                "float32": {"compared": 64, "providers": ["cpu", "cuda"], "parts_at": 7}
            }},
            {"stage": "decoder", "variant": "no-flash", "failed": "not finished in 60 s"},
        )
    )  # fmt: skip
    for line in (
        "onnxruntime-gpu 1, cuda: a GPU.",
        "| sin | no kernel |",
        "| exp | = | = | 4 | 1; 2, 4 |",
        "A captured graph gives the same bits: NO. 9.0 us a run without, ",
        "| float16 | C | 1 | 9 | 2 | slots |",
        "| bfloat16 | - | - | - | - | no kernel |",
        "| float32 | 64 | cpu and cuda | 7 |",
        "| decoder | no-flash | not finished in 60 s |",
    ):
        assert line in text.splitlines()
