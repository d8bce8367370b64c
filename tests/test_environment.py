"""The tests' own environment: pytest and its plugins must not change what is tested."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

OUT_OF_BOUNDS = '(module (memory 1) (func (export "f") (drop (i32.load (i32.const 99999999)))))'

# Makes its engine while conftest files load, which is before pytest's own plugin enables faulthandler.
EARLY_ENGINE = "import wasmtime\nENGINE = wasmtime.Engine()\n"
EARLY_TRAP = f"""
import pytest, wasmtime
from conftest_of_folder import ENGINE
def test_trap():
    store = wasmtime.Store(ENGINE)
    function = wasmtime.Instance(store, wasmtime.Module(ENGINE, {OUT_OF_BOUNDS!r}), []).exports(store)["f"]
    with pytest.raises(wasmtime.Trap):
        function(store)
"""

LEAVES_A_PROCESS_BEHIND = """
import subprocess, sys
def test_leaves_a_process_behind():
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    subprocess.run([sys.executable, "-c", code], check=True)
"""


def test_a_memory_trap_is_an_exception_under_pytest() -> None:
    """Goal: faulthandler, which pytest enables, does not turn memory traps into crashes.

    Method: make a trap happen here, in the process that pytest set up. A crash would end the whole run.
    """
    assert faulthandler.is_enabled()
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    instance = wasmtime.Instance(store, wasmtime.Module(engine, OUT_OF_BOUNDS), [])
    function = instance.exports(store)["f"]
    assert isinstance(function, wasmtime.Func)
    with pytest.raises(wasmtime.Trap) as caught:
        function(store)
    assert caught.value.trap_code == wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS


def _pytest(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(root), str(folder)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.processes
def test_an_engine_made_by_a_conftest_does_no_harm(tmp_path: Path) -> None:
    """Goal: a conftest file below ours may make an engine. Method: one that does, under our conftest, then a trap."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path / "conftest.py")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "conftest_of_folder.py").write_text(EARLY_ENGINE, encoding="utf-8")
    (inner / "conftest.py").write_text("import conftest_of_folder\n", encoding="utf-8")
    (inner / "test_it.py").write_text(EARLY_TRAP, encoding="utf-8")
    done = _pytest(tmp_path, inner)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the watch needs /proc")
def test_the_watch_finds_an_orphan(tmp_path: Path) -> None:
    """Goal: a process whose parent has ended is found, named and ended.

    Method: run pytest, with our conftest and a shorter patience, on a test that leaves a grandchild behind.
    """
    conftest = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
    assert "LEFTOVER_SECONDS_MAX = 5.0" in conftest
    patient = conftest.replace("LEFTOVER_SECONDS_MAX = 5.0", "LEFTOVER_SECONDS_MAX = 0.05")
    (tmp_path / "conftest.py").write_text(patient, encoding="utf-8")
    (tmp_path / "test_it.py").write_text(LEAVES_A_PROCESS_BEHIND, encoding="utf-8")
    done = _pytest(tmp_path, tmp_path)
    assert done.returncode == 1, done.stdout
    assert "processes left behind" in done.stdout
    assert "time.sleep(600)" in done.stdout
    assert "test_leaves_a_process_behind" in done.stdout


INTERRUPTS_A_CHILD = """
import signal, subprocess, sys
def test_interrupts_a_child():
    code = "import time; print('up', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout.readline() == b"up\\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == -signal.SIGINT
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to ignore")
def test_the_suite_runs_in_the_background_too(tmp_path: Path) -> None:
    """Goal: `scripts/test.py &` is as good as without the `&`. Method: run pytest with SIGINT ignored, as a shell
    starts it there, on a test that interrupts a process.
    """
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path / "conftest.py")
    (tmp_path / "test_it.py").write_text(INTERRUPTS_A_CHILD, encoding="utf-8")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = _pytest(tmp_path, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == 0, done.stdout


def test_run_dir_leaves_room_for_a_socket_name(run_dir: Path) -> None:
    """Goal: an ipc socket fits below `run_dir`. Method: count; the limit of Linux is 107 bytes, of macOS 103."""
    assert len(os.fsencode(run_dir / "a-socket-with-a-rather-long-name.sock")) < 103
