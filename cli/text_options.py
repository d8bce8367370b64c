"""Options and output that `rota generate`, `chat`, `embed` and `classify` share."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from rota.cli.common_options import Connection, Number, Whole, lane_option, option
from rota.cli.model_numbers import provenance_text
from rota.cli.model_options import repository_of
from rota.cli.output import counted
from rota.common.errors import BadPayload, BadTarget, TaskFailed
from rota.common.shown import shown

if TYPE_CHECKING:
    from rota.client.client import Client
    from rota.common.text_results import GenerateResult
    from rota.common.work import Provenance

Command = TypeVar("Command", bound=Callable[..., Any])

_ENDED: Final = {
    "stop": "",
    "length": ", cut off by --max-tokens or the model's context",
    "tool_calls": ", to call tools",
}
# Errors name the fields of the payload; on a command line they are options.
_FIELD: Final = re.compile(r'"(?:generate|embed|classify)\.((?:output\.)?\w+)([^"]*)"')
_OPTION_OF: Final = {
    "output": "--schema, --regex, --grammar or --choice",
    "output.json_schema": "--schema",
    "output.choices": "--choice",
    "prompt": "PROMPT",
    "messages": "",
    "texts": "",
}


def sampling_options(command: Command) -> Command:
    """Add the options that choose the tokens of a text."""
    for added in reversed((
        option("--max-tokens", type=Whole(1), help="How many tokens to generate at most; else the model's default."),
        option("--temperature", type=Number(0), help="0: always the likeliest token, the default."),
        option("--top-k", type=Whole(0), help="Choose among so many of the likeliest tokens."),
        option("--top-p", type=Number(0, 1), help="Choose among the likeliest tokens that have this probability."),
        option("--min-p", type=Number(0, 1), help="Leave out tokens below this part of the likeliest one."),
        option("--repetition-penalty", type=Number(0), help="Above 1: repeat less."),
        option("--seed", type=Whole(0), help="The same seed gives the same text."),
        option("--stop", multiple=True, help="End before this text; give it several times for several."),
    )):  # fmt: skip
        command = added(command)
    return command


def lane_and_wait_options(command: Command) -> Command:
    """Add --lane and --wait-timeout."""
    waiting = option(
        "--wait-timeout", type=Number(0), metavar="SECONDS", help="Wait so long for the whole answer; the task stays."
    )
    return lane_option(waiting(command))


def text_of(argument: str) -> str:
    """Return an argument; `-` stands for what stdin has. Raises `BadPayload` if there is nothing but white space."""
    text = sys.stdin.read() if argument == "-" else argument
    if not text.strip():
        raise BadPayload("the prompt is empty: give one, or text on stdin with -")
    return text


def texts_of(arguments: Iterable[str]) -> list[str]:
    """Return arguments as texts; `-` stands for the lines of stdin."""
    found: list[str] = []
    for argument in arguments:
        found += sys.stdin.read().splitlines() if argument == "-" else [argument]
    if not found:
        raise BadPayload("there is no text: give some, or lines on stdin with -")
    return found


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given, for a client."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def json_of(path: Path, what: str) -> Any:
    """Return the JSON in a file. Raises `BadPayload`."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadPayload(f"{what} {path} is no JSON: {error or type(error).__name__}") from error


def check_deployed(client: Client, connection: Connection, model: str, lane: str) -> None:
    """Raise `BadTarget` with the remedy if no model of this name is bound in the lane."""
    from rota.common.text_requests import model_target

    target = model_target(model)
    there = [one["name"] for one in client.query("deploys", lane=lane) if one["kind"] == "model"]
    if target in there:
        return
    reference = target.removeprefix("model:")
    name, _, version = reference.partition("@")
    versions = _versions(connection, name)
    remedy = f"`rota model deploy {reference}` binds one of the repository, `rota model add {name} PATH` adds one"
    if version and versions and int(version) not in versions:
        remedy = f"The repository has version {', '.join(map(str, versions))} of {name}"
    elif versions:
        remedy = f"`rota model deploy {reference}` binds it"
    if there:
        known = f"there are {', '.join(one.removeprefix('model:') for one in there[:20])}"
    else:
        known = "there is no model in it"
        remedy += "" if versions else ", `rota model fetch smollm2` gets one that speaks"
    raise BadTarget(f"no model {shown(model)} is deployed in lane {lane}; {known}. {remedy}")


def _versions(connection: Connection, name: str) -> list[int]:
    """Return the versions of a model in the repository of the run folder, if that is here."""
    models = os.environ.get("ROTA_MODELS")
    entries = repository_of(connection.folder, Path(models) if models else None).entries()
    return sorted([one.version for one in entries if one.name == name])


def head_given(connection: Connection, text: str) -> bytes:
    """Return the head that --conversation names, which may be cut to its first digits if the store is here.

    Raises `BadPayload` for what is no head, and `ConversationError` for one that the store has not.
    """
    from rota.common.text_calls import DIGEST_BYTES
    from rota.conversations.listing import head_of

    path = connection.run_folder().conversations
    if connection.bind is None or path.exists():
        return head_of(path, text)
    try:
        head = bytes.fromhex(text)
    except ValueError:
        head = b""
    if len(head) != DIGEST_BYTES:
        raise BadPayload(f"--conversation {text[:80]}: give a head, {2 * DIGEST_BYTES} hexadecimal digits")
    return head


@contextlib.contextmanager
def options_named() -> Iterator[None]:
    """Name the options in errors of this block where they name fields of the payload."""
    try:
        yield
    except (BadPayload, TaskFailed) as error:
        raise type(error)(with_options(error.message), **error.fields) from error


def with_options(text: str) -> str:
    """Return an error's text with options in place of the payload's fields."""
    return _FIELD.sub(_option_of, text)


def _option_of(match: re.Match[str]) -> str:
    field, rest = match.groups()
    option = _OPTION_OF.get(field, "--" + field.removeprefix("output.").replace("_", "-"))
    return option + rest if option else match[0]


class TextPrinter:
    """Prints text as it comes, and ends the last line. On a terminal, control characters are replaced."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._ended = True

    def __call__(self, text: str) -> None:
        if text:
            self._ended = text.endswith("\n")
            click.echo(_shown_text(text) if self._is_terminal else text.encode(), nl=False)
            sys.stdout.flush()

    def end(self) -> None:
        """End the last line, if it has not ended."""
        if not self._ended:
            click.echo()
        self._ended = True


def _shown_text(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def usage_line(result: GenerateResult, provenance: Provenance | None) -> str:
    """Return what a text took, why it ended, and where it was computed."""
    usage = result.usage
    told = f"{counted(usage.prompt, 'token')} of prompt, {counted(usage.generated, 'token')} generated"
    ended = f", ended by the stop text {shown(result.stop)}" if isinstance(result.stop, str) else _ENDED[result.finish]
    return f"{told}{ended}{where(provenance)}"


def where(provenance: Provenance | None) -> str:
    """Return where a result was computed and what that is worth, to end a line with."""
    return "" if provenance is None else f"; {provenance_text(provenance)}"
