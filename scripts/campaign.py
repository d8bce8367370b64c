"""Inject random faults into real processes, and check that outcomes do not show them.

    python3 scripts/campaign.py                       three minutes with a new seed
    python3 scripts/campaign.py --minutes 60
    python3 scripts/campaign.py --seed 7 --rounds 1   the round that was printed as `seed 7`

A round starts `rota up` with 1, 2, 4 or 8 workers in a new run folder, with a forest of relays at pinned positions,
agents and flows that wait for each other (tests/kits/society.py), flows that sleep and meet deadlines, and a producer
that submits continuously, and kills, suspends, drains and restarts processes by a plan that follows from the seed. Then
it checks: the digests are those of an undisturbed run, every task has one result, no result was changed, no two
executions differed, the journal folds to what the broker reported, and `rota verify` finds it equal. The plan is
deterministic but the timing is not, so a failed seed may need several tries. Not part of CI. Exit code 0: every round
passed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _rounds
from _environment import REPOSITORY, ensure_environment


def main() -> int:
    options = _options()
    ensure_environment(["cpu"])
    sys.path.insert(0, str(REPOSITORY / "tests" / "kits"))
    from _campaign_round import Failure, run_round

    def one(seed: int) -> tuple[bool, str]:
        try:
            return True, run_round(seed, options.keep, options.disturb_seconds, options.workers)
        except Failure as failure:
            return False, f"FAILED: {failure}\n    repeat: python3 scripts/campaign.py --seed {seed} --rounds 1"

    return _rounds.run("campaign", options, one)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _rounds.add_options(parser)
    parser.add_argument("--disturb-seconds", type=float, default=8.0, help="how long a round is disturbed")
    parser.add_argument("--workers", type=int, choices=(1, 2, 4, 8), help="CPU workers (default: by the seed)")
    parser.add_argument("--keep", type=Path, help="keep the run folders of failed rounds below this one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
