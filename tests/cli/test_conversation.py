"""`rota conversation`: what it prints, and that reading leaves no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rota.broker.journal import Journal
from rota.cli.exits import ExitCode
from rota.common.text_calls import ChatMessage, ToolCall
from rota.conversations.store import ConversationStore
from rota.host.endpoints import RunFolder

Call = Callable[..., tuple[int, str, str]]

TURNS = [
    ChatMessage("system", "be brief"),
    ChatMessage("user", "hello\nthere", name="ann"),
    ChatMessage("assistant", "hi \x1b[31m", tool_calls=(ToolCall("c1", "look", '{"at":"sky"}'),)),
]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder with an empty journal."""
    made = RunFolder(tmp_path / "run").prepare()
    with closing(Journal.open(made.journal)) as journal:
        assert list(journal.read()) == []
    return made


def test_what_was_said_is_shown(folder: RunFolder, call: Call) -> None:
    """Goal: a person reads a dialogue and its forks. Method: three conversations; list, show by the first digits."""
    day = 20_000
    with ConversationStore(folder.conversations, today=lambda: day) as store:
        short = store.append(None, TURNS[:2])
        whole = store.append(short, TURNS[2:])
        fork = store.append(short, [ChatMessage("assistant", "no")])
        day = 20_001
        new = store.append(None, [ChatMessage("user", "x" * 200)])
    before = {file: file.read_bytes() for file in folder.root.glob("conv*")}
    code, out, _ = call("conversation", "ls", "--dir", folder.root)
    assert code == ExitCode.OK
    lines = out.splitlines()
    assert lines[1].split()[:4] == [new.hex()[:16], "2024-10-05", "1", "user"]
    assert {tuple(line.split()[:3]) for line in lines[2:]} == {
        (head.hex()[:16], "2024-10-04", "3") for head in (whole, fork)
    }
    code, out, err = call("conversation", "ls", "--dir", folder.root, "--limit", 1, "--json")
    assert [row["head"] for row in json.loads(out)] == [new.hex()]
    code, out, err = call("conversation", "ls", "--dir", folder.root, "--limit", 1)
    assert "2 more ends not shown" in err
    code, out, _ = call("conversation", "show", whole.hex()[:8].upper(), "--dir", folder.root)
    assert code == ExitCode.OK
    assert out == (
        f"conversation {whole.hex()}, 3 messages\n\nsystem:\n  be brief\n\nuser ann:\n  hello\n  there\n\n"
        'assistant:\n  hi \N{REPLACEMENT CHARACTER}[31m\n  calls look {"at":"sky"}\n'
    )
    code, out, _ = call("conversation", "show", short.hex(), "--dir", folder.root, "--json")
    assert [message["content"] for message in json.loads(out)["messages"]] == ["be brief", "hello\nthere"]
    assert {file: file.read_bytes() for file in folder.root.glob("conv*")} == before


def test_heads_that_are_not_there_are_named(folder: RunFolder, call: Call, tmp_path: Path) -> None:
    """Goal: a clear error. Method: no store, no such head, no hex, no run."""
    code, out, err = call("conversation", "ls", "--dir", folder.root)
    assert (code, out, err.strip()) == (ExitCode.OK, "", "no conversations")
    for head, told in (("5f1c09ab", "no conversation in"), ("hello", "is no head"), ("5f", "is no head")):
        code, _, err = call("conversation", "show", head, "--dir", folder.root)
        assert code not in (ExitCode.OK, 1)
        assert told in err
    code, _, err = call("conversation", "ls", "--dir", tmp_path / "none")
    assert code != ExitCode.OK
    assert "there is no run to read" in err or "is not there" in err
    with ConversationStore(folder.conversations) as store:
        heads = [store.append(None, [ChatMessage("user", str(at))]).hex() for at in range(3)]
    code, out, _ = call("conversation", "show", heads[0], "--run", folder.journal)
    assert code == ExitCode.OK
