"""The model of examples/models/mood.py, which docs/MODELS.md shows, does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rota import local

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "examples" / "models" / "mood.py"
TEXTS = ["what a lovely, happy day", "the film was bad", "Sad, but GREAT; I laugh " + "and laugh " * 20, "neither"]


def test_it_tells_moods(rota_lane: local.LocalLane, tmp_path: Path) -> None:
    """Goal: the folder can be added and asked. Method: write it as a user does; texts of both buckets."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    done = subprocess.run(
        [sys.executable, str(SOURCE), str(tmp_path / "mood")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    rota_lane.deploy("mood", tmp_path / "mood", "model")
    found = rota_lane.classify("mood", TEXTS)
    assert [labels[0][0] for labels in found[:3]] == ["happy", "sad", "happy"]
    assert [score for _, score in found[3]] == [0.5, 0.5]


def test_the_page_shows_it() -> None:
    """Goal: docs/MODELS.md shows a whole model. Method: the program behind its docstring, on the page."""
    _, start, rest = SOURCE.read_text(encoding="utf-8").partition("import sys\n")
    assert f"```python\n{start}{rest}```" in (REPOSITORY / "docs" / "MODELS.md").read_text(encoding="utf-8")
