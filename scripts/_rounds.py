"""Rounds of a campaign: a seed each, until the time or their number is over. Standard library only."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable

MINUTES_DEFAULT = 3.0
INTERRUPTED = 130


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `run` reads."""
    parser.add_argument("--minutes", type=float, default=MINUTES_DEFAULT, help="begin no round after so long")
    parser.add_argument("--seed", type=int, help="of the first round; the next ones count up (default: by chance)")
    parser.add_argument("--rounds", type=int, default=0, help="number of rounds; overrides --minutes")


def run(name: str, options: argparse.Namespace, run_round: Callable[[int], tuple[bool, str]]) -> int:
    """Run rounds and print a line for each; return the exit code. `run_round(seed)`: whether it passed, and what to
    print.
    """
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    ends = time.monotonic() + options.minutes * 60
    done = failed = 0
    try:
        while (done < options.rounds) if options.rounds else (done == 0 or time.monotonic() < ends):
            started = time.monotonic()
            passed, said = run_round(seed)
            failed += not passed
            print(f"seed {seed}: {said} ({time.monotonic() - started:.0f} s)", flush=True)
            done += 1
            seed += 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"{name}: {done} rounds, {failed} failed")
    return 1 if failed else 0
