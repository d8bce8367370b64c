"""The blocking client: `with Client(".rota") as client: client.submit("echo", b"hello").result()`.

A client belongs to the thread that made it and has no thread of its own: frames move while a call waits. So results
that no call waits for stay with the broker, and a client that was idle for long asks for them again by itself. The
operations are in operations.py and exchanges.py; here they are run. A new method must be added to aio.py too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack, overload

import zmq

from rota.client.core import Core, Where, now_ms
from rota.client.exchanges import Exchange, Pause, Ranges, Stream
from rota.client.generation import Generation
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
from rota.client.text_operations import TextOperations
from rota.client.texts import TextSoFar
from rota.client.watch import EventFilter, Missed
from rota.common.chat import Chat
from rota.common.errors import LocalError
from rota.common.messages import Event
from rota.common.results import Result
from rota.common.work import MODEL
from rota.host.sockets import Socket, subscriber
from rota.runtimes.content import Paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

_POLL_MS_MAX: Final = 3_600_000  # a C int cannot hold a deadline that never comes; the exchange waits again


class Client:
    """A producer: submits tasks, gets results, runs queries. Use it in a `with` block.

    `where` is the run folder, or the broker's address given with --bind. Choose a `producer` id to repeat a submit
    safely in a later process: the same producer and `number` with the same content is one submit. `timeout_s` bounds
    every wait for an answer or for the next outcome, unless a call has its own; `contact_s` bounds the wait for the
    first answer of a broker. `math.inf` means no timeout.
    """

    def __init__(
        self, where: Where = None, producer: str | None = None, timeout_s: float = 30.0, *,
        contact_s: float | None = None, tensors: Path | None = None, context: zmq.Context[Socket] | None = None,
    ) -> None:  # fmt: skip
        self._core = Core(where, producer, timeout_s=timeout_s, contact_s=contact_s, tensors=tensors, context=context)
        self._operations = Operations(self._core)
        self._texts = TextOperations(self._operations)
        self._thread = threading.get_ident()

    @property
    def producer(self) -> str:
        """The producer id: the broker knows this client's request numbers under it."""
        return self._core.session.producer

    # --- tasks ----------------------------------------------------------------------------------------

    def submit(self, target: str, payload: Any = b"", **options: Unpack[SubmitNames]) -> Handle:
        """Submit one task; when this returns, it is durable. For the options see `SubmitOptions`."""
        exchange = self._operations.submit(target, payload, SubmitOptions.of(options, SubmitNames))
        return Batch(self, self._run(exchange))[0]

    def submit_many(
        self, targets: str | Sequence[str], payloads: Iterable[Any], **options: Unpack[SubmitNames]
    ) -> Batch:
        """Submit many tasks in as few messages as possible, usually one. Each message is atomic.

        With a `number`, the messages take that one and the next ones. If a message is refused, the error's field
        `accepted` has the [first seq, count] of those before it.
        """
        exchange = self._operations.submit_many(targets, payloads, SubmitOptions.of(options, SubmitNames))
        return Batch(self, self._run(exchange))

    def ask(self, target: str, payload: Any = b"", **options: Unpack[AskNames]) -> Handle:
        """Ask an agent, a flow or a model; the result of the handle is the final answer, however many asks it takes.

        When this returns, the ask is durable: `result(seq)` gets the answer from any process, after any restart. See
        `AskOptions`; with a `deadline_s`, the handle waits until then and the client's timeout longer.
        """
        asked = AskOptions.of(options, AskNames)
        exchange = self._operations.submit(target, payload, asked)
        return Batch(self, self._run(exchange), self._operations.patience_s(asked))[0]

    def ask_many(self, targets: str | Sequence[str], payloads: Iterable[Any], **options: Unpack[AskNames]) -> Batch:
        """Ask many times in as few messages as possible, as `ask` and `submit_many` do."""
        asked = AskOptions.of(options, AskNames)
        exchange = self._operations.submit_many(targets, payloads, asked)
        return Batch(self, self._run(exchange), self._operations.patience_s(asked))

    def submit_runs(self, runs: Iterable[TaskRow], **options: Unpack[RunsNames]) -> Batch:
        """Submit one atomic batch of runs, each with its own targets and priority: accepted together or not at all."""
        exchange = self._operations.submit_runs(runs, SubmitOptions.of(options, RunsNames))
        return Batch(self, self._run(exchange))

    def map(self, target: str, payloads: Iterable[Any], **options: Unpack[MapNames]) -> Iterator[Result]:
        """Send every payload to `target` and yield the results, in order or as they arrive; payloads may be endless.

        A failed task raises `TaskFailed`, or is yielded with `return_failures`. See `MapOptions`.
        """
        return self._stream(self._operations.map(target, payloads, MapOptions.of(options, MapNames)))

    def result(self, seq: int | Handle, timeout_s: float | None = None) -> Result:
        """Wait for the result of any task by its seq; the default timeout is the client's.

        Raises `TaskFailed`, `TimeoutError`, `Expired`, `UnknownTask`.
        """
        return self.outcome(seq, timeout_s).raise_if_failed()

    def outcome(self, seq: int | Handle, timeout_s: float | None = None) -> Result:
        """Wait for the outcome of any task by its seq; a failure is returned, not raised."""
        result = self._run(self._operations.outcome(seq, timeout_s))
        assert isinstance(result, Result)
        return result

    def results(self, first_seq: int, count: int, timeout_s: float | None = None) -> Iterator[Result]:
        """Yield the outcomes of `count` tasks from `first_seq` on, in order; failures are not raised."""
        return self._stream(self._operations.results(first_seq, count, timeout_s))

    def as_completed(self, tasks: Batch | Iterable[Handle | int], timeout_s: float | None = None) -> Iterator[Result]:
        """Yield the outcomes of tasks as they arrive; failures are not raised."""
        return self._stream(self._operations.as_completed(tasks, timeout_s))

    def cancel(self, seq: int | Handle) -> bool:
        """Cancel a task that has not completed; return whether it was cancelled."""
        return self._run(self._operations.cancel(seq))

    def retry(self, seq: int | Handle, **options: Unpack[RetryNames]) -> Handle:
        """Run a dead task again, as a new one."""
        exchange = self._operations.retry(seq, SubmitOptions.of(options, RetryNames))
        return Batch(self, self._run(exchange))[0]

    def dead_drop(self, lane: str = "main", seqs: Iterable[int | Handle] = ()) -> int:
        """Drop these dead letters of a lane, or all of them; return how many there were."""
        return self._run(self._operations.dead_drop(lane, seqs))

    # --- text -----------------------------------------------------------------------------------------

    def generate(self, model: str, prompt: str | None = None, **options: Unpack[GenerateNames]) -> Generation:
        """Submit a generate task to a model; when this returns, it is durable. Iterate over the answer for its text.

        Give `prompt`, `messages` or `tokens`. `conversation`: the head that the messages continue, or
        NEW_CONVERSATION; the result has the new head. For the others see `ChatNames`. `timeout_s` bounds the wait for
        the next text or the outcome; the default is the client's for each.
        """
        given = {**options, "prompt": prompt} if prompt is not None else dict(options)
        ((seq, _),) = self._run(self._texts.generate(model, given))
        return Generation(self, seq, options.get("timeout_s"))

    def chat(
        self,
        model: str,
        *,
        system: str | None = None,
        conversation: bytes | str | None = None,
        **options: Unpack[ChatNames],
    ) -> Chat[Generation]:  # fmt: skip
        """Return a dialogue with a model, which begins, or goes on at the head `conversation`. Sends nothing yet."""
        return Chat(self.generate, model, self._texts.dialogue(model, system, conversation, options))

    def embed(
        self, model: str, texts: Iterable[str], *, truncate: bool = False, **options: Unpack[TextNames]
    ) -> NDArray[Any]:
        """Return the vectors of texts [texts, dimensions]. `truncate`: cut texts that are too long for the model.

        Many texts become several tasks, submitted together. Raises `TaskFailed` for the first that failed.
        """
        return self._run(self._texts.embed(model, texts, truncate, options))

    def classify(
        self, model: str, texts: Iterable[str], *, top: int | None = None, truncate: bool = False,
        **options: Unpack[TextNames],
    ) -> list[list[tuple[str, float]]]:  # fmt: skip
        """Return for each text its `top` labels, or all, with their scores, the best first. As `embed` otherwise."""
        return self._run(self._texts.classify(model, texts, top, truncate, options))

    # --- code and lanes -------------------------------------------------------------------------------

    def deploy(
        self, name: str, module: Paths | bytes, kind: str | None = None, **options: Unpack[DeployNames]
    ) -> dict[str, Any]:
        """Bind `name` in a lane to code: a source file or folder, or a WASM file or its bytes.

        With `check` a worker compiles it first; its findings are returned, or raised as `CodeError`. See
        `DeployOptions`.
        """
        exchange = self._operations.deploy(name, module, DeployOptions.of(options, DeployNames, kind=kind))
        return self._run(exchange)

    def deploy_model(self, name: str, digest: bytes, **options: Unpack[ModelNames]) -> dict[str, Any]:
        """Bind `model:name` in a lane to the model of the repository with this digest."""
        exchange = self._operations.deploy_model(name, digest, DeployOptions.of(options, ModelNames, kind=MODEL))
        return self._run(exchange)

    def open_lane(self, name: str, **options: Unpack[LaneNames]) -> dict[str, Any]:
        """Open a lane. It starts with the current bindings of the lane `deploys_from`, or with none."""
        value: dict[str, Any] = self._run(self._operations.open_lane(name, LaneOptions.named(options)))
        return value

    def pause(self, lane: str = "main") -> None:
        """Issue no more tasks of a lane until it is released."""
        self._run(self._operations.set_paused(lane, True))

    def release(self, lane: str = "main") -> None:
        """Release a paused lane."""
        self._run(self._operations.set_paused(lane, False))

    def set_window(self, lane: str, window: int) -> None:
        """Change how many issued tasks a lane can hold."""
        self._run(self._operations.set_window(lane, window))

    def drain(self, draining: bool = True) -> None:
        """Make the broker refuse inputs of all producers, or accept them again."""
        self._run(self._operations.drain(draining))

    # --- queries --------------------------------------------------------------------------------------

    def query(self, what: str, **arguments: Any) -> Any:
        """Run a read-only query; docs/PROTOCOL.md lists them with their arguments."""
        return self._run(self._operations.query(what, arguments))

    def status(self) -> dict[str, Any]:
        """Return the numbers of broker, journal, lanes and workers, and the `event` at which they are true."""
        return self._run(self._operations.status())

    def digest(self, lane: str = "main") -> dict[str, Any]:
        """Return how many tasks a lane has retired, and the digest over them."""
        value: dict[str, Any] = self.query("digest", lane=lane)
        return value

    def wait_idle(
        self, lane: str = "main", *, timeout_s: float | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Wait until no task of a lane waits or runs; by default there is no timeout.

        Returns the lane's numbers; `progress` gets them at each poll.
        """
        return self._run(self._operations.wait_idle(lane, timeout_s, progress))

    def events(self, topics: Iterable[str] = (), *, timeout_s: float | None = None) -> Iterator[Event | Missed]:
        """Yield events from now on, of these topics or all; `Missed` marks a gap.

        Ends when there was none for `timeout_s`.
        """
        self._check_thread()
        watch = self._operations.watch(topics, timeout_s)
        # Subscribe here and not at the first `next`, so that no event in between is missed.
        return _watched(subscriber(self._core.context, self._core.endpoints().events, [""]), watch, timeout_s)

    def follow(
        self, topics: Iterable[str] = (), *, timeout_s: float | None = None
    ) -> tuple[dict[str, Any], Iterator[Event | Missed]]:
        """Return the status, and the events after it, without a gap in between."""
        self._check_thread()
        watch = self._operations.watch(topics, timeout_s)
        self.status()  # raises if no broker answers
        socket = subscriber(self._core.context, self._core.endpoints().events, [""])
        try:
            _live(socket, watch, self._operations.deadline())
            status = self.status()
        except BaseException:
            socket.close()
            raise
        watch.begin_at(status["boot"], status["event"])
        return status, _watched(socket, watch, timeout_s)

    # --- running exchanges --------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections. Submitted tasks go on."""
        self._core.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[T]) -> T:
        self._check_thread()
        with closing(exchange):
            while True:
                try:
                    turn = next(exchange)
                except StopIteration as end:
                    value: T = end.value
                    return value
                self._turn(turn)

    def _stream(self, stream: Stream) -> Generator[Result, None, None]:
        with closing(stream):
            for step in stream:
                if isinstance(step, Pause):
                    self._check_thread()
                    self._turn(step)
                else:
                    yield step

    def _next_text(self, seq: int, so_far: TextSoFar, timeout_s: float | None) -> str:
        return self._run(self._texts.more_text(seq, so_far, timeout_s))

    def _drop_text(self, seq: int) -> None:
        self._check_thread()
        self._operations.drop_text(seq)

    def _turn(self, turn: Pause) -> None:
        """Move frames until something has arrived or the time has come."""
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


def _live(socket: Socket, watch: EventFilter, until_ms: int) -> None:
    """Wait until a subscription is active."""
    while not watch.is_live:
        if socket.poll(max(0, min(until_ms - now_ms(), _POLL_MS_MAX))):
            watch.receive(socket.recv_multipart()[-1])
        elif now_ms() >= until_ms:
            raise TimeoutError("the broker did not confirm the subscription in time")


def _watched(socket: Socket, watch: EventFilter, timeout_s: float | None) -> Iterator[Event | Missed]:
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
    """A submitted task."""

    def __init__(self, client: Client, seq: int, timeout_s: float | None = None) -> None:
        self.seq = seq
        self._client = client
        self._timeout_s = timeout_s  # unless a call has its own; None: the client's
        self._result: Result | None = None

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the result. Raises `TaskFailed` if the task failed."""
        return self.outcome(timeout_s).raise_if_failed()

    def outcome(self, timeout_s: float | None = None) -> Result:
        """Wait for the outcome; a failure is returned, not raised."""
        if self._result is None:
            wait_s = self._timeout_s if timeout_s is None else timeout_s
            self._result = self._client.outcome(self.seq, wait_s)
        return self._result

    def cancel(self) -> bool:
        """Cancel the task if it has not completed; return whether it was cancelled."""
        return self._client.cancel(self.seq)

    def __repr__(self) -> str:
        return f"<task {self.seq}>"


class Batch(Sequence[Handle]):
    """Tasks submitted together, in the order of their payloads."""

    def __init__(self, client: Client, ranges: Ranges, timeout_s: float | None = None) -> None:
        self.ranges = ranges
        self._client = client
        self._timeout_s = timeout_s  # unless a call has its own; None: the client's
        self._length = sum(tasks for _, tasks in ranges)

    @property
    def seqs(self) -> list[int]:
        """The seqs of the tasks."""
        return [seq for first_seq, tasks in self.ranges for seq in range(first_seq, first_seq + tasks)]

    def results(self, timeout_s: float | None = None) -> list[Result]:
        """Wait for all results. Raises `TaskFailed` for the first task that failed."""
        return [outcome.raise_if_failed() for outcome in self.outcomes(timeout_s)]

    def outcomes(self, timeout_s: float | None = None) -> list[Result]:
        """Wait for all outcomes; failures are returned, not raised."""
        return list(
            self._client._stream(
                self._client._operations.outcomes(self.ranges, self._timeout_s if timeout_s is None else timeout_s)
            )
        )

    def as_completed(self, timeout_s: float | None = None) -> Iterator[Result]:
        """Yield the outcomes as they arrive; failures are not raised."""
        return self._client.as_completed(self, self._timeout_s if timeout_s is None else timeout_s)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Handle: ...

    @overload
    def __getitem__(self, index: slice) -> list[Handle]: ...

    def __getitem__(self, index: int | slice) -> Handle | list[Handle]:
        if isinstance(index, slice):
            return [Handle(self._client, seq, self._timeout_s) for seq in self.seqs[index]]
        return Handle(self._client, seq_at(self.ranges, index, self._length), self._timeout_s)

    def __repr__(self) -> str:
        return f"<{self._length} tasks {list(self.ranges)}>"


def seq_at(ranges: Ranges, index: int, length: int) -> int:
    """Return the seq of the task at an index; a negative one counts from the end."""
    left = index + length if index < 0 else index
    if not 0 <= left < length:
        raise IndexError(index)
    for first_seq, tasks in ranges:
        if left < tasks:
            return first_seq + left
        left -= tasks
    raise AssertionError(ranges)
