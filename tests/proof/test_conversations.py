"""Proofs of runs with conversations: verify over the run's store, in a cut run, an archive, a fork, and without."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rota import local
from rota.broker.compaction import Place, Wishes, compact
from rota.engine.executors import Executors
from rota.host.clock import HostClock
from rota.host.endpoints import CONVERSATIONS, RunFolder
from rota.model_builds.random_decoder import TINY, build_random_decoder
from rota.proof.changed import ChangePlan
from rota.proof.continuation import Change
from rota.proof.fork import fork
from rota.proof.processes import Processes
from rota.proof.verify import LaneReport, VerifyOptions, verify
from rota.runs.export import export_run, import_run
from rota.runs.open import RunSource, open_run

TURNS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a dialogue of some turns, a fork of it, and the model."""
    root = tmp_path_factory.mktemp("run")
    source = build_random_decoder(root / "tiny", dataclasses.replace(TINY, context=512), slots=2)
    with local.LocalLane(keep=root / "kept") as lane:
        lane.deploy("tiny", source, "model")
        chat = lane.chat("tiny", system="be brief", max_tokens=8)
        heads = []
        for turn in range(TURNS - 2):
            chat.say(f"turn {turn}").result()
            heads.append(chat.head)
        for text in ("another way", "a third way"):
            lane.generate(
                "tiny", messages=[{"role": "user", "content": text}], conversation=heads[0], max_tokens=8
            ).result()
        lane.save(root / "saved", models=True)
    return root / "saved"


def stored(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob(f"{CONVERSATIONS}*")}


@contextmanager
def runner(source: RunSource, processes: int) -> Iterator[Any]:
    folders = source.folders()
    with Executors(folders, device="cpu") if not processes else Processes(folders, processes, device="cpu") as made:
        yield made


def report_of(path: Path, processes: int = 0, **options: Any) -> LaneReport:
    with open_run(path) as source, runner(source, processes) as made:
        (report,) = verify(source, made, VerifyOptions(live_models=True, **options)).lanes
    return report


@pytest.mark.processes
@pytest.mark.parametrize("processes", [0, 2])
def test_turns_are_computed_again_over_the_runs_store(run: Path, processes: int) -> None:
    """Goal: verify works on dialogues, in other processes too, and changes nothing. Method: execute all turns again;
    the files of the store before and after.
    """
    before = stored(run)
    report = report_of(run, processes)
    assert report.equal, (report.mismatch, report.blocked)
    assert report.counts.models_executed == TURNS
    assert stored(run) == before


def test_a_whole_run_needs_no_store(run: Path, tmp_path: Path) -> None:
    """Goal: the journal is enough where every turn is executed. Method: the same without the store."""
    bare = tmp_path / "bare"
    shutil.copytree(run, bare)
    (bare / CONVERSATIONS).unlink()
    report = report_of(bare)
    assert report.equal
    assert report.counts.models_executed == TURNS
    assert not (bare / CONVERSATIONS).exists()


def test_a_part_of_a_run_reads_what_was_said_before_it(run: Path, tmp_path: Path) -> None:
    """Goal: a cut run and a part of a run continue their dialogues. Method: verify from a turn on; compact away the
    first turns, and old conversations too; then lose the store, which is named.
    """
    assert report_of(run, lane="main", first_turn=4).equal
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    day_ms = 24 * 3600 * 1000

    class Later(HostClock):
        def wall_ms(self) -> int:
            return super().wall_ms() + 100 * day_ms

    done = compact(
        RunFolder(cut), Wishes(records=0), pins={"here": Place(lane="main", turn=3)}, lease_ms=0, clock=Later(),
        conversation_days=10,
    )  # fmt: skip
    assert done.cut_last > 0
    report = report_of(cut)
    assert report.equal, (report.mismatch, report.blocked)
    assert 0 < report.counts.models_executed < TURNS
    (cut / CONVERSATIONS).unlink()
    report = report_of(cut)
    assert not report.equal
    assert report.blocked is not None
    assert "is not in the store" in report.blocked.reason


def test_an_archive_has_its_conversations(run: Path, tmp_path: Path) -> None:
    """Goal: who gets a file can prove it. Method: pack; verify file and import."""
    file, there = tmp_path / "a.zip", tmp_path / "there"
    packed = export_run(run, file, models=True)
    assert packed.manifest.run["conversations"]["heads"] == TURNS
    assert packed.manifest.missing == []
    import_run(file, there)
    for path in (file, there):
        assert report_of(path, lane="main", first_turn=TURNS).equal


def test_a_fork_goes_on_with_the_dialogue(run: Path, tmp_path: Path) -> None:
    """Goal: a forked run is whole. Method: fork in the middle with another seed of the lane, verify what came."""
    forked = tmp_path / "forked"
    with open_run(run) as source:
        plan = ChangePlan("main", 3, Change(seed=bytes(32)), inputs=True)
        fork(source, plan, [], forked, "another seed", device="cpu")
    assert (forked / CONVERSATIONS).exists()
    assert report_of(forked).equal
    assert report_of(forked, lane="main", first_turn=5).equal
