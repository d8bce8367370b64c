"""`rota ask`: sends tasks and prints their final answers."""

from __future__ import annotations

from typing import Any, Final

import click

from rota.cli.common_options import Connection, Duration, Number, option
from rota.cli.submit import send_tasks, task_options
from rota.common.limits import DELAY_MS_MAX

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
