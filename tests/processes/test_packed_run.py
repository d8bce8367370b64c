"""A run that is exported under a live broker, imported elsewhere, and continued by another broker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rota.broker import records
from rota.broker.journal import Journal
from rota.client import Client
from rota.runs.diff import compare
from rota.runs.export import export_run, import_run
from rota.runs.open import open_run

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

COUNTER = Path(__file__).resolve().parents[2] / "examples" / "agents" / "counter.wasm"
ROUNDS = 6
BATCH = [b"x" * 8_000] * 300  # six of them do not fit into one WAL


def bodies(path: Path) -> list[bytes]:
    with closing(Journal.open(path, read_only=True)) as journal:
        return [records.encode(record) for record in journal.read()]


def test_a_live_run_is_packed_whole(rota_up: Callable[..., Any], run_dir: Path, tmp_path: Path) -> None:
    """Goal: an export beside a working broker is a beginning of the run, nothing torn and nothing that was acknowledged
    before it missing; the broker does not notice. Method: submit and export in turn, through more than one WAL; compare
    each archive with the run at its end; then start a broker on the last import, which comes to the same digest.
    """
    up = rota_up(run_dir)
    files = []
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER)
        for place in range(ROUNDS):
            client.submit_many(f"counter/{place}", BATCH)
            packed = export_run(run_dir, tmp_path / f"{place}.zip")
            files.append(tmp_path / f"{place}.zip")
            assert packed.manifest.missing == []
        live = client.wait_idle("main")
        assert (run_dir / "run.rota").stat().st_size > 4 << 20, "no WAL was moved into the file"
    up.send(signal.SIGINT)
    assert up.wait() == 0
    whole = bodies(run_dir / "run.rota")
    for place, file in enumerate(files):
        import_run(file, tmp_path / f"run{place}")
        found = bodies(tmp_path / f"run{place}" / "run.rota")
        assert found == whole[: len(found)]
        stamped = [record for record in map(records.decode, found) if isinstance(record, records.Submitted)]
        assert sum(len(run.payloads) for record in stamped for run in record.runs) == len(BATCH) * (place + 1)
        with open_run(file) as one, open_run(run_dir) as other:
            diff = compare(one, other, "main")
            assert diff.first is None or diff.first.cause == "end"
            assert diff.shared == diff.ends[0].retired
    rota_up(tmp_path / f"run{ROUNDS - 1}")
    with Client(tmp_path / f"run{ROUNDS - 1}") as client:
        assert client.wait_idle("main")["digest"] == live["digest"]
