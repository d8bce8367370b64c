"""Random work and random faults for the core, all from one seed.

`Chaos` drives a `Broker` (core_kit.py) in random order: workers compute, die, vanish, reconnect; answers arrive late,
twice or never; the disk lags; the broker is killed. With `inputs` producers act too: they submit, cancel, deploy,
pause, and programs may hang or kill their worker. `settle` then ends the faults and completes all work.
"""

from __future__ import annotations

import random
from typing import Any

import scripted
from core_kit import Broker, Producer, SimWorker

from rota.common.messages import Completed, TaskRun
from rota.common.work import Limits

AGENTS = (
    "counter/a", "counter/b", "counter", "other/x", "function", "model:net", "odd/o", "ghost/g", "model:drifting",
    "model:refused", "other/desk", "trip", "trip", "tour",
)  # fmt: skip
FLOWS = ("trip", "tour")
DEADLINES_MS = (0, 0, 0, 1, 40, 3_000)


def random_program(rng: random.Random, depth: int = 0, deadly: bool = False) -> list[Any]:
    """Return a program that terminates: what it emits is smaller than itself."""
    steps: list[Any] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        target = rng.choice(AGENTS)
        choices: list[Any] = [["add", rng.randint(1, 9)]] * 4
        if depth < 3:
            inner = program_for(rng, target, depth + 1, deadly)
            choices += [["tell", target, inner, rng.choice((-1, 0, 0, 3))]] * 2
            choices += [["ask", target, inner, 0, rng.choice(DEADLINES_MS)]] * 3
            choices += [["hand_on", rng.choice((0, 0, -1, -2)), target, inner, 0, rng.choice(DEADLINES_MS)]]
        else:
            inner = []
        choices += [["timer", rng.choice((1, 5, 700)), inner if target not in FLOWS else []]]
        choices += [["spawn", rng.randint(1, 9), target, rng.choice((0, 200))]]
        choices += _settling(rng)
        choices += [
            ["fail", "no"],
            ["trap"],
            ["log", "line"],
            ["size", 40],
            ["grow", rng.choice((1, 1, 300, -200))],
            ["hang"],
            ["fault"],
            ["nonsense"],
        ]
        choices += [["die"]] if deadly else []
        steps.append(rng.choice(choices))
    if ["postpone"] in steps and rng.random() < 0.7:
        steps.append(["timer", rng.choice((1, 5, 700)), [rng.choice(_settling(rng))]])
    return steps


def _settling(rng: random.Random) -> list[Any]:
    """Return steps that answer later; some name a turn that is not theirs to answer."""
    which = rng.choice((-1, -1, -1, -2, 0, rng.randint(1, 30)))
    return [["postpone"], ["postpone"], ["settle", which, rng.randint(1, 9)], ["settle", -1, 7],
            ["settle_failure", which, "later"]]  # fmt: skip


def random_flow(rng: random.Random, depth: int, deadly: bool = False) -> list[Any]:
    """Return the program of a flow: it gathers what it asks agents, models, flows and timers for, several times."""
    steps: list[Any] = []
    for _ in range(rng.choice((0, 1, 1, 2))):
        sends = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            target = rng.choice(AGENTS)
            inner = program_for(rng, target, depth + 1, deadly) if depth < 3 else []
            asks: list[Any] = [["ask", target, inner, rng.choice((0, 0, 3)), rng.choice(DEADLINES_MS)]] * 3
            sends.append(rng.choice([*asks, ["timer", rng.choice((1, 5, 700)), []], ["tell", target, inner]]))
        coming = sum(send[0] != "tell" for send in sends)
        n = rng.choice((coming, coming, coming, rng.randint(0, coming), coming + 1))
        steps.append(["await", sends, n])
        if rng.random() < 0.5:
            steps.append(rng.choice((["add", 5], ["log", "on"], ["size", 40], ["spawn", 2, "counter/a"], ["fail", "no"],
                                     ["fault"], ["settle", -1, 3], ["postpone"], ["hang"])))  # fmt: skip
    return steps


def program_for(rng: random.Random, target: str, depth: int, deadly: bool = False) -> list[Any]:
    """Return a program for what is usually bound to a target."""
    return random_flow(rng, depth, deadly) if target in FLOWS else random_program(rng, depth, deadly)


def random_runs(rng: random.Random, deadly: bool = False) -> list[TaskRun]:
    """Return the runs of one submit: to one target, or to many."""
    runs = []
    for _ in range(rng.randint(1, 3)):
        count, one = rng.randint(1, 6), rng.choice(AGENTS)
        many = tuple(rng.choice(AGENTS) for _ in range(count)) if rng.random() < 0.5 else (one,) * count
        payloads = tuple(scripted.program(*program_for(rng, target, 0, deadly)) for target in many)
        targets = one if many == (one,) * count else many
        runs.append(TaskRun.of(targets, rng.choice((-2, 0, 0, 0, 5)), payloads, None))
    return runs


def deploy_all(producer: Producer, lane: str, timeout_ms: int = 50) -> None:
    """Bind every name that programs use, except `ghost`."""
    limits = Limits(emits_max=6, timeout_ms=timeout_ms, growth_bytes=400)
    for name, code in (
        ("counter", scripted.COUNTER),
        ("other", scripted.code("other")),
        ("function", scripted.FUNCTION_CODE),
        ("model:net", scripted.MODEL_CODE),
        ("model:drifting", scripted.UNSTABLE_CODE),
        ("model:refused", scripted.UNSTABLE_REFUSED),
        ("odd", scripted.UNRUNNABLE),
        ("trip", scripted.FLOW),
        ("tour", scripted.SOURCE_FLOW),
    ):
        producer.deploy(name, code._replace(limits=limits), lane=lane)


class Chaos:
    """The random actions of one seed on one broker."""

    def __init__(self, broker: Broker, seed: int, workers: int, *, inputs: bool = False) -> None:
        self.broker = broker
        self.random = random.Random(seed * 1_000 + workers)
        self.workers_wanted = workers
        self.producer = broker.producer("chaos")
        self.lanes = ["main"]
        self.network: list[tuple[SimWorker, Completed]] = []
        self.born = 0
        self._actions = [self._work] * 6 + [self._arrive] * 6 + [
            self._lose, self._kill, self._vanish, self._reconnect, self._restart, self._lag, self._sync, self._sync
        ]  # fmt: skip
        if inputs:
            self._actions += [self._submit] * 3 + [
                self._cancel, self._cancel, self._redeploy, self._pause, self._window, self._dead, self._wait
            ]  # fmt: skip
        self.inputs = inputs
        self._staff()

    def run(self, actions: int) -> None:
        """Do a number of random actions."""
        for _ in range(actions):
            self.random.choice(self._actions)()
            self._staff()

    def settle(self) -> None:
        """Complete all work: no more faults, lanes released, timers due, all tasks retired."""
        self._sync()
        while self.network:
            self._arrive()
        for lane in self.lanes:
            self.producer.release(lane)
        while self._rest() or self._end_open_ask():
            timers = [self.broker.core.next_timer_ms() or 0]
            self.broker.live(max(500, timers[0] - self.broker.now_ms))
        assert not any(lane.load for lane in self.broker.core.world.lanes.values())

    def _rest(self) -> bool:
        """Let workers work until nothing is dispatched; return whether a timer still waits."""
        world = self.broker.core.world
        while any(lane.line_count for lane in world.lanes.values()):
            self._staff()
            if not self._finish_one_each():
                for worker in list(self.broker.workers.values()):
                    worker.heartbeat()  # a worker removed as stuck learns of it and registers again
                assert self._finish_one_each(), "tasks wait, and no worker is given one"
        return any(lane.timers or lane.deadlines for lane in world.lanes.values())

    def _end_open_ask(self) -> bool:
        """Cancel the oldest task that somebody waits for and nobody answers; return False if there is none."""
        open_asks = [ask for lane in self.broker.core.world.lanes.values() for ask in lane.open.values()]
        if open_asks:
            assert self.producer.cancel(open_asks[0].seq) is True
        return bool(open_asks)

    def _finish_one_each(self) -> bool:
        return sum(worker.finish() for worker in list(self.broker.workers.values())) > 0

    def _staff(self) -> None:
        """Replace workers that are gone; every fourth is one for models."""
        pools = [worker.settings.pool for worker in self.broker.workers.values()]
        for pool, wanted in (("cpu", self.workers_wanted), ("gpu", max(1, self.workers_wanted // 4))):
            for _ in range(wanted - pools.count(pool)):
                self.born += 1
                slots = self.random.choice((1, 3, 256))
                self.broker.worker(
                    f"{pool}{self.born}", pool=pool, slots=slots, bytes_max=self.random.choice((40, 1 << 20))
                )

    # --- workers, network, disk ------------------------------------------------------------------------------------

    def _worker(self) -> SimWorker:
        return self.random.choice(list(self.broker.workers.values()))

    def _work(self) -> None:
        worker = self._worker()
        if worker.orders:
            try:
                completed = worker.compute(worker.orders[0])
            except scripted.NoOutcome:
                worker.die()
                return
            worker.forget(completed.assignment)
            self.network.append((worker, completed))

    def _arrive(self) -> None:
        if self.network:
            place = self.random.randrange(len(self.network))
            twice = self.random.random() < 0.1
            worker, completed = self.network[place] if twice else self.network.pop(place)
            worker.say(completed)

    def _lose(self) -> None:
        if self.network:
            worker, _ = self.network.pop(self.random.randrange(len(self.network)))
            if worker.identity in self.broker.workers:
                worker.register()

    def _kill(self) -> None:
        worker = self._worker()
        if self._may_die(worker):
            worker.die()

    def _vanish(self) -> None:
        worker = self._worker()
        if self._may_die(worker):
            worker.leave_silently()
            for _ in range(8):
                for other in self.broker.workers.values():
                    other.heartbeat()
                self.broker.advance(500, wall=False)

    def _may_die(self, worker: SimWorker) -> bool:
        """Return whether a worker may die: without `inputs` not by a third death in a task, which causes a verdict."""
        held = [self.broker.core.dispatcher.assignments.get(order.assignment) for order in worker.orders]
        tasks = [task for assignment in held if assignment is not None for _, row in assignment.folds for task in row]
        known = self.broker.core.dispatcher.workers.get(worker.name)
        tasks += [] if known is None else [t for held in known.held.values() for _, row in held.folds for t in row]
        return self.inputs or all(task.trouble is None or task.trouble.deaths < 2 for task in tasks)

    def _reconnect(self) -> None:
        self._worker().register()

    def _restart(self) -> None:
        if self.random.random() < 0.3:
            self.broker.restart()

    def _lag(self) -> None:
        self.broker.disk_works = False

    def _sync(self) -> None:
        self.broker.disk_works = True
        self.broker.sync()

    # --- inputs ----------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        lane = self.random.choice(self.lanes)
        self.producer.submit_runs(*random_runs(self.random, deadly=self.random.random() < 0.2), lane=lane)

    def _cancel(self) -> None:
        next_seq, pending = self.broker.core.world.next_seq, list(self.broker.core.world.pending)
        if pending and self.random.random() < 0.5:
            self.producer.cancel(self.random.choice(pending))
        elif next_seq > 1:
            self.producer.cancel(self.random.randrange(max(1, next_seq - 30), next_seq))

    def _redeploy(self) -> None:
        version = scripted.code(f"counter{self.random.randint(1, 3)}", emits_max=self.random.choice((0, 2, 6)))
        self.producer.deploy("counter", version, lane=self.random.choice(self.lanes))

    def _pause(self) -> None:
        lane = self.random.choice(self.lanes)
        if self.random.random() < 0.5:
            self.producer.pause(lane)
        else:
            self.producer.release(lane)

    def _window(self) -> None:
        self.producer.window(self.random.choice((1, 2, 5, 40)), self.random.choice(self.lanes))

    def _dead(self) -> None:
        lane = self.random.choice(self.lanes)
        dead = list(self.broker.core.world.lanes[lane].dead)
        if dead and self.random.random() < 0.7:
            self.producer.submit_runs(lane=lane, retry_of=self.random.choice(dead))
        elif dead:
            self.producer.drop_dead(self.random.choice(dead), lane=lane)

    def _wait(self) -> None:
        self.broker.live(self.random.choice((0, 5, 600)))
