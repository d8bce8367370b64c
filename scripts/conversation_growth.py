"""What a dialogue costs by its head, against sending the whole history with every turn.

    python3 scripts/conversation_growth.py                       a tiny decoder with random weights, 50 turns: seconds
    python3 scripts/conversation_growth.py --model FOLDER        a model folder, as scripts/models/fetch.py makes it
    python3 scripts/conversation_growth.py --turns 5 --json

Each way runs in a run folder of its own with a broker and a GPU worker. The answers must be the same, else it ends with
1. Bytes: payloads and results as they travel, once; the records of the journal; what a sender has to remember.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from _environment import ensure_environment

WAIT_SECONDS = 600.0
COUNTERS_SECONDS_MAX = 20.0
COUNTERS = ("tokens_prefilled", "tokens_cached", "tokens_generated")


class Cost(NamedTuple):
    """The sums over a dialogue. `prompt_tokens`: of all prompts, whoever computed them."""

    payload_bytes: int
    result_bytes: int
    journal_bytes: int
    remembered_bytes: int
    prompt_tokens: int
    counters: dict[str, int]
    seconds: float


def main() -> int:
    options = _options()
    ensure_environment(["dev"])
    scratch = Path(tempfile.mkdtemp(prefix="rota-growth-"))
    try:
        model = options.model or _tiny(scratch / "tiny")
        chained, said = _dialogue(model, options.turns, options.max_tokens, by_head=True)
        whole, again = _dialogue(model, options.turns, options.max_tokens, by_head=False)
    finally:
        shutil.rmtree(scratch)
    if said != again:
        print("the two ways gave different answers", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"turns": options.turns, "by_head": chained._asdict(), "whole": whole._asdict()}))
    else:
        print(_table(chained, whole, options.turns))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", type=Path, metavar="FOLDER", help="a folder with model.onnx and model.toml (default: a tiny one)")
    add("--turns", type=int, default=50, metavar="N", help="questions and answers (default: 50)")
    add("--max-tokens", type=int, default=12, metavar="N", help="of each answer (default: 12)")
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def _tiny(folder: Path) -> Path:
    from rota.model_builds.random_decoder import TINY, build_random_decoder

    return build_random_decoder(folder, replace(TINY, context=8192), slots=1)


def _dialogue(model: Path, turns: int, max_tokens: int, *, by_head: bool) -> tuple[Cost, list[str]]:
    """Hold a dialogue; return its cost and the answers."""
    from _demo_processes import Up, run_folder

    from rota.client import Client
    from rota.common.text_calls import ChatMessage, GenerateCall, encode_text_call
    from rota.common.text_results import GenerateResult, decode_text_result
    from rota.common.work import Limits
    from rota.gpu_worker.repository import Repository
    from rota.runs.open import open_run

    answers: list[str] = []
    history: list[ChatMessage] = []
    head: bytes | None = b""
    sums = dict.fromkeys(("payload", "result", "remembered", "prompt", "generated"), 0)
    with run_folder(None) as folder, Up(folder, 0, 1) as up:
        entry = Repository(folder.models).add(model, "talker")
        up.wait_ready(lambda _: None)
        with Client(folder.root) as client:
            client.deploy_model("talker", entry.digest, code_limits=Limits(timeout_ms=600_000), recorded=True)
            began = time.monotonic()
            for turn in range(turns):
                history.append(ChatMessage("user", f"Question {turn + 1}: what is {turn} plus {turn}?"))
                messages = tuple(history[-1:] if by_head else history)
                call = GenerateCall(messages=messages, conversation=head if by_head else None, max_tokens=max_tokens)
                payload = encode_text_call(call)
                done = client.submit("model:talker", payload).result(WAIT_SECONDS)
                assert done.payload is not None
                result = decode_text_result(done.payload, done.tensors)
                assert isinstance(result, GenerateResult)
                head = result.conversation
                history.append(ChatMessage("assistant", result.text))
                answers.append(result.text)
                sums["payload"] += len(payload)
                sums["result"] += len(done.payload)
                sums["prompt"] += result.usage.prompt
                sums["generated"] += result.usage.generated
            seconds = time.monotonic() - began
            counters = _counters(client, sums["generated"])
        remembered = 32 if by_head else len(encode_text_call(GenerateCall(messages=tuple(history))))
        with open_run(folder.root) as source:
            first, last, _ = source.extent()
            journal = sum(len(entry.body) for entry in source.entries(first, last))
    return (
        Cost(sums["payload"], sums["result"], journal, remembered, sums["prompt"], counters, round(seconds, 1)),
        answers,
    )


def _counters(client: Any, generated: int) -> dict[str, int]:
    """Return what the worker says of its model. It comes with a heartbeat, so wait until it has all of it."""
    deadline = time.monotonic() + COUNTERS_SECONDS_MAX
    while True:
        (worker,) = client.query("workers")
        models = worker["models"]
        if models and models[0]["tokens_generated"] >= generated:
            return {name: models[0][name] for name in COUNTERS}
        if time.monotonic() > deadline:
            raise TimeoutError("the worker does not say what it has generated")
        time.sleep(0.1)


def _table(chained: Cost, whole: Cost, turns: int) -> str:
    rows: list[tuple[str, ...]] = [(f"{turns} turns", "by the head", "history sent whole")]
    for name in ("payload_bytes", "result_bytes", "journal_bytes", "remembered_bytes", "prompt_tokens"):
        rows.append((name.replace("_", " "), f"{getattr(chained, name):,}", f"{getattr(whole, name):,}"))
    for name in COUNTERS:
        rows.append((name.replace("_", " "), f"{chained.counters[name]:,}", f"{whole.counters[name]:,}"))
    rows.append(("seconds", f"{chained.seconds}", f"{whole.seconds}"))
    return "\n".join(f"{name:18}{left:>14}{right:>20}" for name, left, right in rows)


if __name__ == "__main__":
    sys.exit(main())
