"""Inject random faults into real processes, and check that outcomes do not show them.

    python3 scripts/campaign.py                       three minutes with a new seed
    python3 scripts/campaign.py --minutes 60
    python3 scripts/campaign.py --seed 7 --rounds 1   the round that was printed as `seed 7`

A round starts `rota up` in a new run folder, with a forest of relays at pinned positions and a producer that submits
continuously, and kills, suspends, drains and restarts processes by a plan that follows from the seed. Then it checks:
the digest is that of an undisturbed run, every task has one result, no result was changed, no two executions differed,
and the journal folds to what the broker reported. The plan is deterministic but the timing is not, so a failed seed may
need several tries. Not part of CI. Exit code 0: every round passed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from _environment import ensure_environment

MINUTES_DEFAULT = 3.0
INTERRUPTED = 130


def main() -> int:
    options = _options()
    ensure_environment(["cpu"])
    from _campaign_round import Failure, run_round

    ends = time.monotonic() + options.minutes * 60
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    done = failed = 0
    try:
        while (done < options.rounds) if options.rounds else (done == 0 or time.monotonic() < ends):
            started = time.monotonic()
            try:
                said = run_round(seed, options.keep, options.disturb_seconds)
            except Failure as failure:
                failed += 1
                said = f"FAILED: {failure}\n    repeat: python3 scripts/campaign.py --seed {seed} --rounds 1"
            print(f"seed {seed}: {said} ({time.monotonic() - started:.0f} s)", flush=True)
            done += 1
            seed += 1
    except KeyboardInterrupt:
        print("campaign: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"campaign: {done} rounds, {failed} failed")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES_DEFAULT, help="begin no round after so long")
    parser.add_argument("--seed", type=int, help="of the first round; the next ones count up (default: by chance)")
    parser.add_argument("--rounds", type=int, default=0, help="number of rounds; overrides --minutes")
    parser.add_argument("--disturb-seconds", type=float, default=8.0, help="how long a round is disturbed")
    parser.add_argument("--keep", type=Path, help="keep the run folders of failed rounds below this one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
