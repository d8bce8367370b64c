"""`rota conversation`: lists the conversations of a run, and shows what was said. Needs no broker."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from rota.cli.common_options import dir_option, json_option, limit_option, option
from rota.cli.output import cell, counted, print_json, print_table

_DAY_S = 24 * 3600


def _run_option(command: Any) -> Any:
    """Add --run and --dir."""
    named = option(
        "--run",
        "run",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="A run folder, a run file, or a file of `rota export`, if not the folder of --dir.",
    )
    return named(dir_option(command))


@click.group()
def conversation() -> None:
    """List conversations, and show what was said.

    A conversation is named by its head: the digest of its last message and, through it, of all before.

    \b
    rota conversation ls
    rota conversation show 5f1c09ab
    """


@conversation.command("ls")
@limit_option
@json_option
@_run_option
def ls(limit: int, json: bool, run: Path | None, folder: Path) -> None:
    """List the ends of the conversations in a run, by the day of their last use, the latest first.

    A conversation that was continued in two ways has two ends.

    \b
    rota conversation ls --limit 10
    """
    from rota.conversations.listing import tips

    with _store_of(run or folder) as path:
        found, count = tips(path, limit)
    rows: list[dict[str, Any]] = [
        {
            "head": one.head.hex(),
            "used": time.strftime("%Y-%m-%d", time.gmtime(one.used * _DAY_S)) if one.used else None,
            "messages": one.messages,
            "role": one.last and one.last.role,
            "last": one.last and one.last.content,
        }
        for one in found
    ]
    if json:
        print_json(rows)
        return
    print_table([{**row, "head": row["head"][:16]} for row in rows], ("head", "used", "messages", "role", "last"),
                "no conversations")  # fmt: skip
    if count > len(found):
        click.echo(f"{counted(count - len(found), 'more end')} not shown: raise --limit", err=True)


@conversation.command()
@click.argument("head")
@json_option
@_run_option
def show(head: str, json: bool, run: Path | None, folder: Path) -> None:
    """Show the messages of a conversation up to HEAD, which may be cut to its first digits.

    \b
    rota conversation show 5f1c09ab
    """
    from rota.common.text_calls import message_fields
    from rota.conversations.listing import head_of
    from rota.conversations.store import ConversationStore

    with _store_of(run or folder) as path, ConversationStore(None, lender=path) as store:
        whole = head_of(path, head)
        messages = store.history(whole)
    if json:
        print_json({"head": whole.hex(), "messages": [message_fields(one) for one in messages]})
        return
    click.echo(f"conversation {whole.hex()}, {counted(len(messages), 'message')}")
    for message in messages:
        who = message.role if message.name is None else f"{message.role} {message.name}"
        click.echo(f"\n{cell(who, full=True)}:")
        for line in message.content.splitlines() or [""]:
            click.echo(f"  {cell(line, full=True)}")
        for call in message.tool_calls:
            click.echo(f"  calls {cell(call.name, full=True)} {cell(call.arguments, full=True)}")


@contextlib.contextmanager
def _store_of(run: Path) -> Iterator[Path]:
    """Yield the store of a run, which need not be there."""
    from rota.host.endpoints import RunFolder

    folder = RunFolder(run)
    if run.is_dir() and folder.journal.exists():
        yield folder.conversations
        return
    from rota.runs.open import open_run

    with open_run(run) as source:
        yield source.conversations
