"""The blocking client: `with Client(".rota") as client: client.submit("echo", b"hello").result()`.

A client belongs to the thread that made it and has no thread of its own: frames move while a call waits. So results
that nobody waits for stay with the broker, and whoever was away for long asks for them again by itself. What each
operation does is in `operations.py` and `flows.py`; here they are run. A new method here is one in `aio.py` as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar, Unpack, overload

import zmq

from rota.client.core import Core, Where, now_ms
from rota.client.flows import Flow, Ranges, Stream, Turn
from rota.client.operations import Operations, Run
from rota.client.options import (
    DeployNames,
    DeployOptions,
    LaneNames,
    LaneOptions,
    MapNames,
    MapOptions,
    ModelNames,
    RetryNames,
    RunsNames,
    SubmitNames,
    SubmitOptions,
)
from rota.client.watch import Missed, Watch
from rota.common.errors import LocalError
from rota.common.messages import Event
from rota.common.results import Result
from rota.common.work import AGENT, MODEL
from rota.host.sockets import Socket, subscriber

T = TypeVar("T")

_POLL_MS_MAX: Final = 3_600_000  # a C int holds no deadline that never comes; the flow sees that it has not passed


class Client:
    """A producer: pushes tasks, gets results, asks questions. Use it in a `with` block.

    `where` is the run folder, or the address that the broker was given with --bind. `producer` is a name of your own
    if you want to repeat a submit safely in a later process: the same producer and `number` with the same content is
    one submit. `timeout_s` bounds every wait for an answer or for the next outcome, unless a call brings its own;
    `contact_s` the wait for the first sign of a broker. `math.inf` waits as long as it takes.
    """

    def __init__(
        self, where: Where = None, producer: str | None = None, timeout_s: float = 30.0, *,
        contact_s: float | None = None, tensors: Path | None = None, context: zmq.Context[Socket] | None = None,
    ) -> None:  # fmt: skip
        self._core = Core(where, producer, timeout_s=timeout_s, contact_s=contact_s, tensors=tensors, context=context)
        self._operations = Operations(self._core)
        self._thread = threading.get_ident()

    @property
    def producer(self) -> str:
        """The name under which this client's numbers are known to the broker."""
        return self._core.session.producer

    # --- tasks ----------------------------------------------------------------------------------------

    def submit(self, target: str, payload: Any = b"", **options: Unpack[SubmitNames]) -> Handle:
        """Submit one task; when this returns it is durable. For the options see `SubmitOptions`."""
        flow = self._operations.submit(target, payload, SubmitOptions.of(options, SubmitNames))
        return Batch(self, self._run(flow))[0]

    def submit_many(
        self, targets: str | Sequence[str], payloads: Iterable[Any], **options: Unpack[SubmitNames]
    ) -> Batch:
        """Submit many tasks in as few messages as hold them, mostly one. Each message is accepted all or none.

        With a `number`, the messages take that one and the next ones. If a message is refused, the error's field
        `accepted` tells the [first seq, count] of those before it.
        """
        flow = self._operations.submit_many(targets, payloads, SubmitOptions.of(options, SubmitNames))
        return Batch(self, self._run(flow))

    def submit_runs(self, runs: Iterable[Run], **options: Unpack[RunsNames]) -> Batch:
        """Submit one atomic batch of runs, each with its own targets and priority: accepted together or not at all."""
        flow = self._operations.submit_runs(runs, SubmitOptions.of(options, RunsNames))
        return Batch(self, self._run(flow))

    def map(self, target: str, payloads: Iterable[Any], **options: Unpack[MapNames]) -> Iterator[Result]:
        """Send every payload to `target` and give the results, in order or as they come; payloads may be endless.

        A failed task raises `TaskFailed`, or is given as it is with `return_failures`. See `MapOptions`.
        """
        return self._stream(self._operations.map(target, payloads, MapOptions.of(options, MapNames)))

    def result(self, seq: int | Handle, timeout_s: float | None = None) -> Result:
        """Wait for the result of any task by its seq, the client's `timeout_s` if not told how long.

        Raises `TaskFailed`, `TimeoutError`, `Expired`, `UnknownTask`.
        """
        return self.outcome(seq, timeout_s).raise_if_failed()

    def outcome(self, seq: int | Handle, timeout_s: float | None = None) -> Result:
        """Wait for the outcome of any task by its seq, a failure being one."""
        result = self._run(self._operations.outcome(seq, timeout_s))
        assert isinstance(result, Result)
        return result

    def results(self, first_seq: int, count: int, timeout_s: float | None = None) -> Iterator[Result]:
        """Give the outcomes of `count` tasks from `first_seq` on, in order, failures as they are."""
        return self._stream(self._operations.results(first_seq, count, timeout_s))

    def as_completed(self, tasks: Batch | Iterable[Handle | int], timeout_s: float | None = None) -> Iterator[Result]:
        """Give the outcomes of tasks as they come, failures as they are."""
        return self._stream(self._operations.as_completed(tasks, timeout_s))

    def cancel(self, seq: int | Handle) -> bool:
        """Catch a task that has not completed, and say whether it was caught."""
        return self._run(self._operations.cancel(seq))

    def retry(self, seq: int | Handle, **options: Unpack[RetryNames]) -> Handle:
        """Run a dead task again, as a new one."""
        flow = self._operations.retry(seq, SubmitOptions.of(options, RetryNames))
        return Batch(self, self._run(flow))[0]

    def dead_drop(self, lane: str = "main", seqs: Iterable[int | Handle] = ()) -> int:
        """Forget these dead tasks of a lane, or all of them, and return how many there were."""
        return self._run(self._operations.dead_drop(lane, seqs))

    # --- code and lanes -------------------------------------------------------------------------------

    def deploy(
        self, name: str, module: Path | str | bytes, kind: str = AGENT, **options: Unpack[DeployNames]
    ) -> dict[str, Any]:
        """Bind `name` to a WASM module in a lane, from a file or from its bytes.

        With `check` a worker compiles it first, and what it finds is returned or raised as `CodeError`. See
        `DeployOptions`.
        """
        flow = self._operations.deploy(name, module, DeployOptions.of(options, DeployNames, kind=kind))
        return self._run(flow)

    def deploy_model(self, name: str, digest: bytes, **options: Unpack[ModelNames]) -> dict[str, Any]:
        """Bind `model:name` in a lane to a model of the model repository, by its digest."""
        flow = self._operations.deploy_model(name, digest, DeployOptions.of(options, ModelNames, kind=MODEL))
        return self._run(flow)

    def open_lane(self, name: str, **options: Unpack[LaneNames]) -> dict[str, Any]:
        """Open a lane. It starts with the names that are bound in the lane `deploys_from` now, or with none."""
        value: dict[str, Any] = self._run(self._operations.open_lane(name, LaneOptions.named(options)))
        return value

    def pause(self, lane: str = "main") -> None:
        """Issue no more tasks of a lane, until it is released."""
        self._run(self._operations.set_paused(lane, True))

    def release(self, lane: str = "main") -> None:
        """Let a paused lane go on."""
        self._run(self._operations.set_paused(lane, False))

    def set_window(self, lane: str, window: int) -> None:
        """Change how many issued tasks a lane can hold."""
        self._run(self._operations.set_window(lane, window))

    def drain(self, draining: bool = True) -> None:
        """Have the broker take no more inputs from any producer, or take them again."""
        self._run(self._operations.drain(draining))

    # --- questions ------------------------------------------------------------------------------------

    def query(self, what: str, **arguments: Any) -> Any:
        """Ask the broker a read-only question; docs/PROTOCOL.md lists them with their arguments."""
        return self._run(self._operations.query(what, arguments))

    def status(self) -> dict[str, Any]:
        """Return broker, journal, lanes and workers in numbers, and the `event` at which they are true."""
        return self._run(self._operations.status())

    def digest(self, lane: str = "main") -> dict[str, Any]:
        """Return how many tasks a lane has retired, and the digest over them."""
        value: dict[str, Any] = self.query("digest", lane=lane)
        return value

    def wait_idle(
        self, lane: str = "main", *, timeout_s: float | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Wait until a lane has no task left that waits or runs, however long that takes unless told otherwise.

        Returns the lane's numbers; `progress` gets them at each look.
        """
        return self._run(self._operations.wait_idle(lane, timeout_s, progress))

    def events(self, topics: Iterable[str] = (), *, timeout_s: float | None = None) -> Iterator[Event | Missed]:
        """Give what happens from now on, of these topics or all; `Missed` tells of gaps.

        Ends when there was none for `timeout_s`.
        """
        self._check_thread()
        watch = self._operations.watch(topics, timeout_s)
        # Subscribed here and not at the first `next`: what is done in between is seen.
        return _watched(subscriber(self._core.context, self._core.endpoints().events, [""]), watch, timeout_s)

    def follow(
        self, topics: Iterable[str] = (), *, timeout_s: float | None = None
    ) -> tuple[dict[str, Any], Iterator[Event | Missed]]:
        """Return the status, and as `events` all that happens from there on: nothing in between is missed."""
        self._check_thread()
        watch = self._operations.watch(topics, timeout_s)
        self.status()  # or nobody is there
        socket = subscriber(self._core.context, self._core.endpoints().events, [""])
        try:
            _live(socket, watch, self._operations.deadline())
            status = self.status()
        except BaseException:
            socket.close()
            raise
        watch.begin_at(status["boot"], status["event"])
        return status, _watched(socket, watch, timeout_s)

    # --- running flows --------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections. What is outstanding goes on at the broker."""
        self._core.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        self._check_thread()
        with closing(flow):
            while True:
                try:
                    turn = next(flow)
                except StopIteration as end:
                    value: T = end.value
                    return value
                self._turn(turn)

    def _stream(self, stream: Stream) -> Generator[Result, None, None]:
        with closing(stream):
            for step in stream:
                if isinstance(step, Turn):
                    self._check_thread()
                    self._turn(step)
                else:
                    yield step

    def _turn(self, turn: Turn) -> None:
        """Move frames until something arrived, or until the time has come."""
        core = self._core
        if core.pump():
            return
        poller = zmq.Poller()
        for link in core.links():
            poller.register(link.socket, link.events)
        times = [one for one in (turn.until_ms, core.next_tick_ms()) if one is not None]
        poller.poll(min(max(0, min(times) - now_ms()), _POLL_MS_MAX) if times else None)
        core.pump()

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise LocalError("a Client belongs to the thread that made it: make one per thread, or use AsyncClient")


def _live(socket: Socket, watch: Watch, until_ms: int) -> None:
    """Wait until a subscription is in force."""
    while not watch.is_live:
        if socket.poll(max(0, min(until_ms - now_ms(), _POLL_MS_MAX))):
            watch.receive(socket.recv_multipart()[-1])
        elif now_ms() >= until_ms:
            raise TimeoutError("the broker did not confirm the subscription in time")


def _watched(socket: Socket, watch: Watch, timeout_s: float | None) -> Iterator[Event | Missed]:
    with socket:
        since_ms = now_ms()
        while True:
            left_ms = None if timeout_s is None else since_ms + int(timeout_s * 1000) - now_ms()
            if left_ms is not None and left_ms <= 0:
                return
            if socket.poll(left_ms):
                for event in watch.receive(socket.recv_multipart()[-1]):
                    yield event
                    since_ms = now_ms()


class Handle:
    """A task that was submitted."""

    def __init__(self, client: Client, seq: int) -> None:
        self.seq = seq
        self._client = client
        self._result: Result | None = None

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the result. Raises `TaskFailed` if the task failed."""
        return self.outcome(timeout_s).raise_if_failed()

    def outcome(self, timeout_s: float | None = None) -> Result:
        """Wait for the outcome, a failure being one."""
        if self._result is None:
            self._result = self._client.outcome(self.seq, timeout_s)
        return self._result

    def cancel(self) -> bool:
        """Catch the task if it has not completed, and say whether it was caught."""
        return self._client.cancel(self.seq)

    def __repr__(self) -> str:
        return f"<task {self.seq}>"


class Batch(Sequence[Handle]):
    """Tasks that were submitted together, in the order of their payloads."""

    def __init__(self, client: Client, ranges: Ranges) -> None:
        self.ranges = ranges
        self._client = client
        self._length = sum(tasks for _, tasks in ranges)

    @property
    def seqs(self) -> list[int]:
        """The seqs of the tasks."""
        return [seq for first_seq, tasks in self.ranges for seq in range(first_seq, first_seq + tasks)]

    def results(self, timeout_s: float | None = None) -> list[Result]:
        """Wait for all results. Raises `TaskFailed` for the first task that failed."""
        return [outcome.raise_if_failed() for outcome in self.outcomes(timeout_s)]

    def outcomes(self, timeout_s: float | None = None) -> list[Result]:
        """Wait for all outcomes, failures being some."""
        return list(self._client._stream(self._client._operations.outcomes(self.ranges, timeout_s)))

    def as_completed(self, timeout_s: float | None = None) -> Iterator[Result]:
        """Give the outcomes as they come, failures as they are."""
        return self._client.as_completed(self, timeout_s)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Handle: ...

    @overload
    def __getitem__(self, index: slice) -> list[Handle]: ...

    def __getitem__(self, index: int | slice) -> Handle | list[Handle]:
        if isinstance(index, slice):
            return [Handle(self._client, seq) for seq in self.seqs[index]]
        return Handle(self._client, seq_at(self.ranges, index, self._length))

    def __repr__(self) -> str:
        return f"<{self._length} tasks {list(self.ranges)}>"


def seq_at(ranges: Ranges, index: int, length: int) -> int:
    """Return the seq of the task at an index, counted from the end if it is negative."""
    left = index + length if index < 0 else index
    if not 0 <= left < length:
        raise IndexError(index)
    for first_seq, tasks in ranges:
        if left < tasks:
            return first_seq + left
        left -= tasks
    raise AssertionError(ranges)
