"""Fixtures for the tests of the divergence report, see divergence_kit.py; compiled code is shared by all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from divergence_kit import Bench

from rota.runs.open import CACHE_VARIABLE


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "artefacts"


@pytest.fixture
def bench(tmp_path: Path, artefacts: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv(CACHE_VARIABLE, str(artefacts.parent))
    made = Bench(tmp_path, artefacts)
    yield made
    made.close()
