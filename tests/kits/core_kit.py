"""The real core without sockets: named producers, simulated workers, and a disk that can be slow, full or torn away.

`Broker` keeps the order required of a shell (effects.py): `now` is delivered at once, `after` only when the records of
the same step are on the disk. Every message is encoded and decoded in both directions, every record too. `check()`
asserts the invariants and that the journal folds to the same world; the fixture `make_broker` calls it for every broker
of a test.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import scripted

from rota.broker import records
from rota.broker.effects import (
    BACKEND,
    FRONTEND,
    QUERY,
    Event,
    FromProducer,
    FromQuery,
    FromWorker,
    News,
    Send,
    StorageChanged,
    Tick,
    Unreachable,
    WorkerDied,
)
from rota.broker.lane import Lane
from rota.broker.recovery import fold
from rota.broker.sequencer import Sequencer
from rota.broker.state import BrokerState
from rota.broker.tasks import Agent, Task
from rota.broker.world import World
from rota.common import messages, wire
from rota.common.assignments import FoldAssignment
from rota.common.digests import ZERO_DIGEST, lane_seed
from rota.common.errors import RotaError
from rota.common.messages import (
    Accepted,
    Answer,
    Assign,
    Completed,
    LaneSettings,
    Query,
    Refused,
    Register,
    Registered,
    Results,
    Revoke,
    TaskRun,
)
from rota.common.work import TELL, Code, Fold, FoldResult, TaskInput

START_MS = 1_000_000
_NOBODY = records.Origin("", 0, ZERO_DIGEST)


class Broker:
    """A core with simulated surroundings that a test controls."""

    def __init__(self, *, heartbeat_ms: int = 1_000, **world_settings: int) -> None:
        self.heartbeat_ms = heartbeat_ms
        self.world_settings = world_settings
        self.now_ms = START_MS
        self.mono_ms = 5_000
        self.journal: list[bytes] = []  # the records on the disk
        self.unwritten: list[bytes] = []
        self.held: list[Send] = []  # waits until `unwritten` is written
        self.held_news: list[News] = []
        self.disk_works = True
        self.keeps_up = True  # further steps follow while there is something to send, as in the shell
        self.news: list[News] = []
        self.watched: dict[str, int] = {}
        self.producers: dict[bytes, Producer] = {}
        self.workers: dict[bytes, SimWorker] = {}
        self.sent: list[Send] = []  # everything that left, in order
        self.core = self._start()

    def _start(self) -> BrokerState:
        world = fold_journal(self.journal, **self.world_settings)
        started: list[records.Record] = [records.Epoch(world.boot + 1, self.now_ms, (("rota", "test"),))]
        if "main" not in world.lanes:
            settings = LaneSettings(seed=lane_seed("main"))
            started.append(records.Opened("main", self.now_ms, _NOBODY, settings, False, ()))
        fold(world, started)
        self.journal += [records.encode(record) for record in started]
        core = BrokerState(world, version="test", heartbeat_ms=self.heartbeat_ms)
        self.sequencer = Sequencer(core)
        return core

    # --- time, disk and power ------------------------------------------------------------------------------------

    def step(self, *events: Event) -> None:
        """Feed events and carry out the effects in the required order."""
        effects = self.sequencer.step(events, self.now_ms, self.mono_ms)
        for send in effects.now:
            self._deliver(send)
        for worker, pid in effects.watches:
            self.watched[worker] = pid
        self.unwritten += [records.encode(record) for record in effects.records]
        self.held += effects.after
        self.held_news += effects.news
        if self.disk_works:
            self.sync()
        if self.sequencer.is_behind and self.keeps_up:
            self.step()

    def sync(self) -> None:
        """Let the disk finish: everything that waited for it is sent."""
        self.journal += self.unwritten
        held, self.unwritten, self.held = self.held, [], []
        for send in held:
            self._deliver(send)
        self.news += self.held_news
        self.held_news = []

    def storage(self, *, full: bool) -> None:
        """Make journal writes fail, or work again."""
        self.disk_works = not full
        self.step(StorageChanged(full, "no space left on device" if full else ""))

    def restart(self) -> None:
        """Kill the broker and start another one from its disk. Producers say Hello, workers register."""
        self.unwritten, self.held, self.held_news = [], [], []
        self.watched = {}
        self.disk_works = True
        self.core = self._start()
        for producer in self.producers.values():
            producer.hello()
        for worker in self.workers.values():
            worker.orders.clear()  # work belongs to the boot that gave it
            worker.register()

    def advance(self, ms: int, *, wall: bool = True) -> None:
        """Advance the time, then tick. Without `wall` the wall clock stands still, so that no timer is due."""
        self.now_ms += ms if wall else 0
        self.mono_ms += ms
        self.step(Tick())

    def live(self, ms: int, step_ms: int = 500) -> None:
        """Advance the time while all workers send their heartbeats."""
        for _ in range(0, ms, step_ms):
            for worker in self.workers.values():
                worker.heartbeat()
            self.advance(min(step_ms, ms))

    # --- shorthands ----------------------------------------------------------------------------------------------

    def producer(self, name: str = "alice", *, identity: bytes = b"") -> Producer:
        return Producer(self, name, identity or b"p-" + name.encode())

    def worker(self, name: str = "w1", **settings: Any) -> SimWorker:
        worker = SimWorker(self, name, **settings)
        worker.register()
        return worker

    def lane(self, name: str = "main") -> Lane:
        return self.core.world.lanes[name]

    def line(self, name: str = "main") -> list[int]:
        """The turns in a lane's line, in issue order."""
        return [task.turn for task in self.lane(name).line()]

    def counter(self, address: str, name: str = "main") -> int:
        """The counter of an agent; 0 if it has no state yet."""
        agent = self.lane(name).agents.get(address)
        return int((agent.state if agent is not None else None) or b"0")

    def ask(self, what: str, **arguments: Any) -> Any:
        """Ask the query socket; returns the value, or the refusal."""
        self.step(FromQuery(b"q", Query(1, what, arguments)))
        reply = self.sent[-1].message
        return reply.value if isinstance(reply, Answer) else reply

    def run(self) -> None:
        """Let the workers finish everything that is dispatched, in the order in which they registered."""
        busy = True
        while busy:
            busy = False
            for worker in list(self.workers.values()):
                busy = worker.finish() or busy

    def told(self, kind: type, **fields: Any) -> list[Any]:
        """The published events of a kind with these fields."""
        found = [news.what for news in self.news if isinstance(news.what, kind)]
        return [what for what in found if all(getattr(what, key) == value for key, value in fields.items())]

    def recorded(self, kind: type) -> list[Any]:
        """The records of a kind that are on the disk."""
        return [record for record in map(records.decode, self.journal) if isinstance(record, kind)]

    # --- what must hold --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants, and that journal and unwritten records fold to the live state."""
        self.core.check_invariants()
        again = fold_journal([*self.journal, *self.unwritten], **self.world_settings)
        again.check_invariants()
        assert picture(again) == picture(self.core.world)

    def _deliver(self, send: Send) -> None:
        allowed = {FRONTEND: wire.TO_PRODUCERS, BACKEND: wire.TO_WORKERS, QUERY: wire.TO_PRODUCERS}[send.socket]
        message = wire.decode(wire.encode(send.message), allowed)
        self.sent.append(send._replace(message=message))  # type: ignore[arg-type]
        if send.socket == FRONTEND and send.identity in self.producers:
            self.producers[send.identity].take(message)
        if send.socket == BACKEND and send.identity in self.workers:
            self.workers[send.identity].take(message)


class Producer:
    """A producer's connection. Requests return their reply; results gather in `results`."""

    def __init__(self, broker: Broker, name: str, identity: bytes) -> None:
        self.broker = broker
        self.name = name
        self.identity = identity
        self.number = 0
        self.inbox: list[Any] = []
        self.results: dict[int, messages.ResultItem] = {}
        broker.producers[identity] = self
        self.hello()

    def hello(self) -> None:
        self.send(messages.Hello(0, self.name))

    def send(self, request: messages.FrontendRequest, objection: RotaError | None = None) -> Any:
        """Send a request, with the shell's objection to it; return the reply to it, None if it has none yet."""
        decoded = wire.decode(wire.encode(request), wire.FROM_PRODUCERS)
        seen = len(self.inbox)
        self.broker.step(FromProducer(self.identity, decoded, objection))  # type: ignore[arg-type]
        return next((reply for reply in self.inbox[seen:] if reply.number == request.number), None)

    def take(self, message: Any) -> None:
        if isinstance(message, Results):
            for item in message.items:
                self.results[item.seq] = item
        else:
            self.inbox.append(message)

    def next_number(self) -> int:
        self.number += 1
        return self.number

    # --- requests ------------------------------------------------------------------------------------------------

    def submit(
        self, target: str, *payloads: bytes, lane: str = "main", priority: int = 0, wait: bool = True, **fields: Any
    ) -> Any:
        """Submit one run; returns Accepted or Refused. Without a payload the task does nothing."""
        run = TaskRun.of(target, priority, payloads or (scripted.program(),), None)
        return self.submit_runs(run, lane=lane, wait=wait, **fields)

    def submit_runs(
        self,
        *runs: TaskRun,
        lane: str = "main",
        wait: bool = True,
        number: int | None = None,
        now_ms: int | None = None,
        retry_of: int | None = None,
        kind: str = TELL,
        deadline_ms: int = 0,
    ) -> Any:
        number = self.next_number() if number is None else number
        return self.send(messages.Submit(number, lane, runs, wait, now_ms, retry_of, kind, deadline_ms))

    def deploy(self, name: str, code: Code = scripted.COUNTER, *, lane: str = "main", check: bool = False) -> Any:
        return self.send(messages.Deploy(self.next_number(), lane, name, code, check))

    def open_lane(self, lane: str, *, paused: bool = False, deploys_from: str | None = None, **settings: Any) -> Any:
        request = messages.OpenLane(self.next_number(), lane, LaneSettings(**settings), paused, deploys_from)
        return self.send(request)

    def cancel(self, seq: int) -> Any:
        """Cancel; returns whether it caught the task, or the refusal."""
        reply = self.send(messages.Cancel(self.next_number(), seq))
        return reply.value["caught"] if isinstance(reply, Answer) else reply

    def pause(self, lane: str = "main") -> Any:
        return self.send(messages.SetPaused(self.next_number(), lane, True))

    def release(self, lane: str = "main") -> Any:
        return self.send(messages.SetPaused(self.next_number(), lane, False))

    def window(self, window: int, lane: str = "main") -> Any:
        return self.send(messages.SetWindow(self.next_number(), lane, window))

    def drop_dead(self, *seqs: int, lane: str = "main") -> Any:
        return self.send(messages.DeadDrop(self.next_number(), lane, seqs))

    def await_results(self, first_seq: int, tasks: int = 1) -> Any:
        return self.send(messages.Await(self.next_number(), first_seq, tasks))

    def drain(self, draining: bool = True) -> Any:
        return self.send(messages.Drain(self.next_number(), draining))

    def vanish(self) -> None:
        """Lose the connection: a send to it failed."""
        del self.broker.producers[self.identity]
        self.broker.step(Unreachable(FRONTEND, self.identity))


class SimWorker:
    """A worker as seen by the broker. It holds orders until the test makes it finish, lie, or die."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        pool: str = "cpu",
        slots: int = 256,
        bytes_max: int = 64 << 20,
        pid: int = 1,
        assignments_max: int = 2,
        identity: bytes = b"",
    ) -> None:
        self.broker = broker
        self.name = name
        self.identity = identity or b"w-" + name.encode()
        facts = ("elsewhere", pid, {"engine": "scripted"}, 0, ())
        self.settings = Register(name, pool, slots, bytes_max, *facts, assignments_max)
        self.boot = 0
        self.beat = messages.Heartbeat(name, 0)
        self.orders: deque[Assign] = deque()
        self.prepares: deque[messages.Prepare] = deque()
        self.inbox: list[Any] = []
        broker.workers[self.identity] = self

    def take(self, message: Any) -> None:
        self.inbox.append(message)
        match message:
            case Assign():
                self.orders.append(message)
            case Revoke(assignment):
                self.forget(assignment)
            case Registered(boot, _, dropped):
                self.boot = boot
                for number in dropped:
                    self.forget(number)
            case messages.HeartbeatAck(boot, known):
                if not known or boot != self.boot:
                    self.register()
            case messages.Prepare():
                self.prepares.append(message)
            case Refused():
                self.leave_silently()

    def say(self, message: messages.WorkerMessage) -> None:
        decoded = wire.decode(wire.encode(message), wire.FROM_WORKERS)
        self.broker.step(FromWorker(self.identity, decoded))  # type: ignore[arg-type]

    def register(self, **changes: Any) -> None:
        holds = tuple(order.assignment for order in self.orders)
        self.say(self.settings._replace(boot=self.boot, holds=holds)._replace(**changes))

    def heartbeat(self, **changes: Any) -> None:
        """Send a heartbeat; its fields are kept for later ones until they are given again."""
        self.beat = self.beat._replace(boot=self.boot, **changes)
        self.say(self.beat)

    def goodbye(self, *, draining: bool) -> None:
        self.say(messages.Goodbye(self.name, draining))

    def forget(self, assignment: int) -> None:
        self.orders = deque(order for order in self.orders if order.assignment != assignment)

    # --- work ------------------------------------------------------------------------------------------------------

    def finish(self) -> bool:
        """Run the oldest order and answer it; False if there is none. A task may kill the worker."""
        if not self.orders:
            return False
        try:
            self.answer(self.orders[0])
        except scripted.NoOutcome:
            self.die()
        return True

    def answer(self, order: Assign) -> None:
        """Send the answer to an order, whether or not it is still held."""
        completed = self.compute(order)
        self.forget(order.assignment)
        self.say(completed)

    def compute(self, order: Assign) -> Completed:
        return Completed(self.name, order.assignment, tuple(compute_folds(order)), 1_000)

    def lie(self, **changes: Any) -> None:
        """Answer the oldest order with its first fold changed: fields of its FoldResult by name."""
        order = self.orders.popleft()
        completed = self.compute(order)
        first = completed.folds[0]._replace(**changes)
        self.say(completed._replace(folds=(first, *completed.folds[1:])))

    def die(self) -> None:
        """End the process, noticed by the broker's host."""
        self.leave_silently()
        self.broker.step(WorkerDied(self.name))

    def leave_silently(self) -> None:
        self.orders.clear()
        self.broker.workers.pop(self.identity, None)

    def turns(self) -> list[int]:
        """The turns of the tasks that it holds, in the order of its orders."""
        return [turn for order in self.orders for fold in order.folds for part in fold.segments for turn in part.turns]


def compute_folds(order: Assign) -> list[FoldResult]:
    """What an honest worker answers to an order."""
    found = []
    for assigned in order.folds:
        code = order.codes[assigned.code]
        tasks = inputs_of(assigned)
        assert tasks, "a fold without tasks"
        fold = Fold(order.seed, code, assigned.address, assigned.state, tuple(tasks), assigned.open, assigned.past)
        found.append(scripted.run_fold(fold))
    return found


def folds_of(order: Assign) -> list[Fold]:
    """Return an assignment as an executor takes it."""
    return [
        Fold(order.seed, order.codes[one.code], one.address, one.state, tuple(inputs_of(one)), one.open, one.past)
        for one in order.folds
    ]


def inputs_of(assigned: FoldAssignment) -> list[TaskInput]:
    return [
        TaskInput(
            turn, part.kind, part.sender, payload, part.now_ms, part.reply_to, (), part.emits_max, part.growth_bytes
        )
        for part in assigned.segments
        for turn, payload in zip(part.turns, part.payloads, strict=True)
    ]


def fold_journal(journal: list[bytes], **world_settings: int) -> World:
    """Fold encoded records into a new world."""
    world = World(**world_settings)
    fold(world, map(records.decode, journal))
    return world


def picture(world: World) -> dict[str, Any]:
    """Everything of a world that recovery must restore."""
    return {
        "next_seq": world.next_seq,
        "boot": world.boot,
        "divergences": world.divergences,
        "pending": world.pending,
        "results": [(task.seq, task.turn, task.outcome, task.provenance) for task in world.results.kept()],
        "lanes": {name: _picture_lane(lane) for name, lane in world.lanes.items()},
    }


def _picture_lane(lane: Lane) -> dict[str, Any]:
    plain = (
        "digest",
        "retired",
        "failed",
        "next_turn",
        "paused",
        "window",
        "deploys",
        "load",
        "waiting_count",
        "timers",
        "deadlines",
        "reserved",
        "budget",
    )
    return {
        **{name: getattr(lane, name) for name in plain},
        "waiting": [(run.first_seq, run.first_turn, run.issued, run.verdicts or None) for run in lane.waiting_runs()],
        "line": [_picture_task(task) for task in lane.line()],
        "agents": {
            name: (agent.state, agent.state_digest, agent.completed, agent.counted_bytes, agent.open, _call(agent))
            for name, agent in sorted([*lane.agents.items(), *lane.ended.items()])
        },
        "asks": [(turn, ask.seq, ask.asker, ask.address, ask.owner, ask.owes) for turn, ask in lane.open.items()],
        # The number of attempts is known only to the live broker, not from the journal.
        "dead": [dead._replace(attempts=0) for dead in lane.dead.values()],
    }


def _call(agent: Agent) -> tuple[Any, ...] | None:
    """Return what a lane knows of the call that an agent is."""
    call = agent.call
    if call is None:
        return None
    told = (call.code, call.turn, tuple(call.steps), call.fuel, tuple(call.asked), tuple(call.timers))
    return (*told, call.end, call.ended, call.in_line, call.counted_bytes, call.waits)


def _picture_task(task: Task) -> tuple[Any, ...]:
    return (task.seq, task.turn, task.address, task.code, task.emits_max, task.growth_bytes, task.outcome, task.ends)


__all__ = ["Accepted", "Broker", "Producer", "Refused", "SimWorker", "compute_folds", "fold_journal", "picture"]
