"""Every script prints its usage before anything is installed."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import _environment
import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
# `_environment.py` and the like are read by scripts; they are not scripts.
PROGRAMS = sorted(path for path in SCRIPTS.glob("**/*.py") if not path.name.startswith("_"))
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


def test_the_set_up_is_not_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: minutes of pip look alive in a log too. Method: lines of pip, and a moment that is longer than the pace."""
    with _environment._Progress(live=False, every_s=0.01) as progress:
        progress.show("Collecting numpy>=2\n")
        progress.show("  Using cached numpy.whl\n")
        said = ""
        while "Collecting numpy" not in said:
            said += capsys.readouterr().err
    assert re.search(r"^setup: +\d+ s: Collecting numpy>=2$", said, re.MULTILINE), said


def test_the_set_up_does_not_repeat_itself_at_each_step() -> None:
    """Goal: one line says as much as ten. Method: five minutes at one step of pip, then a new one."""
    progress = _environment._Progress(live=False)
    progress.show("Installing collected packages: numpy\n")
    said = [moment for moment in range(5, 300, 5) if progress.line(moment)]
    assert said == [5, 10, 20, 40, 80, 160]
    progress.show("Building wheels\n")
    assert progress.line(301) == "301 s: Building wheels"


def test_the_suite_says_how_long_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: the expected time is printed. Method: before the first run, after one, and with a damaged note."""
    script = _load("test.py")
    taken = tmp_path / "cache" / "taken.json"
    script.say_how_long("all", taken)
    assert "about 5 to 25 minutes" in capsys.readouterr().out
    script.remember("all", 754.4, taken)
    script.say_how_long("all", taken)
    assert "12 min 34 s last time" in capsys.readouterr().out
    taken.write_text("[]", encoding="utf-8")
    script.say_how_long("fast", taken)
    assert "about 2 to 10 minutes" in capsys.readouterr().out


def _load(name: str) -> Any:
    """A script as a module; `test` itself is a package of Python's own."""
    spec = importlib.util.spec_from_file_location(f"_script_{name[:-3]}", SCRIPTS / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
