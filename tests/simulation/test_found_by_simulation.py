"""Faults of the broker's shell found by the simulator, in the fewest steps that show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zmq
from simulation.plan import make_plan
from simulation.world import Simulation

from rota.broker.effects import BACKEND
from rota.common.messages import Hello, Query, Refused, Submit, TaskRun
from rota.common.wire import encode


def test_a_question_of_the_turn_in_which_writing_fails_is_refused(tmp_path: Path) -> None:
    """Goal: no answer tells what a crash could take back (seed 6000094). Method: a submit and a question for the digest
    come in one turn, and its records cannot be written.
    """
    simulation = Simulation(make_plan(0)._replace(faults=(), errands=(), knobs=()), tmp_path)
    broker = simulation.broker
    broker.start()
    server: Any = broker.server
    sent: list[Any] = []
    server._outbox.send = sent.append
    run = TaskRun.of("ghost/a", 0, (b"x",), None)
    frontend, _, query = broker.routers
    frontend.inbox += [
        (b"p", encode(Hello(1, "alice"))),
        (b"p", encode(Submit(2, "main", (run,), False, None, None))),
    ]
    query.inbox.append((b"q", encode(Query(3, "digest", {"lane": "main"}))))
    broker.disk.full_until_us = 1 << 60
    broker.disk.chance.choice = lambda options: options[0]  # type: ignore[method-assign,assignment]
    server.turn({frontend: zmq.POLLIN, query: zmq.POLLIN})
    broker.disk.close()
    replies = {send.message.number: send.message for send in sent if send.socket != BACKEND}
    assert isinstance(replies[3], Refused), replies[3]
    assert (replies[2].code, replies[3].code) == ("storage_full", "storage_full")
