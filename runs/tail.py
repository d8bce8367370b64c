"""Following a run that a broker writes to: the records that came after a number, each time they are asked for.

A live run file is read beside its broker with a connection that is open for one query at a time, so that it never keeps
the broker from moving its WAL. A run file without a WAL has no writer; it is read as one that cannot change, because
SQLite would leave files beside it otherwise.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rota.broker.journal import link
from rota.broker.records import Record, decode
from rota.common.errors import JournalError

_LOCK_SECONDS: Final = 1.0
_BATCH: Final = 4_096


class Tail:
    """The end of a run file, after the record `number` with chain digest `chain`."""

    def __init__(self, journal: Path, number: int, chain: bytes) -> None:
        self._journal = journal
        self._number = number
        self._chain = chain

    def read(self) -> Iterator[tuple[int, Record]]:
        """Yield the records that are new; none if there are none.

        Raises `JournalError` if they do not follow from those before, or the journal was replaced or compacted.
        """
        while rows := self._rows():
            for number, body, chain in rows:
                if number != self._number + 1 or link(self._chain, body) != chain:
                    raise JournalError(
                        f"{self._journal}: record {number} does not follow from record {self._number} that was read "
                        "before: the run was replaced or compacted meanwhile; start again",
                        number=number,
                    )
                self._number, self._chain = number, chain
                yield number, decode(body)

    def _rows(self) -> list[tuple[int, bytes, bytes]]:
        wal, shared = (self._journal.with_name(self._journal.name + suffix) for suffix in ("-wal", "-shm"))
        if wal.exists() and not shared.exists():
            return []  # a broker begins or ends just now, or the pair was copied here: nobody writes
        mode = "mode=ro" if wal.exists() else "mode=ro&immutable=1"
        uri = f"{self._journal.absolute().as_uri()}?{mode}"
        try:
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS)) as connection:
                query = "SELECT number, body, chain FROM records WHERE number > ? ORDER BY number LIMIT ?"
                return connection.execute(query, (self._number, _BATCH)).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{self._journal} cannot be read any more: {error}; start again") from error
