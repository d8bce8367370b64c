"""`rota generate`: text from a model, as it comes."""

from __future__ import annotations

import json as json_module
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rota.cli.common_options import Connection, Whole, broker_options, json_option, option
from rota.cli.exits import ExitCode
from rota.cli.output import Progress, print_json
from rota.cli.submit import outcome_facts
from rota.cli.text_options import (
    TextPrinter,
    check_deployed,
    given,
    json_of,
    lane_and_wait_options,
    sampling_options,
    text_of,
    usage_line,
)
from rota.cli.waiting import not_there_yet, noticed
from rota.common.errors import BadPayload, NotReachable, TextReplaced

if TYPE_CHECKING:
    from rota.client.generation import Generation
    from rota.common.results import Result
    from rota.common.text_results import GenerateResult

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW: Final = "new"


@click.command()
@click.argument("model")
@click.argument("prompt")
@option("--system", help="A message before the prompt: how to answer.")
@option("--raw", is_flag=True, help="Continue PROMPT as it is, without the model's chat template.")
@option("--conversation", metavar="HEAD", help="Continue the conversation with this head; `new` begins one.")
@sampling_options
@option("--schema", type=_FILE, help="The text is JSON that fits the JSON schema in this file.")
@option("--regex", help="The text matches this regular expression.")
@option("--grammar", type=_FILE, help="The text fits the Lark grammar in this file.")
@option("--choice", "choices", multiple=True, help="The text is one of these; give it several times.")
@option("--tools", type=_FILE, help="A JSON list of tools: name, description, parameters (a JSON schema).")
@option("--tool-choice", help="auto, none, required, or the name of a tool.")
@option("--template", "variables", multiple=True, metavar="NAME=VALUE", help="A variable of the chat template; JSON.")
@option("--logprobs", type=Whole(0, 20), help="With --json: log-probabilities, and those of so many other tokens.")
@option("--priority", type=Whole(-8, 7), default=0, help="Higher ones are issued first.")
@option("--now-ms", type=Whole(0), help="Pin the time that the template sees, in ms since 1970.")
@option("--stream/--no-stream", default=True, help="Print the text as it comes, or at the end.")
@lane_and_wait_options
@json_option
@broker_options
def generate(
    connection: Connection, model: str, prompt: str, system: str | None, raw: bool, conversation: str | None,
    schema: Path | None, regex: str | None, grammar: Path | None, choices: tuple[str, ...], tools: Path | None,
    tool_choice: str | None, variables: tuple[str, ...], logprobs: int | None, priority: int, now_ms: int | None,
    stream: bool, lane: str, wait_timeout: float | None, json: bool, **sampling: Any,
) -> int:  # fmt: skip
    """Have MODEL answer PROMPT; - reads it from stdin.

    The answer goes to stdout; the tokens it took, and where it was computed, to stderr. Ctrl-C cancels it.

    \b
    rota generate smollm2 "Why is the sky blue?"
    rota generate smollm2 - --system "Summarize in one sentence." < article.txt
    rota generate smollm2 "Is water wet?" --choice yes --choice no
    rota generate smollm2 "A cat, as JSON." --schema cat.json --json
    """
    if logprobs is not None and not json:
        raise click.UsageError("--logprobs needs --json")
    text = text_of(prompt)
    options = given(
        **sampling, output=_output(schema, regex, grammar, choices), tool_choice=tool_choice, logprobs=logprobs,
        tools=None if tools is None else json_of(tools, "--tools"), template=_variables(variables) or None,
        now_ms=now_ms,
    )  # fmt: skip
    if raw:
        if system is not None or conversation is not None:
            raise click.UsageError("--raw has no messages: leave out --system and --conversation")
        options["prompt"] = text
    else:
        said = [] if system is None else [{"role": "system", "content": system}]
        options |= {"messages": [*said, {"role": "user", "content": text}], "conversation": head_of(conversation)}
    wait_s = math.inf if wait_timeout is None else wait_timeout
    with connection.open() as client:
        check_deployed(client, model, lane)
        generation = client.generate(model, lane=lane, priority=priority, **options)
        is_bound = "output" in options or tool_choice not in (None, "auto", "none")
        return _print_answer(
            connection, lane, generation, wait_s, stream=stream and not json, json=json, is_bound=is_bound
        )


def head_of(text: str | None) -> bytes | None:
    """Return the head that --conversation names. Raises `BadPayload`."""
    from rota.common.text_calls import DIGEST_BYTES, NEW_CONVERSATION

    if text is None or text == _NEW:
        return None if text is None else NEW_CONVERSATION
    try:
        head = bytes.fromhex(text)
    except ValueError:
        head = b""
    if len(head) != DIGEST_BYTES:
        raise BadPayload(f"--conversation {text[:80]}: give a head, {2 * DIGEST_BYTES} hexadecimal digits, or `{_NEW}`")
    return head


def print_stream(generation: Generation, printer: TextPrinter, wait_s: float) -> None:
    """Print the text of an answer as it comes, for so long. Raises `TimeoutError`; afterwards the result is there."""
    ends_at = time.monotonic() + wait_s
    try:
        while True:
            generation.timeout_s = max(0.0, ends_at - time.monotonic())
            if not (text := next(generation, "")):
                break
            printer(text)
            if time.monotonic() > ends_at:  # more text may be there at once, always
                raise TimeoutError
    except TextReplaced as error:
        printer.end()
        click.echo(f"{error.message}; here it is from the start", err=True)
        printer(generation.result().text)
    printer.end()


def _print_answer(
    connection: Connection,
    lane: str,
    generation: Generation,
    wait_s: float,
    *,
    stream: bool,
    json: bool,
    is_bound: bool,
) -> int:
    printer = TextPrinter()
    try:
        with noticed(connection, lane, Progress(False, "")):
            if stream:
                print_stream(generation, printer, wait_s)
            outcome = generation.outcome(wait_s)
    except KeyboardInterrupt:
        printer.end()
        if generation.cancel():
            click.echo(f"task {generation.seq} is cancelled", err=True)
        raise
    except (NotReachable, TimeoutError) as error:
        printer.end()
        if isinstance(error, TimeoutError):
            raise TimeoutError(not_there_yet([generation.seq])) from None
        click.echo(not_there_yet([generation.seq]), err=True)
        raise
    if json:
        print_json(_facts(outcome))
        return ExitCode.OK if outcome.ok and not (is_bound and _is_cut(generation.result())) else ExitCode.FAILED
    result = generation.result()
    if not stream:
        printer(result.text)
        printer.end()
    _print_rest(result)
    click.echo(usage_line(result, outcome.provenance), err=True)
    if is_bound and _is_cut(result):
        click.echo("error: the answer was cut off (--max-tokens), so it is not what it had to be", err=True)
        return ExitCode.FAILED
    return ExitCode.OK


def _is_cut(result: GenerateResult) -> bool:
    return result.finish == "length"


def _facts(outcome: Result) -> dict[str, Any]:
    facts = outcome_facts(outcome)
    return {**facts.pop("result"), **facts} if outcome.ok else facts


def _print_rest(result: GenerateResult) -> None:
    for call in result.tool_calls or ():
        click.echo(json_module.dumps({"tool": call.name, "id": call.id, "arguments": call.arguments}))
    if result.conversation is not None:
        click.echo(f"conversation {result.conversation.hex()}", err=True)


def _output(
    schema: Path | None, regex: str | None, grammar: Path | None, choices: tuple[str, ...]
) -> dict[str, Any] | None:
    rules: dict[str, Any] = {}
    if schema is not None:
        rules["json_schema"] = json_of(schema, "--schema")
    if regex is not None:
        rules["regex"] = regex
    if grammar is not None:
        rules["grammar"] = grammar.read_text(encoding="utf-8")
    if choices:
        rules["choices"] = choices
    if len(rules) > 1:
        raise click.UsageError("give one of --schema, --regex, --grammar and --choice")
    return rules or None


def _variables(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of `NAME=VALUE`. A value that is no JSON is text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--template")
        try:
            found[name] = json_module.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found
