"""`rota ask`: sends tasks and prints their final answers. `rota asks`: what is open, and who waits for whom."""

from __future__ import annotations

from typing import Any, Final

import click

from rota.cli.common_options import (
    Connection,
    Duration,
    Number,
    Whole,
    broker_options,
    json_option,
    lane_option,
    limit_option,
    option,
)
from rota.cli.output import clock_text, counted, duration_text, print_json, print_table
from rota.cli.submit import send_tasks, task_options
from rota.common.limits import DELAY_MS_MAX
from rota.common.work import ASK

_COLUMNS: Final = ("seq", "turn", "asker", "owner", "state", "age", "due", "waits_for")
_WAITS_SHOWN_MAX: Final = 4
_LONGEST_SECONDS: Final = DELAY_MS_MAX / 1_000


@click.command()
@task_options
@option("--wait/--no-wait", default=True, help="Wait for the answers and print them, in order, or print the seqs.")
@option(
    "--wait-timeout",
    type=Number(0),
    metavar="SECONDS",
    help="Stop waiting after so long, and print the seqs that are still to come. The asks stay.",
)
@option(
    "--deadline",
    "deadline_s",
    type=Duration(0.001, _LONGEST_SECONDS),
    metavar="TIME",
    help="Without an answer after so long, the ask fails with `expired`: 90, 30s, 5m, 2h, 7d.",
)
def ask(connection: Connection, **given: Any) -> int:
    """Ask TARGET (name/key, name or model:NAME), and print the final answer.

    It may come from another agent, or much later than the task itself has ended. Ctrl-C ends the wait, not the ask:
    `rota result SEQ` has its answer later. PAYLOAD and what is printed are as with `rota submit --wait`.

    \b
    rota ask planner "three days in Lisbon"
    rota ask desk/alice --file question.txt --deadline 10m
    rota ask desk/alice hello --no-wait
    """
    return send_tasks(connection, "ask_many", **given)


@click.command()
@lane_option
@option(
    "--older",
    type=Duration(0, _LONGEST_SECONDS),
    metavar="TIME",
    help="Only those that are open for longer: 90, 30s, 5m, 2h.",
)
@option("--after", type=Whole(1), metavar="TURN", help="Only those of later turns: the next page of a long list.")
@limit_option
@json_option
@broker_options
def asks(connection: Connection, lane: str, older: float | None, after: int | None, limit: int, json: bool) -> None:
    """List the asks of a lane that are open: who asked, who owes the answer, for how long, and what that waits for.

    Below the list stand the cycles: agents and flows that wait for each other. An ask whose asker has its answer
    already, by a cancel or a deadline, is `ended`; whoever owed it was not told.

    \b
    rota asks
    rota asks --older 5m --json
    """
    older_ms = None if older is None else round(1_000 * older)
    with connection.open() as client:
        found = client.query("asks", lane=lane, older_ms=older_ms, after=after, limit=limit)
    if json:
        print_json(found)
        return
    rows = [_readable(row, found["now_ms"]) for row in found["asks"]]
    print_table(rows, _COLUMNS, f"no asks are open in lane {lane}" + ("" if older is None else " for so long"))
    for cycle in found["cycles"]:
        click.echo(f"cycle: {' -> '.join([*cycle, cycle[0]])}")
    if found["next"] is not None:
        click.echo(f"{counted(found['open'], 'ask')} are open: `rota asks --after {found['next']}` goes on", err=True)
    if not found["searched"]:
        click.echo("there are too many messages to look for cycles", err=True)


def _readable(row: dict[str, Any], now_ms: int) -> dict[str, Any]:
    """Return an open ask for people."""
    due_ms = row["due_ms"]
    return {
        **row,
        "asker": _asker(row),
        "age": None if row["age_ms"] is None else duration_text(row["age_ms"]),
        "due": None if due_ms is None else f"in {duration_text(due_ms - now_ms)}" if due_ms > now_ms else "now",
        "waits_for": _waits_text(row),
    }


def _asker(row: dict[str, Any]) -> str | None:
    if row["state"] == "ended":
        return None
    if row["sender"] is None:
        return "outside"
    note = " (ended)" if row["sender_ended"] else "" if row["kind"] == ASK else " (told)"
    return f"{row['sender']}{note}"


def _waits_text(row: dict[str, Any]) -> str | None:
    """Return in a few words what an owner waits for."""
    asked = [f"turn {turn} {address}" for turn, address in row["waits_for"][:_WAITS_SHOWN_MAX]]
    if len(row["waits_for"]) > _WAITS_SHOWN_MAX or row["more"]:
        asked.append("and more")
    asked += [f"a timer, {clock_text(row['timer_ms'])}"] if row["timer_ms"] is not None else []
    said = ", ".join(asked)
    return f"{said} at {row['waits']}" if row["waits"] and said else said or row["waits"] or None
