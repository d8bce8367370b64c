"""Attacks on a real worker behind a real broker: neighbours, large results, and the proof of the whole run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attacks
import pytest
from wasmtime import wat2wasm

from rota.client import Client
from rota.common.limits import PAYLOAD_BYTES_MAX
from rota.common.work import Limits

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

WAIT_SECONDS = 120
CHOSEN = (
    "endless loop", "memory bomb", "memory at the start", "fill past the end", "nested arrays", "output too large",
    "text that is no text", "emit flood", "an answer that wraps", "millions of log lines", "a failure of nothing",
    "exit at the start", "garbage for WASI 1",
)  # fmt: skip
SIZE = PAYLOAD_BYTES_MAX + 5
LARGE = attacks.module(
    f"(memory.fill (i32.const 0) (i32.load8_u (local.get $p)) (i32.const {SIZE})) "
    f"(call $pack (i32.const 0) (i32.const {SIZE}))",
    pages=32,
)


def test_attackers_beside_others(rota_up: Callable[..., Any], run_dir: Path) -> None:
    """Goal: attackers get what the page says, nobody else notices, the worker lives, and the run can be proven.

    Method: one worker; attacks in one lane, a counter in another, by turns; large results; verify.
    """
    up = rota_up(run_dir, cpu_workers=1)
    pids = up.pids()
    chosen = [attack for attack in attacks.attacks() if attack.name in CHOSEN]
    assert len(chosen) == len(CHOSEN)
    with Client(run_dir) as client:
        client.open_lane("attackers")
        client.deploy("counter", bytes(wat2wasm(attacks.NEIGHBOUR)), "agent")
        client.deploy("large", bytes(wat2wasm(LARGE)), "function", code_limits=Limits(result_bytes=4 << 20))
        for number, attack in enumerate(chosen, 1):
            limits = Limits()._replace(**attack.limits)
            module = bytes(wat2wasm(attack.text))
            client.deploy("a", module, attack.kind, lane="attackers", code_limits=limits, check=False)
            outcome = client.submit("a", attack.payload, lane="attackers").outcome(WAIT_SECONDS)
            assert ("done" if outcome.ok else outcome.kind) == attack.outcome, (attack.name, outcome)
            assert outcome.ok or attack.message in outcome.message
            assert client.submit("counter/x", b"").outcome(WAIT_SECONDS).payload == bytes([number])
        for byte in (b"x", b"y", b"x"):
            large = client.submit("large", byte).outcome(WAIT_SECONDS)
            assert (large.payload, large.data) == (b"", byte * SIZE)
        client.wait_idle(timeout_s=WAIT_SECONDS)
        client.wait_idle("attackers", timeout_s=WAIT_SECONDS)
    assert up.pids() == pids, up.text
    up.close()
    verify = [sys.executable, "-m", "rota.cli", "verify", str(run_dir)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
