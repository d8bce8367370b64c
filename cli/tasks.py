"""`rota result`, `rota cancel`, `rota tasks`: single tasks by seq, and lists of them."""

from __future__ import annotations

import math

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
from rota.cli.model_numbers import tell_provenances
from rota.cli.output import Progress, print_json, print_table
from rota.cli.submit import print_outcome
from rota.cli.waiting import not_there_yet, noticed

TASK_STATES = ("waiting", "ready", "running", "completed", "pending", "retired")

_COLUMNS = ("seq", "turn", "state", "target", "kind", "sender", "priority", "attempts", "payload_bytes", "failure")


@click.command()
@click.argument("seq", type=Whole(1))
@option(
    "--wait",
    type=Number(0),
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=0,
    default=None,
    help="Wait for a task without an outcome, so long; 0 or no number: as long as it takes. Default: do not wait.",
)
@json_option
@broker_options
def result(connection: Connection, seq: int, wait: float | None, json: bool) -> int:
    """Print the result of task SEQ.

    The exit code is 0 if the task succeeded, 1 if it failed, 75 if it has no outcome yet.

    \b
    rota result 17
    rota result 17 --wait
    rota result 17 --wait 60 --json
    """
    with connection.open() as client:
        facts = client.query("task", seq=seq)
        if wait is None and facts["state"] not in ("completed", "retired"):
            owed = f", owed by {facts['owner']}" if "owner" in facts else ""
            raise TimeoutError(f"task {seq} is {facts['state']}{owed}: no outcome yet; --wait waits for it")
        try:
            with noticed(connection, facts["lane"], Progress(False, ""), lambda: seq):
                outcome = client.outcome(seq, connection.timeout_s if wait is None else wait or math.inf)
        except TimeoutError:
            raise TimeoutError(not_there_yet([seq])) from None
    if outcome.provenance is not None and not json:
        tell_provenances([outcome.provenance])
    return ExitCode.OK if print_outcome(outcome, json) else ExitCode.FAILED


@click.command()
@click.argument("seq", type=Whole(1))
@json_option
@broker_options
def cancel(connection: Connection, seq: int, json: bool) -> int:
    """Cancel task SEQ if its outcome is not final; it then fails with `cancelled`.

    That of a pending task is not: its answer is still to come. With a call of a flow, what that had started is
    cancelled. The exit code is 0 if it was cancelled, 1 if its outcome was final.

    \b
    rota cancel 17
    """
    with connection.open() as client:
        caught = client.cancel(seq)
    if json:
        print_json({"seq": seq, "caught": caught})
    elif caught:
        click.echo(f"task {seq} cancelled")
    else:
        click.echo(f"the outcome of task {seq} is final; it cannot be cancelled", err=True)
    return ExitCode.OK if caught else ExitCode.FAILED


@click.command()
@lane_option
@option("--state", type=click.Choice(TASK_STATES), help="Only tasks in this state.")
@limit_option
@json_option
@broker_options
def tasks(connection: Connection, lane: str, state: str | None, limit: int, json: bool) -> None:
    """List tasks of a lane: those in the line, waiting ones, then those whose results are kept.

    \b
    rota tasks --state running
    rota tasks --lane import --limit 1000 --json
    """
    with connection.open() as client:
        rows = client.query("tasks", lane=lane, state=state, limit=limit)
    if json:
        print_json(rows)
    else:
        print_table(rows, _COLUMNS, f"no tasks in lane {lane}" + (f" are {state}" if state else ""))
