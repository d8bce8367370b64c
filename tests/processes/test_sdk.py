"""The examples of all SDKs through a real broker and worker: every language does the same, task by task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from sdk_languages import LANGUAGES as ALL_LANGUAGES
from sdk_languages import SDK

from rota.client import Client
from rota.client.client import Batch, Handle
from rota.common.work import Done, Outcome
from rota.runs.open import open_run
from rota.runs.walk import Walk
from rota.runtimes.catalog import RUNTIMES
from rota.runtimes.folder import is_fetched

pytestmark = pytest.mark.processes

# The endings of the example files of each language that is here without a compiler.
LANGUAGES = {"assemblyscript": ".wasm", "c": ".wasm", "rust": ".wasm", "zig": ".wasm"}
LANGUAGES |= {runtime.name: runtime.suffixes[0] for runtime in RUNTIMES.values() if is_fetched(runtime)}
EXAMPLES = ("ask_model", "counter", "desk", "echo", "two_step", "verbs")
FLOWS = {language.name for language in ALL_LANGUAGES if language.flows}
# Nobody is there for what ask_model and trip ask. What `wait` keeps, the message behind it answers.
ASKS = (
    ("two_step/two_step", b"start"), ("ask_model/a", b"Warum?"), ("desk/a", b"what?"), ("desk/a", b"wait"),
    ("desk/a", b"answer"), ("desk/b", b"wait"), ("desk/b", b"pass"), ("desk/b", b"wait"), ("desk/b", b"refuse"),
    ("desk/c", b"transfer"), ("trip", b"Bonn"),
)  # fmt: skip
TIMED = ("echo/x", "verbs/case")
SECONDS = 250  # the first run on a host compiles the interpreters


def work(client: Client, lane: str) -> Batch:
    """Deploy the examples of the language that the lane is named after, and submit what makes them ask and count.
    Return what it has asked.

    Everything is there before the first task runs, so turns are the same in all lanes.
    """
    client.open_lane(lane, seed=bytes(32), paused=True)
    for example in EXAMPLES:
        client.deploy(example, SDK / lane / "examples" / f"{example}{LANGUAGES[lane]}", lane=lane, check=False)
    # A language without flows gets the one of C, so that turns and digests can be compared.
    flows = lane if lane in FLOWS else "c"
    client.deploy("trip", SDK / flows / "examples" / f"trip{LANGUAGES[flows]}", lane=lane, check=False)
    client.submit_many("counter/a", [b"+"] * 3, lane=lane)
    client.submit("verbs/case", msgpack.packb({"n": [1, None, 0.5]}), lane=lane)
    client.submit("echo/e", bytes(1000), lane=lane)
    targets, payloads = zip(*ASKS, strict=True)
    asked = client.ask_many(list(targets), payloads, lane=lane)
    client.release(lane)
    return asked


def answer(client: Client, handle: Handle) -> tuple[bytes | None, str]:
    """Return the result, or what can be compared of the failure."""
    outcome = client.outcome(handle, timeout_s=SECONDS)
    return outcome.payload, text_of(outcome.message)


def assert_answers(found: list[tuple[bytes | None, str]]) -> None:
    """Check what `ASKS` got in one lane."""
    two_step, model, what, kept, answered, passed, passes, refused, refuses, transferred, trip = found
    assert two_step[0] is not None
    assert msgpack.unpackb(two_step[0]) == {"step": 3, "first": "start", "second": "1"}
    assert model[1].startswith("unknown_model: ")
    assert (what, answered, transferred) == ((b"what?", ""), (b"answered", ""), (b"transfer", ""))
    assert kept[0] is not None
    assert list(msgpack.unpackb(kept[0])) == ["waited"]
    assert passed[0] is not None
    assert len(msgpack.unpackb(passed[0])) == 1
    assert (passes, refuses) == ((None, ""), (None, ""))
    assert refused[1] == "refused: the desk is closed"
    assert trip[1].startswith("AskFailed: unknown_agent: ")


@pytest.mark.timeout(300)
def test_every_language_does_the_same(run_dir: Path, rota_up: Callable[..., Any]) -> None:
    """Goal: one shape, also where asks and states are real. Method: a lane for each language, the same inputs, and what
    came of every task from the journal.
    """
    up = rota_up(run_dir)
    with Client(run_dir) as client:
        asked = {language: work(client, language) for language in LANGUAGES}
        for language in LANGUAGES:
            client.wait_idle(language, timeout_s=SECONDS)
        answers = {language: [answer(client, handle) for handle in asked[language]] for language in LANGUAGES}
    up.close()
    for found in answers.values():
        assert found == answers["c"]
    assert_answers(answers["c"])
    found = outcomes(run_dir)
    first = found["c"]
    results = {address: result for address, result, _ in first if isinstance(result, bytes)}
    assert results["counter/a"] == b"3"
    for one in found.values():
        assert one == first


def came_of(one: Outcome) -> tuple[Any, tuple[str, ...]]:
    """Return what can be compared."""
    if isinstance(one, Done):
        return one.result, one.log
    return (one.kind, text_of(one.message)), ()


def text_of(message: str) -> str:
    """Return a message without what only some languages add: the lines that say where, and whom a flow had asked."""
    return message.partition("\n")[0].partition(" (asked ")[0]


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
                        rows.append((task.address, *came_of(one)))
    return found
