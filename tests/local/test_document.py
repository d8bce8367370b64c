"""The programs in docs/LOCAL.md run unchanged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "LOCAL.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PROGRAMS = [block for block in BLOCKS if "def test_" not in block]
TESTS = [block for block in BLOCKS if "def test_" in block]


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_run(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what is shown can be typed in. Method: run each block, from the top of the repository."""
    monkeypatch.chdir(REPOSITORY)
    exec(compile(program, "docs/LOCAL.md", "exec"), {"__name__": "example"})


@pytest.mark.processes
def test_tests_pass(tmp_path: Path) -> None:
    """Goal: the shown tests are tests. Method: a pytest of their own, from the top of the repository."""
    assert (len(PROGRAMS), len(TESTS)) == (6, 1)
    (tmp_path / "test_shown.py").write_text(TESTS[0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_every_public_method_is_told() -> None:
    """Goal: the page is whole. Method: the public names of a lane and of a turn, as words of the page."""
    from rota.local import LocalLane, Turn

    names = [name for cls in (LocalLane, Turn) for name in dir(cls) if not name.startswith("_") and name != "as_result"]
    assert len(names) > 40
    assert not [name for name in names if not re.search(rf"\b{name}\b", PAGE)]
