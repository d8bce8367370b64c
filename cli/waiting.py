"""Tells a user whose command waits what it waits for: a worker, the release of a lane, or the broker."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from rota.cli.common_options import Connection, option
from rota.cli.exits import ExitCode
from rota.cli.output import Progress, counted
from rota.common import limits
from rota.common.errors import NotReachable, RotaError
from rota.common.targets import DEFAULT_LANE

if TYPE_CHECKING:
    from rota.client.client import Client
    from rota.client.generation import Generation


Command = TypeVar("Command", bound=Callable[..., Any])

_NOTICE_SECONDS: Final = 2.0  # between two looks at what a wait waits for
_PREPARATIONS_SHOWN_MAX: Final = 4
_ENDS: Final = (KeyboardInterrupt, SystemExit, BrokenPipeError)
_ANSWER_SECONDS: Final = 1.0  # for a look; also the longest delay of the end of a wait


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


@contextlib.contextmanager
def noticed(
    connection: Connection, lane: str, bar: Progress, seq: Callable[[], int | None] = lambda: None
) -> Iterator[None]:
    """Say on stderr what the wait in this block waits for, if that is known: after some seconds, and when it changes.

    A thread looks with a client of its own, because the caller's is busy waiting. `seq`: the task that it waits for.
    """
    ended = threading.Event()
    looking = threading.Thread(target=_notice, args=(connection, lane, bar, ended, seq), daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


@contextlib.contextmanager
def cancelled_at_end(generation: Generation, ends: tuple[type[BaseException], ...] = _ENDS) -> Iterator[None]:
    """Cancel an answer if this command ends meanwhile: by Ctrl-C, SIGTERM, or since nobody reads what it prints."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except ends:
        if generation.cancel():
            with contextlib.suppress(BrokenPipeError):
                click.echo(f"task {generation.seq} is cancelled", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(ExitCode.TERMINATED)


def _notice(
    connection: Connection, lane: str, bar: Progress, ended: threading.Event, seq: Callable[[], int | None]
) -> None:
    said = ""
    with Connection(connection.folder, connection.bind, _ANSWER_SECONDS).open() as client:
        while not ended.wait(_NOTICE_SECONDS):
            why = _obstacle(client, lane) or _owed(client, seq())
            if why and why != said and not ended.is_set():
                bar.clear()
                click.echo(f"waiting: {why}", err=True)
            said = why


def _obstacle(client: Client, lane: str) -> str:
    """Return what keeps the tasks of a lane from going on, or an empty text."""
    try:
        facts = client.status()
    except (NotReachable, TimeoutError):
        return "the broker does not answer; still trying"
    except RotaError:
        return ""  # the waiting command meets it too, and ends with it
    numbers = next((one for one in facts["lanes"] if one["lane"] == lane), None)
    if numbers is None:
        return ""
    if numbers["paused"] and numbers["waiting"]:
        return f"lane {lane} is paused: `rota release {lane}` lets it go on"
    there = {worker["pool"] for worker in facts["workers"] if not worker["draining"]}
    for pool, tasks in facts["queued"].items():
        if tasks and numbers["line"] and pool not in there:
            return f"no {pool} worker is there: start one with `rota {pool}-worker`"
    return _preparations(facts["workers"])


def _owed(client: Client, seq: int | None) -> str:
    """Return who owes the answer of a pending task, or an empty text."""
    if seq is None:
        return ""
    try:
        facts = client.query("task", seq=seq)
    except (RotaError, TimeoutError):
        return ""  # the waiting command meets it too
    if "owner" not in facts:
        return ""
    return f"{facts['owner']} owes the answer of task {seq}: {_asks(facts['lane'])} says since when"


def _asks(lane: str) -> str:
    """Return the command that lists the open asks of a lane."""
    return "`rota asks`" if lane == DEFAULT_LANE else f"`rota asks --lane {lane}`"


def _preparations(workers: Sequence[dict[str, Any]]) -> str:
    """Return what workers compile or load, or an empty text."""
    there = {
        f"{worker['worker']} {'loads and certifies' if address.startswith('model:') else 'compiles'} {address}": None
        for worker in workers
        for address, _ in worker["preparing"]
    }
    return ", ".join(list(there)[:_PREPARATIONS_SHOWN_MAX])


def tell_open_asks(numbers: Mapping[str, Any]) -> None:
    """Say on stderr how many asks are open in a lane that is idle, by its numbers."""
    if numbers["asks"]:
        lane = numbers["lane"]
        open_asks = counted(numbers["asks"], "ask")
        click.echo(f"lane {lane} is idle with {open_asks} open: {_asks(lane)} says who owes them", err=True)


def not_there_yet(seqs: Sequence[int]) -> str:
    """Return how to get the outcomes of tasks that are no longer waited for."""
    if len(seqs) == 1:
        return f"task {seqs[0]} has no outcome yet: `rota result {seqs[0]} --wait` waits for it"
    return f"{len(seqs)} tasks from {seqs[0]} to {seqs[-1]} have no outcome yet: `rota result SEQ --wait` waits for one"
