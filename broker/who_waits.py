"""Who waits for whom in a lane: the answer to the question `asks`. PURE.

An ask is *open* from the completion of a task that postponed it until its answer. Who asked waits for who owes it; what
an owner waits for in turn are its own asks without an answer, open or on their way, and its timers. docs/PROTOCOL.md
has the fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nsmallest
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from rota.broker.asks import OpenAsk
from rota.broker.cycles import cycles
from rota.broker.lane import Lane
from rota.common.calls import is_instance
from rota.common.targets import code_name
from rota.common.work import ASK

WAITS_SHOWN_MAX: Final = 8  # asks of one owner
CYCLES_SHOWN_MAX: Final = 20
LOOKS_MAX: Final = 100_000  # messages on their way that one answer looks at: about 50 ms

Asked = dict[str, list[tuple[int, str]]]
"""By asker: the turns that it asked for and that have no answer, each with the address that has or owes it."""


def who_waits(lane: Lane, now_ms: int, *, older_ms: int = 0, after: int = 0, limit: int) -> dict[str, Any]:
    """Return the open asks of a lane by turn, at most `limit` of those after turn `after` that are open for longer than
    `older_ms`, and the cycles among all of them.
    """
    asked, all_seen = _asked(lane)
    timers = _first_timers(lane)
    chosen = nsmallest(limit + 1, _chosen(lane, after, now_ms - older_ms if older_ms else None), key=itemgetter(0))
    shown = [_ended(owner, turn) if ask is None else _row(lane, ask) for turn, owner, ask in chosen[:limit]]
    for row in shown:
        owner, since_ms = row["owner"], row["since_ms"]
        waits_for = sorted(asked.get(owner, ()))
        row["age_ms"] = None if since_ms is None else max(now_ms - since_ms, 0)
        row["waits_for"] = waits_for[:WAITS_SHOWN_MAX]
        row["more"] = max(len(waits_for) - WAITS_SHOWN_MAX, 0)
        row["timer_ms"] = timers.get(owner)
    waits = {asker: list(dict.fromkeys([owner for _, owner in sorted(turns)])) for asker, turns in asked.items()}
    return {
        "lane": lane.name,
        "now_ms": now_ms,
        "open": len(lane.open),
        "asks": shown,
        "next": shown[-1]["turn"] if len(chosen) > limit else None,
        "cycles": cycles(waits)[:CYCLES_SHOWN_MAX] if all_seen else [],
        "searched": all_seen,
    }


def _chosen(lane: Lane, after: int, at_ms: int | None) -> Iterator[tuple[int, str, OpenAsk | None]]:
    """Yield turn, owner and ask of what is open since `at_ms` or before (None: at all), and, without an ask, of what
    agents still owe although an input has ended it; only of turns after `after`.
    """
    owed: dict[tuple[str, int], None] = {}
    for turn, ask in lane.open.items():
        owed[ask.owner, ask.owes] = None
        if turn > after and (at_ms is None or ask.run.now_ms <= at_ms):
            yield turn, ask.owner, ask
    for agent in lane.agents.values():
        for turn in agent.open:
            if turn > after and (agent.address, turn) not in owed:
                yield turn, agent.address, None


def _row(lane: Lane, ask: OpenAsk) -> dict[str, Any]:
    owner, sender = lane.agents.get(ask.owner), ask.run.sender
    call = None if owner is None else owner.call
    has_it = owner is not None and (call is not None or ask.owes in owner.open)
    return {
        "turn": ask.turn,
        "seq": ask.seq,
        "kind": ask.run.kind,
        "target": ask.address,
        "sender": sender,
        "sender_ended": sender is not None and is_instance(sender) and sender not in lane.agents,
        "owner": ask.owner,
        "owes": ask.owes,
        "state": "handed on" if not has_it else "waits" if call is not None else "postponed",
        "since_ms": ask.run.now_ms,
        "due_ms": lane.deadlines.get(ask.turn),
        "waits": call.waits if call is not None else _why_never(lane, ask.owner),
    }


def _why_never(lane: Lane, owner: str) -> str:
    """Return why no message reaches an agent any more, so that it settles nothing; "" if one can."""
    name = code_name(owner)
    code = lane.deploys.get(name)
    return f"for nothing: {name} is a flow now, so cancel this" if code is not None and code.flow else ""


def _ended(owner: str, owes: int) -> dict[str, Any]:
    return {
        "turn": owes,
        "seq": None,
        "kind": None,
        "target": owner,
        "sender": None,
        "sender_ended": False,
        "owner": owner,
        "owes": owes,
        "state": "ended",
        "since_ms": None,
        "due_ms": None,
        "waits": "",
    }


def _asked(lane: Lane) -> tuple[Asked, bool]:
    """Return what each address has asked for without an answer yet; and whether all messages were looked at."""
    asked: Asked = {}
    for ask in lane.open.values():
        if ask.asker is not None:
            asked.setdefault(ask.asker, []).append((ask.turn, ask.owner))
    for task in lane.line_by_turn.values():
        run = task.run
        if run.kind == ASK and run.sender is not None and not run.answers and task.turn not in lane.open:
            asked.setdefault(run.sender, []).append((task.turn, task.address))
    looks = 0
    for run in islice(lane.waiting_in_order(), LOOKS_MAX + 1):
        looks += 1
        if run.kind == ASK and run.sender is not None and not run.answers:
            asked.setdefault(run.sender, []).append((run.first_turn, run.target(0)))
    return asked, looks <= LOOKS_MAX


def _first_timers(lane: Lane) -> dict[str, int]:
    """Return when the first timer of each address is due."""
    found: dict[str, int] = {}
    for timer in lane.timers.values():
        found[timer.sender] = min(timer.due_ms, found.get(timer.sender, timer.due_ms))
    return found
