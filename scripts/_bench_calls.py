"""The cases `asks` and `flows`: answers that come later, against plain submits and turns by hand.

The callers are the smallest agents that there can be (_bench_callers.py). What is open for long is measured without
processes: lanes are filled by records, as a broker would write them, so that a thousand calls need no messages.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from _bench_callers import ANSWER, by_hand, flow
from _demo_processes import Up
from _environment import REPOSITORY

from rota.broker import records, snapshot
from rota.broker.journal import Journal
from rota.broker.recovery import open_epoch, recover
from rota.broker.snapshot_store import SnapshotStore
from rota.broker.tasks import Task
from rota.broker.world import World
from rota.client import Client
from rota.common.digests import digest, lane_seed
from rota.common.limits import ASKS_MAX
from rota.common.messages import LaneSettings, TaskRun
from rota.common.work import AGENT, ASK, TELL, Code, Done, Emit, Limits, Outcome

if TYPE_CHECKING:
    from _bench_cases import Place

PAYLOAD: Final = np.random.default_rng(3).bytes(100)
WAIT_SECONDS: Final = 120.0
AWAITS: Final = 20
TASKS_PER_CALL: Final = 100  # of the other cases: a call of 20 awaits has 41 turns
ASK_SHARE: Final = 4
OPEN_SHARE: Final = 2  # 10,000 of 20,000
FOLD_TASKS: Final = 256
NOW_MS: Final = 1_700_000_000_000
ECHO: Final = REPOSITORY / "examples" / "agents" / "echo.wasm"


# --- through a broker -----------------------------------------------------------------------------


def asks(place: Place) -> Iterator[None]:
    """Asks that another agent answers in the end: three turns each, against one turn of a plain submit."""
    with Up(place.folder, 1, 0) as up, Client(place.folder.root) as client:
        up.wait_ready(place.say)
        client.deploy("echo", ECHO)
        client.deploy("desk", by_hand("desk", "echo", 1), code_limits=Limits(asks_max=ASKS_MAX))
        while True:
            count = max(place.sizes.tasks // ASK_SHARE, 50)
            place.say(f"{count} asks")
            plain = count / _plain(client, count)
            add = place.table.add
            add("asks", "asks answered end to end, one submit", "asks/s", count / _asked(client, "desk", count),
                {"plain submits": plain, "turns: a third of plain submits": plain / 3})  # fmt: skip
            trips = place.sizes.round_trips
            alone = statistics.median([_trip_seconds(lambda: client.submit("echo", PAYLOAD)) for _ in range(trips)])
            taken = sorted([_trip_seconds(lambda: client.ask("desk", PAYLOAD)) * 1e3 for _ in range(trips)])
            add("asks", "one ask at a time, p50", "ms", taken[len(taken) // 2], {"a plain submit": alone * 1e3})
            add("asks", "one ask at a time, p99", "ms", taken[len(taken) * 99 // 100], {})
            yield


def flows(place: Place) -> Iterator[None]:
    """Calls of a flow that asks 20 times in a row, against an agent that keeps the place where it is by hand."""
    with Up(place.folder, 1, 0) as up, Client(place.folder.root) as client:
        up.wait_ready(place.say)
        client.deploy("echo", ECHO)
        client.deploy("hand", by_hand("hand", "echo", AWAITS))
        client.deploy("flow", flow("echo", AWAITS), flow=True)
        _asked(client, "flow", 10)  # compiled and warm
        while True:
            calls = max(place.sizes.tasks // TASKS_PER_CALL, 10)
            place.say(f"{calls} calls of {AWAITS} awaits")
            hand = calls / _asked(client, "hand", calls)
            called = calls / _asked(client, "flow", calls)
            add = place.table.add
            name = f"a flow of {AWAITS} awaits"
            add("flows", f"{name}, {calls} at once", "calls/s", called, {f"{AWAITS} turns by hand": hand})
            trips = max(place.sizes.round_trips // 10, 5)
            alone = statistics.median([_trip_seconds(lambda: client.ask("hand", PAYLOAD)) for _ in range(trips)])
            taken = statistics.median([_trip_seconds(lambda: client.ask("flow", PAYLOAD)) for _ in range(trips)])
            add("flows", f"{name}, one at a time, p50", "ms", taken * 1e3, {f"{AWAITS} turns by hand": alone * 1e3})
            yield


def _plain(client: Client, count: int) -> float:
    return _seconds_of(client, count, lambda: client.submit_many("echo", [PAYLOAD] * count))


def _asked(client: Client, target: str, count: int) -> float:
    return _seconds_of(client, count, lambda: client.ask_many(target, [PAYLOAD] * count))


def _seconds_of(client: Client, count: int, submit: Callable[[], Any]) -> float:
    """Return how long a submit takes until all of its tasks have their final result."""
    started = time.perf_counter()
    ok = sum(result.ok for result in client.as_completed(submit(), WAIT_SECONDS))
    assert ok == count, f"{ok} of {count} tasks succeeded"
    return time.perf_counter() - started


def _trip_seconds(submit: Callable[[], Any]) -> float:
    started = time.perf_counter()
    submit().result(WAIT_SECONDS)
    return time.perf_counter() - started


# --- what is open for long ------------------------------------------------------------------------


def open_for_long(place: Place) -> Iterator[None]:
    """What an open ask and an open call take, in memory and in a snapshot, and what they cost other turns and a start.

    A call waits for an ask, which is postponed: so with each of them an ask is open too.
    """
    count = place.sizes.tasks // OPEN_SHARE
    number = 0
    while True:
        number += 1
        nothing = _Filled(place.folder.root / f"none-{number}.rota", count, _answered)
        cost, start, task_bytes = nothing.turn_us(), nothing.start_ms(), nothing.waiting_bytes()
        for what, case, fill in (("asks", "asks", _postponed), ("calls", "flows", _waiting)):
            place.say(f"{count} open {what}")
            filled = _Filled(place.folder.root / f"{what}-{number}.rota", count, fill)
            add, name = place.table.add, f"{count} open {what}"
            add(case, f"{name}, memory of each", "bytes", filled.memory_bytes, {"a task that waits": task_bytes})
            add(case, f"{name}, the same in a snapshot", "bytes", filled.snapshot_bytes / count, {})
            add(case, f"{name}, a turn of another agent", "us", filled.turn_us(), {"as many answered": cost})
            add(case, f"{name}, a start from a snapshot", "ms", filled.start_ms(), {"as many answered": start})
        yield


@contextmanager
def _collector_of_a_broker() -> Iterator[None]:
    """Set the garbage collector in the block as a broker does after its start."""
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


_Fill = Callable[[Task], Outcome]


def _answered(_: Task) -> Outcome:
    return Done(ANSWER, None, (), (), 1, ())


def _postponed(_: Task) -> Outcome:
    return Done(None, None, (), (), 1, (), 0, "")


def _waiting(task: Task) -> Outcome:
    """Return the step of a call that asks the agent which postpones everything, and that postponing."""
    if task.code is not None and task.code.flow:
        return Done(None, None, (Emit("desk", PAYLOAD, 0, ASK, (), 0),), (), 1, (), 0, "")
    return _postponed(task)


class _Filled:
    """A world in which so many tasks got their outcome by `fill`, and its run file, with a snapshot at the end."""

    def __init__(self, path: Path, count: int, fill: _Fill) -> None:
        self._path = path
        self.memory_bytes = self._measured(count, fill)
        self.world = World()
        with closing(Journal.open(path)) as journal:
            assert list(journal.read()) == []
            open_epoch(self.world, journal, NOW_MS)
            self._journal: Journal | None = journal
            self._fill(count, fill)
            parts = list(snapshot.encode(snapshot.take(self.world)))
            self.snapshot_bytes = sum(map(len, parts))
            self._write(SnapshotStore(journal).write(journal.last_number, parts, journal.chain))
        self._journal = None

    def turn_us(self) -> float:
        """Return the processor time of one turn of another agent, from its submit to its retire."""
        turns = 2_000
        with _collector_of_a_broker():
            started = time.process_time()
            for _ in range(turns):
                self._submit("echo", 1, TELL)
                self._complete(_answered)
            return (time.process_time() - started) / turns * 1e6

    def start_ms(self) -> float:
        """Return the processor time of a start from the run file."""
        gc.collect()
        gc.disable()  # as the broker does while it recovers
        started = time.process_time()
        with closing(Journal.open(self._path, read_only=True)) as journal:
            recover(journal)
        taken = time.process_time() - started
        gc.enable()
        return taken * 1e3

    def waiting_bytes(self) -> float:
        """Return the memory of a task that waits."""
        self._write(records.PauseSet("main", self.world.lanes["main"].retired, NOW_MS, records.NOBODY, True))
        tracemalloc.start()
        for _ in range(1_000):
            self._submit("echo", 1, TELL)
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return taken / 1_000

    def _measured(self, count: int, fill: _Fill) -> float:
        """Return the memory of what is open, for each, in a world of its own."""
        self._journal = None
        self.world = World(results_max=0)
        tracemalloc.start()
        self._fill(count, fill)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return taken / count

    def _fill(self, count: int, fill: _Fill) -> None:
        if "main" not in self.world.lanes:
            opened = LaneSettings(seed=lane_seed("main"))
            self._write(records.Opened("main", NOW_MS, records.NOBODY, opened, False, ()))
        self._write(records.Fingerprint(1, "cpu", (("wasmtime", "bench"),)))
        for name, is_flow in (("echo", False), ("desk", False), ("flow", True)):
            code = Code(digest(name.encode()), AGENT, flow=is_flow)
            self._write(records.Deployed("main", 0, NOW_MS, records.NOBODY, name, code))
        target = "flow" if fill is _waiting else "desk"
        while count > 0:
            self._submit(target, min(count, 1_000), ASK)
            self._complete(fill)
            count -= 1_000

    def _submit(self, target: str, count: int, kind: str) -> None:
        lane = self.world.lanes["main"]
        run = TaskRun.of(target, 0, (PAYLOAD,) * count, None)
        head = ("main", lane.retired, NOW_MS, records.NOBODY, self.world.next_seq)
        self._write(records.Submitted(*head, (run,), None, kind))

    def _complete(self, fill: _Fill) -> None:
        """Complete all tasks in the line, and those that they make, a fold for each agent at a time."""
        lane = self.world.lanes["main"]
        while tasks := lane.unfinished()[:FOLD_TASKS]:
            folds: dict[str, list[Task]] = {}
            for task in tasks:
                folds.setdefault(task.address, []).append(task)
            done = [
                records.CompletedFold(
                    address, tuple([task.turn for task in found]), [fill(task) for task in found], None, None
                )
                for address, found in folds.items()
            ]
            self._write(records.Completion("main", NOW_MS, "cpu-1", 10, 1, tuple(done)))

    def _write(self, record: records.Record) -> None:
        self.world.apply(record)
        if self._journal is not None:
            self._journal.append([record])


CALLS: Final[dict[str, list[Callable[[Place], Iterator[None]]]]] = {"asks": [asks], "flows": [flows, open_for_long]}
