"""Stop signals, the death of the parent, exit codes and log lines, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rota.common.errors import CodeError, ConfigError, JournalError, RotaError, VersionMismatch
from rota.host.service import PARENT_FD_VARIABLE, Exit, StopLevel, StopSignals, exit_of, host_identity

# Waits in a ZeroMQ poller, as our processes do, and prints each change of the level.
LISTENER = """
import sys, zmq
from rota.host.service import Exit, StopLevel, StopSignals, run_process

def serve():
    with StopSignals() as signals:
        poller = zmq.Poller()
        poller.register(signals.fileno(), zmq.POLLIN)
        print("ready", flush=True)
        level = StopLevel.NONE
        while level is not StopLevel.STOP:
            poller.poll()
            level = signals.read()
            print(level.name, flush=True)
    return Exit.STOPPED

sys.exit(run_process("listener", "info", serve))
"""

posix_only = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
processes = pytest.mark.processes


@contextmanager
def listener(*options: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *options, "-c", LISTENER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@posix_only
@processes
@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_first_signal_drains_second_stops(numbers: tuple[signal.Signals, ...]) -> None:
    """Goal: a poll returns on a signal, and each counts. Method: two signals to a process that only polls."""
    with listener() as process:
        assert line(process) == "ready"
        process.send_signal(numbers[0])
        assert line(process) == "DRAIN"
        process.send_signal(numbers[1])
        assert line(process) == "STOP"
        assert process.wait(10) == Exit.STOPPED


@processes
def test_death_of_the_parent_stops() -> None:
    """Goal: no orphan goes on. Method: close the pipe that the parent would hold open."""
    with listener(**{PARENT_FD_VARIABLE: "0"}) as process:
        assert line(process) == "ready"
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert line(process) == "STOP"
        assert process.wait(10) == Exit.STOPPED


@processes
def test_optimised_python_is_refused() -> None:
    """Goal: the asserts are never off. Method: start with -O."""
    with listener("-O") as process:
        _, errors = process.communicate()
        assert "start it without -O" in errors
        assert " listener ERROR " in errors
        assert process.returncode == Exit.CONFIG


def test_handlers_are_restored() -> None:
    """Goal: a library user gets the old handlers back. Method: enter and leave, in this process."""
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert signal.getsignal(signal.SIGTERM) is not before
        assert signals.read() is StopLevel.NONE
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    ("error", "code", "final"),
    [
        (ConfigError("x"), Exit.CONFIG, True),
        (JournalError("x"), Exit.STORAGE, True),
        (VersionMismatch("x"), Exit.REFUSED, True),
        (CodeError("x"), Exit.FAILED, False),
    ],
)
def test_exit_code_of_an_error(error: RotaError, code: Exit, final: bool) -> None:
    """Goal: a supervisor can tell what starting again would change. Method: one error of each kind."""
    assert exit_of(error) is code
    assert code.is_final is final


def test_host_identity_is_the_same_within_a_host() -> None:
    """Goal: broker and workers of a host agree. Method: ask another process."""
    asked = subprocess.run(
        [sys.executable, "-c", "from rota.host.service import host_identity; print(host_identity())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.strip() == host_identity()
    assert len(host_identity()) <= 512
