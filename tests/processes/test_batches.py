"""Many producers at once on real workers: results do not show the company."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_round import add_model, run_round

from rota.host.endpoints import RunFolder

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]


@pytest.mark.parametrize("workers", [1, 2])
def test_hundreds_of_producers_get_what_each_call_gives_alone(
    rota_up: Callable[..., Any], run_dir: Path, workers: int
) -> None:
    """Goal: load, order and the number of workers do not show in a result. Method: 200 producers with a connection each
    and calls of 1 to 6 rows in three lanes, in any order, against each call alone in this process; scripts/batches.py
    does the same for longer."""
    digest = add_model(RunFolder(run_dir).prepare())
    rota_up(run_dir, cpu_workers=0, gpu_workers=workers, ROTA_REQUIRE="cpu")
    found = run_round(run_dir, digest, seed=workers, producers=200, calls_each=3, say=lambda _: None)
    assert found.found == found.alone
