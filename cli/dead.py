"""`rota dead`: lists, retries and drops dead tasks."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

import click

from rota.cli.common_options import (
    Connection,
    Number,
    Whole,
    broker_options,
    json_option,
    lane_option,
    limit_option,
    option,
)
from rota.cli.exits import ExitCode
from rota.cli.output import Progress, cell, print_facts, print_json, print_table
from rota.cli.submit import print_outcome
from rota.cli.waiting import not_there_yet, noticed
from rota.common.errors import UnknownTask
from rota.common.work import failure_text
from rota.runs.readable import readable

if TYPE_CHECKING:
    from rota.client.client import Handle
    from rota.common.results import Result

_PAYLOAD_CHARS: Final = 1_000


@click.group()
def dead() -> None:
    """List dead tasks, run them again, or drop them.

    A task that fails for good is dead: it is kept with its failure, its payload and its log.

    \b
    rota dead ls
    rota dead show 17
    rota dead retry 17 --wait
    """


@dead.command("ls")
@lane_option
@limit_option
@json_option
@broker_options
def ls(connection: Connection, lane: str, limit: int, json: bool) -> None:
    """List the dead tasks of a lane, oldest first.

    \b
    rota dead ls --lane import
    """
    with connection.open() as client:
        rows = client.query("dead", lane=lane, limit=limit)
    if json:
        print_json(rows)
    else:
        columns = ("seq", "turn", "target", "kind", "message", "attempts", "priority")
        print_table([_readable(row) for row in rows], columns, f"no dead tasks in lane {lane}")


@dead.command()
@click.argument("seq", type=Whole(1))
@lane_option
@json_option
@broker_options
def show(connection: Connection, seq: int, lane: str, json: bool) -> None:
    """Show all facts of one dead task.

    \b
    rota dead show 17
    """
    with connection.open() as client:
        (row,) = client.query("dead", lane=lane, seq=seq)
    if json:
        print_json(row)
        return
    print_facts({name: value for name, value in _readable(row).items() if name != "log"})
    for line in row["log"]:
        click.echo(f"log: {cell(line, full=True)}")


@dead.command()
@click.argument("seqs", metavar="SEQ...", type=Whole(1), nargs=-1, required=True)
@lane_option
@option("--wait", is_flag=True, help="Wait for the results and print them.")
@option(
    "--wait-timeout",
    type=Number(0),
    metavar="SECONDS",
    help="With --wait: stop waiting after so long, and print the seqs that are still to come. The tasks stay.",
)
@json_option
@broker_options
def retry(
    connection: Connection, seqs: tuple[int, ...], lane: str, wait: bool, wait_timeout: float | None, json: bool
) -> int:  # fmt: skip
    """Run dead tasks again, as new tasks with the same target and payload; prints their seqs.

    They come from you. What was an ask is asked again: the answer is yours, since whoever asked has had its own.

    \b
    rota dead retry 17 18 --wait
    """
    failed = 0
    end = math.inf if wait_timeout is None else time.monotonic() + wait_timeout
    with connection.open() as client:
        handles = [(seq, client.retry(seq, lane=lane, wait=wait)) for seq in seqs]
        for place, (seq, handle) in enumerate(handles):
            if wait:
                try:
                    outcome = _outcome(connection, lane, handle, max(end - time.monotonic(), 0))
                except TimeoutError:
                    raise TimeoutError(not_there_yet([one.seq for _, one in handles[place:]])) from None
                failed += not print_outcome(outcome, json, in_lines=len(seqs) > 1)
            elif json:
                print_json({"retry_of": seq, "seq": handle.seq})
            else:
                click.echo(cell(handle.seq))
    return ExitCode.FAILED if failed else ExitCode.OK


def _outcome(connection: Connection, lane: str, handle: Handle, seconds: float) -> Result:
    """Wait so long for the outcome of a task. Raises `TimeoutError`."""
    with noticed(connection, lane, Progress(False, ""), lambda: handle.seq):
        return handle.outcome(seconds)


@dead.command()
@click.argument("seqs", metavar="[SEQ...]", type=Whole(1), nargs=-1)
@option("--all", "every", is_flag=True, help="Drop all dead tasks of the lane.")
@lane_option
@json_option
@broker_options
def drop(connection: Connection, seqs: tuple[int, ...], every: bool, lane: str, json: bool) -> None:
    """Drop dead tasks: those named, or all with --all.

    \b
    rota dead drop 17
    rota dead drop --all --lane import
    """
    if bool(seqs) == every:
        raise click.UsageError("name the tasks to drop, or say --all")
    with connection.open() as client:
        dropped = client.dead_drop(lane, seqs)
    if seqs and not dropped:
        raise UnknownTask(f"lane {lane!r} has no dead task {', '.join(str(seq) for seq in seqs)}")
    if json:
        print_json({"dropped": dropped})
    else:
        click.echo(f"dropped {dropped}")


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """Return a dead task for people. 0 attempts: an earlier broker dispatched it; its count is not kept."""
    said = failure_text(row["kind"], row["message"], row.get("log", ()))
    facts = {**row, "message": said, "attempts": row["attempts"] or None}
    if isinstance(row.get("payload"), bytes):
        facts["payload"] = str(readable(row["payload"], _PAYLOAD_CHARS))
    return facts
