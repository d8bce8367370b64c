"""Binds and removes versions of models: `rota model deploy`, `rota model rm`, and what `add` shares with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click

from rota.cli.common_options import Connection, Whole, broker_options, json_option, lane_option, option
from rota.cli.model_options import models_option, repository_of
from rota.cli.output import Progress, print_facts, print_json
from rota.cli.waiting import noticed, tell_if_no_worker, wait_option
from rota.common.errors import CodeError, NotReachable
from rota.common.targets import MODEL_PREFIX

if TYPE_CHECKING:
    from rota.common.work import Limits
    from rota.gpu_worker.repository import ModelEntry

TEXT_TIMEOUT_MS = 600_000  # hundreds of tokens, in all slots, on a processor


class BindOptions(TypedDict):
    """The options of a command that binds a model."""

    lane: str
    recorded: bool
    check: bool
    wait: bool
    timeout_ms: int | None


def bind_options(command: Any) -> Any:
    """Add the options of `BindOptions`."""
    for add_option in (
        option(
            "--timeout-ms",
            type=Whole(1),
            default=None,
            help="How long a task may run: 10 s, a text 600 s.",
        ),
        wait_option,
        option("--check/--no-check", default=True, help="Have a GPU worker load it before the deploy takes effect."),
        option("--recorded", is_flag=True, help="Accept results that a repetition might not give again (class D)."),
        lane_option,
    ):
        command = add_option(command)
    return command


def limits_of(entry: ModelEntry, timeout_ms: int | None) -> Limits | None:
    """Return the limits of a model's tasks, None for the default ones: a text takes longer than other calls."""
    from rota.common.work import Limits

    if timeout_ms is None and entry.settings().task == "generate":
        timeout_ms = TEXT_TIMEOUT_MS
    return None if timeout_ms is None else Limits()._replace(timeout_ms=timeout_ms)


def bound(connection: Connection, name: str, entry: ModelEntry, options: BindOptions) -> dict[str, Any]:
    """Bind model:NAME (or NAME@VERSION) in a lane to a version; return what the worker says of it."""
    from rota.common.code_kinds import KINDS
    from rota.common.work import MODEL

    check, lane = options["check"], options["lane"]
    code_limits = limits_of(entry, options["timeout_ms"])
    with connection.open() as client:
        if check:
            tell_if_no_worker(client, connection, KINDS[MODEL].pool, name, wait=options["wait"])
        with noticed(connection, lane, Progress(False, "")):
            info = client.deploy_model(
                name, entry.digest, recorded=options["recorded"], code_limits=code_limits, lane=lane, check=check
            )
    if info:  # a worker may have loaded the same bytes under another name
        info = {**info, "model": entry.name, "version": entry.version}
    return {"deployed": True, "target": f"{MODEL_PREFIX}{name}", "lane": lane, **info}


@click.command()
@click.argument("model")
@option("--version", type=Whole(1), help="Bind the name without a version to this version, as to go back to it.")
@bind_options
@models_option
@json_option
@broker_options
def deploy(
    connection: Connection, model: str, version: int | None, models: Path | None, json: bool,
    **options: Unpack[BindOptions],
) -> None:  # fmt: skip
    """Bind model:MODEL in a lane to a version that is in the repository.

    MODEL is NAME, bound to the newest version or to --version, or NAME@VERSION, a name that always means that version.

    \b
    rota model deploy digits
    rota model deploy digits --version 2
    rota model deploy digits@2 --lane trial
    """
    from rota.gpu_worker.repository import parse_reference

    name, named_version = parse_reference(model)
    if version is not None and named_version is not None:
        raise click.UsageError(f"{model} names a version already: give --version with the name alone")
    entry = repository_of(connection.folder, models).show(name, named_version or version)
    reference = name if named_version is None else f"{name}@{named_version}"
    facts = {"name": name, "version": entry.version, "digest": entry.digest}
    print_model({**facts, **bound(connection, reference, entry, options)}, json)


@click.command()
@click.argument("model")
@option("--force", is_flag=True, help="Also if names are bound to it: their tasks are then refused.")
@models_option
@json_option
@broker_options
def rm(connection: Connection, model: str, force: bool, models: Path | None, json: bool) -> None:
    """Remove MODEL, NAME@VERSION or all versions of NAME, with its certificates.

    Refused while a lane binds a version or has unfinished tasks of it: the broker is asked, or the run file is read. A
    name with a version stays bound to it, so that such a version needs --force. Version numbers are not given again.
    `rota verify` cannot execute the turns of a removed version again.

    \b
    rota model rm digits@1
    rota model rm digits
    """
    from rota.gpu_worker.repository import ModelEntry, parse_reference

    repository = repository_of(connection.folder, models)
    name, version = parse_reference(model)
    every = list(repository.entries())
    entries = [one for one in every if one.name == name and version in (None, one.version)]
    if not entries:
        repository.named(model)  # says what is missing
    kept = [one.digest for one in every if isinstance(one, ModelEntry) and one not in entries]
    for one in entries:
        if isinstance(one, ModelEntry) and one.digest not in kept:
            _check_unused(connection, name, one.digest, force=force)
    for one in entries:
        repository.remove(name, one.version)
    print_model({"name": name, "removed": [one.version for one in entries]}, json)


def _check_unused(connection: Connection, name: str, digest: bytes, *, force: bool) -> None:
    """Raise `CodeError` if a lane still needs a model. With `force`, only its unfinished tasks count."""
    uses = _uses(connection, digest)
    bindings = [f"{target} in lane {use['lane']}" for use in uses for target in use["names"]]
    tasks = sum(use["tasks"] for use in uses)
    title = f"model {name} ({digest.hex()[:16]}) is in use"
    if tasks:
        raise CodeError(f"{title}: {tasks} unfinished tasks run it: wait for them, or cancel them, then try again")
    if bindings and not force:
        raise CodeError(
            f"{title}: it is bound as {', '.join(bindings[:5])}: bind the name to another version (`rota model "
            "deploy`), or give --force, after which tasks of these names are refused"
        )


def _uses(connection: Connection, digest: bytes) -> Sequence[Mapping[str, Any]]:
    """Return the lanes that need a model: from the broker, or from the run file if none answers."""
    try:
        with connection.open() as client:
            found: list[Mapping[str, Any]] = client.query("uses", digest=digest.hex())
            return found
    except (NotReachable, TimeoutError):
        if connection.bind is not None:
            raise  # the run file may be another one's
    from rota.broker.code_uses import code_uses
    from rota.runs.open import open_run
    from rota.runs.walk import Walk

    if not connection.run_folder().journal.exists():
        return []
    with open_run(connection.folder) as source:
        walk = Walk(source.near(source.extent()[1]))
        for _ in walk.steps():
            pass
        return code_uses(walk.world, digest)


def print_model(facts: dict[str, Any], json: bool) -> None:
    """Print what was done with a model, and what a worker said of it."""
    if json:
        print_json(facts)
    else:
        print_facts({("why_this_provider" if name == "reason" else name): value for name, value in facts.items()})
