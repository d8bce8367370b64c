"""Decoders for tests of generation: tiny ones loaded into slots of any number, and runs of many requests.

As a program it prints the digest of every logit of the requests below, for tests that need another process:
`python decoder_kit.py FOLDER`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from rota.common.errors import BadPayload
from rota.common.text_calls import GenerateCall, generate_call
from rota.common.text_results import GenerateResult
from rota.common.work import Failed
from rota.generation import text_generator
from rota.generation.cells import SlotCells
from rota.generation.chat_template import ChatTemplate
from rota.generation.decoder_interface import interface_of
from rota.generation.pieces import Piece
from rota.generation.prefix_cache import PrefixCache
from rota.generation.slot_decoder import SlotDecoder
from rota.generation.text_generator import TextGenerator, TextSetup
from rota.generation.vocabulary import Vocabulary
from rota.gpu_worker.providers import open_session
from rota.gpu_worker.settings import ModelSettings
from rota.model_builds.byte_tokenizer import STOP_TOKEN, TEMPLATE, VOCABULARY

CONTEXT = 128
NOW_MS = 1_795_000_000_123
Outcome = GenerateResult | Failed | BadPayload


class TinyDecoder:
    """A session over a folder of `build_random_decoder`."""

    def __init__(self, folder: Path, *, threads: int = 1, context: int = CONTEXT) -> None:
        self.folder = folder
        self.context = context
        opened = open_session(folder / "model.onnx", ModelSettings(), threads=threads, require="cpu")
        self.session = opened.session
        self.interface = interface_of(self.session, context, "the decoder")

    def slots(self, sizes: Sequence[int]) -> SlotDecoder:
        cells = SlotCells(self.interface.cells_shape(sizes[-1], self.context))
        return SlotDecoder(self.session, self.interface, cells, sizes, VOCABULARY)

    def generator(
        self, sizes: Sequence[int] = (4,), cache_bytes: int = 0, template: str | None = TEMPLATE, max_tokens: int = 32
    ) -> TextGenerator:
        vocabulary = Vocabulary(self.folder / "tokenizer.json")
        compiled = None if template is None else ChatTemplate(template, "the template", bos_token="", eos_token="")
        setup = TextSetup(vocabulary, compiled, (STOP_TOKEN,), max_tokens, 20)
        return TextGenerator(self.slots(sizes), setup, PrefixCache(cache_bytes))


def mixed_calls(count: int, seed: int = 8) -> list[GenerateCall]:
    """Return requests of all lengths and ways to sample, some with equal beginnings. Their seeds are their numbers."""
    chance = random.Random(seed)
    common = [chance.randrange(3, VOCABULARY) for _ in range(70)]
    calls = []
    for number in range(count):
        length = chance.choice([1, 2, 3, 17, 33, 50, 90])
        tokens = [*common[: chance.choice([0, 20, 40, 70])], *[chance.randrange(3, VOCABULARY) for _ in range(length)]]
        fields = {"tokens": tokens[: CONTEXT - 20], "seed": number, "max_tokens": chance.randrange(1, 18)}
        if number % 2:
            fields |= {"temperature": 1.5, "top_p": 0.9, "repetition_penalty": 1.2}
        calls.append(generate_call(fields))
    return calls


def outcome_of(generator: TextGenerator, call: GenerateCall) -> Outcome:
    """Run one request alone."""
    return outcomes_of(generator, [call])[0]


def outcomes_of(
    generator: TextGenerator, calls: Sequence[GenerateCall], arrivals: Mapping[int, int] | None = None
) -> list[Outcome]:
    """Run requests, each from its step on (all at once without `arrivals`); the pieces must be the texts."""
    outcomes: dict[int, Outcome] = {}
    texts = dict.fromkeys(range(len(calls)), "")
    waiting = sorted(range(len(calls)), key=lambda number: (arrivals or {}).get(number, 0))
    step = 0
    while waiting or not generator.is_idle:
        while waiting and not generator.is_full and (arrivals or {}).get(waiting[0], 0) <= step:
            number = waiting.pop(0)
            try:
                generator.start(number, calls[number], calls[number].messages or (), NOW_MS)
            except BadPayload as error:
                outcomes[number] = error
        for report in generator.step():
            if isinstance(report, Piece):
                assert report.text
                assert report.offset == len(texts[report.request])
                texts[report.request] += report.text
            else:
                outcomes[report.request] = report.result
        step += 1
    for number, outcome in outcomes.items():
        assert not isinstance(outcome, GenerateResult) or outcome.text == texts[number]
    return [outcomes[number] for number in range(len(calls))]


@contextmanager
def recorded_logits() -> Iterator[dict[tuple[int, int], str]]:
    """Record the digest of every row of logits that a token is chosen from, by the request's seed and the index."""
    rows: dict[tuple[int, int], str] = {}
    choose = text_generator.choose

    def recording(logits, options, index, seen, allowed):
        key = (options.seed, index)
        assert key not in rows, "a row twice"
        rows[key] = blake3(logits.tobytes()).hexdigest()
        return choose(logits, options, index, seen, allowed)

    text_generator.choose = recording
    try:
        yield rows
    finally:
        text_generator.choose = choose


def main() -> None:
    with recorded_logits() as rows:
        outcomes_of(TinyDecoder(Path(sys.argv[1])).generator((4,)), mixed_calls(12))
    print(blake3(repr(sorted(rows.items())).encode()).hexdigest())


if __name__ == "__main__":
    main()
