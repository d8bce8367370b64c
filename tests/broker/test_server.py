"""The shell in one process, with real sockets and a real journal: what leaves while the journal cannot be written.

Whole brokers under load, on full disks and with hostile peers are tested in tests/processes.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import zmq

from rota.broker import records
from rota.broker.durability import STORAGE_RETRY_MS
from rota.broker.effects import FRONTEND, Effects, News, Send
from rota.broker.journal import Journal
from rota.broker.log_limit import LINES_MAX
from rota.broker.modules import ModuleStore
from rota.broker.recovery import fold, open_epoch
from rota.broker.sequencer import Sequencer
from rota.broker.server import Server, ServerSockets
from rota.broker.state import BrokerState
from rota.broker.tensor_keeper import TensorKeeper
from rota.broker.world import World
from rota.common import wire
from rota.common.events import LaneMoved, Watching, WorkerDraining, WorkerJoined, WorkerLeft
from rota.common.limits import RUN_TASKS_MAX
from rota.common.messages import Hello, Results, Submit, TaskRun, Welcome
from rota.host.clock import HostClock
from rota.host.endpoints import Endpoints
from rota.host.process_watch import ProcessWatch
from rota.host.sockets import Socket, context
from rota.tensors.store import TensorStore

ENDPOINTS = Endpoints("inproc://frontend", "inproc://backend", "inproc://events", "inproc://query")
RECORD = records.Diverged("main", 1, "counter/a", bytes(32), bytes(32), "w1")  # any record without an effect


class Shell:
    """A server whose turns the test takes, and a lock on its journal that stands for a full disk."""

    def __init__(self, folder: Path, end: ExitStack) -> None:
        self.zmq: zmq.Context[Socket] = end.enter_context(context())
        journal = end.enter_context(closing(Journal.open(folder / "run.rota")))
        world = World()
        fold(world, journal.read())
        open_epoch(world, journal, 1)
        journal.log._file._connection.execute("PRAGMA busy_timeout = 0")
        tensors = TensorKeeper(TensorStore(folder / "tensors"), world, 60_000, HostClock())
        sockets = end.enter_context(closing(ServerSockets.bind(self.zmq, ENDPOINTS)))
        watch = end.enter_context(closing(ProcessWatch()))
        sequencer = Sequencer(BrokerState(world, version="test"))
        self.frontend = sockets.frontend
        self.events = sockets.events
        self.sequencer = sequencer
        self.world = world
        self.journal = journal
        self.server = Server(sequencer, journal, ModuleStore(folder), tensors, sockets, watch, HostClock())
        self._disk = end.enter_context(closing(sqlite3.connect(folder / "run.rota", isolation_level=None)))
        self._end = end

    def fill_disk(self) -> None:
        self._disk.execute("BEGIN IMMEDIATE")

    def free_disk(self) -> None:
        self._disk.execute("ROLLBACK")

    def carry_out(self, mono_ms: int, **effects: Any) -> None:
        wanted = Effects()
        for name, value in effects.items():
            setattr(wanted, name, value)
        self.server.carry_out(wanted, 1, mono_ms)

    def connect(self, kind: int, endpoint: str, **options: Any) -> Socket:
        socket = self._end.enter_context(self.zmq.socket(kind))
        socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            socket.set(getattr(zmq, name), value)
        socket.connect(endpoint)
        return socket


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with ExitStack() as end:
        yield Shell(tmp_path, end)


def frames_of(socket: Socket) -> list[bytes]:
    """The last frames of all messages that are here."""
    found = []
    while socket.poll(0):
        found.append(socket.recv_multipart()[-1])
    return found


def test_slow_peers_are_served_while_the_disk_is_full(shell: Shell) -> None:
    """Goal: what is durable reaches a slow reader, and a slow worker hears that the broker lives. Method: a connection
    that does not read until much waits for it; it reads while the disk is full.
    """
    peer = shell.connect(zmq.DEALER, ENDPOINTS.frontend, RCVHWM=1, IDENTITY=b"slow")
    peer.send(wire.encode(Hello(0, "alice")))
    shell.server.turn({shell.frontend: zmq.POLLIN})
    sends = [Send(FRONTEND, b"slow", Welcome(number, 1, "test")) for number in range(1, 2_001)]
    shell.fill_disk()
    shell.carry_out(0, now=sends, records=[RECORD])
    numbers: list[int] = []
    for _ in range(10_000):
        numbers += [wire.decode(frame).number for frame in frames_of(peer)]  # type: ignore[union-attr]
        if len(numbers) == 2_001:
            break
        shell.server.turn({})
        peer.poll(shell.server.timeout_ms())
    assert numbers == list(range(2_001))
    shell.free_disk()


def test_workers_that_come_and_go_are_in_the_log(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: operators find in the log who was there. Method: the events of a worker's life, as the core tells them."""
    lives = [
        WorkerJoined("g1", "gpu", (("provider", "cpu"), ("reason", "no driver"))),
        WorkerJoined("c1", "cpu", ()),
        WorkerLeft("c1", "its process ended", 3),
        WorkerDraining("g1"),
        WorkerLeft("g1", "it ended in order", None),
        LaneMoved(1, bytes(32), 0),
    ]
    with caplog.at_level(logging.INFO):
        shell.carry_out(0, news=[News(number, "", what) for number, what in enumerate(lives, 1)])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "worker g1 joined, models on cpu (no driver)"),
        ("INFO", "worker c1 joined"),
        ("WARNING", "worker c1 is lost: its process ended; 3 tasks that it held run again"),
        ("INFO", "worker g1 takes no more and leaves when it is done"),
        ("INFO", "worker g1 left: it ended in order"),
    ]


def test_what_could_not_be_written_is_written_before_it_is_told(shell: Shell, tmp_path: Path) -> None:
    """Goal: a result that leaves after a full disk is as durable as any. Method: a record and the result that speaks of
    it while the disk is full; when there is room again both are there, in this order, and the record once.
    """
    peer = shell.connect(zmq.DEALER, ENDPOINTS.frontend, IDENTITY=b"p")
    peer.send(wire.encode(Hello(0, "alice")))
    shell.server.turn({shell.frontend: zmq.POLLIN})
    assert len(frames_of(peer)) == 1
    shell.fill_disk()
    shell.carry_out(0, records=[RECORD], after=[Send(FRONTEND, b"p", Results.of(()))])
    shell.carry_out(STORAGE_RETRY_MS)
    assert frames_of(peer) == []
    shell.free_disk()
    shell.carry_out(2 * STORAGE_RETRY_MS)
    assert frames_of(peer) == [wire.encode(Results.of(()))]
    with closing(Journal.open(tmp_path / "run.rota", read_only=True)) as journal:
        assert list(journal.read())[-1] == RECORD
        assert journal.last_number == shell.journal.last_number == 3


def test_a_turn_takes_in_so_much_and_no_more(shell: Shell) -> None:
    """Goal: large submits in a row do not make one long turn. Method: three of 65,536 tasks are there at once; each
    turn takes one. What little messages come behind them is not counted.
    """
    peer = shell.connect(zmq.DEALER, ENDPOINTS.frontend, IDENTITY=b"p")
    peer.send(wire.encode(Hello(0, "alice")))
    run = TaskRun.of("ghost", 0, [b""] * RUN_TASKS_MAX)
    for number in (1, 2, 3):
        peer.send(wire.encode(Submit(number, "main", (run,), False, None, None)))
    stamped = []
    for _ in range(4):
        shell.server.turn({shell.frontend: zmq.POLLIN})
        stamped.append((shell.world.next_seq - 1) // RUN_TASKS_MAX)
    assert stamped == [1, 2, 3, 3]


def test_a_flood_of_bad_messages_costs_a_few_lines(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: no peer fills the disk with log lines, and each of its messages is answered and counted. Method: 200 bad
    messages, and the end of the window.
    """
    peer = shell.connect(zmq.DEALER, ENDPOINTS.frontend, IDENTITY=b"p")
    for _ in range(200):
        peer.send(b"junk")
    with caplog.at_level(logging.WARNING):
        shell.server.turn({shell.frontend: zmq.POLLIN})
        told = [record.getMessage() for record in caplog.records]
        shell.server._tell_left_out(shell.server._refusals.take_left_out(0, last=True))
    assert len(frames_of(peer)) == 200
    assert len(told) == LINES_MAX
    assert all(line.startswith("refused a message on frontend: ") for line in told)
    assert caplog.records[-1].getMessage() == f"refused {200 - LINES_MAX} more messages within about a second"


def test_a_subscription_to_a_text_is_heard_and_its_end_too(shell: Shell) -> None:
    """Goal: text is published while somebody follows it, and not after the last of two has gone. Method: real SUB
    sockets come and go; the core says whom it follows.
    """
    first = shell.connect(zmq.SUB, ENDPOINTS.events, SUBSCRIBE=b"text.7.")
    second = shell.connect(zmq.SUB, ENDPOINTS.events, SUBSCRIBE=b"text.7.")
    odd = shell.connect(zmq.SUB, ENDPOINTS.events, SUBSCRIBE=b"text.07.")
    followed = shell.sequencer.broker.streams._followed
    events = {shell.events: zmq.POLLIN}
    shell.server.turn(events)
    assert list(followed) == [7]
    told: list[Any] = [wire.decode(frame) for frame in frames_of(first)]
    assert [event.what for event in told] == [Watching("text.7.")] * 2
    assert frames_of(odd) == []
    first.close()
    shell.server.turn(events)
    assert list(followed) == [7]
    second.setsockopt(zmq.UNSUBSCRIBE, b"text.7.")
    while followed:  # libzmq ends the first connection in its own time
        assert shell.events.poll(20_000)
        shell.server.turn(events)
