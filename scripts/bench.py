"""Measure Rota on this machine, each figure with a bound measured in the same run.

    python3 scripts/bench.py                          every case, 5 rounds: about 6 minutes
    python3 scripts/bench.py --only latency           one case; may be given more than once
    python3 scripts/bench.py --quick --json           does it run? The figures mean nothing

docs/BENCHMARKS.md explains the cases, the bounds and how to read them. Processes run in folders that are removed
afterwards; progress goes to stderr. Other load on the machine affects the figures: see the load average, min and max.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _bench_table import Table
from _environment import REPOSITORY, ensure_environment

if TYPE_CHECKING:
    from _bench_cases import Place, Sizes

CASES = (
    "tasks",
    "latency",
    "agents",
    "asks",
    "flows",
    "tensor",
    "inference",
    "texts",
    "generation",
    "local",
    "recovery",
    "snapshots",
    "verify",
)
ROUNDS = 5
QUIET_LOAD = 1.5
PACKAGES = ("rota", "pyzmq", "msgpack", "blake3", "numpy", "wasmtime", "onnxruntime", "onnxruntime-gpu")
INTERRUPTED = 130


def main() -> int:
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        ensure_environment(["dev"])
        for name in [name for name in os.environ if name.startswith("ROTA_")]:
            del os.environ[name]  # the caller's settings must not affect the figures
        report = _bench(options)
    except KeyboardInterrupt:
        print("\nbench: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(json.dumps(report, indent=1) if options.json else _text(report), flush=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--only", action="append", choices=CASES, metavar="NAME", help=f"of {', '.join(CASES)}; may be repeated")
    add("--rounds", type=_count, default=ROUNDS, metavar="N", help=f"how often each is measured (default: {ROUNDS})")
    add("--quick", action="store_true", help="one short round: shows that it runs, not how fast")
    add("--json", action="store_true", help="print JSON instead of text")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 1_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return int(text)


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    from _bench_cases import CASES as RUNS
    from _bench_cases import FULL, QUICK

    sizes, rounds = (QUICK, 1) if options.quick else (FULL, options.rounds)
    wanted = [name for name in CASES if not options.only or name in options.only]
    table = Table()
    load, started = [_load()], time.time()
    if load[0] > QUIET_LOAD and not options.quick:
        print(f"bench: the load average is {load[0]:.1f}: other work will show in the figures", file=sys.stderr)
    for name in wanted:
        for run in RUNS[name]:
            _run_case(name, run, table, sizes, rounds)
    load.append(_load())
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "commit": _commit(),
        "machine": _machine(),
        "load_average": load,
        "quick": options.quick,
        "rounds": rounds,
        "sizes": sizes._asdict(),
        "rows": table.as_json(),
        "text": table.text(),
    }


def _run_case(name: str, run: Callable[[Place], Any], table: Table, sizes: Sizes, rounds: int) -> None:
    """Run one case in a new folder; closing its generator ends its processes."""
    from contextlib import closing

    from _bench_cases import Place
    from _demo_processes import run_folder

    said = ""

    def say(text: str) -> None:
        nonlocal said
        line = f"bench: {name}, round {number} of {rounds}: {text}"
        if line != said:
            print(line, file=sys.stderr, flush=True)
        said = line

    number = 1
    with run_folder(None) as folder, closing(run(Place(folder, table, sizes, say))) as case:
        for number in range(1, rounds + 1):  # noqa: B007 - `say` reads it
            next(case)


def _text(report: dict[str, Any]) -> str:
    machine, load = report["machine"], report["load_average"]
    return "\n".join(
        [
            f"commit {report['commit']}, {report['started']}, {report['seconds']:.0f} s, {report['rounds']} rounds, "
            f"load average {load[0]:.2f} before and {load[1]:.2f} after",
            f"{machine['processors']} processors ({machine['model']}), {machine['system']}, Python {machine['python']}",
            ", ".join(f"{name} {number}" for name, number in machine["packages"].items()),
            report["text"],
        ]
    )


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processors": os.cpu_count(),
        "model": model,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
    }


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """Return the commit of the sources, with a mark if they were changed since; "" without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
