"""The journal: records as entries of a log, chained by digest, read and written by one process at a time.

Every entry has H(chain before it, its body), so that reading detects and locates a changed, missing or reordered
record. The log (log.py) stores the entries; `append` returns when they are durable. A record that opens an epoch seals
the log against all older writers.

records.py has the meaning of records; it and docs/JOURNAL.md say how to change the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from blake3 import blake3

from rota.broker import records
from rota.broker.log import BEGINNING, Entry, Extent, Log, Position
from rota.broker.run_file import RunFile
from rota.common.errors import JournalError


class Journal:
    """A log with a position in it. Read it completely once, then `append`."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.appended_bytes = 0  # of records, by this process
        self._end = BEGINNING
        self._epoch = 0
        self._is_read = False

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Journal:
        """Open a run file, or make one if there is none. Call `read` next.

        Raises `JournalError` for a file that is not a run file of this format version.
        """
        return cls(RunFile.open(path, read_only=read_only))

    @property
    def name(self) -> str:
        """Its name for users."""
        return self.log.name

    @property
    def last_number(self) -> int:
        """The number of the record that was read or appended last."""
        return self._end.number

    @property
    def chain(self) -> bytes:
        """The chain digest after the record `last_number`."""
        return self._end.chain

    def extent(self) -> Extent:
        """Return the extent of the log, without reading records."""
        return self.log.extent()

    def first_number(self) -> int:
        """Return the number of the first kept record: 1, or more if earlier ones were cut."""
        return self.log.extent().first

    def read(self, after: records.Snapshotted | None = None) -> Iterator[records.Record]:
        """Yield every kept record, or those behind a snapshot, and make the journal ready to append.

        `last_number` is the number of the record yielded last. If the first records were cut, the chain starts from the
        digest in the snapshot's record. Raises `JournalError` at the first record that is damaged, missing or out of
        order, and at the end if the log says that there are more.
        """
        self._is_read = False
        extent, entries = self.log.read(after.number + 1 if after else 0)
        begin = self._end = Position(after.number, after.chain) if after else self._beginning(extent.first)
        for number, body, chain, _ in entries:
            if number != self._end.number + 1:
                raise self.log.refusal(f"record {self._end.number + 1} is missing before record {number}")
            if chain != link(self._end.chain, body):
                raise self.log.refusal(f"record {number} is damaged: its digest does not follow from the one before")
            self._end = Position(number, chain)
            record = records.decode(body)
            if type(record) is records.Snapshotted:
                self._check_name(number, record, begin)
            yield record
        if self._end != extent.end:
            raise self.log.refusal(f"its records end with {self._end.number}, its head says with {extent.last}")
        self._epoch = extent.epoch
        self._is_read = True

    def append(self, batch: Sequence[records.Record]) -> None:
        """Write records as one block; return when they are durable. One that opens an epoch fences older writers.

        Raises `StorageFull` if they could not be written; then none of the batch was, and it can be retried. Raises
        `JournalLost` if this process no longer holds the journal.
        """
        assert self._is_read, "read it first"
        if not batch:
            return
        end, block, epoch = self._end, [], self._epoch
        for record in batch:
            body = records.encode(record)
            end = Position(end.number + 1, link(end.chain, body))
            block.append(Entry(end.number, body, end.chain, _named_by(record)))
            if type(record) is records.Epoch:
                epoch = record.boot
        if epoch != self._epoch:
            self.log.seal(epoch, self._end, block)
        else:
            self.log.append(epoch, self._end, block)
        self._end, self._epoch = end, epoch
        self.appended_bytes += sum([len(entry.body) for entry in block])

    def find_name(self, number: int) -> records.Snapshotted | None:
        """Return the record with chain, digest and size of the snapshot after record `number`."""
        entry = self.log.find_name(number)
        try:
            found = records.decode(entry.body) if entry else None
        except JournalError:
            return None  # reading from another snapshot reaches the damaged record and reports it
        return found if isinstance(found, records.Snapshotted) and found.number == number else None

    def close(self) -> None:
        """Close the log; what was appended is durable already."""
        self.log.close()

    def _check_name(self, number: int, named: records.Snapshotted, begin: Position) -> None:
        """Refuse a record that names a snapshot with another chain digest than there is; one of cut records is not
        compared.
        """
        if named.number >= number:
            raise self.log.refusal(f"record {number} names a snapshot of record {named.number}, which is not before it")
        if named.number < begin.number:
            return
        chains = [begin.chain] if named.number == begin.number else []
        chains += [entry.chain for entry in self.log.entries(named.number, 1) if not chains]
        if chains != [named.chain]:
            raise self.log.refusal(
                f"record {number} names the snapshot of record {named.number} with another chain digest than that has"
            )

    def _beginning(self, first: int) -> Position:
        """Return the position before the first kept record."""
        if first == 1:
            return BEGINNING
        named = self.find_name(first - 1)
        if named is None:
            raise self.log.refusal(f"its records begin with {first}, and no record names a snapshot of {first - 1}")
        return Position(named.number, named.chain)


def link(chain: bytes, body: bytes) -> bytes:
    """Return the chain digest after a record."""
    return blake3(chain).update(body).digest()  # without a copy of the body, which may have megabytes


def _named_by(record: records.Record) -> int:
    return record.number if type(record) is records.Snapshotted else 0
