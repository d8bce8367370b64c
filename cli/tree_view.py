"""Formats the answer of `rota tree`: a line for each task, ancestors first, descendants as branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import click

from rota.broker.asks import is_postponed
from rota.cli.inspect_views import asker_text, marked, time_text
from rota.common.work import Failed
from rota.engine.waits import outcome_word
from rota.runs.later import HANDED_ON
from rota.runs.questions import Family
from rota.runs.readable import cut
from rota.runs.traces import Trace, waiting_timers
from rota.runs.tree import Ancestor

_TREE_INDENT_MAX: Final = 60
_ONLY: Final = "   "
_BESIDE: Final = "\N{BOX DRAWINGS LIGHT VERTICAL}  "
_LAST: Final = "\N{BOX DRAWINGS LIGHT UP AND RIGHT}\N{BOX DRAWINGS LIGHT HORIZONTAL} "
_NEXT: Final = "\N{BOX DRAWINGS LIGHT VERTICAL AND RIGHT}\N{BOX DRAWINGS LIGHT HORIZONTAL} "


def tree_lines(family: Family, depth_max: int, width: int, *, up: bool) -> Iterator[str]:
    """Yield the ancestors of a task, then its descendants."""
    if family.origin is not None:
        origin = family.origin
        yield cut(f"{asker_text(origin)}, {time_text(origin.now_ms)}, record {origin.record}", width)
    else:
        yield "(what is above was compacted away)"
    chain = family.root.chain[::-1]
    kept = chain if len(chain) <= depth_max else (chain[0], *chain[len(chain) - depth_max + 1 :])
    level = 0
    for place, ancestor in enumerate(kept):
        yield _node_line(_ONLY * level, _ancestor_text(ancestor), level, width, is_last=True)
        level += 1
        if place == 0 and len(kept) < len(chain):
            text = f"({len(chain) - len(kept)} between: --depth shows more)"
            yield _node_line(_ONLY * level, text, level, width, is_last=True)
            level += 1
    yield _node_line(_ONLY * level, click.style(_node_text(family.trace), bold=True), level, width, is_last=True)
    if not up:
        yield from _below_lines(family, level, width)
        if family.left_out:
            yield "(more below: --limit shows more)"


def _below_lines(family: Family, level: int, width: int) -> Iterator[str]:
    """Yield the descendants of a task, without recursion, since chains may be long."""
    stack = _children_nodes(family, family.trace, _ONLY * (level + 1), level + 1)
    while stack:
        node = stack.pop()
        yield _node_line(node.prefix, node.text, node.level, width, is_last=node.is_last)
        if node.trace is not None:
            prefix = node.prefix + (_ONLY if node.is_last else _BESIDE)
            stack += _children_nodes(family, node.trace, prefix, node.level + 1)


class _Node(NamedTuple):
    prefix: str  # of the node and its descendants
    level: int
    is_last: bool  # among its parent's children
    text: str
    trace: Trace | None


def _children_nodes(family: Family, parent: Trace, prefix: str, level: int) -> list[_Node]:
    """Return the children of a task, the last first."""
    nodes: list[tuple[str, Trace | None]] = []
    for child in parent.children:
        known = family.below.get(child.turn)
        text = f"{child.seq}  {child.target}  {child.kind}  (rota tree {child.seq})"
        nodes.append((text if known is None else _node_text(known), known))
    nodes += [(f"(timer, emit {index}, has not fired)", None) for index in waiting_timers(parent)]
    last = len(nodes) - 1
    return [_Node(prefix, level, place == last, *node) for place, node in enumerate(nodes)][::-1]


def _node_text(trace: Trace) -> str:
    text = f"{trace.seq}  {trace.target}  {trace.kind}  {marked(trace.mark)}"
    if type(trace.outcome) is Failed:
        return f"{text}  {cut(trace.outcome.message, 60)}"
    if not is_postponed(trace.outcome) or trace.call not in (None, trace.turn):
        return text
    return f"{text}, {_later_text(trace)}"


def _later_text(trace: Trace) -> str:
    """Return how the ask of a postponed task went on: who handed it on, and which turn answered it."""
    parts = [f"handed on by {later.seq}" for later in trace.later if later.what == HANDED_ON]
    answer = trace.answer
    if answer is None:
        owner = trace.later[-1].owner if trace.later else trace.target
        return ", ".join([*parts, "goes on" if owner == trace.target and trace.call else f"{owner} owes the answer"])
    assert answer.outcome is not None
    word = marked(outcome_word(answer.outcome, ""))
    how = f"answered by {answer.seq}" if answer.seq is not None else f"ended by record {answer.record}"
    return ", ".join([*parts, f"{how}: {word}"])


def _ancestor_text(ancestor: Ancestor) -> str:
    return f"{ancestor.seq}  {ancestor.target}  {ancestor.kind}  {marked('ok' if ancestor.ok else 'failed')}"


def _node_line(prefix: str, text: str, level: int, width: int, *, is_last: bool) -> str:
    """Return the line of a node; a very deep one shows its depth instead of an indentation off the screen."""
    if level == 0:
        return text
    if len(prefix) > min(_TREE_INDENT_MAX, width // 2):
        return f"{level:>6} deep  {text}"
    return prefix[len(_ONLY) :] + (_LAST if is_last else _NEXT) + text
