"""The tables of fields in PROTOCOL.md and JOURNAL.md equal the definitions: fields, order, types, bounds.

Types that the pages describe in words (an array of a few named elements) are compared by their bounds only.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from rota.broker import records
from rota.common import assignments, columns, fields, messages, wire, work
from rota.common.shape import bare, column_of, metas

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROTOCOL = (DOCS / "PROTOCOL.md").read_text(encoding="utf-8")
JOURNAL = (DOCS / "JOURNAL.md").read_text(encoding="utf-8")

PARTS = {
    "TaskRun": messages.TaskRun,
    "LaneSettings": messages.LaneSettings,
    "ResultRows": messages.ResultRows,
    "FoldAssignment": assignments.FoldAssignment,
    "Segment": assignments.Segment,
}
SECTIONS: dict[str, Any] = {
    **{shape.cls.__name__: shape.cls for shape in wire.SCHEMA.values()},
    **PARTS,
}
WORDS = {
    "count": fields.Count,
    "name": fields.Name,
    "name, `model:name` or `model:name@version`": fields.CodeName,
    "target": fields.Target,
    "digest": fields.Digest,
    "anything": fields.Plain,
    "map": fields.PlainMap,
    "text": fields.Text,
    "Code": work.Code,
}
NAMED = (columns.Blobs, columns.Values, columns.Addresses, messages.TaskRun, messages.LaneSettings,
         assignments.FoldAssignment, assignments.Segment, messages.ResultRows)  # fmt: skip
# Types that a page describes in its own words, checked by reading.
TOLD = {
    ("Completed", "folds"), ("Segment", "reply_to"), ("ResultRows", "failures"), ("ResultRows", "provenances"),
    ("Query", "what"), ("Query", "arguments"), ("Event", "what"), ("Heartbeat", "preparing"),
    ("Heartbeat", "models"), ("Streamed", "pieces"), ("FoldAssignment", "past"),
}  # fmt: skip


def table(text: str, name: str) -> list[tuple[str, str]]:
    """Return field and type of each row of the first table of fields in a section."""
    match = re.search(rf"^###[^\n]*(?<!\w){name}(?!\w)[^\n]*\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, name
    rows = re.search(r"^\| field \| type \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", match[1], re.MULTILINE)
    assert rows, name
    cells = [re.split(r" \| ?", row.strip("| "), maxsplit=2) for row in rows[1].splitlines()]
    return [(re.sub(r"[` ]", "", field), kind) for field, kind, *_ in cells]


def said(hint: Any) -> set[str]:
    """Return the ways in which a page may put a type."""
    for word, known in WORDS.items():
        if hint == known:
            return {word}
    inner = bare(hint)
    if get_origin(inner) in (Union, UnionType):
        some = [said(one) for one in get_args(inner) if one is not NoneType]
        ways = {" or ".join(way) for way in product(*some)}
        return (
            {f"{way} or nil" for way in ways} | {f"nil, {way}" for way in ways} if NoneType in get_args(inner) else ways
        )
    if inner in NAMED:
        return {inner.__name__}
    if inner is bool:
        return {"bool"}
    if get_origin(inner) is Literal:
        return chosen([str(one) for one in get_args(inner)])
    return said_with_bounds(hint, inner)


def said_with_bounds(hint: Any, inner: Any) -> set[str]:
    bounds = metas(hint)
    longest = [meta.max_length for meta in bounds if meta.max_length is not None]
    if inner is int:
        (low,), (high,) = ([getattr(meta, side) for meta in bounds] for side in ("ge", "le"))
        return {f"{a} to {b}" for a, b in product(numbers(low), numbers(high))}
    if inner is str and bounds and bounds[0].pattern:
        return chosen(str(bounds[0].description).removeprefix("one of ").split(", "))
    if inner is str:
        return {f"text, at most {number}" for number in numbers(longest[0])} | {"text"}
    if inner is bytes:
        return {f"bytes (at most {number})" for number in numbers(longest[0])} | {"bytes"}
    assert get_origin(inner) is tuple, hint
    items = get_args(inner)
    if items[0] == fields.Index or get_origin(bare(items[0])) is tuple:  # sparse
        return {f"sparse {way}" for way in said(get_args(items[0])[1])}
    ways = {"tensor references", "texts"} & {named(items[0])} or {f"{way}s" for way in said(items[0])} | said(items[0])
    return {f"array of {way}" for way in ways} | {
        f"array of at most {number} {way}" for number, way in product(numbers(longest[0]), ways)
    }


def named(item: Any) -> str:
    return {work.TensorRef: "tensor references", fields.LogLine: "texts"}.get(item, "")


def chosen(words: list[str]) -> set[str]:
    ticked = [f"`{word}`" for word in words]
    return {f"{', '.join(ticked[:-1])} or {ticked[-1]}", ", ".join(ticked)}


def numbers(value: int) -> set[str]:
    """Return the ways in which a page may write a number."""
    ways = {f"{value:,}"}
    for unit, size in (("MiB", 1 << 20), ("GiB", 1 << 30)):
        if value and value % size == 0:
            ways.add(f"{value // size:,} {unit}")
    if value > 1 << 20:
        ways |= {f"2^{power}" for power in range(20, 64) if value == 1 << power}
        ways |= {f"2^{power} - 1" for power in range(20, 64) if value == (1 << power) - 1}
    return ways


@pytest.mark.parametrize("name", SECTIONS)
def test_the_protocol_says_what_is_checked(name: str) -> None:
    """Goal: what a page promises of a field is what the decoder demands. Method: each table against the annotations."""
    cls = SECTIONS[name]
    hints = get_type_hints(cls, include_extras=True)
    rows = table(PROTOCOL, name)
    mine = [(re.sub(r"\(.*", "", field), kind) for field, kind in rows if f"({name})" in field or "(" not in field]
    wanted = [field for field in hints if not field.startswith("_")]
    assert [field for field, _ in mine] == wanted
    for field, kind in mine:
        if (name, field) not in TOLD and column_of(hints[field]) is None:
            assert kind in said(hints[field]), (
                f"{name}.{field}: the page says {kind!r}, it is {sorted(said(hints[field]))}"
            )


@pytest.mark.parametrize("kind", records.SCHEMA)
def test_the_journal_says_what_is_checked(kind: int) -> None:
    """Goal: a reader in another language meets the fields that the page names. Method: names, order and plain types."""
    shape = records.SCHEMA[kind]
    cell, *_ = re.findall(rf"^\| {kind} \| {shape.cls.__name__} \| (.*) \|$", JOURNAL, re.MULTILINE)
    told = re.findall(r"`(\w+)`(?: (int or nil|int|str|bool|bin)(?!\w))?", re.sub(r"\([^)]*\)|\[[^\]]*\]", "", cell))
    assert [name for name, _ in told] == list(shape.cls._fields)
    plain = {int: "int", str: "str", bool: "bool", bytes: "bin"}
    for name, word in told:
        hint = bare(shape.hints[name])
        if get_origin(hint) in (Union, UnionType):
            assert word == f"{plain[bare(get_args(hint)[0])]} or nil", name
        else:
            assert word == plain.get(hint, ""), name
