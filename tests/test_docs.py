"""The documents name everything that users see: commands, options, settings, messages, errors, failure kinds.

What exists is read from the code (the command tree, the tables of common/), so nothing can be added undocumented. If a
test here fails, fix docs/. Names must be separate words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import draw_imports
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SETTING = re.compile(r"\bROTA_[A-Z][A-Z0-9_]*\b")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def _text(*names: str) -> str:
    paths = [REPOSITORY / name for name in names] if names else DOCUMENTS
    for path in paths:
        assert path.is_file(), f"{path.relative_to(REPOSITORY)} does not exist"
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def _missing(words: list[str], text: str) -> list[str]:
    """Return the words that the text does not have as words of their own; `--dir` is not `--directory`."""
    return [word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)]


# --- the command line -----------------------------------------------------------------------------


def _root_command() -> click.Command:
    """Find the command that the console script runs, whether `main` is the group itself or a function around it."""
    import rota.cli.__main__ as entry

    if isinstance(entry.main, click.Command):
        return entry.main
    groups = [value for value in vars(entry).values() if isinstance(value, click.Group)]
    assert groups, "rota.cli.__main__ has no click group"
    return max(groups, key=lambda group: len(group.list_commands(click.Context(group))))


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below this one, with the words one types to reach it."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _commands(found, f"{name} {child}")


def test_every_command_and_option_is_documented() -> None:
    """Goal: docs/CLI.md names each command and each option. Method: walk click's tree."""
    text = _text("docs/CLI.md")
    commands = [(name, command) for name, command in _commands(_root_command(), "rota") if not command.hidden]
    assert len(commands) > 20, "the command tree is not what it was"
    options = {
        option
        for _, command in commands
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert not _missing([name for name, _ in commands], text)
    assert not _missing(sorted(options), text)


def test_every_command_explains_itself() -> None:
    """Goal: `--help` is enough. Method: each command and each option has a help text."""
    for name, command in _commands(_root_command(), "rota"):
        assert command.help, f"{name} has no help text"
        silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help and not p.hidden]
        assert not silent, f"{name}: options without a help text: {silent}"


def test_every_documented_command_exists() -> None:
    """Goal: no document shows a command that is not there. Method: each `rota WORD` in code against the tree."""
    known = {name.split()[1] for name, _ in _commands(_root_command(), "rota") if " " in name}
    for path in DOCUMENTS:
        if "decisions" not in path.parts:
            shown = re.findall(r"(?:^\s*(?:\$ )?|`)rota ([a-z][a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            unknown = sorted(set(shown) - known)
            assert not unknown, f"{path.relative_to(REPOSITORY)} shows commands that do not exist: {unknown}"


def test_every_setting_is_documented() -> None:
    """Goal: each ROTA_ variable is explained. Method: search all Python sources for their names."""
    files = [path for path in REPOSITORY.glob("[!.]*/*.py") if path.parent.name != "tests"]
    settings = sorted({name for path in files for name in SETTING.findall(path.read_text(encoding="utf-8"))})
    assert "ROTA_DIR" in settings
    assert not _missing(settings, _text())


# --- the wire -------------------------------------------------------------------------------------


def _messages() -> dict[str, tuple[str, ...]]:
    """Return the fields of every message and part of a message, by its name."""
    from rota.common import messages

    found: dict[str, Any] = {
        name: value
        for name, value in vars(messages).items()
        if isinstance(value, type) and value.__module__ == messages.__name__ and _fields(value)
    }
    assert len(found) > 20, "common/messages.py is not what it was"
    return {name: _fields(value) for name, value in found.items()}


def _fields(cls: Any) -> tuple[str, ...]:
    return getattr(cls, "_fields", None) or getattr(cls, "__struct_fields__", ())


def _section(text: str, name: str) -> str:
    """Return the document from the heading that names the message to the next heading of the same or a higher level."""
    match = re.search(rf"^(#+)[^\n]*(?<!\w){name}(?!\w)[^\n]*\n", text, re.MULTILINE)
    if match is None:
        return ""
    end = re.search(rf"^#{{1,{len(match.group(1))}}} ", text[match.end() :], re.MULTILINE)
    return text[match.start() : match.end() + end.start()] if end else text[match.start() :]


@pytest.mark.parametrize(("name", "fields"), _messages().items(), ids=_messages())
def test_every_message_and_field_is_documented(name: str, fields: tuple[str, ...]) -> None:
    """Goal: a producer can be written from docs/PROTOCOL.md. Method: its section names every field of the message.

    Messages that share one section are all in its heading. A message without a heading must be in the document, and its
    fields anywhere in it.
    """
    text = _text("docs/PROTOCOL.md")
    assert not _missing([name], text)
    assert not _missing(list(fields), _section(text, name) or text)


def test_every_query_is_documented() -> None:
    """Goal: each read-only question is explained. Method: the list of questions against docs/PROTOCOL.md."""
    from rota.common.messages import QUERIES

    assert not _missing(list(QUERIES), _text("docs/PROTOCOL.md"))


def test_every_error_code_is_documented() -> None:
    """Goal: each error code is explained. Method: the table of codes against docs/PROTOCOL.md."""
    from rota.common.errors import CODES

    assert not _missing(list(CODES), _text("docs/PROTOCOL.md"))


def test_the_table_of_kinds_is_the_one_in_the_code() -> None:
    """Goal: docs/ARCHITECTURE.md shows what the code reads. Method: make the rows from the
    table, compare their cells.
    """
    from rota.common.code_kinds import KINDS

    text = _text("docs/ARCHITECTURE.md")
    for kind in KINDS.values():
        cells = [
            f"`{kind.name}`", kind.pool, f"`{kind.name_prefix}NAME`", *["yes" if one else "no" for one in kind[3:5]],
            "model of the repository" if not kind.is_kept else kind.content,
            "by certificate" if kind.has_provenance else "derived", "yes" if kind.may_reuse else "no",
            "yes" if kind.may_flow else "no", ", ".join(f"`{usual}`" for _, usual in kind.roles),
        ]  # fmt: skip
        assert "| " + " | ".join(cells) in text, kind.name


def test_every_failure_kind_is_documented() -> None:
    """Goal: each way a task can fail is explained. Method: the list of kinds, in backquotes, against the documents."""
    from rota.common.work import FAILURE_KINDS

    text = _text()
    assert not [kind for kind in FAILURE_KINDS if f"`{kind}`" not in text]


# --- the documents themselves ---------------------------------------------------------------------


@pytest.mark.parametrize("path", [*DOCUMENTS, REPOSITORY / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Goal: no link inside the repository is dead. Method: follow each relative one."""
    targets = [target for target in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in target]
    dead = [target for target in targets if not (path.parent / target).exists()]
    assert not dead


def test_every_decision_is_in_the_index() -> None:
    """Goal: decisions are found. Method: the files of docs/decisions/ against its README, and their numbers."""
    folder = REPOSITORY / "docs" / "decisions"
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert not [name for name in records if f"({name})" not in index]
    numbers = [name[:4] for name in records]
    assert len(numbers) == len(set(numbers)), "two decisions have the same number"
    assert all(re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name) for name in records)


# --- the picture of the packages ------------------------------------------------------------------


def test_the_picture_is_what_the_imports_are() -> None:
    """Goal: the picture of the imports is current. Method: draw docs/imports.svg again and compare."""
    assert _text("docs/imports.svg") == draw_imports.draw(), "run `python3 scripts/draw_imports.py`"
    assert "(imports.svg)" in _text("docs/ARCHITECTURE.md")


def test_the_picture_has_every_package_and_no_implied_arrow() -> None:
    """Goal: it is complete and readable. Method: a box for each folder; an edge that others imply is not drawn."""
    text = _text("docs/imports.svg")
    folders = [path.parent.name for path in REPOSITORY.glob("*/__init__.py")]
    assert not [name for name in (*folders, "examples") if f">{name}</text>" not in text]
    assert draw_imports.needed([("a", "b"), ("a", "c"), ("b", "c"), ("d", "c")]) == [("a", "b"), ("b", "c"), ("d", "c")]
    assert draw_imports.rows_of("abcd", [("a", "b"), ("b", "c"), ("d", "c")]) == {"a": 2, "b": 1, "c": 0, "d": 1}
    with pytest.raises(AssertionError, match="import each other"):
        draw_imports.rows_of("ab", [("a", "b"), ("b", "a")])
