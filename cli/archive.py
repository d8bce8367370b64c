"""`rota export` and `rota import`: a run as one file, and back. Neither needs a broker."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rota.cli.common_options import RunPath, json_option, option, progress_option, run_argument
from rota.cli.output import Progress, cell, counted, print_facts, print_json

if TYPE_CHECKING:
    from rota.runs.archive import Packed

_NEEDED = ("modules", "bundles", "models", "tensors")


@click.command("export")
@run_argument
@click.argument("file", type=RunPath("give the run and the new file: rota export RUN FILE"))
@option("--models", is_flag=True, help="Pack the models that the run names, not only their digests.")
@option("--tensors", is_flag=True, help="Pack the tensors that the run names, not only their digests.")
@progress_option
@json_option
def export(run: Path, file: Path, models: bool, tensors: bool, progress: bool | None, json: bool) -> None:
    """Pack RUN, a run folder or run file, into the new FILE: its journal, and the modules and conversations it names.

    A broker may be running on it: what is durable now is packed. The same run gives the same bytes. The digest of the
    file is printed; give it to the person who imports it, to compare.

    \b
    rota export .rota friday.rota.zip
    rota export .rota friday.rota.zip --models --tensors
    """
    from rota.runs.export import export_run

    with _Steps(progress) as steps:
        packed = export_run(run, file, models=models, tensors=tensors, progress=steps)
    _print(file, packed, json)
    for what in _NEEDED:
        _say_missing(packed, what, f"--{what} packs them")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@progress_option
@json_option
def import_(file: Path, folder: Path, progress: bool | None, json: bool) -> None:
    """Make the new run folder DIR from FILE, which `rota export` made. Every digest in it is checked.

    `rota verify` and the other commands that read a run accept FILE itself, without an import.

    \b
    rota import friday.rota.zip friday
    rota up --dir friday
    """
    from rota.runs.export import import_run

    with _Steps(progress) as steps:
        packed = import_run(file, folder, progress=steps)
    _print(folder, packed, json)
    for what in _NEEDED:
        _say_missing(packed, what, f"export it again with --{what}, or copy them into the folder")


class _Steps(contextlib.ExitStack):
    """The progress of work in several steps, with one line for each."""

    def __init__(self, wanted: bool | None) -> None:
        super().__init__()
        self._wanted = wanted
        self._bars: dict[str, Progress] = {}

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if what not in self._bars:
            self.close()  # clears the line of the last step
            self._bars[what] = self.enter_context(Progress(self._wanted, what))
        self._bars[what](done, total)


def _print(made: Path, packed: Packed, json: bool) -> None:
    run, members = packed.manifest.run, packed.manifest.members
    facts: dict[str, Any] = {
        "made": str(made),
        "digest": bytes.fromhex(packed.seal),
        "rota": packed.manifest.rota,
        "size_bytes": sum(member.size_bytes for member in members),
    }
    if json:
        print_json({**facts, "run": run, "missing": packed.manifest.missing, "members": members})
        return
    print_facts({
        **facts,
        "records": run["last_record"] - run["first_record"] + 1 if run["last_record"] else 0,
        **{what: f"{_held(packed, what)} of {len(run[what])}" for what in _NEEDED},
        "conversations": f"{run['conversations']['heads'] - _lost_heads(packed)} of {run['conversations']['heads']}",
    })  # fmt: skip
    for one in packed.manifest.missing:
        if one["kind"] == "conversation":
            heads = f"{counted(int(one['count']), 'head')} of conversations that the run names, or a part of them"
            click.echo(f"not there: {heads}; the first is {one['digest']}", err=True)
    for lane in run["lanes"]:
        click.echo(f"lane {lane['lane']}: {lane['retired']} retired, digest {cell(lane['digest'], full=True)}")


def _held(packed: Packed, what: str) -> int:
    return len(packed.manifest.run[what]) - sum(one["kind"] == what[:-1] for one in packed.manifest.missing)


def _lost_heads(packed: Packed) -> int:
    return sum(int(one["count"]) for one in packed.manifest.missing if one["kind"] == "conversation")


def _say_missing(packed: Packed, what: str, remedy: str) -> None:
    """Print what is missing to run this again."""
    missing = [one for one in packed.manifest.missing if one["kind"] == what[:-1]]
    gone = sum(one["why"] == "not there" for one in missing)
    if gone:
        click.echo(f"not there: {counted(gone, what[:-1])} that the run names (--json lists them)", err=True)
    if len(missing) > gone:
        click.echo(f"not packed: {counted(len(missing) - gone, what[:-1])} that the run names; {remedy}", err=True)
