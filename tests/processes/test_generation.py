"""Text generation over real processes: workers that die in the middle of a text leave no trace in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rota.client import Client, Limits, TaskFailed
from rota.common.text_results import GenerateResult
from rota.gpu_worker.repository import ModelEntry, Repository
from rota.host.endpoints import RunFolder
from rota.model_builds.random_decoder import TINY, build_random_decoder

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

# So that a text takes about a second, and a worker can be killed in it.
SHAPE = replace(TINY, context=2048, hidden=256, heads=16, kv_heads=4, inner=512, layers=3)
LIMITS = Limits(timeout_ms=120_000)
WAIT_SECONDS = 100.0
TOKENS = 400
ENDLESS = {"regex": "[a-z]{9000}"}

RotaUp = Callable[..., Any]


def added(run_dir: Path) -> ModelEntry:
    folder = build_random_decoder(run_dir / "made", SHAPE, slots=3)
    return Repository(RunFolder(run_dir).models).add(folder, "decoder")


def options(number: int) -> dict[str, Any]:
    """Return the options of a request: some greedy, some drawn, all as long as they can be."""
    drawn = {"temperature": 1.2, "seed": number} if number % 2 else {}
    return {"tokens": [*range(40, 60 + number)], "max_tokens": TOKENS, "logprobs": 1, **drawn}


def test_a_text_survives_its_worker(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: exact resume. Method: five texts at once on two workers, each killed when a text has begun; then the same
    requests one by one, which must give the same results, log-probabilities included.
    """
    up = rota_up(run_dir, cpu_workers=0, gpu_workers=2)
    entry = added(run_dir)
    with Client(run_dir) as client:
        client.deploy_model("decoder", entry.digest, code_limits=LIMITS, timeout_s=WAIT_SECONDS)
        running = [client.generate("decoder", timeout_s=WAIT_SECONDS, **options(number)) for number in range(5)]
        assert next(running[0])
        up.kill_child("gpu-1")
        assert next(running[-1])
        up.kill_child("gpu-2")
        results: list[GenerateResult] = [one.result() for one in running]
        for one in running:
            provenance = one.outcome().provenance
            assert provenance is not None
            assert (provenance.result_class, provenance.certificate) == ("bitwise", "A")
        for number, result in enumerate(results):
            again = client.generate("decoder", timeout_s=WAIT_SECONDS, **options(number))
            assert again.result() == result
            assert result.usage.generated == len(result.tokens) > 0


def test_cancelled_texts_make_room(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: a text can be cancelled in its middle, and its slot is free. Method: fill the slots, cancel all but one,
    and ask once more: that is done before the one that goes on. Then cancel this one too, alone in its step.
    """
    rota_up(run_dir, cpu_workers=0, gpu_workers=1)
    entry = added(run_dir)
    with Client(run_dir) as client:
        client.deploy_model("decoder", entry.digest, code_limits=LIMITS, timeout_s=WAIT_SECONDS)
        running = [
            client.generate("decoder", f"text {number}", max_tokens=1_900, output=ENDLESS, timeout_s=WAIT_SECONDS)
            for number in range(3)
        ]
        assert all(next(one) for one in running), "all have begun"
        assert [one.cancel() for one in running[1:]] == [True] * 2
        last = client.generate("decoder", tokens=[40, 41], max_tokens=3, timeout_s=WAIT_SECONDS)
        assert 0 < last.result().usage.generated <= 3
        assert running[0].cancel(), "the cancelled texts kept their slots to the end"
        last = client.generate("decoder", tokens=[40, 41], max_tokens=3, timeout_s=WAIT_SECONDS)
        assert 0 < last.result().usage.generated <= 3
        for one in running:
            with pytest.raises(TaskFailed) as caught:
                one.result()
            assert caught.value.fields["kind"] == "cancelled"
