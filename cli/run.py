"""`rota run`: runs a program in the sandbox, through a broker, as if it were started here.

The program is data: it travels as the payload of a task for an agent that runs programs, which is deployed once per
lane and set of limits.
"""

from __future__ import annotations

import json as json_module
import math
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import click

from rota.cli.common_options import (
    ByteCount,
    Connection,
    Number,
    Whole,
    broker_options,
    json_option,
    lane_option,
    option,
)
from rota.cli.exits import ExitCode
from rota.cli.output import Progress, print_json, write_bytes
from rota.cli.submit import print_outcome
from rota.cli.waiting import noticed, tell_if_no_worker
from rota.common import limits
from rota.common.errors import BadPayload, ConfigError
from rota.common.work import Limits

if TYPE_CHECKING:
    from rota.client.client import Client
    from rota.common.results import Result
    from rota.runtimes.catalog import Runtime

_DEFAULTS: Final = Limits()
_NAME: Final = "run-"  # and the runtime's name: what the agent is bound to
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("script", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@option(
    "--file",
    "files",
    type=_FILE,
    multiple=True,
    help="A file that the program finds under its base name; may be repeated.",
)
@option("--stdin", is_flag=True, help="Read stdin to its end, and give it to the program.")
@option("--value", metavar="JSON", help="What the program finds in the variable `value`.")
@option("--runtime", default="", metavar="NAME", help="What runs it; default: by the suffix of SCRIPT, python for -.")
@option("--fuel", type=Whole(1, limits.FUEL_MAX), default=_DEFAULTS.fuel, help="Units of fuel that it may burn.")
@option(
    "--memory",
    type=ByteCount(1 << 16, limits.MEMORY_BYTES_MAX),
    default=_DEFAULTS.memory_bytes,
    metavar="BYTES",
    help="How much memory it may have, with its interpreter.",
)
@option("--timeout-ms", type=Whole(1, limits.TIMEOUT_MS_MAX), default=_DEFAULTS.timeout_ms, help="How long it may run.")
@option("--wait-timeout", type=Number(0), metavar="SECONDS", help="Stop waiting after so long; the task stays.")
@lane_option
@json_option
@broker_options
def run(
    connection: Connection, script: Path, args: tuple[str, ...], files: tuple[Path, ...], stdin: bool,
    value: str | None, runtime: str, fuel: int, memory: int, timeout_ms: int, wait_timeout: float | None, lane: str,
    json: bool,
) -> int:  # fmt: skip
    """Run the program in SCRIPT with ARGS, in the sandbox of a worker, and end with its exit code.

    It sees its arguments, the files that are given, and nothing else of this host. What it writes is printed when it
    ends. Options come before SCRIPT; - reads it from stdin.

    \b
    rota run report.py 2026 --verbose
    rota run --file sales.csv --fuel 5000000000 report.py
    echo "print(6 * 7)" | rota run -
    """
    from rota.runtimes.programs import encode_program

    if stdin and str(script) == "-":
        raise click.UsageError("--stdin: the program itself comes from stdin")
    chosen = _runtime(script, runtime)
    payload = encode_program(
        *_source(script, chosen),
        args=args,
        files=_files(files),
        stdin=_read(sys.stdin.buffer, Path("-")) if stdin else b"",
        value=_json(value),
    )
    code_limits = _DEFAULTS._replace(fuel=fuel, memory_bytes=memory, timeout_ms=timeout_ms)
    with connection.open() as client:
        name = _deployed(client, connection, lane, chosen, code_limits)
        with Progress(None, "run") as bar, noticed(connection, lane, bar):
            (result,) = client.results(
                client.submit(name, payload, lane=lane, wait=True).seq,
                1,
                math.inf if wait_timeout is None else wait_timeout,
            )
    return _print_end(result, json)


def _runtime(script: Path, name: str) -> Runtime:
    """Return the runtime for a script. Raises `ConfigError` if its suffix does not tell."""
    from rota.runtimes.catalog import RUNTIMES, runtime_for, runtime_named

    if name or str(script) == "-":
        return runtime_named(name or "python")
    found = runtime_for(script.suffix)
    if found is None:
        raise ConfigError(
            f"{script}: no runtime is for files that end so; name one with --runtime: {', '.join(RUNTIMES)}"
        )
    return found


def _source(script: Path, runtime: Runtime) -> tuple[str, str]:
    """Return a program and its name, as the runtime takes them."""
    from rota.runtimes.bundles import convert

    if str(script) == "-":
        name, data = "", _read(sys.stdin.buffer, script)
    else:
        name, data = convert(runtime.digest, script.name, _read_file(script))
    try:
        return data.decode(), name
    except UnicodeDecodeError as error:
        raise BadPayload(f"{script} is no program in UTF-8: {error.reason} at byte {error.start}") from error


def _files(paths: tuple[Path, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in paths:
        if path.name in found:
            raise click.UsageError(f"--file: two files are called {path.name}")
        found[path.name] = _read_file(path)
    return found


def _read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        return _read(stream, path)


def _read(stream: IO[bytes], path: Path) -> bytes:
    """Return all of a stream. Raises `BadPayload` if it is more than a task takes, as of a device without end."""
    data = stream.read(limits.PAYLOAD_BYTES_MAX + 1)
    if len(data) > limits.PAYLOAD_BYTES_MAX:
        raise BadPayload(f"{path} has more than {limits.PAYLOAD_BYTES_MAX} bytes, which is all that a task takes")
    return data


def _json(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json_module.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPayload(f"--value is no JSON that can be read: {error}") from error


def _deployed(client: Client, connection: Connection, lane: str, runtime: Runtime, code_limits: Limits) -> str:
    """Return the name that runs programs under these limits, bound in the lane if it was not."""
    from rota.common.digests import digest_of
    from rota.runtimes.content import Extras, content_of
    from rota.runtimes.programs import program_path

    name = _NAME + runtime.name
    if code_limits != _DEFAULTS:
        name += "-" + digest_of(list(code_limits)).hex()[:8]
    path = program_path(runtime)
    wanted = content_of(path, None, Extras(runtime=runtime.name)).digest
    if any(one["name"] == name and one["digest"] == wanted for one in client.query("deploys", lane=lane)):
        return name
    tell_if_no_worker(client, connection, "cpu", name, wait=True)
    click.echo(f"binding {name} in lane {lane} to the {runtime.title} that runs programs", err=True)
    with Progress(None, "deploy") as bar, noticed(connection, lane, bar):
        client.deploy(name, path, runtime=runtime.name, code_limits=code_limits, lane=lane)
    return name


def _print_end(result: Result, as_json: bool) -> int:
    """Print what a program wrote, and return its exit code, or that of a task that failed."""
    from rota.runtimes.programs import decode_program_end

    if not result.ok:
        print_outcome(result, as_json)
        return ExitCode.FAILED
    end = decode_program_end(result.data or b"")
    if as_json:
        print_json({"seq": result.seq, "lane": result.lane, **end._asdict(), "log": result.log})
        return end.exit
    write_bytes(end.stdout.encode())
    click.echo(end.stderr, err=True, nl=False)
    if end.error is not None:
        click.echo(end.error["traceback"].rstrip("\n"), err=True)
    return end.exit
