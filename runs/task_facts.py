"""The facts of a task as plain values, for programs. PURE.

The names are part of the command line's contract: docs/INSPECT.md lists them, and none is removed. Digests have names
with `digest` in them, which makes them hex in the output; payloads and results are complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rota.common.work import Done, Failed, Outcome, Provenance
from rota.runs.calls import CallTrace, CallWait
from rota.runs.later import AskEvent
from rota.runs.log import code_facts
from rota.runs.questions import Family
from rota.runs.states import AgentState
from rota.runs.traces import Trace, waiting_timers


def task_facts(trace: Trace) -> dict[str, Any]:
    """Return the facts of one task."""
    return {
        "seq": trace.seq,
        "lane": trace.lane,
        "turn": trace.turn,
        "target": trace.target,
        "kind": trace.kind,
        "sender": trace.sender,
        "priority": trace.priority,
        "now_ms": trace.now_ms,
        "payload": trace.payload,
        "tensors": trace.tensors,
        "parent": None if trace.parent is None else {"turn": trace.parent[0], "emit": trace.parent[1]},
        "reply_to": None if trace.reply_to is None else trace.reply_to._asdict(),
        "retry_of": trace.retry_of,
        "retried_as": trace.retried_as,
        "stage": trace.stage,
        "stamped": {"record": trace.stamped, "position": trace.stamped_at},
        "issued": {"record": trace.issued, "position": trace.issued_at, "place": trace.place} if trace.bound else None,
        "code": None if trace.code is None else code_facts(trace.code),
        "emits_max": trace.emits_max if trace.bound else None,
        "entropy": trace.entropy.hex() if trace.bound else None,
        "decision": None if trace.decision is None else trace.decision._asdict(),
        "completed": _completion_facts(trace),
        "outcome": outcome_facts(trace.outcome, trace.provenance),
        "answers": trace.answers or None,
        "later": [later_facts(later) for later in trace.later],
        "state_digest_before": trace.state_before,
        "state_digest": trace.state_after,
        "retired": None if trace.retired_at is None else {"record": trace.retired, "position": trace.retired_at},
        "lane_digest": trace.digest,
        "children": [child._asdict() for child in trace.children],
        "waiting_timers": waiting_timers(trace),
    }


def family_facts(family: Family) -> dict[str, Any]:
    """Return the facts of a task, its ancestors, its children's outcomes and its worker."""
    facts = task_facts(family.trace)
    facts["children"] = [
        {**child._asdict(), "outcome": family.below[child.turn].mark if child.turn in family.below else None}
        for child in family.trace.children
    ]
    return facts | {
        "input": None if family.origin is None else family.origin._asdict(),
        "ancestors": [ancestor._asdict() for ancestor in family.root.chain],
        "fingerprint": None if family.worker is None else family.worker._asdict(),
        "missing_records": family.missing,
    }


def life_facts(trace: Trace) -> dict[str, Any]:
    """Return one message of an agent's life."""
    facts = task_facts(trace)
    names = (
        "seq", "turn", "target", "kind", "sender", "payload", "stage", "outcome", "later", "state_digest_before",
        "state_digest",
    )  # fmt: skip
    return {name: facts[name] for name in (*names, "retired", "lane_digest", "children")}


def tree_facts(family: Family) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a tree: ancestors from the top, at negative depths, then descendants by turn."""
    chain = family.root.chain
    for above in range(len(chain), 0, -1):
        ancestor = chain[above - 1]
        yield {
            "seq": ancestor.seq,
            "turn": ancestor.turn,
            "target": ancestor.target,
            "kind": ancestor.kind,
            "parent_turn": ancestor.parent_turn,
            "depth": -above,
            "outcome": "ok" if ancestor.ok else "failed",
        }
    for turn in sorted(family.below):
        yield node_facts(family.below[turn], family.below[turn].depth)


def agent_state_facts(found: AgentState) -> dict[str, Any]:
    """Return the facts of an agent's state, its bytes included."""
    left_by = found.left_by
    return {
        "lane": found.lane,
        "agent": found.address,
        "turn": found.turn,
        "position": found.position,
        "messages": found.tasks,
        "left_by": None if left_by is None else {"seq": left_by.seq, "turn": left_by.turn},
        "state_digest": found.digest,
        "from": found.how,
        "state_bytes": None if found.state is None else len(found.state),
        "state": found.state,
    }


def node_facts(trace: Trace, depth: int) -> dict[str, Any]:
    """Return one node of a tree; `depth` counts from the queried task."""
    return {
        "seq": trace.seq,
        "turn": trace.turn,
        "target": trace.target,
        "kind": trace.kind,
        "parent_turn": None if trace.parent is None else trace.parent[0],
        "depth": depth,
        "outcome": trace.mark,
        "message": trace.outcome.message if type(trace.outcome) is Failed else None,
        "later": [later_facts(later) for later in trace.later],
        "children": len(trace.children),
        "waiting_timers": len(waiting_timers(trace)),
    }


def outcome_facts(outcome: Outcome | None, provenance: Provenance | None = None) -> dict[str, Any] | None:
    """Return an outcome; None if there is none yet. `waits`: null unless it is postponed, or a step that goes on."""
    if outcome is None:
        return None
    common = {"ok": type(outcome) is Done, "log": outcome.log, "fuel": outcome.fuel}
    if type(outcome) is Failed:
        return {**common, "kind": outcome.kind, "message": outcome.message}
    assert type(outcome) is Done
    return {
        **common,
        "result": outcome.result,
        "tensors": outcome.tensors,
        "emits": [emit._asdict() for emit in outcome.emits],
        "waits": outcome.waits,
        "provenance": None if provenance is None else provenance._asdict(),
    }


def later_facts(later: AskEvent) -> dict[str, Any]:
    """Return what happened to an open ask."""
    return {**later._asdict(), "outcome": outcome_facts(later.outcome)}


def call_facts(call: CallTrace) -> dict[str, Any]:
    """Return a call of a flow: its messages, what each of them waited for, its end."""
    end = call.end
    return {
        "address": call.address,
        "lane": call.lane,
        "turn": call.turn,
        "code": None if call.code is None else code_facts(call.code),
        "fuel": call.fuel,
        "before": [
            {"turn": step.task.turn, "kind": step.task.kind, "sender": step.task.sender, "path": step.path}
            for step in call.before
        ],
        "messages": [_message_facts(trace) for trace in call.messages],
        "coming": [_message_facts(trace) for trace in call.coming],
        "waits": [_wait_facts(wait) for wait in call.waits],
        "waits_at": call.waits_at,
        "end": None if end is None else {**end._asdict(), "outcome": outcome_facts(end.outcome)},
    }


def _message_facts(trace: Trace) -> dict[str, Any]:
    return {
        "turn": trace.turn,
        "seq": trace.seq,
        "kind": trace.kind,
        "sender": trace.sender,
        "payload": trace.payload,
        "reply_to": None if trace.reply_to is None else trace.reply_to._asdict(),
        "position": trace.retired_at,
        "outcome": outcome_facts(trace.outcome),
    }


def _wait_facts(wait: CallWait) -> dict[str, Any]:
    emit, asked, answer = wait.emit, wait.asked, wait.answer
    return {
        "turn": wait.step.turn,
        "emit": wait.emit_index,
        "kind": emit.kind,
        "target": emit.target,
        "delay_ms": emit.delay_ms,
        "task": None if asked is None else {"seq": asked.seq, "turn": asked.turn},
        "answer": None if answer is None else {"seq": answer.seq, "turn": answer.turn, "kind": answer.kind},
        "turns": wait.turns,
        "ms": wait.ms,
    }


def _completion_facts(trace: Trace) -> dict[str, Any] | None:
    if trace.completed is None:
        return None
    facts: dict[str, Any] = {"record": trace.completed}
    if trace.completion is not None:
        facts |= trace.completion._asdict()
        facts["record"] = facts.pop("number")
        facts["fingerprint_number"] = facts.pop("fingerprint")
    return facts
