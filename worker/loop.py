"""The shell around session.py, shared by both kinds of worker: poll, feed the session, carry out its actions.

There are two threads. The main thread owns the socket, the signals and the session, and answers heartbeats however long
a task takes; the executor thread gives the executor its jobs and steps it (executor.py). WASM and ONNX calls release
the GIL. The threads communicate by queues and a byte that wakes the poller; nothing sleeps and polls.

The exit code of the process says why it ended; an exception raised by the executor is a bug and ends it.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, NoReturn

import zmq

from rota.common import wire
from rota.common.columns import new_tuple
from rota.common.errors import DeviceLost, ProtocolError
from rota.common.limits import ASSIGNMENTS_PER_WORKER, MESSAGE_BYTES_MAX, MESSAGE_CHARS_MAX
from rota.common.messages import Assign, Completed, Prepare, Prepared, WorkerMessage
from rota.common.work import NO_OUTCOMES, Fold, FoldResult, TaskInput
from rota.host.config import WorkerSettings, worker_name
from rota.host.service import Exit, StopLevel, StopSignals, host_identity, say_ready
from rota.host.sockets import LINGER_LAST_MS, Socket, WakePair, context, dealer
from rota.worker.deep_stack import with_deep_stack
from rota.worker.executor import (
    Counted,
    Ended,
    Executor,
    Look,
    Looked,
    Outside,
    Preparing,
    Report,
    Streaming,
    Stuck,
    Work,
)
from rota.worker.session import (
    Action,
    Announce,
    Connect,
    DrainAsked,
    Drop,
    Finished,
    Leave,
    ModelsCounted,
    Overran,
    Prepares,
    Received,
    SendMessage,
    Started,
    StartJob,
    StopAsked,
    TextCame,
    Ticked,
    WorkerSession,
)
from rota.worker.session import WorkerIdentity as WorkerIdentity

log = logging.getLogger(__name__)

# With the default of 5 ms the main thread would wait that long for the GIL, for every message, while the executor runs
# Python code; a switch costs some microseconds.
SWITCH_INTERVAL_SECONDS: Final = 0.0005

_RECEIVE_MESSAGES_MAX: Final = 64  # per wake-up, so that completions do not wait behind a flood
_EXECUTOR_END_SECONDS: Final = 2.0  # for the executor thread at the end; its results are no longer needed
_EXIT_OF: Final[Mapping[str, Exit]] = {
    "drained": Exit.OK,
    "stopped": Exit.STOPPED,
    "refused": Exit.REFUSED,
    "stuck": Exit.STUCK,
}

MakeExecutor = Callable[[Outside], Executor]


def serve_worker(
    pool: Literal["cpu", "gpu"],
    settings: WorkerSettings,
    make_executor: MakeExecutor,
    assignments_max: int = ASSIGNMENTS_PER_WORKER,
) -> Exit:
    """Run a worker until it is told to stop; return the exit code.

    `make_executor` is called in the executor's own thread, because engines and sessions belong to one thread.
    `assignments_max`: how many assignments the executor takes at once.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    worker = worker_name(pool, settings.worker)
    with StopSignals() as signals:
        lane = ExecutorThread(worker, make_executor, with_deep_stack if pool == "gpu" else _plainly)
        code = Exit.BUG  # if the code below raises
        try:
            fingerprint = lane.wait_ready(signals)
            if fingerprint is None:
                code = Exit.OK  # told to stop before the first task
            else:
                capacity = (settings.slots, settings.bytes_max)
                host = (host_identity(), os.getpid())
                identity = WorkerIdentity(worker, pool, *capacity, *host, dict(fingerprint), assignments_max)
                code = _Loop(identity, settings, lane, signals).run()
        except DeviceLost as error:
            log.error("ending: the device is lost: %s", error.message)
            _end_at_once(Exit.DEVICE)  # sessions on a lost device may hang, or end the process, when they are freed
        finally:
            lane.end(code)
        return code


def _plainly(start: Callable[[], None]) -> None:
    start()


def _end_at_once(code: Exit) -> NoReturn:
    """End the process without shutting the interpreter down under native code that runs or cannot be freed."""
    logging.shutdown()
    os._exit(code)


class _Loop:
    """The main thread of a worker."""

    def __init__(
        self, identity: WorkerIdentity, settings: WorkerSettings, lane: ExecutorThread, signals: StopSignals
    ) -> None:
        self._identity = identity
        self._session = WorkerSession(identity)
        self._settings = settings
        self._lane = lane
        self._signals = signals
        self._stop_level = StopLevel.NONE
        self._context = context()
        self._socket: Socket | None = None
        self._poller = zmq.Poller()
        self._poller.register(signals.fileno(), zmq.POLLIN)
        self._poller.register(lane.fileno(), zmq.POLLIN)
        self._exit: Exit | None = None
        self._is_known = False  # to a broker

    def run(self) -> Exit:
        """Poll, feed, act, until the session leaves."""
        try:
            self._act(self._session.step(Started(), _now_ms()))
            while self._exit is None:
                self._poller.poll(max(0, self._session.next_tick_ms() - _now_ms()))
                self._feed_signals()
                self._feed_reports()
                self._feed_messages()
                self._act(self._session.step(Ticked(), _now_ms()))
            return self._exit
        finally:
            self._close_socket(LINGER_LAST_MS)
            self._context.term()

    def _feed_signals(self) -> None:
        level = self._signals.read()
        if level is self._stop_level:
            return
        self._stop_level = level
        if level is StopLevel.DRAIN:
            log.info("draining: finishing what is held, taking no more; a second signal stops at once")
            self._act(self._session.step(DrainAsked(), _now_ms()))
        else:
            log.info("stopping at once")
            self._act(self._session.step(StopAsked(), _now_ms()))

    def _feed_reports(self) -> None:
        for heard in self._lane.take_reports():
            self._act(self._session.step(heard, _now_ms()))

    def _feed_messages(self) -> None:
        for _ in range(_RECEIVE_MESSAGES_MAX):
            if self._socket is None or self._exit is not None:
                return
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = wire.decode(frame, wire.TO_WORKERS)
            self._act(self._session.step(Received(message), _now_ms()))  # type: ignore[arg-type]

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case StartJob(job, order):
                    self._lane.put(job, order)
                case SendMessage(message):
                    self._send(message)
                case Drop(job):
                    self._lane.drop(job)
                case Connect():
                    self._connect()
                case Announce(boot, again):
                    self._announce(boot, again)
                case Leave(why, message):
                    self._leave(why, message)

    def _send(self, message: WorkerMessage) -> None:
        assert self._socket is not None, "the session sends before it connects"
        frame = wire.encode(message)
        if len(frame) > MESSAGE_BYTES_MAX:
            assert isinstance(message, Completed), f"a {type(message).__name__} of {len(frame)} bytes"
            log.warning("assignment %d came to %d bytes: its largest folds run again", message.assignment, len(frame))
            frame = wire.encode(fit_message(message))
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            # The queue holds far more than a worker may have outstanding, so the broker is stuck or away. The session
            # will notice its silence and register again, and the broker will dispatch the work again.
            log.warning("the broker takes no messages: dropped a %s", type(message).__name__)

    def _connect(self) -> None:
        endpoint = self._settings.endpoints().backend  # read each time: a restarted broker may have moved
        if self._socket is not None:
            if self._is_known:
                log.info("no answer from the broker; trying again at %s", endpoint)
            else:  # perhaps the folder or the address is wrong
                log.warning(
                    "waiting for a broker at %s: `rota broker` with the same --dir or --bind starts one", endpoint
                )
        self._close_socket(0)
        self._socket = dealer(self._context, endpoint)
        self._poller.register(self._socket, zmq.POLLIN)

    def _close_socket(self, linger_ms: int) -> None:
        if self._socket is not None:
            self._poller.unregister(self._socket)
            self._socket.close(linger=linger_ms)
            self._socket = None

    def _announce(self, boot: int, again: bool) -> None:
        self._is_known = True
        if again:
            log.info("registered again, with boot %d of the broker", boot)
            return
        log.info("registered with boot %d of the broker", boot)
        say_ready(f"{self._identity.pool}-worker", id=self._identity.worker, pid=self._identity.pid, boot=boot)

    def _leave(self, why: str, message: str) -> None:
        self._exit = _EXIT_OF[why]
        if why == "refused":
            log.error("the broker does not take this worker: %s", message)
        elif why == "stuck":
            log.error("ending, to be started again: %s", message)
        else:
            log.info("left: %s", why)


# --- the executor's thread ------------------------------------------------------------------------


class _QueuedJob:
    __slots__ = ("dropped", "number", "order")

    def __init__(self, number: int, order: Assign | Prepare) -> None:
        self.number = number
        self.order = order
        self.dropped = False


class _Failure(NamedTuple):
    """An exception raised by the executor."""

    error: BaseException


Heard = Finished | Overran | Prepares | TextCame | ModelsCounted


class ExecutorThread:
    """Runs an executor in its own thread. Its methods are called by the main thread."""

    def __init__(
        self, worker: str, make_executor: MakeExecutor, starting: Callable[[Callable[[], None]], None]
    ) -> None:
        """`starting` starts the thread by calling what it is given."""
        self._worker = worker
        self._make_executor = make_executor
        self._wake = WakePair()
        self._waiting: queue.SimpleQueue[_QueuedJob | Literal["step", "end"]] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[Report | Mapping[str, Any] | _Failure] = queue.SimpleQueue()
        self._jobs: dict[int, _QueuedJob] = {}
        self._executor: Executor | None = None
        # A daemon, so that a task that cannot be interrupted does not keep the process alive.
        self._thread = threading.Thread(target=self._main, name="executor", daemon=True)
        starting(self._thread.start)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when something is reported."""
        return self._wake.fileno()

    def wait_ready(self, signals: StopSignals) -> Mapping[str, Any] | None:
        """Return the fingerprint once the executor is made; None if the process is told to stop first."""
        poller = zmq.Poller()
        poller.register(signals.fileno(), zmq.POLLIN)
        poller.register(self.fileno(), zmq.POLLIN)
        while signals.read() is StopLevel.NONE:
            poller.poll()
            self._wake.take()
            if not self._reports.empty():
                first = self._reports.get()
                if isinstance(first, _Failure):
                    raise first.error
                assert isinstance(first, Mapping)
                return first
        return None

    def put(self, number: int, order: Assign | Prepare) -> None:
        """Give the executor a job."""
        job = self._jobs[number] = _QueuedJob(number, order)
        self._waiting.put(job)

    def drop(self, number: int) -> None:
        """Interrupt a job. It is still reported as finished."""
        job = self._jobs.get(number)
        if job is not None:
            job.dropped = True
            if self._executor is not None:
                self._executor.drop(number)

    def take_reports(self) -> list[Heard]:
        """Return the reports, in order, as events of the session. Raises what the executor raised."""
        taken: list[Heard] = []
        pieces: list[tuple[int, int, int, str]] = []
        self._wake.take()
        while not self._reports.empty():
            report = self._reports.get()
            if isinstance(report, Streaming):
                _join(pieces, report)
                continue
            if pieces:  # text first, since it means nothing once its task has ended
                taken.append(TextCame(tuple(pieces)))
                pieces = []
            heard = self._heard(report)
            if heard is not None:
                taken.append(heard)
        return [*taken, TextCame(tuple(pieces))] if pieces else taken

    def end(self, code: Exit) -> None:
        """Interrupt the running jobs and end the thread; if that takes too long, end the process with `code`."""
        for number in list(self._jobs):
            self.drop(number)
        self._waiting.put("end")
        self._thread.join(_EXECUTOR_END_SECONDS)
        if self._thread.is_alive():
            raised = sys.exc_info()[0] is not None  # it must be logged here
            log.warning(
                "the executor did not stop in %.0f s: ending without it", _EXECUTOR_END_SECONDS, exc_info=raised
            )
            _end_at_once(code)
        self._wake.close()

    def _heard(self, report: Report | Mapping[str, Any] | _Failure) -> Heard | None:
        match report:
            case Ended(number, results, elapsed_us):
                job = self._jobs.pop(number)
                assert isinstance(job.order, Assign)
                if results is None:
                    return Finished(number, None)
                _log_undone(job.order, results)
                return Finished(number, Completed(self._worker, job.order.assignment, results, elapsed_us))
            case Looked(number, info, message):
                job = self._jobs.pop(number)
                assert isinstance(job.order, Prepare)
                text = message[:MESSAGE_CHARS_MAX]
                answer = Prepared(self._worker, job.order.number, info is not None, dict(info or {}), text)
                return Finished(number, answer)
            case Stuck(number, results, elapsed_us):
                return self._overran(number, results, elapsed_us)
            case Preparing(pending):
                return Prepares(pending)
            case Counted(models):
                return ModelsCounted(models)
            case _Failure(error):
                raise error
        raise AssertionError(f"the executor reports {report}")

    def _overran(self, number: int, results: tuple[FoldResult, ...] | None, elapsed_us: int) -> Overran | None:
        job = self._jobs.get(number)
        if job is None:
            return None  # it has just ended
        assert isinstance(job.order, Assign)
        log.warning("assignment %d was told to stop and does not: nothing else runs meanwhile", job.order.assignment)
        if results is None:
            return Overran(number, None)
        return Overran(number, Completed(self._worker, job.order.assignment, results, elapsed_us))

    # --- in the thread ---

    def _main(self) -> None:
        try:
            executor = self._executor = self._make_executor(Outside(self._step_again, self._report))
            is_lost = False
            try:
                self._report(executor.fingerprint())
                self._run(executor)
            except DeviceLost:
                is_lost = True
                raise
            finally:
                if not is_lost:  # see `serve_worker`
                    executor.close()
        except BaseException as error:  # not swallowed: the main thread raises it
            self._report(_Failure(error))

    def _run(self, executor: Executor) -> None:
        """Give the executor its jobs, and step it while there is work."""
        is_idle = True
        while True:
            while is_idle or not self._waiting.empty():
                item = self._waiting.get()
                if item == "end":
                    return
                if isinstance(item, _QueuedJob):
                    executor.take(_job_of(item))
                    if item.dropped:
                        executor.drop(item.number)  # the first call came before the executor had the job
                is_idle = False
            reports = executor.step()
            for report in reports:
                self._reports.put(report)
            if reports:
                self._wake.wake()
            is_idle = not reports

    def _step_again(self) -> None:
        self._waiting.put("step")

    def _report(self, item: Report | Mapping[str, Any] | _Failure) -> None:
        self._reports.put(item)
        self._wake.wake()


def _job_of(job: _QueuedJob) -> Work | Look:
    order = job.order
    if isinstance(order, Prepare):
        return Look(job.number, order.code, order.address)
    return Work(job.number, tuple(folds_of(order)))


def _join(pieces: list[tuple[int, int, int, str]], report: Streaming) -> None:
    """Add a piece of text; one that continues the last piece of its task becomes one with it."""
    task = (report.job, report.turn)
    for place in range(len(pieces) - 1, -1, -1):
        job, turn, offset, text = pieces[place]
        if (job, turn) == task:
            if offset + len(text) == report.offset:
                pieces[place] = (job, turn, offset, text + report.text)
                return
            break
    pieces.append((*task, report.offset, report.text))


def _log_undone(order: Assign, results: tuple[FoldResult, ...]) -> None:
    """Log what could not be done here. Outcomes do not say it, because it depends on the host."""
    for (_, address, *_), result in zip(order.folds, results, strict=True):
        if result.stopped in ("faulted", "refused", "unrepeatable"):
            log.warning("%s: %s: %s", address, result.stopped, result.reason)


# --- assignments and completions ------------------------------------------------------------------


def folds_of(order: Assign) -> list[Fold]:
    """Return the folds of an assignment for an executor.

    Raises `ProtocolError` if its parts are inconsistent.
    """
    folds = []
    for code, address, state, segments, open_turns, past in order.folds:
        tasks: list[TaskInput] = []
        for part in segments:
            tensors = dict(part.tensors)
            for index, (turn, payload) in enumerate(zip(part.turns, part.payloads, strict=True)):
                own = tensors.get(index, ()) if tensors else ()
                head = (turn, part.kind, part.sender, payload, part.now_ms, part.reply_to)
                tasks.append(new_tuple(TaskInput, (*head, own, part.emits_max, part.growth_bytes)))
        if code >= len(order.codes):
            raise ProtocolError(f"a fold for {address} names code {code} of {len(order.codes)}")
        if order.codes[code].flow != (past is not None):
            what = "a call without a past" if past is None else "a past of what is no call"
            raise ProtocolError(f"a fold for {address} is {what}")
        folds.append(Fold(order.seed, order.codes[code], address, state, tuple(tasks), open_turns, past))
    return folds


def fit_message(message: Completed) -> Completed:
    """Return the completion without the largest folds, as many as needed to fit into one message.

    They count as interrupted, so the broker dispatches them again. A fold cannot be cut, because its state is that
    after the last outcome. An executor keeps each fold small enough for a message.
    """
    sizes = [len(wire.encode(message._replace(folds=(fold,)))) for fold in message.folds]
    assert max(sizes) <= MESSAGE_BYTES_MAX, f"one fold's outcomes come to {max(sizes)} bytes"
    folds = list(message.folds)
    excess = sum(sizes) - MESSAGE_BYTES_MAX
    for place in sorted(range(len(folds)), key=lambda place: -sizes[place]):
        if excess > 0:
            excess -= sizes[place]
            reason = f"its outcomes come to {sizes[place]} bytes, too many beside others"
            folds[place] = FoldResult(NO_OUTCOMES, None, "interrupted", reason)
    return message._replace(folds=tuple(folds))


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
