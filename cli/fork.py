"""`rota fork`, `rota check-upgrade`, `rota bisect`: execute a run again with a change, or to find a turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rota.cli.common_options import RunPath, Whole, json_option, lane_option, option, progress_option, run_argument
from rota.cli.exits import ExitCode
from rota.cli.lanes import seed_of
from rota.cli.output import Progress, cell, counted, print_facts, print_json

if TYPE_CHECKING:
    from rota.engine.executors import Executors
    from rota.proof.changed import Consequences
    from rota.proof.continuation import Change
    from rota.proof.fork import NewCode
    from rota.runs.open import RunSource

_VERDICTS: Final = {"accept": ExitCode.OK, "reject": ExitCode.FAILED, "untested": ExitCode.UNTESTED}


@click.command()
@run_argument
@option("--at", "turn", type=Whole(0), required=True, help="The last turn that both share; 0: none.")
@option("--to", "folder", type=click.Path(path_type=Path), required=True, help="The new run folder.")
@lane_option
@option(
    "--deploy", "deploys", metavar="NAME=FILE", multiple=True,
    help="Bind a name to new code there: a WASM file, a source file or its folder.",
)  # fmt: skip
@option(
    "--drop-input", "dropped", metavar="RECORD", type=Whole(1), multiple=True,
    help="Leave out a later input: the number of its record.",
)  # fmt: skip
@option(
    "--edit", "edits", metavar="RECORD[:INDEX]=TEXT", multiple=True,
    help="Another payload for a task of a later submit; the first task has index 0. @FILE takes a file's content.",
)  # fmt: skip
@option("--seed", metavar="HEX", help="Other entropy from there on: 32 bytes as hex.")
@option("--inputs/--no-inputs", default=True, help="Apply the later inputs again, or only finish the earlier ones.")
@option("--turns-max", type=Whole(1), help="Stop after so many more turns: a changed lane may never end.")
@progress_option
@json_option
def fork(
    run: Path, turn: int, folder: Path, lane: str, deploys: tuple[str, ...], dropped: tuple[int, ...],
    edits: tuple[str, ...], seed: str | None, inputs: bool, turns_max: int | None, progress: bool | None, json: bool,
) -> None:  # fmt: skip
    """Make a new run that equals RUN up to a turn and continues from there with a change.

    The numbers of records are those of `rota log`. Up to the turn both runs have the same digest; the later inputs are
    applied again at their positions. The new folder is a normal run: `rota verify` proves it, `rota diff` shows what
    followed from the change, `rota up --dir` continues it.

    \b
    rota fork .rota --at 1200 --to what-if --deploy counter=counter2.wasm
    rota fork .rota --at 0 --to what-if --drop-input 17
    rota fork .rota --at 40 --to what-if --edit 17:0='{"add": 8}'
    """
    from rota.proof.changed import ChangePlan
    from rota.proof.fork import fork as make_fork

    with _opened(run) as source, Progress(progress, "turns") as shown:
        new = _new_code(source, deploys, lane, turn)
        change = _change(tuple([(one.name, one.code) for one in new]), dropped, edits, seed)
        what = ", ".join(
            [f"deploy {given}" for given in deploys]
            + [f"drop input {number}" for number in dropped]
            + [f"edit {given.partition('=')[0]}" for given in edits]
            + ["seed"] * (seed is not None)
            + ["no later inputs"] * (not inputs)
        )
        plan = ChangePlan(lane, turn, change, turns_max=turns_max, inputs=inputs)
        came = make_fork(source, plan, new, folder, what or "nothing", progress=shown)
    if json:
        print_json({"made": str(folder), "change": what, **_facts(came)})
        return
    print_facts({"made": str(folder), "change": what or "nothing"})
    _print(came, brings_code=bool(deploys))
    click.echo(f"compare: rota diff {run} {folder} --lane {lane}")


@click.command("check-upgrade")
@run_argument
@click.argument(
    "upgrade", metavar="NAME=FILE", type=RunPath("give the run and the new code: rota check-upgrade RUN NAME=FILE", str)
)
@option("--lane", help="Only this lane; default: every lane where the name is bound.")
@option("--from", "turn", metavar="TURN", type=Whole(0), default=0, help="The old code up to there.")
@option("--state/--ignore-state", default=True, help="Whether a different state counts as a change.")
@progress_option
@json_option
def check_upgrade(
    run: Path, upgrade: str, lane: str | None, turn: int, state: bool, progress: bool | None, json: bool
) -> None:
    """Execute RUN with new code for a name: accept it, or report the first changed turn and how many follow.

    Exit code 0 (accept) if nothing changes, 1 (reject) if something does, 3 (untested) if no turn ran the new code.

    \b
    rota check-upgrade .rota counter=counter2.wasm
    rota check-upgrade .rota counter=counter2.wasm --from 1200 --ignore-state
    """
    from rota.proof.upgrade import check_upgrade as check

    name, file = _named_file(upgrade, "NAME=FILE")
    with _opened(run) as source, Progress(progress, "turns") as shown:
        came = check(source, name, file, lane=lane, turn=turn, compare_state=state, progress=shown)
        first_record = source.extent()[0]
    verdict = verdict_of(came)
    if json:
        facts = {"name": name, "file": str(file), "verdict": verdict, "first_record": first_record}
        print_json({**facts, "lanes": [_facts(one) for one in came]})
    else:
        for one in came:
            _print(one, brings_code=True)
        click.echo(f"{verdict}: {name} = {file}")
        if verdict == "untested":
            cut = f"; records 1 to {first_record - 1} were cut by a compaction" if first_record > 1 else ""
            click.echo(f"no turn ran {name} with the new code{cut}", err=True)
    raise SystemExit(_VERDICTS[verdict])


@click.command()
@run_argument
@option("--bad", "expression", metavar="EXPR", required=True, help="A Python expression; see above.")
@lane_option
@progress_option
@json_option
def bisect(run: Path, expression: str, lane: str, progress: bool | None, json: bool) -> None:
    """Find the first turn of RUN after which EXPR holds.

    EXPR is evaluated after every turn. It can use state(ADDRESS), unpack(BYTES), text(BYTES), number(BYTES); of the
    task that just retired turn, target, sender, kind, payload, result, failure, message, log; of the lane retired and
    digest. It is Python, running with your rights. Exit code 0 if there is such a turn, 1 if there is none.

    \b
    rota bisect .rota --bad 'target == "counter/alice" and number(result) > 100'
    rota bisect .rota --bad 'failure == "trap"'
    rota bisect .rota --bad 'target == "tally" and unpack(result)["total"] < 0'
    """
    from rota.proof.bisect import Predicate, find_first

    predicate = Predicate(expression)
    with _opened(run) as source, _executors(source) as executors, Progress(progress, "turns") as shown:
        found = find_first(source, lane, predicate, executors, shown)
    task = found.task
    facts: dict[str, Any] = {"lane": lane, "bad": expression, "found": task is not None, "retired": found.position}
    facts |= {"tried": found.tried}
    if task is not None:
        outcome = task.outcome
        facts |= {"turn": task.turn, "target": task.address, "payload": task.payload, "outcome": outcome}
        facts |= {"digest": found.digest}
    if json:
        print_json(facts)
    elif task is None:
        click.echo(f"never: {_tried(found.position, found.tried)}", err=True)
    else:
        print_facts({name: value for name, value in facts.items() if name not in ("found", "bad", "tried")})
    raise SystemExit(ExitCode.OK if task is not None else ExitCode.FAILED)


# --- arguments ------------------------------------------------------------------------------------


def _opened(run: Path) -> RunSource:
    from rota.runs.open import open_run

    return open_run(run)


def _executors(source: RunSource) -> Executors:
    from rota.engine.executors import Executors

    return Executors(source.folders())


def _change(
    deploys: tuple[tuple[str, Any], ...], dropped: tuple[int, ...], edits: tuple[str, ...], seed: str | None
) -> Change:
    from rota.proof.continuation import Change

    return Change(deploys=deploys, dropped=dropped, edited=tuple(map(_edit, edits)), seed=seed_of(seed))


def _new_code(source: RunSource, deploys: tuple[str, ...], lane: str, turn: int) -> list[NewCode]:
    """Return the code to deploy; the old binding of a name says how it is called."""
    from rota.proof.fork import NewCode
    from rota.proof.upgrade import binding_at

    found: list[NewCode] = []
    for given in deploys:
        name, file = _named_file(given, "--deploy")
        found.append(NewCode.like(name, binding_at(source, name, lane, turn), file, source.modules))
    return found


def _named_file(given: str, hint: str) -> tuple[str, Path]:
    name, separator, file = given.partition("=")
    if not separator or not name or not Path(file).exists():
        raise click.BadParameter(f"{given!r} is not NAME=FILE with a file or folder that is there", param_hint=hint)
    return name, Path(file)


def _edit(given: str) -> tuple[int, int, bytes]:
    where, separator, text = given.partition("=")
    record, _, index = where.partition(":")
    if not separator or not record.isdecimal() or not (index or "0").isdecimal():
        raise click.BadParameter(f"{given!r} is not RECORD[:INDEX]=TEXT", param_hint="--edit")
    if text.startswith("@"):
        try:
            payload = Path(text[1:]).read_bytes()
        except OSError as error:
            raise click.BadParameter(f"{text[1:]}: {error.strerror}", param_hint="--edit") from error
    else:
        payload = text.encode()
    return int(record), int(index or "0"), payload


# --- output ---------------------------------------------------------------------------------------


def verdict_of(came: list[Consequences]) -> str:
    """Return whether new code can replace the old: `accept`, `reject`, or `untested` if no turn ran it."""
    if not all(one.same for one in came):
        return "reject"
    return "accept" if any(one.ran_new_code for one in came) else "untested"


def _tried(retired: int, tried: int) -> str:
    """Return which turns a predicate was tried after, if it held after none."""
    if tried == retired:
        return f"tried after each of {counted(tried, 'turn')}"
    kept = f"tried after each of the last {counted(tried, 'turn')}" if tried else "no turn is kept"
    return f"{kept}; the {retired - tried} before were cut by a compaction"


def _facts(came: Consequences) -> dict[str, Any]:
    """Return the consequences for JSON."""
    facts = came._asdict()
    first = facts.pop("first")
    return {
        **facts,
        "same": came.same,
        "first": None
        if first is None
        else {
            "position": first.position,
            "fields": first.fields,
            "before": _described(first.before),
            "after": _described(first.after),
        },
    }


def _described(task: Any) -> dict[str, Any] | None:
    from rota.proof.changed import describe

    return None if task is None else {name.replace(" ", "_"): value for name, value in describe(task).items()}


def _print(came: Consequences, *, brings_code: bool) -> None:
    print_facts({
        "lane": came.lane,
        "shared": f"{counted(came.position, 'turn')}, digest {came.shared_digest.hex()}",
        "was": f"{counted(came.was_retired, 'turn')}, digest {came.was_digest.hex()}",
        "is": f"{counted(came.retired, 'turn')}, digest {came.digest.hex()}",
    })  # fmt: skip
    for number, what, why in came.left_out:
        click.echo(f"left out: {what} of record {number}: {why}")
    if came.models_read_back or came.models_executed:
        click.echo(f"model calls: {came.models_read_back} read back, {came.models_executed} computed")
    if brings_code:
        click.echo(f"new code: {counted(came.ran_new_code, 'turn')} ran it")
    if came.stopped_at_bound:
        click.echo("stopped: it did not come to rest; --turns-max lets it go on")
    if came.first is None:
        click.echo("every turn is the same")
        return
    _print_first(came, came.first)


def _print_first(came: Consequences, first: Any) -> None:
    from rota.proof.changed import describe

    before, after = first.before, first.after
    shown = before or after
    click.echo(f"first change: turn {shown.turn} of {shown.address}, retired as number {first.position}")
    if before is None or after is None:
        click.echo("  only the " + ("new" if before is None else "old") + " run has it")
    else:
        one, other = describe(before), describe(after)
        for name in first.fields:
            click.echo(f"  {name}: {cell(one[name], name)} -> {cell(other[name], name)}")
    click.echo(f"{counted(came.changed - 1, 'later turn')} also changed")
