"""More connections than a broker may open files: new ones wait for a while, existing ones go on."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rota.cli.checks import check_sockets
from rota.cli.common_options import Connection
from rota.client import Client, NotReachable
from rota.host.endpoints import Endpoints
from rota.host.open_files import LIMIT_WANTED, let_in

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.name == "nt", reason="socket files"),
    pytest.mark.skipif(
        resource.getrlimit(resource.RLIMIT_NOFILE)[1] < LIMIT_WANTED + 500, reason="this host allows too few files"
    ),
]

COUNTER = Path(__file__).resolve().parents[2] / "examples" / "agents" / "counter.wasm"
SOFT = 256  # that the broker has to raise
LIMITED = f"""
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, ({SOFT}, {LIMIT_WANTED}))
runpy.run_module("rota.broker", run_name="__main__", alter_sys=True)
"""

StartProcess = Callable[..., Any]


def test_more_connections_than_files(start_process: StartProcess, run_dir: Path) -> None:
    """Goal: no number of connections ends a broker, or its producers. Method: a broker with a small limit, and raw
    connections to it as fast as they can be made, more than it could ever take: it moves its socket files aside before
    it has no descriptor left, says so, and doctor does; a producer goes on; when the others have gone, it opens again.
    """
    broker = start_process("-c", LIMITED, ROTA_DIR=str(run_dir))
    broker.wait_for("^ready broker ")
    path = Endpoints.of(run_dir).frontend.removeprefix("ipc://")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as end:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        end.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        client = end.enter_context(Client(run_dir))
        client.deploy("counter", COUNTER, check=False)
        with ExitStack() as strangers:
            made = _connect_all(path, strangers)
            assert SOFT < let_in(LIMIT_WANTED) - 200 < made < LIMIT_WANTED
            broker.wait_for("no more are let in")
            assert [one.level for one in check_sockets(Connection(run_dir, None, 5.0))] == ["error"]
            with pytest.raises(NotReachable, match="accepts no connections"), Client(run_dir, contact_s=0.1) as late:
                late.status()
            assert client.submit("counter/a", b"x").seq == 1
        broker.wait_for("connections are let in again")
        with Client(run_dir) as another:
            assert another.submit("counter/a", b"x").seq == 2


def _connect_all(path: str, strangers: ExitStack) -> int:
    """Connect until connections are refused; return how many there are then."""
    for made in range(LIMIT_WANTED + 500):
        stranger = strangers.enter_context(socket.socket(socket.AF_UNIX))
        try:
            stranger.connect(path)
        except FileNotFoundError:
            return made
    pytest.fail("all connections are let in")
