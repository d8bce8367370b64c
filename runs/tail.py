"""Following a run that a broker writes to: each read returns the records added since the last one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rota.broker.journal import link
from rota.broker.records import Record, decode
from rota.broker.run_file import entries_beside_a_writer
from rota.common.errors import JournalError

_BATCH: Final = 4_096


class Tail:
    """The end of a run file, after the record `number` with chain digest `chain`."""

    def __init__(self, journal: Path, number: int, chain: bytes) -> None:
        self._journal = journal
        self._number = number
        self._chain = chain

    def read(self) -> Iterator[tuple[int, Record]]:
        """Yield the records added since the last call.

        Raises `JournalError` if they do not follow from those before: the journal was replaced or compacted.
        """
        while entries := entries_beside_a_writer(self._journal, self._number + 1, _BATCH):
            for number, body, chain, _ in entries:
                if number != self._number + 1 or link(self._chain, body) != chain:
                    raise JournalError(
                        f"{self._journal}: record {number} does not follow from record {self._number} that was read "
                        "before: the run was replaced or compacted meanwhile; start again",
                        number=number,
                    )
                self._number, self._chain = number, chain
                yield number, decode(body)
