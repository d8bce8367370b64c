"""kill -9 at random moments: of workers, the broker, producers, everything. The result of the run must be the same.

The seeds are fixed, so each test always kills at the same counts of retired tasks; scripts/campaign.py tries many
seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from forest import LANE, Expected, Forest, Seen, at_moments, digest_of, expected_of, kill_now, pick_moments

from rota.client import Client
from rota.common.digests import lane_seed

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

FOREST = Forest(roots=30, depth=4, fanout=3)
COUNTER = Path(__file__).resolve().parents[2] / "examples" / "agents" / "counter.wasm"
SOON = {"ROTA_HEARTBEAT_MS": "300"}  # how soon workers notice a new broker

RotaUp = Callable[..., Any]
StartProcess = Callable[..., Any]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return expected_of(FOREST, tmp_path_factory.mktemp("reference"))


def test_killed_workers_leave_no_trace(
    rota_up: RotaUp, run_dir: Path, expected: Expected, threads: ThreadPoolExecutor
) -> None:
    """Goal: the death of workers cannot be seen. Method: kill one of two at five moments, so that both are away for a
    while; one digest, and one result for every task.
    """
    random = Random(1)
    up = rota_up(run_dir, cpu_workers=2)
    seen = Seen()
    with Client(run_dir) as client:
        FOREST.prepare(client)
        collected = threads.submit(seen.collect, run_dir, FOREST.tasks)
        client.release(LANE)
        killed = 0
        for _ in at_moments(run_dir, pick_moments(random, 5, FOREST.tasks)):
            killed += kill_now(up.pids()[random.choice(["cpu-1", "cpu-2"])])
        assert killed > 1
        assert digest_of(client) == (FOREST.tasks, expected.digest)
        collected.result()
        seen.check(expected)
        assert client.status()["divergences"] == 0
        attempts = [client.query("task", seq=seq)["attempts"] for seq in range(1, FOREST.tasks + 1, 50)]
        assert max(attempts) <= 1 + killed


def test_killed_broker_contradicts_nothing(
    rota_up: RotaUp, run_dir: Path, expected: Expected, threads: ThreadPoolExecutor
) -> None:
    """Goal: nothing that a client saw is taken back. Method: kill the broker at three moments while a client collects
    results; it and the workers find the new one by themselves; compare all results with those after the last restart.
    """
    up = rota_up(run_dir, cpu_workers=2, **SOON)
    seen = Seen()
    with Client(run_dir) as client:
        batch = FOREST.prepare(client)
        workers = {name: pid for name, pid in up.pids().items() if name != "broker"}
        collected = threads.submit(seen.collect, run_dir, FOREST.tasks)
        client.release(LANE)
        for _ in at_moments(run_dir, pick_moments(Random(2), 3, FOREST.tasks), new_broker=True):
            up.kill_child("broker")
        assert digest_of(client) == (FOREST.tasks, expected.digest)
        collected.result()
        up.kill_child("broker")
        up.wait_child_ready("broker", 5)
        for result in client.results(1, FOREST.tasks):
            seen.take(result)
        seen.check(expected)
        assert [result.seq for result in batch.results()] == list(range(1, FOREST.roots + 1))
        assert client.digest(LANE)["digest"] == expected.digest
        assert client.status()["boot"] == 5
        assert {name: pid for name, pid in up.pids().items() if name != "broker"} == workers, "they stayed"


def test_killed_everything_finishes_after_the_restart(rota_up: RotaUp, run_dir: Path, expected: Expected) -> None:
    """Goal: a power cut costs time only. Method: kill broker, workers and supervisor at once in mid-run, start again
    with another number of workers.
    """
    up = rota_up(run_dir, cpu_workers=2)
    with Client(run_dir) as client:
        FOREST.prepare(client)
        client.release(LANE)
        for _ in at_moments(run_dir, [FOREST.tasks // 3]):
            for pid in up.pids().values():
                kill_now(pid)
            up.kill()
    up.wait_children_gone()
    rota_up(run_dir, cpu_workers=1)
    seen = Seen()
    with Client(run_dir) as client:
        assert digest_of(client) == (FOREST.tasks, expected.digest)
        for result in client.results(1, FOREST.tasks):
            seen.take(result)
        seen.check(expected)


PRODUCER = """
import sys
from rota.client import Client
with Client(sys.argv[1], producer="till") as client:
    for number in range(1, 41):
        batch = client.submit_many(f"counter/{number % 3}", [b"x"] * 5, lane=sys.argv[2], number=number, now_ms=7)
        print("accepted", number, batch.seqs[0], flush=True)
print("through")
"""


def test_killed_producer_repeats_itself_without_double_work(
    rota_up: RotaUp, start_process: StartProcess, run_dir: Path
) -> None:
    """Goal: who does not know whether a submit arrived sends it again. Method: kill a producer at three places of its
    submits and start it anew with the same name and numbers; old numbers get their old answer, the digest is that of a
    producer that was never killed.
    """
    rota_up(run_dir)
    random = Random(3)
    with Client(run_dir) as client:
        client.deploy("counter", COUNTER)
        for lane in ("killed", "calm"):
            client.open_lane(lane, paused=True, seed=lane_seed("same"))
        answers: dict[str, str] = {}
        for accepted in [*sorted(random.sample(range(2, 40), 3)), None]:
            producer = start_process("-c", PRODUCER, str(run_dir), "killed")
            producer.wait_for(r"^through" if accepted is None else rf"^accepted {accepted} ")
            producer.close()
            for line in producer.lines[: len(producer.lines) - (accepted is None)]:
                _, number, seq = line.split()
                assert answers.setdefault(number, seq) == seq
        assert len(answers) == 40
        calm = start_process("-c", PRODUCER.replace("till", "other"), str(run_dir), "calm")
        calm.wait_for("^through")
        for lane in ("killed", "calm"):
            client.release(lane)
        assert digest_of(client, "killed") == digest_of(client, "calm")
        assert client.digest("killed")["retired"] == 200
