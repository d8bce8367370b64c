"""The examples of all SDKs through a real broker and worker: every language does the same, task by task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from sdk_languages import SDK

from rota.client import Client
from rota.common.work import Done
from rota.runs.open import open_run
from rota.runs.walk import Walk
from rota.runtimes.catalog import RUNTIMES
from rota.runtimes.folder import is_fetched

pytestmark = pytest.mark.processes

# The endings of the example files of each language that is here without a compiler.
LANGUAGES = {"assemblyscript": ".wasm", "c": ".wasm", "rust": ".wasm", "zig": ".wasm"}
LANGUAGES |= {runtime.name: runtime.suffixes[0] for runtime in RUNTIMES.values() if is_fetched(runtime)}
EXAMPLES = ("ask_model", "counter", "echo", "two_step", "verbs")
TIMED = ("echo/x", "verbs/case")
SECONDS = 250  # the first run on a host compiles the interpreters


def work(client: Client, lane: str) -> None:
    """Deploy the examples of the language that the lane is named after, and submit what makes them ask and count.

    Everything is there before the first task runs, so turns are the same in all lanes.
    """
    client.open_lane(lane, seed=bytes(32), paused=True)
    for example in EXAMPLES:
        client.deploy(example, SDK / lane / "examples" / f"{example}{LANGUAGES[lane]}", lane=lane, check=False)
    client.submit_many("counter/a", [b"+"] * 3, lane=lane)
    client.submit("two_step/two_step", b"start", lane=lane)
    client.submit("ask_model/a", b"Warum?", lane=lane)  # there is no such model: the failure comes back
    client.submit("verbs/case", msgpack.packb({"n": [1, None, 0.5]}), lane=lane)
    client.submit("echo/e", bytes(1000), lane=lane)
    client.release(lane)


@pytest.mark.timeout(300)
def test_every_language_does_the_same(run_dir: Path, rota_up: Callable[..., Any]) -> None:
    """Goal: one shape, also where asks and states are real. Method: a lane for each language, the same inputs, and what
    came of every task from the journal.
    """
    up = rota_up(run_dir)
    with Client(run_dir) as client:
        for language in LANGUAGES:
            work(client, language)
        for language in LANGUAGES:
            client.wait_idle(language, timeout_s=SECONDS)
    up.close()
    found = outcomes(run_dir)
    first = found["c"]
    results = {address: result for address, result, _ in first if isinstance(result, bytes)}
    assert results["counter/a"] == b"3"
    for one in found.values():
        assert one == first


def outcomes(run_dir: Path) -> dict[str, list[tuple[str, Any, tuple[str, ...]]]]:
    """Return (address, result or failure, log) of the tasks by lane, in the order in which they took effect.

    Left out is what tells the time: the timer, which may fire later or not at all, and `now_ms`, which comes back.
    """
    found: dict[str, list[tuple[str, Any, tuple[str, ...]]]] = {language: [] for language in LANGUAGES}
    with open_run(run_dir) as source:
        for step in Walk(source).steps():
            for language, rows in found.items():
                for task in step.retired(language):
                    one = task.outcome
                    if task.address not in TIMED or task.run.kind == "tell":
                        what = one.result if isinstance(one, Done) else (one.kind, one.message)
                        rows.append((task.address, what, one.log))
    return found
