"""`rota deploy`: binds a name in a lane to code: a source, a WASM module, a component."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from rota.cli.common_options import ByteCount, Connection, Whole, broker_options, json_option, lane_option, option
from rota.cli.output import Progress, print_facts, print_json
from rota.cli.runtimes import fetch_runtime_of
from rota.cli.waiting import noticed, tell_if_no_worker, wait_option
from rota.common import limits
from rota.common.code_kinds import KEPT_KINDS, KINDS
from rota.common.work import Limits

CPU: Final = "cpu"  # the pool of all that is deployed from a file
_DEFAULTS: Final = Limits()


@click.command()
@click.argument("name")
@click.argument("file", required=False, type=click.Path(exists=True, path_type=Path))
@option("--program", default="", metavar="LANGUAGE", help="In place of FILE: an agent whose messages are programs.")
@option("--kind", type=click.Choice(KEPT_KINDS), help="How it is called; default: by what it is (docs/AGENTS.md).")
@option("--with", "with_", metavar="[GUEST=]PATH", multiple=True, help="Beside a source: a file, a folder, a wheel.")
@option("--entry", default="", metavar="FILE", help="The main file of a folder; default: agent.py, flow.py, agent.js.")
@option("--runtime", default="", metavar="NAME", help="What runs a source, if its suffix does not tell.")
@option("--fetch", is_flag=True, help="Fetch the runtime of a source first, if it is not here.")
@option("--arg", "args", metavar="ARG", multiple=True, help="An argument of a command or a source.")
@option("--env", metavar="KEY=VALUE", multiple=True, help="A variable of its environment.")
@option("--file", "files", metavar="GUEST=HOST", multiple=True, help="A file that it sees as /GUEST.")
@option(
    "--reuse", is_flag=True, help="Keep one instance for many tasks: only for modules that keep nothing between calls."
)
@option(
    "--export",
    "exports",
    metavar="ROLE=NAME",
    multiple=True,
    help="For a function: the module's own name for `alloc`, `call`, or both `output_ptr` and `output_len`; for a "
    "command, for `start`.",
)
@option(
    "--fuel",
    type=Whole(1, limits.FUEL_MAX),
    default=_DEFAULTS.fuel,
    help="How many units of fuel a task may burn.",
)
@option(
    "--memory",
    type=ByteCount(1 << 16, limits.MEMORY_BYTES_MAX),
    default=_DEFAULTS.memory_bytes,
    metavar="BYTES",
    help="How much memory an instance may have.",
)
@option(
    "--timeout-ms",
    type=Whole(1, limits.TIMEOUT_MS_MAX),
    default=_DEFAULTS.timeout_ms,
    help="How long a task may run.",
)
@option(
    "--emits",
    type=Whole(0, limits.EMITS_MAX),
    default=_DEFAULTS.emits_max,
    help="How many tasks a task may emit.",
)
@option(
    "--growth",
    type=ByteCount(0, limits.GROWTH_BYTES_MAX),
    default=_DEFAULTS.growth_bytes,
    metavar="BYTES",
    help="By how much a task may grow its lane with emits and state, beyond what it brought.",
)
@option(
    "--tensors",
    type=ByteCount(0, limits.TASK_TENSOR_BYTES_MAX),
    default=_DEFAULTS.tensor_bytes,
    metavar="BYTES",
    help="How large the tensors that a task makes may be together.",
)
@option(
    "--flow/--no-flow", default=None, help="Whether each task is a call that may wait; default: by what a source is."
)
@option(
    "--asks",
    type=Whole(0, limits.ASKS_MAX),
    default=_DEFAULTS.asks_max,
    help="How many messages an agent may have postponed and not settled.",
)
@option(
    "--steps",
    type=Whole(1, limits.STEPS_MAX),
    default=_DEFAULTS.steps_max,
    help="How many messages a call of a flow may get, its own included.",
)
@option(
    "--call-fuel",
    type=Whole(1, limits.FUEL_MAX),
    default=_DEFAULTS.call_fuel,
    help="How many units of fuel all steps of a call may burn together.",
)
@option(
    "--call-bytes",
    type=ByteCount(0, limits.CALL_BYTES_MAX),
    default=_DEFAULTS.call_bytes,
    metavar="BYTES",
    help="How large the messages of a call may be together, which are kept until it ends.",
)
@lane_option
@option("--check/--no-check", default=True, help="Have a worker compile it before the deploy takes effect.")
@wait_option
@json_option
@broker_options
def deploy(
    connection: Connection, name: str, file: Path | None, program: str, kind: str | None, with_: tuple[str, ...],
    entry: str, runtime: str, fetch: bool, args: tuple[str, ...], env: tuple[str, ...], files: tuple[str, ...],
    reuse: bool, exports: tuple[str, ...], fuel: int, memory: int, timeout_ms: int, emits: int, growth: int,
    tensors: int, flow: bool | None, asks: int, steps: int, call_fuel: int, call_bytes: int, lane: str, check: bool,
    wait: bool, json: bool,
) -> None:  # fmt: skip
    """Bind NAME to the code in FILE. Tasks that are issued from now on run it.

    FILE is a source (Python, JavaScript), a folder with one, or a WASM module or component.

    \b
    rota deploy planner planner.py
    rota deploy planner ./planner --with shared.py --with deps/tomli-2.0.1-py3-none-any.whl
    rota deploy py --program python
    rota deploy trip trip.py --steps 200
    rota deploy counter counter.wasm
    rota deploy resize resvg.wasm --arg --width --arg 64
    rota deploy slug slug.wasm --kind function --reuse --export alloc=malloc --export call=slugify
    """
    file = _file(file, program)
    code_limits = _DEFAULTS._replace(
        fuel=fuel,
        memory_bytes=memory,
        timeout_ms=timeout_ms,
        emits_max=emits,
        growth_bytes=growth,
        tensor_bytes=tensors,
        asks_max=asks,
        steps_max=steps,
        call_fuel=call_fuel,
        call_bytes=call_bytes,
    )
    roles = _exports(exports)
    extras: dict[str, Any] = {
        "args": args,
        "env": dict(_pair(one, "--env", "KEY=VALUE") for one in env),
        "files": {
            guest.removeprefix("/"): Path(host) for guest, host in (_pair(one, "--file", "GUEST=HOST") for one in files)
        },
        "with_": [_beside(one) for one in with_],
    }
    if fetch:
        fetch_runtime_of(file, entry, runtime)
    with connection.open() as client:
        if check:
            tell_if_no_worker(client, connection, CPU, name, wait=wait)
        with Progress(None, "deploy") as bar, noticed(connection, lane, bar):
            info = client.deploy(
                name, file, kind, flow=flow, reuse=reuse, exports=roles, code_limits=code_limits, lane=lane,
                check=check, entry=entry, runtime=runtime, **extras,
            )  # fmt: skip
    facts = {"name": name, "lane": lane, **info}
    if json:
        print_json(facts)
    else:
        print_facts(facts)


def _file(file: Path | None, program: str) -> Path:
    """Return what is deployed: FILE, or the agent that runs programs of a language."""
    from rota.runtimes.catalog import runtime_named
    from rota.runtimes.programs import program_path

    if (file is None) != bool(program):
        raise click.UsageError("give FILE, or --program LANGUAGE in its place")
    return program_path(runtime_named(program)) if file is None else file


def _beside(given: str) -> Path | tuple[str, Path]:
    """Return what goes beside a source: a path, or with GUEST= before it a pair."""
    guest, separator, host = given.partition("=")
    found = Path(given) if not separator or Path(given).exists() else (guest, Path(host))
    place = found if isinstance(found, Path) else found[1]
    if not place.exists():
        raise click.BadParameter(f"{place} is not there", param_hint="--with")
    return found


def _pair(given: str, hint: str, form: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{given!r} is not {form}", param_hint=hint)
    return name, value


def _exports(given: tuple[str, ...]) -> dict[str, str]:
    naming = [kind for kind in KINDS.values() if kind.names_exports]
    roles = [role for kind in naming for role in (*dict(kind.roles), *kind.optional_roles)]
    named = {}
    for text in given:
        role, separator, name = text.partition("=")
        if not separator or role not in roles or not name:
            raise click.BadParameter(
                f"{text!r} is not ROLE=NAME, ROLE one of {', '.join(roles)}", param_hint="--export"
            )
        named[role] = name
    return named
