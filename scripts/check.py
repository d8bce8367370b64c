"""Check the sources without running them: ruff, ruff format, mypy, and basedpyright on the PURE files.

Each check prints one line: its name, verdict and time; below it the output if it failed. They run in parallel. test.py
runs them too, before pytest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from _environment import REPOSITORY, ensure_environment
from _sources import pure_files

CHECK_SECONDS_MAX = 300


def commands(python: Path, folder: Path, *, with_types: bool) -> dict[str, list[str]]:
    """Return the checks by name. Configuration files for them go into `folder`."""
    found = {
        "ruff check": [str(python), "-m", "ruff", "check", "--quiet", "."],
        "ruff format": [str(python), "-m", "ruff", "format", "--check", "--quiet", "."],
    }
    if with_types:
        found["mypy"] = [str(python), "-m", "mypy"]
        found["basedpyright"] = [
            str(python), "-m", "basedpyright", "--pythonpath", str(python), "--project", str(_pure_project(folder)),
        ]  # fmt: skip
    return found


def _pure_project(folder: Path) -> Path:
    """Write the list of files to check, with paths through the checker's link as imports name them: under two names a
    class would be two classes. Files in a dot folder are skipped if given on the command line.
    """
    linked = REPOSITORY / ".checker" / "rota"
    files = [str(linked / path.relative_to(REPOSITORY)) for path in pure_files()]
    project = folder / "pure.json"
    base = str(REPOSITORY / "pyproject.toml")
    project.write_text(json.dumps({"extends": base, "include": files, "exclude": ["**/__pycache__"]}), encoding="utf-8")
    return project


def run_checks(python: Path, *, with_types: bool) -> list[str]:
    """Run the checks, print a line for each, and return the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(commands(python, Path(folder), with_types=with_types))


def _run(checks: dict[str, list[str]]) -> list[str]:
    running: list[tuple[str, subprocess.Popen[str], IO[str]]] = []
    started = time.monotonic()
    for name, command in checks.items():
        # A file, not a pipe: a check with much output must not block until it is read.
        output: IO[str] = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115 - closed below
        running.append((name, _start(command, output), output))
    failed: list[str] = []
    for name, process, output in running:
        try:
            status = process.wait(CHECK_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        output.seek(0)
        said = output.read().strip()
        output.close()
        print(f"check: {'ok    ' if status == 0 else 'FAILED'} {name} ({time.monotonic() - started:.1f} s)", flush=True)
        if status != 0:
            failed.append(name)
            print(said or f"exit code {status}, without output", flush=True)
    return failed


def _start(command: list[str], output: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fast", action="store_true", help="ruff only, no type checkers")
    options = parser.parse_args()
    return 1 if run_checks(ensure_environment(["dev"]), with_types=not options.fast) else 0


if __name__ == "__main__":
    sys.exit(main())
