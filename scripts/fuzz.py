"""Fuzz every decoder of bytes from outside.

    python3 scripts/fuzz.py                      every target in turn, three minutes in all
    python3 scripts/fuzz.py --minutes 60         longer
    python3 scripts/fuzz.py --target wasm-module only this one; give it several times for several
    python3 scripts/fuzz.py --target record --seed 7 --rounds 1   repeat a round that failed
    python3 scripts/fuzz.py --list               the names of the targets

A round tries one target with valid and mutated inputs (scripts/_fuzz_engine.py, tests/fuzz) and prints its seed. A
finding is printed with the input and how to repeat it, and ends the rounds of its target. A target that hangs ends the
script after a minute, with a traceback below the line of its round. Exit code 1 after a finding.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _environment import REPOSITORY, ensure_environment

MINUTES_DEFAULT = 3.0
HANG_SECONDS = 60.0
INTERRUPTED = 130


def main() -> int:
    options = _options()
    ensure_environment(["dev"])
    sys.path.insert(0, str(REPOSITORY / "tests" / "kits"))
    targets: dict[str, Any] = importlib.import_module("fuzz_targets").TARGETS
    if options.list:
        print("\n".join(targets))
        return 0
    unknown = [name for name in options.target if name not in targets]
    if unknown:
        print(f"no target {unknown[0]!r}; there are: {', '.join(targets)}", file=sys.stderr)
        return 2
    chosen = {name: target for name, target in targets.items() if name in (options.target or targets)}
    table = {name: {"executions": 0, "taken": 0, "seconds": 0.0, "rounds": 0, "finding": None} for name in chosen}
    try:
        _campaign(options, chosen, table)
    except KeyboardInterrupt:
        print("fuzz: interrupted", file=sys.stderr)
        _print_table(table, options.json)
        return INTERRUPTED
    _print_table(table, options.json)
    return 1 if any(row["finding"] for row in table.values()) else 0


def _campaign(options: argparse.Namespace, targets: dict[str, Any], table: dict[str, dict[str, Any]]) -> None:
    """Run a round of every target in turn, until the time or the rounds are over."""
    ends = time.monotonic() + options.minutes * 60
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    done = 0
    while (done < options.rounds) if options.rounds else (done == 0 or time.monotonic() < ends):
        left = [name for name in targets if table[name]["finding"] is None]
        for name in left:
            if not options.rounds and done and time.monotonic() >= ends:
                return
            _round(name, targets[name], seed, options.inputs, table[name], options.json)
        if not left:
            return
        done += 1
        seed = (seed + 1) % (1 << 32)


def _round(name: str, target: Any, seed: int, inputs: int | None, row: dict[str, Any], quiet: bool) -> None:
    from _fuzz_engine import Finding, explore

    said = sys.stderr if quiet else sys.stdout
    print(f"{name} seed {seed}: ", end="", file=said, flush=True)
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    row["rounds"] += 1
    try:
        with tempfile.TemporaryDirectory() as folder:
            tally = explore(target, Path(folder) / "scratch", seed, inputs)
    except Finding as finding:
        row["finding"] = str(finding)
        print(
            f"FOUND\n{finding}\n  repeat: python3 scripts/fuzz.py --target {name} --seed {seed} --rounds 1", file=said
        )
        return
    finally:
        faulthandler.cancel_dump_traceback_later()
    row["executions"] += tally.executions
    row["taken"] += tally.taken
    row["seconds"] = round(row["seconds"] + tally.seconds, 2)
    print(f"{tally.executions} inputs, {tally.taken} taken, {tally.executions / tally.seconds:.0f}/s", file=said)


def _print_table(table: dict[str, dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(table, indent=1))
        return
    print(f"{'target':<18}{'inputs':>10}{'taken':>10}{'per second':>12}")
    for name, row in table.items():
        pace = row["executions"] / row["seconds"] if row["seconds"] else 0
        print(f"{name:<18}{row['executions']:>10}{row['taken']:>10}{pace:>12.0f}{'  FOUND' if row['finding'] else ''}")
    total = sum(row["executions"] for row in table.values())
    print(f"fuzz: {total} inputs, {sum(row['finding'] is not None for row in table.values())} findings")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES_DEFAULT, help="begin no round after so long")
    parser.add_argument("--seed", type=int, help="of the first round; the next ones count up (default: by chance)")
    parser.add_argument("--rounds", type=int, default=0, help="so many rounds of each target, whatever --minutes says")
    parser.add_argument("--target", action="append", default=[], help="only this target; may be given several times")
    parser.add_argument("--inputs", type=int, help="valid inputs of a round (default: as many as a test run has)")
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    parser.add_argument("--json", action="store_true", help="print the table as JSON; progress goes to stderr")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
