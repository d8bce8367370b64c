"""Answers to read-only queries. PURE.

One function per query of `messages.QUERIES`; each returns plain values for MessagePack. Nothing here changes anything,
and an answer is sent only when everything in it is durable. docs/PROTOCOL.md lists arguments and fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from rota.broker.asks import OpenAsk, is_pending
from rota.broker.code_uses import code_uses
from rota.broker.lane import Lane
from rota.broker.results import result_item
from rota.broker.state import BrokerState
from rota.broker.tasks import DeadTask, Run, Task, caught_task
from rota.broker.who_waits import who_waits
from rota.common import errors, messages
from rota.common.digests import DIGEST_BYTES
from rota.common.shown import shown
from rota.common.targets import DEFAULT_LANE, code_name
from rota.common.work import Code, Failed

_LIMIT_DEFAULT: Final = 100
_LIMIT_MAX: Final = 10_000
_LOG_LINES_SHOWN: Final = 20  # of a dead letter in a list; the task's result has all
_ABOUT_PROCESSES: Final = ("status", "workers")  # answered even while the journal cannot be written: they report it
TASK_STATES: Final = ("waiting", "ready", "running", "completed", "pending", "retired")


def answer(broker: BrokerState, query: messages.Query) -> messages.Answer | messages.Refused:
    """Answer a query or refuse it."""
    try:
        if broker.storage_full and query.what not in _ABOUT_PROCESSES:
            raise errors.StorageFull(
                f"the journal cannot be written ({broker.storage_full}): only status and workers are answered now",
                reason=broker.storage_full,
            )
        return messages.Answer(query.number, _QUESTIONS[query.what](broker, query.arguments))
    except errors.RotaError as error:
        return messages.Refused(query.number, error.code, error.message, error.fields)


def _status(broker: BrokerState, arguments: dict[str, Any]) -> dict[str, Any]:
    world = broker.world
    queued = broker.dispatcher.queued_tasks()
    return {
        "boot": world.boot,
        "version": broker.version,
        "now_ms": broker.now_ms,
        "draining": broker.draining,
        "storage_full": broker.storage_full,
        "next_seq": world.next_seq,
        "lanes": [_lane_facts(lane) for lane in world.lanes.values()],
        "workers": [_worker_facts(broker, name) for name in broker.dispatcher.workers],
        "queued": queued,
        "assignments": len(broker.dispatcher.assignments),
        "held_bytes": sum(lane.budget.held_bytes for lane in world.lanes.values()),
        "promised_bytes": sum(lane.settings.bytes_max for lane in world.lanes.values()),
        "lanes_bytes": broker.lanes_bytes,
        "pending": len(world.pending),
        "results_kept": len(world.results),
        "results_kept_bytes": world.results.bytes,
        "producers": len(world.producers),
        "connections_known": broker.connected,
        "late_completions": broker.late_completions,
        "divergences": world.divergences,
    }


def _lanes(broker: BrokerState, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [_lane_facts(lane) for lane in broker.world.lanes.values()]


def _lane_facts(lane: Lane) -> dict[str, Any]:
    completed = sum(task.outcome is not None for task in lane.line_by_turn.values())
    return {
        "lane": lane.name,
        "policy": lane.settings.policy,
        "window": lane.window,
        "tasks_max": lane.settings.tasks_max,
        "bytes_max": lane.settings.bytes_max,
        "agents_max": lane.settings.agents_max,
        "seed": lane.seed,
        "paused": lane.paused,
        "stamped": lane.next_turn - 1,
        "waiting": lane.waiting_count,
        "line": lane.line_count,
        "completed": completed,
        "retired": lane.retired,
        "failed": lane.failed,
        "timers": len(lane.timers),
        "asks": len(lane.open),
        "agents": len(lane.agents),
        "dead": len(lane.dead),
        "task_bytes": lane.budget.task_bytes,
        "timer_bytes": lane.budget.timer_bytes,
        "ask_bytes": lane.budget.ask_bytes,
        "state_bytes": lane.budget.state_bytes,
        "reserved_bytes": lane.budget.reserved_bytes,
        "dead_bytes": lane.dead.bytes,
        "digest": lane.digest,
    }


def _workers(broker: BrokerState, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [_worker_facts(broker, name) for name in broker.dispatcher.workers]


def _worker_facts(broker: BrokerState, name: str) -> dict[str, Any]:
    worker = broker.dispatcher.workers[name]
    running = [
        {"assignment": number, "lane": held.lane.name, "tasks": held.tasks, "first": held.folds[0][0].address}
        for number, held in worker.held.items()
    ]
    return {
        "worker": name,
        "pool": worker.settings.pool,
        "pid": worker.settings.pid,
        "host": worker.settings.host,
        "slots": worker.settings.slots,
        "assignments_max": worker.settings.assignments_max,
        "held_tasks": worker.held_tasks,
        "draining": worker.draining,
        "stuck": list(worker.stuck),
        "preparing": [[one.address, one.elapsed_ms] for one in worker.preparing],
        "silent_ms": broker.mono_ms - worker.seen_ms,
        "running": running,
        "models": [one._asdict() for one in worker.models],
        "fingerprint": worker.settings.fingerprint,
    }


def _agents(broker: BrokerState, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    lane = _lane(broker, arguments)
    name = arguments.get("name")
    chosen = (agent for agent in lane.agents.values() if name in (None, agent.address, code_name(agent.address)))
    return [
        {
            "address": agent.address,
            "completed": agent.completed,
            "state_bytes": None if agent.state is None else len(agent.state),
            "state_digest": agent.state_digest,
        }
        for agent in islice(chosen, _limit(arguments))
    ]


def _agent(broker: BrokerState, arguments: dict[str, Any]) -> dict[str, Any]:
    lane = _lane(broker, arguments)
    address = arguments.get("address")
    agent = lane.agents.get(address) if type(address) is str else None
    if agent is None:
        raise errors.UnknownTask(f"no agent {address!r} in lane {lane.name!r}")
    return {
        "address": agent.address,
        "completed": agent.completed,
        "state": agent.state,
        "state_digest": agent.state_digest,
    }


def _deploys(broker: BrokerState, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **_code_facts(code)} for name, code in sorted(_lane(broker, arguments).deploys.items())]


def _uses(broker: BrokerState, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    text = arguments.get("digest")
    if type(text) is not str or not _is_digest(text):
        raise errors.BadPayload(f"digest wants {2 * DIGEST_BYTES} hexadecimal digits, got {shown(text)}")
    return code_uses(broker.world, bytes.fromhex(text))


def _code_facts(code: Code) -> dict[str, Any]:
    facts = code._asdict()
    facts["limits"] = code.limits._asdict()
    facts["exports"] = dict(code.exports)
    return facts


def _tasks(broker: BrokerState, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    lane = _lane(broker, arguments)
    state = arguments.get("state")
    if state is not None and state not in TASK_STATES:
        raise errors.BadPayload(f"no task state {state!r}: use one of {', '.join(TASK_STATES)}")
    chosen = (facts for facts in _all_tasks(broker, lane, state) if state is None or facts["state"] == state)
    rows = list(islice(chosen, _limit(arguments)))
    retired = [facts for facts in rows if facts["state"] == "retired"]  # the last ones that completed, in any order
    return rows[: len(rows) - len(retired)] + sorted(retired, key=lambda facts: -facts["seq"])


def _all_tasks(broker: BrokerState, lane: Lane, state: str | None) -> Iterator[dict[str, Any]]:
    """Yield tasks of a lane, searching only where tasks of that state can be, since a million may be waiting."""
    if state not in ("waiting", "retired"):
        for task in lane.line_by_turn.values():  # pending ones too: the wait begins before the task retires
            if state is None or _state_of(task) == state:
                yield _task_facts(task)
    if state in (None, "pending"):
        for ask in lane.open.values():
            yield _pending_facts(lane, ask)
    if state in (None, "waiting", "completed"):
        for run in lane.waiting_in_order():
            some = sorted(run.verdicts or ()) if state == "completed" else range(run.issued, len(run.payloads))
            for index in some:
                if index >= run.issued:
                    yield _waiting_facts(run, index)
    if state in (None, "retired"):
        for task in broker.world.results.newest():
            if task.run.lane == lane.name and task.turn not in lane.line_by_turn:
                yield {**_task_facts(task), "state": "retired"}


def _waiting_facts(run: Run, index: int) -> dict[str, Any]:
    """Return the facts of a task that is not issued; if it was caught, it has an outcome."""
    caught = (run.verdicts or {}).get(index)
    return {
        "seq": run.first_seq + index,
        "turn": run.first_turn + index,
        "lane": run.lane,
        "target": run.target(index),
        "kind": run.kind,
        "sender": run.sender,
        "parent": run.parent,
        "priority": run.priority,
        "now_ms": run.now_ms,
        "payload_bytes": run.payloads.lengths[index],
        "attempts": 0,
        "state": "waiting" if caught is None else "completed",
        "failure": None if caught is None else caught.kind,
    }


def _task_facts(task: Task) -> dict[str, Any]:
    facts = _waiting_facts(task.run, task.index)
    facts["target"] = task.address  # of the call that it began, as in every other view
    facts["attempts"] = task.attempts
    facts["state"] = _state_of(task)
    facts["failure"] = task.outcome.kind if type(task.outcome) is Failed else None
    return facts


def _pending_facts(lane: Lane, ask: OpenAsk) -> dict[str, Any]:
    """Return the facts of a task that has run and has no answer yet, with who owes it."""
    facts = _waiting_facts(ask.run, 0)
    return {**facts, "target": ask.address, "state": "pending", "owner": ask.owner, **_due(lane, ask.turn)}


def _due(lane: Lane, turn: int) -> dict[str, Any]:
    due_ms = lane.deadlines.get(turn)
    return {} if due_ms is None else {"due_ms": due_ms}


def _state_of(task: Task) -> str:
    """Return the state of a task in a line."""
    if task.outcome is not None:
        return "pending" if is_pending(task) else "completed"
    return "running" if task.assignment else "ready"


def _task(broker: BrokerState, arguments: dict[str, Any]) -> dict[str, Any]:
    seq = arguments.get("seq")
    if type(seq) is not int or not 1 <= seq < broker.world.next_seq:
        raise errors.UnknownTask(f"no task {seq!r}: the last is {broker.world.next_seq - 1}")
    pending = broker.world.pending.get(seq)
    if pending is not None:
        lane = broker.world.lanes[pending.lane]
        ask = lane.open.get(pending.turn)
        return _pending_facts(lane, ask) if ask is not None else _task_facts(lane.line_by_turn[pending.turn])
    kept = broker.world.results.find(seq)
    run = broker.world.runs.find(seq)
    task = kept
    if task is None and run is not None:
        index = seq - run.first_seq
        if index >= run.issued:
            caught = (run.verdicts or {}).get(index)
            result = {} if caught is None else {"result": result_item(caught_task(run, index, caught))._asdict()}
            return {**_waiting_facts(run, index), **result}
        task = broker.world.lanes[run.lane].line_by_turn.get(run.first_turn + index)
    if task is None:
        raise errors.Expired(f"task {seq} is retired and its result no longer kept", seq=seq)
    facts = _task_facts(task)
    if task.turn not in broker.world.lanes[task.run.lane].line_by_turn:
        facts["state"] = "retired"
    if kept is not None:
        facts["result"] = result_item(kept)._asdict()
    return facts


def _dead(broker: BrokerState, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return dead letters without payloads, or with `seq` a single one with its payload."""
    lane = _lane(broker, arguments)
    seq = arguments.get("seq")
    if seq is not None:
        if seq not in lane.dead:
            raise errors.UnknownTask(f"lane {lane.name!r} has no dead task {seq}", seq=seq)
        return [{**_dead_facts(lane.dead[seq]), "payload": lane.dead[seq].payload}]
    return [_dead_facts(dead) for dead in islice(lane.dead.values(), _limit(arguments))]


def _dead_facts(dead: DeadTask) -> dict[str, Any]:
    return {
        "seq": dead.seq,
        "turn": dead.turn,
        "target": dead.target,
        "priority": dead.priority,
        "kind": dead.failure.kind,
        "message": dead.failure.message,
        "log": dead.failure.log[:_LOG_LINES_SHOWN],
        "attempts": dead.attempts,
        "now_ms": dead.now_ms,
        "payload_bytes": len(dead.payload),
    }


def _asks(broker: BrokerState, arguments: dict[str, Any]) -> dict[str, Any]:
    older_ms, after = _whole(arguments, "older_ms"), _whole(arguments, "after")
    return who_waits(
        _lane(broker, arguments), broker.now_ms, older_ms=older_ms, after=after, limit=_limit(arguments)
    )  # fmt: skip


def _digest(broker: BrokerState, arguments: dict[str, Any]) -> dict[str, Any]:
    lane = _lane(broker, arguments)
    return {"lane": lane.name, "retired": lane.retired, "digest": lane.digest}


def _lane(broker: BrokerState, arguments: dict[str, Any]) -> Lane:
    return broker.lane(arguments.get("lane", DEFAULT_LANE))


def _is_digest(text: str) -> bool:
    return len(text) == 2 * DIGEST_BYTES and all(sign in "0123456789abcdef" for sign in text)


def _whole(arguments: dict[str, Any], name: str) -> int:
    value = arguments.get(name, 0)
    if type(value) is not int or value < 0:
        raise errors.BadPayload(f"{name} wants a whole number from 0 on, got {value!r}")
    return value


def _limit(arguments: dict[str, Any]) -> int:
    limit = arguments.get("limit", _LIMIT_DEFAULT)
    if type(limit) is not int or not 1 <= limit <= _LIMIT_MAX:
        raise errors.BadPayload(f"limit wants 1..{_LIMIT_MAX}, got {limit!r}")
    return limit


_QUESTIONS: Final[dict[str, Callable[[Any, dict[str, Any]], Any]]] = {
    "status": _status,
    "lanes": _lanes,
    "agents": _agents,
    "agent": _agent,
    "workers": _workers,
    "deploys": _deploys,
    "uses": _uses,
    "tasks": _tasks,
    "task": _task,
    "dead": _dead,
    "asks": _asks,
    "digest": _digest,
}
