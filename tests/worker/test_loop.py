"""The worker's shell as a real process, against a real ROUTER socket in place of the broker.

The executor is a tiny one (echo_worker.py); the loop does the same with those for WASM and ONNX.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rota.common import wire
from rota.common.assignments import FoldAssignment, Segment
from rota.common.columns import Blobs
from rota.common.errors import ProtocolError
from rota.common.limits import MESSAGE_BYTES_MAX
from rota.common.messages import (
    Assign,
    Completed,
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    Message,
    Prepare,
    Prepared,
    Refused,
    Register,
    Registered,
    Revoke,
    Streamed,
)
from rota.common.work import AGENT, NO_OUTCOMES, NO_STEPS, Code, Done, FoldResult, Past, TensorRef
from rota.host.endpoints import Endpoints, RunFolder
from rota.host.service import Exit, host_identity
from rota.host.sockets import context, router
from rota.worker.loop import fit_message, folds_of

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

ECHO_WORKER = Path(__file__).resolve().parents[1] / "kits" / "echo_worker.py"
CODE = Code(bytes(32), AGENT)
WAIT_MS = 20_000


class FakeBroker:
    """The other end of the worker's socket, controlled by a test."""

    def __init__(self, endpoint: str) -> None:
        self._context = context()
        self._socket = router(self._context, endpoint)
        self._peer = b""

    def receive(self, cls: type) -> Any:
        """Return the next message, which must be of this class; heartbeats are passed over unless asked for."""
        while True:
            assert self._socket.poll(WAIT_MS), f"no {cls.__name__} came"
            self._peer, frame = self._socket.recv_multipart()
            message = wire.decode(frame, wire.FROM_WORKERS)
            if isinstance(message, cls):
                return message
            assert isinstance(message, Heartbeat), f"{message} instead of a {cls.__name__}"

    def send(self, message: Message) -> None:
        self._socket.send_multipart([self._peer, wire.encode(message)])

    def accept(self, boot: int = 1, heartbeat_ms: int = 1_000) -> Register:
        register = self.receive(Register)
        self.send(Registered(boot, heartbeat_ms, ()))
        return register

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@contextmanager
def echo_worker(run_dir: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROTA_")}
    process = subprocess.Popen(
        [sys.executable, str(ECHO_WORKER), str(run_dir)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        with process:
            yield process
            process.kill()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def endpoint(run_dir: Path) -> str:
    RunFolder(run_dir).prepare()
    return Endpoints.publish(run_dir).backend


@pytest.fixture
def broker(endpoint: str) -> Iterator[FakeBroker]:
    broker = FakeBroker(endpoint)
    yield broker
    broker.close()


def segment(turns: tuple[int, ...], payloads: tuple[bytes, ...]) -> Segment:
    return Segment("tell", None, 5, None, 64, 7, turns, Blobs.of(payloads), ())


def fold(*payloads: bytes, address: str = "a/b") -> FoldAssignment:
    turns = tuple(range(1, len(payloads) + 1))
    return FoldAssignment(0, address, b"state", (segment(turns, payloads),))


def assign(number: int, *folds: FoldAssignment) -> Assign:
    return Assign(number, bytes(32), (CODE,), folds)


def say_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_registers_runs_and_prepares(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: the plain life of a worker. Method: register, two folds, two preparations, TERM."""
    with echo_worker(run_dir) as process:
        register = broker.accept()
        assert (register.worker, register.pool, register.host) == ("echo-1", "cpu", host_identity())
        assert (register.pid, register.fingerprint) == (process.pid, {"echo": "1"})
        assert say_line(process) == f"ready cpu-worker id=echo-1 pid={process.pid} boot=1"

        broker.send(assign(7, fold(b"one", b"two"), fold(b"three")))
        completed = broker.receive(Completed)
        assert completed.assignment == 7
        results = [[outcome.result for outcome in one.outcomes] for one in completed.folds]
        assert results == [[b"one", b"two"], [b"three"]]

        broker.send(Prepare(1, "good", CODE))
        assert broker.receive(Prepared) == Prepared("echo-1", 1, True, {"address": "good"}, "")
        broker.send(Prepare(2, "bad", CODE))
        assert broker.receive(Prepared).message == "bad cannot be loaded: name something else"

        process.send_signal(signal.SIGTERM)
        assert broker.receive(Goodbye).draining is True
        assert broker.receive(Goodbye).draining is False
        assert say_line(process) == "executor closed"
        assert process.wait(20) == Exit.OK


def test_answers_heartbeats_while_a_task_runs_and_drains_it(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: the executor does not hold up the conversation. Method: a task that waits; heartbeats, TERM, revocation."""
    with echo_worker(run_dir) as process:
        broker.accept(heartbeat_ms=50)
        say_line(process)
        broker.send(assign(7, fold(b"one", b"slow"), fold(b"two")))
        assert say_line(process) == "running slow"
        assert broker.receive(Heartbeat) == Heartbeat("echo-1", 1)
        broker.send(HeartbeatAck(1, known=True))
        process.send_signal(signal.SIGTERM)
        assert broker.receive(Goodbye).draining is True
        broker.send(Revoke(7))
        completed = broker.receive(Completed)
        assert [one.stopped for one in completed.folds] == ["interrupted", "interrupted"]
        assert [len(one.outcomes) for one in completed.folds] == [1, 0]
        assert broker.receive(Goodbye).draining is False
        assert process.wait(20) == Exit.OK


def test_revoked_before_it_began_is_never_run(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: what waits is dropped without an answer. Method: two assignments, the waiting one revoked first."""
    with echo_worker(run_dir) as process:
        broker.accept()
        say_line(process)
        broker.send(assign(7, fold(b"slow")))
        broker.send(assign(8, fold(b"slow")))
        assert say_line(process) == "running slow"
        broker.send(Revoke(8))
        broker.send(Revoke(7))
        assert broker.receive(Completed).assignment == 7
        broker.send(assign(9, fold(b"after")))
        assert broker.receive(Completed).assignment == 9


def test_restarted_broker_gets_nothing_of_its_older_boot(run_dir: Path, endpoint: str) -> None:
    """Goal: a worker finds the new broker by itself, and its old work is dropped. Method: close one, bind another."""
    first = FakeBroker(endpoint)
    with echo_worker(run_dir) as process:
        first.accept(boot=1, heartbeat_ms=50)
        say_line(process)
        first.send(assign(7, fold(b"slow")))
        assert say_line(process) == "running slow"
        first.close()
        second = FakeBroker(endpoint)
        try:
            register = second.receive(Register)
            assert (register.boot, register.holds) == (1, (7,))
            second.send(Registered(2, 1_000, ()))
            second.send(assign(7, fold(b"other content")))
            completed = second.receive(Completed)
            assert completed.folds[0].outcomes[0].result == b"other content"
            process.send_signal(signal.SIGTERM)
            second.receive(Goodbye)
        finally:
            second.close()
        assert process.wait(20) == Exit.OK


def test_a_worker_that_is_stuck_says_so_and_goes_on_when_it_is_free(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: a task that does not stop is answered while it runs, and nothing is lost of what comes later. Method: the
    middle one of three tasks hangs until a file is there.
    """
    with echo_worker(run_dir) as process:
        broker.accept()
        say_line(process)
        broker.send(assign(7, fold(b"one", b"stuck", b"three"), fold(b"other")))
        assert say_line(process) == "running stuck"
        while not (heartbeat := broker.receive(Heartbeat)).stuck:
            pass
        assert heartbeat.stuck == (7,)
        first, second = broker.receive(Completed).folds
        assert ([outcome.result for outcome in first.outcomes], first.stopped) == ([b"one"], "timeout")
        assert second == FoldResult(NO_OUTCOMES, None, "interrupted")
        broker.send(assign(8, fold(b"after")))
        (run_dir / "free").touch()
        assert broker.receive(Completed).assignment == 8


def test_other_work_is_done_while_code_is_prepared(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: what has to be compiled first does not hold up the rest, and is seen. Method: one assignment with a fold of
    each kind, another behind it, and a revoked one; the code is ready when a file is there.
    """
    slow = CODE._replace(reuse=True)
    with echo_worker(run_dir) as process:
        broker.accept()
        say_line(process)
        broker.send(
            Assign(7, bytes(32), (CODE, slow), (fold(b"quick"), fold(b"slow code", address="s/1")._replace(code=1)))
        )
        broker.send(Assign(8, bytes(32), (slow,), (fold(b"never", address="s/2"),)))
        broker.send(assign(9, fold(b"beside")))
        assert broker.receive(Completed).assignment == 9
        while {one.assignment for one in broker.receive(Heartbeat).preparing} != {7, 8}:
            pass
        broker.send(Revoke(8))
        while {one.assignment for one in broker.receive(Heartbeat).preparing} != {7}:
            pass
        (run_dir / "compiled").touch()
        done = broker.receive(Completed)
        assert done.assignment == 7
        assert [one.outcomes[0].result for one in done.folds] == [b"quick", b"slow code"]


def test_second_signal_stops_at_once(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: no need to wait for a task. Method: INT, then INT again while a task runs that does not end."""
    with echo_worker(run_dir) as process:
        broker.accept()
        say_line(process)
        broker.send(assign(7, fold(b"slow")))
        assert say_line(process) == "running slow"
        process.send_signal(signal.SIGINT)
        assert broker.receive(Goodbye).draining is True
        process.send_signal(signal.SIGINT)
        assert broker.receive(Goodbye).draining is False
        assert process.wait(20) == Exit.STOPPED


def test_refused_worker_ends_with_its_own_exit_code(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: a supervisor can tell that starting again is of no use. Method: refuse the registration."""
    with echo_worker(run_dir) as process:
        broker.receive(Register)
        broker.send(Refused(0, "version", "install the same rota on both", {}))
        assert process.wait(20) == Exit.REFUSED


def test_bug_in_an_executor_ends_the_process(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: no outcome is invented for a bug. Method: an executor that raises."""
    with echo_worker(run_dir) as process:
        broker.accept()
        broker.send(assign(7, fold(b"bug")))
        assert process.wait(20) == Exit.BUG


def test_completion_too_large_for_one_message_is_cut_between_folds(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: large outcomes get through, in several goes. Method: three folds of 30 MiB each, one message takes two."""
    with echo_worker(run_dir):
        broker.accept(heartbeat_ms=5_000)
        broker.send(assign(7, fold(b"big"), fold(b"big"), fold(b"big")))
        completed = broker.receive(Completed)
        assert sorted(one.stopped or "" for one in completed.folds) == ["", "", "interrupted"]


def test_fit_message_keeps_what_fits() -> None:
    """Goal: the largest folds go first, and only as many as must. Method: sizes around the bound."""

    def of(size: int) -> FoldResult:
        return FoldResult((Done(bytes(size), None, (), (), 0, ()),), None)

    half = MESSAGE_BYTES_MAX // 2
    message = Completed("w", 1, (of(10), of(half + 5), of(half), of(20)), 3)
    folds = fit_message(message).folds
    assert [one.stopped for one in folds] == [None, "interrupted", None, None]
    assert len(wire.encode(fit_message(message))) <= MESSAGE_BYTES_MAX


def test_folds_of_an_assignment() -> None:
    """Goal: every task gets its own and its segment's fields. Method: two segments, one with tensors."""
    ref = TensorRef(bytes(32), "float32", (2,))
    plain = segment((3, 4), (b"x", b"y"))
    asked = Segment("ask", "c/d", 6, None, 1, 8, (9,), Blobs.of((b"z",)), ((0, (ref,)),))
    (one,) = folds_of(Assign(1, b"s" * 32, (CODE,), (FoldAssignment(0, "a/b", b"st", (plain, asked)),)))
    assert (one.lane_seed, one.code, one.address, one.state) == (b"s" * 32, CODE, "a/b", b"st")
    assert [task.turn for task in one.tasks] == [3, 4, 9]
    assert one.tasks[1] == (4, "tell", None, b"y", 5, None, (), 64, 7)
    assert one.tasks[2] == (9, "ask", "c/d", b"z", 6, None, (ref,), 1, 8)


def test_an_assignment_whose_parts_do_not_fit_is_refused() -> None:
    """Goal: a typed error, not an IndexError in the executor's thread. Method: a code that is not in the table, a call
    without a past, a past of an agent. Found by tests/fuzz. (Turns without payloads cannot be made: see
    test_columns.py.)
    """
    rest = ("a/b", None, (segment((3,), (b"x",)),))
    flow = CODE._replace(flow=True)
    for fold in (
        FoldAssignment(2, *rest),
        FoldAssignment(1, *rest),
        FoldAssignment(0, *rest, (), Past(NO_STEPS, 1, 0)),
    ):
        with pytest.raises(ProtocolError):
            folds_of(Assign(1, bytes(32), (CODE, flow), (fold,)))
    (call,) = folds_of(Assign(1, bytes(32), (flow,), (FoldAssignment(0, *rest, (), Past(NO_STEPS, 1, 0)),)))
    assert call.past == Past(NO_STEPS, 1, 0)


def test_text_comes_before_the_result_and_joined(run_dir: Path, broker: FakeBroker) -> None:
    """Goal: what a task generates reaches the broker while it runs, in few pieces and under its assignment. Method: one
    that says four pieces, three of which continue each other.
    """
    with echo_worker(run_dir):
        broker.accept()
        broker.send(assign(5, fold(b"talk")))
        said: list[tuple[int, int, int, str]] = []
        while not said or said[-1][3] != "anew":
            said += broker.receive(Streamed).pieces
        text = ""
        for assignment, turn, offset, piece in said:
            assert (assignment, turn) == (5, 1)
            text = text[:offset] + piece
            assert text in ("so ", "so much ", "so much text", "anew")
        assert len(said) <= 4
        assert broker.receive(Completed).assignment == 5
