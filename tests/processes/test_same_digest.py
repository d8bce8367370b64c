"""The promise, with real processes: for any number of workers the digest is that of the reference."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forest import LANE, Expected, Forest, Seen, digest_of, expected_of

from rota.client import Client

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

FOREST = Forest(roots=60, depth=3, fanout=3)

RotaUp = Callable[..., Any]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return expected_of(FOREST, tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("cpu_workers", [1, 2, 4])
def test_digest_and_results_are_those_of_the_reference(
    rota_up: RotaUp, run_dir: Path, expected: Expected, cpu_workers: int
) -> None:
    """Goal: the number of workers cannot be seen. Method: 2,400 tasks, all but 60 of them emitted; compare the digest
    and every result with a reference that runs one task after another.
    """
    rota_up(run_dir, cpu_workers=cpu_workers)
    seen = Seen()
    with Client(run_dir) as client:
        batch = FOREST.prepare(client)
        client.release(LANE)
        assert digest_of(client) == (FOREST.tasks, expected.digest)
        for result in client.results(1, FOREST.tasks):
            seen.take(result)
        seen.check(expected)
        assert [result.seq for result in batch.results()] == list(range(1, FOREST.roots + 1))
        status = client.status()
        assert (status["divergences"], status["late_completions"]) == (0, 0)
        assert len(status["workers"]) == cpu_workers


def test_seed_is_seen_and_order_counts(rota_up: RotaUp, run_dir: Path, expected: Expected) -> None:
    """Goal: an equal digest says something. Method: the same submit in three lanes: the same seed and content gives
    the same digest again, another seed another one.
    """
    rota_up(run_dir, cpu_workers=2)
    with Client(run_dir) as client:
        FOREST.prepare(client)
        FOREST.prepare(client, lane="twin")
        FOREST.prepare(client, lane="other", seed_of="other")
        for lane in (LANE, "twin", "other"):
            client.release(lane)
        digests = {lane: digest_of(client, lane) for lane in (LANE, "twin", "other")}
    assert digests[LANE] == digests["twin"] == (FOREST.tasks, expected.digest)
    assert digests["other"][0] == FOREST.tasks
    assert digests["other"][1] != expected.digest
