"""Snapshots and cuts under kill -9: what clients saw stays true, and a start does not read what a snapshot holds.

As in test_kills.py, with a broker that takes a snapshot every few records and cuts what is before them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from forest import LANE, Expected, Forest, Seen, at_moments, digest_of, expected_of, pick_moments

from rota.broker.compaction import Wishes, compact
from rota.broker.journal import Journal
from rota.broker.snapshot_store import SnapshotStore
from rota.client import Client
from rota.host.clock import HostClock
from rota.host.endpoints import RunFolder

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

FOREST = Forest(roots=30, depth=4, fanout=3)
OFTEN = {
    "ROTA_HEARTBEAT_MS": "300",
    "ROTA_SNAPSHOT_RECORDS": "10",
    "ROTA_RETAIN_RECORDS": "10",
}

RotaUp = Callable[..., Any]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return expected_of(FOREST, tmp_path_factory.mktemp("reference"))


def test_a_broker_that_starts_from_snapshots_contradicts_nothing(
    rota_up: RotaUp, run_dir: Path, expected: Expected, threads: ThreadPoolExecutor
) -> None:
    """Goal: recovery from a snapshot of a cut journal is recovery. Method: kill the broker at three moments and look at
    digest and results; then end all, compact, and start again: one digest throughout, and less to read.
    """
    up = rota_up(run_dir, cpu_workers=2, **OFTEN)
    seen = Seen()
    with Client(run_dir) as client:
        FOREST.prepare(client)
        collected = threads.submit(seen.collect, run_dir, FOREST.tasks)
        client.release(LANE)
        for _ in at_moments(run_dir, pick_moments(Random(5), 3, FOREST.tasks), new_broker=True):
            up.kill_child("broker")
        assert digest_of(client) == (FOREST.tasks, expected.digest)
        collected.result()
        seen.check(expected)
    up.close()
    folder = RunFolder(run_dir)
    with closing(Journal.open(folder.journal, read_only=True)) as journal:
        assert SnapshotStore(journal).named()
        assert journal.first_number() > 1
    report = compact(folder, Wishes(records=0), pins={}, lease_ms=0, clock=HostClock())
    assert report.cut_last == report.last - 1
    up = rota_up(run_dir, cpu_workers=1)
    with Client(run_dir) as client:
        assert digest_of(client) == (FOREST.tasks, expected.digest)
        assert client.query("agents", lane=LANE)
