"""`rota submit`: submits one task from the command line or many from a file, and prints their results if wanted.

Lines of `--jsonl` must be JSON. The bytes of a line are the payload; a line that is a map with `target` is a task with
its own target and payload. All tasks of a file are sent in as few messages as possible.
"""

from __future__ import annotations

import base64
import json as json_module
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from rota.cli.common_options import (
    Connection,
    Number,
    Whole,
    broker_options,
    json_option,
    lane_option,
    option,
    progress_option,
)
from rota.cli.exits import ExitCode
from rota.cli.model_numbers import tell_provenances
from rota.cli.output import Progress, cell, print_json, write_bytes
from rota.cli.waiting import not_there_yet, noticed
from rota.common.errors import BadPayload, BadTarget, NotReachable
from rota.common.shown import shown
from rota.common.targets import check_target
from rota.common.work import UNABLE_FAILURES
from rota.runs.readable import message_pack_value, readable, size_text

if TYPE_CHECKING:
    from rota.client.client import Batch, Client
    from rota.client.exchanges import Ranges
    from rota.common.results import Result
    from rota.common.work import Provenance

Command = TypeVar("Command", bound=Callable[..., Any])

_SHOWN_CHARS_MAX: Final = 4_000  # of a value on a terminal
_LINE_KEYS: Final = ("target", "payload")


def task_options(command: Command) -> Command:
    """Add TARGET, PAYLOAD, and the options of commands that send tasks."""
    for added in reversed((
        click.argument("target", required=False),
        click.argument("payload", required=False),
        option(
            "--file",
            "files",
            type=click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True),
            multiple=True,
            help="The content of this file is the payload; give it several times for several tasks. - is stdin.",
        ),
        option(
            "--jsonl",
            type=click.File("rb"),
            help='One task per line of JSON. TARGET gets the bytes of the line; a line {"target": ..., "payload": ...} '
            'goes to its own target with its own payload: text as it is, {"base64": ...} decoded, all else as JSON. '
            "- is stdin.",
        ),
        lane_option,
        option("--priority", type=Whole(-8, 7), default=0, help="Higher ones are issued first."),
        option("--block", is_flag=True, help="While the lane is full, wait instead of failing."),
        option(
            "--now-ms",
            type=Whole(0),
            help="Pin the time that the agents see, in ms since 1970, for a repeatable run.",
        ),
        option("--producer", help="Your own producer id, to repeat it safely."),
        option(
            "--number",
            type=Whole(1),
            help="The number of this submit of that producer; repeated, it has no second effect.",
        ),
        progress_option,
        json_option,
        broker_options,
    )):  # fmt: skip
        command = added(command)
    return command


@click.command()
@task_options
@option("--wait", is_flag=True, help="Wait for the results and print them, in order.")
@option(
    "--wait-timeout",
    type=Number(0),
    metavar="SECONDS",
    help="With --wait: stop waiting after so long, and print the seqs that are still to come. The tasks stay.",
)
def submit(connection: Connection, **given: Any) -> int:
    """Submit tasks to TARGET (name/key, name or model:NAME).

    Prints the seq of each task when it is durable, or with --wait each result; the log of a single task, or of one that
    failed, goes to stderr. `rota show SEQ` has the log of any task. PAYLOAD is sent as typed.

    \b
    rota submit counter/alice hello --wait
    rota submit reader --file a.txt --file b.txt
    cat lines.jsonl | rota submit counter/bob --jsonl - --wait --json
    rota submit echo hi --producer nightly --number 7
    """
    return send_tasks(connection, "submit_many", **given)


def send_tasks(
    connection: Connection, method: str, *, target: str | None, payload: str | None, files: tuple[Path, ...],
    jsonl: IO[bytes] | None, lane: str, producer: str | None, number: int | None, progress: bool | None, json: bool,
    wait: bool, wait_timeout: float | None, **options: Any,
) -> int:  # fmt: skip
    """Send the tasks of a command line with this method of the client; print their results, or their seqs."""
    targets, payloads = _tasks(target, payload, files, jsonl)
    if number is not None and producer is None:
        raise click.UsageError("--number counts the submits of a --producer: give both")
    if len(payloads) == 1 and progress is None:
        progress = False  # a single task needs no progress
    with connection.open(producer) as client:
        with Progress(progress, "submitted") as bar:
            batch = getattr(client, method)(
                targets, payloads, lane=lane, wait=wait, number=number, sent=lambda tasks: bar(tasks, len(payloads)),
                **options,
            )  # fmt: skip
        if not wait:
            _print_seqs(batch.ranges, json)
            return ExitCode.OK
        return _print_results(client, connection, lane, batch, wait_timeout, progress, json)


def print_outcome(result: Result, as_json: bool, *, in_lines: bool = False) -> bool:
    """Print the outcome of a task; return whether it succeeded. A single result is printed raw, one of several as a
    line; of a generated text, the text.
    """
    if as_json:
        print_json(outcome_facts(result))
    elif result.ok:
        told = text_facts(result)
        shown = told["text"].encode() if told and "text" in told else _for_stdout(result.data or b"")
        write_bytes(shown + (b"\n" if in_lines else b""))
        _print_log([] if in_lines else result.log)
        for ref in result.tensors:
            name = ref.digest.hex()
            shape = ", ".join(str(length) for length in ref.shape)
            click.echo(f"tensor: {ref.dtype} [{shape}] tensors/{name[:2]}/{name[2:4]}/{name}.npy", err=True)
    else:
        click.echo(f"error: task {result.seq} failed with {result.kind}: {result.explanation}", err=True)
        is_shown = result.kind in UNABLE_FAILURES  # its last line
        _print_log(result.log[:-1] if is_shown else result.log)
    return result.ok


def _print_log(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"  log: {line}", err=True)


def _for_stdout(data: bytes) -> bytes:
    """Return a result for stdout: its bytes, but on a terminal the value of MessagePack or the hex of other bytes."""
    if not sys.stdout.isatty():
        return data
    found = readable(data, _SHOWN_CHARS_MAX)
    if found.form not in ("msgpack", "bytes"):
        return data
    form = "MessagePack" if found.form == "msgpack" else "bytes in hex"
    click.echo(f"({form}, {size_text(found.size)}; a pipe or a file gets the bytes themselves)", err=True)
    return found.text.encode()


def _value_facts(data: bytes | None) -> dict[str, Any]:
    """Return the value of a result that is MessagePack and no text, in JSON's types."""
    value = message_pack_value(data or b"")
    return {} if value is None else {"value": value}


def outcome_facts(result: Result) -> dict[str, Any]:
    """Return a result for JSON."""
    facts: dict[str, Any] = {
        "seq": result.seq, "lane": result.lane, "turn": result.turn, "ok": result.ok, "attempts": result.attempts,
    }  # fmt: skip
    if result.ok:
        told = text_facts(result)
        facts["result"] = told or result.data
        facts |= {} if told else _value_facts(result.data)
    else:
        facts |= {"kind": result.kind, "message": result.message}
    facts["log"] = result.log
    if result.tensors:
        facts["tensors"] = result.tensors
    if result.provenance is not None:
        facts["provenance"] = result.provenance
    return facts


def text_facts(result: Result) -> dict[str, Any] | None:
    """Return the fields of what a model said of texts, or generated; None for vectors and for all other results."""
    from rota.common.errors import BadPayload
    from rota.common.text_results import EmbedResult, decode_text_result

    if result.provenance is None or result.payload is None:
        return None
    try:
        found = decode_text_result(result.payload, result.tensors)
    except BadPayload:
        return None  # of a model of tensors
    if isinstance(found, EmbedResult):
        return None
    facts = found._asdict()
    if facts.get("conversation") is not None:
        facts["conversation"] = facts["conversation"].hex()
    return facts


def _tasks(
    target: str | None, payload: str | None, files: Sequence[Path], jsonl: IO[bytes] | None
) -> tuple[str | list[str], list[bytes]]:
    if sum((payload is not None, bool(files), jsonl is not None)) > 1:
        raise click.UsageError("give one of PAYLOAD, --file and --jsonl")
    if jsonl is not None:
        tasks = list(_lines(jsonl, target))
        if not tasks:
            raise click.UsageError("--jsonl has no line with a task")
        return [one for one, _ in tasks], [data for _, data in tasks]
    if target is None:
        raise click.UsageError("missing argument TARGET; only the lines of --jsonl can bring their own")
    if files:
        return target, [_read(path) for path in files]
    return target, [os.fsencode(payload or "")]  # the bytes as typed, UTF-8 or not


def _read(path: Path) -> bytes:
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()


def _lines(stream: IO[bytes], target: str | None) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(stream, 1):
        line = line.strip()
        if not line:
            continue
        try:
            value = json_module.loads(line, parse_constant=_no_json)
        except ValueError as error:
            raise BadPayload(f"--jsonl, line {number} is no JSON: {error}") from error
        except RecursionError as error:
            raise BadPayload(f"--jsonl, line {number} is nested too deeply") from error
        if isinstance(value, dict) and "target" in value:
            yield _own_target(value, number), _own_payload(value, number)
        elif target is not None:
            yield target, line
        else:
            raise click.UsageError(f'--jsonl, line {number} names no "target" and there is no argument TARGET')


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is none of its numbers")


def _own_target(value: dict[str, Any], number: int) -> str:
    unknown = [key for key in value if key not in _LINE_KEYS]
    if unknown:
        raise BadPayload(
            f"--jsonl, line {number}: unknown key {shown(unknown[0])}; there are {' and '.join(_LINE_KEYS)}"
        )
    target = value["target"]
    if not isinstance(target, str):
        raise BadTarget(f"--jsonl, line {number}: the target is no text")
    try:
        return check_target(target)
    except BadTarget as error:
        raise BadTarget(f"--jsonl, line {number}: {error.message}", **error.fields) from error


def _own_payload(value: dict[str, Any], number: int) -> bytes:
    payload = value.get("payload", "")
    encoded = payload.get("base64") if isinstance(payload, dict) and list(payload) == ["base64"] else None
    try:
        if encoded is not None:
            return base64.b64decode(encoded, validate=True)
    except (ValueError, TypeError) as error:
        raise BadPayload(f"--jsonl, line {number}: the payload is no base64: {error}") from error
    try:
        text = payload if isinstance(payload, str) else json_module.dumps(payload, ensure_ascii=False, allow_nan=False)
        return text.encode()
    except RecursionError as error:
        raise BadPayload(f"--jsonl, line {number} is nested too deeply") from error
    except ValueError as error:  # a lone surrogate, or a number too large for a float
        raise BadPayload(f"--jsonl, line {number}: the payload cannot be sent: {error}") from error


def _print_seqs(ranges: Ranges, as_json: bool) -> None:
    if as_json:
        print_json({"seqs": [list(one) for one in ranges], "tasks": sum(tasks for _, tasks in ranges)})
        return
    for first_seq, tasks in ranges:
        for seq in range(first_seq, first_seq + tasks):
            click.echo(cell(seq))


def _print_results(
    client: Client, connection: Connection, lane: str, batch: Batch, timeout_s: float | None, progress: bool | None,
    as_json: bool,
) -> int:  # fmt: skip
    failed = 0
    done = 0
    sources: list[Provenance] = []

    def next_seq() -> int | None:
        return batch[done].seq if done < len(batch) else None

    try:
        with Progress(progress, "done") as bar, noticed(connection, lane, bar, next_seq):
            for first_seq, tasks in batch.ranges:
                for result in client.results(first_seq, tasks, math.inf if timeout_s is None else timeout_s):
                    bar.clear()
                    failed += not print_outcome(result, as_json, in_lines=len(batch) > 1)
                    if result.ok and result.provenance is not None and not as_json:
                        sources.append(result.provenance)
                    done += 1
                    bar(done, len(batch))
    except (KeyboardInterrupt, NotReachable):
        if done < len(batch):
            click.echo(not_there_yet(batch.seqs[done:]), err=True)
        raise
    except TimeoutError:
        if as_json:
            _print_seqs(_rest(batch.ranges, done), as_json)
        raise TimeoutError(not_there_yet(batch.seqs[done:])) from None
    tell_provenances(sources)
    return ExitCode.FAILED if failed else ExitCode.OK


def _rest(ranges: Ranges, done: int) -> Ranges:
    """Return the ranges without their first `done` tasks."""
    rest = []
    for first_seq, tasks in ranges:
        gone = min(done, tasks)
        done -= gone
        if gone < tasks:
            rest.append((first_seq + gone, tasks - gone))
    return tuple(rest)
