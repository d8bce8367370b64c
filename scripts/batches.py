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
import sys

import _rounds
from _environment import REPOSITORY, ensure_environment

WORKERS = (1, 2, 4)


def main() -> int:
    options = _options()
    ensure_environment(["dev"])
    sys.path.insert(0, str(REPOSITORY / "tests" / "kits"))
    return _rounds.run("batches", options, lambda seed: _round(seed, WORKERS[seed % len(WORKERS)], options))


def _round(seed: int, workers: int, options: argparse.Namespace) -> tuple[bool, str]:
    """Return whether all results are equal, and what to print."""
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
    what = f"{workers} workers, {len(found.found)} calls{runs}"
    return not differing, f"{what}, " + (f"{differing} DIFFER" if differing else "all equal")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    _rounds.add_options(parser)
    parser.add_argument("--producers", type=int, default=300, help="at once, each with a connection of its own")
    parser.add_argument("--calls", type=int, default=10, help="of each producer")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
