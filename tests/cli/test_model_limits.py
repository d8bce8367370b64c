"""How long a task of a model may run, by what the model does."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx")

from rota.cli.model_versions import TEXT_TIMEOUT_MS, limits_of
from rota.common.work import Limits
from rota.gpu_worker.repository import Repository
from rota.model_builds.random_decoder import build_random_decoder


def test_texts_have_more_time_than_other_calls(tmp_path: Path) -> None:
    """Goal: a text of hundreds of tokens has the time it needs. Method: a decoder, with and without a limit of its own,
    and the same graph as a plain model.
    """
    folder = build_random_decoder(tmp_path / "made")
    entry = Repository(tmp_path / "models").add(folder, "decoder")
    assert limits_of(entry, None) == Limits(timeout_ms=TEXT_TIMEOUT_MS)
    assert limits_of(entry, 5) == Limits(timeout_ms=5)
    (folder / "model.toml").unlink()
    plain = Repository(tmp_path / "models").add(folder, "plain")
    assert limits_of(plain, None) is None
