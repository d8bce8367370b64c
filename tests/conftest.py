"""For every test: a short run folder, and a check for processes left behind.

pytest loads this file first, so it enables faulthandler: if enabled after the first wasmtime Engine, it turns every
memory trap into a crash, and pytest's own plugin is loaded after the conftest files (test_environment.py).
"""

from __future__ import annotations

import faulthandler
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

faulthandler.enable()

# Shells start background jobs with SIGINT ignored. Processes started by tests would inherit that and could not be
# interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Runtimes, and what is compiled of them, are kept for all tests and for later runs. `test.py` fetches them there.
os.environ.setdefault("ROTA_RUNTIMES", str(Path(__file__).resolve().parents[1] / ".cache" / "runtimes"))

# The path of a unix socket may have 107 bytes on Linux, 103 on macOS, including the names below a run folder.
RUN_DIR_CHARS_MAX = 60
LEFTOVER_SECONDS_MAX = 5.0
_SESSION_VARIABLE = "TEST_SESSION_OF_ROTA"


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A new folder for a broker's files and sockets. `tmp_path` would make socket paths too long."""
    parent = tempfile.gettempdir()
    if len(parent) > RUN_DIR_CHARS_MAX - 20:  # macOS: /var/folders/...
        parent = "/tmp"
    folder = Path(tempfile.mkdtemp(prefix="rota-", dir=parent))
    assert len(str(folder)) <= RUN_DIR_CHARS_MAX
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    """Fail at the end of the session if a process started by a test, at any depth, still runs; and end it.

    Descendants are recognized by a variable in their environment, so orphans of killed parents are found too. Needs
    /proc, so it works on Linux only.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    token = uuid.uuid4().hex
    os.environ[_SESSION_VARIABLE] = token
    yield
    del os.environ[_SESSION_VARIABLE]
    left = _processes_of(token)
    deadline = time.monotonic() + LEFTOVER_SECONDS_MAX
    for pid in left:
        _wait_for_end(pid, deadline)
    left = _processes_of(token)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "processes left behind:\n" + "\n".join(f"  {pid}: {what}" for pid, what in left.items())


def _processes_of(token: str) -> dict[int, str]:
    """Return the live processes with the token: id, with their command and the test that started them."""
    mark = f"{_SESSION_VARIABLE}={token}".encode()
    found: dict[int, str] = {}
    for folder in sorted(Path("/proc").iterdir()):
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:  # it has just ended, or belongs to another user
                continue
            # multiprocessing keeps one tracker for the life of the parent; it ends with it.
            if mark in variables and "multiprocessing.resource_tracker" not in command:
                test = [value for value in variables if value.startswith(b"PYTEST_CURRENT_TEST=")]
                found[int(folder.name)] = f"{command} ({b' '.join(test).decode(errors='replace')})"
    return found


def _wait_for_end(pid: int, deadline: float) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        os.close(handle)
