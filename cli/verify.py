"""`rota verify`: executes a run again, compares every turn digest, and prints a verdict. It needs no broker.

docs/VERIFY.md describes the output and the schema of --json; change both.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rota.cli.common_options import Whole, json_option, option, progress_option, run_argument
from rota.cli.exits import ExitCode
from rota.cli.output import Progress, counted, print_facts, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rota.proof.verification import Proof, Round
    from rota.proof.verify import LaneReport, RunReport, VerifyOptions
    from rota.runs.open import RunSource

_ELSEWHERE_SHOWN: Final = 8  # models whose results were not computed again
_SHOW_SECONDS: Final = 0.1  # between two updates of progress on a terminal
_SHOW_SECONDS_ELSEWHERE: Final = 2.0  # elsewhere each update is a new line
_KILL_WORKERS: Final = (2,)  # with --kill but not --workers
_EXIT_OF: Final = {
    "equal": ExitCode.OK,
    "diverged": ExitCode.FAILED,
    "damaged": ExitCode.STORAGE,
    "incomplete": ExitCode.CONFIG,
}


class _Counts(click.ParamType[tuple[int, ...]]):
    """Numbers of processes, separated by commas."""

    name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        from rota.proof.processes import PROCESSES_MAX

        counts = tuple([int(part) if part.strip().isdecimal() else 0 for part in value.split(",")])
        if not all(1 <= count <= PROCESSES_MAX for count in counts):
            self.fail(f"{value!r} is not one or more numbers from 1 to {PROCESSES_MAX}, like 1,2,4,8", param, ctx)
        return counts


@click.command()
@run_argument
@option("--workers", type=_Counts(), help="Verify once with each of these numbers of worker processes; default: none.")
@option("--kill", is_flag=True, help="Kill worker processes meanwhile, at random moments.")
@option("--lane", help="Only this lane.")
@option("--from", "first_turn", type=Whole(1), metavar="TURN", help="Trust what retired before this turn.")
@option("--to", "last_turn", type=Whole(1), metavar="TURN", help="Stop after this turn has retired.")
@option(
    "--recorded-models/--live-models", "recorded_models", default=True,
    help="Read results of models back that cannot be computed again here bit for bit, or compute them too.",
)  # fmt: skip
@option("--seed", type=int, default=0, help="Of the random moments of --kill.")
@progress_option
@json_option
def verify(
    run: Path, workers: tuple[int, ...] | None, kill: bool, lane: str | None, first_turn: int | None,
    last_turn: int | None, recorded_models: bool, seed: int, progress: bool | None, json: bool,
) -> int:  # fmt: skip
    """Execute RUN again and compare the digest of every turn. Exit code 0 only if all are equal, 1 if one differs.

    RUN is a run folder, a run file or a file made by `rota export`; a broker may be running on it. Inputs are read
    back; the outcomes of agents and functions are computed again, and results of models of class `bitwise` where this
    host has the model and its fingerprint.

    \b
    rota verify .rota
    rota verify .rota --workers 1,2,4,8 --kill
    rota verify friday.rota.zip --lane orders --from 120000 --to 130000
    """
    from rota.proof.verification import IN_PROCESS, prove
    from rota.runs.open import open_run

    with open_run(run) as source:
        options = _options(source, lane, first_turn, last_turn, recorded_models)
        counts = workers or (_KILL_WORKERS if kill else (IN_PROCESS,))
        with Progress(progress, "") as bar:
            shown = _shown(bar, source)
            proof = prove(source, counts, options, kill_seed=seed if kill else None, progress=shown)
        if json:
            print_json(_facts(source, proof))
        else:
            _print(source, proof, recorded_models)
    return _EXIT_OF[proof.verdict]


def _options(
    source: RunSource, lane: str | None, first_turn: int | None, last_turn: int | None, recorded_models: bool
) -> VerifyOptions:
    from rota.proof.verification import lane_of
    from rota.proof.verify import VerifyOptions

    if lane is None and (first_turn is not None or last_turn is not None):
        lane = lane_of(source)
    return VerifyOptions(lane, first_turn, last_turn, live_models=not recorded_models)


def _shown(bar: Progress, source: RunSource) -> Callable[[int, int, int], None]:
    """Return a function that shows progress: turns, the share of the records, turns per second."""
    first, last, _ = source.extent()
    interval = _SHOW_SECONDS if sys.stderr.isatty() else _SHOW_SECONDS_ELSEWHERE
    started, shown = time.monotonic(), 0.0  # show the first line at once

    def show(workers: int, turns: int, number: int) -> None:
        nonlocal started, shown
        now = time.monotonic()
        if not turns:  # a new round
            started = now
        elif now - shown >= interval:
            shown = now
            share = 100 * (number - first + 1) // (last - first + 1)
            rate = turns / max(now - started, 0.001)
            bar.show(f"{_where(workers)}: {turns:,} turns, {share} % of the records, {rate:,.0f} turns per second")

    return show


# --- for people -----------------------------------------------------------------------------------


def _print(source: RunSource, proof: Proof, recorded_models: bool) -> None:
    from rota.proof.divergence_text import lines

    for lane in proof.last.lanes:
        click.echo(f"lane {lane.lane}")
        print_facts({f"  {name}": text for name, text in _lane_lines(source, lane, recorded_models).items()})
    for one in proof.rounds:
        click.echo(_round_line(one))
    for note in proof.notes:
        click.echo(f"note: {note}")
    for found in proof.divergences:
        click.echo("")
        for line in lines(found):
            click.echo(line)
        click.echo("")
    click.echo(_verdict_line(proof))


def _lane_lines(source: RunSource, lane: LaneReport, recorded_models: bool) -> dict[str, str]:
    from rota.proof.verification import remedy_of

    counts = lane.counts
    lines = {
        "retired": f"{lane.retired:,}",
        "digest": lane.digest.hex(),
        "compared": f"{counted(lane.compared, 'turn digest')}, {'all equal' if lane.equal else 'equal up to there'}",
        "computed": f"{counted(counts.executed, 'outcome')} of agents and functions, bit for bit",
        "read back": f"{counted(counts.inputs, 'input')} with their times; "
        f"{counts.decisions:,} of them verdicts or cancels",
    }
    if counts.models_read_back:
        lines["read back"] += f"; {counted(counts.models_read_back, 'result')} of models (class `recorded`)"
    if counts.models_elsewhere:
        lines["read back"] += f"; {counted(counts.models_elsewhere, 'result')} of models that are not computed here"
        for one in lane.elsewhere[:_ELSEWHERE_SHOWN]:
            made = one.provenance
            lines[f"not here, {one.address}"] = (
                f"{counted(one.results, 'result')} of {made.provider}, certificate {made.certificate}, fingerprint "
                f"{made.fingerprint.hex()[:12]}: {one.reason}"
            )
    if counts.models_executed:
        lines["computed"] += f"; {counted(counts.models_executed, 'result')} of models"
        if not recorded_models:
            lines["note"] = "results of models may differ under another fingerprint, and recorded ones at any time"
    if counts.believed:
        lines["believed"] = f"{counted(counts.believed, 'outcome')} before the first turn that was asked for"
    if cut := lane.retired - lane.compared - counts.believed:
        lines["cut off"] = f"{counted(cut, 'turn')} by a compaction; their digest is where this begins"
    if lane.blocked is not None:
        task = lane.blocked.task
        lines["stopped at"] = f"turn {task.turn}, seq {task.seq}, {task.address}: it cannot be computed again here"
        lines["because"] = lane.blocked.reason
        lines["remedy"] = remedy_of(source, lane.blocked)
    return lines


def _round_line(one: Round) -> str:
    turns = one.turns
    rate = turns / max(one.seconds, 0.001)
    line = f"{_where(one.workers)}: {counted(turns, 'turn')} in {one.seconds:.2f} s, {rate:,.0f} per second"
    if one.kills:
        line += f"; {counted(one.kills, 'process')} killed meanwhile"
    return line + (f"; {counted(one.deaths, 'process')} died" if one.deaths else "")


def _verdict_line(proof: Proof) -> str:
    report = proof.last
    lanes = ", ".join(lane.lane for lane in report.lanes if not lane.equal)
    if proof.verdict == "equal":
        compared = sum(lane.compared for lane in report.lanes)
        return f"EQUAL: {counted(compared, 'turn digest')} in {counted(len(report.lanes), 'lane')}"
    if proof.verdict == "diverged":
        return f"DIVERGED: lane {lanes}"
    if proof.verdict == "damaged" and report.damage is not None and "snapshot" in report.damage.fields:
        return "DAMAGED: all records are equal, but a snapshot is not what they give"
    if proof.verdict == "damaged":
        return "DAMAGED: equal up to where the journal breaks off"
    return f"INCOMPLETE: nothing differs, but not all of lane {lanes} could be computed again"


def _where(workers: int) -> str:
    if workers == 0:
        return "in this process"
    return "1 worker process" if workers == 1 else f"{workers} worker processes"


# --- for programs ---------------------------------------------------------------------------------


def _facts(source: RunSource, proof: Proof) -> dict[str, Any]:
    report = proof.last
    return {
        "run": source.name,
        "verdict": proof.verdict,
        "equal": proof.verdict == "equal",
        "records": report.records,
        "damage": _damage(report),
        "lanes": [_lane_facts(source, lane) for lane in report.lanes],
        "rounds": [
            {
                "workers": one.workers,
                "equal": one.report.equal,
                "turns": one.turns,
                "seconds": round(one.seconds, 3),
                "kills": one.kills,
                "deaths": one.deaths,
            }
            for one in proof.rounds
        ],
        "divergences": [found.to_json() for found in proof.divergences],
        "notes": [{**note._asdict(), "text": str(note)} for note in proof.notes],
    }


def _damage(report: RunReport) -> dict[str, Any] | None:
    if report.damage is None:
        return None
    number = report.damage.fields.get("number", report.records + 1)
    return {"record": number, "message": report.damage.message}


def _lane_facts(source: RunSource, lane: LaneReport) -> dict[str, Any]:
    from rota.proof.verification import remedy_of

    facts = {"lane": lane.lane, "equal": lane.equal, "retired": lane.retired, "digest": lane.digest}
    facts |= {"compared": lane.compared, **lane.counts._asdict(), "blocked": None}
    facts["elsewhere"] = [
        {"target": one.address, "reason": one.reason, "results": one.results, **one.provenance._asdict()}
        for one in lane.elsewhere
    ]
    if lane.blocked is not None:
        number, task, reason = lane.blocked
        facts["blocked"] = {
            "record": number,
            "turn": task.turn,
            "seq": task.seq,
            "target": task.address,
            "reason": reason,
            "remedy": remedy_of(source, lane.blocked),
        }
    return facts
