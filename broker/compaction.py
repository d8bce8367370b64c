"""Compacts a run folder without a broker: cuts old records, and removes unreferenced files.

The cut is the last record to remove. A snapshot of the state after it replaces the records (snapshot_store.py), named
by a record that is appended. All kept records are read, checked and folded before anything changes. Then each step
leaves a valid run file: pins, snapshot, name, cut, removal, shrinking, files. After a kill in between, run it again.

Modules named by a kept record, a lane, a task or a call stay; so do such tensors, and those with a lease. A live broker
removes tensors earlier, when no task or result names them (tensor_keeper.py). Conversations are removed only on
request: those not used for some days that no kept record and no state names.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from rota.broker import snapshot
from rota.broker.code_uses import codes_in_use
from rota.broker.journal import Journal
from rota.broker.journal_heads import heads_named_by
from rota.broker.lock import FolderLock
from rota.broker.modules import ModuleStore
from rota.broker.records import Deployed, Opened, Record, decode, named_tensors
from rota.broker.recovery import fold, load_world
from rota.broker.run_file import RunFile
from rota.broker.snapshot_store import SnapshotStore, broker_ms
from rota.broker.snapshotter import STOP_RECORDS_MIN
from rota.broker.tensor_keeper import collect_tensors
from rota.broker.world import World
from rota.common.code_kinds import IS_BUNDLE, kind_of
from rota.common.errors import ConfigError, LocalError
from rota.common.work import Code, TensorRef
from rota.conversations.retention import Removed, heads_in, remove_unused
from rota.host.clock import Clock
from rota.host.endpoints import RunFolder

_DAY_MS: Final = 24 * 3600 * 1000
_RECORDS_PER_STEP: Final = 20_000
_RECORDS_PER_LOOK: Final = 1_000

Say = Callable[[str], None]


class Place(NamedTuple):
    """A place to pin: a record or a turn of a lane; if neither, the end of the journal."""

    record: int | None = None
    lane: str = ""
    turn: int = 0


class Wishes(NamedTuple):
    """What to keep. A record is cut only if every given rule allows it; without a rule none is."""

    records: int | None = None
    days: float | None = None
    size_bytes: int | None = None


class Report(NamedTuple):
    """What was done, or with a dry run would be. `first` to `last` are the kept records, including the one that names
    the new snapshot; `cut_first` to `cut_last` those that were cut, 0 for none.
    """

    first: int
    last: int
    cut_first: int
    cut_last: int
    pins: dict[str, int]
    file_bytes_before: int
    file_bytes_after: int | None  # None: a dry run
    modules_removed: int
    modules_bytes: int
    tensors_removed: int
    tensors_bytes: int
    messages_removed: int  # of conversations; each message counts with its place in them
    messages_bytes: int


def compact(
    folder: RunFolder,
    wishes: Wishes,
    *,
    pins: dict[str, Place],
    unpins: tuple[str, ...] = (),
    lease_ms: int,
    clock: Clock,
    conversation_days: int | None = None,
    dry_run: bool = False,
    say: Say = lambda _: None,
) -> Report:
    """Compact a run folder.

    `conversation_days`: remove conversations not used for so many days that nothing names. None: remove none.

    Raises `ConfigError` if there is no run or a broker is running on it, `JournalError` if its run file cannot be used,
    `LocalError` for an unknown place or pin, `StorageFull` if there is not enough room, `ConversationError` if the
    store of conversations cannot be used.
    """
    if not folder.journal.exists():
        raise ConfigError(f"{folder.root} has no {folder.journal.name}: name a run folder", dir=str(folder.root))
    with FolderLock(folder.root / "broker.lock"):
        before = _file_bytes(folder.journal)
        with closing(RunFile.open(folder.journal, read_only=dry_run)) as run_file:
            journal = Journal(run_file)
            work = _Compaction(journal, say)
            work.resolve(pins, unpins)
            cut = work.plan(wishes, clock.wall_ms())
            work.read(cut)
            first = journal.first_number()
            if not dry_run:
                work.carry_out(cut, unpins)
                say("making the file smaller")
                run_file.shrink()
        kept, gone = ((cut + 1, work.last + 1), (first, cut)) if cut else ((first, work.last), (0, 0))
        after = None if dry_run else _file_bytes(folder.journal)
        report = Report(*kept, *gone, work.pins, before, after, 0, 0, 0, 0, 0, 0)
        if dry_run:
            return report
        say("removing modules and tensors")
        modules = ModuleStore(folder.modules).collect(work.modules, work.bundles, folder.artefacts)
        tensors = collect_tensors(folder.tensors, work.tensors, lease_ms, clock.wall_ms())
        messages = Removed(0, 0)
        if conversation_days is not None:
            say("removing conversations")
            messages = _remove_conversations(folder, clock.wall_ms() // _DAY_MS - conversation_days)
        return report._replace(
            modules_removed=modules[0],
            modules_bytes=modules[1],
            tensors_removed=tensors[0],
            tensors_bytes=tensors[1],
            messages_removed=messages.rows,
            messages_bytes=messages.size_bytes,
        )


class _Compaction:
    """One compaction: the cut, the state there, and what the kept records refer to."""

    def __init__(self, journal: Journal, say: Say) -> None:
        self.modules: dict[bytes, None] = {}
        self.bundles: dict[bytes, None] = {}
        self.tensors: dict[bytes, None] = {}
        self._journal = journal
        self._store = SnapshotStore(journal)
        self._say = say
        self._picture: snapshot.Picture | None = None
        self._chain = b""
        self.pins = self._store.pins()
        extent = journal.extent()
        self.last, self._first = extent.last, extent.first

    # --- where to cut -------------------------------------------------------------------------------------------------

    def resolve(self, wanted: dict[str, Place], unpins: tuple[str, ...]) -> None:
        """Turn places into record numbers, and check that the pins to remove exist."""
        for name in unpins:
            if self.pins.pop(name, None) is None:
                raise LocalError(f"there is no pin {name!r}", pins=list(self.pins))
        for name, place in wanted.items():
            number = self._record_of(place)
            if not self._first <= number <= self.last:
                raise LocalError(f"pin {name!r}: record {number} is not there; kept are {self._first} to {self.last}")
            self.pins[name] = number

    def _record_of(self, place: Place) -> int:
        if place.record is not None:
            return place.record
        if not place.lane:
            return self.last
        world = load_world(self._journal)
        for record in self._journal.read():
            number = self._journal.last_number
            fold(world, [record], after=number - 1)
            lane = world.lanes.get(place.lane)
            if lane is not None and lane.next_turn > place.turn and not _is_open(world, place):
                return number
        raise LocalError(f"lane {place.lane!r} has no retired turn {place.turn} in the records that are kept")

    def plan(self, wishes: Wishes, now_ms: int) -> int:
        """Return the last record that may be cut; 0 if none may."""
        bounds = [number - 1 for number in self.pins.values()]
        if wishes.records is not None:
            bounds.append(self.last - wishes.records)
        if wishes.size_bytes is not None:
            bounds.append(self._before_bytes(wishes.size_bytes))
        if wishes.days is not None:
            bounds.append(self._before_time(now_ms - int(wishes.days * _DAY_MS)))
        cut = min(bounds) if wishes != Wishes() else 0
        return cut if cut >= self._first else 0

    def _before_bytes(self, size_bytes: int) -> int:
        """Return the record before the newest ones that have at least `size_bytes` together."""
        number, kept = self.last, 0
        while number >= self._first and kept < size_bytes:
            kept += sum([len(entry.body) for entry in self._journal.log.entries(number, 1)])
            number -= 1
        return number

    def _before_time(self, oldest_ms: int) -> int:
        """Return the record before the first one at or after this time."""
        for first in range(self._first, self.last + 1, _RECORDS_PER_LOOK):
            for entry in self._journal.log.entries(first, _RECORDS_PER_LOOK):
                if (broker_ms(decode(entry.body)) or 0) >= oldest_ms:
                    return entry.number - 1
        return self.last

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, cut: int) -> None:
        """Fold all kept records; note the state at the cut and what the records behind it refer to."""
        self._say("reading the journal")
        world = load_world(self._journal)
        if not cut:
            self._refer_world(world)
        for record in self._journal.read():
            number = self._journal.last_number
            fold(world, [record], after=number - 1)
            if number == cut:
                self._picture, self._chain = snapshot.take(world), self._journal.chain
                self._refer_world(world)
            elif number > cut:
                self._refer(record)

    def _refer_world(self, world: World) -> None:
        for code in codes_in_use(world):
            self._refer_code(code)
        self.tensors.update(world.tensors_in_use())

    def _refer(self, record: Record) -> None:
        if isinstance(record, Deployed):
            self._refer_code(record.code)
        elif isinstance(record, Opened):
            for _, code in record.deploys:
                self._refer_code(code)
        self._refer_tensors(named_tensors(record))

    def _refer_code(self, code: Code) -> None:
        kind = kind_of(code)
        if kind.is_kept:
            (self.bundles if kind.content == IS_BUNDLE else self.modules)[code.digest] = None

    def _refer_tensors(self, refs: list[TensorRef]) -> None:
        self.tensors.update(dict.fromkeys([ref.digest for ref in refs]))

    # --- changing -----------------------------------------------------------------------------------------------------

    def carry_out(self, cut: int, unpins: tuple[str, ...]) -> None:
        """Write pins, cut, and shrink the file. Each step leaves a valid file."""
        self._say("writing pins")
        for name in unpins:
            self._store.unpin(name)
        for name, number in self.pins.items():
            self._store.pin(name, number)
        if cut:
            self._cut(cut)
        self._say("removing cut records")
        while not self._store.drop_cut(_RECORDS_PER_STEP):
            self._say("removing cut records")
        # A start reads from the newest snapshot, and needs one only if there is much to read.
        kept = self._journal.last_number - self._journal.first_number() + 1
        needed = self._store.needed(int(kept >= STOP_RECORDS_MIN))
        for number in self._store.numbers():
            if number not in needed:
                self._store.forget(number, 1 << 62)
                self._say("removing old snapshots")

    def _cut(self, cut: int) -> None:
        assert self._picture is not None
        self._say("writing a snapshot")
        named = self._store.write(cut, snapshot.encode(self._picture), self._chain)
        self._say("naming the snapshot")
        self._journal.append([named])
        self._say("cutting")
        self._store.cut(named)


def _remove_conversations(folder: RunFolder, before: int) -> Removed:
    """Remove what was last used before a day, unless the journal names it."""
    unused = heads_in(folder.conversations, before=before)
    if not unused:
        return Removed(0, 0)
    with closing(Journal.open(folder.journal, read_only=True)) as journal:
        named = heads_named_by(journal, unused)
    return remove_unused(folder.conversations, [*named.said, *named.known], before)


def _is_open(world: World, place: Place) -> bool:
    """Return whether a turn waits or is in the line."""
    lane = world.lanes[place.lane]
    return place.turn in lane.line_by_turn or any(
        run.first_turn + run.issued <= place.turn < run.first_turn + len(run.payloads) for run in lane.waiting_runs()
    )


def _file_bytes(path: Path) -> int:
    return sum(one.stat().st_size for one in (path, path.with_name(path.name + "-wal")) if one.exists())
