"""Dialogues over real workers: whichever takes a turn, and whoever dies, the heads are those of a lane without any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rota.client import NEW_CONVERSATION, Client
from rota.conversations.store import ConversationStore
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import RunFolder
from rota.local.lane import LocalLane
from rota.model_builds.random_decoder import build_random_decoder

pytestmark = pytest.mark.processes

Start = Callable[..., Any]

DIALOGUES, TURNS = 4, 4


class Spoken(NamedTuple):
    """The models, and the heads that a local lane gives to every dialogue, turn by turn."""

    models: Path
    heads: list[list[bytes]]


def messages(dialogue: int, turn: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{dialogue}.{turn}?"}]


def options(dialogue: int) -> dict[str, Any]:
    return {"max_tokens": 6, "seed": dialogue, "temperature": 1.0}


def spoken_by(generate: Callable[..., Any], dialogue: int, before: Callable[[int], object]) -> list[bytes]:
    """Hold a dialogue; return the head behind each turn. `before` is called before each turn with its number."""
    head, heads = NEW_CONVERSATION, []
    for turn in range(TURNS):
        before(turn)
        said = {"messages": messages(dialogue, turn), "conversation": head, **options(dialogue)}
        head = generate("speaker", **said).result().conversation
        heads.append(head)
    return heads


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    folder = tmp_path_factory.mktemp("built")
    models = folder / "models"
    models.mkdir()
    with LocalLane(models=models) as lane:
        lane.deploy("model:speaker", build_random_decoder(folder / "speaker"))
        heads = [spoken_by(lane.generate, dialogue, lambda _: None) for dialogue in range(DIALOGUES)]
    return Spoken(models, heads)


@pytest.fixture
def up(run_dir: Path, rota_up: Start, spoken: Spoken) -> Iterator[Any]:
    """A broker with two GPU workers."""
    up = rota_up(run_dir, cpu_workers=0, gpu_workers=2, ROTA_MODELS=str(spoken.models))
    (entry,) = Repository(spoken.models).list()
    with Client(run_dir, timeout_s=120) as client:
        client.deploy_model("speaker", entry.digest, check=False)
    return up


def test_turns_on_any_worker_through_deaths_give_the_same_heads(up: Any, run_dir: Path, spoken: Spoken) -> None:
    """Goal: a conversation belongs to no worker. Method: dialogues side by side over two workers, each of which is
    killed once between turns; then all histories from the store, and a fork from each first head.
    """

    def hold(dialogue: int) -> list[bytes]:
        def kill(turn: int) -> None:
            if dialogue < 2 and turn == 1 + dialogue:
                up.kill_child(f"gpu-{1 + dialogue}")

        with Client(run_dir, timeout_s=120) as client:
            return spoken_by(client.generate, dialogue, kill)

    with ThreadPoolExecutor(DIALOGUES) as threads:
        assert list(threads.map(hold, range(DIALOGUES))) == spoken.heads
    with Client(run_dir, timeout_s=120) as client:
        forks = [
            client.generate("speaker", messages=messages(dialogue, 1), conversation=heads[0], **options(dialogue))
            for dialogue, heads in enumerate(spoken.heads)
        ]
        assert [fork.result().conversation for fork in forks] == [heads[1] for heads in spoken.heads]
    with ConversationStore(None, lender=RunFolder(run_dir).conversations) as store:
        for dialogue, heads in enumerate(spoken.heads):
            said = [message.content for message in store.history(heads[-1]) if message.role == "user"]
            assert said == [f"{dialogue}.{turn}?" for turn in range(TURNS)]


def test_a_history_that_is_lost_fails_its_tasks_only(up: Any, run_dir: Path, spoken: Spoken) -> None:
    """Goal: after three tries `faulted`, with others going on, and a way back. Method: remove the store under the
    workers; then send the history whole.
    """
    with Client(run_dir, timeout_s=120) as client:
        first = client.generate(
            "speaker", messages=messages(0, 0), conversation=NEW_CONVERSATION, **options(0)
        ).result()
        for file in run_dir.glob("conversations.sqlite*"):
            file.unlink()
        again = {"messages": messages(0, 1), "conversation": first.conversation, **options(0)}
        outcome = client.generate("speaker", **again).outcome(120)
        assert (outcome.ok, outcome.kind) == (False, "faulted")
        whole = client.generate(
            "speaker", messages=messages(0, 0), conversation=NEW_CONVERSATION, **options(0)
        ).result()
        assert whole == first
        assert client.generate("speaker", **again).result().conversation == spoken.heads[0][1]
