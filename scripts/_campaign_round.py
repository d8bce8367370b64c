"""One round of the campaign: the work, and the checks during and after it.

`forest` is a lane that is opened paused and pinned, so an undisturbed run of the same seed must have the same digest.
So must `errands` and the lanes `clock-N`, in which agents and flows wait for each other, for timers and for deadlines
(society.py): what comes from outside comes while they are idle. `live` is fed continuously by a named producer with
numbers; its positions are not pinned, but each of its agents counts, so its results must be 1, 2, 3, ... whatever
happens in between.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from _campaign_chaos import Chaos, Processes
from _environment import REPOSITORY

from rota.broker.journal import Journal
from rota.broker.recovery import fold
from rota.broker.world import World
from rota.client import Busy, Client, NotReachable, Result, TaskRow, UnknownTask
from rota.common.errors import RotaError
from rota.host.endpoints import RunFolder
from rota.proof.verification import prove
from rota.proof.verify import VerifyOptions
from rota.runs.open import open_run

society: Any = importlib.import_module("society")  # among the tests' kits, which campaign.py puts on the path

AGENTS = REPOSITORY / "examples" / "agents"
FOREST, LIVE, ERRANDS = "forest", "live", "errands"
CLOCKS = ("clock-1", "clock-2")
CALLS = (ERRANDS, *CLOCKS)
NOW_MS = 1_700_000_000_000
LIVE_AGENTS = 5
DONE_SECONDS = 120.0
T = TypeVar("T")
Answer = tuple[bool, bytes | None, str, str]  # ok, payload, kind, message
_ANSWER_SECONDS = 20.0
_FAILURES_OF_CALLS = ("error", "cancelled", "expired")  # which are part of the work there


class Failure(Exception):
    """A check failed."""


@dataclass(frozen=True)
class Plan:
    """The work of a round. In lane `errands`: so many cycles of so many tasks; in each clock so many rounds."""

    forest: list[TaskRow]
    cycles: int
    tasks: int
    clock_rounds: int
    window: int


@dataclass(frozen=True)
class Found:
    """What a run came to: how many tasks each lane retired with which digest, and the answers of those that waited."""

    lanes: dict[str, tuple[int, bytes]]
    answers: dict[str, list[Answer]]


def run_round(seed: int, keep: Path | None, disturb_seconds: float, workers: int | None = None) -> str:
    """Run a round and return a short summary. Raises `Failure`."""
    random_ = random.Random(seed)
    plan = Plan(_forest(random_), random_.randint(2, 4), random_.randint(20, 60), 12, random_.choice([8, 64, 1_000]))
    count = random_.choice([1, 2, 4, 8])
    calm = _in_folder(f"calm-{seed}", keep, lambda folder: _calm(folder, plan))
    with_faults = _Disturbed(plan, random_, disturb_seconds, workers or count)
    return _in_folder(f"round-{seed}", keep, lambda folder: with_faults.run(folder, calm))


def _in_folder(name: str, keep: Path | None, work: Callable[[RunFolder], T]) -> T:
    root = Path(tempfile.mkdtemp(prefix="rota-"))
    try:
        return work(RunFolder(root).prepare())
    except (AssertionError, RotaError, TimeoutError) as error:
        if keep is not None:
            shutil.copytree(root, keep / name, ignore=shutil.ignore_patterns("*.sock"))
        raise Failure(f"{type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(root)


# --- the work -------------------------------------------------------------------------------------


def _forest(random_: random.Random) -> list[TaskRow]:
    """Return trees of about 10,000 relays in all, in up to three priorities."""
    depth, fanout = random_.choice([(3, 3), (4, 3), (5, 2), (2, 8)])
    tree = sum(fanout**level for level in range(depth + 1))
    payload = f"{depth} {fanout} {random_.choice([1, 8, 40])}".encode()
    runs = []
    for priority in random_.sample(range(-8, 8), random_.randint(1, 3)):
        targets = [f"relay/{random_.randrange(9)}" for _ in range(max(1, 10_000 // tree // 3))]
        runs.append(TaskRow(targets, [payload] * len(targets), priority))
    return runs


def _begin(client: Client, plan: Plan) -> None:
    client.deploy("relay", AGENTS / "relay.wasm")
    client.deploy("counter", AGENTS / "counter.wasm")
    society.deploy(client)
    client.open_lane(FOREST, paused=True, window=len(plan.forest) * 200)
    for lane in (LIVE, *CALLS):
        client.open_lane(lane, window=plan.window)
    client.submit_runs(plan.forest, lane=FOREST, now_ms=NOW_MS, wait=False)
    client.release(FOREST)


def _calls(where: Path, plan: Plan, lane: str) -> list[Answer]:
    """Drive one of the lanes in which calls wait, and return the answers."""
    answers: list[Answer] = []
    if lane != ERRANDS:
        answers += society.clock(where, lane, plan.clock_rounds)
        return answers
    with contextlib.closing(society.Driver(where, "driver")) as driver:
        for _ in range(plan.cycles):
            answers += driver.cycle(lane, plan.tasks)
    return answers


def _calm(folder: RunFolder, plan: Plan) -> Found:
    with Processes(folder.root, cpu_workers=1), Client(folder.root) as client:
        _begin(client, plan)
        answers = {lane: _calls(folder.root, plan, lane) for lane in CALLS}
        return Found({lane: _ended(client, lane) for lane in (FOREST, *CALLS)}, answers)


def _ended(client: Client, lane: str) -> tuple[int, bytes]:
    numbers = client.wait_idle(lane, timeout_s=DONE_SECONDS)
    assert (numbers["timers"], numbers["asks"]) == (0, 0), f"lane {lane} still waits: {numbers}"
    return numbers["retired"], numbers["digest"]


class _Observer:
    """Asks for results continuously, and for all again at the end."""

    def __init__(self) -> None:
        self.seen: dict[int, Result] = {}
        self.stop = threading.Event()

    def watch(self, where: Path) -> None:
        with Client(where, contact_s=DONE_SECONDS) as client:
            while not self.stop.is_set():
                # A seq may be unknown to the next broker at first: emitted tasks are stamped again when it recovers.
                with contextlib.suppress(UnknownTask, TimeoutError, NotReachable):
                    last = client.status()["next_seq"] - 1
                    self.look(client, range(max(1, last - 200), last + 1), _ANSWER_SECONDS)

    def look(self, client: Client, seqs: range, timeout_s: float) -> None:
        for result in client.results(seqs.start, len(seqs), timeout_s):
            known = self.seen.setdefault(result.seq, result)
            same = _essence(known) == _essence(result)
            assert same, f"result {result.seq} was taken back: {known} became {result}"


def _essence(result: Result) -> tuple[Any, ...]:
    return result.lane, result.turn, result.ok, result.payload, result.kind, result.message


def _produce(where: Path, stop: threading.Event) -> int:
    """Submit small batches until told to stop, each under its number until it is answered; return how many tasks."""
    number = tasks = 0
    with Client(where, producer="till", timeout_s=5, contact_s=DONE_SECONDS) as client:
        while not stop.is_set():
            number += 1
            targets = [f"counter/{(number + place) % LIVE_AGENTS}" for place in range(1 + number % 7)]
            while True:
                try:
                    client.submit_many(targets, [b"x"] * len(targets), lane=LIVE, number=number, wait=False)
                    break
                except (NotReachable, TimeoutError, Busy):
                    continue
            tasks += len(targets)
    return tasks


# --- a disturbed run ------------------------------------------------------------------------------


class _Disturbed:
    """A run with faults, compared with one without."""

    def __init__(self, plan: Plan, random_: random.Random, seconds: float, workers: int) -> None:
        self._plan, self._random, self._seconds, self._workers = plan, random_, seconds, workers

    def run(self, folder: RunFolder, calm: Found) -> str:
        """Run it and return a summary."""
        observer, stop = _Observer(), threading.Event()
        with Processes(folder.root, cpu_workers=self._workers) as processes, ThreadPoolExecutor() as threads:
            try:
                with Client(folder.root) as client:
                    _begin(client, self._plan)
                calls = {lane: threads.submit(_calls, folder.root, self._plan, lane) for lane in CALLS}
                produced = threads.submit(_produce, folder.root, stop)
                watched = threads.submit(observer.watch, folder.root)
                chaos = Chaos(processes, self._random)
                chaos.run(self._seconds)
                early = [lane for lane, answers in calls.items() if answers.done()]
                stop.set()
                tasks = produced.result(DONE_SECONDS)
                answers = {lane: one.result(DONE_SECONDS) for lane, one in calls.items()}
                with Client(folder.root, contact_s=DONE_SECONDS) as client:
                    found = Found({lane: _ended(client, lane) for lane in (FOREST, LIVE, *CALLS)}, answers)
                    observer.stop.set()
                    watched.result(DONE_SECONDS)
                    lost = _check(client, observer, found, calm, tasks)
            finally:
                stop.set()
                observer.stop.set()
        _check_journal(folder, found.lanes)
        retired = sum(retired for retired, _ in found.lanes.values())
        soon = f", over before the last fault: {', '.join(early)}" if early else ""
        return f"held; {retired} tasks, {self._workers} workers, {chaos.summary()}{lost}{soon}"


def _check(client: Client, observer: _Observer, found: Found, calm: Found, tasks: int) -> str:
    last = client.status()["next_seq"] - 1
    assert last == sum(retired for retired, _ in found.lanes.values())
    observer.look(client, range(1, last + 1), DONE_SECONDS)
    status = client.status()
    assert status["divergences"] == 0, "two executions of a task differed"
    seen = sorted(observer.seen.values(), key=lambda one: one.turn)
    failed = [one for one in seen if not one.ok and (one.lane not in CALLS or one.kind not in _FAILURES_OF_CALLS)]
    if {one.kind for one in failed} == {"lost"}:
        # By chance a task ran alone in three killed workers. That is allowed.
        return f", {len(failed)} lost: the digests were not compared"
    assert not failed, f"failed: {failed[0]}"
    for lane, expected in calm.lanes.items():
        retired, digest = found.lanes[lane]
        told = f"in {lane} the calm run retired {expected[0]} with {expected[1].hex()}, this one {retired}"
        assert (retired, digest) == expected, f"{told} with {digest.hex()}"
        assert found.answers.get(lane) == calm.answers.get(lane), f"other answers in {lane}"
    _check_counts(client, [one for one in seen if one.lane == LIVE], found.lanes[LIVE][0], tasks)
    return ""


def _check_counts(client: Client, results: list[Result], retired: int, tasks: int) -> None:
    assert retired == tasks, f"{retired} live tasks retired, {tasks} acknowledged"
    counts: dict[int, list[int]] = defaultdict(list)
    by_agent = {one["address"]: one["completed"] for one in client.query("agents", lane=LIVE)}
    assert sum(by_agent.values()) == tasks
    for result in results:
        counts[int(result.payload or b"0")].append(result.seq)
    assert sum(len(seqs) for seqs in counts.values()) == tasks
    for count, seqs in counts.items():
        assert len(seqs) <= LIVE_AGENTS, f"count {count} was given out {len(seqs)} times by {LIVE_AGENTS} agents"


def _check_journal(folder: RunFolder, found: dict[str, tuple[int, bytes]]) -> None:
    """Fold the run file again, in this process, then execute it again, and compare."""
    world = World()
    with contextlib.closing(Journal.open(folder.journal, read_only=True)) as journal:
        fold(world, journal.read())
    world.check_invariants()
    with open_run(folder.root) as source:
        proof = prove(source, (0,), VerifyOptions())
    assert proof.verdict == "equal", f"`rota verify` says {proof.verdict}: {proof.divergences}"
    executed = {lane.lane: (lane.retired, lane.digest) for lane in proof.last.lanes}
    for lane, numbers in found.items():
        assert (world.lanes[lane].retired, world.lanes[lane].digest) == numbers, f"the journal says else of {lane}"
        assert executed[lane] == numbers, f"executed again it says else of {lane}"
