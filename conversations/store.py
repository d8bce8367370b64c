"""The store of conversations: one SQLite file that every worker of a run reads and appends to.

    blobs   digest (32 bytes), data, used (the day of the last use, since 1970): a message or a node (chain.py)

A row is named by the digest of its data, so writing it twice is writing it once, and processes need not agree on
anything. Every read compares the digest: a damaged file gives an error, never another history. A worker stores an
answer before its result leaves, in one transaction with one fsync; if it dies in between, a row stays that nothing
names.

Nothing is removed while a run is served; `rota compact` removes what was not used for long (retention.py). A store may
have a lender, the store of another run that is only read: verify works on one of its own over that of the run.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from rota.common.digests import digest as digest_bytes
from rota.common.errors import ConversationError
from rota.common.text_calls import ChatMessage
from rota.conversations.chain import ChainBlob, check_size, decode_message, decode_node, encode_message, extend
from rota.conversations.file import file_identity, open_to_write, opened_to_read, usable

STORE_BYTES_MAX: Final = 64 << 30
_ROWS_PER_STATEMENT: Final = 500
_DAY_S: Final = 24 * 3600


class ConversationStore:
    """A store, made when something is first written. Any number of processes may use one file, threads may share one.

    Close it after use, or use it in a `with` block.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        lender: Path | None = None,
        bytes_max: int = STORE_BYTES_MAX,
        today: Callable[[], int] | None = None,
    ) -> None:
        """`lender` is the file of a second store, only read, for what `path` does not have. Without a `path` nothing
        can be stored.

        `today` returns the days since 1970; it decides only what `rota compact` may remove.
        """
        self.path = path
        self._lender = lender
        self._bytes_max = bytes_max
        self._today = today or _today
        self._turn = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None  # of the open file

    def history(self, head: bytes | None, then: Sequence[ChatMessage] = ()) -> tuple[ChatMessage, ...]:
        """Return the messages up to a head, none if it is None or empty, with those that come `then` behind them.

        Raises `ConversationError` if part of the chain is missing or damaged, `BadPayload` if the whole is longer than
        allowed.
        """
        messages: list[ChatMessage] = []
        size_bytes = sum(len(encode_message(message).data) for message in then)
        seen: list[bytes] = []
        with self._turn, usable(self._name()), self._reader() as read:
            place = head or None
            while place is not None:
                node = decode_node(read(place))
                data = read(node.message)
                size_bytes += len(data)
                check_size(len(messages) + 1 + len(then), size_bytes)
                messages.append(decode_message(data))
                seen += (place, node.message)
                place = node.parent
            self._mark_used(seen)
        check_size(len(messages) + len(then), size_bytes)
        return (*reversed(messages), *then)

    def append(self, head: bytes | None, messages: Iterable[ChatMessage]) -> bytes:
        """Store messages behind a head (None or empty: a new conversation) and return the new head.

        When it returns, they are on the disk. Raises `ConversationError` if there is no room or the file cannot be
        used; then nothing was stored.
        """
        new_head, blobs = extend(head or None, messages)
        assert new_head is not None, "a conversation has at least one message"
        self.put(blobs)
        return new_head

    def put(self, blobs: Sequence[ChainBlob]) -> None:
        """Store blobs, of any number of conversations, in one transaction. When it returns, they are on the disk.

        Raises `ConversationError` if there is no room or the file cannot be used; then nothing was stored.
        """
        if not blobs:
            return
        with self._turn, usable(self._name()), self._transaction() as connection:
            day = self._today()
            connection.executemany(
                "INSERT INTO blobs VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET data = excluded.data, used = excluded.used "
                "WHERE used < excluded.used OR data != excluded.data",
                [(blob.digest, blob.data, day) for blob in blobs],
            )

    def close(self) -> None:
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __enter__(self) -> ConversationStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the file -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Callable[[bytes], bytes]]:
        """Yield a function that returns the data of a digest, from the lender if it is not here."""
        with contextlib.ExitStack() as stack:
            files: list[tuple[Path, sqlite3.Connection]] = []
            if self.path is not None and (self._connection is not None or self.path.exists()):
                files.append((self.path, self._open()))
            if self._lender is not None and self._lender.exists():
                with usable(self._lender):
                    files.append((self._lender, stack.enter_context(opened_to_read(self._lender))))
            yield lambda digest: _checked(digest, files)

    def _mark_used(self, digests: Sequence[bytes]) -> None:
        """Note today as the last use, at most once a day for a row. Not worth an error: the history was read."""
        if self._connection is None:
            return
        day = self._today()
        stale: list[bytes] = []
        for start in range(0, len(digests), _ROWS_PER_STATEMENT):
            part = digests[start : start + _ROWS_PER_STATEMENT]
            places = ",".join("?" * len(part))
            query = f"SELECT digest FROM blobs WHERE digest IN ({places}) AND used < ?"
            stale += [digest for (digest,) in self._connection.execute(query, (*part, day))]
        if stale:
            with contextlib.suppress(sqlite3.Error), self._transaction() as connection:
                connection.executemany("UPDATE blobs SET used = ? WHERE digest = ?", [(day, one) for one in stale])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _name(self) -> Path:
        """Return the file to name in an error."""
        return self.path or self._lender or Path()

    def _open(self) -> sqlite3.Connection:
        assert self.path is not None, "this store is only read"
        if self._connection is not None and file_identity(self.path) != self._identity:
            self._connection.close()  # the file was removed or replaced: what is written to the old one would be lost
            self._connection = None
        if self._connection is None:
            self._connection = open_to_write(self.path, self._bytes_max)
            self._identity = file_identity(self.path)
        return self._connection


def _checked(digest: bytes, files: Iterable[tuple[Path, sqlite3.Connection]]) -> bytes:
    """Return the data of a digest from the first file that has it. Raises `ConversationError`."""
    for path, connection in files:
        with usable(path):
            found = connection.execute("SELECT data FROM blobs WHERE digest = ?", (digest,)).fetchone()
        if found is None:
            continue
        (data,) = found
        if not isinstance(data, bytes) or digest_bytes(data) != digest:
            raise ConversationError(
                f"conversation {digest.hex()} is damaged in {path}: restore that from a copy, or send the whole "
                "history once, which writes it again",
                digest=digest.hex(),
            )
        return data
    raise ConversationError(
        f"conversation {digest.hex()} is not in the store of this run: it was never made here, or `rota compact` "
        "removed it; send the whole history",
        digest=digest.hex(),
    )


def _today() -> int:
    return int(time.time()) // _DAY_S
