"""The agents' demo as a user runs it, on a decoder with random weights: its decisions mean nothing, its bits do."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rota.model_builds.random_decoder import TINY, build_random_decoder

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
DEMO_SECONDS_MAX = 110
LETTERS = 3
# The examples before each message are about 700 tokens of one byte each.
CONTEXT = 1536


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = dataclasses.replace(TINY, context=CONTEXT)
    return build_random_decoder(tmp_path_factory.mktemp("model"), shape, slots=4)


def demo(run_dir: Path, *arguments: str) -> tuple[int, str]:
    """Run the demo to its end and return its exit code and all that it said; it must leave nothing in `run_dir`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROTA_")}
    command = [sys.executable, str(SCRIPTS / "demo.py"), "agents", "--letters", str(LETTERS), *arguments]
    done = subprocess.run(
        command, env={**environment, "TMPDIR": str(run_dir)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        encoding="utf-8", timeout=DEMO_SECONDS_MAX, check=False,
    )  # fmt: skip
    assert list(run_dir.iterdir()) == []
    return done.returncode, done.stdout + done.stderr


def test_the_society_comes_to_the_same_with_other_workers(run_dir: Path, model: Path) -> None:
    """Goal: what the demo promises, the model's answers included. Method: run it with other numbers of workers."""
    digests = []
    for workers in (["--gpu-workers", "1"], ["--cpu-workers", "1", "--gpu-workers", "2"]):
        code, said = demo(run_dir, "--model", str(model), *workers)
        assert code == 0, said
        digests += re.findall(r"^digest +([0-9a-f]{64})$", said, re.MULTILINE)
        assert re.search(r"tasks again in \d process.*, \d+ of them by the model: equal", said), said
        assert "were read back" not in said
        assert f"{4 * LETTERS} bids, {LETTERS} titles" in said
        assert re.search(r"desk/main .*\n.*department/billing .*\n.*model:smollm2 .*\n.*department/billing", said), said
        assert f"of {LETTERS} with the critic" in said
    assert len(digests) == 2
    assert digests[0] == digests[1]


def test_a_model_that_cannot_do_it_is_told(run_dir: Path, tmp_path: Path) -> None:
    """Goal: a failure ends the demo with its reason. Method: a context that is shorter than the examples."""
    model = build_random_decoder(tmp_path / "short", dataclasses.replace(TINY, context=128))
    code, said = demo(run_dir, "--model", str(model))
    assert code == 1, said
    assert "FAILED     3 messages have no department or no title" in said
    code, said = demo(run_dir, "--model", str(tmp_path / "nothing"))
    assert code == 2, said
    assert "nothing' is no folder with a model.onnx" in said
