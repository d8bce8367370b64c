"""Text from real, tiny models through real processes: the same answers everywhere, and every bad call named."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy
import pytest

from rota.client import NEW_CONVERSATION, AsyncClient, Client, Limits, TaskFailed
from rota.common.text_results import GenerateResult
from rota.gpu_worker.repository import Repository
from rota.local.lane import LocalLane
from rota.model_builds.random_decoder import build_random_decoder
from rota.model_builds.random_encoder import build_random_encoder

pytestmark = pytest.mark.processes

Start = Callable[..., Any]

SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a queue?"}]
CALLS: list[dict[str, Any]] = [
    {"prompt": "Once upon a time", "max_tokens": 24},
    {"prompt": "Once upon", "max_tokens": 24, "temperature": 1.0, "seed": 5, "top_p": 0.9},
    {"tokens": [104, 101], "max_tokens": 16, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.3},
    {"messages": SAID, "max_tokens": 20, "logprobs": 3},
    {"messages": SAID, "output": {"choices": ["first in, first out", "last in, first out"]}},
    {"prompt": "A number: ", "output": {"regex": "[0-9]{3}-[0-9]{3}"}},
    {"messages": SAID, "output": {"json_schema": {"type": "object", "properties": {"ok": {"type": "boolean"}},
                                                  "required": ["ok"], "additionalProperties": False}}},
    {"messages": SAID, "conversation": NEW_CONVERSATION, "max_tokens": 6},
]  # fmt: skip


class Built(NamedTuple):
    """The models of these tests: their folder, and what a local lane answers to CALLS."""

    models: Path
    answers: list[GenerateResult]
    vectors: Any
    labels: list[list[tuple[str, float]]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the models, certify them once, and let a local lane answer."""
    folder = tmp_path_factory.mktemp("built")
    build_random_decoder(folder / "speaker")
    build_random_encoder(folder / "vectors")
    build_random_encoder(folder / "moods", labels=("glad", "sad", "calm"))
    models = folder / "models"
    models.mkdir()
    with LocalLane(models=models) as lane:
        for name in ("speaker", "vectors", "moods"):
            lane.deploy(f"model:{name}", folder / name)
        answers = [lane.generate("speaker", **call).result() for call in CALLS]
        return Built(models, answers, lane.embed("vectors", TEXTS), lane.classify("moods", TEXTS, top=2))


TEXTS = [f"text {'very ' * (number % 4)}{number}" for number in range(70)]


@pytest.fixture
def up(run_dir: Path, rota_up: Start, built: Built) -> Iterator[Any]:
    """A broker with two GPU workers on these models, deployed; gives the supervisor."""
    up = rota_up(run_dir, cpu_workers=0, gpu_workers=2, ROTA_MODELS=str(built.models))
    with Client(run_dir, timeout_s=120) as client:
        for entry in Repository(built.models).list():
            client.deploy_model(entry.name, entry.digest, check=False)
    return up


def test_the_broker_gives_what_a_local_lane_gives(up: Any, run_dir: Path, built: Built) -> None:
    """Goal: one answer per call, whoever asks and however it is shown. Method: each call alone, streamed, in another
    process than the local lane's; then vectors and labels.
    """
    with Client(run_dir, timeout_s=120) as client:
        for call, expected in zip(CALLS, built.answers, strict=True):
            answer = client.generate("speaker", **call)
            assert "".join(answer) == expected.text
            assert answer.result() == expected
        assert built.answers[4].text in ("first in, first out", "last in, first out")
        numpy.testing.assert_array_equal(client.embed("vectors", TEXTS), built.vectors)
        assert client.classify("moods", TEXTS, top=2) == built.labels


def test_neighbours_and_the_death_of_a_worker_do_not_show(up: Any, run_dir: Path, built: Built) -> None:
    """Goal: the same under load. Method: every call five times at once over two workers, one of which is killed while
    they answer.
    """

    async def listen(client: AsyncClient, call: dict[str, Any], expected: GenerateResult) -> None:
        answer = await client.generate("speaker", **call)
        assert "".join([text async for text in answer]) == expected.text
        assert await answer.result() == expected
        done.append(answer.seq)
        if len(done) == 3:
            up.kill_child("gpu-1")

    async def listen_to_all() -> None:
        async with AsyncClient(run_dir, timeout_s=120) as client:
            pairs = list(zip(CALLS, built.answers, strict=True)) * 5
            await asyncio.gather(*(listen(client, *pair) for pair in pairs))

    done: list[int] = []
    asyncio.run(listen_to_all())
    assert len(done) == 5 * len(CALLS)


def test_a_dialogue_is_answered_as_its_whole_history(up: Any, run_dir: Path) -> None:
    """Goal: the head of a conversation stands for its messages. Method: three turns, each also sent whole."""
    with Client(run_dir, timeout_s=120) as client:
        chat = client.chat("speaker", system="Brief.", max_tokens=5)
        history = [{"role": "system", "content": "Brief."}]
        for said in ("One?", "Two?", "Three?"):
            answer = chat.say(said).result()
            history.append({"role": "user", "content": said})
            whole = client.generate("speaker", messages=history, max_tokens=5).result()
            assert (whole.tokens, whole.usage) == (answer.tokens, answer.usage)
            history.append({"role": "assistant", "content": answer.text})


BAD: list[tuple[Any, str]] = [
    ({"generate": {"prompt": "a" * 1_000}}, "context"),
    ({"generate": {"messages": [{"role": "user", "content": "a" * 1_000}]}}, "context"),
    ({"generate": {"prompt": "a", "output": {"json_schema": '{"type": "nothing"}'}}}, "schema"),
    ({"generate": {"prompt": "a", "output": {"regex": "("}}}, "regex"),
    ({"generate": {"prompt": "a", "output": {"grammar": "start: missing"}}}, "grammar"),
    ({"generate": {"messages": SAID, "template": {"mood": 1}}}, "mood"),
    ({"generate": {"prompt": "a", "logprobs": 21}}, '"generate.logprobs" must be a whole number from 0 to 20, got 21'),
    ({"generate": {"tokens": [300_000]}}, "300000"),
    ({"generate": {"prompt": "a", "stop_tokens": [300_000]}}, "300000"),
    ({"generate": {"prompt": "a", "messages": SAID}}, "exactly one of prompt, tokens and messages"),
    ({"embed": {"texts": ["a"]}}, 'this model takes "generate"'),
    ({"inputs": {}}, 'this model takes "generate"'),
    (5, "must be a MessagePack map"),
]


def test_bad_calls_are_named_and_hold_no_slot(up: Any, run_dir: Path, built: Built) -> None:
    """Goal: each a typed outcome with the thing in it, and the model goes on. Method: every bad call, several times
    more than there are slots; cancelled answers; then good calls.
    """
    with Client(run_dir, timeout_s=120) as client:
        batch = client.submit_many("model:speaker", [msgpack.packb(payload) for payload, _ in BAD * 3])
        for (_, words), outcome in zip(BAD * 3, batch.outcomes(), strict=True):
            assert (outcome.kind, words in outcome.message) == ("bad_input", True), (words, outcome.message)
            assert str(built.models) not in outcome.message
        long = {"tokens": [104, 101], "max_tokens": 120, "temperature": 5.0}
        answers = [client.generate("speaker", seed=seed, **long) for seed in range(40)]
        for answer in answers:
            answer.cancel()
        for outcome in [answer.outcome() for answer in answers]:
            assert outcome.ok or outcome.kind == "cancelled"
        assert client.generate("speaker", **CALLS[0]).result() == built.answers[0]
        with pytest.raises(TaskFailed, match=r'"embed.texts\[69\]" has'):
            client.embed("vectors", [*TEXTS[:-1], "a" * 2_000])
        with pytest.raises(TaskFailed, match=r'"classify.texts\[66\]" has'):
            client.classify("moods", [*TEXTS[:66], "a" * 2_000])
        for payload, words in (
            ({"embed": {"texts": ["a" * 2_000]}}, "texts"),
            ({"generate": {"prompt": "a"}}, "embed"),
        ):
            with pytest.raises(TaskFailed, match=words):
                client.submit("model:vectors", msgpack.packb(payload)).result()


def test_a_stop_text_of_many_bytes_is_no_hazard(up: Any, run_dir: Path) -> None:
    """Goal: a stop text may begin inside a character's bytes. Method: texts of random bytes, streamed; what comes is
    the unstopped text up to the stop, or all of it.
    """
    call = {"tokens": [104, 101], "max_tokens": 60, "temperature": 2.0}
    with Client(run_dir, timeout_s=120) as client:
        for seed in range(6):
            whole = client.generate("speaker", seed=seed, **call).result().text
            for stop in ("\N{DEGREE SIGN}", "\N{EVERGREEN TREE}", "\N{REPLACEMENT CHARACTER}", "a\u0301", whole[20:23]):
                answer = client.generate("speaker", seed=seed, stop=[stop], **call)
                assert "".join(answer) == answer.result().text == whole.split(stop)[0]


def test_a_rule_without_an_end_costs_its_task_only(up: Any, run_dir: Path, built: Built) -> None:
    """Goal: a rule that the library works on for ever is a timeout, and others are answered meanwhile. Method: a schema
    of 40 patterns that must all hold, which takes it exponential time; a long chain of rules, which it can do.
    """
    patterns = [{"pattern": f"a{number}*"} for number in range(40)]
    chain = "\n".join([*[f'r{at}: "x" r{at + 1}' for at in range(3_000)], 'r3000: "y"'])
    with Client(run_dir, timeout_s=120) as client:
        speaker = Repository(built.models).named("speaker").digest
        client.deploy_model("hasty", speaker, check=False, code_limits=Limits(timeout_ms=1_000))
        client.generate("hasty", **CALLS[0]).result()
        endless = client.generate("hasty", "a", output={"json_schema": {"type": "string", "allOf": patterns}})
        up.wait_for("was told to stop and does not")
        assert endless.outcome().kind == "timeout"
        assert client.generate("speaker", **CALLS[0]).result() == built.answers[0]
        answer = client.generate("speaker", "a", max_tokens=5, output={"grammar": f"start: r0\n{chain}\n"})
        assert answer.result().text == "xxxxx"


def test_equal_bytes_under_another_name(up: Any, run_dir: Path, built: Built) -> None:
    """Goal: what was added is shown, not what the worker has loaded. Method: the folder of a loaded model once more."""
    with Client(run_dir, timeout_s=120) as client:
        client.classify("moods", TEXTS[:1])
    command = [sys.executable, "-m", "rota.cli", "model", "add", "twin", str(built.models.parent / "moods"), "--json"]
    done = subprocess.run(
        [*command, "--dir", str(run_dir), "--models", str(built.models)], capture_output=True, text=True, check=False
    )
    Repository(built.models).remove("twin", 1)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["name"], said["model"], said["version"], said["deployed"]) == ("twin", "twin", 1, True)
