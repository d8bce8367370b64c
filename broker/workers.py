"""What workers say: registration, heartbeats, completions, death. PURE.

A worker is believed only about work that it was given and still holds: everything else is late and is compared, not
applied. An answer that is not possible (a wrong count, a state that does not match its digest, more emits than
allowed) expels the worker; its tasks run again elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rota.broker import records
from rota.broker.dispatch import Assignment, EarlyReport, TaskQueue, Worker
from rota.broker.effects import BACKEND, Send
from rota.broker.tasks import Task
from rota.common import messages
from rota.common.digests import digest, digest_of
from rota.common.errors import ProtocolError
from rota.common.limits import HEARTBEATS_MISSED_MAX, MESSAGE_CHARS_MAX, POISON_DEATHS_MAX
from rota.common.wire import outcome_fields
from rota.common.work import RECORDED_FAILURES, Done, Failed, FoldResult, Outcome

if TYPE_CHECKING:
    from rota.broker.sequencer import Sequencer


FACTS_MAX: Final = 512  # of a fingerprint; ours have about fifty
FACT_CHARS_MAX: Final = 512


def take(core: Sequencer, identity: bytes, message: messages.WorkerMessage) -> None:
    """Take a worker's message."""
    worker = core.dispatcher.workers.get(message.worker)
    if isinstance(message, messages.Register):
        _register(core, identity, message, worker)
        return
    known = worker is not None and worker.identity == identity
    if known:
        assert worker is not None
        worker.seen_ms = core.mono_ms
    match message:
        case messages.Heartbeat():
            _send(core, identity, messages.HeartbeatAck(core.world.boot, known))
        case messages.Completed():
            _completed(core, worker if known else None, message)
        case messages.Prepared():
            if known:
                core.deploys.settle(core, message)
        case messages.Goodbye():
            if worker is not None and known:
                _goodbye(core, worker, message.draining)


def died(core: Sequencer, name: str, reason: str) -> None:
    """A worker is gone: run what it held elsewhere, and stop a task that has killed too many."""
    worker = core.dispatcher.workers.get(name)
    if worker is None:
        return
    core.tell("worker", "", worker=name, left=True, reason=reason, held=worker.held_tasks)
    core.watch(name, 0)
    for task in core.dispatcher.leave(worker, died=True):
        if task.deaths >= POISON_DEATHS_MAX:
            # Not how they died: the text is in the lane digest, and may hold times and names.
            core.decide(task, "lost", f"{task.deaths} workers died running it alone")


def tick(core: Sequencer) -> None:
    """Look for workers that fell silent or are stuck, after the time that the broker itself was late is taken off."""
    late_ms = max(0, core.mono_ms - core.tick_ms - core.heartbeat_ms) if core.tick_ms else 0
    core.tick_ms = core.mono_ms
    for worker in list(core.dispatcher.workers.values()):
        worker.seen_ms += late_ms
        for assignment in worker.held.values():
            assignment.deadline_ms += late_ms
        if core.mono_ms - worker.seen_ms > core.heartbeat_ms * HEARTBEATS_MISSED_MAX:
            died(core, worker.name, f"no sign of life for {core.mono_ms - worker.seen_ms} ms")
    for worker in core.dispatcher.overdue(core.mono_ms):
        died(core, worker.name, "it is stuck beyond the time limits of its tasks")


def revoke(core: Sequencer, assignment: Assignment) -> None:
    """Tell a worker that an assignment is no longer wanted."""
    _send(core, assignment.worker.identity, messages.Revoke(assignment.number))


def _send(core: Sequencer, identity: bytes, message: messages.WorkerOrder) -> None:
    """Orders to workers never wait for the disk: nothing that a worker does can be seen before its completion is
    durable.
    """
    core.effects.now.append(Send(BACKEND, identity, message))


# --- coming and going -----------------------------------------------------------------------------------


def _register(core: Sequencer, identity: bytes, message: messages.Register, worker: Worker | None) -> None:
    same = worker is not None and message.boot == core.world.boot and worker.settings.pid == message.pid
    if worker is not None and not same:
        died(core, worker.name, "another process registered under its name")
        worker = None
    if worker is None:
        facts = flat_facts(message.fingerprint)
        odd = _odd_profile(core, message)
        if odd:
            error = ProtocolError(odd)
            _send(core, identity, messages.Refused(0, error.code, error.message, {}))
            return
        fingerprint = core.world.fingerprints.get((message.pool, facts))
        if fingerprint is None:
            fingerprint = len(core.world.fingerprints) + 1
            core.commit(records.Fingerprint(fingerprint, message.pool, facts))
        worker = core.dispatcher.join(identity, message, fingerprint, core.mono_ms)
        core.tell("worker", "", worker=worker.name, joined=True, pool=message.pool, fingerprint=message.fingerprint)
        if core.host and message.host == core.host:
            core.watch(worker.name, message.pid)
    worker.identity = identity
    worker.seen_ms = core.mono_ms
    lost = [assignment for number, assignment in worker.held.items() if number not in message.holds]
    for assignment in lost:
        core.dispatcher.take_back(assignment)
    dropped = tuple([number for number in message.holds if number not in worker.held])
    _send(core, identity, messages.Registered(core.world.boot, core.heartbeat_ms, dropped))
    core.deploys.registered(core, worker.name)


def _odd_profile(core: Sequencer, message: messages.Register) -> str:
    """Say how a worker's engine differs from that of the workers of its pool; empty if it may work beside them.

    Derived results must not depend on who computes them. GPU workers may differ: each of their results names its own.
    """
    profile = message.fingerprint.get("profile")
    for worker in core.dispatcher.workers.values():
        other = worker.settings.fingerprint.get("profile")
        if worker.settings.pool == message.pool and other != profile:
            return (
                f"worker {message.worker} has engine profile {profile!r}, {worker.name} has {other!r}: "
                "install the same rota and wasmtime for all workers of a broker"
            )
    return ""


def flat_facts(fingerprint: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Return a fingerprint as pairs of text in the order of their keys, nested maps with dotted keys."""
    pairs: list[tuple[str, str]] = []
    for key in sorted(fingerprint):
        value = fingerprint[key]
        if isinstance(value, Mapping):
            pairs += flat_facts(value, f"{prefix}{key}.")
        else:
            text = value.hex() if isinstance(value, bytes) else str(value)
            pairs.append(((prefix + key)[:FACT_CHARS_MAX], text[:FACT_CHARS_MAX]))
    return tuple(pairs[:FACTS_MAX])


def _goodbye(core: Sequencer, worker: Worker, draining: bool) -> None:
    if draining:
        worker.draining = True
        core.tell("worker", "", worker=worker.name, draining=True)
        return
    core.dispatcher.leave(worker, died=False)
    core.watch(worker.name, 0)
    core.tell("worker", "", worker=worker.name, left=True, reason="it said goodbye")


def _expel(core: Sequencer, worker: Worker, error: ProtocolError) -> None:
    core.tell("worker", "", worker=worker.name, expelled=True, reason=error.message)
    _send(core, worker.identity, messages.Refused(0, error.code, error.message, {}))
    died(core, worker.name, f"expelled: {error.message}")


# --- completions -------------------------------------------------------------------------------------------


def _completed(core: Sequencer, worker: Worker | None, message: messages.Completed) -> None:
    assignment = core.dispatcher.assignments.get(message.assignment)
    if assignment is None or worker is None or assignment.worker is not worker:
        _compare_late(core, message)
        return
    try:
        _check(assignment, message.folds)
    except ProtocolError as error:
        _expel(core, worker, error)
        return
    pairs = list(zip(assignment.folds, message.folds, strict=True))
    folds = tuple([_record(queue, tasks, result) for (queue, tasks), result in pairs if result.outcomes])
    if folds:
        head = (assignment.lane.name, core.now_ms, worker.name, message.elapsed_us)
        core.commit(records.Completed(*head, assignment.worker.fingerprint, folds))
    core.dispatcher.settle(assignment, message.elapsed_us)
    if core.dispatcher.early:
        for queue, tasks in assignment.folds:
            for task in tasks:
                _compare_early(core, queue, task)
    for (_, tasks), result in pairs:
        if result.stopped == "timeout":
            task = tasks[len(result.outcomes)]
            assert task.code is not None
            core.decide(task, "timeout", f"it ran longer than {task.code.limits.timeout_ms} ms")
        elif result.stopped == "refused":
            for task in tasks[len(result.outcomes) :]:
                core.decide(task, "refused", result.reason[:MESSAGE_CHARS_MAX])


def _record(queue: TaskQueue, tasks: list[Task], result: FoldResult) -> records.CompletedFold:
    turns = tuple([task.turn for task in tasks[: len(result.outcomes)]])
    return records.CompletedFold(queue.address, turns, result.outcomes, result.state, result.provenance)


def _check(assignment: Assignment, results: tuple[FoldResult, ...]) -> None:
    """Raise ProtocolError unless these can be the outcomes of this assignment."""
    if len(results) != len(assignment.folds):
        raise ProtocolError(f"{len(results)} folds answered, {len(assignment.folds)} assigned")
    for (queue, tasks), result in zip(assignment.folds, results, strict=True):
        _check_fold(queue, tasks, result)


def _check_fold(queue: TaskQueue, tasks: list[Task], result: FoldResult) -> None:
    answered = len(result.outcomes)
    if answered > len(tasks) or (answered == len(tasks)) != (result.stopped is None):
        raise ProtocolError(f"{queue.address}: {answered} outcomes for {len(tasks)} tasks, stopped: {result.stopped}")
    left: bytes | None = None
    for task, outcome in zip(tasks, result.outcomes, strict=False):
        if type(outcome) is Failed:
            if outcome.kind in RECORDED_FAILURES:
                raise ProtocolError(f"{queue.address}: a worker cannot decide {outcome.kind!r}")
            continue
        assert type(outcome) is Done
        left = outcome.state_digest or left
        if len(outcome.emits) > task.emits_max:
            raise ProtocolError(f"{queue.address}: {len(outcome.emits)} emits, {task.emits_max} allowed")
    if queue.stateless and left is not None:
        raise ProtocolError(f"{queue.address}: state from a target that keeps none")
    if (None if result.state is None else digest(result.state)) != left:
        raise ProtocolError(f"{queue.address}: the state does not match the digest of its last change")


def _compare_late(core: Sequencer, message: messages.Completed) -> None:
    """Compare what a worker did on work that was taken from it with what stands: the first completion wins, always."""
    core.late_completions += 1
    assignment = core.dispatcher.orphans.pop(message.assignment, None)
    if assignment is None:
        return
    for (queue, tasks), result in zip(assignment.folds, message.folds, strict=False):
        if result.provenance is not None:
            continue  # it may differ
        for place, (task, outcome) in enumerate(zip(tasks, result.outcomes, strict=False)):
            if _was_caught(task) and not queue.stateless:
                break  # the worker went on from a state that never became real
            if task.outcome is None:
                before = () if queue.stateless else tuple(tasks[:place])
                core.dispatcher.keep_early(queue, task, EarlyReport(message.worker, _digest(outcome), before))
            elif task.outcome != outcome and not _was_caught(task):
                _note_divergence(core, queue, task, _digest(outcome), message.worker)


def _compare_early(core: Sequencer, queue: TaskQueue, task: Task) -> None:
    """Compare a task that has completed with what came of it before, when nobody wanted that any more."""
    if task.outcome is None:
        return
    for report in core.dispatcher.early.pop((queue.lane.name, task.turn), ()):
        was_caught = any(_was_caught(earlier) for earlier in (task, *report.before))
        if not was_caught and report.outcome != _digest(task.outcome):
            _note_divergence(core, queue, task, report.outcome, report.worker)


def _note_divergence(core: Sequencer, queue: TaskQueue, task: Task, other: bytes, worker: str) -> None:
    """Write down that a task had two outcomes. The one that it has stands."""
    assert task.outcome is not None
    lane = queue.lane.name
    core.commit(records.Diverged(lane, task.turn, queue.address, _digest(task.outcome), other, worker))
    core.tell("divergence", lane, turn=task.turn, target=queue.address, worker=worker)


def _was_caught(task: Task) -> bool:
    return type(task.outcome) is Failed and task.outcome.kind in RECORDED_FAILURES


def _digest(outcome: Outcome) -> bytes:
    return digest_of(outcome_fields(outcome))
