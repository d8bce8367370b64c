"""Ctrl-C, the end of the process, and lanes that were not closed: nothing is inconsistent or left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rota import local
from rota.cpu_worker.executor import WasmExecutor
from rota.local import places

Factory = Callable[..., local.LocalLane]

FORGETFUL = """
from rota import local
lane = local.open_lane()
lane.deploy("counter", {counter!r})
print(lane.submit("counter/a", b"+").result().payload)
other = local.open_lane()
other.deploy("counter", {counter!r}, fuel=10)
print(other.submit("counter/a", b"+").outcome().kind)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
def test_ctrl_c_comes_between_two_turns(rota_lane: local.LocalLane, agents: Path, spin: bytes) -> None:
    """Goal: after Ctrl-C the lane is as after any turn, and goes on. Method: 50 turns, a loop without end, 50 turns; a
    signal while it runs; then cancel the loop and run the rest.
    """
    lane = rota_lane
    lane.deploy("counter", agents / "counter.wasm")
    lane.deploy("spin", spin, "function", fuel=1 << 60, timeout_ms=60_000)
    lane.set_window(1)
    lane.submit_many("counter/a", [b"+"] * 50)
    endless = lane.submit("spin")
    lane.submit_many("counter/a", [b"+"] * 50)
    interrupter = threading.Thread(target=_interrupt_at, args=(lane, 50), daemon=True)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        lane.run()
    interrupter.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert lane.retired == 50
    assert lane.line[0].turn == endless.turn
    assert endless.cancel()
    assert len(lane.run()) == 51
    assert lane.state("counter/a") == b"\x64"


def test_ctrl_c_twice_comes_at_once(rota_lane: local.LocalLane) -> None:
    """Goal: no need to wait for what hangs. Method: two signals inside an operation; then the lane says why it does
    nothing more.
    """
    lane = rota_lane
    reached: list[int] = []

    def hang() -> None:
        with lane._interrupts.held_back():
            for number in range(3):
                signal.raise_signal(signal.SIGINT)
                reached.append(number)

    with pytest.raises(KeyboardInterrupt):
        hang()
    assert reached == [0]
    with pytest.raises(local.ConfigError, match="second Ctrl-C"):
        lane.submit("echo")
    assert lane.retired == 0


def _interrupt_at(lane: local.LocalLane, retired: int) -> None:
    """Send the signal of Ctrl-C once so many tasks have retired and the next one runs."""
    pause = threading.Event()
    executor = lane._executors._made["cpu"].executor._runner
    assert isinstance(executor, WasmExecutor)
    while lane.retired < retired or not executor._watchdog._active:
        pause.wait(0.001)
    os.kill(os.getpid(), signal.SIGINT)


def test_an_exception_while_a_fold_runs_ends_it(rota_lane: local.LocalLane, spin: bytes) -> None:
    """Goal: a foreign handler, such as that of a test's timeout, does not leave a guest running. Method: a
    handler that raises; the loop ends at once, and the next task runs.
    """

    class OutOfTime(Exception):
        pass

    def give_up(_number: int, _frame: object) -> None:
        raise OutOfTime

    lane = rota_lane
    lane.deploy("spin", spin, "function", fuel=1 << 60, timeout_ms=60_000)
    endless = lane.submit("spin")
    before = signal.signal(signal.SIGINT, give_up)
    try:
        interrupter = threading.Thread(target=_interrupt_at, args=(lane, 0), daemon=True)
        interrupter.start()
        with pytest.raises(OutOfTime):
            lane.run()
        interrupter.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert lane.retired == 0
    assert endless.cancel()


def test_a_lane_that_nobody_closes_leaves_nothing(agents: Path) -> None:
    """Goal: notebooks forget. Method: drop a lane, collect, and look for its folder."""
    lane = local.open_lane()
    lane.deploy("counter", agents / "counter.wasm")
    lane.submit("counter/a").result()
    folder = lane._place.run.root
    assert folder.is_dir()
    del lane
    gc.collect()
    assert not folder.exists()


@pytest.mark.processes
def test_a_process_that_ends_leaves_nothing(agents: Path, tmp_path: Path) -> None:
    """Goal: scripts forget too. Method: a process that opens two lanes and just ends; its folder of temporary files is
    empty, it says nothing and exits with 0. With ROTA_CACHE compiled code stays there, and nowhere else.
    """
    temporary, cache = tmp_path / "temporary", tmp_path / "cache"
    temporary.mkdir()
    program = FORGETFUL.format(counter=str(agents / "counter.wasm"))
    environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary)}
    environment.pop(places.CACHE_VARIABLE, None)
    for variables in ({}, {places.CACHE_VARIABLE: str(cache)}):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            env={**environment, **variables}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert done.stdout.split() == ["b'1'", "fuel"]
        assert not list(temporary.iterdir())
    assert len(list((cache / "artefacts").glob("*.native"))) == 1


def test_a_module_is_compiled_once(
    rota_lane_factory: Factory, agents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a suite does not compile the same module again and again. Method: three lanes and one cache, of ROTA_CACHE;
    without it, one of this process, closed to others.
    """
    monkeypatch.setenv(places.CACHE_VARIABLE, str(tmp_path / "cache"))
    for _ in range(3):
        rota_lane_factory().deploy("counter", agents / "counter.wasm")
        (native,) = (tmp_path / "cache" / "artefacts").glob("*.native")
        written_ns = native.stat().st_mtime_ns
    assert native.stat().st_mtime_ns == written_ns
    monkeypatch.delenv(places.CACHE_VARIABLE)
    shared = places.artefacts_folder()
    assert shared == places.artefacts_folder()
    assert shared.parent == Path(tempfile.gettempdir())
    assert os.name == "nt" or shared.stat().st_mode & 0o077 == 0
