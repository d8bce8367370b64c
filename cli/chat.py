"""`rota chat`: a dialogue with a model at the terminal, or line by line from a pipe."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from rota.cli.common_options import Connection, broker_options, option
from rota.cli.exits import ExitCode
from rota.cli.generate import print_stream
from rota.cli.output import Progress
from rota.cli.text_options import (
    TextPrinter,
    check_deployed,
    given,
    head_given,
    lane_and_wait_options,
    options_named,
    sampling_options,
    usage_line,
    with_options,
)
from rota.cli.waiting import cancelled_at_end, noticed
from rota.common.errors import TaskFailed

if TYPE_CHECKING:
    from rota.client.generation import Generation
    from rota.common.chat import Chat

_PROMPT: Final = "> "
_HELP: Final = """\
/reset     begin anew
/fork [N]  go back to the end of answer N (default: the last but one) and go on from there
/head      print the head of the conversation, to continue it later
/quit      end; so does Ctrl-D. Ctrl-C cancels an answer"""


@click.command()
@click.argument("model")
@option("--system", help="A message before all others: how to answer.")
@option("--conversation", metavar="HEAD", help="Continue the conversation with this head.")
@sampling_options
@lane_and_wait_options
@broker_options
def chat(
    connection: Connection, model: str, system: str | None, conversation: str | None, lane: str,
    wait_timeout: float | None, **sampling: Any,
) -> int:  # fmt: skip
    """Talk with MODEL. Each line is a message; /help lists the commands.

    Only what is said is sent and kept, not the history each time. From a pipe, each line of stdin is a message.

    \b
    rota chat smollm2 --system "Answer in one sentence."
    rota chat smollm2 --conversation HEAD
    """
    head = None if conversation is None else head_given(connection, conversation)
    with connection.open() as client, options_named():
        check_deployed(client, connection, model, lane)
        talk = client.chat(model, system=system, conversation=head, lane=lane, **given(**sampling))
        return _Talk(connection, lane, talk, wait_timeout).run()


class _Talk:
    """One session: the chat, and the chats behind each answer to go back to."""

    def __init__(self, connection: Connection, lane: str, chat: Chat[Generation], wait_s: float | None) -> None:
        self._connection = connection
        self._lane = lane
        self._wait_s = wait_s
        self._begin = chat.fork()
        self._chat = chat
        self._answers: list[Chat[Generation]] = []
        self._is_terminal = sys.stdin.isatty()
        self._failed = 0

    def run(self) -> int:
        """Read and answer lines until the end."""
        if self._is_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # gives `input` its editing and history
            click.echo(f"{self._chat.model}; /help lists the commands", err=True)
        while (line := self._read()) is not None:
            if line.startswith("/"):
                if not self._command(*line[1:].split(None, 1)):
                    break
            elif line.strip():
                self._say(line)
        if self._is_terminal and self._chat.head is not None:
            self._print_head()
        return ExitCode.FAILED if self._failed and not self._is_terminal else ExitCode.OK

    def _read(self) -> str | None:
        """Return the next line; None at the end."""
        if not self._is_terminal:
            line = sys.stdin.readline()
            return line.rstrip("\n") if line else None
        while True:
            try:
                return input(_PROMPT)
            except EOFError:
                click.echo(err=True)
                return None
            except KeyboardInterrupt:
                click.echo("\n/quit or Ctrl-D ends", err=True)

    def _say(self, text: str) -> None:
        generation = self._chat.say(text)
        ends = (SystemExit, BrokenPipeError)
        try:
            with cancelled_at_end(generation, ends), noticed(self._connection, self._lane, Progress(False, "")):
                print_stream(generation, TextPrinter(), self._wait_s)
        except TaskFailed as error:
            self._failed += 1
            click.echo(f"error: {with_options(error.message)}", err=True)
            return
        except KeyboardInterrupt:
            self._cancel(generation)
            return
        self._answers.append(self._chat.fork())
        if self._is_terminal:
            click.echo(
                click.style(usage_line(generation.result(), generation.outcome().provenance), dim=True), err=True
            )

    def _cancel(self, generation: Generation) -> None:
        cancelled = generation.cancel()
        if not self._is_terminal:
            raise KeyboardInterrupt
        if cancelled or not generation.outcome().ok:
            click.echo("the answer is cancelled; the conversation is as before it", err=True)
        else:
            self._answers.append(self._chat.fork())

    def _command(self, name: str = "", argument: str = "") -> bool:
        """Do what a line with a slash says; return whether to go on."""
        if name == "quit":
            return False
        if name == "reset":
            if self._chat.head is not None:
                self._print_head()
            self._chat, self._answers = self._begin.fork(), []
            click.echo("a new conversation", err=True)
        elif name == "fork":
            self._fork(argument)
        elif name == "head":
            self._print_head()
        else:
            click.echo(_HELP if name == "help" else f"there is no command /{name}:\n{_HELP}", err=True)
        return True

    def _fork(self, argument: str) -> None:
        at = int(argument) if argument.isdigit() else len(self._answers) - 1
        if (argument and not argument.isdigit()) or not 0 <= at <= len(self._answers) or not self._answers:
            click.echo(f"/fork takes a number of an answer, 0 to {len(self._answers)}", err=True)
            return
        self._print_head()
        del self._answers[at:]
        self._chat = self._answers[-1].fork() if at else self._begin.fork()
        click.echo(f"after answer {at}; what came later stays under the head above", err=True)

    def _print_head(self) -> None:
        head = self._chat.head
        lane = "" if self._lane == "main" else f" --lane {self._lane}"
        goes_on = f"rota chat {self._chat.model}{lane} --conversation {(head or b'').hex()}"
        click.echo("nothing was said yet" if head is None else goes_on, err=True)
