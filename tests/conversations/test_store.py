"""The store: what it gives back, what it refuses, and what survives a kill, a full disk and damage."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from rota.common.digests import pack
from rota.common.errors import BadPayload, ConversationError
from rota.common.text_calls import ChatMessage
from rota.conversations import chain
from rota.conversations.chain import ChainBlob, encode_message, encode_node, extend
from rota.conversations.store import ConversationStore
from rota.host.files import locked

DAY = 20_000


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(texts)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conversations.sqlite"


def days_of(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [day for (day,) in connection.execute("SELECT used FROM blobs")]


def test_a_conversation_comes_back(path: Path) -> None:
    """Goal: what was stored is read, also by another store. Method: two turns, a fork, all heads read again."""
    turns = said("a", "b", "c", "d")
    with ConversationStore(path) as store:
        first = store.append(None, turns[:2])
        second = store.append(first, turns[2:])
        fork = store.append(first, said("else"))
        assert store.append(b"", turns) == second  # the whole at once is the same conversation
    with ConversationStore(path) as store:
        assert store.history(second) == tuple(turns)
        assert store.history(first, then=turns[2:]) == tuple(turns)
        assert store.history(fork) == (*turns[:2], *said("else"))
        assert store.history(None, then=turns) == store.history(b"", then=turns) == tuple(turns)


def test_what_is_shared_is_stored_once(path: Path) -> None:
    """Goal: a fork or a history sent whole costs nothing. Method: count the rows."""
    turns = said(*[f"turn {at}" for at in range(20)])
    with ConversationStore(path) as store:
        head = store.append(None, turns)
        rows = len(days_of(path))
        assert rows == 40
        store.append(None, turns)
        store.append(None, turns[:10])
        store.append(head, said("turn 0"))  # one new node, and a message that was said before
        assert len(days_of(path)) == rows + 1


def test_reading_makes_no_file(path: Path) -> None:
    """Goal: a worker without conversations leaves no store. Method: read, then look."""
    with ConversationStore(path) as store:
        assert store.history(None, then=said("x")) == tuple(said("x"))
        with pytest.raises(ConversationError, match="not in the store"):
            store.history(bytes(32))
    assert list(path.parent.iterdir()) == []


def test_the_files_are_private(path: Path) -> None:
    """Goal: other users cannot read what was said. Method: the modes of all files, under an open umask."""
    before = os.umask(0)
    try:
        with ConversationStore(path) as store:
            store.append(None, said("secret"))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert set(modes) >= {path.name, f"{path.name}-wal"}
    assert set(modes.values()) == {0o600}


def test_a_missing_part_is_named(path: Path) -> None:
    """Goal: never a shorter history. Method: remove the first message, then ask for the whole."""
    turns = said("a", "b", "c")
    with ConversationStore(path) as store:
        head = store.append(None, turns)
        missing = encode_message(turns[0]).digest
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM blobs WHERE digest = ?", (missing,))
        with pytest.raises(ConversationError, match=f"{missing.hex()} is not in the store") as caught:
            store.history(head)
        assert caught.value.fields == {"digest": missing.hex()}
        assert store.append(None, turns) == head  # sending the whole history writes it again
        assert store.history(head) == tuple(turns)


@pytest.mark.parametrize("data", [b"", b"x", "text", pack([["content", "A"], ["role", "user"]])])
def test_a_damaged_row_is_never_another_history(path: Path, data: bytes | str) -> None:
    """Goal: damage gives an error. Method: put other bytes in the place of a message; then write the right ones."""
    turns = said("a", "b")
    with ConversationStore(path) as store:
        head = store.append(None, turns)
        with closing(sqlite3.connect(path)) as connection, connection:
            digest = encode_message(turns[0]).digest
            connection.execute("UPDATE blobs SET data = ? WHERE digest = ?", (data, digest))
        with pytest.raises(ConversationError, match=f"is damaged in {path}"):
            store.history(head)
        store.append(None, turns)
        assert store.history(head) == tuple(turns)


def test_the_digest_of_a_message_is_no_head(path: Path) -> None:
    """Goal: only nodes are heads, and only messages are messages. Method: each in the place of the other."""
    with ConversationStore(path) as store:
        head = store.append(None, said("a"))
        with pytest.raises(ConversationError, match="names no head"):
            store.history(encode_message(said("a")[0]).digest)
        wrong = encode_node(None, head)
        store.put([wrong])
        with pytest.raises(ConversationError, match="in the place of a message"):
            store.history(wrong.digest)


def test_a_conversation_that_is_too_long_is_bad_input(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the length decides, not the worker. Method: both bounds made small; chained and sent whole."""
    turns = said("a", "b", "c", "d", "e")
    sizes = [len(encode_message(turn).data) for turn in turns]
    with ConversationStore(path) as store:
        head = store.append(None, turns[:4])
        for name, bound in (("MESSAGES_MAX", 4), ("CONVERSATION_BYTES_MAX", sum(sizes[:4]))):
            monkeypatch.setattr(chain, name, bound)
            for before, then in ((head, turns[4:]), (None, turns)):
                with pytest.raises(BadPayload, match=f"has more than the {bound} .* that are allowed"):
                    store.history(before, then)
            assert store.history(head) == store.history(None, turns[:4]) == tuple(turns[:4])
            monkeypatch.undo()


def test_a_full_store_takes_nothing_more(path: Path) -> None:
    """Goal: the bound holds, and reading goes on. Method: write until it is full."""
    with ConversationStore(path, bytes_max=64 << 10) as store:
        head = store.append(None, said("kept"))
        many = extend(head, said(*[f"{at}" * 1_000 for at in range(100)]))[1]
        with pytest.raises(ConversationError, match="the store is at its limit"):
            store.put(many)
        for at in range(100):
            try:
                store.append(head, said(f"{at}" * 1_000))
            except ConversationError:
                break
        assert 10 < at < 99
        assert path.stat().st_size <= 64 << 10
        assert store.history(head) == tuple(said("kept"))


@pytest.mark.processes
def test_a_full_disk_loses_nothing(path: Path) -> None:
    """Goal: a write that fails is an error and leaves the rest. Method: a limit on file sizes in another process."""
    program = """
import resource, sys
from pathlib import Path
from rota.common.errors import ConversationError
from rota.common.text_calls import ChatMessage
from rota.conversations.store import ConversationStore
store = ConversationStore(Path(sys.argv[1]))
heads = [store.append(None, [ChatMessage("user", "before")])]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for at in range(1_000):
        heads.append(store.append(heads[-1], [ChatMessage("user", str(at) * 500)]))
except ConversationError as error:
    print(len(heads), error.message)
assert len(store.history(heads[-1])) == len(heads)
print(heads[-1].hex())
"""
    run = subprocess.run(
        check=False, args=[sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    told, head = run.stdout.splitlines()
    count, _, why = told.partition(" ")
    assert "free" in why, why
    with ConversationStore(path) as store:
        assert len(store.history(bytes.fromhex(head))) == int(count)


@pytest.mark.processes
def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    """Goal: a head that was given out is in the store, whenever the worker dies. Method: SIGKILL while it writes."""
    program = """
import sys
from pathlib import Path
from rota.common.text_calls import ChatMessage
from rota.conversations.store import ConversationStore
store, head = ConversationStore(Path(sys.argv[1])), None
for at in range(1_000_000):
    head = store.append(head, [ChatMessage("user", f"{sys.argv[2]} {at}" * 20)])
    print(head.hex(), flush=True)
"""
    heads = []
    for name in "abc":
        child = subprocess.Popen([sys.executable, "-c", program, str(path), name], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        heads += [child.stdout.readline().strip() for _ in range(20)]
        child.send_signal(signal.SIGKILL)
        heads += [line.strip() for line in child.stdout if len(line) == 65]
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
    with ConversationStore(path) as store:
        for head in heads:
            assert store.history(bytes.fromhex(head))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)


@pytest.mark.processes
def test_many_writers_share_one_store(path: Path) -> None:
    """Goal: workers may make, read and write one store at once. Method: four processes from nothing, and threads."""
    program = """
import sys
from pathlib import Path
from rota.common.text_calls import ChatMessage
from rota.conversations.store import ConversationStore
store, head = ConversationStore(Path(sys.argv[1])), None
for at in range(40):
    head = store.append(head, [ChatMessage("user", f"turn {at}")])
    store.append(head, [ChatMessage("user", f"only {sys.argv[2]} {at}")])
    assert len(store.history(head)) == at + 1
print(head.hex())
"""
    command = [sys.executable, "-c", program, str(path)]
    children = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(4)]
    heads = {child.communicate(timeout=100)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    assert len(heads) == 1
    with ConversationStore(path) as store, ThreadPoolExecutor(4) as threads:
        (head,) = heads
        histories = list(threads.map(lambda _: store.history(bytes.fromhex(head)), range(8)))
        assert len({len(history) for history in histories}) == 1
    assert len(days_of(path)) == 2 * 40 + 4 * 2 * 40


def test_a_store_that_is_removed_is_made_again(path: Path) -> None:
    """Goal: nothing is written into a file without a name. Method: remove it under an open store."""
    with ConversationStore(path) as store:
        head = store.append(None, said("a"))
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        again = store.append(None, said("b"))
        with pytest.raises(ConversationError, match="not in the store"):
            store.history(head)
    with ConversationStore(path) as store:
        assert store.history(again) == tuple(said("b"))


def test_a_lender_is_read_and_never_written_to(path: Path, tmp_path: Path) -> None:
    """Goal: verify works over the store of a run. Method: a store over another one, which stays as it is."""
    own = tmp_path / "own.sqlite"
    with ConversationStore(path, today=lambda: DAY) as store:
        head = store.append(None, said("a", "b"))
        for is_open in (True, False):
            if not is_open:
                store.close()
            before = {file: file.read_bytes() for file in path.parent.glob(f"{path.name}*") if "-shm" not in file.name}
            with ConversationStore(own, lender=path, today=lambda: DAY + 9) as over:
                assert over.history(head) == tuple(said("a", "b"))
                new = over.append(head, said("c"))
                assert over.history(new) == (*said("a", "b"), *said("c"))
            after = {file: file.read_bytes() for file in path.parent.glob(f"{path.name}*") if "-shm" not in file.name}
            assert after == before
            with pytest.raises(ConversationError):
                store.history(new)
    with ConversationStore(own, lender=tmp_path / "none.sqlite") as over, pytest.raises(ConversationError):
        over.history(new)


def test_the_last_use_is_noted(path: Path) -> None:
    """Goal: `rota compact` can tell what is used. Method: write on one day, read on others."""
    day = DAY
    with ConversationStore(path, today=lambda: day) as store:
        head = store.append(None, said("a", "b"))
        store.append(None, said("other"))
        assert days_of(path) == [DAY] * 6
        day = DAY + 3
        store.history(head)
        assert sorted(days_of(path)) == [DAY] * 2 + [DAY + 3] * 4
        day = DAY + 1  # a clock that was set back
        store.history(head)
        store.append(None, said("a"))
        assert sorted(days_of(path)) == [DAY] * 2 + [DAY + 3] * 4
        day = DAY + 5
        store.append(None, said("a", "b"))
        assert sorted(days_of(path)) == [DAY] * 2 + [DAY + 5] * 4


def _foreign(path: Path) -> None:
    path.write_bytes(b"something else entirely, of some length" * 10)


def _other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")


def _later_version(path: Path) -> None:
    _made(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 2")


def _with_trigger(path: Path) -> None:
    _made(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON blobs BEGIN DELETE FROM blobs; END")


def _damaged(path: Path) -> None:
    _made(path)
    data = bytearray(path.read_bytes())
    data[4_096:] = b"\xff" * (len(data) - 4_096)
    path.write_bytes(data)


def _made(path: Path) -> None:
    with ConversationStore(path) as store:
        store.append(None, said("a"))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_foreign, "another kind of file"),
        (_other_database, "another kind of file"),
        (_later_version, "format version 2; this rota reads version 1"),
        (_with_trigger, "'t', which is not as this version"),
        (_damaged, "malformed"),
        (Path.mkdir, "Is a directory"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_kept(path: Path, spoil: Callable[[Path], None], why: str) -> None:
    """Goal: a clear error, and nothing is overwritten. Method: spoil the file; read, write, and lend it."""
    spoil(path)
    before = None if path.is_dir() else path.read_bytes()
    head, blobs = extend(None, said("a"))
    assert head is not None
    uses: list[Callable[[ConversationStore], object]] = [
        lambda store: store.history(head),
        lambda store: store.put([*blobs, ChainBlob(bytes(32), b"x")]),
    ]
    for use, place, lender in ((uses[0], path, None), (uses[1], path, None), (uses[0], path.with_name("own"), path)):
        with ConversationStore(place, lender=lender) as store:
            with pytest.raises(ConversationError, match=re.escape(why)) as caught:
                use(store)
            assert str(path) in caught.value.message
    assert before is None or path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Goal: the remedy is in the text. Method: a store in a folder that is not there."""
    store = ConversationStore(tmp_path / "none" / "conversations.sqlite")
    with pytest.raises(ConversationError, match="No such file or directory; check the folder"):
        store.append(None, said("a"))


def test_a_store_that_another_process_holds_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a writer that never ends is an error, not a hang. Method: hold the file, with a short patience."""
    monkeypatch.setattr("rota.conversations.file._LOCK_SECONDS", 0.05)
    _made(path)
    with ConversationStore(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        head = store.append(None, said("a"))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConversationError, match="another process holds it"):
            store.append(head, said("b"))
        assert store.history(head) == tuple(said("a"))  # reading goes on
        other.execute("ROLLBACK")
        store.append(head, said("b"))
    lock = path.with_name(f"{path.name}.lock")
    with (
        locked(lock, exclusive=True),
        ConversationStore(path) as store,
        pytest.raises(ConversationError, match="holds it"),
    ):
        store.append(head, said("c"))
