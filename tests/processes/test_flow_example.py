"""examples/flows with real processes: calls that wait for a model while their worker dies; the page that shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runtime_kit import javascript_runtime, python_runtime

from rota.client import Client, Limits, TaskFailed
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import RunFolder
from rota.model_builds.random_decoder import build_random_decoder

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).resolve().parents[2]
FLOWS = REPOSITORY / "examples" / "flows"
LIMITS = Limits(timeout_ms=120_000)
FACTS = ("3 chairs: 120 euros, then 7 are left", "2 tables: 240 euros, then 8 are left")
SECONDS = 120.0  # the first run on a host compiles the interpreters


@pytest.mark.timeout(300)
def test_a_quote_survives_its_worker(
    run_dir: Path, rota_up: Callable[..., Any], start_process: Callable[..., Any]
) -> None:
    """Goal: the answer of two agents and a model reaches whoever asked, whatever dies meanwhile, in both languages.
    Method: without a GPU worker a call waits for the model, and what is behind that in the line waits too; the CPU
    worker, which kept the calls, is killed; then a GPU worker comes.
    """
    python_runtime()
    javascript_runtime()
    up = rota_up(run_dir)
    entry = Repository(RunFolder(run_dir).models).add(build_random_decoder(run_dir / "made"), "decoder")
    with Client(run_dir) as client:
        client.deploy_model("smollm2", entry.digest, code_limits=LIMITS, check=False)
        for name in ("stock.py", "price.py", "quote.py", "quote.js"):
            client.deploy(name.replace(".js", "_js").removesuffix(".py"), FLOWS / name, timeout_s=SECONDS)
        asked = [client.ask("quote", b"3 chairs"), client.ask("quote_js", b"2 tables")]
        wait_for_model(client)
        up.kill_child("cpu-1")
        start_process("-m", "rota.cli", "gpu-worker", "--dir", str(run_dir))
        answers = [one.result(SECONDS).payload.decode() for one in asked]
        assert answers == [f"{facts}. {praise(client, facts.split()[1].rstrip(':'))}" for facts in FACTS]
        with pytest.raises(TaskFailed, match=r"AskFailed: error: sold_out: only 7 left"):
            client.ask("quote", b"99 chairs").result(SECONDS)


def praise(client: Client, item: str) -> str:
    """Return what the model says of an item."""
    messages = [{"role": "user", "content": f"Describe {item} in one sentence."}]
    return client.generate("smollm2", messages=messages, max_tokens=60, timeout_s=SECONDS).result().text


def wait_for_model(client: Client) -> None:
    """Wait until the model is asked."""
    deadline = time.monotonic() + SECONDS
    while all(row["target"] != "model:smollm2" for row in client.query("tasks")):
        assert time.monotonic() < deadline, client.query("tasks")


def test_the_first_page_shows_it() -> None:
    """Goal: README.md has the flow as it is. Method: the source behind its docstring, on the page."""
    source = (FLOWS / "quote.py").read_text(encoding="utf-8").split('"""', 2)[2].strip()
    assert f"```python\n{source}\n```" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
