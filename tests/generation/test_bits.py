"""A request gives the same bits in every circumstance: every row of logits that a token is chosen from is compared."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import decoder_kit
import pytest
from blake3 import blake3
from decoder_kit import TinyDecoder, mixed_calls, outcome_of, outcomes_of, recorded_logits

from rota.common.text_calls import generate_call
from rota.common.text_results import GenerateResult
from rota.generation.slot_decoder import PREFILL_TOKENS_MAX

CALLS = mixed_calls(16)
CACHE_BYTES = 1 << 20


def alone(decoder: TinyDecoder) -> tuple[dict[tuple[int, int], str], list[GenerateResult]]:
    """Return the digests and results of all requests, each alone in the first of four slots."""
    generator = decoder.generator((4,))
    with recorded_logits() as rows:
        results = [outcomes_of(generator, [call])[0] for call in CALLS]
    return rows, results


@pytest.fixture(scope="module")
def expected(decoder: TinyDecoder):
    rows, results = alone(decoder)
    assert len(rows) == sum(len(result.tokens) for result in results) > 100
    return rows, results


@pytest.mark.parametrize("sizes", [(2,), (3,), (4,), (8,), (2, 4), (2, 3, 8)], ids=str)
@pytest.mark.parametrize("cache_bytes", [0, CACHE_BYTES], ids=["no cache", "cache"])
def test_neighbours_slots_and_arrivals_do_not_show(decoder: TinyDecoder, expected, sizes, cache_bytes: int) -> None:
    """Goal: alone = with any neighbours, in any slot, of any number, at any time, on cached cells.

    Method: requests that arrive at random steps in random order, twice, so that the second time finds cached cells.
    """
    generator = decoder.generator(sizes, cache_bytes)
    chance = random.Random(sizes[-1] + cache_bytes)
    for _ in range(2):
        arrivals = {number: chance.randrange(40) for number in range(len(CALLS))}
        with recorded_logits() as rows:
            results = outcomes_of(generator, CALLS, arrivals)
        assert rows == expected[0]
        assert results == expected[1]
    assert (generator.counters["cached"] > 0) == bool(cache_bytes)


def test_one_slot_is_like_many_for_float32(plain: TinyDecoder) -> None:
    """Goal: where the certificate allows decodes of one row, they are the same. Method: one slot, and one of four."""
    rows, results = alone(plain)
    for sizes in ((1,), (1, 4)):
        with recorded_logits() as found:
            assert outcomes_of(plain.generator(sizes), CALLS) == results
        assert found == rows


def test_two_threads_of_the_session_give_a_request_the_same_bits_too(folder: Path) -> None:
    """Goal: the rule holds with more threads. Method: alone against neighbours with two, whatever the bits are."""
    decoder = TinyDecoder(folder, threads=2)
    rows, results = alone(decoder)
    with recorded_logits() as found:
        assert outcomes_of(decoder.generator((2, 4), CACHE_BYTES), CALLS, {0: 9, 5: 3}) == results
    assert found == rows


def test_another_process_gives_the_same_bits(folder: Path, decoder: TinyDecoder) -> None:
    """Goal: a request can be computed again anywhere. Method: all digests of a process of its own."""
    with recorded_logits() as rows:
        outcomes_of(decoder.generator((4,)), mixed_calls(12))
    done = subprocess.run(
        [sys.executable, decoder_kit.__file__, str(folder)], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == blake3(repr(sorted(rows.items())).encode()).hexdigest()


def test_requests_that_are_dropped_do_not_show(decoder: TinyDecoder, expected) -> None:
    """Goal: cancelling between steps frees the slot and changes nobody. Method: drop every other request midway."""
    generator = decoder.generator((4,), CACHE_BYTES)
    chance = random.Random(8)
    left = list(range(len(CALLS)))
    found: dict[int, GenerateResult] = {}
    running: list[int] = []
    while left or running:
        while left and not generator.is_full:
            running.append(left.pop(0))
            generator.start(running[-1], CALLS[running[-1]], (), 0)
        for report in generator.step():
            if hasattr(report, "result"):
                found[report.request] = report.result
                running.remove(report.request)
        odd = [number for number in running if number % 2]
        if odd and chance.random() < 0.3:
            generator.drop(odd[0])
            running.remove(odd[0])
    assert generator.is_idle
    generator.drop(0)  # ended long ago
    for number, result in found.items():
        assert result == expected[1][number]
    assert {number for number in range(len(CALLS)) if number % 2 == 0} <= {*found}


def test_a_run_that_fails_may_be_repeated(decoder: TinyDecoder, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an interrupted step changes nothing. Method: every third run raises after it wrote its cells."""
    generator = decoder.generator((4,), CACHE_BYTES)
    slots = generator._decoder
    runs = 0

    def failing(run):
        def wrapped(*arguments):
            nonlocal runs
            runs += 1
            logits = run(*arguments)
            if runs % 3 == 0:
                raise RuntimeError("stopped")
            return logits

        return wrapped

    monkeypatch.setattr(slots, "prefill", failing(slots.prefill))
    monkeypatch.setattr(slots, "decode", failing(slots.decode))
    step = generator.step

    def repeated(run_options=None):
        while True:
            try:
                return step(run_options)
            except RuntimeError:
                continue

    monkeypatch.setattr(generator, "step", repeated)
    assert outcomes_of(generator, CALLS) == expected[1]
    assert runs > 60


def test_long_prompts_are_prefilled_in_parts_beside_others(roomy: TinyDecoder) -> None:
    """Goal: the parts of a prompt do not show, nor the texts that grow between them. Method: prompts around multiples
    of a part's tokens, alone against at random times, with and without cached cells.
    """
    calls = [
        generate_call({"tokens": [5 + at % 200 for at in range(length)], "seed": length, "max_tokens": 5})
        for length in (
            PREFILL_TOKENS_MAX,
            PREFILL_TOKENS_MAX + 1,
            PREFILL_TOKENS_MAX + 2,
            2 * PREFILL_TOKENS_MAX + 1,
            700,
        )
    ]
    calls += [generate_call({"tokens": [7, 8, 9], "seed": seed, "max_tokens": 40}) for seed in range(3)]
    with recorded_logits() as rows:
        results = [outcome_of(roomy.generator((4,)), call) for call in calls]
    chance = random.Random(8)
    for cache_bytes in (0, 64 << 20):
        generator = roomy.generator((4,), cache_bytes)
        for _ in range(2):
            arrivals = {number: chance.randrange(20) for number in range(len(calls))}
            with recorded_logits() as found:
                assert outcomes_of(generator, calls, arrivals) == results
            assert found == rows


def test_the_calls_for_a_prompt_do_not_depend_on_the_cache(roomy: TinyDecoder) -> None:
    """Goal: cached cells change no call behind them. Method: prompts of lengths around blocks, after every beginning of
    theirs. Calls of 17, 49 and 81 tokens give their last row other bits than one of 33 in this attention.
    """
    chance = random.Random(3)
    for length in (66, 129, 130, 145, 161, 209, 225):
        tokens = [chance.randrange(5, 200) for _ in range(length)]
        call = generate_call({"tokens": tokens, "max_tokens": 3})
        with recorded_logits() as expected:
            result = outcome_of(roomy.generator((2,)), call)
        for known in [*range(16, length, 16), 65, 129]:
            generator = roomy.generator((2,), CACHE_BYTES)
            outcome_of(generator, generate_call({"tokens": tokens[:known], "max_tokens": 1}))
            with recorded_logits() as rows:
                assert outcome_of(generator, call) == result
            assert rows == expected, (length, known)


def test_a_dialogue_has_the_bits_of_its_whole_history(decoder: TinyDecoder) -> None:
    """Goal: a further turn = everything sent at once. Method: each prompt is the one before with its answer and a new
    message; against a generator that saw nothing before.
    """
    generator = decoder.generator((2,), CACHE_BYTES)
    prompt = [*range(10, 80)]
    for turn in range(3):
        call = generate_call({"tokens": prompt, "seed": turn, "max_tokens": 20, "temperature": 1.0})
        with recorded_logits() as rows:
            result = outcome_of(generator, call)
        with recorded_logits() as expected:
            assert outcome_of(decoder.generator((2,)), call) == result
        assert rows == expected
        prompt = [*prompt, *result.tokens, 40 + turn, 41]
    assert generator.counters["cached"] > 0
