"""`rota new agent`, `rota new flow` and `rota build`: projects in any language. They use no broker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from rota.cli.common_options import json_option, option
from rota.cli.output import print_facts, print_json


@click.group()
def new() -> None:
    """Make a new project.

    \b
    rota new agent planner --lang python
    rota new flow trip --lang python
    """


_lang_option = option(
    "--lang", "language", required=True, metavar="LANGUAGE", help="c, python, rust, ...; `?` lists them."
)
_in_option = option(
    "--in",
    "parent",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="The folder in which the project's folder is made.",
)


@new.command()
@click.argument("name", required=False)
@_lang_option
@_in_option
def agent(name: str | None, language: str, parent: Path) -> None:
    """Make the folder NAME with an agent that builds, and a test of it for pytest (`pip install pytest`).

    \b
    rota new agent planner --lang python
    rota new agent counter --lang rust --in agents
    """
    from rota.sdk.files import languages

    _make(name, language, parent, languages(), flow=False)


@new.command()
@click.argument("name", required=False)
@_lang_option
@_in_option
def flow(name: str | None, language: str, parent: Path) -> None:
    """Make the folder NAME with a flow, which asks and waits, and a test of it for pytest.

    \b
    rota new flow trip --lang python
    rota new flow order --lang javascript --in flows
    """
    from rota.sdk.projects import flow_languages

    _make(name, language, parent, flow_languages(), flow=True)


def _make(name: str | None, language: str, parent: Path, languages: Sequence[str], *, flow: bool) -> None:
    from rota.sdk.projects import new_project

    if language == "?":
        for one in languages:
            click.echo(one)
        return
    if name is None:
        raise click.UsageError("missing argument NAME")
    project = new_project(name, language, parent, flow=flow)
    test = next(path.name for path in sorted(project.folder.iterdir()) if path.name.startswith("test_"))
    click.echo(f"{project.folder}: {project.source} has the handler, {test} a test; `rota dev {project.folder}`")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@option("--update-sdk", is_flag=True, help="First bring the project's copy of the SDK up to this version of Rota.")
@option("--debug", is_flag=True, help="Keep the names of functions, for the stacks in logs.")
@option("--verbose", is_flag=True, help="Print the commands on stderr.")
@json_option
def build(folder: Path, update_sdk: bool, debug: bool, verbose: bool, json: bool) -> None:
    """Build the project in FOLDER, by default the current one. `rota.toml` there says how.

    \b
    rota build
    rota build agents/counter --update-sdk
    """
    from rota.sdk import building, projects

    project = projects.read_project(folder)
    if update_sdk:
        projects.update_sdk(project)
    tell_if_sdk_is_old(folder)
    began = time.monotonic()
    built = building.build(project, debug=debug, tell=_tell if verbose else None)
    file = built.path / built.entry
    facts = {
        "name": built.name,
        "file": str(file),
        "bytes": file.stat().st_size,
        "seconds": round(time.monotonic() - began, 2),
    }
    if json:
        print_json(facts)
    else:
        print_facts(facts)


def _tell(line: str) -> None:
    click.echo(line, err=True)


def tell_if_sdk_is_old(folder: Path) -> None:
    """Say on stderr that a project's copy of the SDK is not the one of this version."""
    from rota.sdk.projects import SDK, read_project, sdk_is_current

    if not sdk_is_current(read_project(folder)):
        click.echo(f"{folder / SDK} is not the SDK of this version: `rota build --update-sdk` replaces it", err=True)
