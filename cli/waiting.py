"""Tells a user whose deploy waits for a worker that there is none, and how to start one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rota.cli.common_options import Connection, option
from rota.common import limits

if TYPE_CHECKING:
    from rota.client.client import Client


Command = TypeVar("Command", bound=Callable[..., Any])


def wait_option(command: Command) -> Command:
    """Add --wait/--no-wait."""
    return option(
        "--wait/--no-wait", default=True, help="With --check: wait for a worker if there is none, or fail at once."
    )(command)


def tell_if_no_worker(client: Client, connection: Connection, pool: str, name: str, *, wait: bool) -> None:
    """Say on stderr that `name` waits for a worker to check it, if the pool has none.

    Without `wait`, raise `TimeoutError` instead, and send nothing.
    """
    if any(worker["pool"] == pool and not worker["draining"] for worker in client.query("workers")):
        return
    remedy = f"start one with `rota {pool}-worker`, or deploy with --no-check"
    if not wait:
        raise TimeoutError(f"no {pool} worker is there to look at {name}: {remedy}")
    wait_s = connection.timeout_s + limits.COMPILE_MS_MAX / 1_000
    click.echo(f"no {pool} worker is there: waiting up to {wait_s:.0f} s for one to look at {name}; {remedy}", err=True)
