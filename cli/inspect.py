"""`rota log`, `show`, `story`, `state`, `tree`: what a journal says. They use no broker.

Each command opens the run for reading (runs/open.py), makes one query to runs/ and prints the answer. inspect_views.py
and tree_view.py format it; runs/task_facts.py and runs/log.py have its JSON. A broker may be writing meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rota.cli.common_options import Command, Whole, dir_option, json_option, lane_option, option, progress_option
from rota.cli.output import Progress, print_facts, print_json, write_bytes
from rota.common.errors import ConfigError, LocalError, UnknownTask

if TYPE_CHECKING:
    from rota.common.work import Fold, FoldResult
    from rota.runs.open import RunSource
    from rota.runs.walk import Step, Walk

KINDS: Final = (
    "epoch", "opened", "submitted", "deployed", "cancelled", "verdict", "timer_fired", "window_set", "pause_set",
    "dead_dropped", "completion", "mark", "diverged", "fingerprint",
    "snapshotted", "seed_set",
)  # fmt: skip
_POLL_SECONDS: Final = 0.2
_NODES_MAX: Final = 1_000


def run_options(command: Command) -> Command:
    """Add --run and --dir, and pass on the path that they give as `run`."""

    def with_run(run: Path | None, folder: Path, **values: Any) -> Any:
        return command(run=run or folder, **values)

    functools.update_wrapper(with_run, command)
    named = option(
        "--run",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="A run folder, a run file, or a file of `rota export`, if not the folder of --dir.",
    )
    made: Any = named(dir_option(with_run))
    return made  # type: ignore[no-any-return]


# --- rota log -------------------------------------------------------------------------------------


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@option("--lane", help="Only records of this lane.")
@option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only this kind; may be given several times.")
@option("--agent", metavar="ADDRESS", help="Only records that concern this agent, function or model.")
@option("--seq", type=Whole(1), help="Only records that concern this task.")
@option("--from", "first", type=Whole(1), metavar="N", help="From record N on.")
@option("--to", "last", type=Whole(1), metavar="N", help="Up to record N.")
@option("--tail", type=Whole(1), metavar="N", help="Only the last N of them.")
@option("--follow", is_flag=True, help="Follow what a broker writes, until interrupted.")
@progress_option
@json_option
@dir_option
def log(run: Path | None, folder: Path, follow: bool, progress: bool | None, json: bool, **wanted: Any) -> None:
    """Print the journal, one line per record: what it says, and what followed from it.

    RUN is a run folder, a run file, or a file of `rota export`; without it the folder of --dir.

    \b
    rota log
    rota log --agent counter/alice --tail 20
    rota log --kind verdict --kind diverged old-run --json
    rota log --follow --lane main
    """
    from rota.runs.open import open_run
    from rota.runs.walk import Walk

    path = run or folder
    if follow and wanted["last"]:
        raise click.UsageError("--follow and --to exclude each other")
    _check_range(wanted["first"], wanted["last"], "record")
    with open_run(path) as source, Progress(progress, "record") as bar:
        first, number, chain = source.extent()
        lines = _LogLines(wanted, as_json=json)
        _say_cut(first)
        walk = Walk(source.near(lines.first_needed(number)))
        lines.take(walk.steps(progress=lambda done: bar(done, number)))
        bar.clear()
        if not follow:
            lines.check(walk, first)
            return
        live = _live_file(path)
        source.close()  # the copy is no longer needed
        sys.stdout.flush()
        _follow(lines, walk, live, number, chain)


class _LogLines:
    """Prints the wanted records."""

    def __init__(self, wanted: dict[str, Any], *, as_json: bool) -> None:
        from rota.cli.inspect_views import LOG_PIPE_COLUMNS, columns
        from rota.runs.log import Concern

        self._lane: str | None = wanted["lane"]
        self._kinds: tuple[str, ...] = wanted["kinds"]
        self._first: int = wanted["first"] or 1
        self._last: int | None = wanted["last"]
        self._tail: int | None = wanted["tail"]
        self._agent: str | None = wanted["agent"]
        self._seq: int | None = wanted["seq"]
        self._concern = Concern(self._agent, self._seq)
        self._as_json = as_json
        self._width = columns(LOG_PIPE_COLUMNS)
        self._is_titled = as_json

    def first_needed(self, last: int) -> int:
        """Return the first record to read, in a run whose last one is `last`."""
        if self._agent or self._seq:
            return 1  # records that concern a task or an agent may be anywhere
        if self._tail and not self._lane and not self._kinds:
            return max(self._first, min(last, self._last or last) - self._tail + 1)
        return self._first

    def take(self, steps: Iterable[Step]) -> None:
        """Print the wanted records; with --tail, the last ones after all are read."""
        kept: deque[Step] = deque(maxlen=self._tail)
        for step in steps:
            if self._is_wanted(step):
                if self._tail:
                    kept.append(step)
                else:
                    self._print(step)
            if self._last is not None and step.number >= self._last:
                break
        for step in kept:
            self._print(step)
        self._tail = None  # later records are new

    def check(self, walk: Walk, first: int) -> None:
        """Raise an error for a record, lane, agent or task that the run does not have."""
        from rota.runs.walk import lane_of

        if self._lane is not None:
            lane_of(walk.world, self._lane)
        if self._first > max(walk.number, 1):
            raise LocalError(f"the run has no record {self._first}: it has records {first} to {walk.number}")
        if self._last is not None:
            return  # with --follow it may come later
        if not self._concern.met_seq:
            raise UnknownTask(f"the run has no task {self._seq}: it has tasks 1 to {walk.world.next_seq - 1}")
        if not self._concern.met_address:
            raise UnknownTask(f"nothing in the run was for {self._agent!r}: `rota log --kind submitted` shows targets")

    def _is_wanted(self, step: Step) -> bool:
        from rota.runs.log import kind_of

        if (self._agent or self._seq) and not self._concern(step):
            return False
        if step.number < self._first or (self._last is not None and step.number > self._last):
            return False
        if self._lane is not None and (step.lane is None or step.lane.name != self._lane):
            return False
        return not self._kinds or kind_of(step.record) in self._kinds

    def _print(self, step: Step) -> None:
        from rota.cli.inspect_views import log_line, log_title
        from rota.runs.log import entry

        if self._as_json:
            print_json(entry(step)._asdict())
            return
        if not self._is_titled:
            click.echo(log_title())
            self._is_titled = True
        click.echo(log_line(entry(step), self._width))


def _live_file(path: Path) -> Path:
    from rota.host.endpoints import RunFolder
    from rota.runs.archive import ARCHIVE_MAGIC

    journal = RunFolder(path).journal if path.is_dir() else path.absolute()
    with journal.open("rb") as file:
        if file.read(len(ARCHIVE_MAGIC)) == ARCHIVE_MAGIC:
            raise ConfigError(f"{path} is a packed run, which no broker writes to: leave --follow out", path=str(path))
    return journal


def _follow(lines: _LogLines, walk: Walk, journal: Path, number: int, chain: bytes) -> None:
    """Print new records until Ctrl-C."""
    from rota.runs.tail import Tail

    tail = Tail(journal, number, chain)
    while True:
        lines.take(walk.steps(tail.read()))
        sys.stdout.flush()
        time.sleep(_POLL_SECONDS)


# --- rota show, story, tree -----------------------------------------------------------------------


@click.command()
@click.argument("seq", type=Whole(1))
@option("--lane", help="Fail if the task is in another lane.")
@progress_option
@json_option
@run_options
def show(run: Path, seq: int, lane: str | None, progress: bool | None, json: bool) -> None:
    """Print all that the journal says about task SEQ.

    \b
    rota show 17
    rota show 17 --json | jq .outcome
    rota show 17 --run copies/monday.rota
    """
    from rota.cli.inspect_views import columns, show_lines
    from rota.runs.calls import call_at
    from rota.runs.questions import family
    from rota.runs.task_facts import call_facts, family_facts

    with _opened(run, progress) as (source, bar):
        found = family(source, seq, lane=lane, progress=bar)
        trace = found.trace
        call = None if trace.call is None else call_at(source, trace.target, trace.lane, progress=bar)
    if json:
        print_json(family_facts(found) | {"call": None if call is None else call_facts(call)})
    else:
        for line in show_lines(found, call, columns()):
            click.echo(line)


@click.command()
@click.argument("agent")
@lane_option
@option("--from", "first", type=Whole(1), metavar="TURN", help="From this turn on.")
@option("--to", "last", type=Whole(1), metavar="TURN", help="Up to this turn.")
@progress_option
@json_option
@run_options
def story(
    run: Path, agent: str, lane: str, first: int | None, last: int | None, progress: bool | None, json: bool
) -> None:
    """Print the history of AGENT, message by message: the message, its outcome, and how the state changed.

    Messages are in the order in which they took effect. A state is shown by the first digits of its digest.

    \b
    rota story counter/alice
    rota story counter/alice --from 100 --to 200 --json
    """
    from rota.cli.inspect_views import columns, story_line, story_title
    from rota.runs.questions import story as told
    from rota.runs.task_facts import life_facts

    _check_range(first, last, "turn")
    is_titled, width = json, columns()
    with _opened(run, progress) as (source, bar):
        for trace in told(source, agent, lane, (first, last), bar):
            if not is_titled:
                click.echo(story_title(width))
                is_titled = True
            if json:
                print_json(life_facts(trace))
            else:
                click.echo(story_line(trace, width))


@click.command()
@click.argument("seq", type=Whole(1))
@option("--up", is_flag=True, help="Only its ancestors.")
@option("--depth", type=Whole(1), default=32, metavar="N", help="At most N levels up and N levels down.")
@option("--limit", type=Whole(1, 100_000), default=_NODES_MAX, help="At most so many descendants.")
@progress_option
@json_option
@run_options
def tree(run: Path, seq: int, up: bool, depth: int, limit: int, progress: bool | None, json: bool) -> None:
    """Print where task SEQ came from, and what came from it: emits, asks with their replies, timers.

    \b
    rota tree 17
    rota tree 17 --up
    rota tree 1 --depth 3 --json
    """
    from rota.cli.inspect_views import columns
    from rota.cli.tree_view import tree_lines
    from rota.runs.questions import family
    from rota.runs.task_facts import tree_facts

    with _opened(run, progress) as (source, bar):
        found = family(source, seq, depth_max=0 if up else depth, traces_max=limit + 1, progress=bar)
    if json:
        for node in tree_facts(found):
            print_json(node)
    else:
        for line in tree_lines(found, depth, columns(), up=up):
            click.echo(line)


# --- rota state -----------------------------------------------------------------------------------


@click.command()
@click.argument("agent")
@option("--at", type=Whole(1), metavar="TURN", help="Just after this turn retired; default: the last one.")
@lane_option
@option("--raw", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE", help="Write its bytes; - is stdout.")
@progress_option
@json_option
@run_options
def state(
    run: Path, agent: str, at: int | None, lane: str, raw: Path | None, progress: bool | None, json: bool
) -> None:
    """Print the state of AGENT as it was at a turn; of a call of a flow, its messages and what it waited for.

    If the journal has only its digest, the turn is executed again, which needs the agent's module in the run folder.

    \b
    rota state counter/alice
    rota state counter/alice --at 17
    rota state counter/alice --at 17 --raw state.bin
    rota state order/~5 --at 17
    """
    from rota.cli.inspect_views import state_facts, state_lines
    from rota.common.calls import call_of
    from rota.runs.states import state_at
    from rota.runs.task_facts import agent_state_facts

    if call_of(agent) is not None:
        if raw is not None:
            raise click.UsageError(f"{agent} is a call of a flow, which has messages and no state: leave --raw out")
        _print_call(run, agent, lane, at, progress, json=json)
        return
    with _opened(run, progress) as (source, bar):
        found = state_at(source, agent, lane, at, functools.partial(_execute, source), bar)
    if raw is not None:
        _write_raw(raw, found.state or b"")
    if json:
        print_json(agent_state_facts(found))
    elif raw is None:
        print_facts(dict(state_facts(found)))
        for line in state_lines(found.state):
            click.echo(line)


def _print_call(run: Path, address: str, lane: str, at: int | None, progress: bool | None, *, json: bool) -> None:
    from rota.cli.call_views import call_lines
    from rota.cli.inspect_views import columns
    from rota.runs.calls import call_at
    from rota.runs.task_facts import call_facts

    with _opened(run, progress) as (source, bar):
        call = call_at(source, address, lane, at, bar)
    if json:
        print_json(call_facts(call) | {"at": at})
        return
    for line in call_lines(call, columns()):
        click.echo(line)


def _execute(source: RunSource, fold: Fold) -> FoldResult:
    from rota.engine.executors import Executors

    with Executors(source.folders()) as executors:
        return executors.run(fold)


def _write_raw(path: Path, data: bytes) -> None:
    if str(path) == "-":
        write_bytes(data)
        return
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; name another file", path=str(path)) from error


@contextlib.contextmanager
def _opened(run: Path, progress: bool | None) -> Iterator[tuple[RunSource, Callable[[int], None]]]:
    """Open a run, and show the progress of reading it."""
    from rota.runs.open import open_run

    with open_run(run) as source, Progress(progress, "record") as bar:
        first, last, _ = source.extent()
        _say_cut(first)
        yield source, lambda done: bar(done, last)


def _check_range(first: int | None, last: int | None, what: str) -> None:
    if first is not None and last is not None and last < first:
        raise click.UsageError(f"--from {first} --to {last}: there is no {what} from {first} to {last}; exchange them")


def _say_cut(first: int) -> None:
    """Say on stderr that the first records of a journal were compacted away."""
    if first > 1:
        click.echo(f"records 1 to {first - 1} were compacted away: what happened before is not known", err=True)
