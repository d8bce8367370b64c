"""ask_model.c: what it asks, what it answers, and the whole way with a tiny decoder. AGENTS.md shows it as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from rota import local
from rota.common.text_calls import GENERATE, ChatMessage, GenerateCall, decode_text_call
from rota.common.text_results import GenerateResult, Usage, encode_text_result

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "examples" / "agents" / "ask_model.c"
Make = Callable[..., Any]  # the fixture `agent`: a name makes one


def test_it_asks_and_answers_later(agent: Make) -> None:
    """Goal: the call is one that a worker reads, and its text is the answer. Method: play the part of the model."""
    asker = agent("ask_model")
    step = asker.send("Wie spät?".encode())
    assert (step.result, asker.output[7], asker.state) == (None, "", None)
    (emit,) = step.emits
    assert (emit.target, emit.kind) == ("model:smollm2", "ask")
    call = decode_text_call(emit.payload, GENERATE)
    assert isinstance(call, GenerateCall)
    assert (call.messages, call.max_tokens) == ((ChatMessage("user", "Wie spät?"),), 64)
    answer = encode_text_result(GenerateResult("Spät.", (5,), "stop", None, Usage(9, 1)))
    assert settled(asker, answer) == ("reply", "Spät.".encode(), 8)
    failure = msgpack.packb(["timeout", "it took too long"])
    assert settled(asker, failure, "failure") == ("failure", failure, 8)
    kind, why, _ = settled(asker, msgpack.packb({"outputs": {}}))
    assert (kind, msgpack.unpackb(why)[0]) == ("failure", "bad_answer")


def settled(asker: Any, payload: bytes, kind: str = "reply") -> tuple[str, bytes, int]:
    """Answer what the agent asked in turn 8; return what it settles, and which turn."""
    (emit,) = asker.send(payload, kind=kind, sender="model:smollm2", reply_to=(9, 8, 0)).emits
    return emit.kind, emit.payload, asker.output[4][0][6]


def test_the_whole_way(rota_lane: local.LocalLane, tmp_path: Path) -> None:
    """Goal: whoever asks gets what the model says. Method: a tiny decoder in its place, in a local lane."""
    pytest.importorskip("onnxruntime")
    builds = pytest.importorskip("rota.model_builds.random_decoder")
    rota_lane.deploy("smollm2", builds.build_random_decoder(tmp_path / "tiny"), "model")
    rota_lane.deploy("ask_model", SOURCE.with_suffix(".wasm"))
    answer = rota_lane.submit("ask_model/a", b"hello").result().payload
    direct = rota_lane.generate("smollm2", messages=[{"role": "user", "content": "hello"}], max_tokens=64).result()
    assert answer == direct.text.encode()


def test_the_page_shows_it() -> None:
    """Goal: docs/AGENTS.md shows a whole agent. Method: the source behind its head comment, on the page."""
    _, start, rest = SOURCE.read_text(encoding="utf-8").partition('#include "rota.h"')
    assert f"```c\n{start}{rest}```" in (REPOSITORY / "docs" / "AGENTS.md").read_text(encoding="utf-8")
