"""The worker's half of the conversation, as a state machine: events in, actions out, no socket and no clock."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rota.common import wire
from rota.common.assignments import FoldAssignment
from rota.common.limits import (
    HEARTBEAT_MS,
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
)
from rota.common.work import AGENT, Code, FoldResult
from rota.worker.session import (
    INTERRUPT_AGAIN_MS,
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
    SessionPhase,
    Started,
    StartJob,
    StopAsked,
    TextCame,
    Ticked,
    WorkerIdentity,
    WorkerSession,
)

IDENTITY = WorkerIdentity("cpu-1", "cpu", 8, 1 << 20, "here", 7, {"engine": "1"})
CODE = Code(bytes(32), AGENT)
SILENCE_MS = 3 * HEARTBEAT_MS


def assign(number: int) -> Assign:
    return Assign(number, bytes(32), (CODE,), (FoldAssignment(0, "a/b", None, ()),))


def completed(number: int) -> Completed:
    return Completed("cpu-1", number, (FoldResult((), None),), 5)


def register(boot: int, *holds: int) -> SendMessage:
    return SendMessage(IDENTITY.registration(boot, holds))


def started() -> WorkerSession:
    session = WorkerSession(IDENTITY)
    assert session.step(Started(), 0) == [Connect(), register(0)]
    return session


def serving(boot: int = 1) -> WorkerSession:
    session = started()
    assert session.step(Received(Registered(boot, HEARTBEAT_MS, ())), 0) == [Announce(boot, again=False)]
    return session


def test_work_is_run_and_reported() -> None:
    """Goal: an assignment and a preparation are each run and answered. Method: one of each, finished in order."""
    session = serving()
    prepare = Prepare(9, "a/b", CODE)
    prepared = Prepared("cpu-1", 9, True, {}, "")
    assert session.step(Received(assign(5)), 1) == [StartJob(1, assign(5))]
    assert session.step(Received(prepare), 1) == [StartJob(2, prepare)]
    assert session.step(Finished(1, completed(5)), 2) == [SendMessage(completed(5))]
    assert session.step(Finished(2, prepared), 3) == [SendMessage(prepared)]


def test_heartbeats_go_out_on_time() -> None:
    """Goal: a heartbeat per interval, at the pace the broker asks for. Method: ticks at the times it names itself."""
    session = started()
    session.step(Received(Registered(1, 100, ())), 0)
    assert session.next_tick_ms() == 100
    assert session.step(Ticked(), 99) == []
    assert session.step(Ticked(), 100) == [SendMessage(Heartbeat("cpu-1", 1))]
    assert session.step(Received(HeartbeatAck(1, known=True)), 101) == []
    assert session.next_tick_ms() == 200


def test_silent_broker_means_a_new_connection_that_names_what_is_held() -> None:
    """Goal: after three silent intervals all begins anew, work goes on. Method: hold two, one ends meanwhile."""
    session = serving()
    session.step(Received(assign(5)), 10)
    session.step(Received(assign(6)), 10)
    assert session.step(Ticked(), 10 + SILENCE_MS) == [Connect(), register(1, 5, 6)]
    assert session.step(Finished(1, completed(5)), 10 + SILENCE_MS) == []
    actions = session.step(Received(Registered(1, HEARTBEAT_MS, ())), 11 + SILENCE_MS)
    assert actions == [Announce(1, again=True), SendMessage(completed(5))]
    assert session.step(Finished(2, completed(6)), 12 + SILENCE_MS) == [SendMessage(completed(6))]


def test_unanswered_registration_is_repeated_on_a_new_connection() -> None:
    """Goal: a worker may come before its broker. Method: silence from the start."""
    session = started()
    assert session.next_tick_ms() == SILENCE_MS
    assert session.step(Ticked(), SILENCE_MS) == [Connect(), register(0)]
    assert session.step(Ticked(), 2 * SILENCE_MS) == [Connect(), register(0)]


def test_work_of_an_older_boot_is_dropped_and_never_reported() -> None:
    """Goal: a restarted broker gets nothing of its older boot. Method: notice it by a heartbeat's answer."""
    session = serving(boot=1)
    session.step(Received(assign(5)), 10)
    assert session.step(Received(HeartbeatAck(2, known=False)), 20) == [Drop(1), register(1)]
    assert session.step(Received(Registered(2, HEARTBEAT_MS, ())), 21) == [Announce(2, again=True)]
    assert session.step(Finished(1, completed(5)), 22) == []


def test_work_kept_for_a_lost_broker_is_not_reported_to_its_next_boot() -> None:
    """Goal: as above. Method: notice it only by the registration, with one report kept and one job running."""
    session = serving(boot=1)
    session.step(Received(assign(5)), 10)
    session.step(Received(assign(6)), 10)
    session.step(Ticked(), 10 + SILENCE_MS)
    session.step(Finished(1, completed(5)), 10 + SILENCE_MS)
    actions = session.step(Received(Registered(2, HEARTBEAT_MS, ())), 20 + SILENCE_MS)
    assert actions == [Drop(2), Announce(2, again=True)]
    assert session.step(Finished(2, completed(6)), 30 + SILENCE_MS) == []


def test_unknown_to_the_same_boot_registers_again_and_keeps_its_work() -> None:
    """Goal: a worker given up by mistake goes on. Method: the broker knows it no longer, and drops one of two."""
    session = serving()
    session.step(Received(assign(5)), 10)
    session.step(Received(assign(6)), 10)
    assert session.step(Received(HeartbeatAck(1, known=False)), 20) == [register(1, 5, 6)]
    actions = session.step(Received(Registered(1, HEARTBEAT_MS, (5,))), 21)
    assert actions == [Announce(1, again=True), Drop(1)]
    assert session.step(Finished(1, None), 22) == []
    assert session.step(Finished(2, completed(6)), 23) == [SendMessage(completed(6))]


def test_orders_that_the_broker_sent_before_it_forgot_us_are_ignored() -> None:
    """Goal: what is not in `holds` is dropped. Method: an assignment between registration and its answer."""
    session = serving()
    session.step(Received(HeartbeatAck(1, known=False)), 20)
    assert session.step(Received(assign(5)), 21) == []
    assert session.step(Received(Revoke(5)), 22) == []


def test_revoked_work_is_dropped_and_what_is_done_of_it_told() -> None:
    """Goal: a revocation drops, and what was finished by then is sent. Method: one that ran, one that had not begun."""
    session = serving()
    session.step(Received(assign(5)), 10)
    session.step(Received(assign(6)), 10)
    assert session.step(Received(Revoke(6)), 20) == [Drop(2)]
    assert session.step(Received(Revoke(5)), 20) == [Drop(1)]
    assert session.step(Finished(1, completed(5)), 21) == [SendMessage(completed(5))]
    assert session.step(Finished(2, None), 21) == []
    assert session.step(Received(Revoke(5)), 22) == []


def test_an_interrupt_is_repeated_until_the_work_ends() -> None:
    """Goal: an interrupt that fell between two folds is not lost. Method: ticks after a revocation."""
    session = serving()
    session.step(Received(assign(5)), 10)
    session.step(Received(Revoke(5)), 20)
    assert session.next_tick_ms() == 20 + INTERRUPT_AGAIN_MS
    assert session.step(Ticked(), 20 + INTERRUPT_AGAIN_MS) == [Drop(1)]
    session.step(Finished(1, completed(5)), 130)
    assert session.step(Ticked(), 20 + 2 * INTERRUPT_AGAIN_MS) == []


def test_drain_finishes_what_is_held_and_leaves() -> None:
    """Goal: a drained worker loses nothing. Method: one job held, one that crossed the farewell on its way."""
    session = serving()
    session.step(Received(assign(5)), 10)
    assert session.step(DrainAsked(), 20) == [SendMessage(Goodbye("cpu-1", draining=True))]
    assert session.step(Received(assign(6)), 21) == [StartJob(2, assign(6))]
    assert session.step(Finished(1, completed(5)), 30) == [SendMessage(completed(5))]
    last = session.step(Finished(2, completed(6)), 40)
    assert last == [SendMessage(completed(6)), SendMessage(Goodbye("cpu-1", draining=False)), Leave("drained")]
    assert session.phase is SessionPhase.LEFT
    assert session.step(Ticked(), 10**9) == []


def test_drain_with_nothing_held_leaves_at_once() -> None:
    """Goal: an idle worker does not wait. Method: drain while serving, and before any broker was there."""
    goodbyes = [SendMessage(Goodbye("cpu-1", draining=True)), SendMessage(Goodbye("cpu-1", draining=False))]
    assert serving().step(DrainAsked(), 5) == [*goodbyes, Leave("drained")]
    assert started().step(DrainAsked(), 5) == [Leave("drained")]


def test_drain_is_said_again_to_a_broker_that_forgot_it() -> None:
    """Goal: a restarted broker does not give work to a draining worker. Method: lose it while draining."""
    session = serving()
    session.step(Received(assign(5)), 10)
    session.step(DrainAsked(), 20)
    session.step(Received(HeartbeatAck(1, known=False)), 30)
    actions = session.step(Received(Registered(1, HEARTBEAT_MS, ())), 31)
    assert actions == [Announce(1, again=True), SendMessage(Goodbye("cpu-1", draining=True))]


def test_drain_without_a_broker_does_not_wait_for_one_forever() -> None:
    """Goal: the process ends although its last report cannot be sent. Method: the broker is silent for good."""
    session = serving()
    session.step(Received(assign(5)), 0)
    session.step(DrainAsked(), 10)
    assert session.step(Ticked(), SILENCE_MS) == [Connect(), register(1, 5)]
    assert session.step(Finished(1, completed(5)), SILENCE_MS + 1) == []
    actions = session.step(Ticked(), 2 * SILENCE_MS)
    assert actions == [SendMessage(Goodbye("cpu-1", draining=False)), Leave("drained")]


def test_stop_drops_everything_and_leaves() -> None:
    """Goal: the second signal waits for nothing. Method: stop with work held."""
    session = serving()
    session.step(Received(assign(5)), 10)
    actions = session.step(StopAsked(), 20)
    assert actions == [Drop(1), SendMessage(Goodbye("cpu-1", draining=False)), Leave("stopped")]


def test_refusal_ends_the_conversation() -> None:
    """Goal: a worker that is not wanted does not try again. Method: the broker refuses the registration."""
    actions = started().step(Received(Refused(0, "version", "install the same rota on both", {})), 5)
    assert actions == [Leave("refused", "install the same rota on both (code version)")]


# --- what holds a worker up ---------------------------------------------------------------------------


def beat(stuck: tuple[int, ...] = (), *preparing: Preparation) -> SendMessage:
    return SendMessage(Heartbeat("cpu-1", 1, stuck, preparing))


def test_a_job_that_does_not_stop_is_said_and_answered_at_once() -> None:
    """Goal: the broker learns that this worker takes nothing before it gets the outcome, and that it is free again
    before it gets more. Method: a job that overruns, and ends later.
    """
    session = serving()
    session.step(Received(assign(5)), 10)
    assert session.step(Overran(1, completed(5)), 20) == [beat((5,)), SendMessage(completed(5))]
    assert session.step(Overran(1, completed(5)), 30) == [beat((5,))], "it is answered once"
    assert session.step(Ticked(), 30 + HEARTBEAT_MS) == [beat((5,))]
    assert session.step(Finished(1, completed(5)), 2_000) == [beat()]


def test_an_answered_job_is_not_held_any_more() -> None:
    """Goal: after a reconnect its tasks are not counted twice. Method: overrun, then be forgotten."""
    session = serving()
    session.step(Received(assign(5)), 10)
    session.step(Overran(1, completed(5)), 20)
    assert session.step(Received(HeartbeatAck(1, known=False)), 30) == [register(1)]
    actions = session.step(Received(Registered(1, HEARTBEAT_MS, ())), 31)
    assert actions == [Announce(1, again=True), beat((5,))]


def test_a_job_that_nobody_wants_and_that_does_not_stop_is_said() -> None:
    """Goal: a revoked task can hold a worker up too. Method: revoke, and hear that it does not stop."""
    session = serving()
    session.step(Received(assign(5)), 10)
    assert session.step(Received(Revoke(5)), 20) == [Drop(1)]
    assert session.step(Overran(1, None), 600) == [beat((5,))]
    assert session.step(Finished(1, completed(5)), 900) == [beat(), SendMessage(completed(5))]


def test_a_worker_that_stays_stuck_goes() -> None:
    """Goal: an executor that never comes back does not hold a worker for ever. Method: nothing ends for a minute; and
    the broker sends one away that did not say so.
    """
    session = serving()
    session.step(Received(assign(5)), 0)
    session.step(Overran(1, completed(5)), 0)
    now_ms = 0
    while session.phase is SessionPhase.SERVING:
        assert session.next_tick_ms() > now_ms
        now_ms = session.next_tick_ms()
        session.step(Received(HeartbeatAck(1, known=True)), now_ms)
        actions = session.step(Ticked(), now_ms)
    assert now_ms == STUCK_MS_MAX
    assert isinstance(actions[-1], Leave)
    assert actions[-1].why == "stuck"
    left = serving().step(Received(Refused(0, "stuck", "too slow", {})), 5)
    assert left == [SendMessage(Goodbye("cpu-1", draining=False)), Leave("stuck", "too slow (code stuck)")]


def test_a_drained_worker_does_not_wait_for_what_it_has_answered() -> None:
    """Goal: TERM ends a worker that is stuck. Method: overrun, then drain."""
    session = serving()
    session.step(Received(assign(5)), 0)
    session.step(Overran(1, completed(5)), 10)
    assert session.step(DrainAsked(), 20)[-1] == Leave("drained")


def test_what_is_prepared_is_said_when_it_changes_and_with_every_heartbeat() -> None:
    """Goal: compiling can be seen, and since when. Method: an assignment and a Prepare that
    wait, then one, then none.
    """
    session = serving()
    session.step(Received(assign(5)), 0)
    session.step(Received(Prepare(9, "c", CODE)), 0)
    both = (Preparation(5, "a/b", 0), Preparation(0, "c", 0))
    assert session.step(Prepares(((1, "a/b"), (2, "c"))), 10) == [beat((), *both)]
    later = (Preparation(5, "a/b", HEARTBEAT_MS), Preparation(0, "c", HEARTBEAT_MS))
    assert session.step(Ticked(), 10 + HEARTBEAT_MS) == [beat((), *later)]
    assert session.step(Prepares(((1, "a/b"),)), 1_510) == [beat((), Preparation(5, "a/b", 1_500))]
    assert session.step(Prepares(()), 1_600) == [beat()]


class Conversation(RuleBasedStateMachine):
    """A broker that restarts, forgets and falls silent at random, and the invariants."""

    def __init__(self) -> None:
        super().__init__()
        self.session = WorkerSession(IDENTITY)
        self.now_ms = 0
        self.boot = 1
        self.next_assignment = 1
        self.registered = False
        self.executing: dict[int, Assign] = {}
        self.stuck: dict[int, None] = {}
        self.left_stuck = False
        self.boot_of: dict[int, int] = {}
        self.unreported: list[int] = []
        self.feed(Started())

    def feed(self, event: object) -> list[Action]:
        actions = self.session.step(event, self.now_ms)  # type: ignore[arg-type]
        for action in actions:
            match action:
                case StartJob(job, order):
                    assert isinstance(order, Assign)
                    self.executing[job] = order
                case Drop(job):
                    assert job in self.executing, "only what the executor has can be dropped"
                case Leave(why):
                    self.left_stuck = why == "stuck"
                case Connect():
                    self.registered = False
                case SendMessage(Register(boot=boot, holds=holds)):
                    self.registered = False
                    assert all(self.boot_of[number] == boot for number in holds)
                    assert len(set(holds)) == len(holds)
                case SendMessage(Completed(assignment=number)):
                    assert self.registered, "reports go only to a broker that knows us"
                    assert self.boot_of[number] == self.boot, "work of an older boot is never reported"
                    self.unreported.remove(number)
        return actions

    @rule(steps_ms=st.sampled_from([1, 60, 500, SILENCE_MS]))
    def time_passes(self, steps_ms: int) -> None:
        self.now_ms += steps_ms
        self.feed(Ticked())
        assert self.session.phase is SessionPhase.LEFT or self.session.next_tick_ms() > self.now_ms

    @precondition(lambda self: not self.registered)
    @rule(drops=st.booleans())
    def broker_registers(self, drops: bool) -> None:
        self.registered = True
        dropped = tuple(number for number in self.boot_of if drops and number % 2)
        self.feed(Received(Registered(self.boot, HEARTBEAT_MS, dropped)))

    @precondition(lambda self: self.registered)
    @rule()
    def broker_assigns(self) -> None:
        number, self.next_assignment = self.next_assignment, self.next_assignment + 1
        self.boot_of[number] = self.boot
        self.unreported.append(number)
        self.feed(Received(assign(number)))

    @precondition(lambda self: self.registered and self.boot_of)
    @rule(data=st.data())
    def broker_revokes(self, data: st.DataObject) -> None:
        self.feed(Received(Revoke(data.draw(st.sampled_from(sorted(self.boot_of))))))

    @rule()
    def broker_restarts(self) -> None:
        self.boot += 1
        self.registered = False
        self.feed(Received(HeartbeatAck(self.boot, known=False)))

    @precondition(lambda self: self.executing)
    @rule()
    def executor_finishes(self) -> None:
        job = next(iter(self.executing))
        order = self.executing.pop(job)
        self.feed(Finished(job, completed(order.assignment)))

    @precondition(lambda self: self.executing)
    @rule(wanted=st.booleans())
    def executor_sticks(self, wanted: bool) -> None:
        job, order = next(iter(self.executing.items()))
        self.stuck[job] = None
        self.feed(Overran(job, completed(order.assignment) if wanted else None))

    @rule()
    def drain_is_asked(self) -> None:
        self.feed(DrainAsked())

    @invariant()
    def nothing_is_left_behind(self) -> None:
        if self.session.phase is SessionPhase.LEFT:
            running = [job for job in self.executing if job not in self.stuck]
            assert self.left_stuck or not running, "a drained worker runs nothing any more"


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# --- text and numbers ---------------------------------------------------------------------------------------------


def pieces_of(action: Any) -> list[tuple[int, int, int, str]]:
    assert isinstance(action, SendMessage)
    assert isinstance(action.message, Streamed)
    return [tuple(piece) for piece in action.message.pieces]


def test_text_goes_out_under_its_assignment() -> None:
    """Goal: the broker gets what running tasks generate, in one message. Method: pieces of two jobs."""
    session = serving()
    session.step(Received(assign(5)), 1)
    session.step(Received(assign(6)), 1)
    (sent,) = session.step(TextCame(((1, 1, 0, "one"), (2, 4, 7, "two"))), 2)
    assert pieces_of(sent) == [(5, 1, 0, "one"), (6, 4, 7, "two")]


def test_text_that_nobody_waits_for_is_not_sent() -> None:
    """Goal: no text of work that is not wanted any more. Method: of a job that has ended, one that was revoked,
    one of an older boot, and any while the broker is away.
    """
    session = serving()
    for number in (5, 6):
        session.step(Received(assign(number)), 1)
    session.step(Finished(1, completed(5)), 2)
    session.step(Received(Revoke(6)), 2)
    assert session.step(TextCame(((1, 1, 0, "ended"), (2, 1, 0, "revoked"))), 3) == []
    session.step(Received(assign(7)), 4)
    session.step(Ticked(), 4 + SILENCE_MS)
    assert session.step(TextCame(((3, 1, 0, "away"),)), 5 + SILENCE_MS) == []
    session.step(Received(Registered(2, HEARTBEAT_MS, ())), 6 + SILENCE_MS)
    assert session.step(TextCame(((3, 1, 0, "of another boot"),)), 7 + SILENCE_MS) == []


def test_long_text_is_cut_to_the_bounds_of_a_message() -> None:
    """Goal: whatever a model generates is a valid message. Method: a text longer than a piece, and more pieces than
    fit; the pieces joined are the text.
    """
    session = serving()
    session.step(Received(assign(5)), 1)
    text = "x" * (STREAM_PIECE_CHARS_MAX * STREAM_PIECES_MAX) + "yz"
    sent = session.step(TextCame(((1, 1, 3, text),)), 2)
    assert [len(pieces_of(one)) for one in sent] == [STREAM_PIECES_MAX, 1]
    joined = ""
    for _, _, offset, piece in [piece for one in sent for piece in pieces_of(one)]:
        assert offset == 3 + len(joined)
        joined += piece
    assert joined == text
    for one in sent:
        assert isinstance(one, SendMessage)
        wire.decode(wire.encode(one.message), wire.FROM_WORKERS)


def test_numbers_of_models_go_with_the_next_heartbeat() -> None:
    """Goal: counters cost no messages of their own, and are bounded. Method: more models than are shown; a tick."""
    session = serving()
    numbers = ModelNumbers("model:m@1", bytes(32), "cpu", "", "A", 7, 1, 2, 3, 4, 5)
    assert session.step(ModelsCounted((numbers,) * 100), 1) == []
    (beat,) = session.step(Ticked(), HEARTBEAT_MS)
    assert beat == SendMessage(Heartbeat("cpu-1", 1, (), (), (numbers,) * MODELS_SHOWN_MAX))
