"""Generate many texts at once on a decoder, and compare each with the same text alone, every logit.

    python3 scripts/texts.py                            a round on tiny decoders of random weights
    python3 scripts/texts.py --model .cache/smollm2     a round on the model in this folder: minutes
    python3 scripts/texts.py --seed 7 --texts 40        the round that was printed as `seed 7`

First each request runs alone in the first slot, without a cache. Then all of them arrive at random steps, in all slots
and in as few rows as the certificate allows, twice each, so that the second time finds cells of the first. Prompts,
options and arrivals follow from the seed. The probes run here first, for the sizes that they allow. Not part of CI.
Exit code 0: no logit differed.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _environment import REPOSITORY, ensure_environment

if TYPE_CHECKING:
    from rota.common.text_calls import GenerateCall
    from rota.gpu_worker.generation import TextModel

TEXTS_DEFAULT = 12


def main() -> int:
    options = _options()
    ensure_environment(["dev"])
    sys.path.insert(0, str(REPOSITORY / "tests" / "kits"))
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="rota-texts-") as folder:
        for name, model in _models(Path(folder), options.model):
            started = time.monotonic()
            differing, said = _round(model, seed, options.texts)
            failed += differing
            print(f"seed {seed}, {name}: {said} ({time.monotonic() - started:.0f} s)", flush=True)
    return 1 if failed else 0


def _models(folder: Path, given: Path | None) -> Iterator[tuple[str, TextModel]]:
    from rota.gpu_worker.generation import load_text_model
    from rota.gpu_worker.repository import Repository
    from rota.model_builds.random_decoder import build_random_decoder

    found = {given.name: given} if given is not None else {}
    if given is None:
        for name, quantised in (("float32", False), ("4-bits", True)):
            found[name] = build_random_decoder(folder / name, quantised=quantised, slots=8)
    for name, source in found.items():
        entry = Repository(folder / "models").add(source, "decoder")
        yield name, load_text_model(entry, entry.settings(), threads=1, require="cpu")


def _round(model: TextModel, seed: int, texts: int) -> tuple[int, str]:
    """Return how many rows of logits differ, and what to print."""
    from rota.gpu_worker.certificate import DecoderCertificate

    kit = importlib.import_module("decoder_kit")
    decoder = model.probed(lambda text: print(text, file=sys.stderr)).decoder
    if decoder is None:
        return 1, "it is class D"
    chance = random.Random(seed)
    calls = _calls(chance, texts, model)
    model.apply(DecoderCertificate(decoder.sizes[-1:], False))
    with kit.recorded_logits() as alone:
        for call in calls:
            kit.outcome_of(model, call)
    differing = compared = 0
    for sizes in (decoder.sizes[-1:], decoder.sizes):
        model.apply(DecoderCertificate(sizes, decoder.prefix_cache))
        for _ in range(2):
            arrivals = {number: chance.randrange(2 * texts) for number in range(texts)}
            with kit.recorded_logits() as rows:
                kit.outcomes_of(model, calls, arrivals)
            compared += len(rows)
            differing += sum(rows.get(key) != digest for key, digest in alone.items())
    counts = dict(model.counters)
    sizes_text = ", ".join(map(str, decoder.sizes))
    said = f"decodes of {sizes_text} rows, {compared} rows of logits, {counts['cached']} cached tokens"
    return differing, f"{said}, {f'{differing} DIFFER' if differing else 'all equal'}"


def _calls(chance: random.Random, count: int, model: TextModel) -> list[GenerateCall]:
    """Make requests: many begin alike, and their seeds, which name them, are their numbers."""
    from rota.common.text_calls import generate_call

    context = int(model.description()["context"])
    longest = min(context // 2, 300)
    common = [chance.randrange(3, 290) for _ in range(longest)]
    calls: list[GenerateCall] = []
    for number in range(count):
        length = chance.choice([1, 2, 3, 17, 40, longest // 2])
        start = common[: chance.choice([0, 20, longest // 2])]
        fields: dict[str, Any] = {
            "tokens": [*start, *[chance.randrange(3, 290) for _ in range(length)]],
            "seed": number,
            "max_tokens": chance.randrange(1, 20),
        }
        if number % 2:
            fields |= {"temperature": 1.3, "top_p": 0.95}
        calls.append(generate_call(fields))
    return calls


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a folder with model.onnx and model.toml")
    parser.add_argument("--seed", type=int, help="of the requests (default: by chance)")
    parser.add_argument("--texts", type=int, default=TEXTS_DEFAULT, metavar="N", help=f"default: {TEXTS_DEFAULT}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
