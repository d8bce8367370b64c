"""`rota model probe` and the certificates in `rota model show`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from _operator_graphs import FAMILIES

from rota.cli.exits import ExitCode
from rota.gpu_worker.certificate import alone, encode
from rota.gpu_worker.certificate_store import CertificateStore
from rota.model_builds.random_decoder import build_random_decoder

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(call: Run, monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> Run:
    """Call the command line on a run folder of this test."""
    monkeypatch.setenv("ROTA_DIR", str(run_dir))
    return call


def test_a_model_is_probed_and_its_certificate_shown(run: Run, tmp_path: Path) -> None:
    """Goal: a user reads with one command what a model's bits depend on. Method: probe a model whose rows are coupled
    and one whose rows are not; text and JSON, then `model show`; versions that do not exist.
    """
    for name in ("layer", "dynamic"):
        family = {"layer": "mlp-256-256-10", "dynamic": "dynamic-int8"}[name]
        source = FAMILIES[family]().save(tmp_path / f"{name}.onnx")
        assert run("model", "add", name, str(source), "--no-deploy")[0] == ExitCode.OK
    assert json.loads(run("model", "show", "layer", "--json")[1])["certificates"] == []
    code, out, _ = run("model", "probe", "layer@1", "--require", "cpu", "--json")
    assert code == ExitCode.OK
    assert json.loads(out)["shapes"][0]["sizes"] == [1, 2, 4, 8, 16, 32, 64]
    code, out, _ = run("model", "probe", "dynamic", "--require", "cpu")
    assert code == ExitCode.OK
    assert out.splitlines()[0].split() == ["class", "C"]
    assert "its rows depend on their neighbours" in out
    assert any(line.split()[:2] == ["neighbours", "2"] for line in out.splitlines())
    assert "its rows depend on their neighbours" in run("model", "show", "dynamic@1")[1]
    assert json.loads(run("model", "show", "layer", "--json")[1])["certificates"][0]["class"] == "A"
    for wrong in ("layer@2", "layer@0", "layer@", "nothing"):
        assert run("model", "probe", wrong, "--require", "cpu")[0] != ExitCode.OK


def test_a_certificate_can_be_made_again(run: Run, tmp_path: Path) -> None:
    """Goal: --again does not trust what is on file. Method: a kept certificate that says something else."""
    source = FAMILIES["conv-1d"]().save(tmp_path / "m.onnx")
    run("model", "add", "m", str(source), "--no-deploy")
    first = json.loads(run("model", "probe", "m", "--require", "cpu", "--json")[1])
    digest = json.loads(run("model", "show", "m", "--json")[1])["digest"]
    folder = Path(json.loads(run("model", "show", "m", "--json")[1])["folder"]).parent.parent
    CertificateStore(folder).put(encode(alone("a lie", first["probe"]), digest, first["conditions"]))
    assert json.loads(run("model", "probe", "m", "--require", "cpu", "--json")[1])["class"] == "C"
    assert json.loads(run("model", "probe", "m", "--require", "cpu", "--again", "--json")[1])["class"] == "A"


def test_the_certificate_of_a_decoder_says_how_it_generates(run: Run, tmp_path: Path) -> None:
    """Goal: a user reads how many requests a decoder takes at once. Method: a tiny one of two slots."""
    (tmp_path / "d").mkdir()
    build_random_decoder(tmp_path / "d", slots=2)
    assert run("model", "add", "d", str(tmp_path / "d"), "--no-deploy")[0] == ExitCode.OK
    code, out, _ = run("model", "probe", "d", "--require", "cpu")
    assert code == ExitCode.OK
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "class A"
    assert "prefix cache yes" in lines
    assert any(line.startswith("decodes of rows") and line.endswith(" 2") for line in lines)
    assert any(line.startswith("neighbours and slots 2") for line in lines)
