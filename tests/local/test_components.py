"""A component in a lane: deployed by what it is, with state, and the run verified in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from components import MISCHIEF, component_of
from wasmtime import wat2wasm

from rota import local
from rota.common.work import Failed


@pytest.mark.processes
def test_a_run_of_a_component_is_verified(tmp_path: Path) -> None:
    """Goal: a component is an agent to a lane. Method: outcomes of each kind, executed again elsewhere."""
    component = component_of(MISCHIEF)
    with local.open_lane(keep=tmp_path / "run", window=4) as lane:
        with pytest.raises(local.CodeError, match="reuse is not for kind component"):
            lane.deploy("agent", component, reuse=True)
        lane.deploy("agent", component, fuel=1_000_000)
        batch = lane.submit_many("agent/a", [b"x", b"i", b"j kept", b"i", b"0", b"1", b"7 says", b"\xff"])
        outcomes = [turn.outcome for turn in lane.run()]
        assert lane.state("agent/a") == b"j kept"
        assert [one.kind for one in outcomes if isinstance(one, Failed)] == ["trap", "fuel", "error"]
        assert batch[0].result().payload == b"x"
    command = [sys.executable, "-m", "rota.cli", "verify", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lane.digest.hex() in done.stdout


def test_a_component_with_imports_is_refused(rota_lane: local.LocalLane) -> None:
    """Goal: the reason is there before any worker looks. Method: a component that wants a clock."""
    wants = bytes(wat2wasm('(component (import "wasi:clocks/wall-clock@0.2.0" (instance)))'))
    with pytest.raises(local.CodeError, match=r"imports wasi:clocks/wall-clock@0.2.0, .* build with --stub-wasi"):
        rota_lane.deploy("agent", wants)
