"""Sequences with a readable repr: an aligned table at a prompt, an HTML table in a notebook. PURE.

A `Table` is a sequence of turns, waiting tasks, timers or dead letters, so code can index and loop over it. A long
table of past things shows its last rows, one of future things its first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, Final, Generic, TypeVar, overload

ROWS_SHOWN: Final = 20
_BYTES_SHOWN: Final = 40

Row = TypeVar("Row")
Column = tuple[str, Callable[[Any], str]]  # title and cell text


class Table(Sequence[Row], Generic[Row]):
    """Rows of one kind and their columns. A slice is a table too."""

    __slots__ = ("_columns", "_first", "_rows")

    def __init__(self, rows: Iterable[Row], columns: Sequence[Column], *, first: bool = False) -> None:
        """`first`: show the first rows of a long table, not the last ones."""
        self._rows = tuple(rows)
        self._columns = columns
        self._first = first

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Table[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | Table[Row]:
        if isinstance(index, slice):
            return Table(self._rows[index], self._columns, first=self._first)
        return self._rows[index]

    def __add__(self, other: Table[Row]) -> Table[Row]:
        return Table((*self._rows, *other), self._columns, first=self._first)

    def __eq__(self, other: object) -> bool:
        return list(self._rows) == list(other) if isinstance(other, Table | list | tuple) else NotImplemented

    def __hash__(self) -> int:
        raise TypeError("a Table may hold rows that cannot be hashed: take tuple(table)")

    def text(self, rows_max: int = ROWS_SHOWN) -> str:
        """Return the table as aligned text; of a long one only the end or the beginning."""
        shown = self._cells(rows_max)
        if not shown:
            return "(none)"
        titles = [title for title, _ in self._columns]
        widths = [max(map(len, column)) for column in zip(titles, *shown, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (titles, *shown)
        ]
        left_out = self._left_out(rows_max)
        return "\n".join([*lines, left_out] if self._first and left_out else [*filter(None, [left_out]), *lines])

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """Return HTML for a notebook. Text from agents is escaped."""
        head = "".join(f"<th>{escape(title)}</th>" for title, _ in self._columns)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._cells(ROWS_SHOWN)
        )
        left_out = self._left_out(ROWS_SHOWN)
        caption = f"<caption>{left_out}</caption>" if left_out else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _cells(self, rows_max: int) -> list[list[str]]:
        rows = self._rows[:rows_max] if self._first else self._rows[max(len(self._rows) - rows_max, 0) :]
        return [[cell(row) for _, cell in self._columns] for row in rows]

    def _left_out(self, rows_max: int) -> str:
        count = len(self._rows) - rows_max
        return "" if count <= 0 else f"({count} {'more' if self._first else 'before'})"


def shown_bytes(data: bytes | None) -> str:
    """Return bytes as a short text in one line."""
    if data is None:
        return "-"
    shown = repr(data[:_BYTES_SHOWN])
    if len(data) <= _BYTES_SHOWN and len(shown) <= _BYTES_SHOWN + len("b''"):
        return shown
    return f"{shown[:_BYTES_SHOWN]}... {len(data)} bytes"


def shown_text(text: str, chars_max: int = 80) -> str:
    """Return text cut short and in one line, since guests may write anything."""
    line = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return line if len(line) <= chars_max else line[: chars_max - 3] + "..."
