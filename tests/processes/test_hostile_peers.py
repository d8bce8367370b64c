"""Peers that send garbage, lie, or fall silent are refused, and others are not affected."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest
from raw_peer import RawPeer, malformed

from rota.client import Client
from rota.common import wire
from rota.common.errors import ProtocolError, VersionMismatch
from rota.common.limits import MESSAGE_BYTES_MAX, PROTOCOL_VERSION
from rota.common.messages import QUERIES, Answer, Assign, Completed, Hello, Refused, Register, Registered, Welcome
from rota.common.work import Done, Failed, FoldResult
from rota.host.endpoints import Endpoints

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

COUNTER = Path(__file__).resolve().parents[2] / "examples" / "agents" / "counter.wasm"
FRAMES = 1_500  # for each socket
AT_ONCE = 100
GROWTH_BYTES_MAX = 96 << 20
REFUSALS = {ProtocolError.code, VersionMismatch.code}

RotaUp = Callable[..., Any]
StartProcess = Callable[..., Any]


def test_malformed_frames_are_refused_and_disturb_nobody(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: no bytes can hurt. Method: thousands of seeded malformed messages on each socket, each answered by a typed
    refusal, with the work of a normal producer in between; the broker is the same process and has not grown.
    """
    up = rota_up(run_dir)
    random = Random(4)
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER)
        before = _resident_bytes(up.pids()["broker"])
        for name in ("frontend", "backend", "query"):
            with RawPeer(run_dir, name) as peer:
                for _ in range(FRAMES // AT_ONCE):
                    batch = client.submit_many("counter/a", [b"x"] * 10)
                    for frames in malformed(random, name, AT_ONCE):
                        peer.send(*frames)
                    refusals = [peer.hear(Refused) for _ in range(AT_ONCE)]
                    assert {refusal.code for refusal in refusals} <= REFUSALS
                    assert len(batch.results()) == 10
        status = client.status()
        assert status["boot"] == 1
        assert len(status["workers"]) == 1
        assert client.digest()["retired"] == 3 * FRAMES // AT_ONCE * 10
        if sys.platform == "linux":
            assert _resident_bytes(up.pids()["broker"]) - before < GROWTH_BYTES_MAX


def test_questions_that_make_no_sense_are_refused(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: well-formed is not enough. Method: arguments of every wrong kind to every question, some a thousand levels
    deep; each is answered, and the broker is still the first one.
    """
    rota_up(run_dir, cpu_workers=0)
    deep = b"\x91" * 1_010 + b"\xc0"
    values = [deep, *map(msgpack.packb, ([], {}, {"a": 1}, -1, 1 << 63, "x" * 200_000, b"x", None, True, 0.5, "\0"))]
    with RawPeer(run_dir, "query") as peer, Client(run_dir) as client:
        for what in QUERIES:
            for name in ("lane", "name", "limit", "address", "state", "seq"):
                for value in values:
                    head = msgpack.packb([PROTOCOL_VERSION, wire.Tag.QUERY, 5, what, {name: 0}])
                    peer.send(head[:-1] + value)
                    answer = peer.hear_any()
                    assert isinstance(answer, Answer | Refused)
                    assert answer.number == 5
        assert client.status()["boot"] == 1


def test_strangers_and_oversized_messages_cost_only_their_connection(rota_up: RotaUp, run_dir: Path) -> None:
    """Goal: what is no ZeroMQ, or too large to be looked at, is cut off. Method: noise into each socket file, and a
    frame over the limit; then the same peer says Hello and is welcome.
    """
    rota_up(run_dir)
    random = Random(5)
    for address in Endpoints.of(run_dir):
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(address.removeprefix("ipc://"))
                stranger.sendall(random.randbytes(random.choice([1, 64, 5_000])))
    with RawPeer(run_dir, "frontend") as peer:
        peer.send(bytes(MESSAGE_BYTES_MAX + (1 << 20)))
        peer.say(Hello(7, "stranger"))
        heard = peer.hear_any()
        assert isinstance(heard, Welcome), heard
    with Client(run_dir) as client:
        assert client.status()["boot"] == 1


def test_worker_of_another_version_is_refused(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: versions do not mix in silence. Method: register with another version; the refusal names both."""
    start_process("-m", "rota.broker", ROTA_DIR=str(run_dir)).wait_for("^ready broker ")
    with RawPeer(run_dir, "backend") as peer, Client(run_dir) as client:
        fields = msgpack.unpackb(wire.encode(_register()))
        peer.send(msgpack.packb([fields[0] + 1, *fields[1:]]))
        refused = peer.hear(Refused)
        assert refused.code == VersionMismatch.code
        assert refused.fields == {"theirs": fields[0] + 1, "ours": fields[0]}
        assert client.status()["workers"] == []


LIES: dict[str, Callable[[Assign], tuple[FoldResult, ...]]] = {
    "no folds": lambda order: (),
    "too few outcomes": lambda order: _answer(order, 1),
    "state without digest": lambda order: (FoldResult((_done(),) * _tasks(order), b"state"),),
    "a verdict": lambda order: (FoldResult((Failed("cancelled", "by me", (), 0),) * _tasks(order), None),),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_worker_is_expelled_and_its_tasks_run_elsewhere(
    start_process: StartProcess, run_dir: Path, lie: str
) -> None:
    """Goal: an impossible answer has no effect. Method: a worker by hand takes real tasks and lies about them; it is
    refused and forgotten, and a real worker then counts every task once.
    """
    start_process("-m", "rota.broker", ROTA_DIR=str(run_dir)).wait_for("^ready broker ")
    with RawPeer(run_dir, "backend") as liar, Client(run_dir) as client:
        client.deploy("counter", COUNTER, check=False)
        liar.say(_register())
        liar.hear(Registered)
        batch = client.submit_many("counter/a", [b"x"] * 4)
        order = liar.hear(Assign)
        liar.say(Completed("liar", order.assignment, LIES[lie](order), 5))
        refused = liar.hear(Refused)
        assert refused.code == ProtocolError.code
        assert client.status()["workers"] == []
        start_process("-m", "rota.cpu_worker", ROTA_DIR=str(run_dir))
        assert [result.payload for result in batch.results(timeout_s=30)] == [b"1", b"2", b"3", b"4"]


def _register() -> Register:
    return Register("liar", "cpu", 8, 1 << 20, "elsewhere", 1, {}, 0, ())


def _done() -> Done:
    return Done(b"r", None, (), (), 1, ())


def _tasks(order: Assign) -> int:
    (fold,) = order.folds
    return sum(len(segment.turns) for segment in fold.segments)


def _answer(order: Assign, outcomes: int) -> tuple[FoldResult, ...]:
    assert _tasks(order) not in (outcomes, 0)
    return (FoldResult((_done(),) * outcomes, None),)


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
