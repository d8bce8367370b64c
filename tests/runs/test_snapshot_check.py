"""Snapshots that are not what the records give: which are found, and that no honest one is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from chaos import Chaos, deploy_all
from run_kit import Broker, counting, forge_snapshot, rechain, records_of, write_run

from rota.broker import records, snapshot
from rota.broker.journal import Journal
from rota.broker.recovery import fold
from rota.broker.snapshot_rows import RowTag
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.world import World
from rota.common.digests import digest
from rota.common.errors import JournalError
from rota.host.endpoints import RunFolder
from rota.runs.damage import find_damage
from rota.runs.export import export_run, import_run
from rota.runs.open import open_run
from rota.runs.snapshot_check import SnapshotCheck
from rota.runs.walk import Walk

Items = list[list[Any]]
SINGLE = RowTag.SINGLE


def check(path: Path) -> None:
    """Walk over a run and compare its snapshots."""
    with open_run(path) as source:
        for _ in Walk(source, SnapshotCheck(source)).steps():
            pass


def refused(path: Path) -> JournalError:
    with pytest.raises(JournalError) as found:
        check(path)
    return found.value


def item(items: Items, tag: RowTag) -> list[Any]:
    return next(one for one in items if one[0] == tag)


def change_state(items: Items) -> None:
    agent = item(items, RowTag.AGENT)
    agent[3] = b"forged!!"
    agent[4] = digest(agent[3])


def put(tag: RowTag, field: int, value: Any) -> Callable[[Items], None]:
    def change(items: Items) -> None:
        assert item(items, tag)[field] != value
        item(items, tag)[field] = value

    return change


def change_seed(items: Items) -> None:
    item(items, RowTag.LANE)[2][4] = b"s" * 32


def change_result(items: Items) -> None:
    item(items, SINGLE)[2][1] = b"forged"


def drop_a_result(items: Items) -> None:
    items.remove([one for one in items if one[0] == SINGLE][3])
    items[-1][1] -= 1


def drop_a_producer(items: Items) -> None:
    items.remove(item(items, RowTag.PRODUCER))
    items[-1][1] -= 1


FORGERIES: dict[str, Callable[[Items], None]] = {
    "state": change_state,
    "counted bytes": put(RowTag.AGENT, 6, 1_000_000),
    "completed": put(RowTag.AGENT, 5, 77),
    "lane digest": put(RowTag.LANE, 9, bytes(32)),
    "window": put(RowTag.LANE, 3, 3),
    "failed": put(RowTag.LANE, 8, 5),
    "seed": change_seed,
    "boot": put(RowTag.HEAD, 2, 9),
    "result": change_result,
    "a result less": drop_a_result,
    "a producer less": drop_a_producer,
    "a lane that cannot be": put(RowTag.LANE, 6, 7_000),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_snapshot_is_named(name: str, tmp_path: Path) -> None:
    """Goal: no state for a broker to start from that the records do not give. Method: change a snapshot in the middle
    of a run, with digest and size in its record and the chain; walk, ask where the damage is, and export.
    """
    run = write_run(tmp_path / "run", records_of(counting()), snapshot_after=30)
    check(run)
    number = forge_snapshot(run, FORGERIES[name])
    error = refused(run)
    assert number == 30
    assert error.fields["number"] == error.fields["snapshot"] == number
    assert f"the snapshot of record {number} " in error.message
    assert "Error" not in error.message, "no class of Python's, but words"
    with open_run(run) as source:
        damage = find_damage(source, error)
        last = source.extent()[1]
    assert (damage.record, damage.last_good, damage.unproved, damage.why) == (number, last, (), error.message)
    with pytest.raises(JournalError, match=f"the snapshot of record {number} "):
        export_run(run, tmp_path / "run.zip")


def test_an_honest_snapshot_goes_through_an_archive(tmp_path: Path) -> None:
    """Goal: `rota import` compares too and takes what is right. Method: export and import a run with a snapshot."""
    run = write_run(tmp_path / "run", records_of(counting()), snapshot_after=30)
    export_run(run, tmp_path / "run.zip")
    import_run(tmp_path / "run.zip", tmp_path / "again")
    check(tmp_path / "again")


def test_bytes_that_are_not_those_of_the_record(tmp_path: Path) -> None:
    """Goal: a damaged snapshot is told, though a broker skips it. Method: change a byte of it and nothing else."""
    run = write_run(tmp_path / "run", records_of(counting()), snapshot_after=30)
    with closing(sqlite3.connect(run / "run.rota")) as connection, connection:
        connection.execute("UPDATE snapshots SET body = CAST(body || x'00' AS BLOB)")
    assert refused(run).message == "the snapshot of record 30 is damaged: its digest is not the one recorded"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chain": bytes(32)}, "record 31 names the snapshot of record 30 with another chain digest"),
        ({"number": 31}, "record 31 names a snapshot of record 31, which is not before it"),
        ({"number": 29}, "record 31 names the snapshot of record 29 with another chain digest"),
    ],
)
def test_a_name_that_does_not_fit_the_chain(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    """Goal: what a record says of a snapshot is checked, the snapshot may be gone. Method: change one field of the
    record, compute the chain anew, and remove the snapshot.
    """
    run = write_run(tmp_path / "run", records_of(counting()), snapshot_after=30)
    with closing(sqlite3.connect(run / "run.rota")) as connection, connection:
        ((body,),) = connection.execute("SELECT body FROM records WHERE number = 31").fetchall()
        rechain(connection, {31: records.decode(body)._replace(**change)})
        connection.execute("DELETE FROM snapshots")
        connection.execute("DELETE FROM named")
    error = refused(run)
    assert told in error.message
    with open_run(run) as source:
        damage = find_damage(source, error)
    assert (damage.record, damage.last_good) == (31, 30)
    assert told in damage.why


def test_a_cut_record_names_nothing(tmp_path: Path) -> None:
    """Goal: a snapshot is authentic only by a record of the chain. Method: put a record that names it before the first
    one that counts.
    """
    run = write_run(tmp_path / "run", records_of(counting()), cut_after=30)
    check(run)
    with closing(sqlite3.connect(run / "run.rota")) as connection, connection:
        connection.execute("INSERT INTO records SELECT 7, body, chain FROM records WHERE number = 31")
        connection.execute("UPDATE named SET record = 7")
    with pytest.raises(JournalError, match="begin with 31"):
        check(run)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kept", [(4, 4), (4, 50), (50, 4), (0, 0)])
def test_honest_snapshots_are_equal(seed: int, kept: tuple[int, int], tmp_path: Path) -> None:
    """Goal: nothing is found where nothing is wrong, however many results brokers keep. Method: random runs with
    verdicts, timers and restarts; snapshots of brokers with different bounds; walk over the whole, cut at the first,
    and walk over the rest. Then a count in the second snapshot is forged, and found.
    """
    broker = Broker()
    chaos = Chaos(broker, seed, 2, inputs=True)
    deploy_all(chaos.producer, "main")
    chaos.run(110)
    found = [records.decode(body) for body in broker.journal]
    places = (len(found) // 3, 2 * len(found) // 3)
    run = RunFolder(tmp_path / "run").prepare()
    with closing(Journal.open(run.journal)) as journal:
        assert list(journal.read()) == []
        store, begin = SnapshotStore(journal), 0
        for place, results_max in zip(places, kept, strict=True):
            journal.append(found[begin:place])
            world = World(results_max)
            fold(world, list(reopened(run.journal)))
            named = store.write(journal.last_number, snapshot.encode(snapshot.take(world)), journal.chain)
            journal.append([named])
            begin = place
        journal.append(found[begin:])
    check(run.root)
    with closing(Journal.open(run.journal)) as journal:
        assert list(journal.read())
        store = SnapshotStore(journal)
        store.cut(store.named()[-1])
        assert store.drop_cut(1_000_000)
    check(run.root)
    number = forge_snapshot(run.root, put(RowTag.LANE, 8, 77))
    assert refused(run.root).fields["snapshot"] == number


def reopened(path: Path) -> list[Any]:
    with closing(Journal.open(path, read_only=True)) as journal:
        return list(journal.read())
