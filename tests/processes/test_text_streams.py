"""Text through both clients and the command line: real processes and sockets, and a worker that speaks by script
(tests/kits/text_worker.py), so that a test can hold an answer in the middle of a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import text_worker

from rota.client import NEW_CONVERSATION, AsyncClient, Client, TaskFailed, TextReplaced

pytestmark = pytest.mark.processes

KIT = text_worker.__file__
Start = Callable[..., Any]


def until(pieces: Iterator[str], text: str) -> str:
    """Take pieces until they are this text."""
    so_far = ""
    while so_far != text:
        so_far += next(pieces)
        assert text.startswith(so_far)
    return so_far


def test_text_comes_before_the_result(speaker: Path) -> None:
    """Goal: an answer is shown while it is made, whenever one begins to look. Method: two look at an answer that is
    held in its middle, one of them only after it has begun.
    """
    with Client(speaker) as client:
        first = client.generate("script", "so much [gate] text")
        second = client.generate("script", "and [gate] more")
        assert until(first, "so much ") + until(second, "and ") == "so much and "
        assert first.received is None
        (speaker / "gate").touch()
        assert "".join(first) == "text "
        assert "".join(second) == "more "
        result = first.result()
        assert (result.text, result.finish, result.usage.generated) == ("so much text ", "stop", 3)
        provenance = first.outcome().provenance
        assert provenance is not None
        assert (provenance.result_class, provenance.certificate) == ("bitwise", "A")
        assert list(first) == []
        late = client.generate("script", "all at once")
        assert late.result().text == "all at once "
        assert list(late) == ["all at once "]


def test_many_answers_share_one_connection(speaker: Path) -> None:
    """Goal: no socket per answer. Method: 40 at once in one event loop, all held in their middle."""

    async def listen(client: AsyncClient, number: int) -> str:
        said = ""
        async for text in await client.generate("script", f"answer {number} [gate] ends"):
            said += text
            if said == f"answer {number} ":
                waiting.discard(number)
                if not waiting:
                    (speaker / "gate").touch()
        return said

    async def listen_to_all() -> list[str]:
        async with AsyncClient(speaker) as client:
            said = await asyncio.gather(*(listen(client, number) for number in range(40)))
            assert len(list(client._core.links())) == 2  # requests, and texts
            assert not client._core.texts.is_busy
            return said

    waiting = set(range(40))
    assert asyncio.run(listen_to_all()) == [f"answer {number} ends " for number in range(40)]


def test_a_worker_that_dies_over_an_answer_leaves_no_seam(speaker: Path, start_process: Start) -> None:
    """Goal: the text goes on where it was. Method: the first execution ends its worker in the middle."""
    with Client(speaker) as client:
        answer = client.generate("script", "it goes [die] on")
        assert until(answer, "it goes ") == "it goes "
        (speaker / "gate").touch()
        start_process(KIT, str(speaker), "speaker-2").wait_for("ready")
        assert "".join(answer) == "on "
        assert answer.outcome().attempts == 2


def test_an_answer_that_is_not_repeated_is_named(speaker: Path, start_process: Start) -> None:
    """Goal: two halves of two answers are not one. Method: the second execution says another word."""
    with Client(speaker) as client:
        answer = client.generate("script", "roll [chance] [die] end")
        said = next(answer)
        while said.count(" ") < 2:
            said += next(answer)
        (speaker / "gate").touch()
        start_process(KIT, str(speaker), "speaker-2").wait_for("ready")
        with pytest.raises(TextReplaced, match="not repeatable"):
            "".join(answer)
        assert not answer.result().text.startswith(said)
        assert list(answer) == []


def test_a_cancelled_answer_ends_and_others_go_on(speaker: Path) -> None:
    """Goal: a cancel frees the slot at once. Method: cancel one of two that are held, before the gate opens."""
    with Client(speaker) as client:
        with client.generate("script", "never [gate] said") as answer:
            until(answer, "never ")
            assert answer.cancel()
            with pytest.raises(TaskFailed, match="cancelled"):
                next(answer)
            assert not answer.cancel()
        other = client.generate("script", "it [gate] is")
        until(other, "it ")
        with pytest.raises(TimeoutError):
            other.result(timeout_s=0.01)
        (speaker / "gate").touch()
        assert other.result().text == "it is "
        with pytest.raises(TaskFailed, match="told to fail"):
            client.generate("script", "a [fail]").result()


def test_a_broker_that_is_started_again_goes_on_with_the_text(run_dir: Path, start_process: Start) -> None:
    """Goal: a reader sees no seam there either. Method: kill the broker while an answer is held; its address changes
    with the new one.
    """
    broker = start_process("-m", "rota.cli", "broker", "--dir", str(run_dir))
    broker.wait_for("^ready broker")
    start_process(KIT, str(run_dir), "speaker-1").wait_for("ready")
    with Client(run_dir) as client:
        client.deploy_model("script", bytes(32), check=False)
        answer = client.generate("script", "before [gate] after")
        until(answer, "before ")
        broker.kill()
        broker.wait()
        start_process("-m", "rota.cli", "broker", "--dir", str(run_dir)).wait_for("^ready broker")
        assert not (run_dir / "gate").exists()
        (run_dir / "gate").touch()
        assert "".join(answer) == "after "


def test_many_texts_at_once(speaker: Path) -> None:
    """Goal: a list of prompts needs no loop. Method: text tasks as maps, to `map`."""
    with Client(speaker) as client:
        calls = [{"generate": {"prompt": f"text {number}"}} for number in range(20)]
        texts = [one.value["generate"]["text"] for one in client.map("model:script", calls)]
    assert texts == [f"text {number} " for number in range(20)]


def test_a_dialogue_goes_on_by_its_head(speaker: Path) -> None:
    """Goal: what was said is known, and sent once. Method: three turns, a fork, a failed turn, and a turn of another
    client; the script tells how many messages it knows.
    """
    with Client(speaker) as client:
        chat = client.chat("script", system="Be brief.")
        assert chat.head is None
        assert chat.say("one").result().text == "1: one "
        assert chat.say("two").result().text == "3: two "
        fork = chat.fork()
        with pytest.raises(TaskFailed):
            chat.say("a [fail]").result()
        assert chat.head == fork.head
        assert chat.say("three").result().text == "5: three "
        assert fork.say("other").result().text == "5: other "
        assert chat.head != fork.head
        sizes = [row["payload_bytes"] for row in client.query("tasks")]
        assert max(sizes) < 150
    with Client(speaker) as client:
        again = client.chat("script", conversation=chat.head)
        assert "".join(again.say("four")) == "7: four "
        assert chat.head is not None
        assert client.chat("script", conversation=chat.head.hex()).say("as digits").result().text == "7: as digits "
        said = [{"role": "user", "content": "so too"}]
        assert client.generate("script", messages=said, conversation=chat.head.hex()).result().text == "7: so too "
        direct = client.generate("script", messages=[{"role": "user", "content": "x"}], conversation=NEW_CONVERSATION)
        assert direct.result().conversation is not None
        none = client.generate("script", messages=[{"role": "user", "content": "x"}])
        assert none.result().conversation is None

    async def talk() -> list[str]:
        async with AsyncClient(speaker) as client:
            chat = client.chat("script", system="Be brief.")
            first = [text async for text in await chat.say("one")]
            fork = await chat.fork()
            return ["".join(first), (await (await fork.say("two")).result()).text, str(chat.head == fork.head)]

    assert asyncio.run(talk()) == ["1: one ", "3: two ", "False"]


def test_vectors_and_labels_keep_the_order_of_their_texts(speaker: Path) -> None:
    """Goal: many tasks, one answer. Method: 150 texts, which are three tasks, from both clients."""
    texts = [f"{'a' * number} b" for number in range(150)]
    with Client(speaker) as client:
        vectors = client.embed("script", texts)
        labels = client.classify("script", iter(texts), top=1)
        assert client.status()["next_seq"] == 7
    numpy.testing.assert_array_equal(vectors, [[len(text), len(text.split())] for text in texts])
    assert [pairs[0][0] for pairs in labels] == ["short"] * 48 + ["long"] * 102

    async def ask() -> tuple[Any, Any]:
        async with AsyncClient(speaker) as client:
            return await asyncio.gather(client.embed("script", texts), client.classify("script", ["a"]))

    again, (one,) = asyncio.run(ask())
    numpy.testing.assert_array_equal(again, vectors)
    assert [label for label, _ in one] == ["short", "long"]
