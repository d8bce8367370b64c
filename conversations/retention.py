"""Which rows of a store are needed: for `rota compact`, which removes the others, and for copies with a part of it.

A head needs its node, the message of that, and all nodes and messages before it. All functions work on a store that
nobody has to have open; rows are found by their digests, which every reader of a history compares again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from rota.common.digests import digest as digest_bytes
from rota.conversations.chain import NODE_PREFIX, ChainBlob, decode_node
from rota.conversations.file import open_to_write, opened_to_read, usable
from rota.conversations.store import STORE_BYTES_MAX

_IS_NODE: Final = f"substr(data, 1, {len(NODE_PREFIX)}) = ?"


class Removed(NamedTuple):
    """What a removal freed: rows, and the bytes of their data."""

    rows: int
    size_bytes: int


def heads_in(path: Path, *, before: int | None = None) -> dict[bytes, None]:
    """Return the digests of all nodes of a store; with `before`, of those last used before that day."""
    if not path.exists():
        return {}
    condition = "" if before is None else f" AND used < {int(before)}"
    with usable(path), opened_to_read(path) as connection:
        found = connection.execute(f"SELECT digest FROM blobs WHERE {_IS_NODE}{condition}", (NODE_PREFIX,))
        return dict.fromkeys([digest for (digest,) in found])


def remove_unused(path: Path, named: Iterable[bytes], before: int) -> Removed:
    """Remove what was not used since a day, unless a head in `named` or one that was used needs it.

    One transaction: workers that still run see all of a conversation or nothing. Raises `ConversationError`.
    """
    if not path.exists():
        return Removed(0, 0)
    with usable(path), contextlib.closing(open_to_write(path, STORE_BYTES_MAX)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TEMP TABLE needed (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        used = connection.execute(f"SELECT digest FROM blobs WHERE {_IS_NODE} AND used >= ?", (NODE_PREFIX, before))
        for head in (*named, *[digest for (digest,) in used]):
            _mark(connection, head)
        gone = "used < ? AND digest NOT IN (SELECT digest FROM needed)"
        ((rows, size_bytes),) = connection.execute(
            f"SELECT count(*), coalesce(sum(length(data)), 0) FROM blobs WHERE {gone}", (before,)
        )
        connection.execute(f"DELETE FROM blobs WHERE {gone}", (before,))
        connection.execute("DROP TABLE needed")
        connection.execute("COMMIT")
        if rows:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return Removed(rows, size_bytes)


def copy_store(source: Path, target: Path) -> None:
    """Copy a whole store that others may be writing to. `target` must be new; nothing is made if there is no store."""
    if not source.exists():
        return
    with (
        usable(source),
        opened_to_read(source) as connection,
        contextlib.closing(open_to_write(target, STORE_BYTES_MAX)) as copy,
    ):
        copy.execute("BEGIN IMMEDIATE")
        copy.executemany(
            "INSERT INTO blobs VALUES (?, ?, ?)", connection.execute("SELECT digest, data, used FROM blobs")
        )
        copy.execute("COMMIT")
        _settle(copy)


def copy_needed(source: Path, target: Path, heads: Iterable[bytes]) -> tuple[bytes, ...]:
    """Make `target`, which must be new, a store of what these heads need; return those of which a part is missing.

    The days of use are not copied. The same heads give the same rows in the same order.
    """
    missing: list[bytes] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(usable(source))
        connection = stack.enter_context(opened_to_read(source)) if source.exists() else None
        copy = stack.enter_context(contextlib.closing(open_to_write(target, STORE_BYTES_MAX)))
        copy.execute("BEGIN IMMEDIATE")
        copy.execute("CREATE TEMP TABLE taken (digest BLOB PRIMARY KEY, data BLOB) WITHOUT ROWID")
        for head in sorted(heads):
            chain = None if connection is None else _chain(connection, head, copy)
            if chain is None:
                missing.append(head)
            else:
                copy.executemany("INSERT OR IGNORE INTO taken VALUES (?, ?)", chain)
        copy.execute("INSERT INTO blobs SELECT digest, data, 0 FROM taken ORDER BY digest")
        copy.execute("DROP TABLE taken")
        copy.execute("COMMIT")
        _settle(copy)
    return tuple(missing)


def _mark(connection: sqlite3.Connection, head: bytes | None) -> None:
    """Add to the table `needed` what a head needs and the store has, up to what is in it already."""
    while head is not None:
        if not connection.execute("INSERT OR IGNORE INTO needed VALUES (?)", (head,)).rowcount:
            return
        data = _data_of(connection, head)
        if data is None or not data.startswith(NODE_PREFIX):
            return
        node = decode_node(data)
        connection.execute("INSERT OR IGNORE INTO needed VALUES (?)", (node.message,))
        head = node.parent


def _chain(connection: sqlite3.Connection, head: bytes | None, copy: sqlite3.Connection) -> list[ChainBlob] | None:
    """Return what a head needs, up to what the table `taken` of the copy has; None if a part is missing or damaged."""
    found: list[ChainBlob] = []
    while head is not None and copy.execute("SELECT 1 FROM taken WHERE digest = ?", (head,)).fetchone() is None:
        data = _data_of(connection, head)
        if data is None or not data.startswith(NODE_PREFIX):
            return None
        node = decode_node(data)
        message = _data_of(connection, node.message)
        if message is None:
            return None
        found += (ChainBlob(head, data), ChainBlob(node.message, message))
        head = node.parent
    return found


def _data_of(connection: sqlite3.Connection, digest: bytes) -> bytes | None:
    """Return the data of a row; None if there is none, or it is damaged."""
    found = connection.execute("SELECT data FROM blobs WHERE digest = ?", (digest,)).fetchone()
    data: bytes | None = None if found is None else found[0]
    return data if isinstance(data, bytes) and digest_bytes(data) == digest else None


def _settle(connection: sqlite3.Connection) -> None:
    """Move everything into the one file, which is then complete without a WAL."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
