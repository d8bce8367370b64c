"""Plant faults in the core, one at a time, and show that the suite catches each of them.

    python3 scripts/mutate.py                      every fault of scripts/_mutations.py
    python3 scripts/mutate.py --only lost-emit     one of them; give it several times for several
    python3 scripts/mutate.py --list               their names and what each breaks
    python3 scripts/mutate.py --committed          the committed files, not the working tree

The sources are copied to a temporary folder and only the copy is changed. First the tests must pass on the unchanged
copy; then each fault is planted alone, its tests are run until one fails, and the file is restored. A fault that no
test catches has survived. Exit code 1: one survived, or its text is no longer in its file.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from _environment import REPOSITORY, ensure_environment
from _mutations import MUTATIONS, Mutation

SECONDS_MAX: Final = 300.0  # of the tests for one fault; a hang counts as caught
CONTROL_SECONDS_MAX: Final = 900.0
TEST_SECONDS_MAX: Final = 60  # of one test: a fault may make it loop
_LEFT_OUT: Final = (".*", "__pycache__", "*.egg-info", "node_modules")
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (?:[^\s:]+/)?(.+?)(?: - .*)?$", re.MULTILINE)


def main() -> int:
    options = _options()
    chosen = [mutation for mutation in MUTATIONS if mutation.name in (options.only or mutation.name)]
    if options.list:
        for mutation in MUTATIONS:
            print(f"{mutation.name:<34}{mutation.promise}")
        return 0
    unknown = [name for name in options.only if name not in [mutation.name for mutation in MUTATIONS]]
    if unknown:
        print(f"no fault {unknown[0]!r}: --list shows their names", file=sys.stderr)
        return 2
    ensure_environment(["dev"])
    if hasattr(os, "nice"):
        os.nice(10)
    said = sys.stderr if options.json else sys.stdout
    with tempfile.TemporaryDirectory(prefix="rota-mutate-") as folder:
        copy = _copy(Path(folder), options.committed)
        if not options.no_control and not _control(copy, chosen, said):
            return 1
        rows = []
        for mutation in chosen:
            rows.append(_plant(copy, mutation))
            print(_line(rows[-1]), file=said, flush=True)
    bad = [row for row in rows if row["caught"] != "yes"]
    if options.json:
        print(json.dumps(rows, indent=1))
    print(f"mutate: {len(rows)} faults, {len(rows) - len(bad)} caught, {len(bad)} not", file=said)
    return 1 if bad else 0


def _copy(folder: Path, committed: bool) -> Path:
    """Copy the sources to `folder/rota`, so that `rota.broker` is found in `folder` first."""
    copy = folder / "rota"
    if committed:
        packed = subprocess.run(["git", "archive", "HEAD"], cwd=REPOSITORY, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(copy, filter="data")
    else:
        shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    found = _python(copy, ["-c", "import rota.broker.lane as lane; print(lane.__file__)"], 60).stdout.strip()
    if Path(found).resolve() != (copy / "broker" / "lane.py").resolve():
        sys.exit(f"mutate: the copy is not what runs, but {found}")
    return copy


def _control(copy: Path, chosen: list[Mutation], said: Any) -> bool:
    """Return whether the tests pass without a fault: a test that always fails proves nothing."""
    tests = list(dict.fromkeys(test for mutation in chosen for test in mutation.tests))
    started = time.monotonic()
    code, output = _run_tests(copy, tests, CONTROL_SECONDS_MAX)
    if code != 0:
        print(f"mutate: the tests fail without a fault:\n{output[-3_000:]}", file=said)
        return False
    print(
        f"without a fault: all of {len(tests)} files and folders pass ({time.monotonic() - started:.0f} s)", file=said
    )
    return True


def _plant(copy: Path, mutation: Mutation) -> dict[str, Any]:
    """Plant one fault and run its tests; return its row of the table."""
    row: dict[str, Any] = {**mutation._asdict(), "caught": "no", "by": "", "seconds": 0.0}
    path = copy / mutation.file
    whole = path.read_text(encoding="utf-8")
    if whole.count(mutation.text) != 1:
        return {**row, "caught": "does not apply", "by": f"its text occurs {whole.count(mutation.text)} times"}
    changed = whole.replace(mutation.text, mutation.replacement)
    compile(changed, mutation.file, "exec")
    started = time.monotonic()
    path.write_text(changed, encoding="utf-8")
    try:
        code, output = _run_tests(copy, list(mutation.tests), SECONDS_MAX)
    finally:
        path.write_text(whole, encoding="utf-8")
    row["seconds"] = round(time.monotonic() - started, 1)
    if code is None:
        return {**row, "caught": "yes", "by": f"its tests had not ended after {SECONDS_MAX:.0f} s"}
    failed = _FAILED.search(output)
    if code != 0 and failed is not None:
        return {**row, "caught": "yes", "by": failed[1]}
    return row if code == 0 else {**row, "caught": "no answer", "by": output[-2_000:]}


def _run_tests(copy: Path, tests: list[str], seconds_max: float) -> tuple[int | None, str]:
    arguments = [
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "--tb=no",
        f"--timeout={TEST_SECONDS_MAX}",
        *tests,
    ]
    try:
        done = _python(copy, arguments, seconds_max)
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout + done.stderr


def _python(copy: Path, arguments: list[str], seconds_max: float) -> subprocess.CompletedProcess[str]:
    """Run Python on the copy. Its folder is first on the path, before the editable install."""
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds_max,
        check=False,
    )


def _line(row: dict[str, Any]) -> str:
    mark = "" if row["caught"] == "yes" else f"{row['caught'].upper()}: "
    return f"{row['name']:<34}{row['file']:<26}{row['seconds']:>6.1f} s  {mark}{row['by'] or 'no test saw it'}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="only this fault; give it again for more"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the faults")
    parser.add_argument("--committed", action="store_true", help="copy what is committed, not the working tree")
    parser.add_argument("--no-control", action="store_true", help="do not run the tests without a fault first")
    parser.add_argument("--json", action="store_true", help="print the table as JSON; progress goes to stderr")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
