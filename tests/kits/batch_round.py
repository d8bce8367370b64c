"""One round of many producers calling one model at once, compared with each call alone in this process.

Used by tests/processes/test_batches.py and scripts/batches.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from batch_models import WIDTH, logarithm

from rota.client import Client
from rota.common.model_call import Tensor, encode_call
from rota.common.work import MODEL, Code, Done, Fold, TaskInput
from rota.engine.executors import Executors, Folders
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import RunFolder

LANES = ("main", "b", "c")
WAIT_SECONDS = 120.0


class Round(NamedTuple):
    """What was sent and what came: per call the result that it has alone, and the one that its producer got."""

    alone: list[bytes | None]
    found: list[bytes | None]
    rows: int
    runs: int  # of the graph, by all workers together


def made_calls(seed: int, count: int) -> list[bytes]:
    """Return payloads of 1 to 6 rows, most of one."""
    random, drawn = np.random.default_rng(seed), Random(seed)
    calls = []
    for _ in range(count):
        rows = drawn.choice((1, 1, 1, 1, 2, 3, 6))
        array = random.standard_normal((rows, WIDTH), np.float32)
        calls.append(encode_call({"x": Tensor("float32", array.shape, array.tobytes())}))
    return calls


def add_model(folder: RunFolder) -> bytes:
    """Add the model of all rounds to the repository of a run; return its digest."""
    return Repository(folder.models).add(logarithm(folder.root / "logarithm.onnx"), "logarithm").digest


def results_alone(folder: RunFolder, digest: bytes, calls: list[bytes]) -> list[bytes | None]:
    """Run each call by itself in this process; return the results."""
    folders = Folders(
        modules=folder.modules, artefacts=folder.root / "none", models=folder.models, tensors=folder.tensors
    )
    found: list[bytes | None] = []
    with Executors(folders, device="cpu") as executors:
        for payload in calls:
            task = TaskInput(1, "tell", None, payload, 0, None, (), 0, 0)
            (outcome,) = executors.run(Fold(bytes(32), Code(digest, MODEL), "model:m", None, (task,))).outcomes
            assert type(outcome) is Done, outcome
            found.append(outcome.result)
    return found


def run_round(
    root: Path, digest: bytes, seed: int, producers: int, calls_each: int, say: Callable[[str], None]
) -> Round:
    """Let many producers call the model at once, against workers that are running; each has a connection of its own.

    Their calls, lanes and sizes of submit follow from the seed; their order does not.
    """
    calls = made_calls(seed, producers * calls_each)
    say(f"{len(calls)} calls alone")
    alone = results_alone(RunFolder(root), digest, calls)
    with Client(root, timeout_s=WAIT_SECONDS) as client:
        for lane in LANES:
            if lane != "main" and lane not in [one["lane"] for one in client.status()["lanes"]]:
                client.open_lane(lane)
            client.deploy_model("logarithm", digest, lane=lane)
    found: list[bytes | None] = [None] * len(calls)
    failures: list[BaseException] = []
    begin = threading.Barrier(producers)

    def produce(number: int) -> None:
        try:
            drawn = Random(seed * 1_000_003 + number)
            mine = list(range(number * calls_each, (number + 1) * calls_each))
            drawn.shuffle(mine)
            with Client(root, timeout_s=WAIT_SECONDS) as client:
                begin.wait(WAIT_SECONDS)
                while mine:
                    part = [mine.pop() for _ in range(min(len(mine), drawn.randint(1, calls_each)))]
                    batch = client.submit_many("model:logarithm", [calls[at] for at in part], lane=drawn.choice(LANES))
                    for at, result in zip(part, batch.results(WAIT_SECONDS), strict=True):
                        found[at] = result.payload
        except BaseException as error:
            failures.append(error)
            begin.abort()

    say(f"{producers} producers at once")
    threads = [threading.Thread(target=produce, args=(number,)) for number in range(producers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    with Client(root, timeout_s=WAIT_SECONDS) as client:
        models: list[dict[str, Any]] = [
            one for worker in client.status()["workers"] for one in worker.get("models", ())
        ]
    return Round(alone, found, sum(one["rows"] for one in models), sum(one["calls"] for one in models))
