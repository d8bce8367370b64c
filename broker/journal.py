"""The journal: records as entries of a log, chained by digest, read and written by one process at a time.

Every entry carries H(chain before it, its body), so that a changed, missing or reordered record is found when the
journal is read, and the place is named. The log (log.py) keeps the entries; who appends here waits until they are
durable. A record that opens an epoch seals the log against every older writer.

What records mean is in records.py; how to change the format stands there and in docs/JOURNAL.md.
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
    """A log with a place in it. Read all of it once; from then on only `append` is called."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.appended_bytes = 0  # of records, by this process
        self._end = BEGINNING
        self._epoch = 0
        self._is_read = False

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Journal:
        """Open a run file, or make a new one where there is none. Call `read` next.

        Raises `JournalError` for a file that is not a run file of this format version.
        """
        return cls(RunFile.open(path, read_only=read_only))

    @property
    def name(self) -> str:
        """What users call it."""
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
        """Return what the log holds. No record is read."""
        return self.log.extent()

    def first_number(self) -> int:
        """Return the number of the first record that counts: 1, or more where those before it were cut."""
        return self.log.extent().first

    def read(self, after: records.Snapshotted | None = None) -> Iterator[records.Record]:
        """Yield every record that is kept, or those behind a snapshot, and make the journal ready to append.

        `last_number` is the number of the record that was yielded last. Where the first records were cut, the chain
        begins with what the snapshot there says of it. Raises `JournalError` at the first record that is damaged,
        missing or out of its place, and at the end if it is not where the log says.
        """
        self._is_read = False
        extent, entries = self.log.read(after.number + 1 if after else 0)
        self._end = Position(after.number, after.chain) if after else self._beginning(extent.first)
        for number, body, chain, _ in entries:
            if number != self._end.number + 1:
                raise self.log.refusal(f"record {self._end.number + 1} is missing before record {number}")
            if chain != link(self._end.chain, body):
                raise self.log.refusal(f"record {number} is damaged: its digest does not follow from the one before")
            self._end = Position(number, chain)
            yield records.decode(body)
        if self._end != extent.end:
            raise self.log.refusal(f"its records end with {self._end.number}, its head says with {extent.last}")
        self._epoch = extent.epoch
        self._is_read = True

    def append(self, batch: Sequence[records.Record]) -> None:
        """Write records as one block and return when they are durable. One that opens an epoch fences older writers.

        Raises `StorageFull` if they could not be written; then nothing of the batch is there and it can be tried
        again. Raises `JournalLost` if this process does not hold the journal any more.
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
        """Return the record that says chain, digest and size of the snapshot after record `number`."""
        entry = self.log.find_name(number)
        try:
            found = records.decode(entry.body) if entry else None
        except JournalError:
            return None  # whoever reads on from another snapshot meets it, and says which record is damaged
        return found if isinstance(found, records.Snapshotted) and found.number == number else None

    def close(self) -> None:
        """Close the log; what was appended is durable already."""
        self.log.close()

    def _beginning(self, first: int) -> Position:
        """Return the place before the first record that is kept."""
        if first == 1:
            return BEGINNING
        named = self.find_name(first - 1)
        if named is None:
            raise self.log.refusal(f"its records begin with {first}, and no record names a snapshot of {first - 1}")
        return Position(named.number, named.chain)


def link(chain: bytes, body: bytes) -> bytes:
    """Return the chain digest after a record."""
    return blake3(chain + body).digest()


def _named_by(record: records.Record) -> int:
    return record.number if type(record) is records.Snapshotted else 0
