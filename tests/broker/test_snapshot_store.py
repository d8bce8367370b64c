"""Snapshots in a run file: which one a start uses, what happens to damaged ones, and how records before one are cut.

Real run files with the records of a random run. The recovered `picture` is compared with a fold of all records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import msgpack
import pytest
from chaos import Chaos, deploy_all
from core_kit import Broker, fold_journal, picture

from rota.broker import records, snapshot
from rota.broker.journal import Journal, link
from rota.broker.recovery import fold, load_world, recover
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.world import World
from rota.common.errors import JournalError


def run_of(seed: int) -> list[records.Record]:
    broker = Broker()
    chaos = Chaos(broker, seed, 2, inputs=True)
    deploy_all(chaos.producer, "main")
    chaos.run(120)
    chaos.settle()
    return [records.decode(body) for body in broker.journal]


RUN = run_of(5)
SNAPSHOTS = (30, 60, len(RUN) - 10)  # how many records of the run are in each


def write(path: Path, *, snapshots: tuple[int, ...] = SNAPSHOTS) -> None:
    """Write the run, with a snapshot after so many of its records each; the naming record follows two records later."""
    world, waiting = World(), []
    with closing(Journal.open(path)) as journal:
        assert list(journal.read()) == []
        store = SnapshotStore(journal)
        for count, record in enumerate(RUN, start=1):
            world.apply(record)
            journal.append([record])
            if waiting and count >= waiting[0][0]:
                journal.append([waiting.pop()[1]])
            if count in snapshots:
                parts = snapshot.encode(snapshot.take(world))
                waiting.append((count + 2, store.write(journal.last_number, parts, journal.chain)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "run.rota")
    return tmp_path / "run.rota"


def damage(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount, statement


def recovered(path: Path) -> tuple[World, int]:
    """The recovered world, and how many records were read for it."""
    with closing(Journal.open(path)) as journal:
        read: list[int] = []
        whole = journal.read

        def counted(after: Any = None) -> Iterator[records.Record]:
            for record in whole(after):
                read.append(journal.last_number)
                yield record

        journal.read = counted  # type: ignore[method-assign]
        world = recover(journal)
        world.check_invariants()
        journal.append([records.Fingerprint(len(world.fingerprints) + 1, "test", ())])
        return world, len(read)


def names(path: Path) -> list[int]:
    with closing(Journal.open(path, read_only=True)) as journal:
        return [named.number for named in SnapshotStore(journal).named()]


WHOLE = picture(fold_journal([records.encode(record) for record in RUN]))


# --- recovery -----------------------------------------------------------------------------------------------------


def test_a_start_reads_the_newest_snapshot_and_what_follows_it(path: Path) -> None:
    """Goal: recovery is bounded, and gives what a full fold gives. Method: count the records that are read."""
    world, read = recovered(path)
    assert picture(world) == WHOLE
    assert read == 10 + 1
    again, read = recovered(path)  # and once more, with a record that was appended behind it
    assert read == 12
    assert len(again.fingerprints) == len(world.fingerprints) + 1


@pytest.mark.parametrize(
    ("what", "passed_over"),
    [
        ("UPDATE snapshots SET body = zeroblob(length(body)) WHERE number = {newest}", 1),
        ("UPDATE snapshots SET body = substr(body, 2) WHERE number = {newest}", 1),
        ("DELETE FROM snapshots WHERE number = {newest}", 1),
        ("DELETE FROM named WHERE number = {newest}", 1),
        ("UPDATE named SET record = record + 1 WHERE number = {newest}", 1),
        ("UPDATE snapshots SET body = zeroblob(9)", 3),
        ("DELETE FROM named", 3),
    ],
)
def test_a_snapshot_that_cannot_be_used_is_passed_over(what: str, passed_over: int, path: Path) -> None:
    """Goal: an older snapshot or the whole journal stands in for a damaged or unfinished one. Method: change the
    newest, or all of them, with SQL.
    """
    newest = names(path)
    damage(path, what.format(newest=newest[0]))
    world, read = recovered(path)
    assert picture(world) == WHOLE
    assert read == len(RUN) + 3 - [*newest, 0][passed_over]


def test_a_snapshot_of_other_content_is_not_used_even_if_it_is_well_made(path: Path) -> None:
    """Goal: the chain decides which bytes count. Method: the parts of an older snapshot in the newest one's place."""
    newest, _, oldest = names(path)
    damage(
        path,
        f"DELETE FROM snapshots WHERE number = {newest}",
        f"INSERT INTO snapshots SELECT {newest}, part, body FROM snapshots WHERE number = {oldest}",
    )
    assert picture(recovered(path)[0]) == WHOLE


def test_a_damaged_record_behind_a_snapshot_is_refused(path: Path) -> None:
    """Goal: what a start reads it checks, from the chain that the snapshot's record says. Method: change records."""
    newest = names(path)[0]
    for number in (newest + 1, newest + 3, newest + 9):
        damaged = path.with_name("damaged.rota")
        damaged.write_bytes(path.read_bytes())
        damage(damaged, f"UPDATE records SET body = x'c0' WHERE number = {number}")
        with pytest.raises(JournalError, match=f"record {number} is damaged"):
            recovered(damaged)


def test_damage_before_a_snapshot_is_found_by_a_full_read(path: Path) -> None:
    """Goal: a bounded start does not read it, reading the whole run does. Method: change an old record."""
    damage(path, "UPDATE records SET body = x'c0' WHERE number = 7")
    assert picture(recovered(path)[0]) == WHOLE
    with closing(Journal.open(path, read_only=True)) as journal, pytest.raises(JournalError, match="record 7 is damag"):
        list(journal.read())


# --- cuts ---------------------------------------------------------------------------------------------------------


def cut(path: Path, place: int, *, records_max: int = 1_000_000) -> int:
    """Cut a run file at the snapshot `place` of `names`; returns its number."""
    with closing(Journal.open(path)) as journal:
        recover(journal)
        store = SnapshotStore(journal)
        named = store.named()[place]
        store.cut(named)
        store.drop_cut(records_max)
        return named.number


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("records_max", [0, 7, 1_000_000])
def test_a_cut_journal_is_read_from_its_snapshot(place: int, records_max: int, path: Path) -> None:
    """Goal: records go and nothing else changes: the state, the numbers, the chain. Method: cut at each snapshot, with
    nothing, some or all of the cut records removed, as a crash may leave it; read all that is kept, and recover.
    """
    with closing(Journal.open(path, read_only=True)) as journal:
        chains = [ZERO := bytes(32)]
        for record in journal.read():
            chains.append(link(chains[-1], records.encode(record)))
    number = cut(path, place, records_max=records_max)
    with closing(Journal.open(path, read_only=True)) as journal:
        assert journal.first_number() == number + 1
        world = load_world(journal)
        assert picture(world) == picture(
            fold_journal([records.encode(record) for record in RUN[: SNAPSHOTS[2 - place]]])
        )
        kept = []
        for record in journal.read():
            kept.append(journal.last_number)
            fold(world, [record], after=journal.last_number - 1)
        assert kept == list(range(number + 1, len(RUN) + 3 + 1))
        assert journal.chain == chains[-1] != ZERO
        assert picture(world) == WHOLE
    assert picture(recovered(path)[0]) == WHOLE


def test_what_a_crash_left_of_a_cut_goes_with_the_next(path: Path) -> None:
    """Goal: a cut is removed in pieces of bounded work. Method: call until nothing is left; then nothing is done."""
    number = cut(path, 0, records_max=0)
    with closing(Journal.open(path)) as journal:
        recover(journal)
        store = SnapshotStore(journal)
        rounds = 1
        while not store.drop_cut(20):
            rounds += 1
        assert rounds == -(-number // 20)
        assert store.drop_cut(20)
    assert len(_sql(path, "SELECT number FROM records")) == len(RUN) + 3 + 0 - number


def test_a_cut_journal_without_its_snapshot_is_refused(path: Path) -> None:
    """Goal: without the first records and their snapshot there is no state, and that is said. Method: cut at the newest
    snapshot, then damage it.
    """
    number = cut(path, 0)
    with closing(Journal.open(path)) as journal:
        recover(journal)
        for older in SnapshotStore(journal).numbers()[1:]:
            assert SnapshotStore(journal).forget(older, 1_000)
    for statement, told in (
        ("UPDATE snapshots SET body = zeroblob(9)", f"the snapshot of record {number} is damaged"),
        ("DELETE FROM snapshots", f"the snapshot of record {number} is damaged"),
        ("DELETE FROM named", f"begin with {number + 1}, and no record names"),
    ):
        damaged = path.with_name("damaged.rota")
        damaged.write_bytes(path.read_bytes())
        damage(damaged, statement)
        with pytest.raises(JournalError, match=told):
            recovered(damaged)


def test_a_snapshot_is_forgotten_in_pieces(path: Path) -> None:
    """Goal: removing a large snapshot is bounded work, and one that is half gone is not used. Method: a snapshot of
    many parts, two of them at a time.
    """
    with closing(Journal.open(path)) as journal:
        recover(journal)
        store = SnapshotStore(journal)
        named = store.write(journal.last_number, [b"x"] * 5, journal.chain)
        journal.append([named])
        assert store.numbers()[0] == named.number
        assert [store.forget(named.number, 2) for _ in range(4)] == [False, False, True, True]
        assert named.number not in store.numbers()
    assert picture(recovered(path)[0]) == WHOLE


# --- pins ---------------------------------------------------------------------------------------------------------


def test_pins_are_kept_by_name(path: Path) -> None:
    """Goal: a pin can be set, moved and removed, and outlives the process. Method: do so."""
    with closing(Journal.open(path)) as journal:
        recover(journal)
        store = SnapshotStore(journal)
        store.pin("b", 7)
        store.pin("a", 9)
        store.pin("b", 8)
    with closing(Journal.open(path)) as journal:
        recover(journal)
        store = SnapshotStore(journal)
        assert store.pins() == {"a": 9, "b": 8}
        assert store.unpin("a")
        assert not store.unpin("a")
        assert store.pins() == {"b": 8}


def _sql(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def test_a_snapshot_that_was_changed_and_still_reads_is_not_used(path: Path) -> None:
    """Goal: what counts is the digest in the chain, not that the bytes make sense. Method: change how many divergences
    the newest snapshot counts; it loads, and tells something else than the journal.
    """
    with closing(Journal.open(path, read_only=True)) as journal:
        newest = SnapshotStore(journal).named()[0]
        whole = b"".join(SnapshotStore(journal).parts(newest.number))
    item = next(iter(msgpack.Unpacker(BytesIO(whole))))
    head = msgpack.unpackb(item)
    changed = msgpack.packb(msgpack.packb([*head[:-1], head[-1] + 1])) + whole[len(msgpack.packb(item)) :]
    assert len(changed) == len(whole)
    assert snapshot.load([changed]).divergences == head[-1] + 1
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM snapshots WHERE number = ? AND part > 0", (newest.number,))
        connection.execute("UPDATE snapshots SET body = ? WHERE number = ?", (changed, newest.number))
    with closing(Journal.open(path, read_only=True)) as journal, pytest.raises(JournalError, match="is damaged"):
        SnapshotStore(journal).check(newest)
    world, _ = recovered(path)
    assert world.divergences == head[-1]
    assert picture(world) == picture(fold_journal([records.encode(record) for record in RUN]))


@pytest.mark.parametrize("pinned_ms", [5, 3_000_000_000_000])
def test_a_pinned_time_is_not_the_age_of_a_record(tmp_path: Path, pinned_ms: int) -> None:
    """Goal: records are as old as the broker's clock says, whatever time a producer pinned.

    Method: a submit with another
    time right behind a snapshot; ask to cut there by an age between the two, and by one beyond.
    """
    broker = Broker()
    producer = broker.producer()
    broker.worker()
    producer.deploy("counter")
    first = [records.decode(body) for body in broker.journal]
    producer.submit("counter/a", now_ms=pinned_ms)
    broker.run()
    rest = [records.decode(body) for body in broker.journal[len(first) :]]
    assert rest[0].now_ms == pinned_ms  # type: ignore[union-attr]
    with closing(Journal.open(tmp_path / "run.rota")) as journal:
        assert list(journal.read()) == []
        journal.append(first)
        world = World()
        fold(world, first)
        store = SnapshotStore(journal)
        named = store.write(journal.last_number, snapshot.encode(snapshot.take(world)), journal.chain)
        journal.append([*rest, named])
        assert store.newest_to_cut_at(journal.last_number, broker.now_ms - 1_000) is None
        assert store.newest_to_cut_at(journal.last_number, broker.now_ms + 1_000) == named
