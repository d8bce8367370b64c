"""The cases of the bench: the load on a running Rota, and the bounds to compare with.

A case is a generator: each `yield` ends a round, whose values are in the table. Bounds are measured in the same round,
just before the values. Payloads, arrays and weights come from fixed seeds; arrays differ from round to round, because
the tensor store does not write the same content twice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
import zmq
from _bench_agents import AGENTS
from _bench_bounds import (
    copy_seconds,
    fsync_seconds,
    hash_seconds,
    read_seconds,
    sandbox,
    write_seconds,
)
from _bench_calls import CALLS
from _bench_generation import generation
from _bench_inference import INFERENCE
from _bench_models import add_one
from _bench_raw import raw_loop
from _bench_recovery import by_length
from _bench_table import Table
from _bench_texts import sentences
from _demo_processes import Up
from _environment import REPOSITORY

from rota.broker.journal import Journal
from rota.broker.recovery import fold
from rota.broker.world import World
from rota.client import Client
from rota.common import messages, wire
from rota.common.limits import RESULTS_KEPT_BYTES, RESULTS_KEPT_MAX
from rota.common.work import AGENT, FUNCTION, Limits
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import Endpoints, RunFolder
from rota.host.sockets import context, dealer
from rota.local import LocalLane, open_lane
from rota.proof.verification import IN_PROCESS, prove
from rota.proof.verify import VerifyOptions
from rota.runs.open import open_run
from rota.tensors.store import TensorStore

MODULES = REPOSITORY / "examples" / "agents"
PAYLOAD = np.random.default_rng(1).bytes(100)
KEYS = 64
SUBMIT_TASKS = 1_000
RAW_TASKS_PER_MESSAGE = 128
WAIT_SECONDS = 60.0  # more means that something is broken
TENSOR_LIMITS = Limits(fuel=100_000_000_000, timeout_ms=60_000)


class Sizes(NamedTuple):
    """How much is sent in one round."""

    tasks: int
    round_trips: int
    tensor_bytes: int
    inferences: int
    recovered_tasks: int
    fsyncs: int
    journal_records: tuple[int, ...]
    generated: int


FULL = Sizes(20_000, 500, 64 << 20, 5_000, 100_000, 200, (10_000, 100_000, 1_000_000), 64)
QUICK = Sizes(500, 20, 1 << 20, 100, 1_000, 20, (1_000,), 8)


class Kind(NamedTuple):
    """One way to deploy a no-op, and the addresses of its tasks."""

    name: str
    target: str
    module: Path
    kind: str
    reuse: bool
    keys: int = 0

    def targets(self, tasks: int) -> str | list[str]:
        return [f"{self.target}/{number % self.keys}" for number in range(tasks)] if self.keys else self.target


FUNCTION_FRESH = Kind("function fresh", "function_fresh", MODULES / "echo_function.wasm", FUNCTION, False)
FUNCTION_REUSE = Kind("function reuse", "function_reuse", MODULES / "echo_function.wasm", FUNCTION, True)
AGENT_KEYS = Kind("agents, 64 keys", "agent_keys", MODULES / "echo.wasm", AGENT, False, KEYS)
KINDS = (
    FUNCTION_FRESH,
    FUNCTION_REUSE,
    Kind("agent fresh", "agent_fresh", MODULES / "echo.wasm", AGENT, False),
    Kind("agent reuse", "agent_reuse", MODULES / "echo.wasm", AGENT, True),
    AGENT_KEYS,
)


class Place(NamedTuple):
    """The environment of a case: its run folder, the table to fill, and how much to send."""

    folder: RunFolder
    table: Table
    sizes: Sizes
    say: Callable[[str], None]


# --- tasks per second -----------------------------------------------------------------------------


def tasks(place: Place, workers: int) -> Iterator[None]:
    """No-op tasks per second, from the start of the submit to the last result, all durable."""
    with (
        raw_loop(place.folder.sockets, workers) as raw,
        sandbox(place.folder.root) as inside,
        Up(place.folder, workers, 0) as up,
        Client(place.folder.root) as client,
    ):
        up.wait_ready(place.say)
        for kind in KINDS:
            _deploy(client, kind)
        while True:
            count = place.sizes.tasks
            zeromq = raw.tasks_per_second(count, RAW_TASKS_PER_MESSAGE, PAYLOAD)
            for kind in KINDS:
                place.say(kind.name)
                alone = inside.tasks_per_second(kind.module, kind.kind, kind.reuse, count, PAYLOAD)
                bounds = {"raw ZeroMQ": zeromq, f"raw wasmtime x {workers}": alone * workers}
                for way, send in (("one submit", _one_submit), (f"submits of {SUBMIT_TASKS}", _many_submits)):
                    name = f"{kind.name}, {way}, {_workers(workers)}"
                    before = up.processor_seconds()
                    seconds = send(client, kind, count)
                    place.table.add("tasks", name, "tasks/s", count / seconds, bounds, _processor(before, up, count))
            bounds = {"raw ZeroMQ": zeromq}
            name = f"{FUNCTION_REUSE.name}, frames without the client, {_workers(workers)}"
            place.table.add("tasks", name, "tasks/s", count / _frames(place, count), bounds)
            yield


def _deploy(client: Client, kind: Kind) -> None:
    client.deploy(kind.target, kind.module, kind.kind, reuse=kind.reuse)
    first = client.submit_many(kind.targets(SUBMIT_TASKS), [PAYLOAD] * SUBMIT_TASKS)  # compiled and warm
    for handle in first:
        assert handle.result(WAIT_SECONDS).payload == PAYLOAD


def _one_submit(client: Client, kind: Kind, count: int) -> float:
    targets, payloads = kind.targets(count), [PAYLOAD] * count
    started = time.perf_counter()
    _take_all(client, client.submit_many(targets, payloads), count)
    return time.perf_counter() - started


def _many_submits(client: Client, kind: Kind, count: int) -> float:
    """Submit a thousand at a time; each submit is durable before the next is sent."""
    sizes = [min(SUBMIT_TASKS, count - first) for first in range(0, count, SUBMIT_TASKS)]
    parts = [(kind.targets(size), [PAYLOAD] * size) for size in sizes]
    started = time.perf_counter()
    handles = [handle for targets, payloads in parts for handle in client.submit_many(targets, payloads)]
    _take_all(client, handles, count)
    return time.perf_counter() - started


def _take_all(client: Client, submitted: Any, count: int) -> None:
    ok = sum(result.ok for result in client.as_completed(submitted, WAIT_SECONDS))
    assert ok == count, f"{ok} of {count} tasks succeeded"


def _frames(place: Place, count: int) -> float:
    """Do what `_one_submit` does without the client, to measure the rest with a minimal producer."""
    run = messages.TaskRun.of(FUNCTION_REUSE.target, 0, (PAYLOAD,) * count, None)
    with context() as sockets, dealer(sockets, Endpoints.of(place.folder.root).frontend) as socket:
        socket.send(wire.encode(messages.Hello(1, f"bench-{time.monotonic_ns()}")))
        started = time.perf_counter()
        socket.send(wire.encode(messages.Submit(2, "main", (run,), True, None, None)))
        came = 0
        while came < count:
            if not socket.poll(int(WAIT_SECONDS * 1_000), zmq.POLLIN):
                raise TimeoutError(f"{came} of {count} results in {WAIT_SECONDS:.0f} s")
            _, tag, *fields = msgpack.unpackb(socket.recv())
            assert tag != wire.Tag.REFUSED, fields
            came += sum(len(rows[1]) for rows in fields[0]) if tag == wire.Tag.RESULTS else 0
        return time.perf_counter() - started


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"


def _processor(before: dict[str, float] | None, up: Up, count: int) -> dict[str, float]:
    """Return the processor time per task since `before`, by kind of process, in steps of 10 ms."""
    after = up.processor_seconds()
    if before is None or after is None:
        return {}
    return {
        f"{kind} us/task": round((after[kind] - before[kind]) / count * 1e6, 1) for kind in ("broker", "cpu_worker")
    }


# --- latency --------------------------------------------------------------------------------------


def latency(place: Place) -> Iterator[None]:
    """One task at a time, from submit to result. It includes two fsyncs, for the submit and the completion."""
    with (
        raw_loop(place.folder.sockets, 1) as raw,
        Up(place.folder, 1, 0) as up,
        Client(place.folder.root) as client,
    ):
        up.wait_ready(place.say)
        for kind in (FUNCTION_FRESH, FUNCTION_REUSE):
            _deploy(client, kind)
        while True:
            fsync = fsync_seconds(place.folder.root, place.sizes.fsyncs)
            trips = [raw.round_trip_seconds(PAYLOAD) for _ in range(place.sizes.round_trips)]
            bound = {"raw ZeroMQ + 1 fsync": (statistics.median(trips) + fsync) * 1e3}
            for kind in (FUNCTION_FRESH, FUNCTION_REUSE):
                place.say(kind.name)
                taken = sorted(_round_trip(client, kind) * 1e3 for _ in range(place.sizes.round_trips))
                place.table.add("latency", f"{kind.name}, p50", "ms", taken[len(taken) // 2], bound)
                place.table.add("latency", f"{kind.name}, p99", "ms", taken[len(taken) * 99 // 100], {})
                place.table.add("latency", f"{kind.name}, max", "ms", taken[-1], {})
            place.table.add("latency", "fsync of 256 bytes, p50", "ms", fsync * 1e3, {})
            yield


def _round_trip(client: Client, kind: Kind) -> float:
    started = time.perf_counter()
    client.submit(kind.target, PAYLOAD).result(WAIT_SECONDS)
    return time.perf_counter() - started


# --- a large tensor -------------------------------------------------------------------------------


def tensor(place: Place) -> Iterator[None]:
    """A float32 tensor to a task and back by reference: stored, read by the task, the answer mapped."""
    store = TensorStore(place.folder.prepare().tensors)
    array = np.random.default_rng(2).standard_normal(place.sizes.tensor_bytes // 4, np.float32)
    digest = Repository(place.folder.models).add(add_one(place.folder.root / "add_one.onnx"), "add_one").digest
    megabytes = f"{place.sizes.tensor_bytes >> 20} MiB"
    with Up(place.folder, 1, 1) as up, Client(place.folder.root, timeout_s=120) as client:
        up.wait_ready(place.say)
        client.deploy("tensor_sum", MODULES / "tensor_sum.wasm", AGENT, code_limits=TENSOR_LIMITS)
        client.deploy_model("add_one", digest, code_limits=TENSOR_LIMITS)
        for number in _from_one():
            place.say(megabytes)
            array[0] = number
            memory = {
                "memcpy": copy_seconds(array) * 1e3,
                "BLAKE3": hash_seconds(array) * 1e3,
                "write and fsync": write_seconds(place.folder.root, array) * 1e3,
            }
            started = time.perf_counter()
            result = client.submit("tensor_sum", array).result(WAIT_SECONDS)
            back = store.open(result.tensors[0])
            taken = time.perf_counter() - started
            assert back[0] == number
            assert result.payload == str(int(array.view(np.uint8).sum(dtype=np.uint64))).encode()
            place.table.add("tensor", f"{megabytes} to an agent that reads it all, and back", "ms", taken * 1e3, memory)
            started = time.perf_counter()
            answer = client.submit("model:add_one", {"x": array}).result(WAIT_SECONDS).arrays["y"]
            taken = time.perf_counter() - started
            assert np.array_equal(answer, array + 1)
            place.table.add("tensor", f"{megabytes} to a model, and another back", "ms", taken * 1e3, memory)
            yield


# --- in one process -------------------------------------------------------------------------------


def local(place: Place) -> Iterator[None]:
    """The same no-ops through `rota.local` (no sockets, no client, not durable), beside a broker with one worker."""
    with (
        sandbox(place.folder.root) as inside,
        Up(place.folder, 1, 0) as up,
        Client(place.folder.root) as client,
        open_lane() as lane,
    ):
        up.wait_ready(place.say)
        for kind in KINDS:
            _deploy(client, kind)
            lane.deploy(kind.target, kind.module, kind.kind, reuse=kind.reuse)
        while True:
            count = place.sizes.tasks
            for kind in KINDS:
                place.say(kind.name)
                bounds = {
                    "1 worker through sockets": count / _one_submit(client, kind, count),
                    "raw wasmtime": inside.tasks_per_second(kind.module, kind.kind, kind.reuse, count, PAYLOAD),
                }
                rate = count / _in_one_process(lane, kind, count)
                place.table.add("local", f"{kind.name}, one submit, one process", "tasks/s", rate, bounds)
            kind = FUNCTION_REUSE
            trips = range(place.sizes.round_trips)
            bound = {"through sockets": statistics.median([_round_trip(client, kind) for _ in trips]) * 1e3}
            taken = statistics.median([_local_round_trip(lane, kind) for _ in trips])
            place.table.add("local", f"{kind.name}, one task at a time, p50", "ms", taken * 1e3, bound)
            yield


def _in_one_process(lane: LocalLane, kind: Kind, count: int) -> float:
    targets, payloads = kind.targets(count), [PAYLOAD] * count
    started = time.perf_counter()
    ok = sum(result.ok for result in lane.submit_many(targets, payloads).outcomes())
    assert ok == count, f"{ok} of {count} tasks succeeded"
    return time.perf_counter() - started


def _local_round_trip(lane: LocalLane, kind: Kind) -> float:
    started = time.perf_counter()
    lane.submit(kind.target, PAYLOAD).result()
    return time.perf_counter() - started


# --- recovery -------------------------------------------------------------------------------------


def recovery(place: Place) -> Iterator[None]:
    """Recover from a run file of many tasks, as a starting broker does. The file is made once, by a run."""
    count = place.sizes.recovered_tasks
    place.say(f"making a run file of {count} tasks")
    with Up(place.folder, 1, 0) as up, Client(place.folder.root) as client:
        up.wait_ready(place.say)
        _deploy(client, FUNCTION_REUSE)
        for _ in range(count // SUBMIT_TASKS):
            _take_all(client, client.submit_many(FUNCTION_REUSE.target, [PAYLOAD] * SUBMIT_TASKS), SUBMIT_TASKS)
    run_file = place.folder.journal
    while True:
        place.say("reading it")
        bound = read_seconds(run_file)
        seconds, records, stamped = _recover(run_file)
        rate, rate_bound = stamped / seconds, {"read, decode and check only": stamped / bound}
        place.table.add("recovery", f"{stamped} tasks in {records} records", "tasks/s", rate, rate_bound)
        place.table.add("recovery", "the same, per record", "records/s", records / seconds, {})
        place.table.add("recovery", "run file", "bytes/task", run_file.stat().st_size / stamped, {})
        yield


def _recover(run_file: Path) -> tuple[float, int, int]:
    """Return the seconds taken, the number of records, and the number of tasks."""
    started = time.perf_counter()
    journal = Journal.open(run_file, read_only=True)
    world = World(RESULTS_KEPT_MAX, RESULTS_KEPT_BYTES)
    fold(world, journal.read())
    taken = time.perf_counter() - started
    journal.close()
    return taken, journal.last_number, world.next_seq - 1


# --- verification ---------------------------------------------------------------------------------


def verification(place: Place) -> Iterator[None]:
    """Execute a run again and compare every turn digest, in this process and in worker processes."""
    kind, count = AGENT_KEYS, place.sizes.tasks
    with sandbox(place.folder.root) as inside:
        with Up(place.folder, 1, 0) as up, Client(place.folder.root) as client:
            up.wait_ready(place.say)
            _deploy(client, kind)
            made = count / _one_submit(client, kind, count)
        while True:
            alone = inside.tasks_per_second(kind.module, kind.kind, kind.reuse, count, PAYLOAD)
            bounds = {"the run itself, with 1 worker": made, "raw wasmtime": alone}
            for workers in (IN_PROCESS, 1, 2):
                where = f"{_workers(workers)}, processes of its own" if workers else "in process"
                place.say(where)
                with open_run(place.folder.root) as source:
                    (one,) = prove(source, [workers], VerifyOptions()).rounds
                assert one.report.equal, one.report
                place.table.add("verify", f"{kind.name}, {where}", "tasks/s", one.turns / one.seconds, bounds)
            yield


def _from_one() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


CASES: dict[str, list[Callable[[Place], Iterator[None]]]] = {
    "tasks": [lambda place: tasks(place, 1), lambda place: tasks(place, 2)],
    "latency": [latency],
    "agents": AGENTS,
    **CALLS,
    "tensor": [tensor],
    "inference": INFERENCE,
    "generation": [generation],
    "texts": [sentences],
    "local": [local],
    "recovery": [recovery],
    "snapshots": [by_length],
    "verify": [verification],
}
