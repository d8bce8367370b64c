"""What producers ask for: each request becomes an input, an answer, or a typed refusal. PURE.

A request either takes effect as a whole, written down with its origin, or is refused and leaves nothing behind.
Replies wait until what they speak of is durable. `take` is the only entry; one function per message below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from rota.broker import records
from rota.broker.effects import BACKEND, FRONTEND, Send
from rota.broker.results import watch
from rota.broker.tasks import Run, Task, Watcher, caught_task
from rota.common import errors, messages
from rota.common.digests import digest_of, lane_seed
from rota.common.limits import CONNECTIONS_MAX, DEPLOYS_MAX, LANES_MAX, PENDING_DEPLOYS_MAX, RUN_TASKS_MAX
from rota.common.work import MODEL, Code

if TYPE_CHECKING:
    from rota.broker.dispatch import Worker
    from rota.broker.lane import Lane
    from rota.broker.sequencer import Sequencer

DEFAULT_LANE: Final = "main"


def take(
    core: Sequencer, identity: bytes, request: messages.FrontendRequest, objection: errors.RotaError | None
) -> None:
    """Carry out a request or refuse it. `objection` is what the shell found against it; a repeat is answered anyway."""
    try:
        if identity not in core.connections and not isinstance(request, messages.Hello):
            raise errors.NotGreeted(
                "say Hello first: the broker does not know which producer this connection belongs to"
            )
        if type(request) in _CONVERSATIONS:
            _CONVERSATIONS[type(request)](core, identity, request)
        else:
            _take_input(core, identity, request, objection)
    except errors.RotaError as error:
        core.reply(FRONTEND, identity, _refusal(request.number, error))


def _take_input(
    core: Sequencer, identity: bytes, request: messages.FrontendRequest, objection: errors.RotaError | None
) -> None:
    """Answer an input that took effect before as it was answered then, whatever stands against it now; else let it."""
    origin = _origin(core, identity, request)
    answer = core.world.producers.old_answer(origin)
    if answer is None:
        objection = _closed(core, request) or objection
        if objection is not None:
            raise objection
        answer = _INPUTS[type(request)](core, identity, request, origin)
    if answer is not None:
        core.reply(FRONTEND, identity, answer)
    if isinstance(request, messages.Submit) and request.wait:
        assert isinstance(answer, messages.Accepted)
        _await(core, identity, messages.Await(request.number, answer.first_seq, answer.tasks))


def _closed(core: Sequencer, request: messages.FrontendRequest) -> errors.RotaError | None:
    """What stands against any new input of this kind now."""
    if core.storage_full:
        return _storage_full(core)
    if core.draining and isinstance(request, messages.Submit):
        return errors.Draining(
            "the broker is draining and takes no more tasks: send to another one, or end it with drain --off"
        )
    return None


def _storage_full(core: Sequencer) -> errors.StorageFull:
    return errors.StorageFull(
        f"the journal cannot be written ({core.storage_full}): nothing was accepted; free some space",
        reason=core.storage_full,
        pending=False,
    )


def _refusal(number: int, error: errors.RotaError) -> messages.Refused:
    return messages.Refused(number, error.code, error.message, error.fields)


# --- conversations --------------------------------------------------------------------------------------


def _hello(core: Sequencer, identity: bytes, request: messages.Hello) -> None:
    core.connections.pop(identity, None)
    core.connections[identity] = request.producer  # the newest last; the longest silent one is forgotten first
    if len(core.connections) > CONNECTIONS_MAX:
        del core.connections[next(iter(core.connections))]
    core.reply(FRONTEND, identity, messages.Welcome(request.number, core.world.boot, core.version))


def _drain(core: Sequencer, identity: bytes, request: messages.Drain) -> None:
    core.draining = request.draining
    core.reply(FRONTEND, identity, messages.Answer(request.number, {"draining": core.draining}))


def _await(core: Sequencer, identity: bytes, request: messages.Await) -> None:
    first, last = request.first_seq, request.first_seq + request.tasks - 1
    if request.tasks > RUN_TASKS_MAX:
        raise errors.BadPayload(f"an Await names at most {RUN_TASKS_MAX} tasks, got {request.tasks}: send several")
    if last >= core.world.next_seq:
        raise errors.UnknownTask(f"no task {last}: the last one stamped is {core.world.next_seq - 1}", seq=last)
    expired = []
    seq = first
    for run in core.world.runs.between(first, last):
        expired += _send_kept(core, identity, seq, run.first_seq - 1)
        seq = max(seq, run.first_seq)
        end = min(last, run.first_seq + len(run.payloads) - 1)
        if run.finished:  # nothing to look for in a run that has just been stamped
            expired += _send_kept(core, identity, seq, end)
        _send_caught(core, identity, run, seq, end)
        watch(run, Watcher(identity, first, last))
        seq = end + 1
    expired += _send_kept(core, identity, seq, last)
    if expired:
        raise errors.Expired(
            f"the results of {len(expired)} tasks from {expired[0]} on are no longer kept: ask sooner or keep more",
            seqs=expired,
        )


def _send_caught(core: Sequencer, identity: bytes, run: Run, first_seq: int, last_seq: int) -> None:
    """Send the outcomes of tasks that were caught and still wait to be issued: they are final, and kept in the run."""
    for index, failure in (run.verdicts or {}).items():
        if index >= run.issued and first_seq <= run.first_seq + index <= last_seq:
            core.send_result(identity, caught_task(run, index, failure))


def _send_kept(core: Sequencer, identity: bytes, first_seq: int, last_seq: int) -> list[int]:
    """Send the results that are kept; return the numbers of finished tasks whose results are not."""
    expired: list[int] = []
    for seq in range(first_seq, last_seq + 1):
        task = core.world.results.find(seq)
        if task is not None:
            core.send_result(identity, task)
        elif not _is_open(core, seq):
            expired.append(seq)
    return expired


def _is_open(core: Sequencer, seq: int) -> bool:
    """Whether a task is stamped and has no outcome yet."""
    run = core.world.runs.find(seq)
    if run is None:
        return False
    index = seq - run.first_seq
    if index >= run.issued:
        return True
    task = core.world.lanes[run.lane].line_by_turn.get(run.first_turn + index)
    return task is not None and task.outcome is None


# --- inputs ----------------------------------------------------------------------------------------------


def _submit(core: Sequencer, identity: bytes, request: messages.Submit, origin: records.Origin) -> messages.Accepted:
    lane = _lane(core, request.lane)
    count = check_submit(lane, request)
    now_ms = core.now_ms if request.now_ms is None else request.now_ms
    first_seq = core.world.next_seq
    core.commit(records.Submitted(lane.name, lane.retired, now_ms, origin, first_seq, request.runs, request.retry_of))
    return messages.Accepted(request.number, first_seq, count)


def check_submit(lane: Lane, request: messages.Submit) -> int:
    """Return how many tasks a submit stamps. Raises what stands against it now."""
    count = sum(len(run.payloads) for run in request.runs)
    if request.retry_of is not None:
        if request.runs:
            raise errors.BadPayload("a retry names a dead task and brings no tasks of its own")
        if request.retry_of not in lane.dead:
            raise errors.UnknownTask(f"lane {lane.name!r} has no dead task {request.retry_of}", seq=request.retry_of)
        count = 1
    if not 0 < count <= RUN_TASKS_MAX:
        raise errors.BadPayload(f"a submit holds 1 to {RUN_TASKS_MAX} tasks, got {count}: split it", tasks=count)
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
    return count


def _open_lane(
    core: Sequencer, identity: bytes, request: messages.OpenLane, origin: records.Origin
) -> messages.Accepted:
    if request.lane in core.world.lanes:
        raise errors.BadPayload(
            f"lane {request.lane!r} is open already: use it, or choose another name", lane=request.lane
        )
    if len(core.world.lanes) >= LANES_MAX:
        raise errors.Busy(f"{LANES_MAX} lanes are open, no more fit", lanes_max=LANES_MAX)
    deploys = {} if request.deploys_from is None else _lane(core, request.deploys_from).deploys
    settings = request.settings
    if settings.seed is None:
        settings = settings._replace(seed=lane_seed(request.lane))
    core.commit(
        records.Opened(request.lane, core.now_ms, origin, settings, request.paused, tuple(sorted(deploys.items())))
    )
    core.tell("lane", request.lane, opened=True, paused=request.paused)
    return messages.Accepted(request.number, 0, 0)


def _set_paused(
    core: Sequencer, identity: bytes, request: messages.SetPaused, origin: records.Origin
) -> messages.Accepted:
    lane = _lane(core, request.lane)
    core.commit(records.PauseSet(lane.name, lane.retired, core.now_ms, origin, request.paused))
    core.tell("lane", lane.name, paused=request.paused)
    return messages.Accepted(request.number, 0, 0)


def _set_window(
    core: Sequencer, identity: bytes, request: messages.SetWindow, origin: records.Origin
) -> messages.Accepted:
    lane = _lane(core, request.lane)
    core.commit(records.WindowSet(lane.name, lane.retired, core.now_ms, origin, request.window))
    return messages.Accepted(request.number, 0, 0)


def _dead_drop(core: Sequencer, identity: bytes, request: messages.DeadDrop, origin: records.Origin) -> messages.Answer:
    lane = _lane(core, request.lane)
    before = len(lane.dead)
    core.commit(records.DeadDropped(lane.name, lane.retired, core.now_ms, origin, request.seqs))
    return messages.Answer(request.number, {"dropped": before - len(lane.dead)})


def _cancel(core: Sequencer, identity: bytes, request: messages.Cancel, origin: records.Origin) -> messages.Answer:
    if request.seq >= core.world.next_seq or request.seq < 1:
        raise errors.UnknownTask(f"no task {request.seq}: the last is {core.world.next_seq - 1}", seq=request.seq)
    run = core.world.runs.find(request.seq)
    caught = run is not None and _catch(core, run, request.seq, origin)
    return messages.Answer(request.number, {"caught": caught})


def _catch(core: Sequencer, run: Run, seq: int, origin: records.Origin) -> bool:
    """Cancel a task unless it has completed or was caught before."""
    index = seq - run.first_seq
    lane = core.world.lanes[run.lane]
    if index >= run.issued:
        if run.verdicts is not None and index in run.verdicts:
            return False
    elif not _withdraw(core, lane.line_by_turn.get(run.first_turn + index)):
        return False
    core.commit(records.Cancelled(lane.name, lane.retired, core.now_ms, origin, seq))
    return True


def _withdraw(core: Sequencer, task: Task | None) -> bool:
    """Take an issued task away from dispatch; False if it has its outcome."""
    if task is None or task.outcome is not None:
        return False
    core.withdraw(task)
    return True


# --- deploys ------------------------------------------------------------------------------------------------


class _PendingDeploy:
    """A deploy that a worker looks at before it takes effect."""

    __slots__ = ("identity", "number", "origin", "request", "worker")

    def __init__(self, number: int, identity: bytes, request: messages.Deploy, origin: records.Origin) -> None:
        self.number = number
        self.identity = identity
        self.request = request
        self.origin = origin
        self.worker = ""  # who was asked; empty while no worker of the pool is there


class PendingDeploys:
    """Deploys that wait for a worker to compile or load what they name. Volatile: a producer that hears nothing asks
    again.
    """

    def __init__(self, boot: int) -> None:
        self._by_number: dict[int, _PendingDeploy] = {}
        self._next_number = (boot << 32) + 1  # an answer to a broker before this one is no answer to us

    def add(self, core: Sequencer, identity: bytes, request: messages.Deploy, origin: records.Origin) -> None:
        """Ask a worker, now or when one is there; a request that was sent again replaces the first."""
        for pending in self._by_number.values():
            if pending.origin == origin and origin.producer:
                pending.identity = identity
                return
        if len(self._by_number) >= PENDING_DEPLOYS_MAX:
            self._give_up_oldest(core)
        pending = _PendingDeploy(self._next_number, identity, request._replace(module=None), origin)
        self._next_number += 1
        self._by_number[pending.number] = pending
        self._ask(core, pending)

    def tick(self, core: Sequencer) -> None:
        """Ask again where no worker was there, or the one that was asked has gone."""
        for pending in self._by_number.values():
            if pending.worker not in core.dispatcher.workers:
                self._ask(core, pending)

    def registered(self, core: Sequencer, worker: str) -> None:
        """A worker came, or came again: what it was asked on another connection, or in another process, may be lost."""
        for pending in self._by_number.values():
            if pending.worker == worker:
                pending.worker = ""
        self.tick(core)

    def settle(self, core: Sequencer, prepared: messages.Prepared) -> None:
        """A worker has looked: let the deploy take effect, or refuse it with what the worker says."""
        pending = self._by_number.get(prepared.number)
        if pending is None or pending.worker != prepared.worker:
            return
        del self._by_number[prepared.number]
        try:
            if not prepared.ok:
                raise errors.CodeError(prepared.message, name=pending.request.name)
            if core.storage_full:
                raise _storage_full(core)
            answer = core.world.producers.old_answer(pending.origin)  # it may have come again without `check`
            if answer is None:
                answer = _bind(core, pending.request, pending.origin, prepared.info)
            core.reply(FRONTEND, pending.identity, answer)
        except errors.RotaError as error:
            core.reply(FRONTEND, pending.identity, _refusal(pending.request.number, error))

    def _give_up_oldest(self, core: Sequencer) -> None:
        """Its producer is the likeliest to have given up itself: a ROUTER does not tell."""
        pending = self._by_number.pop(next(iter(self._by_number)))
        busy = errors.Busy(
            f"{PENDING_DEPLOYS_MAX} newer deploys wait for a worker: start one of that pool, or deploy without check"
        )
        core.reply(FRONTEND, pending.identity, _refusal(pending.request.number, busy))

    def _ask(self, core: Sequencer, pending: _PendingDeploy) -> None:
        pool = "gpu" if pending.request.code.kind == MODEL else "cpu"
        able: list[Worker] = [
            worker
            for worker in core.dispatcher.workers.values()
            if worker.settings.pool == pool and not worker.draining
        ]
        pending.worker = ""
        if able:
            worker = min(able, key=lambda candidate: candidate.held_tasks)
            pending.worker = worker.name
            order = messages.Prepare(pending.number, pending.request.name, pending.request.code)
            core.effects.now.append(Send(BACKEND, worker.identity, order))


def _deploy(
    core: Sequencer, identity: bytes, request: messages.Deploy, origin: records.Origin
) -> messages.Answer | None:
    """Bind a name, or have a worker look at the code first: then the answer comes later."""
    lane = _lane(core, request.lane)
    check_deploy(lane, request.name, request.code)
    if not request.check:
        return _bind(core, request, origin, {})
    core.deploys.add(core, identity, request, origin)
    return None


def check_deploy(lane: Lane, name: str, code: Code) -> None:
    """Raise what stands against binding a name to code now."""
    if name.startswith("model:") != (code.kind == MODEL):
        raise errors.CodeError(
            f"{name!r} cannot be bound to code of kind {code.kind!r}: models are named model:NAME", name=name
        )
    if len(lane.deploys) >= DEPLOYS_MAX and name not in lane.deploys:
        raise errors.Busy(f"lane {lane.name!r} has {DEPLOYS_MAX} names bound, no more fit", deploys_max=DEPLOYS_MAX)


def _bind(core: Sequencer, request: messages.Deploy, origin: records.Origin, info: dict[str, Any]) -> messages.Answer:
    lane = core.world.lanes[request.lane]
    core.commit(records.Deployed(lane.name, lane.retired, core.now_ms, origin, request.name, request.code))
    core.tell("lane", lane.name, deployed=request.name, code=request.code.digest)
    return messages.Answer(request.number, info)


# --- shared ------------------------------------------------------------------------------------------------------


def _origin(core: Sequencer, identity: bytes, request: messages.FrontendRequest) -> records.Origin:
    """Who asks for what under which number."""
    return records.Origin(core.connections[identity], request.number, request_digest(request))


def request_digest(request: messages.FrontendRequest) -> bytes:
    """Return the digest of what is asked for. How the answer travels is no part of it."""
    match request:
        case messages.Submit():
            content: Any = (request.lane, request.runs, request.now_ms, request.retry_of)
        case messages.Deploy():
            content = (request.lane, request.name, request.code)
        case _:
            content = request[1:]
    return digest_of((type(request).__name__, content))


def _lane(core: Sequencer, name: str) -> Lane:
    lane = core.world.lanes.get(name)
    if lane is None:
        known = ", ".join(sorted(core.world.lanes)[:8])
        raise errors.UnknownLane(f"no lane {name!r}: open it first (open lanes: {known})", lane=name)
    return lane


# What each request is: a word between two sides, or an input, whose handler returns its answer (None: it comes later).
_CONVERSATIONS: Final[dict[type, Callable[[Any, bytes, Any], None]]] = {
    messages.Hello: _hello,
    messages.Await: _await,
    messages.Drain: _drain,
}
_INPUTS: Final[dict[type, Callable[[Any, bytes, Any, records.Origin], messages.Accepted | messages.Answer | None]]] = {
    messages.Submit: _submit,
    messages.OpenLane: _open_lane,
    messages.Deploy: _deploy,
    messages.Cancel: _cancel,
    messages.SetPaused: _set_paused,
    messages.SetWindow: _set_window,
    messages.DeadDrop: _dead_drop,
}
