"""Fingerprints: equal if nothing differs, different if anything does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from tiny_encoder import build_tiny_encoder

from rota.gpu_worker.fingerprint import digest_of_facts, machine_facts, probe_input
from rota.gpu_worker.hardware import gpu_facts, processor_facts
from rota.gpu_worker.packages import conflict_between, installed_runtimes, package_conflict
from rota.gpu_worker.providers import why_not
from rota.gpu_worker.sessions import ModelLoader

PROGRAM = """
import sys
from pathlib import Path
from rota.gpu_worker.repository import Repository
from rota.gpu_worker.sessions import ModelLoader
entry = Repository(Path(sys.argv[1])).find(bytes.fromhex(sys.argv[2]))
print(ModelLoader(threads=1, require="cpu", tensors=None).load(entry).provenance.fingerprint.hex())
"""


def fresh_process(folder: Path, digest: bytes, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "models"), digest.hex()],
        capture_output=True, text=True, check=True, env={"PATH": "", **environment},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.strip()


def test_fingerprint_is_equal_in_fresh_processes_and_moves_with_the_environment(bench: Any, kit: Any) -> None:
    """Goal: two processes may stand in for each other, hash seeds and all; a switch of the library shows."""
    code = bench.add(kit.multilayer)
    first = fresh_process(bench.folder, code.digest, PYTHONHASHSEED="1")
    assert len(first) == 64
    assert fresh_process(bench.folder, code.digest, PYTHONHASHSEED="2") == first
    assert fresh_process(bench.folder, code.digest, ORT_DISABLE_FLASH_ATTENTION="1") != first


def test_fingerprint_moves_with_model_threads_and_graph_level(bench: Any, kit: Any) -> None:
    """Goal: what can change bits changes the fingerprint. Method: the same model under one changed setting each."""
    folder = bench.folder / "sources"
    kit.multilayer(folder / "model.onnx")
    codes = []
    for text in ("", "threads = 2", 'graph_level = "basic"'):
        (folder / "model.toml").write_text(text)
        codes.append(bench.repository.add(folder, "m").digest)
    loader = ModelLoader(threads=1, require="cpu", tensors=None)
    loaded = [loader.load(bench.repository.find(digest)).session for digest in codes]
    assert len({model.fingerprint for model in loaded}) == 3
    assert loaded[1].facts["settings"]["threads"] == "2"
    assert loaded[0].facts["probe"] == loaded[1].facts["probe"]
    assert loaded[0].facts["nodes"]["CPUExecutionProvider"] >= "1"


def test_fingerprint_moves_with_the_libraries_of_texts(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: another tokenizer may give other tokens, so the fingerprint is another. Method: change its version."""
    entry = bench.repository.add(build_tiny_encoder(bench.folder / "encoder"), "m")
    loader = ModelLoader(threads=1, require="cpu", tensors=None)
    first = loader.session(entry, entry.settings())
    assert {*first.facts["text"]} == {"tokenizers", "numpy"}
    monkeypatch.setattr("tokenizers.__version__", "0.0.0")
    assert loader.session(entry, entry.settings()).fingerprint != first.fingerprint


def test_a_probe_that_the_model_refuses_is_said_and_can_be_given_its_shape(bench: Any, kit: Any) -> None:
    """Goal: a model that cannot take the smallest shapes is served, says so, and can name a shape in model.toml."""
    folder = bench.folder / "sources"
    loader = ModelLoader(threads=1, require="cpu", tensors=None)
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    declared = [("x", "float32", ["n"])], [("y", "float32", ["a", 4])]
    kit.build(folder / "model.onnx", nodes, *declared, {"to": np.array([-1, 4])})
    refused = loader.load(bench.repository.add(folder, "m")).session
    assert refused.warm_up != ""
    assert refused.facts["probe"].startswith("none: ")
    (folder / "model.toml").write_text("[[shapes]]\nx = [8]")
    given = loader.load(bench.repository.add(folder, "m")).session
    assert given.warm_up == ""
    assert len(given.facts["probe"]) == 64


def test_probe_inputs_are_pinned() -> None:
    """Goal: the probe is the same for ever. Method: golden values of each kind."""
    assert probe_input("x", "int64", [6]).tolist() == [1, 2, 0, 0, 2, 3]
    assert probe_input("x", "float32", [2]).tolist() == [0.478790283203125, 0.43109130859375]
    assert set(probe_input("x", "bool", [64]).tolist()) == {False, True}
    assert probe_input("x", "bfloat16", [2, 2]).dtype.name == "bfloat16"
    assert probe_input("x", "float32", []).shape == ()


def test_probe_inputs_keep_to_the_ranges_of_the_model() -> None:
    """Goal: a model whose table begins at 5 can be warmed up. Method: ranges of integers and of floats."""
    whole = probe_input("x", "int64", [400], (5.0, 7.0))
    assert set(whole.tolist()) == {5, 6, 7}
    parts = probe_input("x", "float32", [400], (0.25, 0.5))
    assert 0.25 <= parts.min() < 0.27 < 0.48 < parts.max() <= 0.5


def test_facts_have_a_digest_whatever_their_order() -> None:
    """Goal: the order in which facts were found does not count, their values do."""
    assert digest_of_facts({"a": "1", "b": {"c": "2"}}) == digest_of_facts({"b": {"c": "2"}, "a": "1"})
    assert digest_of_facts({"a": "1"}) != digest_of_facts({"a": "2"})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_the_processor_is_known() -> None:
    """Goal: on Linux the facts that decide kernels are there."""
    facts = processor_facts()
    assert facts["machine"] != ""
    assert facts["vector_flags"] != ""
    assert machine_facts("cpu")["gpu"] == {}


@pytest.mark.gpu
@pytest.mark.skipif(bool(why_not("cuda")), reason="no CUDA here")
def test_the_gpu_is_known() -> None:
    """Goal: on a CUDA host name, capability, driver and library versions are there."""
    assert "" not in gpu_facts().values()


def test_two_runtimes_in_one_environment_are_named() -> None:
    """Goal: the silent conflict of the packages is told with the way out. Method: this environment, and others."""
    assert len(installed_runtimes()) == 1
    assert package_conflict() == ""
    text = conflict_between((("onnxruntime", "1.31.1"), ("onnxruntime-gpu", "1.31.1")))
    assert "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1" in text
    assert "pip uninstall onnxruntime onnxruntime-gpu" in text
    assert "[gpu]'" in conflict_between(())
