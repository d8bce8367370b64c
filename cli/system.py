"""`rota status`, `agents`, `workers`, `drain`, `events`, `version`, `completion`."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

import click
from click.shell_completion import get_completion_class

from rota.cli.common_options import (
    Connection,
    Number,
    broker_options,
    json_option,
    lane_option,
    limit_option,
    option,
    progress_option,
)
from rota.cli.model_numbers import print_models
from rota.cli.output import Progress, cell, clock_text, duration_text, print_facts, print_json, print_table
from rota.cli.waiting import noticed, tell_open_asks
from rota.common.errors import ConfigError
from rota.common.events import TOPICS
from rota.common.limits import PROTOCOL_VERSION

PACKAGES = (
    "pyzmq",
    "msgpack",
    "msgspec",
    "numpy",
    "click",
    "blake3",
    "wasmtime",
    "onnxruntime",
    "onnxruntime-gpu",
    "ml_dtypes",
)


@click.command()
@json_option
@broker_options
def status(connection: Connection, json: bool) -> None:
    """Show the numbers of the broker, its lanes and workers.

    \b
    rota status
    rota status --json
    """
    with connection.open() as client:
        facts = client.status()
    if json:
        print_json(facts)
        return
    lanes, workers = facts.pop("lanes"), [_about_worker(one) for one in facts.pop("workers")]
    print_facts(_readable(facts))
    click.echo()
    print_table(lanes, ("lane", "paused", "waiting", "line", "asks", "retired", "failed", "dead", "digest"), "no lanes")
    click.echo()
    print_table(workers, ("worker", "pool", "models_on", "held_tasks", "state", "silent"), "no workers")
    _tell_fallbacks(workers)
    print_models(workers)


@click.command()
@lane_option
@option("--name", metavar="NAME|ADDRESS", help="Only agents of this name, or the one with this address.")
@option("--deploys", is_flag=True, help="List the deployed names and their code instead.")
@limit_option
@json_option
@broker_options
def agents(connection: Connection, lane: str, name: str | None, deploys: bool, limit: int, json: bool) -> None:
    """List the agents of a lane that have run, with the size and digest of their states.

    \b
    rota agents --name counter
    rota agents --deploys
    """
    with connection.open() as client:
        if deploys:
            rows = client.query("deploys", lane=lane)
        else:
            rows = client.query("agents", lane=lane, name=name, limit=limit)
    if json:
        print_json(rows)
    elif deploys:
        print_table(rows, ("name", "kind", "flow", "reuse", "digest"), f"no names are bound in lane {lane}")
    else:
        named = "" if name is None else f" named {name}"
        print_table(rows, ("address", "completed", "state_bytes", "state_digest"), f"no agents{named} in lane {lane}")


@click.command()
@json_option
@broker_options
def workers(connection: Connection, json: bool) -> None:
    """List the workers and what they run.

    \b
    rota workers
    """
    with connection.open() as client:
        rows = client.query("workers")
    if json:
        print_json(rows)
        return
    shown = [_about_worker(row) for row in rows]
    columns = ("worker", "pool", "models_on", "pid", "held_tasks", "slots", "state", "silent", "runs")
    print_table(shown, columns, "no workers")
    _tell_fallbacks(shown)
    print_models(shown)


@click.command()
@option("--off", is_flag=True, help="Accept tasks again.")
@option("--wait", is_flag=True, help="Wait until no lane has anything to do.")
@progress_option
@json_option
@broker_options
def drain(connection: Connection, off: bool, wait: bool, progress: bool | None, json: bool) -> None:
    """Make the broker refuse new tasks from producers; accepted ones are finished.

    \b
    rota drain --wait
    rota drain --off
    """
    if off and wait:
        raise click.UsageError("--off and --wait exclude each other")
    with connection.open() as client:
        client.drain(not off)
        if wait:
            with Progress(progress, "retired") as bar:
                for lane in client.query("lanes"):
                    if lane["paused"]:
                        continue
                    with noticed(connection, lane["lane"], bar):
                        idle = client.wait_idle(
                            lane["lane"], progress=lambda facts: bar(facts["retired"], facts["stamped"])
                        )
                    bar.clear()
                    tell_open_asks(idle)
    if json:
        print_json({"draining": not off})
    else:
        click.echo("taking tasks" if off else "drained" if wait else "draining")


@click.command()
@option(
    "--topic",
    "topics",
    type=click.Choice(TOPICS),
    multiple=True,
    help="Only events of this topic; may be given several times.",
)
@option(
    "--for",
    "seconds",
    type=Number(0.001),
    metavar="SECONDS",
    help="End after so long without an event.",
)
@json_option
@broker_options
def events(connection: Connection, topics: tuple[str, ...], seconds: float | None, json: bool) -> None:
    """Follow the broker's events, one per line, until interrupted.

    \b
    rota events --topic worker --topic lane
    rota events --json | jq .fields
    """
    with connection.open() as client:
        for event in client.events(topics, timeout_s=seconds):
            if json:
                print_json(_event_facts(event))
            else:
                click.echo(_event_line(event))
            sys.stdout.flush()


@click.command()
@json_option
def version(json: bool) -> None:
    """Print the versions of Rota, its protocol, Python and the packages that it uses.

    \b
    rota version --json
    """
    facts = versions()
    if json:
        print_json(facts)
    else:
        print_facts(facts)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    eval "$(rota completion bash)"                               in ~/.bashrc
    eval "$(rota completion zsh)"                                in ~/.zshrc
    rota completion fish > ~/.config/fish/completions/rota.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    try:
        script = found(context.find_root().command, {}, "rota", "_ROTA_COMPLETE").source()
    except RuntimeError as error:  # click checks the shell's version and needs bash 4.4
        raise ConfigError(f"no completion for {shell} here: {error}") from error
    click.echo(script)


def _readable(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of the broker for people: with readable times, and without empty values."""
    shown: dict[str, Any] = {}
    for name, value in facts.items():
        if name == "now_ms":
            shown["now"] = clock_text(value)
        elif name == "queued":
            shown |= {f"queued_{pool}": tasks for pool, tasks in value.items()}
        else:
            shown[name] = None if value == "" else value
    return shown


def _about_worker(row: dict[str, Any]) -> dict[str, Any]:
    """Return a worker for people, with the device on which it runs models."""
    return {
        **row,
        "models_on": row["fingerprint"].get("provider"),
        "why": row["fingerprint"].get("reason"),
        "state": _state_of(row),
        "silent": duration_text(row["silent_ms"]),
        "runs": ", ".join(f"{one['tasks']} x {one['first']}" for one in row["running"]) or None,
    }


def _state_of(row: dict[str, Any]) -> str:
    """Return what a worker is doing besides its tasks, in a few words."""
    if row["stuck"]:
        return "stuck in a task that does not stop"
    preparing = ", ".join(f"{address} for {duration_text(ms)}" for address, ms in row["preparing"])
    said = ["draining"] if row["draining"] else []
    return ", ".join([*said, *([f"preparing {preparing}"] if preparing else [])]) or "ready"


def _tell_fallbacks(workers: list[dict[str, Any]]) -> None:
    """Print why models run on the CPU if they do, since the bits differ there."""
    for worker in workers:
        if worker["why"]:
            click.echo(f"{worker['worker']} runs models on the {worker['models_on'].upper()}: {worker['why']}")


def versions() -> dict[str, Any]:
    """Return all versions that a bug report should name."""
    facts = {"rota": _version_of("rota"), "protocol": PROTOCOL_VERSION, "python": platform.python_version()}
    for package in PACKAGES:
        facts[package] = _version_of(package)
    return facts | {"platform": platform.platform()}


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _event_line(event: Any) -> str:
    if not hasattr(event, "topic"):
        missed = "an unknown number of" if event.events is None else event.events
        return f"-- {missed} events missed (boot {event.boot}) --"
    fields = " ".join(f"{name}={cell(value, name)}" for name, value in event.what.fields.items())
    head = f"{clock_text(event.now_ms)} {event.event} {event.topic} {event.lane or '-'}"
    return f"{head} {event.what.label} {fields}".rstrip()


def _event_facts(event: Any) -> dict[str, Any]:
    if not hasattr(event, "topic"):
        return dict(event._asdict())
    facts = {"boot": event.boot, "event": event.event, "now_ms": event.now_ms, "topic": event.topic, "lane": event.lane}
    return {**facts, "kind": event.what.label, "fields": event.what.fields}
