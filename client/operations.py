"""Every operation of a client, once for both shells: arguments checked, made into messages, and returned as a flow.

The methods here have the names and the meaning of those of `Client` and `AsyncClient`, which only run what they get.
A new operation is a method here and one in each of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from rota.client.core import Core, now_ms
from rota.client.flows import Flow, MapOptions, Ranges, Stream, Turn
from rota.client.session import RESULTS_HELD_MAX
from rota.common import digests, limits
from rota.common.errors import BadPayload, BadTarget, CodeError, ConfigError, LocalError, UnknownLane
from rota.common.messages import (
    Accepted,
    Answer,
    Cancel,
    DeadDrop,
    Deploy,
    Drain,
    LaneSettings,
    OpenLane,
    SetPaused,
    SetWindow,
    Submit,
    TaskRun,
)
from rota.common.targets import MODEL_PREFIX, is_name
from rota.common.work import CODE_KINDS, MODEL, Code, Limits
from rota.tensors.payloads import check_message, check_priority, check_targets, run_of

IDLE_POLL_MS: Final = 20  # between two looks at a lane that works; grows to the bound below
IDLE_POLL_MS_MAX: Final = 250
MAP_BATCH_TASKS: Final = 256
MAP_IN_FLIGHT_TASKS: Final = 4_096

Progress = Callable[[int, int], None]


class Run(NamedTuple):
    """Payloads of one atomic batch that share a priority. `targets` is one for all, or one per payload."""

    targets: str | Sequence[str]
    payloads: Sequence[Any]
    priority: int = 0


class Operations:
    """The operations of one client, as flows and streams."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._flows = core.flows
        self._session = core.session

    # --- tasks ----------------------------------------------------------------------------------------

    def submit_many(
        self, targets: str | Sequence[str], payloads: Iterable[Any], *, lane: str, priority: int, wait: bool,
        number: int | None, now_ms: int | None, block: bool, timeout_s: float | None,
        sent: Callable[[int], None] | None,
    ) -> Flow[Ranges]:  # fmt: skip
        _check_lane(lane)
        check_targets(targets)
        check_priority(priority)
        messages = self._core.payloads.messages(targets, payloads, priority)
        return self._flows.submit(
            messages, lane=lane, wait=wait, number=number, now_ms=now_ms, block=block,
            deadline_ms=self._deadline(timeout_s), sent=sent,
        )  # fmt: skip

    def submit_runs(
        self, runs: Iterable[Run], *, lane: str, wait: bool, number: int | None, now_ms: int | None, block: bool,
        timeout_s: float | None,
    ) -> Flow[Ranges]:  # fmt: skip
        _check_lane(lane)
        packed = tuple(self._run(run) for run in runs)
        check_message(packed)
        return self._flows.submit(
            [packed], lane=lane, wait=wait, number=number, now_ms=now_ms, block=block,
            deadline_ms=self._deadline(timeout_s),
        )  # fmt: skip

    def map(
        self, target: str, payloads: Iterable[Any], *, lane: str, priority: int, ordered: bool, batch: int,
        in_flight: int, return_failures: bool, progress: Progress | None,
    ) -> Stream:  # fmt: skip
        _check_lane(lane)
        check_targets(target)
        check_priority(priority)
        if not 0 < batch <= limits.RUN_TASKS_MAX:
            raise LocalError(f"batch {batch} is not in 1..{limits.RUN_TASKS_MAX}")
        source = iter(payloads)

        def next_runs(count: int) -> tuple[TaskRun, ...]:
            packed = [self._core.payloads.pack(target, value) for value in islice(source, count)]
            runs = (run_of(target, packed, priority),) if packed else ()
            if runs:
                check_message(runs)
            return runs

        options = MapOptions(lane, ordered, in_flight, batch, return_failures, progress)
        return self._flows.map(next_runs, options, self._core.timeout_ms)

    def retry(self, seq: int, *, lane: str, wait: bool, number: int | None, timeout_s: float | None) -> Flow[Ranges]:
        _check_lane(lane)
        taken = self._session.take_number(number)
        request = Submit(taken, lane, (), wait, None, seq)
        reply = yield from self._flows.request_patiently(request, self._deadline(timeout_s))
        assert isinstance(reply, Accepted), reply
        return ((reply.first_seq, reply.tasks),)

    def cancel(self, seq: int) -> Flow[bool]:
        value = yield from self._answer(Cancel(self._session.take_number(), seq))
        return bool(value["caught"])

    def dead_drop(self, lane: str, seqs: Iterable[int]) -> Flow[int]:
        _check_lane(lane)
        value = yield from self._answer(DeadDrop(self._session.take_number(), lane, tuple(seqs)))
        return int(value["dropped"])

    # --- code and lanes -------------------------------------------------------------------------------

    def deploy(
        self, name: str, module: Path | str | bytes, *, kind: str, reuse: bool, exports: Mapping[str, str] | None,
        code_limits: Limits | None, lane: str, check: bool, number: int | None, timeout_s: float | None,
    ) -> Flow[dict[str, Any]]:  # fmt: skip
        _check_lane(lane)
        _check_name(name, "an agent")
        if kind not in CODE_KINDS or kind == MODEL:
            raise CodeError(f"kind {kind!r}: a module is an `agent` or a `function`; models go with deploy_model")
        data = module if isinstance(module, bytes) else _read(Path(module))
        if len(data) > limits.MODULE_BYTES_MAX:
            raise CodeError(f"the module has {len(data)} bytes, the limit is {limits.MODULE_BYTES_MAX}")
        code = Code(digests.digest(data), kind, reuse, tuple((exports or {}).items()), code_limits or Limits())
        return self._deploy(lane, name, code, data, check, number, timeout_s)

    def deploy_model(
        self, name: str, digest: bytes, *, code_limits: Limits | None, lane: str, check: bool, number: int | None,
        timeout_s: float | None,
    ) -> Flow[dict[str, Any]]:  # fmt: skip
        _check_lane(lane)
        name = name.removeprefix(MODEL_PREFIX)
        _check_name(name, "a model")
        if len(digest) != digests.DIGEST_BYTES:
            raise CodeError(
                f"a model's digest has {digests.DIGEST_BYTES} bytes, got {len(digest)}: `rota model show NAME`"
            )
        code = Code(digest, MODEL, limits=code_limits or Limits())
        return self._deploy(lane, MODEL_PREFIX + name, code, None, check, number, timeout_s)

    def open_lane(self, lane: str, settings: LaneSettings, *, paused: bool, deploys_from: str | None) -> Flow[Any]:
        _check_lane(lane)
        if deploys_from is not None:
            _check_lane(deploys_from)
        return self._answer(OpenLane(self._session.take_number(), lane, settings, paused, deploys_from))

    def set_paused(self, lane: str, paused: bool) -> Flow[Any]:
        _check_lane(lane)
        return self._answer(SetPaused(self._session.take_number(), lane, paused))

    def set_window(self, lane: str, window: int) -> Flow[Any]:
        _check_lane(lane)
        if not 0 < window <= limits.WINDOW_TASKS_MAX:
            raise LocalError(f"window {window} is not in 1..{limits.WINDOW_TASKS_MAX}")
        return self._answer(SetWindow(self._session.take_number(), lane, window))

    def drain(self, draining: bool) -> Flow[Any]:
        return self._answer(Drain(self._session.take_pair_number(), draining))

    # --- results and questions ------------------------------------------------------------------------

    def outcome(self, seq: int, timeout_s: float | None) -> Flow[Any]:
        return self._flows.outcome(seq, self._deadline_or_none(timeout_s))

    def outcomes(self, ranges: Ranges, timeout_s: float | None) -> Stream:
        return self._flows.outcomes(ranges, self._deadline_or_none(timeout_s))

    def results(self, first_seq: int, count: int, timeout_s: float | None) -> Stream:
        if first_seq < 1 or not 0 <= count <= RESULTS_HELD_MAX:
            raise BadPayload(
                f"results({first_seq}, {count}): numbers begin at 1, and at most {RESULTS_HELD_MAX} are held at once"
            )
        return self.outcomes(((first_seq, count),), timeout_s)

    def as_completed(self, ranges: Ranges, timeout_s: float | None) -> Stream:
        return self._flows.as_completed(ranges, self._deadline_or_none(timeout_s))

    def query(self, what: str, arguments: Mapping[str, Any]) -> Flow[Any]:
        given = {name: value for name, value in arguments.items() if value is not None}
        return self._flows.question(what, given, self._deadline(None))

    def wait_idle(
        self, lane: str, timeout_s: float | None, progress: Callable[[dict[str, Any]], None] | None
    ) -> Flow[dict[str, Any]]:
        """Look at the lane again and again, ever more slowly, until it has nothing left to do."""
        _check_lane(lane)
        deadline_ms = self._deadline_or_none(timeout_s)
        pause_ms = IDLE_POLL_MS
        while True:
            numbers = lane_numbers((yield from self.query("lanes", {})), lane)
            if progress is not None:
                progress(numbers)
            if is_idle(numbers):
                return numbers
            if deadline_ms is not None and now_ms() >= deadline_ms:
                raise TimeoutError(f"lane {lane} has still work to do; it goes on, ask again later")
            yield from self._flows.pause(now_ms() + pause_ms)
            pause_ms = min(2 * pause_ms, IDLE_POLL_MS_MAX)

    # --- inside ---------------------------------------------------------------------------------------

    def _answer(self, request: Any, deadline_ms: int | None = None) -> Generator[Turn, None, Any]:
        """Send a request and return what its answer says; {} where it was just accepted."""
        reply = yield from self._flows.request(request, deadline_ms or self._deadline(None))
        return reply.value if isinstance(reply, Answer) else {}

    def _deploy(
        self, lane: str, name: str, code: Code, module: bytes | None, check: bool, number: int | None,
        timeout_s: float | None,
    ) -> Flow[dict[str, Any]]:  # fmt: skip
        taken = self._session.take_number(number)
        # Compiling is bounded by its own limit; a client that gives up before would not learn what is wrong.
        extra_ms = limits.COMPILE_MS_MAX if check and timeout_s is None else 0
        try:
            request = Deploy(taken, lane, name, code, module, check)
            value: dict[str, Any] = yield from self._answer(request, self._deadline(timeout_s) + extra_ms)
        except TimeoutError:
            pool = "gpu" if code.kind == MODEL else "cpu"
            raise TimeoutError(
                f"no {pool} worker has looked at {name} in time: start one with `rota {pool}-worker`, "
                "or deploy without check"
            ) from None
        return value

    def _run(self, run: Run) -> TaskRun:
        check_targets(run.targets)
        check_priority(run.priority)
        payloads = list(run.payloads)
        targets = [run.targets] * len(payloads) if isinstance(run.targets, str) else list(run.targets)
        if len(targets) != len(payloads) or not payloads:
            raise BadPayload(f"a run with {len(targets)} targets and {len(payloads)} payloads: give one for each")
        packed = [self._core.payloads.pack(target, value) for target, value in zip(targets, payloads, strict=True)]
        return run_of(run.targets if isinstance(run.targets, str) else tuple(targets), packed, run.priority)

    def _deadline(self, timeout_s: float | None) -> int:
        if timeout_s is not None and timeout_s <= 0:
            raise ConfigError(f"timeout_s={timeout_s}: a request needs some time, give more than 0 seconds")
        return now_ms() + (self._core.timeout_ms if timeout_s is None else int(timeout_s * 1000))

    def _deadline_or_none(self, timeout_s: float | None) -> int | None:
        return None if timeout_s is None else now_ms() + int(timeout_s * 1000)


def lane_numbers(lanes: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return what is known of one lane, from the answer to the question `lanes`."""
    for numbers in lanes:
        if numbers["lane"] == name:
            return numbers
    raise UnknownLane(f"no lane {name!r}: `rota lanes` lists them, `rota lane open` opens one", lane=name)


def is_idle(numbers: Mapping[str, Any]) -> bool:
    """Say whether a lane has nothing to do now. Timers that wait for their time do not count."""
    return not numbers["waiting"] and not numbers["line"]


def _check_lane(lane: str) -> None:
    _check_name(lane, "a lane")


def _check_name(name: str, what: str) -> None:
    if not is_name(name):
        raise BadTarget(f"{name!r} cannot name {what}: use letters, digits, _ . - ({limits.NAME_CHARS_MAX} at most)")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CodeError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
