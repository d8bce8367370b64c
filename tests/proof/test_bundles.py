"""Runs with bundles: proofs, forks, upgrades, archives and compaction go from a bundle to its program."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from wasi_programs import CAT, FAILS, FIRST_ARGUMENT, TWICE

from rota import local
from rota.broker.compaction import Wishes, compact
from rota.common.bundle import decode_bundle, encode_bundle, new_bundle
from rota.common.digests import digest
from rota.common.errors import CodeError
from rota.common.work import Code
from rota.host.clock import HostClock
from rota.host.endpoints import RunFolder
from rota.proof.changed import ChangePlan
from rota.proof.continuation import Change
from rota.proof.fork import NewCode, fork
from rota.proof.upgrade import check_upgrade
from rota.runs.code_files import changed_code
from rota.runs.export import export_run, import_run
from rota.runs.open import RunSource, open_run

CAT_BUNDLE = encode_bundle(new_bundle(digest(CAT)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three commands, one of which fails."""
    folder = tmp_path_factory.mktemp("bundles") / "run"
    with local.open_lane() as lane:
        lane.deploy("cat", CAT)
        lane.deploy("argument", FIRST_ARGUMENT, args=["xyz"])
        lane.deploy("fails", FAILS)
        assert lane.submit("cat", b"hello").result().payload == b"hello"
        assert lane.submit("argument", b"").result().payload == b"xy"
        assert lane.submit("fails", b"no").outcome().message == "exit 3: no"
        return lane.save(folder)


@pytest.fixture
def source(run: Path) -> Iterator[RunSource]:
    with open_run(run) as found:
        yield found


def suffixes(folder: Path) -> list[str]:
    return sorted(path.suffix for path in (folder / "modules").iterdir())


def test_an_upgrade_keeps_what_the_program_starts_with(source: RunSource) -> None:
    """Goal: only the program changes. Method: the same one, and others, in place of a program and its argument."""
    (same,) = check_upgrade(source, "argument", FIRST_ARGUMENT, device="cpu")
    assert (same.same, same.ran_new_code) == (True, 1)
    (other,) = check_upgrade(source, "cat", TWICE, device="cpu")
    assert (other.same, other.changed) == (False, 1)
    assert other.first is not None
    assert other.first.fields == ("result",)
    with pytest.raises(CodeError, match="no export '_start'"):
        check_upgrade(source, "cat", (Path("examples") / "agents" / "echo.wasm").read_bytes(), device="cpu")


def test_a_fork_has_the_code_of_both(source: RunSource, tmp_path: Path) -> None:
    """Goal: a fork can be executed again from its folder. Method: another program from the start on."""
    old = next(code for name, code in bound(source) if name == "cat")
    new = NewCode.like("cat", old, TWICE, source.modules)
    bundle = decode_bundle(new.parts[new.code.digest]())
    assert bundle == new_bundle(digest(TWICE))
    came = fork(
        source, ChangePlan("main", 0, Change(deploys=(("cat", new.code),))), [new], tmp_path / "f", "x", device="cpu"
    )
    assert suffixes(tmp_path / "f") == [".bundle"] * 4 + [".wasm"] * 4
    assert came.position == 0


def bound(source: RunSource) -> list[tuple[str, Code]]:
    return [(record.name, record.code) for _, record in source.records() if type(record).__name__ == "Deployed"]


def test_an_archive_has_programs_and_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    """Goal: who gets an archive can execute it. Method: pack and unpack; then without a program, without a bundle."""
    packed = export_run(run, tmp_path / "a.zip")
    assert packed.manifest.missing == []
    import_run(tmp_path / "a.zip", tmp_path / "came")
    assert suffixes(tmp_path / "came") == suffixes(run) == [".bundle"] * 3 + [".wasm"] * 3
    for name, wanted, left in (
        (f"{digest(CAT).hex()}.wasm", ("module", digest(CAT)), 5),
        (f"{digest(CAT_BUNDLE).hex()}.bundle", ("bundle", digest(CAT_BUNDLE)), 4),  # nobody can tell its program then
    ):
        cut = shutil.copytree(run, tmp_path / f"without-{wanted[0]}")
        (cut / "modules" / name).unlink()
        packed = export_run(cut, tmp_path / f"{wanted[0]}.zip")
        assert [(one["kind"], one["digest"]) for one in packed.manifest.missing] == [(wanted[0], wanted[1].hex())]
        import_run(tmp_path / f"{wanted[0]}.zip", tmp_path / f"came-{wanted[0]}")
        assert len(suffixes(tmp_path / f"came-{wanted[0]}")) == left


def test_compaction_keeps_the_programs_of_bundles(run: Path, tmp_path: Path) -> None:
    """Goal: a compacted run still runs. Method: cut all records, with a module and a bundle that nobody names."""
    folder = RunFolder(shutil.copytree(run, tmp_path / "run"))
    unnamed = encode_bundle(new_bundle(digest(TWICE)))
    (folder.modules / f"{digest(TWICE).hex()}.wasm").write_bytes(TWICE)
    (folder.modules / f"{digest(unnamed).hex()}.bundle").write_bytes(unnamed)
    report = compact(folder, Wishes(records=0), pins={}, lease_ms=0, clock=HostClock())
    assert report.modules_removed == 2
    assert suffixes(folder.root) == suffixes(run)


def test_a_changed_file_is_named(run: Path, tmp_path: Path) -> None:
    """Goal: a proof that ends differently names the file to blame. Method: damage a program, and a bundle."""
    for name, what in ((f"{digest(CAT).hex()}.wasm", "module"), (f"{digest(CAT_BUNDLE).hex()}.bundle", "bundle")):
        damaged = shutil.copytree(run, tmp_path / what)
        (damaged / "modules" / name).chmod(0o600)
        (damaged / "modules" / name).write_bytes(b"other")
        with open_run(damaged) as source:
            said = changed_code(source, dict(bound(source))["cat"], "cat")
        assert said.startswith(f"{what} file {name} of 'cat' is not the {what} that ran")
