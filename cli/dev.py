"""`rota dev`: builds a project at each change, deploys it into a lane of its own, and prints what the agent did."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from rota.cli.code import CPU
from rota.cli.common_options import Connection, broker_options, option
from rota.cli.output import Progress
from rota.cli.waiting import noticed, tell_if_no_worker
from rota.common.errors import CodeError, ConfigError
from rota.runs.readable import readable, size_text

if TYPE_CHECKING:
    from rota.broker.tasks import Task
    from rota.client.client import Client

_POLL_SECONDS: Final = 0.2
_SHOWN_CHARS: Final = 200  # of a payload or a result
# What builds and tools write, and what is no part of an agent.
_NOT_WATCHED: Final = ("build", "node_modules", "target", "__pycache__")
_FILES_MAX: Final = 10_000
_Bound = tuple[str, str, bool, bytes] | None  # name, kind, whether a flow, digest


@click.command()
@click.argument(
    "project", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".", metavar="[FOLDER]"
)
@option("--lane", default="dev", help="The lane to deploy into; it is opened if it is not there.")
@option("--once", is_flag=True, help="Build and deploy once, print what has happened in the lane since, and end.")
@broker_options
def dev(connection: Connection, project: Path, lane: str, once: bool) -> None:
    """Watch the project in FOLDER: build and deploy it at each change, and print what its lane does, until Ctrl-C.

    \b
    rota up                                   in one terminal
    rota dev planner                          in another
    rota submit planner hello --lane dev      in a third
    """
    from rota.sdk.projects import read_project

    read_project(project)  # what is no project never becomes one by a change that is waited for
    with connection.open() as client:
        _open_lane(client, lane)
        turns = _Turns(connection, lane)
        seen: Mapping[Path, int] = {}
        bound: _Bound = None
        while True:
            found = _times(project)
            if found != seen:
                seen = found
                bound = _deploy(client, connection, project, turns, bound, ends=once)
            turns.show()
            if once:
                return
            time.sleep(_POLL_SECONDS)


def _open_lane(client: Client, lane: str) -> None:
    if lane not in [one["lane"] for one in client.query("lanes")]:
        client.open_lane(lane)
        click.echo(f"lane {lane} is open", err=True)


def _deploy(
    client: Client, connection: Connection, folder: Path, turns: _Turns, bound: _Bound, *, ends: bool
) -> _Bound:  # fmt: skip
    """Build, deploy what came of it if that is not `bound` already, and return what is. What is wrong with the source
    is printed, and the next change is waited for. The turns until then are printed first.
    """
    from rota.cli.projects import tell_if_sdk_is_old
    from rota.client.options import DeployOptions
    from rota.runtimes.content import content_of, extras_of
    from rota.sdk.building import build_folder

    began, lane = time.monotonic(), turns.lane
    try:
        tell_if_sdk_is_old(folder)
        built = build_folder(folder, debug=True)
        beside = DeployOptions(with_=built.beside, entry=built.entry)
        content = content_of(built.path, built.kind, extras_of(beside), (), built.flow)
        made = built.name, content.kind, content.flow, content.digest
        if made == bound:  # the change was of a file that is not deployed
            return bound
        tell_if_no_worker(client, connection, CPU, built.name, wait=True)
        with Progress(None, "deploy") as bar, noticed(connection, lane, bar):
            client.deploy(
                built.name, built.path, built.kind, flow=built.flow, lane=lane, with_=built.beside, entry=built.entry
            )
    except (CodeError, ConfigError) as error:
        if ends:
            raise
        click.secho(f"error: {error.message}", err=True, fg="red")
        return None
    turns.show()
    click.secho(f"{built.name} is deployed in lane {lane} ({time.monotonic() - began:.1f} s)", err=True, fg="green")
    return made


def _times(folder: Path) -> Mapping[Path, int]:
    """Return when each file of the project was changed last."""
    found: dict[Path, int] = {}
    waiting = [folder]
    while waiting:
        with contextlib.suppress(OSError):  # a file or folder that was removed meanwhile
            for path in sorted(waiting.pop().iterdir()):
                if path.name.startswith(".") or path.name in _NOT_WATCHED or path.is_symlink():
                    continue
                if path.is_dir():
                    waiting.append(path)
                else:
                    found[path] = path.stat().st_mtime_ns
                if len(found) > _FILES_MAX:
                    raise ConfigError(f"{folder} has more than {_FILES_MAX} files: give the folder of one project")
    return found


class _Turns:
    """Prints the turns of a lane as they retire, from the run file that the broker writes."""

    def __init__(self, connection: Connection, lane: str) -> None:
        """Begin at the end of the run as it is now."""
        from rota.runs.open import open_run
        from rota.runs.tail import Tail
        from rota.runs.walk import Walk

        self.lane = lane
        folder = connection.run_folder()
        with open_run(folder.root) as source:
            _, number, chain = source.extent()
            self._walk = Walk(source.near(number))
            for _ in self._walk.steps():
                pass
        self._tail = Tail(folder.journal, number, chain)

    def show(self) -> None:
        """Print the turns since the last call."""
        for step in self._walk.steps(self._tail.read()):
            for task in step.retired(self.lane):
                for line in _lines(task):
                    click.echo(line)


def _lines(task: Task) -> Iterator[str]:
    """Yield what one turn did: the message, the log, the outcome and what it sent."""
    from rota.common.work import Done, failure_text

    outcome = task.outcome
    assert outcome is not None, "a retired task has an outcome"
    yield f"{task.turn} {task.address} {task.run.kind} {_shown(task.payload)}"
    for line in outcome.log:
        yield f"    | {line}"
    if not isinstance(outcome, Done):
        first, *others = failure_text(outcome.kind, outcome.message, outcome.log).splitlines() or [""]
        yield click.style(f"    {outcome.kind}: {first}", fg="red")
        for line in others:
            yield click.style(f"    {line}", fg="red")
        return
    for emit in outcome.emits:
        yield f"    {emit.kind} -> {emit.target} {_shown(emit.payload)}"
    if outcome.result is not None:
        yield f"    = {_shown(outcome.result)}"
    if outcome.waits is not None:
        yield f"    waits at {outcome.waits}" if outcome.waits else "    waits"


def _shown(data: bytes) -> str:
    """Return a payload as text, as the JSON of a MessagePack value, or as the bytes that it is, in one line."""
    found = readable(data, _SHOWN_CHARS)
    return found.text if len(found.text) < _SHOWN_CHARS else f"{found.text} ({size_text(found.size)})"
