"""Every operation of a client, for both shells: checks the arguments, makes messages, and returns an exchange.

The methods have the names and meaning of those of `Client` and `AsyncClient`, which only run the exchanges. A new
operation is a method here and one in each of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from rota.client.core import Core, milliseconds, now_ms
from rota.client.exchanges import Exchange, Patience, Pause, Ranges, Stream
from rota.client.options import AskOptions, DeployOptions, LaneOptions, MapOptions, SubmitOptions
from rota.client.session import RESULTS_HELD_MAX
from rota.client.watch import EventFilter
from rota.common import digests, limits
from rota.common.arguments import check_model_name, check_name, checked, flag, seconds, seq_of, several, whole
from rota.common.code_kinds import pool_of
from rota.common.errors import BadPayload, CodeError, LocalError, NotKept, UnknownLane
from rota.common.messages import (
    Accepted,
    Answer,
    Cancel,
    DeadDrop,
    Deploy,
    Drain,
    Keep,
    OpenLane,
    Query,
    SetPaused,
    SetWindow,
    Submit,
    TaskRun,
)
from rota.common.shown import shown
from rota.common.targets import MODEL_PREFIX, check_target
from rota.common.work import MODEL, Code, Limits
from rota.runtimes.content import Parts, Paths, content_of, extras_of
from rota.tensors.payloads import check_message, check_targets, run_of

IDLE_POLL_MS: Final = 20  # between two polls of a working lane; grows to the bound below
IDLE_POLL_MS_MAX: Final = 250

_QUERY: Final = frozenset({Query})


class TaskRow(NamedTuple):
    """Payloads of one atomic batch that share a priority. `targets` is one for all, or one per payload."""

    targets: str | Sequence[str]
    payloads: Sequence[Any]
    priority: int = 0


class Operations:
    """The operations of one client, as exchanges and streams."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._exchanges = core.exchanges
        self._session = core.session

    # --- tasks ----------------------------------------------------------------------------------------

    def submit(self, target: str, payload: Any, options: SubmitOptions) -> Exchange[Ranges]:
        return self.submit_many(check_target(target), [payload], options)

    def submit_many(
        self, targets: str | Sequence[str], payloads: Iterable[Any], options: SubmitOptions
    ) -> Exchange[Ranges]:
        check_targets(targets)
        messages = self._core.payloads.messages(targets, several("payloads", payloads), options.priority)
        return self._exchanges.submit(messages, options, self._deadline(options.timeout_s))

    def submit_runs(self, runs: Iterable[TaskRow], options: SubmitOptions) -> Exchange[Ranges]:
        packed = tuple(self._run(run) for run in several("runs", runs))
        check_message(packed)
        return self._exchanges.submit([packed], options, self._deadline(options.timeout_s))

    def map(self, target: str, payloads: Iterable[Any], options: MapOptions) -> Stream:
        check_target(target)
        source = iter(several("payloads", payloads))

        def next_runs(count: int) -> tuple[TaskRun, ...]:
            packed = [self._core.payloads.pack(target, value) for value in islice(source, count)]
            runs = (run_of(target, packed, options.priority),) if packed else ()
            if runs:
                check_message(runs)
            return runs

        answer_ms = self._milliseconds(options.timeout_s)
        return self._exchanges.map(next_runs, options, answer_ms, Patience(None, answer_ms))

    def retry(self, seq: Any, options: SubmitOptions) -> Exchange[Ranges]:
        number = seq_of(seq)
        taken = self._session.take_number(options.number)
        request = Submit(taken, options.lane, (), options.wait, None, number, options.kind, 0)
        reply = yield from self._exchanges.request_patiently(request, self._deadline(options.timeout_s))
        assert isinstance(reply, Accepted), reply
        return ((reply.first_seq, reply.tasks),)

    def cancel(self, seq: Any) -> Exchange[bool]:
        number = seq_of(seq)
        value = yield from self._answer(Cancel(self._session.take_number(), number))
        return bool(value["caught"])

    def dead_drop(self, lane: str, seqs: Iterable[Any]) -> Exchange[int]:
        check_name(lane, "a lane")
        named = tuple([seq_of(seq) for seq in several("seqs", seqs)])
        value = yield from self._answer(DeadDrop(self._session.take_number(), lane, named))
        return int(value["dropped"])

    # --- code and lanes -------------------------------------------------------------------------------

    def deploy(self, name: str, module: Paths | bytes, options: DeployOptions) -> Exchange[dict[str, Any]]:
        check_name(name, "an agent")
        content = content_of(module, options.kind, extras_of(options), options.exports or {}, options.flow)
        exports = tuple((options.exports or {}).items())
        code_limits = options.code_limits or Limits()
        code = Code(content.digest, content.kind, options.reuse, exports, code_limits, flow=content.flow)
        return self._deploy(name, code, content.parts, options)

    def deploy_model(self, name: str, digest: bytes, options: DeployOptions) -> Exchange[dict[str, Any]]:
        name = check_model_name(name)
        if not isinstance(digest, bytes) or len(digest) != digests.DIGEST_BYTES:
            raise CodeError(
                f"digest={shown(digest)}: a model's digest has {digests.DIGEST_BYTES} bytes: give `bytes.fromhex` of "
                "what `rota model show NAME` prints"
            )
        self._core.check_version(name, digest)
        code = Code(digest, MODEL, limits=options.code_limits or Limits(), recorded=options.recorded)
        return self._deploy(MODEL_PREFIX + name, code, {}, options)

    def open_lane(self, lane: str, options: LaneOptions) -> Exchange[Any]:
        check_name(lane, "a lane")
        number = self._session.take_number()
        return self._answer(OpenLane(number, lane, options.settings, options.paused, options.deploys_from))

    def set_paused(self, lane: str, paused: bool) -> Exchange[Any]:
        check_name(lane, "a lane")
        return self._answer(SetPaused(self._session.take_number(), lane, paused))

    def set_window(self, lane: str, window: int) -> Exchange[Any]:
        check_name(lane, "a lane")
        whole("window", window, 1, limits.WINDOW_TASKS_MAX)
        return self._answer(SetWindow(self._session.take_number(), lane, window))

    def drain(self, draining: bool) -> Exchange[Any]:
        flag("draining", draining)
        return self._answer(Drain(self._session.take_pair_number(), draining))

    # --- results and questions ------------------------------------------------------------------------

    def outcome(self, seq: Any, timeout_s: float | None) -> Exchange[Any]:
        return self._exchanges.outcome(seq_of(seq), self._patience(timeout_s))

    def outcomes(self, ranges: Ranges, timeout_s: float | None) -> Stream:
        return self._exchanges.outcomes(ranges, self._patience(timeout_s))

    def text_or_outcome(self, seq: int, shown: int, timeout_s: float | None) -> Exchange[Any]:
        return self._exchanges.text_or_outcome(seq, shown, self._patience(timeout_s))

    def drop_text(self, seq: int) -> None:
        self._core.texts.unfollow(seq)

    def results(self, first_seq: Any, count: int, timeout_s: float | None) -> Stream:
        whole("count", count, 0, RESULTS_HELD_MAX, BadPayload)
        return self.outcomes(((seq_of(first_seq), count),), timeout_s)

    def as_completed(self, tasks: Any, timeout_s: float | None) -> Stream:
        return self._exchanges.as_completed(_ranges_of(tasks), self._patience(timeout_s))

    def watch(self, topics: Iterable[str], timeout_s: float | None) -> EventFilter:
        if timeout_s is not None:
            seconds("timeout_s", timeout_s, zero=True)
        return EventFilter(several("topics", topics))

    def query(self, what: str, arguments: Mapping[str, Any]) -> Exchange[Any]:
        return (yield from self.answer(what, arguments)).value

    def answer(self, what: str, arguments: Mapping[str, Any]) -> Exchange[Answer]:
        """Run a query; return the answer with its boot and event number."""
        given = {name: value for name, value in arguments.items() if value is not None}
        checked(Query(0, what, given), LocalError, _QUERY)
        return self._exchanges.question(what, given, self._deadline(None))

    def status(self) -> Exchange[dict[str, Any]]:
        answer = yield from self.answer("status", {})
        return {**answer.value, "event": answer.event}

    def wait_idle(
        self, lane: str, timeout_s: float | None, progress: Callable[[dict[str, Any]], None] | None
    ) -> Exchange[dict[str, Any]]:
        """Poll the lane at growing intervals until it has nothing left to do."""
        check_name(lane, "a lane")
        deadline_ms = None if timeout_s is None else self._patience(timeout_s).until_ms
        pause_ms = IDLE_POLL_MS
        while True:
            numbers = lane_numbers((yield from self.query("lanes", {})), lane)
            if progress is not None:
                progress(numbers)
            if is_idle(numbers):
                return numbers
            if deadline_ms is not None and now_ms() >= deadline_ms:
                raise TimeoutError(_still_busy(numbers))
            yield from self._exchanges.pause(now_ms() + pause_ms)
            pause_ms = min(2 * pause_ms, IDLE_POLL_MS_MAX)

    # --- inside ---------------------------------------------------------------------------------------

    def _answer(self, request: Any, deadline_ms: int | None = None) -> Generator[Pause, None, Any]:
        """Send a request and return the facts in its answer; {} if it was just accepted.

        Raises `LocalError` for a request that cannot be encoded, before anything is sent.
        """
        checked(request, CodeError if isinstance(request, Deploy | Keep) else LocalError)
        reply = yield from self._exchanges.request(request, deadline_ms or self._deadline(None))
        return reply.value if isinstance(reply, Answer) else {}

    def _deploy(self, name: str, code: Code, parts: Parts, options: DeployOptions) -> Exchange[dict[str, Any]]:
        """Deploy code; send those of its parts that the broker does not have, and deploy again under the same number.

        A refused deploy had no effect, so the number is still free.
        """
        taken = self._session.take_number(options.number)
        request = Deploy(taken, options.lane, name, code, options.check)
        left = dict(parts)
        while True:
            try:
                value: dict[str, Any] = yield from self._checked_deploy(request, options)
                return value
            except NotKept as error:
                missing = [bytes.fromhex(one) for one in error.fields.get("missing", ())]
                if not missing or any(one not in left for one in missing):
                    raise
            for one in missing:
                data = left.pop(one)()
                yield from self._answer(Keep(self._session.take_pair_number(), one, data))

    def _checked_deploy(self, request: Deploy, options: DeployOptions) -> Exchange[dict[str, Any]]:
        # Compiling has its own limit; a client that gives up earlier would not learn the error.
        extra_ms = limits.COMPILE_MS_MAX if options.check and options.timeout_s is None else 0
        latest_ms = now_ms() + limits.PREPARE_MS_MAX
        while True:
            try:
                value: dict[str, Any] = yield from self._answer(request, self._deadline(options.timeout_s) + extra_ms)
                return value
            except TimeoutError:
                # A large model is loaded and certified for minutes. The same request again is the same deploy.
                is_at_it = options.check and (yield from self._is_preparing(request.name))
                if is_at_it and extra_ms and now_ms() < latest_ms:
                    continue
                raise TimeoutError(_not_looked_at(request.name, pool_of(request.code), is_at_it)) from None

    def _is_preparing(self, name: str) -> Exchange[bool]:
        """Return whether a worker compiles or loads the code of this name."""
        workers = yield from self.query("workers", {})
        return any(address == name for worker in workers for address, _ in worker["preparing"])

    def _run(self, run: TaskRow) -> TaskRun:
        if not isinstance(run, TaskRow):
            raise BadPayload(f"{shown(run)} is no Run: give Run(targets, payloads, priority)")
        check_targets(run.targets)
        whole("priority", run.priority, limits.PRIORITY_MIN, limits.PRIORITY_MAX, BadPayload)
        payloads = list(several("payloads", run.payloads))
        targets = [run.targets] * len(payloads) if isinstance(run.targets, str) else list(run.targets)
        if len(targets) != len(payloads) or not payloads:
            raise BadPayload(f"a run with {len(targets)} targets and {len(payloads)} payloads: give one for each")
        packed = [self._core.payloads.pack(target, value) for target, value in zip(targets, payloads, strict=True)]
        return run_of(run.targets if isinstance(run.targets, str) else tuple(targets), packed, run.priority)

    def deadline(self) -> int:
        """Return the default deadline for an answer."""
        return self._deadline(None)

    def _deadline(self, timeout_s: float | None) -> int:
        return now_ms() + self._milliseconds(timeout_s)

    def patience_s(self, asked: AskOptions) -> float | None:
        """Return how long to wait for the answers of asks unless a call has its own timeout; None: the client's."""
        return None if asked.deadline_s is None else asked.deadline_s + self._core.timeout_ms / 1_000

    def _milliseconds(self, timeout_s: float | None) -> int:
        return self._core.timeout_ms if timeout_s is None else milliseconds(timeout_s)

    def _patience(self, timeout_s: float | None) -> Patience:
        """Return the patience of a call: its own timeout for all, or the client's timeout for each next outcome."""
        if timeout_s is None:
            return Patience(None, self._core.timeout_ms)
        return Patience(now_ms() + milliseconds(seconds("timeout_s", timeout_s, zero=True)), None)


def _not_looked_at(name: str, pool: str, is_at_it: bool) -> str:
    if is_at_it:
        return (
            f"a {pool} worker still compiles or loads {name}, longer than this call waits: deploy again with a longer "
            "timeout; it goes on meanwhile"
        )
    return (
        f"no {pool} worker has looked at {name} in time: start one with `rota {pool}-worker`, or deploy without check"
    )


def lane_numbers(lanes: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the numbers of one lane from the answer to the query `lanes`."""
    for numbers in lanes:
        if numbers["lane"] == name:
            return numbers
    raise UnknownLane(f"no lane {name!r}: `rota lanes` lists them, `rota lane open` opens one", lane=name)


def is_idle(numbers: Mapping[str, Any]) -> bool:
    """Return whether a lane has nothing to do now. Waiting timers do not count."""
    return not numbers["waiting"] and not numbers["line"]


def _still_busy(numbers: Mapping[str, Any]) -> str:
    name = numbers["lane"]
    if numbers["paused"] and not numbers["line"]:
        return f"lane {name} is paused, and {numbers['waiting']} tasks wait in it: `rota release {name}` lets it go on"
    return f"lane {name} still has work to do: ask again later"


def _ranges_of(tasks: Any) -> Ranges:
    """Return a batch, or handles and seqs in any mix, as ranges."""
    ranges: Ranges | None = getattr(tasks, "ranges", None)
    if ranges is not None:
        return ranges
    return tuple([(seq_of(task), 1) for task in several("tasks", tasks)])
