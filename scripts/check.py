"""Check the sources without running them: ruff, ruff format, mypy, and basedpyright on the PURE files.

Each check is one line: its name, its verdict, its time; what a failing one said comes below it. They run side by side.
`test.py` runs them too, before pytest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from _environment import REPOSITORY, ensure_environment
from _sources import pure_files

CHECK_SECONDS_MAX = 300


def commands(python: Path, *, with_types: bool) -> dict[str, list[str]]:
    """Return the checks by name."""
    found = {
        "ruff check": [str(python), "-m", "ruff", "check", "--quiet", "."],
        "ruff format": [str(python), "-m", "ruff", "format", "--check", "--quiet", "."],
    }
    if with_types:
        found["mypy"] = [str(python), "-m", "mypy"]
        found["basedpyright"] = [str(python), "-m", "basedpyright", *(str(path) for path in pure_files())]
    return found


def run_checks(python: Path, *, with_types: bool) -> list[str]:
    """Run the checks, print a line for each, and return the names of those that failed."""
    running: list[tuple[str, subprocess.Popen[str], IO[str]]] = []
    started = time.monotonic()
    for name, command in commands(python, with_types=with_types).items():
        # A file, not a pipe: a check that says much must not wait for its turn to be read.
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
            print(said or f"exit code {status}, and not a word", flush=True)
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
