"""What all our SQLite files share: their connections, the files beside them, and how a new one is made."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from rota.host.files import private_opener, sync_folder


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file with this suffix."""
    return path.with_name(path.name + suffix)


def connect(path: Path, mode: str, wait_s: float) -> sqlite3.Connection:
    """Open a file in a mode of SQLite's URIs; `wait_s`: how long to wait for other writers."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=wait_s)


def create_sqlite(path: Path, statements: Sequence[str], page_bytes: int) -> None:
    """Make a file in WAL mode by these statements, under another name, and rename it: a half-made one is never seen.

    Raises what SQLite and the disk raise.
    """
    draft = beside(path, ".draft")
    for leftover in (draft, *(beside(draft, suffix) for suffix in ("-journal", "-wal", "-shm"))):
        leftover.unlink(missing_ok=True)
    with open(draft, "xb", opener=private_opener):
        pass  # SQLite treats an empty file as new, and gives -wal and -shm the mode of their file
    with contextlib.closing(connect(draft, "rw", 0)) as connection:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
    os.replace(draft, path)
    sync_folder(path.parent)
