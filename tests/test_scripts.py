"""Every script says how it is used, before anything is installed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
# `_environment.py` and the like are read by scripts; they are not scripts.
PROGRAMS = sorted(path for path in SCRIPTS.glob("*.py") if not path.name.startswith("_"))
HELP_SECONDS_MAX = 20


@pytest.mark.processes
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_help_needs_nothing_installed(path: Path) -> None:
    """Goal: `--help` works in a fresh clone. Method: run it with the Python below the environment, without site."""
    base = getattr(sys, "_base_executable", sys.executable)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "PYTHON"))}
    done = subprocess.run(
        [base, "-S", str(path), "--help"],
        cwd=SCRIPTS.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HELP_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "usage" in done.stdout.lower()
    assert done.stderr == ""


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_the_head_says_what_it_does(path: Path) -> None:
    """Goal: who opens a script knows what it is for. Method: it has a head whose first line is a sentence."""
    head = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert head
    assert len(head.splitlines()[0].split()) >= 4
