"""Fuzz targets: frames of every socket, and the core and both sessions with any valid messages.

A frame is a message or a `ProtocolError`; the broker's refusal must itself be a message. A valid message can still make
no sense: the core and the sessions accept them in any order and stay consistent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import scripted
from _fuzz_engine import Check, Target
from _fuzz_mutators import mutate_msgpack
from core_kit import Broker
from hypothesis import strategies as st
from wire_strategies import MESSAGES

from rota.broker.effects import FromProducer, FromQuery, FromWorker
from rota.client.session import Session
from rota.common import limits, messages, wire, work
from rota.common.errors import ProtocolError
from rota.common.messages import Await, Cancel, Hello, LaneSettings, OpenLane, Query, SetPaused, Submit, TaskRun
from rota.worker.loop import folds_of
from rota.worker.session import Finished, Received, Started, StartJob, Ticked, WorkerIdentity, WorkerSession

SOCKETS = {
    "frontend-in": wire.FROM_PRODUCERS,
    "frontend-out": wire.TO_PRODUCERS,
    "backend-in": wire.FROM_WORKERS,
    "backend-out": wire.TO_WORKERS,
    "query-in": wire.QUERIES,
    "events-out": frozenset({messages.Event}),
}
REFUSAL_BYTES_MAX = 4_096  # of the refusal of a bad frame, however large that was


def frames_of(classes: frozenset[type]) -> st.SearchStrategy[bytes]:
    """Frames of messages that belong on one socket."""
    rows = [row for cls, row in MESSAGES.items() if cls in classes]
    return st.one_of(*rows).map(wire.encode)


def check_frame(allowed: frozenset[type], frame: bytes) -> bool:
    """Decode as the owner of a socket does; an accepted message, encoded and decoded again, is the same."""
    number = wire.request_number(frame)
    assert 0 <= number <= limits.NOW_MS_MAX
    try:
        message = wire.decode(frame, allowed)
    except ProtocolError as error:
        refusal = wire.encode(messages.Refused(number, error.code, error.message, error.fields))
        assert len(refusal) < REFUSAL_BYTES_MAX, f"a refusal of {len(refusal)} bytes"
        assert wire.decode(refusal, wire.TO_PRODUCERS)
        return False
    assert type(message) in allowed
    again = wire.encode(message)
    back = wire.decode(again, allowed)
    assert repr(back) == repr(message)  # not ==: a nan in a map is not equal to itself
    assert wire.encode(back) == again
    return True


def frame_target(name: str, allowed: frozenset[type]) -> Target:
    return Target(
        f"frame-{name}",
        frames_of(allowed),
        mutate_msgpack,
        lambda _: lambda frame: check_frame(allowed, frame),
        bases=25,
    )


# --- the core -----------------------------------------------------------------------------------------------------

Action = tuple[str, Any]

_LANE = st.sampled_from(("main", "main", "side", "nowhere"))
_NUMBER = st.integers(0, 6)
_ADDRESS = st.sampled_from(("counter/a", "counter/b", "counter", "ghost/g", "model:net", "flow", "flow/~1", "flow/~4"))
_PROGRAM = st.sampled_from(
    (
        scripted.program(),
        scripted.program(["add", 1]),
        scripted.program(["tell", "counter/b", [["add", 2]]], ["ask", "ghost/g", []]),
        scripted.program(["timer", 5, []], ["fail", "no"]),
        scripted.program(["spawn", 3, "counter/a"]),
        scripted.program(["postpone"]),
        scripted.program(["settle", -1, 4], ["settle_failure", -2, "later"]),
        scripted.program(["hand_on", 0, "counter/b", [["postpone"]], 0, 900]),
        scripted.program(["await", [["ask", "counter/a", [["postpone"]], 0, 900], ["timer", 5, []]], 2], ["add", 1]),
        scripted.program(["await", [["ask", "flow", [["await", [["ask", "ghost", []]], 1]]]], 1]),
        b"",
    )
)
_RUN = st.builds(TaskRun.of, _ADDRESS, st.sampled_from((-1, 0, 0, 5)),
                 st.lists(_PROGRAM, min_size=1, max_size=3).map(tuple), st.none())  # fmt: skip
_REQUESTS = st.one_of(
    st.builds(Submit, _NUMBER, _LANE, st.lists(_RUN, max_size=2).map(tuple), st.booleans(), st.none(), st.none(),
              st.sampled_from(work.SUBMIT_KINDS), st.sampled_from((0, 0, 900))),
    st.builds(Submit, _NUMBER, _LANE, st.just(()), st.booleans(), st.none(), st.integers(0, 9),
              st.sampled_from(work.SUBMIT_KINDS), st.sampled_from((0, 900))),
    st.builds(messages.Deploy, _NUMBER, _LANE, st.sampled_from(("counter", "other", "model:net", "flow")),
              st.sampled_from((scripted.COUNTER, scripted.FUNCTION_CODE, scripted.MODEL_CODE, scripted.SOURCE_CODE,
                               scripted.FLOW, scripted.SOURCE_FLOW)),
              st.booleans()),
    st.builds(messages.Keep, _NUMBER, st.just(bytes(32)), st.just(b"")),
    st.builds(Cancel, _NUMBER, st.integers(0, 9)),
    st.builds(Await, _NUMBER, st.integers(1, 9), st.integers(1, 9)),
    st.builds(SetPaused, _NUMBER, _LANE, st.booleans()),
    st.builds(messages.SetWindow, _NUMBER, _LANE, st.integers(1, 3)),
    st.builds(messages.DeadDrop, _NUMBER, _LANE, st.lists(st.integers(0, 9), max_size=2).map(tuple)),
    st.builds(OpenLane, _NUMBER, st.just("side"), st.sampled_from((LaneSettings(), LaneSettings("recorded", 2))),
              st.booleans(), st.sampled_from((None, "main", "nowhere"))),
    st.builds(messages.Drain, _NUMBER, st.booleans()),
    st.builds(Hello, _NUMBER, st.sampled_from(("p", "", "x" * 64))),
)  # fmt: skip
_WORKER = st.sampled_from(("w1", "w2", "w3"))
_WORKER_WORDS = st.one_of(
    st.builds(messages.Register, _WORKER, st.sampled_from(("cpu", "gpu")), st.integers(1, 4),
              st.sampled_from((0, 1 << 20)), st.just("here"), st.integers(0, 3),
              st.sampled_from(({"engine": "scripted"}, {"profile": "odd"}, {})), st.integers(0, 3),
              st.lists(st.integers(0, 1 << 33), max_size=2).map(tuple), st.integers(1, 4)),
    st.builds(
        messages.Heartbeat, _WORKER, st.integers(0, 2), st.lists(st.integers(0, 3), max_size=2).map(tuple),
        st.lists(st.builds(messages.Preparation, st.integers(0, 3), _ADDRESS, st.integers(0, 9)), max_size=2)
        .map(tuple), st.just(()),
    ),
    st.builds(messages.Goodbye, _WORKER, st.booleans()),
    MESSAGES[messages.Completed],
    st.builds(messages.Prepared, _WORKER, st.integers((1 << 32) + 1, (1 << 32) + 3), st.booleans(), st.just({}),
              st.just("no")),
)  # fmt: skip
_QUESTIONS = st.builds(
    Query, _NUMBER, st.sampled_from(messages.QUERIES),
    st.dictionaries(st.sampled_from(("lane", "seq", "address", "limit", "state", "name", "older_ms", "after", "odd")),
                    _LANE | st.integers(-1, 9) | st.none() | st.booleans() | _ADDRESS, max_size=3),
)  # fmt: skip
ACTIONS: st.SearchStrategy[list[Action]] = st.lists(
    st.one_of(
        st.tuples(st.just("producer"), _REQUESTS.map(wire.encode)),
        st.tuples(st.just("producer"), _REQUESTS.map(wire.encode)),
        st.tuples(st.just("worker"), _WORKER_WORDS.map(wire.encode)),
        st.tuples(st.just("query"), _QUESTIONS.map(wire.encode)),
        st.tuples(st.sampled_from(("finish", "lie", "late")), st.integers(0, 1 << 16)),
        st.tuples(st.just("advance"), st.sampled_from((0, 10, 1_000, 20_000))),
        st.tuples(st.sampled_from(("full", "free", "restart")), st.just(0)),
    ),
    min_size=1,
    max_size=14,
)


def mutate_actions(rng: Random, actions: list[Action], other: list[Action]) -> list[Action]:
    """Damage one frame, or the order of events."""
    out = list(actions)
    at = rng.randrange(len(out))
    name, value = out[at]
    if isinstance(value, bytes) and rng.random() < 0.6:
        out[at] = (name, mutate_msgpack(rng, value, value))
    elif rng.random() < 0.5:
        out.insert(rng.randrange(len(out)), rng.choice(other))
    else:
        out.insert(rng.randrange(len(out)), out.pop(at))
    return out


def check_core(actions: list[Action]) -> bool:
    """Feed a core with work and two workers; afterwards its invariants hold and its journal folds to its state."""
    broker = Broker()
    producer = broker.producer("p")
    producer.number = 1_000
    producer.deploy("counter")
    producer.deploy("flow", scripted.FLOW)
    broker.worker("w1", slots=2)
    broker.worker("w2", slots=2)
    producer.submit_runs(
        TaskRun.of("counter/a", 0, (scripted.program(["add", 1]), scripted.program(["postpone"])), None)
    )
    call = scripted.program(["await", [["ask", "counter/b", [["postpone"]], 0, 20_000], ["ask", "counter/b", []]], 2])
    producer.submit("flow", call, kind="ask")
    late: list[messages.Completed] = []
    decoded = 0
    for name, value in actions:
        try:
            decoded += _act(broker, name, value, late)
        except ProtocolError:
            continue
    broker.sync()
    broker.check()
    return decoded == len(actions)


def _act(broker: Broker, name: str, value: Any, late: list[messages.Completed]) -> bool:
    match name:
        case "producer":
            broker.step(FromProducer(b"p-p", wire.decode(value, wire.FROM_PRODUCERS)))  # type: ignore[arg-type]
        case "worker":
            message: Any = wire.decode(value, wire.FROM_WORKERS)
            broker.step(FromWorker(b"w-" + message.worker.encode()[:60], message))
        case "query":
            broker.step(FromQuery(b"q", wire.decode(value, wire.QUERIES)))  # type: ignore[arg-type]
        case "advance":
            broker.advance(value)
        case "full" | "free":
            broker.storage(full=name == "full")
        case "restart":
            broker.restart()
        case _:
            return _answer(broker, name, value, late)
    return True


def _answer(broker: Broker, name: str, value: int, late: list[messages.Completed]) -> bool:
    """Let a worker answer: correctly, with damage, or with an earlier answer."""
    if name == "late" and late:
        broker.step(FromWorker(b"w-w1", late[value % len(late)]))
        return True
    for worker in list(broker.workers.values()):
        if not worker.orders:
            continue
        try:
            honest = worker.compute(worker.orders[0])
        except scripted.NoOutcome:
            worker.die()
            return True
        late.append(honest)
        worker.orders.popleft()
        frame = wire.encode(honest)
        frame = mutate_msgpack(Random(value), frame, frame) if name == "lie" else frame
        broker.step(FromWorker(worker.identity, wire.decode(frame, wire.FROM_WORKERS)))  # type: ignore[arg-type]
        return True
    return True


# --- the sessions -------------------------------------------------------------------------------------------------

_REPLIES = st.one_of(
    st.builds(messages.Welcome, _NUMBER, st.integers(1, 3), st.just("1")),
    st.builds(messages.Accepted, _NUMBER, st.integers(0, 9), st.integers(0, 4)),
    st.builds(messages.Refused, _NUMBER, st.sampled_from(("busy", "hello_first", "protocol", "expired", "odd")),
              st.just("no"), st.sampled_from(({}, {"seqs": [1, 2]}, {"seqs": 1}, {"seqs": [[]]}, {"message": 1}))),
    MESSAGES[messages.Results],
    MESSAGES[messages.Answer],
)  # fmt: skip
_ORDERS = st.one_of(
    st.builds(messages.Registered, st.integers(1, 2), st.integers(0, 2_000), st.lists(st.integers(0, 4)).map(tuple)),
    st.builds(messages.HeartbeatAck, st.integers(1, 2), st.booleans()),
    st.builds(messages.Revoke, st.integers(0, 4)),
    MESSAGES[messages.Assign],
    MESSAGES[messages.Prepare],
)


def mutate_frames(rng: Random, frames: list[bytes], other: list[bytes]) -> list[bytes]:
    out = list(frames)
    at = rng.randrange(len(out))
    out[at] = mutate_msgpack(rng, out[at], rng.choice(other))
    return out


def check_client(frames: list[bytes]) -> bool:
    """A client accepts a broker's messages; anything else ends the conversation with an error."""
    session = Session("p", 1)
    session.request(Submit(session.take_number(), "main", (TaskRun.of("a/b", 0, (b"",), None),), True, None, None), 0)
    session.want(5, 3, 0)
    for now_ms, frame in enumerate(frames):
        session.receive(frame, now_ms * 700)
        session.tick(now_ms * 700)
        session.output()
        session.take_news()
    session.answer(1)
    session.unwant(range(1, 10))
    return session.failure is None


def check_worker(frames: list[bytes]) -> bool:
    """A worker carries out orders; those that do not decode end its process with an error."""
    session = WorkerSession(WorkerIdentity("w1", "cpu", 8, 1 << 20, "here", 7, {}))
    session.step(Started(), 0)
    session.step(Received(messages.Registered(1, 1_000, ())), 0)
    for now_ms, frame in enumerate(frames):
        try:
            message: Any = wire.decode(frame, wire.TO_WORKERS)
        except ProtocolError:
            return False
        for action in session.step(Received(message), now_ms * 700):
            if isinstance(action, StartJob):
                if isinstance(action.order, messages.Assign):
                    carry_out(action.order)
                session.step(Finished(action.job, None), now_ms * 700)
        session.step(Ticked(), now_ms * 700)
    return True


def carry_out(order: messages.Assign) -> None:
    try:
        folds_of(order)
    except ProtocolError:
        return


def _start(check: Callable[[Any], bool]) -> Callable[[Path], Check]:
    return lambda _: check


TARGETS = [
    *(frame_target(name, allowed) for name, allowed in SOCKETS.items()),
    Target("core", ACTIONS, mutate_actions, _start(check_core), bases=30, damaged=5),
    Target("client-session", st.lists(_REPLIES.map(wire.encode), min_size=1, max_size=6), mutate_frames,
           _start(check_client), bases=40),
    Target("worker-session", st.lists(_ORDERS.map(wire.encode), min_size=1, max_size=6), mutate_frames,
           _start(check_worker), bases=40),
]  # fmt: skip
