"""Output of commands: tables for people, JSON for programs, progress.

Results go to stdout, everything else to stderr, so that a pipe gets only results. common/plain.py turns bytes into
JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import click

from rota.common.plain import plain

_DIGEST_CHARS_SHOWN: Final = 16
_CELL_CHARS_MAX: Final = 60
_ESCAPES: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_ERASE_LINE: Final = "\r\x1b[K"


def print_json(value: Any) -> None:
    """Print one JSON value on one line."""
    click.echo(json.dumps(plain(value), ensure_ascii=False))


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """Print these columns of the rows, aligned; without rows print `empty` on stderr."""
    lines = [[cell(row.get(column), column) for column in columns] for row in rows]
    if not lines:
        click.echo(empty, err=True)
        return
    numeric = [all(_is_number(line[place]) for line in lines) for place in range(len(columns))]
    titles = [column.replace("_", " ") for column in columns]
    widths = [max(len(line[place]) for line in [titles, *lines]) for place in range(len(columns))]
    for line in [titles, *lines]:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print one `name  value` per line, without those that are empty."""
    facts = {name: value for name, value in facts.items() if value not in ("", b"", [], (), {})}
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' ').ljust(width)}  {cell(value, name, full=True)}")


def clock_text(now_ms: int) -> str:
    """Return a time in milliseconds since 1970 as readable text."""
    seconds, milliseconds = divmod(now_ms, 1_000)
    try:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{milliseconds:03} UTC"
    except (OverflowError, ValueError):  # a pinned time beyond the host's calendar
        return f"{now_ms} ms"


def duration_text(ms: int) -> str:
    """Return a duration in milliseconds as readable text."""
    if ms < 1_000:
        return f"{ms} ms"
    return f"{ms / 1_000:.1f} s" if ms < 120_000 else f"{ms // 60_000} min"


def cell(value: Any, key: str = "", *, full: bool = False) -> str:
    """Return a value for a table: short, on one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = plain(value, key)
    if isinstance(value, bytes) and isinstance(text, str) and "digest" in key and not full:
        return text[:_DIGEST_CHARS_SHOWN]
    shown = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    shown = "".join(char if char.isprintable() else _ESCAPES.get(char, "\N{REPLACEMENT CHARACTER}") for char in shown)
    return shown if full or len(shown) <= _CELL_CHARS_MAX else shown[: _CELL_CHARS_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"


def counted(count: int, what: str) -> str:
    """Return a count and what is counted, as a person says it."""
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")


def write_bytes(data: bytes) -> None:
    """Write a payload to stdout unchanged; on a terminal, add a line break after text."""
    stream = sys.stdout.buffer
    stream.write(data)
    if sys.stdout.isatty() and not data.endswith(b"\n"):
        stream.write(b"\n")
    stream.flush()


class Progress:
    """One line on stderr that is overwritten; nothing if stderr is not a terminal."""

    def __init__(self, wanted: bool | None, what: str) -> None:
        self._shown = sys.stderr.isatty() if wanted is None else wanted
        self._what = what
        self._line = ""

    def __call__(self, done: int, total: int | None = None) -> None:
        self.show(f"{self._what} {done}" + ("" if total is None else f" of {total}"))

    def show(self, line: str) -> None:
        """Overwrite the line."""
        if self._shown and line != self._line:
            self.clear()
            click.echo(line, nl=not sys.stderr.isatty(), err=True)
            self._line = line

    def clear(self) -> None:
        """Clear the line; call it before printing anything else."""
        if self._line and sys.stderr.isatty():
            click.echo(_ERASE_LINE, nl=False, err=True, color=True)
        self._line = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


def _is_number(text: str) -> bool:
    return text.isdigit() or text == "-"
