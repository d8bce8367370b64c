"""Check on one GPU what the documentation says of CUDA, in one command of at most five minutes.

    python3 scripts/gpu_check.py                      # all stages; writes gpu-check.json and prints a table
    python3 scripts/gpu_check.py --out result.json --seconds 280
    python3 scripts/gpu_check.py --quick              # small sizes: does it run?

Each stage is a process of its own with a bound on its time, because environment variables are read once and a lost
device ends a process. Without CUDA the same stages run on the CPU where that makes sense, and the report says what is
missing. The table is for docs/INFERENCE.md. Exit code 1: a stage failed, or results that must be equal are not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from _environment import ensure_environment

SECONDS = 290.0
STAGES = Path(__file__).resolve().parent / "_gpu_stages.py"
END_SECONDS = 5.0  # kept for the report


class Stage(NamedTuple):
    """A process to run. `variant` names its settings (see `VARIANTS` of _gpu_stages.py); `seconds` bounds its time."""

    name: str
    variant: str
    seconds: float
    needs_cuda: bool = False


# In order of importance: what the time does not suffice for is reported as not run.
PLAN = (
    Stage("providers", "ours", 40),
    Stage("operators", "ours", 90),
    Stage("decoder", "ours", 60),
    Stage("tokens", "ours", 40, needs_cuda=True),
    Stage("pair", "ours", 40),
    Stage("operators", "split-k", 60, needs_cuda=True),
    Stage("operators", "large-workspace", 60, needs_cuda=True),
    Stage("operators", "tf32", 60, needs_cuda=True),
    Stage("convolutions", "ours", 40),
    Stage("convolutions", "exhaustive", 60, needs_cuda=True),
    Stage("graphs", "ours", 40, needs_cuda=True),
    Stage("throughput", "ours", 60),
    Stage("decoder", "no-flash", 60, needs_cuda=True),
    Stage("decoder", "math", 60, needs_cuda=True),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="where the JSON goes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of it")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs")
    options = parser.parse_args()
    ensure_environment(["dev"])
    report = checked(options.seconds, quick=options.quick)
    options.out.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    from _gpu_report import failures, markdown

    print(markdown(report))
    wrong = failures(report)
    for text in wrong:
        print(f"gpu_check: {text}", file=sys.stderr)
    return 1 if wrong else 0


def checked(seconds: float, *, quick: bool) -> dict[str, Any]:
    """Run all stages and return the report."""
    end = time.monotonic() + seconds - END_SECONDS
    results: list[dict[str, Any]] = []
    has_cuda = True  # until the first stage has said
    for stage in PLAN:
        left = end - time.monotonic()
        facts = {"stage": stage.name, "variant": stage.variant}
        if stage.needs_cuda and not has_cuda:
            results.append({**facts, "missing": "no CUDA"})
        elif left < 1:
            results.append({**facts, "missing": "no time left"})
        else:
            print(f"{stage.name}, {stage.variant}", file=sys.stderr, flush=True)
            results.append({**facts, **run_stage(stage, min(stage.seconds, left), quick=quick)})
        if stage.name == "providers":
            has_cuda = results[0].get("result", {}).get("provider") == "cuda"
    return {"cuda": has_cuda, "quick": quick, "results": results}


def run_stage(stage: Stage, seconds: float, *, quick: bool) -> dict[str, Any]:
    """Run a stage in a process; return its result, or why there is none."""
    command = [sys.executable, str(STAGES), stage.name, stage.variant, *(["--quick"] if quick else [])]
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished in {seconds:.0f} s"}
    took = {"seconds": round(time.monotonic() - started, 1)}
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-3:]
        return {**took, "failed": f"exit code {done.returncode}: {' | '.join(last)[:500]}"}
    return {**took, "result": json.loads(done.stdout.splitlines()[-1])}


if __name__ == "__main__":
    raise SystemExit(main())
