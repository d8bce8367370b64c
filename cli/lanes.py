"""`rota lanes`, `rota lane`, `rota pause`, `rota release`, `rota digest`."""

from __future__ import annotations

import click

from rota.cli.common_options import (
    ByteCount,
    Connection,
    Number,
    Whole,
    broker_options,
    json_option,
    lane_option,
    option,
    progress_option,
)
from rota.cli.output import Progress, cell, print_json, print_table
from rota.cli.waiting import noticed, tell_open_asks
from rota.common import limits
from rota.runs.readable import size_text

_COLUMNS = (
    "lane",
    "policy",
    "window",
    "paused",
    "waiting",
    "line",
    "asks",
    "retired",
    "failed",
    "dead",
    "agents",
    "digest",
)
_SIZES = ("task_bytes", "timer_bytes", "ask_bytes", "state_bytes", "reserved_bytes", "bytes_max", "dead_bytes")


@click.command()
@option("--bytes", "sizes", is_flag=True, help="What fills each lane's budget, and how many agents it has.")
@json_option
@broker_options
def lanes(connection: Connection, sizes: bool, json: bool) -> None:
    """List the lanes.

    \b
    rota lanes
    rota lanes --bytes
    """
    with connection.open() as client:
        rows = client.query("lanes")
    if json:
        print_json(rows)
    else:
        if sizes:
            rows = [{**row, **{name: size_text(row[name]) for name in _SIZES}} for row in rows]
        print_table(rows, ("lane", *_SIZES, "agents", "agents_max") if sizes else _COLUMNS, "no lanes")


@click.group()
def lane() -> None:
    """Open or change a lane.

    \b
    rota lane open import --paused --window 64
    rota lane window import 256
    """


@lane.command("open")
@click.argument("name")
@option("--paused", is_flag=True, help="Issue nothing until `rota release NAME`.")
@option(
    "--window",
    type=Whole(1, limits.WINDOW_TASKS_MAX),
    default=limits.WINDOW_TASKS_DEFAULT,
    help="How many issued tasks the lane can hold.",
)
@option(
    "--policy",
    type=click.Choice(["derived", "recorded"]),
    default="derived",
    help="Retire in line order (derived), or in the order of completion (recorded).",
)
@option(
    "--tasks-max",
    type=Whole(1),
    default=limits.LANE_TASKS_DEFAULT,
    help="How many unfinished tasks the lane takes before it is busy.",
)
@option(
    "--bytes-max",
    type=ByteCount(limits.LANE_BYTES_MIN, limits.LANE_BYTES_MAX),
    default=limits.LANE_BYTES_DEFAULT,
    metavar="BYTES",
    help="Its budget in bytes for tasks, timers and states.",
)
@option(
    "--agents-max",
    type=Whole(1, limits.LANE_AGENTS_MAX),
    default=limits.LANE_AGENTS_DEFAULT,
    help="How many agents it may have.",
)
@option(
    "--starvation-passes",
    type=Whole(1),
    default=limits.STARVATION_PASSES_DEFAULT,
    help="How often tasks of higher priority may pass a task over.",
)
@option("--seed", metavar="HEX", help="32 bytes of entropy as hex; default: the digest of the lane's name.")
@option(
    "--deploys-from",
    default="main",
    metavar="LANE",
    help="Start with the bindings of that lane; empty: with none.",
)
@json_option
@broker_options
def open_(
    connection: Connection, name: str, paused: bool, window: int, policy: str, tasks_max: int, bytes_max: int,
    agents_max: int, starvation_passes: int, seed: str | None, deploys_from: str, json: bool,
) -> None:  # fmt: skip
    """Open the lane NAME.

    \b
    rota lane open import --paused --window 64
    rota lane open experiment --seed $(printf '%064x' 7) --deploys-from ''
    """
    with connection.open() as client:
        client.open_lane(
            name, paused=paused, policy=policy, window=window, tasks_max=tasks_max, bytes_max=bytes_max,
            agents_max=agents_max, starvation_passes=starvation_passes, seed=seed_of(seed),
            deploys_from=deploys_from or None,
        )  # fmt: skip
    if json:
        print_json({"lane": name, "paused": paused})
    else:
        click.echo(f"lane {name} open" + (", paused" if paused else ""))


@lane.command("window")
@click.argument("name")
@click.argument("window", type=Whole(1, limits.WINDOW_TASKS_MAX))
@broker_options
def window_(connection: Connection, name: str, window: int) -> None:
    """Change the WINDOW of the lane NAME: how many issued tasks it can hold.

    \b
    rota lane window import 256
    """
    with connection.open() as client:
        client.set_window(name, window)
    click.echo(f"lane {name} has window {window}")


@lane.command("wait")
@click.argument("name")
@option("--wait-timeout", type=Number(0), metavar="SECONDS", help="Stop waiting after so long.")
@progress_option
@json_option
@broker_options
def wait_(connection: Connection, name: str, wait_timeout: float | None, progress: bool | None, json: bool) -> None:
    """Wait until the lane NAME has nothing to do; prints its digest.

    \b
    rota lane wait import --progress
    """
    with connection.open() as client, Progress(progress, "retired") as bar, noticed(connection, name, bar):
        numbers = client.wait_idle(
            name, timeout_s=wait_timeout, progress=lambda facts: bar(facts["retired"], facts["stamped"])
        )
    if json:
        print_json(numbers)
    else:
        tell_open_asks(numbers)
        click.echo(cell(numbers["digest"], "digest", full=True))


@click.command()
@click.argument("name", metavar="LANE")
@broker_options
def pause(connection: Connection, name: str) -> None:
    """Issue no more tasks of LANE until it is released. Issued tasks go on.

    \b
    rota pause import
    """
    with connection.open() as client:
        client.pause(name)
    click.echo(f"lane {name} paused")


@click.command()
@click.argument("name", metavar="LANE")
@broker_options
def release(connection: Connection, name: str) -> None:
    """Release the paused LANE.

    \b
    rota release import
    """
    with connection.open() as client:
        client.release(name)
    click.echo(f"lane {name} released")


@click.command()
@lane_option
@json_option
@broker_options
def digest(connection: Connection, lane: str, json: bool) -> None:
    """Print how many tasks a lane has retired, and the digest over all of them.

    Two runs did the same exactly when their digests are equal.

    \b
    rota digest --lane import
    """
    with connection.open() as client:
        facts = client.digest(lane)
    if json:
        print_json(facts)
    else:
        click.echo(f"{facts['retired']} {cell(facts['digest'], 'digest', full=True)}")


def seed_of(text: str | None) -> bytes | None:
    """Return the seed of an option; None if it was not given."""
    if text is None:
        return None
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != 32:
        raise click.BadParameter("a seed is 32 bytes, as 64 hex digits", param_hint="--seed")
    return seed
