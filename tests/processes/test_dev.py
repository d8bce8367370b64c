"""`rota dev` with a real broker and worker: builds, deploys, prints what the agent did, and goes on after mistakes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rota.client import Client

ECHO = Path(__file__).parents[2] / "examples" / "agents" / "echo.wasm"

MANIFEST = """[agent]
name = "echo"
language = "c"
kind = "agent"
[build]
command = ["cp", "agent.c", "{output}"]
"""


def test_a_project_is_deployed_at_each_change(
    tmp_path: Path, run_dir: Path, rota_up: Callable[..., Any], start_process: Callable[..., Any]
) -> None:
    """Goal: an author sees what the agent did, and a mistake does not end it. Method: a project whose source is the
    module itself: good, then no module, then good again.
    """
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "rota.toml").write_text(MANIFEST, encoding="utf-8")
    (folder / "agent.c").write_bytes(ECHO.read_bytes())
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
    dev.wait_for("^2 echo/a tell ff 0a$")
    dev.wait_for("^3 nobody tell x$")
    dev.wait_for("^    unknown_agent: ")
    dev.send(signal.SIGINT)
    assert dev.wait() == 130
