"""Certificates from the process that probes: kept, found again, damaged, interrupted, killed, raced for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _operator_graphs import FAMILIES, FLOAT, OperatorGraph, node, normal
from onnx import TensorProto, helper, numpy_helper

from rota.gpu_worker.certificate import Certificate, alone, encode
from rota.gpu_worker.certificate_store import FOLDER, CertificateStore, conditions_of
from rota.gpu_worker.certification import certificate_of
from rota.gpu_worker.loaded_model import LoadedModel
from rota.gpu_worker.probe import load_uncertified
from rota.gpu_worker.repository import Repository
from rota.gpu_worker.sessions import ModelLoader
from rota.model_builds.random_decoder import build_random_decoder

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds children in /proc")
SMALL = FAMILIES["conv-1d"]


def load(folder: Path, graph: OperatorGraph, settings: str = "", *, threads: int = 1) -> LoadedModel:
    graph.save(folder / "source" / "model.onnx")
    (folder / "source" / "model.toml").write_text(settings, encoding="utf-8")
    repository = Repository(folder / "models")
    entry = repository.add(folder / "source", "m")
    return ModelLoader(threads=threads, require="cpu", tensors=None).session(entry, entry.settings())


def certified(
    model: LoadedModel, *, threads: int = 1, say: Callable[[str], None] = lambda _: None,
    is_stopping: Callable[[], bool] = lambda: False, seconds_max: float = 300,
) -> Certificate:  # fmt: skip
    return certificate_of(
        model.entry, model.opened, model.facts,
        threads=threads, is_stopping=is_stopping, say=say, seconds_max=seconds_max,
    )  # fmt: skip


def kept(model: LoadedModel) -> list[Path]:
    return sorted((model.entry.folder.parent.parent / FOLDER / model.entry.digest.hex()).glob("*.json"))


def endless() -> OperatorGraph:
    """x [n, k] plus the end of a loop that runs (k - 1) times a billion."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "go", "still"), node("Add", "before one", "after")],
        "body",
        [value("turn", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("before", FLOAT, [1])],
        [value("still", TensorProto.BOOL, []), value("after", FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    nodes = [
        node("Shape", "x", "k", start=1), node("Sub", "k unit", "j"), node("Mul", "j billion", "t"),
        node("Squeeze", "t", "trips"), node("Loop", "trips - zero", "end", body=body), node("Add", "x end"),
    ]  # fmt: skip
    weights = {"unit": np.array([1]), "billion": np.array([10**9]), "zero": np.zeros(1, np.float32)}
    return OperatorGraph(nodes, ["k"], weights)


SLOW = "[[shapes]]\nx = [1, 1]\n[[shapes]]\nx = [1, 2]\n"


def children() -> list[int]:
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        found += [int(text) for text in (thread / "children").read_text().split()]
    return found


def test_a_certificate_is_found_once_and_kept(tmp_path: Path) -> None:
    """Goal: a model is probed once. Method: ask twice; the second time no process could have been started."""
    said: list[str] = []
    model = load(tmp_path, SMALL())
    first = certified(model, say=said.append)
    assert first.model_class == "A"
    assert len(kept(model)) == 1
    assert any("batches of 64" in text for text in said)
    assert certified(model, seconds_max=0) == first


def test_another_condition_has_another_certificate(tmp_path: Path) -> None:
    """Goal: a certificate says nothing under another fingerprint. Method: more threads; then both are on file."""
    certified(load(tmp_path, SMALL()))
    model = load(tmp_path, SMALL(), threads=2)
    said: list[str] = []
    certified(model, threads=2, say=said.append)
    assert said
    assert len(kept(model)) == 2
    store = CertificateStore(model.entry.folder.parent.parent)
    digest = model.entry.digest.hex()
    threads = {value["conditions"]["settings"]["threads"] for _, value in store.all_of(digest)}
    assert threads == {"1", "2"}
    store.remove(digest)
    assert not kept(model)


def _recurrent(operator: str, gates: int) -> OperatorGraph:
    """x [n, k, 24] through a layer along its second extent."""
    weights = {"w": normal(1, 1, gates * 32, 24), "r": normal(2, 1, gates * 32, 32)}
    nodes = [node("Transpose", "x", "t", perm=[1, 0, 2]), node(operator, "t w r", "y", hidden_size=32)]
    return OperatorGraph(nodes, ["k", 24], weights)


@pytest.mark.parametrize(
    ("graph", "stood"),
    [
        (SMALL(), ("n",)),
        (FAMILIES["lstm"](), ()),
        (_recurrent("GRU", 3), ()),
        (_recurrent("LSTM", 4), ("k",)),
        (OperatorGraph([node("Identity", "x")], ["k"]), ("n", "k")),
    ],
    ids=["conv", "lstm", "gru of free length", "lstm of free length", "identity"],
)
def test_free_extents_that_may_be_0_are_found(graph: OperatorGraph, stood: tuple[str, ...], tmp_path: Path) -> None:
    """Goal: a call without values that would end its worker is known before. Method: set each free extent to 0 in the
    process that probes; ONNX Runtime ends it for LSTM and GRU. The class is found all the same, and kept.
    """
    model = load(tmp_path, graph)
    found = certified(model)
    assert (found.model_class in ("A", "C"), found.empty_extents) == (True, stood), found.reason
    assert certified(model, seconds_max=0) == found


@pytest.mark.parametrize("damage", ["", "{", "cut", "other model"])
def test_a_damaged_certificate_is_replaced(damage: str, tmp_path: Path) -> None:
    """Goal: a damaged file costs a probe and nothing else. Method: empty it, cut it, put another model's there."""
    model = load(tmp_path, SMALL())
    first = certified(model)
    (path,) = kept(model)
    text = path.read_text(encoding="utf-8")
    other = encode(alone("a lie", model.facts["probe"]), "00" * 32, conditions_of(model.facts))
    path.write_text({"cut": text[:100], "other model": other}.get(damage, damage), encoding="utf-8")
    assert certified(model) == first
    assert path.read_text(encoding="utf-8") == text


def test_a_certificate_that_cannot_be_kept_still_counts(tmp_path: Path) -> None:
    """Goal: a full or read-only disk does not change a class. Method: a file where the folder should be."""
    model = load(tmp_path, SMALL())
    (model.entry.folder.parent.parent / FOLDER).write_text("in the way")
    assert certified(model).model_class == "A"


def test_two_workers_may_probe_at_once(tmp_path: Path) -> None:
    """Goal: a race for one certificate harms nobody. Method: four threads ask for it at the same time."""
    model = load(tmp_path, SMALL())
    found: list[Certificate] = []
    threads = [threading.Thread(target=lambda: found.append(certified(model))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(kept(model)) == 1
    assert [path.suffix for path in kept(model)[0].parent.iterdir()] == [".json"]


def test_other_bits_in_the_worker_are_class_d(tmp_path: Path) -> None:
    """Goal: the worker's own session is a probe too. Method: a kept certificate with other bits of the fixed inputs."""
    model = load(tmp_path, SMALL())
    store = CertificateStore(model.entry.folder.parent.parent)
    other = certified(model)._replace(probe="ab" * 32)
    store.put(encode(other, model.entry.digest.hex(), conditions_of(model.facts)))
    found = certified(model, seconds_max=0)
    assert found.model_class == "D"
    assert "differs between processes" in found.reason


def test_a_probe_that_takes_too_long_is_class_d(tmp_path: Path) -> None:
    """Goal: no model holds up a worker for ever. Method: a model that needs minutes, and a second of time."""
    others = children() if sys.platform.startswith("linux") else []
    found = certified(model := load(tmp_path, endless(), SLOW), seconds_max=1)
    assert found.model_class == "D"
    assert "longer than 1 s" in found.reason
    assert not kept(model)
    assert (children() if sys.platform.startswith("linux") else []) == others


@LINUX
def test_a_probe_that_dies_is_class_d(tmp_path: Path) -> None:
    """Goal: a model that crashes takes only its probe along. Method: kill the process when it reports."""

    others = children()

    def kill(text: str) -> None:
        if "shape" in text:
            for pid in [pid for pid in children() if pid not in others]:
                os.kill(pid, signal.SIGKILL)

    model = load(tmp_path, SMALL())
    found = certified(model, say=kill)
    assert (found.model_class, "SIGKILL" in found.reason) == ("D", True), found.reason
    assert not kept(model)
    assert certified(model).model_class == "A"  # the next one is not harmed


def test_a_probe_that_cannot_load_the_model_says_why(tmp_path: Path) -> None:
    """Goal: the reason is the library's. Method: damage the model after it was loaded."""
    model = load(tmp_path, SMALL())
    path = model.entry.model_path
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    found = certified(model)
    assert found.model_class == "D"
    assert "exit code 1" in found.reason
    assert "is damaged" in found.reason


def test_a_stop_ends_the_probe(tmp_path: Path) -> None:
    """Goal: a worker can stop while a model is probed. Method: be told to stop once the probe runs."""
    stop = threading.Event()
    model = load(tmp_path, endless(), SLOW)
    found = certified(model, say=lambda text: stop.set() if "[1, 2]" in text else None, is_stopping=stop.is_set)
    assert (found.model_class, "told to stop" in found.reason) == ("D", True)
    assert not kept(model)


WORKER = """
import sys
from pathlib import Path
from rota.gpu_worker.certification import certificate_of
from rota.gpu_worker.repository import Repository
from rota.gpu_worker.sessions import ModelLoader
repository = Repository(Path(sys.argv[1]))
entry = repository.show("m")
model = ModelLoader(threads=1, require="cpu", tensors=None).session(entry, entry.settings())
say = lambda text: print(text, flush=True)
certificate_of(entry, model.opened, model.facts, threads=1, is_stopping=lambda: False, say=say)
"""


@LINUX
def test_the_probe_ends_with_its_worker(tmp_path: Path) -> None:
    """Goal: no orphan computes on. Method: kill a process that waits for a long probe, and wait for the probe's end."""
    load(tmp_path, endless(), SLOW)
    command = [sys.executable, "-c", WORKER, str(tmp_path / "models")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            if "[1, 2]" in line:
                break
        (probe,) = [int(text) for text in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]
        worker.kill()
    ends_at = time.monotonic() + 60
    while Path(f"/proc/{probe}").exists() and "(zombie)" not in _state(probe):
        assert time.monotonic() < ends_at, "the probe still runs"
        time.sleep(0.02)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "(zombie)"


def test_a_decoder_is_probed_in_the_same_way(tmp_path: Path) -> None:
    """Goal: generation has a certificate of the same kind and file. Method: a tiny decoder, asked for it twice."""
    source = tmp_path / "decoder"
    source.mkdir()
    build_random_decoder(source, slots=2)
    entry = Repository(tmp_path / "models").add(source, "m")
    model = load_uncertified(entry, threads=1, require="cpu")
    said: list[str] = []

    def ask(seconds_max: float) -> Certificate:
        return certificate_of(
            entry, model.opened, model.facts,
            threads=1, is_stopping=lambda: False, say=said.append, seconds_max=seconds_max,
        )  # fmt: skip

    found = ask(300)
    assert (found.model_class, found.shapes) == ("A", ()), found.reason
    assert found.decoder is not None
    assert found.decoder.sizes[-1] == 2
    assert {one.probe for one in found.decoder.evidence} >= {"rerun", "neighbours and slots"}
    assert any("with neighbours" in text for text in said)
    assert ask(0) == found
