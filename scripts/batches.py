"""Let hundreds of producers call one model at once, and compare each result with that of the call alone.

    python3 scripts/batches.py                          three minutes with a new seed, 1, 2 and 4 workers in turn
    python3 scripts/batches.py --seed 7 --rounds 3      the rounds that were printed as `seed 7` to `seed 9`
    python3 scripts/batches.py --producers 500 --calls 20

The model's bits differ between one row and two, so a batch that a certificate does not allow shows. Calls, lanes and
sizes of submits follow from the seed; their order and the batches do not. Not part of CI. Exit code 0: no result
differed.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time

from _environment import REPOSITORY, ensure_environment

MINUTES_DEFAULT = 3.0
WORKERS = (1, 2, 4)
INTERRUPTED = 130


def main() -> int:
    options = _options()
    ensure_environment(["dev"])
    sys.path.insert(0, str(REPOSITORY / "tests" / "kits"))
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    ends = time.monotonic() + options.minutes * 60
    done = failed = 0
    try:
        while (done < options.rounds) if options.rounds else (done == 0 or time.monotonic() < ends):
            workers = WORKERS[seed % len(WORKERS)]
            started = time.monotonic()
            differing, said = _round(seed, workers, options)
            failed += bool(differing)
            print(f"seed {seed}, {workers} workers: {said} ({time.monotonic() - started:.0f} s)", flush=True)
            done += 1
            seed += 1
    except KeyboardInterrupt:
        print("batches: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"batches: {done} rounds, {failed} failed")
    return 1 if failed else 0


def _round(seed: int, workers: int, options: argparse.Namespace) -> tuple[int, str]:

    from _demo_processes import Up, run_folder

    kit = importlib.import_module("batch_round")
    with run_folder(None) as folder:
        digest = kit.add_model(folder)
        with Up(folder, 0, workers) as up:
            up.wait_ready(lambda _: None)
            found = kit.run_round(folder.root, digest, seed, options.producers, options.calls, lambda _: None)
    pairs = zip(found.alone, found.found, strict=True)
    differing = sum(alone != result for alone, result in pairs)
    runs = f", {found.rows / found.runs:.1f} rows in a run" if found.runs else ""
    return differing, f"{len(found.found)} calls{runs}, " + (f"{differing} DIFFER" if differing else "all equal")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES_DEFAULT, help="begin no round after so long")
    parser.add_argument("--seed", type=int, help="of the first round; the next ones count up (default: by chance)")
    parser.add_argument("--rounds", type=int, default=0, help="number of rounds; overrides --minutes")
    parser.add_argument("--producers", type=int, default=300, help="at once, each with a connection of its own")
    parser.add_argument("--calls", type=int, default=10, help="of each producer")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
