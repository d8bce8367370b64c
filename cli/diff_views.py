"""Formats the answer of `rota diff`: the verdict, the first difference, what followed.

The two values of a difference are printed below each other, with bytes cut to the surroundings of the first different
one and a mark under it. Payload bytes are never printed raw to a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from rota.cli.output import cell
from rota.common.work import Emit
from rota.runs.diff import Agents, Diff, First, RunEnd, Sample, Side, TurnsAfter
from rota.runs.differing import ByteDifference, Part
from rota.runs.readable import cut, size_text
from rota.runs.tree import RootInput

_VALUE_CHARS: Final = 100
_LISTED: Final = 5
_NAME_CHARS: Final = 16
_GAP: Final = "  "


def diff_lines(diff: Diff) -> Iterator[str]:
    """Yield all findings."""
    yield from _finding_lines(diff)
    if diff.other_lanes:
        yield f"not compared: {', '.join(diff.other_lanes)} (--lane names another lane)"


def _finding_lines(diff: Diff) -> Iterator[str]:
    for number, (name, end) in enumerate(zip(diff.names, diff.ends, strict=True), 1):
        yield f"run {number}  {_end(end)}  {name}"
    yield ""
    if diff.first is None:
        yield click.style(f"lane {diff.lane}: the same, turn for turn", fg="green")
        return
    position = diff.first.position
    same = f"the same up to position {position - 1}" if position > 1 else "nothing in common"
    yield click.style(f"lane {diff.lane}: {same}, first difference at position {position}", fg="red")
    yield ""
    yield from _first_lines(diff.first)
    yield ""
    if diff.later is not None:
        yield from _later_lines(diff.later)
    yield from _agent_lines(diff.agents)


def _end(end: RunEnd) -> str:
    waiting = f", {end.unretired} not" if end.unretired else ""
    waiting += f", {end.open} open" if end.open else ""
    return f"{end.retired} retired{waiting}, digest {cell(end.digest, 'digest')}"


# --- the first difference -------------------------------------------------------------------------


def _first_lines(first: First) -> Iterator[str]:
    for number, side in enumerate(first.sides, 1):
        if side is not None:
            yield f"run {number}  {_task(side)}"
    if any(first.sides):
        yield ""
    yield f"why: {first.why} ({first.cause})"
    for title, parts in (("", first.parts), ("not in the digest:", first.circumstances)):
        if parts:
            yield title
        for part in parts:
            yield from _part_lines(part)
    if not any(first.sides):
        return
    yield ""
    yield "where it comes from:"
    for number, side in enumerate(first.sides, 1):
        if side is not None:
            yield f"{_GAP}run {number}  {_origin(side)}"


def _task(side: Side) -> str:
    trace = side.trace
    sender = f" from {cut(trace.sender, _VALUE_CHARS)}" if trace.sender else ""
    target = cut(trace.target, _VALUE_CHARS)
    return f"turn {trace.turn} (seq {trace.seq}): {trace.kind}{sender} to {target}, {trace.mark}"


def _origin(side: Side) -> str:
    """Return in one line the input, the tasks between it and this one, and the deploy of its code."""
    parts = ["before the records that are kept" if side.input is None else _input(side.input)]
    shown = side.chain[::-1]
    if len(shown) > 2 * _LISTED:
        shown = (*shown[:_LISTED], *shown[-_LISTED:])
    for place, ancestor in enumerate(shown):
        if place == _LISTED and len(side.chain) > 2 * _LISTED:
            parts.append(f"{len(side.chain) - 2 * _LISTED} more")
        parts.append(f"turn {ancestor.turn} {cut(ancestor.target, _VALUE_CHARS)}")
    parts.append(f"turn {side.trace.turn}")
    deploy = "" if side.deploy is None else f"; its code by record {side.deploy}"
    return f"{' > '.join(parts)}{deploy}"


def _input(found: RootInput) -> str:
    by = "" if found.producer is None else f" by {cut(found.producer, _VALUE_CHARS)}, its number {found.number}"
    return f"record {found.record} ({found.kind}{by})"


def _part_lines(part: Part) -> Iterator[str]:
    if part.first is not None and "digest" not in part.name:
        yield from _byte_lines(part.name, part.first)
        return
    values = [_value(value, part.name) for value in part.values]
    yield f"{_GAP}{part.name.ljust(_NAME_CHARS)}{values[0]}"
    yield f"{_GAP}{' ' * _NAME_CHARS}{values[1]}"


def _byte_lines(name: str, first: ByteDifference) -> Iterator[str]:
    sizes = " and ".join(size_text(size) for size in first.sizes)
    yield f"{_GAP}{name.ljust(_NAME_CHARS)}first differs at byte {first.at}, of {sizes}"
    as_text = all(0x20 <= byte < 0x7F for window in first.windows for byte in window)
    for window in first.windows:
        shown = window.decode("ascii") if as_text else window.hex(" ")
        yield f"{_GAP}{' ' * _NAME_CHARS}{shown or '(ends before)'}"
    column = (first.at - first.window_at) * (1 if as_text else 3)
    yield f"{_GAP}{' ' * (_NAME_CHARS + column)}^"


def _value(value: Any, name: str) -> str:
    if isinstance(value, Emit):
        return cut(f"{value.kind} to {value.target}", _VALUE_CHARS)
    key = "digest" if "digest" in name or name in ("code", "entropy") else name
    return cut(cell(value, key, full=True), _VALUE_CHARS)


# --- what followed --------------------------------------------------------------------------------


def _later_lines(later: TurnsAfter) -> Iterator[str]:
    yield f"from there on, by turn: {later.same} the same, {later.differ} differ" + _only(later.only)
    for number, (count, samples) in enumerate(zip(later.tasks_only, later.samples, strict=True), 1):
        if count:
            yield f"{_GAP}tasks only in run {number}: {count} ({_sampled(samples, count)})"


def _only(counts: tuple[int, int]) -> str:
    return "".join(f", {count} only in run {number}" for number, count in enumerate(counts, 1) if count)


def _sampled(samples: list[Sample], count: int) -> str:
    names = [f"turn {sample.turn} {cut(sample.target, _VALUE_CHARS)}" for sample in samples]
    return ", ".join([*names, *(["..."] if count > len(names) else [])])


def _agent_lines(agents: Agents) -> Iterator[str]:
    counts = f"{agents.same} end in the same state, {len(agents.differ)} in another"
    yield f"agents: {counts}" + _only((len(agents.only[0]), len(agents.only[1])))
    for title, names in (("another state", agents.differ), *((f"only in run {n}", agents.only[n - 1]) for n in (1, 2))):
        if names:
            shown = [cut(name, _VALUE_CHARS) for name in names[:_LISTED]]
            yield f"{_GAP}{title}: {', '.join([*shown, *(['...'] if len(names) > _LISTED else [])])}"
