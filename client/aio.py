"""The asyncio client: the methods of `Client`, as coroutines and asynchronous iterators.

One client serves any number of coroutines of one event loop; the loop moves the frames for all of them. It needs a loop
with `add_reader` (on Windows: `asyncio.SelectorEventLoop`). client.py documents what each method does and raises; a new
method must be added to both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import zmq

from rota.client.aio_generation import AsyncChat, AsyncGeneration
from rota.client.client import seq_at
from rota.client.core import Core, Where, now_ms
from rota.client.exchanges import Exchange, Pause, Ranges, Stream
from rota.client.link import descriptor_of, has_input
from rota.client.operations import Operations, TaskRow
from rota.client.options import (
    AskNames,
    AskOptions,
    ChatNames,
    DeployNames,
    DeployOptions,
    GenerateNames,
    LaneNames,
    LaneOptions,
    MapNames,
    MapOptions,
    ModelNames,
    RetryNames,
    RunsNames,
    SubmitNames,
    SubmitOptions,
    TextNames,
)
from rota.client.session import ALL, Key
from rota.client.text_operations import TextOperations
from rota.client.texts import TextSoFar
from rota.client.watch import EventFilter, Missed
from rota.common.errors import RotaError
from rota.common.messages import Event
from rota.common.results import Result
from rota.common.work import MODEL
from rota.host.sockets import Socket, subscriber
from rota.runtimes.content import Paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")


class AsyncClient:
    """A producer in an event loop. Use it in an `async with` block. Arguments as for `Client`."""

    def __init__(
        self, where: Where = None, producer: str | None = None, timeout_s: float = 30.0, *,
        contact_s: float | None = None, tensors: Path | None = None, context: zmq.Context[Socket] | None = None,
    ) -> None:  # fmt: skip
        self._core = Core(where, producer, timeout_s=timeout_s, contact_s=contact_s, tensors=tensors, context=context)
        self._operations = Operations(self._core)
        self._texts = TextOperations(self._operations)
        self._watched: dict[int, Socket] = {}  # by descriptor: the sockets watched by the loop
        self._waiting: dict[Key | None, dict[asyncio.Future[None], None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def producer(self) -> str:
        """The producer id: the broker knows this client's request numbers under it."""
        return self._core.session.producer

    # --- tasks ----------------------------------------------------------------------------------------

    async def submit(self, target: str, payload: Any = b"", **options: Unpack[SubmitNames]) -> AsyncHandle:
        """Submit one task; when this returns it is durable."""
        exchange = self._operations.submit(target, payload, SubmitOptions.of(options, SubmitNames))
        return AsyncBatch(self, await self._run(exchange)).handles[0]

    async def submit_many(
        self, targets: str | Sequence[str], payloads: Iterable[Any], **options: Unpack[SubmitNames]
    ) -> AsyncBatch:
        """Submit many tasks in as few messages as possible. Each message is atomic."""
        exchange = self._operations.submit_many(targets, payloads, SubmitOptions.of(options, SubmitNames))
        return AsyncBatch(self, await self._run(exchange))

    async def ask(self, target: str, payload: Any = b"", **options: Unpack[AskNames]) -> AsyncHandle:
        """Ask an agent, a flow or a model; the result of the handle is the final answer."""
        asked = AskOptions.of(options, AskNames)
        exchange = self._operations.submit(target, payload, asked)
        return AsyncBatch(self, await self._run(exchange), self._operations.patience_s(asked)).handles[0]

    async def ask_many(
        self, targets: str | Sequence[str], payloads: Iterable[Any], **options: Unpack[AskNames]
    ) -> AsyncBatch:
        """Ask many times in as few messages as possible, as `ask` and `submit_many` do."""
        asked = AskOptions.of(options, AskNames)
        exchange = self._operations.submit_many(targets, payloads, asked)
        return AsyncBatch(self, await self._run(exchange), self._operations.patience_s(asked))

    async def submit_runs(self, runs: Iterable[TaskRow], **options: Unpack[RunsNames]) -> AsyncBatch:
        """Submit one atomic batch of runs, each with its own targets and priority."""
        exchange = self._operations.submit_runs(runs, SubmitOptions.of(options, RunsNames))
        return AsyncBatch(self, await self._run(exchange))

    def map(self, target: str, payloads: Iterable[Any], **options: Unpack[MapNames]) -> AsyncIterator[Result]:
        """Send every payload to `target` and yield the results, in order or as they arrive."""
        return self._stream(self._operations.map(target, payloads, MapOptions.of(options, MapNames)))

    async def result(self, seq: int | AsyncHandle, timeout_s: float | None = None) -> Result:
        """Wait for the result of any task by its seq."""
        return (await self.outcome(seq, timeout_s)).raise_if_failed()

    async def outcome(self, seq: int | AsyncHandle, timeout_s: float | None = None) -> Result:
        """Wait for the outcome of any task by its seq; a failure is returned, not raised."""
        result = await self._run(self._operations.outcome(seq, timeout_s))
        assert isinstance(result, Result)
        return result

    def results(self, first_seq: int, count: int, timeout_s: float | None = None) -> AsyncIterator[Result]:
        """Yield the outcomes of `count` tasks from `first_seq` on, in order; failures are not raised."""
        return self._stream(self._operations.results(first_seq, count, timeout_s))

    def as_completed(
        self, tasks: AsyncBatch | Iterable[AsyncHandle | int], timeout_s: float | None = None
    ) -> AsyncIterator[Result]:
        """Yield the outcomes of tasks as they arrive; failures are not raised."""
        return self._stream(self._operations.as_completed(tasks, timeout_s))

    async def cancel(self, seq: int | AsyncHandle) -> bool:
        """Cancel a task that has not completed; return whether it was cancelled."""
        return await self._run(self._operations.cancel(seq))

    async def retry(self, seq: int | AsyncHandle, **options: Unpack[RetryNames]) -> AsyncHandle:
        """Run a dead task again, as a new one."""
        exchange = self._operations.retry(seq, SubmitOptions.of(options, RetryNames))
        return AsyncBatch(self, await self._run(exchange)).handles[0]

    async def dead_drop(self, lane: str = "main", seqs: Iterable[int | AsyncHandle] = ()) -> int:
        """Drop these dead letters of a lane, or all of them; return how many there were."""
        return await self._run(self._operations.dead_drop(lane, seqs))

    # --- text -----------------------------------------------------------------------------------------

    async def generate(
        self, model: str, prompt: str | None = None, **options: Unpack[GenerateNames]
    ) -> AsyncGeneration:
        """Submit a generate task to a model. Iterate over the answer for its text."""
        given = {**options, "prompt": prompt} if prompt is not None else dict(options)
        ((seq, _),) = await self._run(self._texts.generate(model, given))
        return AsyncGeneration(self, seq, options.get("timeout_s"))

    def chat(
        self,
        model: str,
        *,
        system: str | None = None,
        conversation: bytes | str | None = None,
        **options: Unpack[ChatNames],
    ) -> AsyncChat:  # fmt: skip
        """Return a dialogue with a model, which begins, or goes on at the head `conversation`."""
        return AsyncChat(self, model, self._texts.dialogue(model, system, conversation, options))

    async def embed(
        self, model: str, texts: Iterable[str], *, truncate: bool = False, **options: Unpack[TextNames]
    ) -> NDArray[Any]:
        """Return the vectors of texts [texts, dimensions]."""
        return await self._run(self._texts.embed(model, texts, truncate, options))

    async def classify(
        self, model: str, texts: Iterable[str], *, top: int | None = None, truncate: bool = False,
        **options: Unpack[TextNames],
    ) -> list[list[tuple[str, float]]]:  # fmt: skip
        """Return for each text its `top` labels, or all, with their scores, the best first."""
        return await self._run(self._texts.classify(model, texts, top, truncate, options))

    # --- code and lanes -------------------------------------------------------------------------------

    async def deploy(
        self, name: str, module: Paths | bytes, kind: str | None = None, **options: Unpack[DeployNames]
    ) -> dict[str, Any]:
        """Bind `name` in a lane to a WASM module, given as a file or as bytes."""
        exchange = self._operations.deploy(name, module, DeployOptions.of(options, DeployNames, kind=kind))
        return await self._run(exchange)

    async def deploy_model(self, name: str, digest: bytes, **options: Unpack[ModelNames]) -> dict[str, Any]:
        """Bind `model:name` in a lane to the model of the repository with this digest."""
        exchange = self._operations.deploy_model(name, digest, DeployOptions.of(options, ModelNames, kind=MODEL))
        return await self._run(exchange)

    async def open_lane(self, name: str, **options: Unpack[LaneNames]) -> dict[str, Any]:
        """Open a lane. It starts with the current bindings of the lane `deploys_from`, or with none."""
        value: dict[str, Any] = await self._run(self._operations.open_lane(name, LaneOptions.named(options)))
        return value

    async def pause(self, lane: str = "main") -> None:
        """Issue no more tasks of a lane until it is released."""
        await self._run(self._operations.set_paused(lane, True))

    async def release(self, lane: str = "main") -> None:
        """Release a paused lane."""
        await self._run(self._operations.set_paused(lane, False))

    async def set_window(self, lane: str, window: int) -> None:
        """Change how many issued tasks a lane can hold."""
        await self._run(self._operations.set_window(lane, window))

    async def drain(self, draining: bool = True) -> None:
        """Make the broker refuse inputs of all producers, or accept them again."""
        await self._run(self._operations.drain(draining))

    # --- queries --------------------------------------------------------------------------------------

    async def query(self, what: str, **arguments: Any) -> Any:
        """Run a read-only query; docs/PROTOCOL.md lists them with their arguments."""
        return await self._run(self._operations.query(what, arguments))

    async def status(self) -> dict[str, Any]:
        """Return the numbers of broker, journal, lanes and workers, and the `event` at which they are true."""
        return await self._run(self._operations.status())

    async def digest(self, lane: str = "main") -> dict[str, Any]:
        """Return how many tasks a lane has retired, and the digest over them."""
        value: dict[str, Any] = await self.query("digest", lane=lane)
        return value

    async def wait_idle(
        self, lane: str = "main", *, timeout_s: float | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Wait until no task of a lane waits or runs, and return the lane's numbers."""
        return await self._run(self._operations.wait_idle(lane, timeout_s, progress))

    def events(self, topics: Iterable[str] = (), *, timeout_s: float | None = None) -> AsyncIterator[Event | Missed]:
        """Yield events from now on, of these topics or all; `Missed` marks a gap."""
        watch = self._operations.watch(topics, timeout_s)
        return _watched(subscriber(self._core.context, self._core.endpoints().events, [""]), watch, timeout_s)

    async def follow(
        self, topics: Iterable[str] = (), *, timeout_s: float | None = None
    ) -> tuple[dict[str, Any], AsyncIterator[Event | Missed]]:
        """Return the status, and the events after it, without a gap in between."""
        watch = self._operations.watch(topics, timeout_s)
        await self.status()  # raises if no broker answers
        socket = subscriber(self._core.context, self._core.endpoints().events, [""])
        try:
            await _live(socket, watch, self._operations.deadline())
            status = await self.status()
        except BaseException:
            socket.close()
            raise
        watch.begin_at(status["boot"], status["event"])
        return status, _watched(socket, watch, timeout_s)

    # --- running exchanges --------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the connections. Submitted tasks go on."""
        self._watch_sockets({})
        if self._timer is not None:
            self._timer.cancel()
        self._core.close()
        self._wake([ALL])

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, exchange: Exchange[T]) -> T:
        with closing(exchange):
            while True:
                try:
                    turn = next(exchange)
                except StopIteration as end:
                    value: T = end.value
                    return value
                await self._turn(turn)

    async def _stream(self, stream: Stream) -> AsyncIterator[Result]:
        with closing(stream):
            for step in stream:
                if isinstance(step, Pause):
                    await self._turn(step)
                else:
                    yield step

    async def _next_text(self, seq: int, so_far: TextSoFar, timeout_s: float | None) -> str:
        return await self._run(self._texts.more_text(seq, so_far, timeout_s))

    def _drop_text(self, seq: int) -> None:
        self._operations.drop_text(seq)

    async def _turn(self, turn: Pause) -> None:
        """Send what is due, then wait until the key of the turn has arrived or its time has come."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        waiting = self._waiting.setdefault(turn.key, {})
        waiting[woken] = None  # before `_pump`, which may wake it at once
        try:
            self._pump()
            delay_s = None if turn.until_ms is None else max(0, turn.until_ms - now_ms()) / 1000
            await asyncio.wait((woken,), timeout=delay_s)
        finally:
            waiting.pop(woken, None)
            if not waiting and self._waiting.get(turn.key) is waiting:
                del self._waiting[turn.key]

    def _pump(self) -> None:
        """Move frames, wake the coroutines whose keys have arrived, and schedule the next call."""
        try:
            news = self._core.pump()
        except RotaError as error:  # a new connection failed; an exception in a callback would reach no caller
            self._core.end(error)
            news = [ALL]
        self._watch_sockets({link.descriptor: link.socket for link in self._core.links()})
        self._wake(news)
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        tick_ms = self._core.next_tick_ms()
        if any(link.has_input() for link in self._core.links()):
            tick_ms = 0  # the descriptor is edge-triggered: input that came while sending would go unnoticed
        delay_s = None if tick_ms is None else max(0, tick_ms - now_ms()) / 1000
        self._timer = None if delay_s is None else loop.call_later(delay_s, self._pump)

    def _wake(self, news: list[Key]) -> None:
        if news:
            for key in list(self._waiting) if ALL in news else [None, *news]:
                for woken in self._waiting.get(key, ()):
                    if not woken.done():
                        woken.set_result(None)

    def _watch_sockets(self, wanted: dict[int, Socket]) -> None:
        loop = asyncio.get_running_loop()
        for descriptor in [one for one, socket in self._watched.items() if wanted.get(one) is not socket]:
            loop.remove_reader(descriptor)
            del self._watched[descriptor]
        for descriptor, socket in wanted.items():
            if descriptor not in self._watched:
                loop.add_reader(descriptor, self._pump)
                self._watched[descriptor] = socket


async def _live(socket: Socket, watch: EventFilter, until_ms: int) -> None:
    """Wait until a subscription is active. Raises `TimeoutError`."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    descriptor = descriptor_of(socket)
    loop.add_reader(descriptor, arrived.set)
    try:
        while not watch.is_live:
            arrived.clear()  # the descriptor is edge-triggered, so everything is read before waiting again
            while has_input(socket):
                watch.receive(socket.recv_multipart(zmq.NOBLOCK)[-1])
            if not watch.is_live:
                await asyncio.wait_for(arrived.wait(), max(0, until_ms - now_ms()) / 1000)
    finally:
        loop.remove_reader(descriptor)


async def _watched(socket: Socket, watch: EventFilter, timeout_s: float | None) -> AsyncIterator[Event | Missed]:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    with socket:
        descriptor = descriptor_of(socket)
        loop.add_reader(descriptor, arrived.set)
        try:
            since_ms = now_ms()
            while True:
                # The descriptor is edge-triggered, so everything is read before waiting again.
                arrived.clear()
                while has_input(socket):
                    for event in watch.receive(socket.recv_multipart(zmq.NOBLOCK)[-1]):
                        yield event
                        since_ms = now_ms()
                left_s = None if timeout_s is None else timeout_s - (now_ms() - since_ms) / 1000
                try:
                    await asyncio.wait_for(arrived.wait(), left_s)
                except TimeoutError:
                    return
        finally:
            loop.remove_reader(descriptor)


class AsyncHandle:
    """A submitted task."""

    def __init__(self, client: AsyncClient, seq: int, timeout_s: float | None = None) -> None:
        self.seq = seq
        self._client = client
        self._timeout_s = timeout_s  # unless a call has its own; None: the client's
        self._result: Result | None = None

    async def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the result. Raises `TaskFailed` if the task failed."""
        return (await self.outcome(timeout_s)).raise_if_failed()

    async def outcome(self, timeout_s: float | None = None) -> Result:
        """Wait for the outcome; a failure is returned, not raised."""
        if self._result is None:
            wait_s = self._timeout_s if timeout_s is None else timeout_s
            self._result = await self._client.outcome(self.seq, wait_s)
        return self._result

    async def cancel(self) -> bool:
        """Cancel the task if it has not completed; return whether it was cancelled."""
        return await self._client.cancel(self.seq)

    def __repr__(self) -> str:
        return f"<task {self.seq}>"


class AsyncBatch:
    """Tasks submitted together, in the order of their payloads."""

    def __init__(self, client: AsyncClient, ranges: Ranges, timeout_s: float | None = None) -> None:
        self.ranges = ranges
        self._client = client
        self._timeout_s = timeout_s  # unless a call has its own; None: the client's
        self._length = sum(tasks for _, tasks in ranges)

    @property
    def seqs(self) -> list[int]:
        """The seqs of the tasks."""
        return [seq for first_seq, tasks in self.ranges for seq in range(first_seq, first_seq + tasks)]

    @property
    def handles(self) -> list[AsyncHandle]:
        """One handle per task."""
        return [AsyncHandle(self._client, seq, self._timeout_s) for seq in self.seqs]

    async def results(self, timeout_s: float | None = None) -> list[Result]:
        """Wait for all results. Raises `TaskFailed` for the first task that failed."""
        return [outcome.raise_if_failed() for outcome in await self.outcomes(timeout_s)]

    async def outcomes(self, timeout_s: float | None = None) -> list[Result]:
        """Wait for all outcomes; failures are returned, not raised."""
        stream = self._client._stream(
            self._client._operations.outcomes(self.ranges, self._timeout_s if timeout_s is None else timeout_s)
        )
        return [outcome async for outcome in stream]

    def as_completed(self, timeout_s: float | None = None) -> AsyncIterator[Result]:
        """Yield the outcomes as they arrive; failures are not raised."""
        return self._client.as_completed(self, self._timeout_s if timeout_s is None else timeout_s)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> AsyncHandle:
        return AsyncHandle(self._client, seq_at(self.ranges, index, self._length), self._timeout_s)

    def __repr__(self) -> str:
        return f"<{self._length} tasks {list(self.ranges)}>"
