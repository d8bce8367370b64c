"""A worker's half of the backend conversation: register, send heartbeats, take work, return results. PURE.

The only entry, `step(event, now_ms)`, returns the actions to carry out, in order. It decides what is sent; sockets,
clock and executor are in loop.py. Every `StartJob` is answered by one `Finished`, also after a `Drop`.

    Registering ──Registered──▶ Serving         both: broker silent for 3 heartbeats ──▶ Connect, Registering
    Serving ──HeartbeatAck of another boot, or not known──▶ Registering
    both ──DrainAsked, and no work left──▶ Left                  both ──StopAsked, Refused──▶ Left
    both ──an executor stuck in a job for STUCK_MS_MAX──▶ Left

Work belongs to the boot of the broker that gave it. A restarted broker may have other content under the same turns, so
work from an older boot is dropped and never reported; the new broker dispatches it again. With the conversation, change
messages.py and docs/PROTOCOL.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, NamedTuple

from rota.common.errors import WorkerStuck
from rota.common.limits import (
    ASSIGNMENTS_PER_WORKER,
    HEARTBEAT_MS,
    HEARTBEATS_MISSED_MAX,
    MODELS_SHOWN_MAX,
    STREAM_PIECE_CHARS_MAX,
    STREAM_PIECES_MAX,
    STUCK_MS_MAX,
)
from rota.common.messages import (
    Assign,
    Completed,
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    ModelNumbers,
    Preparation,
    Prepare,
    Prepared,
    Refused,
    Register,
    Registered,
    Revoke,
    Streamed,
    StreamedPiece,
    WorkerMessage,
    WorkerOrder,
)

# An interrupt is lost if it comes between two folds, so it is repeated until the job ends.
INTERRUPT_AGAIN_MS: Final = 100


class WorkerIdentity(NamedTuple):
    """The worker's facts for `Register`."""

    worker: str
    pool: Literal["cpu", "gpu"]
    slots: int
    bytes_max: int
    host: str
    pid: int
    fingerprint: dict[str, Any]
    assignments_max: int = ASSIGNMENTS_PER_WORKER

    def registration(self, boot: int, holds: tuple[int, ...]) -> Register:
        """Return the message that registers it."""
        facts = (self.worker, self.pool, self.slots, self.bytes_max, self.host, self.pid, self.fingerprint)
        return Register(*facts, boot, holds, self.assignments_max)


# --- events ---------------------------------------------------------------------------------------


class Started(NamedTuple):
    """The executor is ready: look for a broker."""


class Received(NamedTuple):
    """A message came from the broker."""

    message: WorkerOrder


class Finished(NamedTuple):
    """The executor has ended a job. `report` is None if it was dropped before it began."""

    job: int
    report: Completed | Prepared | None


class Overran(NamedTuple):
    """The executor is stuck in a job. `report`: the answer to send meanwhile, if any."""

    job: int
    report: Completed | None


class Prepares(NamedTuple):
    """Everything that the executor is compiling or loading: the waiting jobs, each with an address."""

    pending: tuple[tuple[int, str], ...]


class TextCame(NamedTuple):
    """Running tasks have generated text: the job, turn, offset in characters and text of each piece."""

    pieces: tuple[tuple[int, int, int, str], ...]


class ModelsCounted(NamedTuple):
    """The numbers of the loaded models have changed."""

    models: tuple[ModelNumbers, ...]


class DrainAsked(NamedTuple):
    """The first signal: accept no more work, finish what is held, leave."""


class StopAsked(NamedTuple):
    """The second signal: leave at once."""


class Ticked(NamedTuple):
    """Time has passed. Feed all received messages first, so that a slow worker does not take the broker for silent."""


Event = Started | Received | Finished | Overran | Prepares | TextCame | ModelsCounted | DrainAsked | StopAsked | Ticked

# --- actions --------------------------------------------------------------------------------------


class Connect(NamedTuple):
    """Close the socket, if any, with its unsent messages, and open a new one."""


class SendMessage(NamedTuple):
    """Send this to the broker."""

    message: WorkerMessage


class StartJob(NamedTuple):
    """Give this to the executor, after earlier jobs."""

    job: int
    order: Assign | Prepare


class Drop(NamedTuple):
    """Remove the job if it has not begun, interrupt it if it runs. May be repeated for a job."""

    job: int


class Announce(NamedTuple):
    """The worker is registered, for the first time or again after a loss."""

    boot: int
    again: bool


Why = Literal["drained", "stopped", "refused", "stuck"]


class Leave(NamedTuple):
    """The conversation is over: flush the socket and end the process."""

    why: Why
    message: str = ""


Action = Connect | SendMessage | StartJob | Drop | Announce | Leave


class SessionPhase(Enum):
    """The phase of the conversation."""

    REGISTERING = "registering"
    SERVING = "serving"
    LEFT = "left"


@dataclass(slots=True)
class _HeldJob:
    """An assignment or preparation that the executor has, or whose report waits for the next registration."""

    order: Assign | Prepare
    boot: int
    begun_dropping_ms: int | None = None
    report_anyway: bool = False  # revoked by the boot that gave it: what is done may still be reported
    report: Completed | Prepared | None = None
    stuck_from_ms: int | None = None  # since when the executor is stuck in it
    is_answered: bool = False  # the report was sent before it ended


class WorkerSession:
    """The state of the conversation. `phase` and `boot` may be read; only `step` changes it."""

    def __init__(self, identity: WorkerIdentity) -> None:
        self.phase = SessionPhase.REGISTERING
        self.boot = 0
        self._identity = identity
        self._heartbeat_ms = HEARTBEAT_MS
        self._jobs: dict[int, _HeldJob] = {}
        self._next_job = 1
        self._heard_ms = 0
        self._beat_ms = 0
        self._draining = False
        self._preparing: dict[tuple[int, str], int] = {}  # (job, address) -> since when
        self._models: tuple[ModelNumbers, ...] = ()

    def step(self, event: Event, now_ms: int) -> list[Action]:
        """Take an event and return what to do, in order."""
        if self.phase is SessionPhase.LEFT:
            return []
        match event:
            case Received(message):
                return self._receive(message, now_ms)
            case Finished(job, report):
                return self._finish(job, report, now_ms)
            case Overran(job, report):
                return self._overran(job, report, now_ms)
            case Prepares(pending):
                return self._prepares(pending, now_ms)
            case TextCame(pieces):
                return self._stream(pieces)
            case ModelsCounted(models):
                self._models = models[:MODELS_SHOWN_MAX]
                return []
            case Ticked():
                return self._tick(now_ms)
            case Started():
                return self._connect(now_ms)
            case DrainAsked():
                return self._drain()
            case StopAsked():
                drops = self._drop_all(now_ms)
                return [*drops, *self._leave("stopped")]

    def next_tick_ms(self) -> int:
        """Return when `Ticked` is due at the latest."""
        due = self._heard_ms + self._silence_ms_max()
        if self.phase is SessionPhase.SERVING:
            due = min(due, self._beat_ms + self._heartbeat_ms)
        dropping = [job.begun_dropping_ms for job in self._jobs.values() if job.begun_dropping_ms is not None]
        stuck = [job.stuck_from_ms for job in self._jobs.values() if job.stuck_from_ms is not None]
        return min(
            [
                due,
                *(begun_ms + INTERRUPT_AGAIN_MS for begun_ms in dropping),
                *(from_ms + STUCK_MS_MAX for from_ms in stuck),
            ]
        )

    # --- messages of the broker ---

    def _receive(self, message: WorkerOrder, now_ms: int) -> list[Action]:
        self._heard_ms = now_ms
        match message:
            case Registered():
                return self._registered(message, now_ms)
            case Refused(_, code, text, _):
                why: Why = "stuck" if code == WorkerStuck.code else "refused"
                return [*self._drop_all(now_ms), *self._leave(why, f"{text} (code {code})")]
            case _ if self.phase is not SessionPhase.SERVING:
                return []  # sent before the broker dropped us; what we do not list as held counts as lost
            case Assign() | Prepare():
                return self._accept(message)
            case Revoke(assignment):
                return self._revoke(assignment, now_ms)
            case HeartbeatAck(boot, known):
                return self._heartbeat_ack(boot, known, now_ms)

    def _registered(self, message: Registered, now_ms: int) -> list[Action]:
        actions = self._drop_older_than(message.boot, now_ms)
        again, self.boot = self.boot != 0, message.boot
        self._heartbeat_ms = message.heartbeat_ms
        self.phase = SessionPhase.SERVING
        self._beat_ms = now_ms
        actions.append(Announce(message.boot, again))
        if self._draining:
            actions.append(SendMessage(Goodbye(self._identity.worker, draining=True)))
        if self._preparing or any(job.stuck_from_ms is not None for job in self._jobs.values()):
            actions.append(self._heartbeat(now_ms))
        dropped = dict.fromkeys(message.dropped)
        for number, job in list(self._jobs.items()):
            if isinstance(job.order, Assign) and job.order.assignment in dropped:
                actions += self._drop(number, job, now_ms)
            elif job.report is not None:
                del self._jobs[number]
                actions.append(SendMessage(job.report))
        return actions + self._leave_if_drained()

    def _accept(self, order: Assign | Prepare) -> list[Action]:
        # Also while draining: the broker sent it before it knew, and relies on it.
        number = self._next_job
        self._next_job += 1
        self._jobs[number] = _HeldJob(order, self.boot)
        return [StartJob(number, order)]

    def _revoke(self, assignment: int, now_ms: int) -> list[Action]:
        for number, job in list(self._jobs.items()):
            if isinstance(job.order, Assign) and job.order.assignment == assignment:
                job.report_anyway = True
                return self._drop(number, job, now_ms)
        return []  # its report and the revocation crossed

    def _heartbeat_ack(self, boot: int, known: bool, now_ms: int) -> list[Action]:
        if known and boot == self.boot:
            return []
        actions = self._drop_older_than(boot, now_ms)
        return actions + self._register()

    # --- ends of jobs ---

    def _finish(self, number: int, report: Completed | Prepared | None, now_ms: int) -> list[Action]:
        job = self._jobs[number]
        if job.stuck_from_ms is not None:
            job.stuck_from_ms = None
            freed = self._say_state(now_ms)
            return freed + self._finish(number, None if job.is_answered else report, now_ms)
        dropped = job.begun_dropping_ms is not None
        if dropped and not (job.report_anyway and job.boot == self.boot and self.phase is SessionPhase.SERVING):
            report = None
        if report is not None and self.phase is not SessionPhase.SERVING:
            job.report = report
            return []
        del self._jobs[number]
        sent: list[Action] = [SendMessage(report)] if report is not None else []
        return sent + self._leave_if_drained()

    def _overran(self, number: int, report: Completed | None, now_ms: int) -> list[Action]:
        job = self._jobs.get(number)
        if job is None:
            return []
        if job.stuck_from_ms is None:
            job.stuck_from_ms = now_ms
        actions = self._say_state(now_ms)
        is_wanted = not job.is_answered and job.begun_dropping_ms is None
        if report is not None and is_wanted and self.phase is SessionPhase.SERVING:
            job.is_answered = True
            actions.append(SendMessage(report))
        return actions + self._leave_if_drained()

    def _prepares(self, pending: tuple[tuple[int, str], ...], now_ms: int) -> list[Action]:
        self._preparing = {one: self._preparing.get(one, now_ms) for one in pending if one[0] in self._jobs}
        return self._say_state(now_ms)

    def _say_state(self, now_ms: int) -> list[Action]:
        """Send a heartbeat at once, since what delays this worker has changed."""
        return [self._heartbeat(now_ms)] if self.phase is SessionPhase.SERVING else []

    def _heartbeat(self, now_ms: int) -> SendMessage:
        self._beat_ms = now_ms
        stuck = tuple([_assignment(job) for job in self._jobs.values() if job.stuck_from_ms is not None])
        preparing = [
            Preparation(_assignment(self._jobs[number]), address, now_ms - from_ms)
            for (number, address), from_ms in self._preparing.items()
            if number in self._jobs and self._jobs[number].boot == self.boot
        ]
        return SendMessage(Heartbeat(self._identity.worker, self.boot, stuck, tuple(preparing), self._models))

    def _stream(self, generated: tuple[tuple[int, int, int, str], ...]) -> list[Action]:
        """Send what running tasks of this boot have generated; that of others is dropped, since nobody waits for it."""
        if self.phase is not SessionPhase.SERVING:
            return []
        pieces: list[StreamedPiece] = []
        for number, turn, offset, text in generated:
            job = self._jobs.get(number)
            if job is None or job.boot != self.boot or job.begun_dropping_ms is not None or job.is_answered:
                continue
            for start in range(0, len(text), STREAM_PIECE_CHARS_MAX):
                part = text[start : start + STREAM_PIECE_CHARS_MAX]
                pieces.append(StreamedPiece(_assignment(job), turn, offset + start, part))
        return [
            SendMessage(Streamed(self._identity.worker, tuple(pieces[start : start + STREAM_PIECES_MAX])))
            for start in range(0, len(pieces), STREAM_PIECES_MAX)
        ]

    def _drop(self, number: int, job: _HeldJob, now_ms: int) -> list[Action]:
        if job.report is not None:  # it has ended, only the report was kept
            del self._jobs[number]
            return []
        if job.begun_dropping_ms is not None:
            return []  # `_tick` repeats it later
        job.begun_dropping_ms = now_ms
        return [Drop(number)]

    def _drop_older_than(self, boot: int, now_ms: int) -> list[Action]:
        actions: list[Action] = []
        for number, job in list(self._jobs.items()):
            if job.boot != boot:
                job.report_anyway = False
                actions += self._drop(number, job, now_ms)
        return actions

    def _drop_all(self, now_ms: int) -> list[Action]:
        return self._drop_older_than(-1, now_ms)

    # --- time ----------

    def _tick(self, now_ms: int) -> list[Action]:
        actions: list[Action] = []
        for number, job in self._jobs.items():
            if job.begun_dropping_ms is not None and now_ms >= job.begun_dropping_ms + INTERRUPT_AGAIN_MS:
                job.begun_dropping_ms = now_ms
                actions.append(Drop(number))
        if now_ms >= self._heard_ms + self._silence_ms_max():
            if self._draining and all(job.report is not None or job.is_answered for job in self._jobs.values()):
                return actions + self._leave("drained")  # unreported work will run elsewhere
            return actions + self._connect(now_ms)
        for job in self._jobs.values():
            if job.stuck_from_ms is not None and now_ms >= job.stuck_from_ms + STUCK_MS_MAX:
                text = f"the executor does not come out of assignment {_assignment(job)} for {STUCK_MS_MAX} ms"
                return actions + self._leave("stuck", text)
        if self.phase is SessionPhase.SERVING and now_ms >= self._beat_ms + self._heartbeat_ms:
            actions.append(self._heartbeat(now_ms))
        return actions

    def _silence_ms_max(self) -> int:
        return self._heartbeat_ms * HEARTBEATS_MISSED_MAX

    # --- joining and leaving ---

    def _connect(self, now_ms: int) -> list[Action]:
        self._heard_ms = now_ms
        return [Connect(), *self._register()]

    def _register(self) -> list[Action]:
        self.phase = SessionPhase.REGISTERING
        held = [
            job
            for job in self._jobs.values()
            if job.boot == self.boot and job.begun_dropping_ms is None and not job.is_answered
        ]
        holds = tuple([job.order.assignment for job in held if isinstance(job.order, Assign)])
        return [SendMessage(self._identity.registration(self.boot, holds))]

    def _drain(self) -> list[Action]:
        if self._draining:
            return []
        self._draining = True
        serving = self.phase is SessionPhase.SERVING
        goodbye: list[Action] = [SendMessage(Goodbye(self._identity.worker, draining=True))] if serving else []
        return goodbye + self._leave_if_drained()

    def _leave_if_drained(self) -> list[Action]:
        done = all(job.is_answered for job in self._jobs.values())
        return self._leave("drained") if self._draining and done else []

    def _leave(self, why: Why, message: str = "") -> list[Action]:
        self.phase = SessionPhase.LEFT
        known = self.boot != 0 and why != "refused"
        goodbye: list[Action] = [SendMessage(Goodbye(self._identity.worker, draining=False))] if known else []
        return [*goodbye, Leave(why, message)]


def _assignment(job: _HeldJob) -> int:
    """Return the broker's number of a job; 0 for a Prepare."""
    return job.order.assignment if isinstance(job.order, Assign) else 0
