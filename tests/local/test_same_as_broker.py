"""A lane in one process equals the broker's core: same digest and results for the same inputs.

The broker is the real core (tests/kits/core_kit.py) with workers that run the real modules. Inputs have the same
positions on both sides because they come while nothing runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import core_kit
import pytest

from rota.common.digests import digest, lane_seed
from rota.common.messages import Assign, Completed, TaskRun
from rota.common.work import Code, Limits
from rota.engine.executors import Executors, Folders
from rota.local import LocalLane
from rota.local.places import artefacts_folder

LANE = "experiment"
WINDOW = 5
NOW_MS = core_kit.START_MS
DELAY_MS = 400  # less than a heartbeat: no worker is missed

# What is deployed: name, file, kind, reuse, limits.
DEPLOYS = [
    ("relay", "relay", "agent", False, {}),
    ("counter", "counter", "agent", True, {}),
    ("asker", "asker", "agent", False, {}),
    ("reminder", "reminder", "agent", False, {}),
    ("echo", "echo_function", "function", True, {}),
    ("poor", "counter", "agent", False, {"fuel": 100}),
]

# What is submitted: priority, target, payloads.
SUBMITS: list[tuple[int, str, list[bytes]]] = [
    (0, "relay/1", [b"3 3 5", b"2 4 5"]),
    (3, "counter/a", [b"+"] * 7),
    (-2, "asker/a", [b"", b"nobody/x hello", b"asker/b ", b"poor/x +", b"echo ping"]),
    (0, "reminder/a", [f"{DELAY_MS} one".encode(), f"{2 * DELAY_MS} two".encode(), b"wrong"]),
    (7, "echo", [b"x" * 100, b""]),
    (0, "poor/y", [b"+", b"get"]),
    (1, "missing/z", [b"lost"]),
    (0, "model:none", [b"{}"]),
]


class RealWorker(core_kit.SimWorker):
    """A worker of the kit that runs real modules."""

    def __init__(self, executors: Executors, broker: core_kit.Broker, name: str) -> None:
        super().__init__(broker, name)
        self._executors = executors

    def compute(self, order: Assign) -> Completed:
        return Completed(self.name, order.assignment, tuple(self._executors.run_all(core_kit.folds_of(order))), 1_000)


@pytest.fixture
def waiting(callers: ModuleType) -> dict[str, bytes]:
    """Agents that answer later, or never, and flows, by name; those with `flow` in it are flows."""
    return {
        "desk": callers.by_hand("desk", "echo", 2),
        "keeper": callers.keeper_of_asks(),
        "flow": callers.flow("echo", 3),
        "stuck_flow": callers.flow("keeper", 1),
        "outer_flow": callers.flow("stuck_flow", 2),
    }


@pytest.fixture
def executors(agents: Path, waiting: dict[str, bytes], tmp_path: Path) -> Iterator[Executors]:
    """Executors that find every example agent, and those that wait, by their digests."""
    modules = tmp_path / "modules"
    modules.mkdir()
    for module in (*[path.read_bytes() for path in sorted(agents.glob("*.wasm"))], *waiting.values()):
        (modules / f"{digest(module).hex()}.wasm").write_bytes(module)
    (tmp_path / "tensors").mkdir()
    folders = Folders(modules=modules, artefacts=artefacts_folder(), models=tmp_path, tensors=tmp_path / "tensors")
    with Executors(folders) as made:
        yield made


class ByBroker:
    """The inputs through the broker's core."""

    def __init__(self, executors: Executors, agents: Path, policy: str, workers: int) -> None:
        self.broker = core_kit.Broker()
        self.producer = self.broker.producer()
        for number in range(workers):
            RealWorker(executors, self.broker, f"w{number}").register()
        self.producer.open_lane(LANE, paused=True, policy=policy, window=WINDOW, seed=lane_seed(LANE))
        for name, file, kind, reuse, limits in DEPLOYS:
            code = Code(digest((agents / f"{file}.wasm").read_bytes()), kind, reuse, (), Limits(**limits))
            self.producer.deploy(name, code, lane=LANE)

    def deploy_waiting(self, waiting: dict[str, bytes]) -> None:
        for name, module in waiting.items():
            self.producer.deploy(name, Code(digest(module), "agent", flow="flow" in name), lane=LANE)

    def submit(self, priority: int, target: str, payloads: list[bytes]) -> None:
        self.producer.submit_runs(TaskRun.of(target, priority, tuple(payloads), None), lane=LANE)

    def ask(self, target: str, payloads: list[bytes], deadline_ms: int) -> None:
        run = TaskRun.of(target, 0, tuple(payloads), None)
        self.producer.submit_runs(run, lane=LANE, kind="ask", deadline_ms=deadline_ms)

    def cancel(self, turn: int) -> Any:
        return self.producer.cancel(turn)

    def retry(self, turn: int) -> None:
        self.producer.submit_runs(lane=LANE, retry_of=turn)

    def release(self) -> None:
        self.producer.release(LANE)

    def set_window(self, window: int) -> None:
        self.producer.window(window, LANE)

    def run(self) -> None:
        self.broker.run()

    def advance(self, ms: int) -> None:
        self.broker.live(ms, ms)

    def pause(self) -> None:
        self.producer.pause(LANE)

    def dead(self) -> list[int]:
        return list(self.broker.lane(LANE).dead)

    def stamped(self) -> int:
        return self.broker.lane(LANE).next_turn - 1

    def end(self) -> tuple[int, bytes, dict[int, Any]]:
        self.broker.check()
        lane = self.broker.lane(LANE)
        done = self.broker.core.world.results.kept()
        return lane.retired, lane.digest, {task.turn: task.outcome for task in done}


class InOneProcess:
    """The same inputs through rota.local."""

    def __init__(self, lane: LocalLane, agents: Path) -> None:
        self.lane = lane
        self.submit = lambda priority, target, payloads: lane.submit_many(target, payloads, priority=priority)
        self.ask = lambda target, payloads, deadline_ms: lane.ask_many(target, payloads, deadline_ms=deadline_ms)
        self.cancel, self.retry, self.release, self.pause = lane.cancel, lane.retry, lane.release, lane.pause
        self.set_window, self.run, self.advance = lane.set_window, lane.run, lane.advance
        for name, file, kind, reuse, limits in DEPLOYS:
            lane.deploy(name, agents / f"{file}.wasm", kind, reuse=reuse, **limits)  # type: ignore[arg-type]

    def deploy_waiting(self, waiting: dict[str, bytes]) -> None:
        for name, module in waiting.items():
            self.lane.deploy(name, module, flow="flow" in name)

    def dead(self) -> list[int]:
        return [dead.turn for dead in self.lane.dead]

    def stamped(self) -> int:
        return self.lane._lane.next_turn - 1

    def end(self) -> tuple[int, bytes, dict[int, Any]]:
        # A broker keeps the answer in the end, so nothing of an ask that is open; steps of a call are no asks.
        steps = {turn.turn: turn.outcome for turn in self.lane.turns if turn.call not in (None, turn.turn)}
        final = {turn.turn: turn.answer for turn in self.lane.turns if turn.answer is not None}
        return self.lane.retired, self.lane.digest, steps | final


def play(side: Any) -> tuple[int, bytes, dict[int, Any]]:
    """Give one side all inputs, and return what it came to."""
    for priority, target, payloads in SUBMITS:
        side.submit(priority, target, payloads)
    assert side.cancel(2)
    assert not side.cancel(2)
    side.release()
    side.run()
    side.advance(DELAY_MS)
    side.run()
    side.set_window(2)
    side.retry(2)
    side.submit(0, "relay/2", [b"2 6 3"])
    side.advance(DELAY_MS)
    side.run()
    found: tuple[int, bytes, dict[int, Any]] = side.end()
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_digest_and_outcomes_are_the_brokers(
    rota_lane_factory: Callable[..., LocalLane], executors: Executors, agents: Path, workers: int
) -> None:
    """Goal: what passes here passes there. Method: emits, asks, replies, failures, timers, functions, priorities, a
    cancel, a retry and two windows, through the core with one and three workers and through a lane; all is equal.
    """
    lane = rota_lane_factory(LANE, window=WINDOW, paused=True, now_ms=NOW_MS)
    here = play(InOneProcess(lane, agents))
    there = play(ByBroker(executors, agents, "derived", workers))
    assert here == there
    outcomes = [getattr(outcome, "kind", "ok") for outcome in here[2].values()]
    assert {"ok", "fuel", "unknown_agent", "unknown_model", "cancelled", "error"} == set(outcomes)
    kinds = {turn.kind for turn in lane.turns}
    assert kinds == {"tell", "ask", "reply", "failure", "timer"}
    assert here[0] > 100


def test_a_step_at_a_time_is_the_same(rota_lane_factory: Callable[..., LocalLane], agents: Path) -> None:
    """Goal: how one runs it cannot be seen. Method: the same inputs by `run`, by `step` and in rows of seven."""
    ends = []
    for how in (None, 1, 7):
        lane = rota_lane_factory(LANE, window=WINDOW, paused=True, now_ms=NOW_MS)
        side = InOneProcess(lane, agents)
        if how is not None:
            side.run = lambda lane=lane, how=how: [None for _ in iter(lambda: len(lane.run(how)), 0)]
        ends.append(play(side))
    assert ends[0] == ends[1] == ends[2]


def play_waiting(side: Any, waiting: dict[str, bytes]) -> tuple[Any, list[int]]:
    """Give one side asks and calls, some of which are cancelled, or pass their deadline, or stay open."""
    side.deploy_waiting(waiting)
    side.ask("desk", [b"a", b"b"], 0)
    side.ask("flow", [b"", b"", b""], 0)
    side.ask("outer_flow", [b"x"] * 3, DELAY_MS)
    side.ask("outer_flow", [b"y"] * 2, 0)
    side.ask("keeper", [b"kept"], DELAY_MS)
    side.submit(0, "echo", [b"plain"])
    side.ask("flow/key", [b"no"], 0)
    side.release()
    side.run()
    assert side.cancel(10)
    assert not side.cancel(10)
    side.run()
    side.advance(DELAY_MS)
    side.run()
    side.retry(side.dead()[-1])
    side.ask("outer_flow", [b"z"], 0)
    side.run()
    return side.end(), side.dead()


@pytest.mark.parametrize("workers", [1, 3])
def test_answers_that_come_later_are_the_brokers(
    rota_lane_factory: Callable[..., LocalLane],
    executors: Executors,
    agents: Path,
    waiting: dict[str, bytes],
    workers: int,
) -> None:
    """Goal: asks and calls are the same here and there, with what cancels and deadlines end. Method: agents that answer
    later or never, flows that wait for each other; digest, outcomes and dead letters are equal, and so is what is open.
    """
    lane = rota_lane_factory(LANE, window=WINDOW, paused=True, now_ms=NOW_MS)
    here, there = InOneProcess(lane, agents), ByBroker(executors, agents, "derived", workers)
    assert play_waiting(here, waiting) == play_waiting(there, waiting)
    broker = there.broker.lane(LANE)
    assert [(ask.turn, ask.owner, ask.owes) for ask in lane.asks] == [
        (turn, ask.owner, ask.owes) for turn, ask in sorted(broker.open.items())
    ]
    assert len(lane.asks) > 3
    assert {dead.failure.kind for dead in lane.dead} >= {"cancelled", "expired", "bad_input"}


TARGETS = [
    ("relay/1", b"1 3 4"), ("relay/2", b"0 0"), ("counter/a", b"+"), ("counter/b", b"get"), ("asker/a", b"relay/1 1 2"),
    ("asker/b", b"nobody ?"), ("reminder/a", f"{DELAY_MS} tick".encode()), ("echo", b"hello"), ("poor/x", b"+"),
]  # fmt: skip


ASKED = ["desk", "keeper", "flow", "stuck_flow", "outer_flow", "echo", "relay/3", "flow/key"]


def play_at_random(side: Any, seed: int, waiting: dict[str, bytes]) -> tuple[Any, list[Any]]:
    """Give one side forty inputs that follow from a seed and from what the lane has come to."""
    random, answers = Random(seed), []
    side.deploy_waiting(waiting)
    for _ in range(40):
        match random.choice(
            ["submit", "submit", "ask", "ask", "run", "cancel", "cancel", "retry", "window", "pause", "release", "wait"]
        ):
            case "submit":
                target, payload = random.choice(TARGETS)
                side.submit(random.choice([-2, 0, 3]), target, [payload] * random.randint(1, 6))
            case "ask":
                payloads, deadline_ms = [b"1 1 2"] * random.randint(1, 3), random.choice([0, 0, DELAY_MS])
                side.ask(random.choice(ASKED), payloads, deadline_ms)
            case "run":
                side.run()
            case "cancel" if side.stamped():
                answers.append(side.cancel(random.randint(1, side.stamped())))
            case "retry" if side.dead():
                side.retry(random.choice(side.dead()))
            case "window":
                side.set_window(random.randint(1, 8))
            case "pause":
                side.pause()
            case "release":
                side.release()
            case "wait":
                side.release()  # what is left would set timers that are late already, and those fire where they can
                side.run()
                side.advance(DELAY_MS)
    side.release()
    side.run()
    return side.end(), answers


@pytest.mark.parametrize("seed", range(6))
def test_any_inputs_come_to_the_same(
    rota_lane_factory: Callable[..., LocalLane],
    executors: Executors,
    agents: Path,
    waiting: dict[str, bytes],
    seed: int,
) -> None:
    """Goal: equality is no matter of one list of inputs. Method: forty inputs at random, in any order; all is equal."""
    lane = rota_lane_factory(LANE, window=WINDOW, paused=True, now_ms=NOW_MS)
    here = play_at_random(InOneProcess(lane, agents), seed, waiting)
    there = play_at_random(ByBroker(executors, agents, "derived", 2), seed, waiting)
    assert here == there
    assert lane.retired > 10
