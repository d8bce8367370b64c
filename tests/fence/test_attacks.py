"""All attacks of the table: the documented outcome, on both call paths, in three processes, the neighbours unharmed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attacks
import pytest
from attacks import DONE, NEIGHBOUR, digest_of_result

from rota.common.work import Done
from rota.cpu_worker.tensor_access import StoreTensors
from rota.tensors.store import TensorStore

ATTACKS = attacks.attacks()
WAIT_SECONDS = 120


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One worker for all attacks, on both call paths."""
    folder = tmp_path_factory.mktemp("fence")
    (folder / "modules").mkdir()
    world = attacks.World(folder / "modules", folder / "artefacts")
    tensors = StoreTensors(TensorStore(folder / "tensors"))
    executors = [world.executor(raw_calls=raw, tensors=tensors) for raw in (True, False)]
    yield world, executors
    for executor in executors:
        executor.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack(shared: Any, attack: attacks.Attack) -> None:
    """Goal: each attack comes to its documented outcome, and the task after it is as if there had been none.

    Method: the attack between two tasks of a neighbour, in one worker; both call paths agree in every byte.
    """
    world, executors = shared
    neighbour, code = world.agent(NEIGHBOUR), attacks.deployed(world, attack)
    results = []
    for executor in executors:
        before = attacks.run(executor, neighbour, b"")
        results.append(attacks.run(executor, code, attack.payload))
        assert attacks.run(executor, neighbour, b"") == before
    assert results[0] == results[1]
    assert results[0].stopped is None, results[0].reason
    (outcome,) = results[0].outcomes
    if type(outcome) is Done:
        assert attack.outcome == DONE
        assert attack.result in (None, outcome.result)
    else:
        assert (outcome.kind, outcome.message) == (attack.outcome, outcome.message)
        assert attack.message in outcome.message
    assert 0 <= outcome.fuel <= code.limits.fuel
    assert sum(len(line.encode()) for line in outcome.log) <= code.limits.log_bytes


def test_all_processes_agree(shared: Any, tmp_path: Path) -> None:
    """Goal: what an attack comes to is derived, with its fuel, its log and its stack. Method: two more processes, with
    other environments, folders, hash seeds and another order of the attacks.
    """
    world, executors = shared
    mine = {
        attack.name: digest_of_result(attacks.run(executors[0], attacks.deployed(world, attack), attack.payload))
        for attack in ATTACKS
    }
    for number, path in enumerate(("raw", "public")):
        folder = tmp_path / path
        folder.mkdir()
        script = [sys.executable, attacks.__file__, str(world.artefacts_dir), path]
        kits = str(Path(attacks.__file__).parent)
        variables = {
            **os.environ,
            "PYTHONHASHSEED": str(number + 1),
            "PYTHONPATH": kits,
            "LANG": "C",
            "TZ": "Asia/Tokyo",
        }
        done = subprocess.run(
            script, cwd=folder, env=variables, capture_output=True, text=True, timeout=WAIT_SECONDS, check=True
        )
        assert json.loads(done.stdout) == mine


def test_the_page_lists_the_attacks() -> None:
    """Goal: docs/FENCE.md is true. Method: its table of derived outcomes against the attacks."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "FENCE.md").read_text(encoding="utf-8")
    section = page.split("\n## Derived outcomes\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.*?) \|$", section, re.MULTILINE)[1:]
    assert rows == [
        (attack.name, attack.outcome if attack.outcome == DONE else f"`{attack.outcome}`", attack.message)
        for attack in ATTACKS
    ]
