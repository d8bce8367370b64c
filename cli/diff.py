"""`rota diff`: whether two runs did the same; if not, from which turn on and why. It needs no broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rota.cli.common_options import RunPath, json_option, lane_option, progress_option
from rota.cli.exits import ExitCode
from rota.cli.output import Progress, print_json

if TYPE_CHECKING:
    from rota.runs.diff import Diff, First, Side
    from rota.runs.differing import Part

_TWO_RUNS = "give both runs: rota diff RUN1 RUN2"


@click.command()
@click.argument("run_1", metavar="RUN1", type=RunPath(_TWO_RUNS))
@click.argument("run_2", metavar="RUN2", type=RunPath(_TWO_RUNS))
@lane_option
@progress_option
@json_option
def diff(run_1: Path, run_2: Path, lane: str, progress: bool | None, json: bool) -> int:
    """Find the first turn at which a lane of two runs differs, and why.

    RUN1 and RUN2 are run folders, run files, or files of `rota export`. Nothing is executed. The exit code is 0 if the
    runs are equal, 1 if they differ.

    \b
    rota diff .rota fork
    rota diff monday.rota.zip tuesday.rota.zip --lane import --json
    """
    from rota.runs.diff import compare
    from rota.runs.open import open_run

    with open_run(run_1) as one, open_run(run_2) as other:
        with Progress(progress, "records of both read") as bar:
            found = compare(one, other, lane, bar)
        if json:
            print_json(diff_facts(found))
        else:
            from rota.cli.diff_views import diff_lines

            for line in diff_lines(found):
                click.echo(line)
    return ExitCode.OK if found.first is None else ExitCode.FAILED


# --- for programs ---------------------------------------------------------------------------------


def diff_facts(found: Diff) -> dict[str, Any]:
    """Return the findings as plain values."""
    return {
        "equal": found.first is None,
        "lane": found.lane,
        "runs": [{"run": name, **end._asdict()} for name, end in zip(found.names, found.ends, strict=True)],
        "shared": found.shared,
        "first": None if found.first is None else _first_facts(found.first),
        "later": None if found.later is None else found.later._asdict(),
        "agents": found.agents._asdict(),
        "lanes_not_compared": found.other_lanes,
    }


def _first_facts(first: First) -> dict[str, Any]:
    return {
        "position": first.position,
        "cause": first.cause,
        "why": first.why,
        "differs": [_part_facts(part) for part in first.parts],
        "circumstances": [_part_facts(part) for part in first.circumstances],
        "sides": [None if side is None else _side_facts(side) for side in first.sides],
    }


def _part_facts(part: Part) -> dict[str, Any]:
    # The values of a digest get its name as their key, so that they become hex.
    key = "digests" if "digest" in part.name else "values"
    facts: dict[str, Any] = {"name": part.name, key: part.values}
    return facts if part.first is None else {**facts, "first_byte": part.first.at}


def _side_facts(side: Side) -> dict[str, Any]:
    from rota.runs.task_facts import task_facts

    return {
        "task": task_facts(side.trace),
        "state": side.state,
        "ancestors": side.chain,
        "input": None if side.input is None else side.input._asdict(),
        "deploy_record": side.deploy,
        "worker": dict(side.worker),
    }
