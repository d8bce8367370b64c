"""What compaction removes, and what copies of a store hold."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rota.common.errors import ConversationError
from rota.common.text_calls import ChatMessage
from rota.conversations.chain import encode_message
from rota.conversations.retention import Removed, copy_needed, copy_store, heads_in, remove_unused
from rota.conversations.store import ConversationStore

OLD, NEW = 20_000, 20_010


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage("user", text) for text in texts]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "conversations.sqlite"


@pytest.fixture
def heads(path: Path) -> dict[str, bytes]:
    """A store with an old conversation, a fork of it that was used again, and one on its own."""
    path.parent.mkdir()
    day = OLD
    with ConversationStore(path, today=lambda: day) as store:
        one = store.append(None, said("a", "b"))
        heads = {
            "one": one,
            "longer": store.append(one, said("c", "d")),
            "fork": store.append(one, said("e")),
            "alone": store.append(None, said("alone", "a")),
        }
        day = NEW
        heads["new"] = store.append(heads["fork"], said("f"))
        store.history(heads["new"])
    return heads


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM blobs").fetchone()[0])


def readable(path: Path, heads: dict[str, bytes]) -> list[str]:
    found = []
    with ConversationStore(path, today=lambda: 0) as store:  # which does not count as a use
        for name, head in heads.items():
            try:
                store.history(head)
                found.append(name)
            except ConversationError:
                pass
    return found


def test_what_is_used_or_named_stays(path: Path, heads: dict[str, bytes]) -> None:
    """Goal: only what nobody needs goes. Method: remove with one name, then with none, then once more."""
    before = count(path)
    gone = remove_unused(path, [heads["longer"], bytes(32)], NEW)
    assert gone.rows == before - count(path) == 2 + 1  # two nodes and a message; "a" is another conversation's too
    assert readable(path, heads) == ["one", "longer", "fork", "new"]
    remove_unused(path, [], NEW)
    assert readable(path, heads) == ["one", "fork", "new"]
    assert remove_unused(path, [], NEW) == Removed(0, 0)
    assert remove_unused(path, [], NEW + 1).rows == 2 * 4
    assert readable(path, heads) == []
    assert remove_unused(path.with_name("none"), [], NEW) == Removed(0, 0)


def test_a_store_in_use_is_not_harmed(path: Path, heads: dict[str, bytes]) -> None:
    """Goal: a worker that outlived its broker gets a whole history or an error. Method: remove under an open store."""
    with ConversationStore(path, today=lambda: NEW) as store:
        assert store.history(heads["alone"])  # which is used by that
        remove_unused(path, [], NEW)
        assert store.history(heads["alone"])
        with pytest.raises(ConversationError, match="not in the store"):
            store.history(heads["longer"])
        assert store.append(None, said("a", "b", "c", "d")) == heads["longer"]
        assert store.history(heads["longer"]) == tuple(said("a", "b", "c", "d"))


def test_the_heads_of_a_store(path: Path, heads: dict[str, bytes]) -> None:
    """Goal: nodes and messages are told apart. Method: all, and those not used since a day."""
    assert set(heads_in(path)) >= set(heads.values())
    assert len(heads_in(path)) == 8
    assert set(heads_in(path, before=NEW)) == set(heads_in(path)) - _chain_of(path, heads["new"])
    assert heads_in(path.with_name("none")) == {}


def _chain_of(path: Path, head: bytes) -> set[bytes]:
    with ConversationStore(path, today=lambda: 0) as store:
        messages = store.history(head)
        return {store.append(None, messages[: at + 1]) for at in range(len(messages))}


def test_a_copy_holds_what_the_heads_need(path: Path, heads: dict[str, bytes], tmp_path: Path) -> None:
    """Goal: an archive has no more and no less. Method: two heads, one that is not there, one with a lost message."""
    target = tmp_path / "part.sqlite"
    assert copy_needed(path, target, [heads["longer"], heads["one"], bytes(32)]) == (bytes(32),)
    assert readable(target, heads) == ["one", "longer"]
    assert count(target) == 2 * 4
    assert not target.with_name("part.sqlite-wal").exists()
    again = tmp_path / "again.sqlite"
    copy_needed(path, again, [heads["one"], heads["longer"]])
    assert again.read_bytes() == target.read_bytes()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE blobs SET data = x'00' WHERE digest = ?", (encode_message(said("e")[0]).digest,))
    lost = tmp_path / "lost.sqlite"
    assert copy_needed(path, lost, [heads["new"], heads["alone"]]) == (heads["new"],)
    assert readable(lost, heads) == ["alone"]
    assert copy_needed(path.with_name("none"), tmp_path / "empty.sqlite", [bytes(32)]) == (bytes(32),)


def test_a_whole_copy(path: Path, heads: dict[str, bytes], tmp_path: Path) -> None:
    """Goal: a fork of a run can go on. Method: copy beside a writer that is open; and where there is none."""
    target = tmp_path / "copy.sqlite"
    with ConversationStore(path) as store:
        late = {**heads, "late": store.append(heads["new"], said("late"))}
        copy_store(path, target)
    assert readable(target, late) == [*late]
    copy_store(path.with_name("none"), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_copy_of_a_killed_run_can_be_read(path: Path, heads: dict[str, bytes], tmp_path: Path) -> None:
    """Goal: file and WAL together are a store, even where nothing may be written. Method: copy both without -shm."""
    copied = tmp_path / "copied"
    with ConversationStore(path) as store:
        late = store.append(heads["one"], said("only in the WAL"))
        copied.mkdir()
        for suffix in ("", "-wal"):
            shutil.copyfile(path.with_name(path.name + suffix), copied / f"{path.name}{suffix}")
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    assert late in heads_in(copied / path.name)
    with ConversationStore(tmp_path / "own", lender=copied / path.name) as store:
        assert len(store.history(late)) == 3
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before
