"""The cases of inference: batches under load, the price of the certificate, large inputs, and the memory of models."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _bench_bounds import PlainSession
from _bench_models import layers, multilayer, summed
from _demo_processes import Up

from rota.client import Client
from rota.common.model_call import Call, Tensor
from rota.common.work import Limits
from rota.gpu_worker.loaded_model import LoadedModel
from rota.gpu_worker.repository import Repository
from rota.gpu_worker.sessions import ModelLoader
from rota.tensors.store import TensorStore

if TYPE_CHECKING:
    from _bench_cases import Place

WAIT_SECONDS = 60.0
BATCH_ROWS = 8
PRODUCERS = 8
LAYER_WIDTH = 1_024
LAYERS = 16  # about 5 ms at 8 rows on one core of 2023
LAYERS_IN_MEMORY = 4
WEIGHTS_MIB = 64
LIMITS = Limits(timeout_ms=60_000)


def waiting_calls(place: Place) -> Iterator[None]:
    """One-row calls of a small model that all wait at once: inputs packed by the client, outputs inline."""
    model = multilayer(place.folder.prepare().root / "mlp.onnx")
    digest = Repository(place.folder.models).add(model, "mlp").digest
    row = np.random.default_rng(4).standard_normal((1, 256), np.float32)
    count = place.sizes.inferences
    with Up(place.folder, 0, 1) as up, Client(place.folder.root) as client:
        up.wait_ready(place.say)
        client.deploy_model("mlp", digest)
        first = client.submit("model:mlp", {"x": row}).result(WAIT_SECONDS)
        assert first.provenance is not None
        plain = PlainSession(model, first.provenance.provider, threads=1)
        title = f"MLP 256-256-10, {count:,} one-row calls wait, class {first.provenance.certificate}, 1 worker"
        while True:
            place.say("MLP 256-256-10")
            loop = f"session.run loop on {first.provenance.provider}"
            used = [_processor_seconds(up)]
            bound = {loop: plain.runs_per_second({"x": row}, count)}
            used.append(_processor_seconds(up))
            started = time.perf_counter()
            client.submit_many("model:mlp", [{"x": row}] * count).results(WAIT_SECONDS)
            taken = time.perf_counter() - started
            used.append(_processor_seconds(up))
            notes = {f"{kind} us/call": (used[2][kind] - used[1][kind]) / count * 1e6 for kind in used[2]}
            notes[f"{loop} us/call"] = (used[1]["client"] - used[0]["client"]) / count * 1e6
            notes = {name: round(value, 1) for name, value in notes.items()}
            place.table.add("inference", title, "inferences/s", count / taken, bound, notes)
            yield


def _processor_seconds(up: Up) -> dict[str, float]:
    """Return the processor time of this process, and of those of `up` where it can be asked, in steps of 10 ms."""
    others = up.processor_seconds() or {}
    used = {kind: seconds for kind, seconds in others.items() if kind != "cpu_worker"}
    return {"client": time.process_time(), **used}


def one_after_another(place: Place) -> Iterator[None]:
    """A model of about 5 ms at 8 rows, called by producers that each wait for their result.

    The bound is a plain loop in this process: each producer's call once, and then all of them again.
    """
    model = layers(place.folder.prepare().root / "layers.onnx", LAYER_WIDTH, LAYERS)
    digest = Repository(place.folder.models).add(model, "layers").digest
    inputs = {"x": np.random.default_rng(5).standard_normal((BATCH_ROWS, LAYER_WIDTH), np.float32)}
    count = max(8, place.sizes.round_trips // 4)
    with Up(place.folder, 0, 1) as up, Client(place.folder.root) as client:
        up.wait_ready(place.say)
        client.deploy_model("layers", digest)
        first = client.submit("model:layers", inputs).result(WAIT_SECONDS)
        assert first.provenance is not None
        plain = PlainSession(model, first.provenance.provider, threads=1)
        while True:
            for producers in (1, PRODUCERS):
                title = f"{LAYERS} layers of {LAYER_WIDTH}, {BATCH_ROWS} rows a call, {producers} producers"
                place.say(title)
                alone = sorted(plain.run_seconds(inputs, count))
                seconds, taken = _by_producers(place.folder.root, "model:layers", inputs, producers, count)
                loop = {"a plain loop": count / sum(alone)}
                place.table.add("inference", title, "inferences/s", producers * count / taken, loop)
                for name, share in (("p50", 0.5), ("99 of 100 within", 0.99)):
                    bound = {"a plain loop over all producers' calls in turn": producers * _at(alone, share) * 1e3}
                    place.table.add("inference", f"{title}, {name}", "ms", _at(seconds, share) * 1e3, bound)
            yield


def _by_producers(
    root: Path, target: str, inputs: dict[str, Any], producers: int, count: int
) -> tuple[list[float], float]:
    """Return the times of all calls, sorted, and the time of the whole. Each producer has its own thread and client."""
    seconds: list[float] = []
    begin = threading.Barrier(producers + 1)

    def produce() -> None:
        with Client(root) as client:
            client.submit(target, inputs).result(WAIT_SECONDS)
            begin.wait()
            mine = []
            for _ in range(count):
                started = time.perf_counter()
                client.submit(target, inputs).result(WAIT_SECONDS)
                mine.append(time.perf_counter() - started)
            seconds.extend(mine)

    threads = [threading.Thread(target=produce) for _ in range(producers)]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return sorted(seconds), time.perf_counter() - started


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def certified_sizes(place: Place) -> Iterator[None]:
    """Rows per second of the model alone, in batches of every number of rows: padded to certified sizes, against exact
    ones, which is what unrestricted batching would run.
    """
    entry = Repository(place.folder.prepare().models).add(multilayer(place.folder.root / "mlp.onnx"), "mlp")
    model = ModelLoader(threads=1, require="cpu", tensors=None).load(entry).session
    assert model is not None
    waits = np.random.default_rng(6).integers(1, 65, max(10, place.sizes.inferences // 20)).tolist()
    while True:
        place.say("padded and exact batches")
        exact = sum(waits) / sum(_batch_seconds(model, rows, rows) for rows in waits)
        plan = model.plan(Call({"x": Tensor("float32", (1, 256), b"")}, ()))
        padded = sum(waits) / sum(_batch_seconds(model, rows, plan.size_for(rows)) for rows in waits)
        title = f"MLP 256-256-10, batches of 1 to 64 rows, sizes {', '.join(map(str, plan.sizes))}"
        place.table.add("inference", title, "inferences/s", padded, {"batches of exactly these rows": exact})
        yield


def _batch_seconds(model: LoadedModel, rows: int, size: int) -> float:
    """Return the time to copy rows into a buffer of `size` rows and to run it."""
    call = Call({"x": Tensor("float32", (size, 256), b"")}, ())
    bound = model.bind(call, model.output_shapes(call), {})
    row = bytes(1_024)
    started = time.perf_counter()
    bound.fill("x", b"".join([row] * rows) + row * (size - rows))
    bound.run(None)
    return time.perf_counter() - started


def large_input(place: Place) -> Iterator[None]:
    """A large input to a model that reads all of it and answers one number: time, and what the worker's own memory
    grows by. A copy would show as the size of the input.
    """
    store = TensorStore(place.folder.prepare().tensors)
    array = np.random.default_rng(2).standard_normal(place.sizes.tensor_bytes // 4, np.float32)
    model = summed(place.folder.root / "sum.onnx")
    digest = Repository(place.folder.models).add(model, "sum").digest
    megabytes = f"{place.sizes.tensor_bytes >> 20} MiB"
    with Up(place.folder, 0, 1) as up, Client(place.folder.root, timeout_s=120) as client:
        up.wait_ready(place.say)
        client.deploy_model("sum", digest, code_limits=LIMITS)
        (worker,) = client.status()["workers"]
        plain = PlainSession(model, "cpu", threads=1)
        for number in range(1, 1 << 30):
            place.say(f"{megabytes} to a model")
            array[0] = number
            reference = store.put(array)
            client.submit("model:sum", {"x": np.ones(4, np.float32)}).result(WAIT_SECONDS)
            before = _anonymous_bytes(worker["pid"])
            with _Peak(lambda: _anonymous_bytes(worker["pid"])) as peak:
                started = time.perf_counter()
                result = client.submit("model:sum", {"x": store.open(reference)}).result(WAIT_SECONDS)
                taken = time.perf_counter() - started
            assert result.arrays["y"].size == 1
            alone = {"session.run": 1e3 * plain.run_seconds({"x": array}, 1)[0]}
            place.table.add("inference", f"{megabytes} to a model that sums it", "ms", taken * 1e3, alone)
            grown = max(0.01, (peak.highest - before) / (1 << 20))
            size = {"the input itself": place.sizes.tensor_bytes / (1 << 20)}
            place.table.add("inference", f"{megabytes} to a model: memory of the worker meanwhile", "MiB", grown, size)
            yield


def memory_of_models(place: Place) -> Iterator[None]:
    """What a worker's own memory grows by with each loaded model, against the size of its weights."""
    count = 4
    for number in range(1, 1 << 30):
        folder = type(place.folder)(place.folder.root / str(number)).prepare()
        megabytes = WEIGHTS_MIB if place.sizes.tensor_bytes >= 64 << 20 else 1
        width = int(((megabytes << 20) / 4 / LAYERS_IN_MEMORY) ** 0.5)
        for seed in range(count + 1):
            model = layers(folder.root / f"m{seed}.onnx", width, LAYERS_IN_MEMORY, seed)
            Repository(folder.models).add(model, f"m{seed}")
        with Up(folder, 0, 1) as up, Client(folder.root, timeout_s=120) as client:
            up.wait_ready(place.say)
            sizes = []
            for seed in range(count + 1):
                place.say(f"{seed} models")
                entry = Repository(folder.models).show(f"m{seed}")
                client.deploy_model(f"m{seed}", entry.digest, code_limits=LIMITS)
                sizes.append(_anonymous_bytes(client.status()["workers"][0]["pid"]))
        grown = (sizes[-1] - sizes[0]) / count / (1 << 20)
        weights = {"its weights": entry.size_bytes / (1 << 20)}
        place.table.add("inference", f"memory of a model with {megabytes} MiB of weights", "MiB", grown, weights)
        yield


class _Peak:
    """The highest value of a measure while the block runs, asked every millisecond."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self.highest = 0
        self._measure = measure
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.001):
            self.highest = max(self.highest, self._measure())


def _anonymous_bytes(pid: int) -> int:
    """Return the memory that a process holds for itself, without mapped files; 0 where that cannot be asked."""
    status = Path(f"/proc/{pid}/status")
    if os.name != "posix" or not status.exists():
        return 0
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


INFERENCE: list[Callable[[Any], Iterator[None]]] = [
    waiting_calls,
    one_after_another,
    certified_sizes,
    large_input,
    memory_of_models,
]
