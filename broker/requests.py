"""Handles requests of producers: each becomes an input, an answer, or a typed refusal. PURE.

A request either takes effect completely, recorded with its origin, or is refused without any effect. Replies wait until
their records are durable. `take` is the only entry; below it is one function per message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from rota.broker import deploys, endings, records
from rota.broker.awaits import watch_new
from rota.broker.dead_letters import retry_bytes
from rota.broker.lane_budget import run_bytes
from rota.broker.origins import request_digest
from rota.broker.refusals import refuse, storage_full
from rota.broker.state import BrokerState
from rota.common import errors, events, messages
from rota.common.calls import is_instance, reserved_text
from rota.common.digests import lane_seed
from rota.common.limits import LANES_MAX, RUN_TASKS_MAX

if TYPE_CHECKING:
    from rota.broker.lane import Lane


def take(
    broker: BrokerState, identity: bytes, request: messages.FrontendRequest, objection: errors.RotaError | None
) -> None:
    """Carry out a request or refuse it. `objection`: the shell's reason to refuse it, unless it is a repeat."""
    try:
        if broker.producer(identity) is None and not isinstance(request, messages.Hello):
            raise errors.NotGreeted(
                "say Hello first: the broker does not know which producer this connection belongs to"
            )
        if type(request) in _CONVERSATIONS:
            if objection is not None:
                raise objection
            _CONVERSATIONS[type(request)](broker, identity, request)
        else:
            _take_input(broker, identity, request, objection)
    except errors.RotaError as error:
        refuse(broker, identity, request.number, error)


def _take_input(
    broker: BrokerState, identity: bytes, request: messages.FrontendRequest, objection: errors.RotaError | None
) -> None:
    """Answer a repeated input as before, even if it would be refused now; else apply it."""
    origin = _origin(broker, identity, request)
    answer = broker.world.producers.old_answer(origin)
    is_new = answer is None
    if answer is None:
        objection = _closed(broker, request) or objection
        if objection is not None:
            raise objection
        answer = _INPUTS[type(request)](broker, identity, request, origin)
    if answer is not None:
        broker.answer(identity, answer)
    if isinstance(request, messages.Submit) and request.wait:
        assert isinstance(answer, messages.Accepted)
        if is_new:
            watch_new(broker, identity, answer.first_seq, answer.first_seq + answer.tasks - 1)
        else:
            _await(broker, identity, messages.Await(request.number, answer.first_seq, answer.tasks))


def _closed(broker: BrokerState, request: messages.FrontendRequest) -> errors.RotaError | None:
    """Return why new inputs of this kind are refused now, or None."""
    if broker.storage_full:
        return storage_full(broker)
    if broker.draining and isinstance(request, messages.Submit):
        return errors.Draining(
            "the broker is draining and takes no more tasks: send to another one, or end it with `rota drain --off`"
        )
    return None


# --- conversations --------------------------------------------------------------------------------------


def _hello(broker: BrokerState, identity: bytes, request: messages.Hello) -> None:
    broker.greet(identity, request.producer)
    broker.answer(identity, messages.Welcome(request.number, broker.world.boot, broker.version))


def _keep(broker: BrokerState, identity: bytes, request: messages.Keep) -> None:
    """Acknowledge bytes that the shell has stored."""
    broker.answer(identity, messages.Accepted(request.number, 0, 0))


def _drain(broker: BrokerState, identity: bytes, request: messages.Drain) -> None:
    broker.drain(request.draining)
    broker.answer(identity, messages.Answer(request.number, {"draining": broker.draining}))


def _await(broker: BrokerState, identity: bytes, request: messages.Await) -> None:
    last = request.first_seq + request.tasks - 1
    if request.tasks > RUN_TASKS_MAX:
        raise errors.BadPayload(f"an Await names at most {RUN_TASKS_MAX} tasks, got {request.tasks}: send several")
    if last >= broker.world.next_seq:
        raise errors.UnknownTask(f"no task {last}: the last one stamped is {broker.world.next_seq - 1}", seq=last)
    broker.debts.ask(identity, request.number, request.first_seq, last)


# --- inputs ----------------------------------------------------------------------------------------------


def _submit(
    broker: BrokerState, identity: bytes, request: messages.Submit, origin: records.Origin
) -> messages.Accepted:
    lane = broker.lane(request.lane)
    count = check_submit(lane, request)
    now_ms = broker.now_ms if request.now_ms is None else request.now_ms
    first_seq = broker.world.next_seq
    head = (lane.name, lane.retired, now_ms, origin, first_seq)
    broker.commit(records.Submitted(*head, request.runs, request.retry_of, request.kind, request.deadline_ms))
    return messages.Accepted(request.number, first_seq, count)


def check_submit(lane: Lane, request: messages.Submit) -> int:
    """Return how many tasks a submit stamps. Raises an error if it must be refused now."""
    count = sum(len(run.payloads) for run in request.runs)
    if request.retry_of is not None:
        if request.runs:
            raise errors.BadPayload("a retry names a dead task and brings no tasks of its own")
        check_dead(lane, request.retry_of)
        check_targets([lane.dead[request.retry_of].target])
        count = 1
    if not 0 < count <= RUN_TASKS_MAX:
        raise errors.BadPayload(f"a submit holds 1 to {RUN_TASKS_MAX} tasks, got {count}: split it", tasks=count)
    for run in request.runs:
        check_targets([run.targets] if isinstance(run.targets, str) else run.targets.table)
    if count > lane.settings.tasks_max:
        raise errors.BadPayload(
            f"{count} tasks can never fit into lane {lane.name!r}, which holds {lane.settings.tasks_max}: split them",
            tasks=count,
            tasks_max=lane.settings.tasks_max,
        )
    if lane.load + lane.reserved + count > lane.settings.tasks_max:
        raise errors.Busy(
            f"lane {lane.name!r} holds {lane.load} tasks of at most {lane.settings.tasks_max}, "
            f"and keeps room for {lane.reserved} that its line may emit: wait and send again",
            lane=lane.name,
            load=lane.load,
            tasks_max=lane.settings.tasks_max,
        )
    _check_bytes(lane, request)
    return count


def check_targets(targets: Iterable[str]) -> None:
    """Raise BadTarget if one of these is a call of a flow."""
    for target in targets:
        if "/~" in target and is_instance(target):
            raise errors.BadTarget(reserved_text(target), target=target)


def check_dead(lane: Lane, *seqs: int) -> None:
    """Raise UnknownTask unless these are dead letters of the lane."""
    for seq in seqs:
        if seq not in lane.dead:
            raise errors.UnknownTask(f"lane {lane.name!r} has no dead task {seq}", seq=seq)


def _check_bytes(lane: Lane, request: messages.Submit) -> None:
    """Raise an error if the lane has no room for the bytes of a submit."""
    budget = lane.budget
    if request.retry_of is None:
        size = sum(map(run_bytes, request.runs))
    else:
        size = retry_bytes(lane.dead[request.retry_of])
    if size > budget.bytes_max // 2:
        raise errors.BadPayload(
            f"tasks of {size} bytes can never fit into lane {lane.name!r}, of whose {budget.bytes_max} bytes producers "
            "may fill half: split them, send large data as numpy arrays, or open a lane with more",
            bytes=size,
            bytes_max=budget.bytes_max,
        )
    if not budget.fits(size):
        raise errors.Busy(
            f"lane {lane.name!r} has no room for {size} bytes: {budget.task_bytes} in tasks, {budget.timer_bytes} in "
            f"timers, {budget.state_bytes} in states and {budget.reserved_bytes} kept for its line are there, of "
            f"{budget.bytes_max} (producers fill up to half of what states leave): wait and send again",
            lane=lane.name,
            bytes=size,
            held_bytes=budget.held_bytes,
            reserved_bytes=budget.reserved_bytes,
            bytes_max=budget.bytes_max,
        )


def _open_lane(
    broker: BrokerState, identity: bytes, request: messages.OpenLane, origin: records.Origin
) -> messages.Accepted:
    if request.lane in broker.world.lanes:
        raise errors.BadPayload(
            f"lane {request.lane!r} is open already: use it, or choose another name", lane=request.lane
        )
    if len(broker.world.lanes) >= LANES_MAX:
        raise errors.Busy(f"{LANES_MAX} lanes are open, no more fit", lanes_max=LANES_MAX)
    promised, wanted = sum(lane.settings.bytes_max for lane in broker.world.lanes.values()), request.settings.bytes_max
    if promised + wanted > broker.lanes_bytes:
        raise errors.Busy(
            f"the open lanes may hold {promised} bytes; {wanted} more would pass the {broker.lanes_bytes} of this "
            "broker: open it with a smaller bytes_max, or start the broker with more (--lanes-bytes)",
            promised_bytes=promised,
            bytes_max=wanted,
            lanes_bytes=broker.lanes_bytes,
        )
    bound = {} if request.deploys_from is None else broker.lane(request.deploys_from).deploys
    settings = request.settings
    if settings.seed is None:
        settings = settings._replace(seed=lane_seed(request.lane))
    broker.commit(
        records.Opened(request.lane, broker.now_ms, origin, settings, request.paused, tuple(sorted(bound.items())))
    )
    broker.tell(request.lane, events.LaneOpened(request.paused))
    return messages.Accepted(request.number, 0, 0)


def _set_paused(
    broker: BrokerState, identity: bytes, request: messages.SetPaused, origin: records.Origin
) -> messages.Accepted:
    lane = broker.lane(request.lane)
    broker.commit(records.PauseSet(lane.name, lane.retired, broker.now_ms, origin, request.paused))
    broker.tell(lane.name, events.LanePaused(request.paused))
    return messages.Accepted(request.number, 0, 0)


def _set_window(
    broker: BrokerState, identity: bytes, request: messages.SetWindow, origin: records.Origin
) -> messages.Accepted:
    lane = broker.lane(request.lane)
    broker.commit(records.WindowSet(lane.name, lane.retired, broker.now_ms, origin, request.window))
    return messages.Accepted(request.number, 0, 0)


def _dead_drop(
    broker: BrokerState, identity: bytes, request: messages.DeadDrop, origin: records.Origin
) -> messages.Answer:
    lane = broker.lane(request.lane)
    check_dead(lane, *request.seqs)
    before = len(lane.dead)
    broker.commit(records.DeadDropped(lane.name, lane.retired, broker.now_ms, origin, request.seqs))
    return messages.Answer(request.number, {"dropped": before - len(lane.dead)})


def _cancel(broker: BrokerState, identity: bytes, request: messages.Cancel, origin: records.Origin) -> messages.Answer:
    if request.seq >= broker.world.next_seq or request.seq < 1:
        raise errors.UnknownTask(f"no task {request.seq}: the last is {broker.world.next_seq - 1}", seq=request.seq)
    return messages.Answer(request.number, {"caught": endings.cancel(broker, request.seq, origin)})


# --- shared ------------------------------------------------------------------------------------------------------


def _origin(broker: BrokerState, identity: bytes, request: messages.FrontendRequest) -> records.Origin:
    """Return producer, number and digest of a request."""
    producer = broker.producer(identity)
    assert producer is not None, "take() refuses connections without a Hello"
    return records.Origin(producer, request.number, request_digest(request))


# The handlers: conversation messages; and inputs, whose handlers return the answer (None: it comes later).
_CONVERSATIONS: Final[dict[type, Callable[[Any, bytes, Any], None]]] = {
    messages.Hello: _hello,
    messages.Await: _await,
    messages.Drain: _drain,
    messages.Keep: _keep,
}
_INPUTS: Final[dict[type, Callable[[Any, bytes, Any, records.Origin], messages.Accepted | messages.Answer | None]]] = {
    messages.Submit: _submit,
    messages.OpenLane: _open_lane,
    messages.Deploy: deploys.deploy,
    messages.Cancel: _cancel,
    messages.SetPaused: _set_paused,
    messages.SetWindow: _set_window,
    messages.DeadDrop: _dead_drop,
}
