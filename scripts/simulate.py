"""Search for failures: broker, workers and producers with simulated clock, network, disk and crashes.

    python3 scripts/simulate.py                        two minutes of fresh seeds
    python3 scripts/simulate.py --seed 7               the runs of one seed
    python3 scripts/simulate.py --seed 7 --seeds 100   one hundred seeds from 7 on
    python3 scripts/simulate.py --minutes 60 --json    one line of JSON per seed, and one at the end

tests/simulation/ and docs/TESTING.md describe what is simulated and checked. A failure is printed with the command that
repeats it, then shrunk: faults, errands, workers and lanes are left out while it still fails; the command for the
smallest case is printed too. Periodically some seeds are run again under another PYTHONHASHSEED, and their transcripts
must be equal. Exit code 0: all passed; 1: something failed, or no seed was run.
"""

from __future__ import annotations

import argparse
import random
import sys

from _environment import ensure_environment

MINUTES_DEFAULT = 2.0
INTERRUPTED = 130


def main() -> int:
    options = _options()
    ensure_environment([])
    import _simulate_campaign

    if options.transcripts:
        _simulate_campaign.print_transcripts(options.seed or 0, options.seeds or 1)
        return 0
    if options.only is not None or options.pinned:
        return _simulate_campaign.repeat(options.seed or 0, options.pinned, options.only or "{}", options.story)
    seeds = options.seeds or (1 if options.seed is not None and options.minutes is None else None)
    minutes = options.minutes if options.minutes is not None else (None if seeds else MINUTES_DEFAULT)
    first = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    campaign = _simulate_campaign.Campaign(first, options.json, options.shrink, options.story)
    try:
        campaign.run(seeds, minutes)
    except KeyboardInterrupt:
        campaign.summary()
        print("simulate: interrupted", file=sys.stderr)
        return INTERRUPTED
    campaign.summary()
    return 0 if campaign.seeds and not campaign.failures else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, help="the first seed (default: by chance)")
    parser.add_argument("--seeds", type=int, help="how many (default: one with --seed, else as many as time allows)")
    parser.add_argument("--minutes", type=float, help=f"begin no seed after so long (default {MINUTES_DEFAULT:g})")
    parser.add_argument("--json", action="store_true", help="one line of JSON per seed, and one at the end")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false", help="do not shrink failures")
    parser.add_argument("--story", type=int, default=30, help="how many lines of a failure's story to print")
    parser.add_argument("--only", help="repeat one case with these parts of its plan, as a failure prints it")
    parser.add_argument("--pinned", action="store_true", help="repeat the pinned case of the seed, for 1, 2, 8 workers")
    parser.add_argument("--transcripts", action="store_true", help="print the digest of all that happens, per seed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
