"""Conversations through the executor: the same bits as the whole history, on any worker, and what fails."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rota.common.text_calls import ChatMessage, GenerateCall, encode_text_call
from rota.common.text_results import GenerateResult, decode_text_result
from rota.common.work import Code, Done, Failed, FoldResult
from rota.conversations import chain
from rota.conversations.chain import encode_message
from rota.conversations.store import ConversationStore
from rota.model_builds.random_decoder import TINY, build_random_decoder


class Dialogue:
    """A worker with a tiny decoder and a store of conversations."""

    def __init__(self, kit: Any, folder: Path, store: Path, **options: Any) -> None:
        self.kit = kit
        self.store = ConversationStore(store, **options)
        self.bench = kit.Bench(folder, conversations=self.store)

    def add(self, source: Path) -> Code:
        entry = self.bench.repository.add(source, "m")
        return Code(entry.digest, "model")

    def run(self, code: Code, *calls: GenerateCall) -> FoldResult:
        result: FoldResult = self.bench.run(code, *[self.kit.task(encode_text_call(call)) for call in calls])
        return result

    def say(self, code: Code, messages: Sequence[ChatMessage], head: bytes | None, **options: Any) -> GenerateResult:
        call = GenerateCall(messages=tuple(messages), conversation=head, max_tokens=12, **options)
        result = self.run(code, call)
        assert result.stopped is None, result.reason
        (done,) = result.outcomes
        assert isinstance(done, Done), done
        found = decode_text_result(done.result or b"", done.tensors)
        assert isinstance(found, GenerateResult)
        return found

    def counters(self, code: Code) -> dict[str, int]:
        return dict(self.bench.executor._lines[code.digest].resident.generating.counters)

    def close(self) -> None:
        self.bench.executor.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny decoder with room for a dialogue."""
    return build_random_decoder(
        tmp_path_factory.mktemp("decoder") / "tiny", dataclasses.replace(TINY, context=512), slots=2
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all workers, so that the model is probed once."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def dialogue(tmp_path: Path, kit: Any, place: Path) -> Iterator[Dialogue]:
    made = Dialogue(kit, place, tmp_path / "conversations.sqlite")
    yield made
    made.close()


def user(text: str) -> ChatMessage:
    return ChatMessage("user", text)


def answer(result: GenerateResult) -> ChatMessage:
    return ChatMessage("assistant", result.text, tool_calls=result.tool_calls or ())


def core(result: GenerateResult) -> GenerateResult:
    """The result without its head."""
    return result._replace(conversation=None)


def test_turns_give_the_bits_of_the_whole_history(
    dialogue: Dialogue, source: Path, tmp_path: Path, kit: Any, place: Path
) -> None:
    """Goal: a head stands for all that was said, whoever made it. Method: six turns, each by another of two workers;
    the same history sent whole, without a chain and with one, to a third. Tokens, log-probabilities and heads.
    """
    other = Dialogue(kit, place, tmp_path / "conversations.sqlite")
    third = Dialogue(kit, place, tmp_path / "others.sqlite")
    code = dialogue.add(source)
    other.add(source)
    third.add(source)
    head: bytes | None = b""
    said: list[ChatMessage] = []
    options: dict[str, Any] = {"temperature": 1.0, "seed": 7, "logprobs": 3}
    for turn in range(6):
        worker = (dialogue, other)[turn % 2]
        new = [user(f"turn {turn}: {'and so on ' * turn}")]
        chained = worker.say(code, new, head, **options)
        said += new
        whole = third.say(code, said, None, **options)
        assert core(chained) == whole
        assert whole.conversation is None
        assert third.say(code, said, b"", **options) == chained
        said.append(answer(chained))
        head = chained.conversation
        assert head is not None
        assert dialogue.store.history(head) == other.store.history(head) == tuple(said)
    other.close()
    third.close()


def test_a_second_turn_does_not_prefill_the_first_again(dialogue: Dialogue, source: Path) -> None:
    """Goal: the prefix cache follows a conversation. Method: the worker's counters for ten turns."""
    code = dialogue.add(source)
    head: bytes | None = b""
    for turn in range(10):
        result = dialogue.say(code, [user(f"this is turn {turn}")], head)
        head = result.conversation
    counts = dialogue.counters(code)
    assert counts["prefilled"] + counts["cached"] > 3 * counts["prefilled"]


def test_forks_of_a_conversation_do_not_see_each_other(dialogue: Dialogue, source: Path) -> None:
    """Goal: going on from an earlier head is a conversation of its own. Method: two ways from one head, in one job side
    by side, each again alone in the other order.
    """
    code = dialogue.add(source)
    root = dialogue.say(code, [ChatMessage("system", "be brief"), user("hello")], b"")
    ways = [
        GenerateCall(messages=(user(text),), conversation=root.conversation, max_tokens=9, seed=at, temperature=1.0)
        for at, text in enumerate(("one way", "another way"))
    ]
    together = [one.result for one in dialogue.run(code, *ways).outcomes if isinstance(one, Done)]
    assert len(together) == 2
    again = [dialogue.run(code, call).outcomes[0] for call in reversed(ways)]
    assert [one.result for one in again if isinstance(one, Done)] == together[::-1]
    heads = [decode_text_result(one or b"").conversation for one in together]  # type: ignore[union-attr]
    assert heads[0] != heads[1]
    histories = [dialogue.store.history(head) for head in heads]
    assert histories[0][:3] == histories[1][:3]
    assert [history[3].content for history in histories] == ["one way", "another way"]


def test_without_a_chain_nothing_is_stored(dialogue: Dialogue, source: Path, tmp_path: Path) -> None:
    """Goal: who keeps no conversation leaves none. Method: a prompt and messages; then look for the file."""
    code = dialogue.add(source)
    assert dialogue.say(code, [user("hello")], None).conversation is None
    assert not (tmp_path / "conversations.sqlite").exists()


def test_a_task_that_runs_twice_stores_once(dialogue: Dialogue, source: Path, tmp_path: Path) -> None:
    """Goal: a worker that dies behind the store and before the journal leaves nothing that shows. Method: the same turn
    on two workers, of which the first's result is lost.
    """
    code = dialogue.add(source)
    first = dialogue.say(code, [user("hello")], b"")
    with closing(sqlite3.connect(tmp_path / "conversations.sqlite")) as connection:
        rows = connection.execute("SELECT count(*) FROM blobs").fetchone()
        assert dialogue.say(code, [user("hello")], b"") == first
        assert connection.execute("SELECT count(*) FROM blobs").fetchone() == rows


# --- what fails -----------------------------------------------------------------------------------------------------


def stopped(result: FoldResult) -> tuple[str | None, str]:
    assert result.outcomes == ()
    return result.stopped, result.reason


def test_a_missing_or_damaged_history_is_faulted(dialogue: Dialogue, source: Path, tmp_path: Path) -> None:
    """Goal: a matter of the host, never a wrong history, and others go on. Method: an unknown head, a lost message, a
    changed one, a file that is none.
    """
    code = dialogue.add(source)
    path = tmp_path / "conversations.sqlite"
    unknown = GenerateCall(messages=(user("x"),), conversation=bytes(32), max_tokens=4)
    assert stopped(dialogue.run(code, unknown)) == (
        "faulted",
        f"conversation {'00' * 32} is not in the store of this run: it was never made here, or `rota compact` "
        "removed it; send the whole history",
    )
    head = dialogue.say(code, [user("hello")], b"").conversation
    call = GenerateCall(messages=(user("x"),), conversation=head, max_tokens=4)
    digest = encode_message(user("hello")).digest
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE blobs SET data = ? WHERE digest = ?", (encode_message(user("jello")).data, digest))
    kind, reason = stopped(dialogue.run(code, call))
    assert (kind, "is damaged in" in reason) == ("faulted", True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
    assert stopped(dialogue.run(code, call))[0] == "faulted"
    assert dialogue.say(code, [user("hello")], b"").conversation == head  # which writes it again
    assert dialogue.say(code, [user("x")], head).text
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    path.write_bytes(b"something else" * 100)
    assert stopped(dialogue.run(code, call))[0] == "faulted"
    assert dialogue.say(code, [user("hello")], None).text
    assert path.read_bytes() == b"something else" * 100


def test_a_conversation_without_room_is_faulted(tmp_path: Path, source: Path, kit: Any, place: Path) -> None:
    """Goal: no head leaves without its messages. Method: a store that is too small for the answer."""
    dialogue = Dialogue(kit, place, tmp_path / "small.sqlite", bytes_max=16 << 10)
    code = dialogue.add(source)
    head = dialogue.say(code, [user("hello")], b"").conversation
    long = GenerateCall(messages=(ChatMessage("system", "x" * 300), user("y" * 50)), conversation=b"", max_tokens=2)
    for at in range(200):
        result = dialogue.run(code, long._replace(messages=(user(f"{at}" * 100),)))
        if result.stopped is not None:
            break
    assert stopped(result)[0] == "faulted"
    assert "at its limit" in result.reason
    assert dialogue.say(code, [user("still")], None).text
    assert head is not None
    assert dialogue.store.history(head)
    dialogue.close()


def test_a_conversation_that_is_too_long_is_bad_input(
    dialogue: Dialogue, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: what follows from the input is an outcome. Method: the bound on messages made small, and the context."""
    code = dialogue.add(source)
    head = dialogue.say(code, [user("hello")], b"").conversation
    monkeypatch.setattr(chain, "MESSAGES_MAX", 3)
    (failure,) = dialogue.run(code, GenerateCall(messages=(user("a"), user("b")), conversation=head)).outcomes
    assert isinstance(failure, Failed)
    assert (failure.kind, failure.message) == (
        "bad_input",
        "model:m: the conversation has more than the 3 messages that are allowed: begin a new one with a summary",
    )  # fmt: skip
    monkeypatch.undo()
    (failure,) = dialogue.run(code, GenerateCall(messages=(user("long " * 200),), conversation=head)).outcomes
    assert isinstance(failure, Failed)
    assert failure.kind == "bad_input"


def test_an_executor_without_a_store_says_so(source: Path, kit: Any, place: Path) -> None:
    """Goal: no crash where no store was given. Method: an executor without one."""
    bench = kit.Bench(place)
    entry = bench.repository.add(source, "m")
    task = kit.task(encode_text_call(GenerateCall(messages=(user("x"),), conversation=b"", max_tokens=2)))
    assert stopped(bench.run(Code(entry.digest, "model"), task))[0] == "faulted"
    bench.executor.close()
