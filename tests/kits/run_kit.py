"""Small real runs for tests of runs/ and proof/, made by a `Broker` of core_kit.py and written to run folders.

The modules are bytes with the digest that the agent language deploys (`scripted.code("counter")`), so that files exist
for every digest in a journal; nothing here executes them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import scripted
from core_kit import Broker

from rota.broker import records, snapshot
from rota.broker.journal import Journal, link
from rota.broker.recovery import fold
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.world import World
from rota.common.digests import ZERO_DIGEST, digest, pack
from rota.host.endpoints import RunFolder

program = scripted.program


def write_run(folder: Path, found: Iterable[Any], *, cut_after: int = 0, snapshot_after: int = 0) -> Path:
    """Make a run folder with these records, a few in each commit, and with the module `counter`. Returns it.

    With `cut_after` so many of the first records are replaced by a snapshot; with `snapshot_after` there is one of
    them, and they stay.
    """
    run = RunFolder(folder).prepare()
    batch, place = list(found), cut_after or snapshot_after
    with closing(Journal.open(run.journal)) as journal:
        assert list(journal.read()) == []
        journal.append(batch[:place])
        if place:
            _write_snapshot(journal, batch[:place], cut=bool(cut_after))
        for start in range(place, len(batch), 3):
            journal.append(batch[start : start + 3])
    (run.modules / f"{scripted.COUNTER.digest.hex()}.wasm").write_bytes(b"counter")
    return folder


def _write_snapshot(journal: Journal, first: list[Any], *, cut: bool) -> None:
    """Write a snapshot of the state after all records so far; with `cut` these are removed."""
    world = World()
    fold(world, first)
    store = SnapshotStore(journal)
    named = store.write(journal.last_number, snapshot.encode(snapshot.take(world)), journal.chain)
    journal.append([named])
    if cut:
        store.cut(named)
        assert store.drop_cut(len(first))


def forge_snapshot(path: Path, change: Callable[[list[list[Any]]], object], place: int = 0) -> int:
    """Change the items of a snapshot in a run folder, by default of the newest, then size and digest in the record
    that names it, and the chain. Returns the number of the record that it is of.
    """
    with closing(sqlite3.connect(RunFolder(path).journal)) as connection, connection:
        rows = connection.execute("SELECT number, record FROM named ORDER BY number DESC").fetchall()
        number, named = rows[place]
        parts = connection.execute("SELECT body FROM snapshots WHERE number = ? ORDER BY part", (number,)).fetchall()
        unpacker = msgpack.Unpacker()
        unpacker.feed(b"".join([part for (part,) in parts]))
        items = [msgpack.unpackb(item, strict_map_key=False) for item in unpacker]
        change(items)
        body = b"".join([pack(pack(item)) for item in items])
        connection.execute("DELETE FROM snapshots WHERE number = ?", (number,))
        connection.execute("INSERT INTO snapshots VALUES (?, 0, ?)", (number, body))
        ((record,),) = connection.execute("SELECT body FROM records WHERE number = ?", (named,)).fetchall()
        said = records.decode(record)
        assert isinstance(said, records.Snapshotted)
        rechain(connection, {named: said._replace(digest=digest(body), size_bytes=len(body))})
        return int(number)


def rechain(connection: sqlite3.Connection, changes: dict[int, Any]) -> None:
    """Put other records in the place of some, and compute the chain anew from the first of these on."""
    first = min(changes)
    found = connection.execute("SELECT chain FROM records WHERE number = ?", (first - 1,)).fetchone()
    chain = found[0] if found else ZERO_DIGEST
    chains: dict[int, bytes] = {}
    for number, body in connection.execute("SELECT number, body FROM records WHERE number >= ?", (first,)).fetchall():
        record = changes.get(number, records.decode(body))
        if isinstance(record, records.Snapshotted) and record.number in chains:
            record = record._replace(chain=chains[record.number])
        encoded = records.encode(record)
        chain = chains[number] = link(chain, encoded)
        connection.execute("UPDATE records SET body = ?, chain = ? WHERE number = ?", (encoded, chain, number))
    connection.execute("UPDATE head SET chain = ?", (chain,))


def records_of(broker: Broker) -> list[Any]:
    """The records in the journal of a `Broker` of core_kit.py."""
    return [records.decode(body) for body in broker.journal]


def counting(tasks: int = 12, agents: int = 3, change: dict[int, bytes] | None = None) -> Broker:
    """A broker that ran tasks which count, log and tell another agent. `change` replaces payloads, by index."""
    broker = Broker()
    producer = broker.producer()
    broker.worker()
    producer.deploy("counter")
    for place in range(tasks):
        payload = program(
            ["add", place + 1], ["tell", f"counter/sum{place % 2}", [["add", 1]]], ["log", f"task {place}"]
        )
        producer.submit(f"counter/a{place % agents}", (change or {}).get(place, payload))
        broker.run()
    return broker


def bodies(path: Path) -> list[bytes]:
    """The bodies of all records of a run file, as bytes."""
    with closing(Journal.open(path, read_only=True)) as journal:
        return [records.encode(record) for record in journal.read()]


__all__ = [
    "Broker", "bodies", "counting", "forge_snapshot", "program", "rechain", "records_of", "scripted", "write_run",
]  # fmt: skip
