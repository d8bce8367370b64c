"""`rota deploy`: binds a name in a lane to a WASM module."""

from __future__ import annotations

from pathlib import Path

import click

from rota.cli.common_options import ByteCount, Connection, Whole, broker_options, json_option, lane_option, option
from rota.cli.output import print_facts, print_json
from rota.cli.waiting import tell_if_no_worker, wait_option
from rota.common import limits
from rota.common.code_kinds import KINDS, MODULE_KINDS
from rota.common.work import AGENT, FUNCTION, Limits

_DEFAULTS = Limits()


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@option(
    "--kind",
    type=click.Choice(MODULE_KINDS),
    default=AGENT,
    help="How it is called: the agent ABI, or plain bytes in and out.",
)
@option(
    "--reuse", is_flag=True, help="Keep one instance for many tasks: only for modules that keep nothing between calls."
)
@option(
    "--export",
    "exports",
    metavar="ROLE=NAME",
    multiple=True,
    help="For a function: the module's own name for `alloc`, `call`, or both `output_ptr` and `output_len`.",
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
@lane_option
@option("--check/--no-check", default=True, help="Have a worker compile it before the deploy takes effect.")
@wait_option
@json_option
@broker_options
def deploy(
    connection: Connection, name: str, file: Path, kind: str, reuse: bool, exports: tuple[str, ...], fuel: int,
    memory: int, timeout_ms: int, emits: int, growth: int, tensors: int, lane: str, check: bool, wait: bool, json: bool,
) -> None:  # fmt: skip
    """Bind NAME to the WASM module in FILE. Tasks that are issued from now on run it.

    \b
    rota deploy counter counter.wasm
    rota deploy slug slug.wasm --kind function --reuse --export alloc=malloc --export call=slugify
    """
    code_limits = _DEFAULTS._replace(
        fuel=fuel,
        memory_bytes=memory,
        timeout_ms=timeout_ms,
        emits_max=emits,
        growth_bytes=growth,
        tensor_bytes=tensors,
    )
    roles = _exports(exports)
    with connection.open() as client:
        if check:
            tell_if_no_worker(client, connection, KINDS[kind].pool, name, wait=wait)
        info = client.deploy(
            name, file, kind, reuse=reuse, exports=roles, code_limits=code_limits, lane=lane, check=check
        )
    facts = {"name": name, "lane": lane, **info}
    if json:
        print_json(facts)
    else:
        print_facts(facts)


def _exports(given: tuple[str, ...]) -> dict[str, str]:
    roles = [*dict(KINDS[FUNCTION].roles), *KINDS[FUNCTION].optional_roles]
    named = {}
    for text in given:
        role, separator, name = text.partition("=")
        if not separator or role not in roles or not name:
            raise click.BadParameter(
                f"{text!r} is not ROLE=NAME, ROLE one of {', '.join(roles)}", param_hint="--export"
            )
        named[role] = name
    return named
