"""Run what CI runs: every check of check.py, then the tests. Makes `.venv` first if there is none.

    python3 scripts/test.py                        everything
    python3 scripts/test.py --fast                 no type checkers, no tests that start processes
    python3 scripts/test.py tests/broker -k lane   other arguments go to pytest

The whole suite is spread over the processors (pytest-xdist); a part of it runs in one process, so that `-s` and `--pdb`
work. pytest's summary comes last; if a check failed, one more line names it. Exit code 0 means that all checks and all
tests passed; docs/TESTING.md says how to read and repeat a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from _environment import REPOSITORY, ensure_environment
from check import run_checks

# After the first, pytest stops between two tests; the second is for a test that hangs in native code.
SESSION_SECONDS_MAX = 2400
_PROCESSES_MAX = 4  # more gain little: some tests start a dozen processes of their own
_TAKEN = REPOSITORY / ".cache" / "test-seconds.json"  # the times of whole runs here, by kind of run
_FIRST_RUN = {"all": "5 to 25 minutes, less the more cores there are", "fast": "2 to 10 minutes"}
_RUNTIMES = ("python", "javascript")
_FETCH_SECONDS_MAX = 180
RUNTIMES = REPOSITORY / ".cache" / "runtimes"  # where tests find them; tests/conftest.py names the same folder
TOTAL_SECONDS_MAX = SESSION_SECONDS_MAX + 180


def say_how_long(what: str, taken: Path = _TAKEN) -> None:
    """Print the expected time, from the last whole run here if there was one."""
    seconds = _read(taken).get(what)
    last = f"about {_FIRST_RUN[what]}" if seconds is None else f"{seconds // 60} min {seconds % 60} s last time"
    print(f"test: {last}; pytest shows how far it is in percent", flush=True)


def remember(what: str, seconds: float, taken: Path = _TAKEN) -> None:
    """Store the time of a whole run."""
    taken.parent.mkdir(exist_ok=True)
    taken.write_text(json.dumps({**_read(taken), what: round(seconds)}), encoding="utf-8")


def _read(taken: Path) -> dict[str, int]:
    try:
        found = json.loads(taken.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {what: found[what] for what in _FIRST_RUN if isinstance(found, dict) and type(found.get(what)) is int}


def fetch_runtimes(python: Path) -> None:
    """Fetch the runtimes that tests of sources use, once, if npm is here. Without them these tests are skipped."""
    environment = {"ROTA_RUNTIMES": str(RUNTIMES), **os.environ}
    folder = Path(environment["ROTA_RUNTIMES"])
    if len(list(folder.glob("*.wasm"))) >= len(_RUNTIMES) or shutil.which("npm") is None:
        return
    for name in _RUNTIMES:
        print(f"test: fetching the runtime {name}, once, into {folder}", flush=True)
        command = [str(python), "-m", "rota.cli", "runtime", "fetch", name, "--no-progress"]
        try:
            with open(os.devnull, "wb") as nowhere:
                subprocess.run(
                    command, cwd=REPOSITORY, env=environment, stdout=nowhere, timeout=_FETCH_SECONDS_MAX, check=False
                )
        except subprocess.TimeoutExpired:
            print(f"test: {name} did not come in {_FETCH_SECONDS_MAX} s; its tests are skipped", flush=True)


def run_pytest(python: Path, arguments: list[str]) -> int:
    """Run pytest in its own process group and return its exit code; end the group if it takes too long."""
    command = [str(python), "-m", "pytest", f"--session-timeout={SESSION_SECONDS_MAX}", *arguments]
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)
    try:
        return process.wait(TOTAL_SECONDS_MAX)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
        _end(process)
        if isinstance(stop, KeyboardInterrupt):
            return 130
        print(f"pytest ran longer than {TOTAL_SECONDS_MAX} s and was ended", flush=True)
        return 1


def side_by_side() -> list[str]:
    """Return the arguments that spread the tests over the processors; none where there is one."""
    count = min(os.cpu_count() or 1, _PROCESSES_MAX)
    return ["-n", str(count), "--dist", "worksteal"] if count > 1 else []


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt pytest, so that it reports and cleans up; kill its group if it does not end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if os.name == "nt":
            process.terminate()
        else:
            os.killpg(process.pid, number)
        try:
            process.wait(20)
            return
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [-h] [--fast] [pytest arguments ...]",
        description=(__doc__ or "").partition("\n")[0],
        epilog="Example: python3 scripts/test.py --fast tests/broker -k lane",
    )
    parser.add_argument("--fast", action="store_true", help="no type checkers, no tests that start processes")
    options, arguments = parser.parse_known_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    python = ensure_environment(["dev"])
    what = "fast" if options.fast else "all"
    if not arguments:
        say_how_long(what)
    started = time.monotonic()
    fetch_runtimes(python)
    failed = run_checks(python, with_types=not options.fast)
    chosen = ["-m", "not processes"] if options.fast else []
    status = run_pytest(python, chosen + (arguments or side_by_side()))
    if not arguments and status == 0:
        remember(what, time.monotonic() - started)
    if failed:
        print(f"checks that failed: {', '.join(failed)} (see the top of the output)", flush=True)
    return status or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())
