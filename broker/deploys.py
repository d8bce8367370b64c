"""Deploys: bind names to code, after a worker has checked it if the producer wants that. PURE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rota.broker import records
from rota.broker.pending_deploys import NOBODY, PendingDeploy
from rota.broker.refusals import refuse, storage_full
from rota.broker.state import BrokerState
from rota.common import errors, events, messages
from rota.common.code_kinds import FLOW_KINDS, kind_of
from rota.common.limits import DEPLOYS_MAX, PENDING_DEPLOYS_MAX, POISON_DEATHS_MAX
from rota.common.targets import MODEL_PREFIX
from rota.common.work import Code

if TYPE_CHECKING:
    from rota.broker.lane import Lane


def deploy(
    broker: BrokerState, identity: bytes, request: messages.Deploy, origin: records.Origin
) -> messages.Answer | None:
    """Bind a name; or have a worker check the code first and return None, since the answer comes later."""
    lane = broker.lane(request.lane)
    check_deploy(lane, request.name, request.code)
    if not request.check:
        return _bind(broker, request, origin, {})
    pending = broker.deploys.find(origin)
    if pending is not None:  # sent again: it gets the answer of the first
        pending.identity = identity
        return None
    pending, oldest = broker.deploys.add(identity, request, origin)
    if oldest is not None:
        busy = errors.Busy(
            f"{PENDING_DEPLOYS_MAX} newer deploys wait for a worker: start one of that pool, or deploy without check"
        )
        _end(broker, oldest, busy)
    _ask(broker, pending)
    return None


def check_deploy(lane: Lane, name: str, code: Code) -> None:
    """Raise an error if a name cannot be bound to this code now."""
    if name.startswith(MODEL_PREFIX) != (kind_of(code).name_prefix == MODEL_PREFIX):
        raise errors.CodeError(
            f"{name!r} cannot be bound to code of kind {code.kind!r}: models are named model:NAME", name=name
        )
    if code.flow and not kind_of(code).may_flow:
        able = " or ".join(FLOW_KINDS)
        raise errors.CodeError(f"{name!r}: code of kind {code.kind!r} cannot be a flow, only of kind {able}", name=name)
    if len(lane.deploys) >= DEPLOYS_MAX and name not in lane.deploys:
        raise errors.Busy(f"lane {lane.name!r} has {DEPLOYS_MAX} names bound, no more fit", deploys_max=DEPLOYS_MAX)


def tick(broker: BrokerState) -> None:
    """Ask another worker if there was none, or the one asked has gone, or another suspect was being checked."""
    for pending in broker.deploys:
        if pending.worker not in broker.dispatcher.workers:
            _ask(broker, pending)


def registered(broker: BrokerState, worker: str) -> None:
    """Ask a worker that registered again: the Prepare may be lost with its old connection or process."""
    for pending in broker.deploys:
        if pending.worker == worker:
            pending.worker = NOBODY
    tick(broker)


def died(broker: BrokerState, worker: str) -> None:
    """Refuse the deploys whose check has now ended with the death of the worker too often; others are asked again."""
    for pending in broker.deploys.died(worker):
        name = pending.request.name
        error = errors.CodeError(
            f"{POISON_DEATHS_MAX} workers died while they checked {name!r}: their logs say how",
            name=name,
        )
        _end(broker, pending, error)


def settle(broker: BrokerState, prepared: messages.Prepared) -> None:
    """Take a worker's answer: apply the deploy, or refuse it with the worker's reason."""
    pending = broker.deploys.take(prepared.number, prepared.worker)
    if pending is None:
        return
    objection = errors.CodeError(prepared.message, name=pending.request.name)
    _end(broker, pending, prepared.info if prepared.ok else objection)


def _end(broker: BrokerState, pending: PendingDeploy, found: dict[str, Any] | errors.RotaError) -> None:
    """Apply a deploy with what the worker found, or refuse it with an error; answer as before if it took effect."""
    try:
        answer = broker.world.producers.old_answer(pending.origin)  # it may have been sent again without `check`
        if answer is None:
            if isinstance(found, errors.RotaError):
                raise found
            if broker.storage_full:
                raise storage_full(broker)
            answer = _bind(broker, pending.request, pending.origin, found)
        broker.answer(pending.identity, answer)
    except errors.RotaError as error:
        refuse(broker, pending.identity, pending.request.number, error)


def _ask(broker: BrokerState, pending: PendingDeploy) -> None:
    worker = None if broker.deploys.must_wait(pending) else broker.dispatcher.idlest(pending.pool)
    pending.worker = NOBODY if worker is None else worker.name
    if worker is not None:
        broker.order(worker.identity, messages.Prepare(pending.number, pending.request.name, pending.request.code))


def _bind(
    broker: BrokerState, request: messages.Deploy, origin: records.Origin, info: dict[str, Any]
) -> messages.Answer:
    lane = broker.world.lanes[request.lane]
    broker.commit(records.Deployed(lane.name, lane.retired, broker.now_ms, origin, request.name, request.code))
    broker.tell(lane.name, events.NameBound(request.name, request.code.digest))
    return messages.Answer(request.number, info)
