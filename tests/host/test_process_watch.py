"""The end of real processes is noticed at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import zmq

from rota.host.process_watch import ProcessWatch

WAIT_MS = 10_000


def start() -> subprocess.Popen[bytes]:
    """Start a process that runs until its input is closed."""
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def watch() -> Iterator[ProcessWatch]:
    watch = ProcessWatch()
    yield watch
    watch.close()


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="pidfd_open")
def test_death_wakes_a_poller(watch: ProcessWatch) -> None:
    """Goal: no time passes between a death and its report. Method: a ZeroMQ poller over the watch, and a kill."""
    poller = zmq.Poller()
    for descriptor in watch.fds():
        poller.register(descriptor, zmq.POLLIN)
    first, second = start(), start()
    try:
        watch.add("first", first.pid)
        watch.add("second", second.pid)
        assert watch.gone() == []
        assert poller.poll(0) == []
        first.kill()
        assert poller.poll(WAIT_MS)
        assert watch.gone() == ["first"]
        assert watch.gone() == []
        assert poller.poll(0) == [], "what was reported does not wake again"
        watch.remove("second")
        second.kill()
        second.wait()
        assert watch.gone() == []
    finally:
        end(first)
        end(second)


@pytest.mark.processes
def test_process_that_has_ended_before(watch: ProcessWatch) -> None:
    """Goal: a worker that died while it registered is not missed. Method: watch a pid that is no more."""
    process = start()
    end(process)
    watch.add("late", process.pid)
    assert watch.gone() == ["late"]
    assert watch.gone() == []


def test_remove_of_what_is_not_watched(watch: ProcessWatch) -> None:
    """Goal: the broker need not remember whom it could watch. Method: remove a stranger."""
    watch.remove("nobody")
    assert watch.gone() == []
