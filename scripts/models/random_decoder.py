"""Build a decoder with random weights: a model folder of any size, from a seed.

    python3 scripts/models/random_decoder.py /tmp/big --element float16 --hidden 2048 --layers 24
    rota model add big /tmp/big

It speaks nonsense, but takes the time and memory of a real one, so a GPU can be measured without a download. The same
arguments give the same weights. Exit code 2: arguments that do not fit together.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _environment import ensure_environment


def main() -> int:
    options = _options()
    ensure_environment(["models"])
    from rota.model_builds.decoder import DecoderShape
    from rota.model_builds.random_decoder import build_random_decoder

    shape = DecoderShape(
        vocabulary=options.vocabulary,
        hidden=options.hidden,
        layers=options.layers,
        heads=options.heads,
        kv_heads=options.kv_heads,
        head_size=options.hidden // options.heads,
        inner=options.inner,
        context=options.context,
        element=options.element,
    )
    started = time.monotonic()
    build_random_decoder(options.folder, shape, seed=options.seed, quantised=options.q4, slots=options.slots)
    size = sum(path.stat().st_size for path in options.folder.iterdir())
    print(f"{options.folder}: {size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="where to write the model; made if it is missing")
    add("--element", choices=["float32", "float16", "bfloat16"], default="float32", help="of weights and cache")
    add("--q4", action="store_true", help="keep the matrices of the layers in 4-bit blocks")
    add("--seed", type=int, default=0)
    add("--vocabulary", type=int, default=49_152)
    add("--hidden", type=int, default=2048)
    add("--layers", type=int, default=24)
    add("--heads", type=int, default=32)
    add("--kv-heads", type=int, default=8)
    add("--inner", type=int, default=8192, help="width of the feed-forward part")
    add("--context", type=int, default=2048, help="cells per slot")
    add("--slots", type=int, default=8)
    options = parser.parse_args()
    if options.hidden % (2 * options.heads) or options.heads % options.kv_heads:
        parser.error("--hidden must be an even multiple of --heads, and --heads a multiple of --kv-heads")
    if options.q4 and (options.hidden % 32 or options.inner % 32):
        parser.error("--q4 needs --hidden and --inner to be multiples of 32")
    if options.vocabulary < 300:
        parser.error("--vocabulary must be at least 300, the tokens of the tokenizer")
    return options


if __name__ == "__main__":
    sys.exit(main())
