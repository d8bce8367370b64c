"""Handles workers: registration, heartbeats, completions, death. PURE.

Only answers for work that a worker still holds are applied; others are late and are only compared. An invalid answer (a
wrong count, a state that does not match its digest, more emits than allowed) expels the worker; its tasks run again
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rota.broker import deploys, records, undone
from rota.broker.dispatch import Assignment, EarlyReport, TaskQueue, Worker
from rota.broker.lane_budget import issued_bytes
from rota.broker.state import BrokerState
from rota.broker.tasks import Task
from rota.broker.verdicts import LOST
from rota.common import events, messages
from rota.common.budget import TASK_BYTES, growth_of
from rota.common.calls import failure_of, is_instance, open_after, reserved_text, settle_failure
from rota.common.code_kinds import kind_of
from rota.common.digests import digest, digest_of
from rota.common.errors import ProtocolError, RotaError, WorkerStuck
from rota.common.limits import HEARTBEATS_MISSED_MAX, POISON_DEATHS_MAX
from rota.common.outcomes import FoldResults, Outcomes
from rota.common.targets import MODEL_PREFIX
from rota.common.work import (
    AFTER_END,
    ASK,
    BITWISE,
    FAILURE,
    RECORDED,
    REPLY,
    TIMER,
    Done,
    Emit,
    Failed,
    FoldResult,
    Outcome,
    Past,
    Provenance,
    tagged,
    was_decided,
    why_not_of,
)

FACTS_MAX: Final = 512  # of a fingerprint; ours have about 50
FACT_CHARS_MAX: Final = 512


def take(broker: BrokerState, identity: bytes, message: messages.WorkerMessage) -> None:
    """Handle a worker's message."""
    worker = broker.dispatcher.workers.get(message.worker)
    if isinstance(message, messages.Register):
        _register(broker, identity, message, worker)
        return
    known = worker is not None and worker.identity == identity
    if known:
        assert worker is not None
        worker.seen_ms = broker.mono_ms
    match message:
        case messages.Heartbeat():
            if worker is not None and known:
                _heartbeat(broker, worker, message)
            broker.order(identity, messages.HeartbeatAck(broker.world.boot, known))
        case messages.Streamed():
            if worker is not None and known:
                _streamed(broker, worker, message)
        case messages.Completed():
            _completed(broker, worker if known else None, message)
        case messages.Prepared():
            if known:
                deploys.settle(broker, message)
        case messages.Goodbye():
            if worker is not None and known:
                _goodbye(broker, worker, message.draining)


def died(broker: BrokerState, name: str, reason: str) -> None:
    """Remove a worker: run what it held elsewhere, and give a verdict to a task that has killed too many."""
    worker = broker.dispatcher.workers.get(name)
    if worker is None:
        return
    broker.tell("", events.WorkerLeft(name, reason, worker.held_tasks))
    broker.watch(name, 0)
    deploys.died(broker, name)
    for task in broker.dispatcher.leave(worker, died=True):
        assert task.trouble is not None
        if task.trouble.deaths >= POISON_DEATHS_MAX:
            undone.judge(broker, task, LOST)


def tick(broker: BrokerState) -> None:
    """Remove silent workers, and live ones whose assignments are overdue, not counting time for which the broker itself
    was late.
    """
    late_ms = broker.tick()
    for worker in list(broker.dispatcher.workers.values()):
        worker.seen_ms += late_ms
        for assignment in worker.held.values():
            assignment.deadline_ms += late_ms
        if broker.mono_ms - worker.seen_ms > broker.heartbeat_ms * HEARTBEATS_MISSED_MAX:
            died(broker, worker.name, f"no sign of life for {broker.mono_ms - worker.seen_ms} ms")
    for worker in broker.dispatcher.overdue(broker.mono_ms):
        undone.overran(broker, next(iter(worker.held.values())))
        _send_away(broker, worker, WorkerStuck("an assignment is over the time limits of its tasks: it has to go"))


# --- joining and leaving -----------------------------------------------------------------------------------


def _register(broker: BrokerState, identity: bytes, message: messages.Register, worker: Worker | None) -> None:
    same = worker is not None and message.boot == broker.world.boot and worker.settings.pid == message.pid
    if worker is not None and not same:
        died(broker, worker.name, "another process registered under its name")
        worker = None
    if worker is None:
        facts = flat_facts(message.fingerprint)
        odd = _odd_profile(broker, message)
        if odd:
            error = ProtocolError(odd)
            broker.order(identity, messages.Refused(0, error.code, error.message, {}))
            return
        fingerprint = broker.world.fingerprints.get((message.pool, facts))
        if fingerprint is None:
            fingerprint = len(broker.world.fingerprints) + 1
            broker.commit(records.Fingerprint(fingerprint, message.pool, facts))
        worker = broker.dispatcher.join(identity, message, fingerprint, broker.mono_ms)
        broker.tell("", events.WorkerJoined(worker.name, message.pool, facts))
        if broker.host and message.host == broker.host:
            broker.watch(worker.name, message.pid)
    worker.identity = identity
    worker.seen_ms = broker.mono_ms
    lost = [assignment for number, assignment in worker.held.items() if number not in message.holds]
    for assignment in reversed(lost):
        broker.dispatcher.take_back(assignment)
    dropped = tuple([number for number in message.holds if number not in worker.held])
    broker.order(identity, messages.Registered(broker.world.boot, broker.heartbeat_ms, dropped))
    deploys.registered(broker, worker.name)


def _odd_profile(broker: BrokerState, message: messages.Register) -> str:
    """Return how a worker's engine differs from its pool's; empty if it may join.

    Derived results must not depend on the worker. GPU workers may differ: each of their results names a fingerprint.
    """
    profile = message.fingerprint.get("profile")
    for worker in broker.dispatcher.workers.values():
        other = worker.settings.fingerprint.get("profile")
        if worker.settings.pool == message.pool and other != profile:
            return (
                f"worker {message.worker} has engine profile {profile!r}, {worker.name} has {other!r}: "
                "install the same rota and wasmtime for all workers of a broker"
            )
    return ""


def flat_facts(fingerprint: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Return a fingerprint as pairs of text sorted by key, with dotted keys for nested maps."""
    pairs: list[tuple[str, str]] = []
    for key in sorted(fingerprint):
        value = fingerprint[key]
        if isinstance(value, Mapping):
            pairs += flat_facts(value, f"{prefix}{key}.")
        else:
            text = value.hex() if isinstance(value, bytes) else str(value)
            pairs.append(((prefix + key)[:FACT_CHARS_MAX], text[:FACT_CHARS_MAX]))
    return tuple(pairs[:FACTS_MAX])


def _goodbye(broker: BrokerState, worker: Worker, draining: bool) -> None:
    if draining:
        worker.draining = True
        broker.tell("", events.WorkerDraining(worker.name))
        return
    broker.dispatcher.leave(worker, died=False)
    broker.watch(worker.name, 0)
    broker.tell("", events.WorkerLeft(worker.name, "it ended in order", None))


def _expel(broker: BrokerState, worker: Worker, error: ProtocolError) -> None:
    broker.tell("", events.WorkerExpelled(worker.name, error.message))
    broker.order(worker.identity, messages.Refused(0, error.code, error.message, {}))
    died(broker, worker.name, f"expelled: {error.message}")


def _send_away(broker: BrokerState, worker: Worker, error: RotaError) -> None:
    """Remove a live worker that does not work. It is not a death, so its tasks do not become suspects."""
    broker.tell("", events.WorkerLeft(worker.name, error.message, worker.held_tasks))
    broker.order(worker.identity, messages.Refused(0, error.code, error.message, {}))
    broker.dispatcher.leave(worker, died=False)
    broker.watch(worker.name, 0)


def _heartbeat(broker: BrokerState, worker: Worker, message: messages.Heartbeat) -> None:
    """Handle a heartbeat."""
    worker.models = message.models
    if message.stuck != worker.stuck:
        broker.tell("", events.WorkerHeldUp(worker.name, message.stuck))
        for assignment in broker.dispatcher.sticks(worker, message.stuck):
            broker.order(worker.identity, messages.Revoke(assignment.number))
    if [one.address for one in message.preparing] != [one.address for one in worker.preparing]:
        broker.tell("", events.WorkerPreparing(worker.name, tuple([one.address for one in message.preparing])))
    broker.dispatcher.prepares(worker, message.preparing, broker.mono_ms)


def _streamed(broker: BrokerState, worker: Worker, message: messages.Streamed) -> None:
    """Take text that running model tasks have generated; that of tasks which this worker does not hold is ignored."""
    found: dict[int, dict[int, Task]] = {}  # by assignment and turn
    for number, turn, offset, text in message.pieces:
        if number not in found:
            assignment = worker.held.get(number)
            folds = () if assignment is None else assignment.folds
            found[number] = {
                task.turn: task for _, tasks in folds for task in tasks if task.address.startswith(MODEL_PREFIX)
            }
        task = found[number].get(turn)
        if task is not None and task.outcome is None:
            broker.stream(task, offset, text)


# --- completions -------------------------------------------------------------------------------------------


def _completed(broker: BrokerState, worker: Worker | None, message: messages.Completed) -> None:
    assignment = broker.dispatcher.assignments.get(message.assignment)
    if assignment is None or worker is None or assignment.worker is not worker:
        _compare_late(broker, message)
        return
    results = FoldResults.of(message.folds)
    try:
        _check(assignment, results)
    except ProtocolError as error:
        _expel(broker, worker, error)
        return
    pairs = list(zip(assignment.folds, results, strict=True))
    if len(results.outcomes):
        head = (assignment.lane.name, broker.now_ms, worker.name, message.elapsed_us)
        folds = _completed_folds(pairs, results.outcomes)
        broker.commit(records.Completion(*head, assignment.worker.fingerprint, folds))
    broker.dispatcher.settle(assignment, message.elapsed_us)
    if broker.dispatcher.early:
        for queue, tasks in assignment.folds:
            for task in tasks:
                _compare_early(broker, queue, task)
    for (_, tasks), result in pairs:
        if result.stopped is not None:
            undone.settle(broker, worker, tasks, result)


def _completed_folds(
    pairs: list[tuple[tuple[TaskQueue, list[Task]], FoldResult]], outcomes: Outcomes
) -> records.CompletedFolds:
    """Return the folds for the record: the worker's columns unchanged, with turns and addresses."""
    turns: list[int] = []
    left: list[records.FoldLeft] = []
    for (queue, tasks), result in pairs:
        count = len(result.outcomes)
        if count:
            turns += [task.turn for task in tasks[:count]]
            left.append(records.FoldLeft(queue.address, count, result.state, result.provenance))
    return records.CompletedFolds(tuple(turns), outcomes, tuple(left))


def _check(assignment: Assignment, results: FoldResults) -> None:
    """Raise ProtocolError unless these are valid outcomes for this assignment."""
    if len(results) != len(assignment.folds):
        raise ProtocolError(f"{len(results)} folds answered, {len(assignment.folds)} assigned")
    for (queue, tasks), result in zip(assignment.folds, results, strict=True):
        _check_fold(queue, tasks, result)


def _check_fold(queue: TaskQueue, tasks: list[Task], result: FoldResult) -> None:
    answered = len(result.outcomes)
    if answered > len(tasks) or (answered == len(tasks)) != (result.stopped is None):
        raise ProtocolError(f"{queue.address}: {answered} outcomes for {len(tasks)} tasks, stopped: {result.stopped}")
    left: bytes | None = None
    state, open_turns, past = queue.lane.before(tasks)
    if past is not None:
        _check_after_end(queue, past, result.outcomes)
    held = 0 if state is None else len(state)
    for task, outcome in zip(tasks, result.outcomes, strict=False):
        if type(outcome) is Failed:
            assert task.code is not None
            if outcome.kind not in kind_of(task.code).failures:
                raise ProtocolError(f"{queue.address}: a worker cannot end {task.code.kind} code as {outcome.kind!r}")
            continue
        assert type(outcome) is Done
        if outcome.state_digest is None and outcome.state_bytes:
            raise ProtocolError(f"{queue.address}: the size of a state without its digest")
        growth = 0
        if outcome.emits or outcome.state_digest is not None or outcome.waits is not None:
            growth = growth_of(outcome, held, issued_bytes(task) - TASK_BYTES)
            open_turns = _check_settles(queue, task, outcome, open_turns)
        if outcome.state_digest is not None:
            left, held = outcome.state_digest, outcome.state_bytes
        if outcome.emits:
            _check_emits(queue, outcome.emits)
        # growth_bytes is part of growth_max and costs less to look at; most tasks grow by less.
        if growth > task.growth_bytes and growth > task.growth_max:
            raise ProtocolError(f"{queue.address}: it grows its lane by {growth} bytes, {task.growth_max} allowed")
    if answered or result.provenance is not None:
        code = tasks[0].code
        assert code is not None
        why = why_not_of(code, result.provenance)
        if why:
            raise ProtocolError(f"{queue.address}: {why}")
    if queue.stateless and left is not None:
        raise ProtocolError(f"{queue.address}: state from a target that keeps none")
    if (None if result.state is None else digest(result.state)) != left:
        raise ProtocolError(f"{queue.address}: the state does not match the digest of its last change")
    if result.state is not None and len(result.state) != held:
        raise ProtocolError(f"{queue.address}: a state of {len(result.state)} bytes that is said to have {held}")


def _check_after_end(queue: TaskQueue, past: Past, outcomes: Sequence[Outcome]) -> None:
    """Raise ProtocolError if a message behind the end of a call did anything."""
    alive = past.alive
    for place, outcome in enumerate(outcomes):
        if place >= alive and outcome != AFTER_END:
            raise ProtocolError(f"{queue.address}: it did something after its end")
        if type(outcome) is Failed or (type(outcome) is Done and outcome.waits is None):
            alive = min(alive, place + 1)


def _check_settles(queue: TaskQueue, task: Task, done: Done, open_turns: tuple[int, ...]) -> tuple[int, ...]:
    """Return the open turns of an agent after a task; raise ProtocolError if it may not postpone or settle so."""
    code, run = task.code, task.run
    assert code is not None
    if done.waits is not None and not kind_of(code).emits:
        raise ProtocolError(f"{queue.address}: {code.kind} code postpones turn {task.turn}")
    if len(done.emits) + (done.waits is not None) > task.emits_max:
        raise ProtocolError(f"{queue.address}: {len(done.emits)} emits, {task.emits_max} allowed")
    failure = settle_failure(queue.address, (task.turn, run.kind, run.sender), open_turns, done, code)
    if failure is not None:
        raise ProtocolError(f"{queue.address}: {failure[1]}")
    return open_after(open_turns, task.turn, done) if not code.flow else ()


def _check_emits(queue: TaskQueue, emits: Sequence[Emit]) -> None:
    for emit in emits:
        if emit.kind in (TIMER, REPLY, FAILURE) and emit.target != queue.address:
            raise ProtocolError(f"{queue.address}: a {emit.kind} for {emit.target}")
        if emit.delay_ms and emit.kind not in (TIMER, ASK):
            raise ProtocolError(f"{queue.address}: a {emit.kind} that is delayed by {emit.delay_ms} ms")
        if bool(emit.answers) != (emit.kind in (REPLY, FAILURE)) and emit.kind != ASK:
            raise ProtocolError(f"{queue.address}: a {emit.kind} that answers turn {emit.answers}")
        if is_instance(emit.target) and emit.target != queue.address:
            raise ProtocolError(f"{queue.address}: {reserved_text(emit.target)}")
        if emit.kind in (REPLY, FAILURE) and emit.priority:
            raise ProtocolError(f"{queue.address}: a {emit.kind} of priority {emit.priority}")
        if emit.kind == FAILURE and (emit.tensors or failure_of(emit.payload) is None):
            raise ProtocolError(f"{queue.address}: turn {emit.answers} fails with what is no error [kind, message]")


def _compare_late(broker: BrokerState, message: messages.Completed) -> None:
    """Compare late outcomes of revoked work with those that stand: the first completion always wins."""
    broker.count_late_completion()
    assignment = broker.dispatcher.orphans.pop(message.assignment, None)
    if assignment is None:
        return
    for (queue, tasks), result in zip(assignment.folds, message.folds, strict=False):
        source = result.provenance
        if source is not None and source.result_class == RECORDED:
            continue  # it may differ
        for place, (task, outcome) in enumerate(zip(tasks, result.outcomes, strict=False)):
            if was_decided(task.outcome) and not queue.stateless:
                break  # the worker continued from a state that never took effect
            if task.outcome is None:
                before = () if queue.stateless else tuple(tasks[:place])
                report = EarlyReport(message.worker, _digest(outcome), before, source)
                broker.dispatcher.keep_early(queue, task, report)
            elif task.outcome != outcome and not was_decided(task.outcome) and _is_comparable(task, source):
                _note_divergence(broker, queue, task, _digest(outcome), message.worker)


def _compare_early(broker: BrokerState, queue: TaskQueue, task: Task) -> None:
    """Compare a completed task with outcomes that came for it earlier, after it was revoked."""
    if task.outcome is None:
        return
    for report in broker.dispatcher.early.pop((queue.lane.name, task.turn), ()):
        was_caught = any(was_decided(earlier.outcome) for earlier in (task, *report.before))
        if not was_caught and report.outcome != _digest(task.outcome) and _is_comparable(task, report.provenance):
            _note_divergence(broker, queue, task, report.outcome, report.worker)


def _is_comparable(task: Task, source: Provenance | None) -> bool:
    """Return whether a task's outcome must equal one from this source: bits of models are promised by fingerprint."""
    kept = task.provenance
    if source is None or kept is None:
        return source is kept
    return source.result_class == kept.result_class == BITWISE and source.fingerprint == kept.fingerprint


def _note_divergence(broker: BrokerState, queue: TaskQueue, task: Task, other: bytes, worker: str) -> None:
    """Record that a task had two outcomes. The first one stands."""
    assert task.outcome is not None
    lane = queue.lane.name
    broker.commit(records.Diverged(lane, task.turn, queue.address, _digest(task.outcome), other, worker))
    broker.tell(lane, events.OutcomesDiffer(task.turn, queue.address, worker))


def _digest(outcome: Outcome) -> bytes:
    return digest_of(tagged(outcome))
