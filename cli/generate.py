"""`rota generate`: text from a model, as it comes."""

from __future__ import annotations

import json as json_module
import math
import time
from collections.abc import Mapping
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
    head_given,
    json_of,
    lane_and_wait_options,
    options_named,
    sampling_options,
    text_of,
    usage_line,
)
from rota.cli.waiting import cancelled_at_end, not_there_yet, noticed
from rota.common.errors import NotReachable, TextReplaced

if TYPE_CHECKING:
    from rota.client.generation import Generation
    from rota.common.results import Result
    from rota.common.text_results import GenerateResult

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW: Final = "new"
_RULE_OPTIONS: Final = {"json_schema": "--schema", "regex": "--regex", "grammar": "--grammar", "choices": "--choice"}


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

    The answer goes to stdout; the tokens it took, and where it was computed, to stderr. Ctrl-C, SIGTERM
    and a reader that closes the pipe cancel it.

    \b
    rota generate smollm2 "Why is the sky blue?"
    rota generate smollm2 - --system "Summarize in one sentence." < article.txt
    rota generate smollm2 "Is water wet?" --choice yes --choice no
    rota generate smollm2 "A cat, as JSON." --schema cat.json --json
    """
    if logprobs is not None and not json:
        raise click.UsageError("--logprobs needs --json")
    text = text_of(prompt)
    rules = _output(schema, regex, grammar, choices)
    options = given(
        **sampling, output=rules, tool_choice=tool_choice, logprobs=logprobs,
        tools=None if tools is None else json_of(tools, "--tools"), template=_variables(variables) or None,
        now_ms=now_ms,
    )  # fmt: skip
    if raw:
        if system is not None or conversation is not None:
            raise click.UsageError("--raw has no messages: leave out --system and --conversation")
        options["prompt"] = text
    else:
        if system is not None and conversation not in (None, _NEW):
            raise click.UsageError("--system: the conversation has its first messages already")
        said = [] if system is None else [{"role": "system", "content": system}]
        head = None if conversation is None else _head_of(connection, conversation)
        options |= {"messages": [*said, {"role": "user", "content": text}], "conversation": head}
    with connection.open() as client, options_named():
        check_deployed(client, connection, model, lane)
        generation = client.generate(model, lane=lane, priority=priority, **options)
        answer = _AwaitedAnswer(connection, lane, generation, wait_timeout, _needed(rules, tool_choice))
        return answer.print(stream=stream and not json, json=json)


def _head_of(connection: Connection, text: str) -> bytes:
    from rota.common.text_calls import NEW_CONVERSATION

    return NEW_CONVERSATION if text == _NEW else head_given(connection, text)


def print_stream(generation: Generation, printer: TextPrinter, wait_s: float | None) -> None:
    """Print the text of an answer as it comes. Raises `TimeoutError` if it is not whole in time."""
    until = math.inf if wait_s is None else time.monotonic() + wait_s
    try:
        while (left := until - time.monotonic()) > 0:
            generation.timeout_s = left
            if (text := next(generation, None)) is None:
                break
            printer(text)
        else:
            raise TimeoutError
    except TextReplaced as error:
        printer.end()
        click.echo(f"{error.message}; here it is from the start", err=True)
        printer(generation.result().text)
    except TimeoutError:
        raise TimeoutError(not_there_yet([generation.seq])) from None
    finally:
        printer.end()


class _AwaitedAnswer:
    """An answer that is waited for. `needed`: the option that says what it must be whole for; empty: none."""

    def __init__(
        self, connection: Connection, lane: str, generation: Generation, wait_s: float | None, needed: str
    ) -> None:
        self._connection = connection
        self._lane = lane
        self._generation = generation
        self._wait_s = wait_s
        self._needed = needed

    def print(self, *, stream: bool, json: bool) -> int:
        """Wait for the answer and print it; return the exit code."""
        generation = self._generation
        printer = TextPrinter()
        with cancelled_at_end(generation), noticed(self._connection, self._lane, Progress(False, "")):
            outcome = self._outcome(printer if stream else None)
        if json:
            print_json(_facts(outcome))
            return self._code(generation.result()) if outcome.ok else ExitCode.FAILED
        result = generation.result()
        if not stream:
            printer(result.text)
            printer.end()
        _print_rest(result)
        click.echo(usage_line(result, outcome.provenance), err=True)
        return self._code(result)

    def _outcome(self, printer: TextPrinter | None) -> Result:
        """Wait for the outcome, and print the text meanwhile if there is a printer."""
        generation = self._generation
        try:
            if printer is not None:
                print_stream(generation, printer, self._wait_s)
            return generation.outcome(math.inf if self._wait_s is None else self._wait_s)
        except NotReachable:
            click.echo(not_there_yet([generation.seq]), err=True)
            raise
        except TimeoutError:
            raise TimeoutError(not_there_yet([generation.seq])) from None

    def _code(self, result: GenerateResult) -> int:
        """Return the exit code of a result: one that was cut off may not be what it had to be."""
        if not self._needed or result.finish != "length":
            return ExitCode.OK
        click.echo(f"error: cut off before it was complete, as {self._needed} needs it: raise --max-tokens", err=True)
        return ExitCode.FAILED


def _needed(rules: Mapping[str, Any] | None, tool_choice: str | None) -> str:
    """Return the option that only a whole answer fits."""
    if rules:
        return _RULE_OPTIONS[next(iter(rules))]
    return "" if tool_choice in (None, "auto", "none") else f"--tool-choice {tool_choice}"


def _facts(outcome: Result) -> dict[str, Any]:
    facts = outcome_facts(outcome)
    result: dict[str, Any] = facts.pop("result", {})
    return facts | result


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
