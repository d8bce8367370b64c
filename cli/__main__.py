"""The `rota` command: imports only the command that is run, and ends with a named exit code.

The table below names the file of each command. `rota --help` prints the table without importing any. A new command is
a line here and a section in docs/CLI.md.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any, Final, NamedTuple

import click

from rota.cli.exits import ExitCode, error_lines, exit_code_of
from rota.common.errors import RotaError


class _CommandEntry(NamedTuple):
    module: str
    attribute: str
    help: str


_SECTIONS: Final[dict[str, dict[str, _CommandEntry]]] = {
    "Processes": {
        "up": _CommandEntry("processes", "up", "Run a broker and its workers on this host."),
        "broker": _CommandEntry("processes", "broker", "Run a broker."),
        "cpu-worker": _CommandEntry("processes", "cpu_worker", "Run a worker for WASM agents."),
        "gpu-worker": _CommandEntry("processes", "gpu_worker", "Run a worker for ONNX models."),
    },
    "Code and models": {
        "deploy": _CommandEntry("code", "deploy", "Bind a name to an agent or a flow: a source or a WASM module."),
        "runtime": _CommandEntry("runtimes", "runtime", "Fetch and list what runs Python and JavaScript."),
        "model": _CommandEntry("models", "model", "Add, list and show ONNX models."),
    },
    "Agents and flows in any language": {
        "new": _CommandEntry("projects", "new", "Make a project of an agent or a flow."),
        "build": _CommandEntry("projects", "build", "Build a project."),
        "dev": _CommandEntry("dev", "dev", "Build and deploy a project at each change, and print what it does."),
    },
    "Tasks": {
        "submit": _CommandEntry("submit", "submit", "Submit tasks."),
        "ask": _CommandEntry("asks", "ask", "Ask an agent, a flow or a model, and print the final answer."),
        "asks": _CommandEntry("asks", "asks", "List open asks: who owes an answer, and what that waits for."),
        "run": _CommandEntry("run", "run", "Run a program in the sandbox, as if it were started here."),
        "result": _CommandEntry("tasks", "result", "Print the result of a task."),
        "cancel": _CommandEntry("tasks", "cancel", "Cancel a task that has not completed."),
        "tasks": _CommandEntry("tasks", "tasks", "List tasks."),
        "dead": _CommandEntry("dead", "dead", "List dead tasks, run them again, or drop them."),
    },
    "Text": {
        "generate": _CommandEntry("generate", "generate", "Have a model answer a prompt."),
        "chat": _CommandEntry("chat", "chat", "Talk with a model."),
        "embed": _CommandEntry("text_models", "embed", "Print the vectors of texts."),
        "classify": _CommandEntry("text_models", "classify", "Print the labels of texts."),
    },
    "Lanes": {
        "lanes": _CommandEntry("lanes", "lanes", "List lanes."),
        "lane": _CommandEntry("lanes", "lane", "Open or change a lane."),
        "pause": _CommandEntry("lanes", "pause", "Issue no more tasks of a lane."),
        "release": _CommandEntry("lanes", "release", "Release a paused lane."),
        "digest": _CommandEntry("lanes", "digest", "Print the digest of a lane."),
    },
    "Runs": {
        "verify": _CommandEntry("verify", "verify", "Execute a run again and compare every turn digest."),
        "log": _CommandEntry("inspect", "log", "Print a journal, one line per record."),
        "show": _CommandEntry("inspect", "show", "Print everything that a journal has about a task."),
        "story": _CommandEntry("inspect", "story", "Print the history of an agent, message by message."),
        "state": _CommandEntry("inspect", "state", "Print the state of an agent at a turn."),
        "tree": _CommandEntry("inspect", "tree", "Print where a task came from, and what came from it."),
        "conversation": _CommandEntry("conversation", "conversation", "List conversations, and show what was said."),
        "fork": _CommandEntry("fork", "fork", "Make a run that continues from a turn with a change."),
        "check-upgrade": _CommandEntry("fork", "check_upgrade", "Execute a run with new code and say what changes."),
        "bisect": _CommandEntry("fork", "bisect", "Find the first turn after which a condition holds."),
        "diff": _CommandEntry("diff", "diff", "Find the first turn at which two runs differ."),
        "export": _CommandEntry("archive", "export", "Pack a run into one file."),
        "import": _CommandEntry("archive", "import_", "Make a run folder from a packed run."),
        "compact": _CommandEntry("compact", "compact", "Cut old records of a run, and remove unreferenced files."),
    },
    "The system": {
        "status": _CommandEntry("system", "status", "Show broker, lanes and workers in numbers."),
        "agents": _CommandEntry("system", "agents", "List the agents of a lane, or its deployed names."),
        "workers": _CommandEntry("system", "workers", "List workers and what they run."),
        "drain": _CommandEntry("system", "drain", "Make the broker refuse new tasks."),
        "events": _CommandEntry("system", "events", "Follow the broker's events."),
        "doctor": _CommandEntry("doctor", "doctor", "Check this installation and a run folder."),
        "version": _CommandEntry("system", "version", "Print versions."),
        "completion": _CommandEntry("system", "completion", "Print the completion script of a shell."),
    },
}
_ENTRIES: Final = {name: entry for entries in _SECTIONS.values() for name, entry in entries.items()}


class _Commands(click.Group):
    """Commands by name, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_ENTRIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _ENTRIES.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(f"rota.cli.{entry.module}"), entry.attribute)
        assert isinstance(command, click.Command), entry
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has closed the pipe; without this, Python would complain when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(ExitCode.OK) from None  # click would end with 1, as if a task had failed

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, entries in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in entries.items()])


@click.group(cls=_Commands, context_settings={"auto_envvar_prefix": "ROTA", "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rota", prog_name="rota", message="%(prog)s %(version)s")
def rota() -> None:
    """Rota: deterministic queues for agents, flows that wait for them, and ONNX models.

    \b
    rota up                          run a broker with workers, in ./.rota
    rota deploy echo echo.py         bind a name to an agent, or to a flow
    rota ask echo hello              ask it, and print the answer
    rota submit echo hello           or send a task, and go on
    rota new flow trip --lang python make a project, with a test

    Every option has an environment variable: ROTA_DIR for --dir, ROTA_SUBMIT_LANE for --lane of `rota submit`.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process."""
    try:
        code = rota.main(args=arguments, prog_name="rota", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except (RotaError, TimeoutError) as error:
        for line in error_lines(error):
            click.echo(line, err=True)
        sys.exit(exit_code_of(error))
    except Exception:
        traceback.print_exc()
        click.echo("error: this is a bug in Rota; please report it with the lines above", err=True)
        sys.exit(ExitCode.BUG)
    sys.exit(_as_exit_code(code))


def _as_exit_code(value: Any) -> int:
    """Return the return value of a command, or of click after `--help`, as an exit code."""
    return value if isinstance(value, int) else ExitCode.OK


if __name__ == "__main__":
    main()
