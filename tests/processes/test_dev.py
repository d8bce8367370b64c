"""`rota dev` with a real broker and worker: builds, deploys, prints what the agent did, and goes on after mistakes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rota.client import Client

ROOT = Path(__file__).parents[2]
ECHO = ROOT / "examples" / "agents" / "echo.wasm"
TRIP = ROOT / "sdk" / "c" / "examples" / "trip.wasm"

MANIFEST = """[agent]
name = "echo"
language = "c"
kind = "agent"
[build]
command = ["cp", "agent.c", "{output}"]
"""

FLOW_MANIFEST = MANIFEST.replace("agent.c", "trip.c").replace("[build]", 'source = "trip.c"\nflow = true\n[build]')


def test_a_project_is_deployed_at_each_change(
    tmp_path: Path, run_dir: Path, rota_up: Callable[..., Any], start_process: Callable[..., Any]
) -> None:
    """Goal: an author sees what the agent did, and a mistake does not end it. Method: a project whose source is the
    module itself: good, then no module, then good again, a file that is not deployed, then a flow.
    """
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "rota.toml").write_text(MANIFEST, encoding="utf-8")
    (folder / "agent.c").write_bytes(ECHO.read_bytes())
    (folder / "trip.c").write_bytes(TRIP.read_bytes())
    rota_up(run_dir)
    dev = start_process("-m", "rota.cli", "dev", str(folder), "--dir", str(run_dir))
    dev.wait_for("lane dev is open")
    dev.wait_for("echo is deployed in lane dev")
    with Client(run_dir, contact_s=30) as client:
        client.submit("echo/a", b"hello", lane="dev").result()
        dev.wait_for("^1 echo/a tell hello$")
        dev.wait_for("^    = hello$")
        (folder / "agent.c").write_bytes(b"no module")
        dev.wait_for("this is no WebAssembly module")
        (folder / "agent.c").write_bytes(ECHO.read_bytes())
        dev.wait_for("echo is deployed in lane dev", 2)
        client.submit("echo/a", bytes([255, 10]), lane="dev").result()
        client.submit("nobody", b"x", lane="dev").outcome()
        (folder / "notes.txt").write_text("no part of it", encoding="utf-8")
        for turn in (4, 5):  # the second is printed after a look at the files
            client.submit("echo/a", {"a": [1, None]}, lane="dev").result()
            dev.wait_for(f'^{turn} echo/a tell {{"a": \\[1, null\\]}}$')
        assert dev.text.count("echo is deployed") == 2
        (folder / "rota.toml").write_text(FLOW_MANIFEST, encoding="utf-8")
        dev.wait_for("echo is deployed in lane dev", 3)
        client.submit("echo", b"Rome", lane="dev")
    dev.wait_for("^2 echo/a tell ff0a$")
    dev.wait_for("^3 nobody tell x$")
    dev.wait_for("^    unknown_agent: ")
    dev.wait_for("^6 echo/~6 tell Rome$")
    dev.wait_for("^    waits")
    dev.send(signal.SIGINT)
    assert dev.wait() == 130
