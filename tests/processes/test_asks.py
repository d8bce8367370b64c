"""Answers that come later, through real processes: whoever asked gets them, across crashes and from other processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sdk_languages import SDK

from rota.cli.exits import ExitCode
from rota.client import AsyncClient, Client, TaskFailed

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")]

EXAMPLES = SDK / "c" / "examples"  # what `desk` and `trip` do stands in sdk/README.md
SOON = {"ROTA_HEARTBEAT_MS": "300"}  # how soon workers notice a new broker


@pytest.fixture
def up(rota_up: Callable[..., Any], run_dir: Path) -> Any:
    """A system with the agents `desk` and `echo`."""
    started = rota_up(run_dir, **SOON)
    with Client(run_dir) as client:
        for name in ("desk", "echo"):
            client.deploy(name, EXAMPLES / f"{name}.wasm")
    return started


def rota(run_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rota.cli", *arguments, "--dir", str(run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def until_open(client: Client, *owners: str) -> list[dict[str, Any]]:
    """Wait until these addresses owe answers, and only they; return the open asks."""
    deadline = time.monotonic() + 60
    while True:
        found: list[dict[str, Any]] = client.query("asks")["asks"]
        if sorted(row["owner"] for row in found if row["state"] != "ended") == sorted(owners):
            return found
        assert time.monotonic() < deadline, found
        client.wait_idle(timeout_s=60)


def test_answers_reach_whoever_asked(up: Any, run_dir: Path) -> None:
    """Goal: one call gets the final answer of a chain, whatever dies meanwhile. Method: chains over two agents, in both
    clients; then asks that wait while the broker and the worker are killed, answered to two processes; a refusal, a
    hand-on, a deadline, a cancel.
    """
    with Client(run_dir) as client:
        assert client.ask("desk/a", b"hello").result().payload == b"hello"
        batch = client.ask_many("desk/b", [b"1", b"2", b"transfer"], deadline_s=60)
        assert [one.payload for one in batch.results()] == [b"1", b"2", b"transfer"]
        assert sorted(one.seq for one in client.as_completed(batch)) == batch.seqs
        asyncio.run(ask_at_once(run_dir))

        _, news = client.follow(["ask"], timeout_s=60)
        waiting = [client.ask(f"desk/{name}", b"wait") for name in "cdefg"]
        until_open(client, *[f"desk/{name}" for name in "cdefg"])
        told = [event.what for _, event in zip(waiting, news, strict=False)]  # type: ignore[union-attr]
        assert [(what.label, what.fields["seq"]) for what in told] == [("ask_opened", one.seq) for one in waiting]
        up.kill_child("cpu-1")
        up.kill_child("broker")
        with Client(run_dir, timeout_s=60) as other:
            for name, word in (("c", b"answer"), ("d", b"refuse"), ("e", b"pass")):
                other.submit(f"desk/{name}", word).result()
            assert other.result(waiting[0].seq).value == {"waited": waiting[0].outcome().turn}
        with pytest.raises(TaskFailed, match="the desk is closed"):
            waiting[1].result()
        assert waiting[2].result().value == [waiting[2].outcome().turn]
        assert waiting[3].cancel()
        assert waiting[3].outcome().kind == "cancelled"
        assert client.ask("desk/h", b"wait", deadline_s=0.2).outcome().kind == "expired"
        with pytest.raises(TimeoutError):
            waiting[4].result(timeout_s=0.1)
        assert [row["seq"] for row in until_open(client, "desk/g") if row["state"] != "ended"] == [waiting[4].seq]
        assert client.ask("nobody", b"hello").outcome().kind == "unknown_agent"


async def ask_at_once(run_dir: Path) -> None:
    async with AsyncClient(run_dir) as client:
        handles = [await client.ask(f"desk/{n}", b"%d" % n) for n in range(5)]
        assert [(await one.result()).payload for one in handles] == [b"0", b"1", b"2", b"3", b"4"]
        batch = await client.ask_many(["desk/x", "desk/y"], [b"x", b"y"], deadline_s=60)
        assert sorted([one.payload async for one in batch.as_completed()]) == [b"x", b"y"]


def test_a_cancelled_call_leaves_nothing_behind(up: Any, run_dir: Path) -> None:
    """Goal: what a flow has started ends with it. Method: a flow that waits for a desk that does not answer, and for a
    model that no worker runs and that stands at the head of the line; a flow that fails since nobody is there to ask.
    """
    with Client(run_dir) as client:
        client.deploy("trip", EXAMPLES / "trip.wasm", flow=True)
        for name in ("weather", "hotel", "booking"):
            client.deploy(name, EXAMPLES / "desk.wasm")
        failed = client.ask("trip", "Lisbon").outcome()
        assert (failed.kind, "AskFailed: unknown_model" in failed.message) == ("error", True), failed.message
        client.deploy_model("smollm2", bytes(32), check=False)
        trip = client.ask("trip", b"wait")
        deadline = time.monotonic() + 60
        while client.query("lanes")[0]["asks"] < 3:
            assert time.monotonic() < deadline
        rows = {row["owner"]: row for row in client.query("asks")["asks"]}
        call = rows[f"trip/~{trip.seq}"]
        assert (call["state"], [address for _, address in call["waits_for"]]) == (
            "waits", ["weather/today", "hotel/best", "model:smollm2"],
        )  # fmt: skip
        assert trip.cancel()
        client.wait_idle(timeout_s=60)
        assert trip.outcome().kind == "cancelled"
        assert [row["state"] for row in client.query("asks")["asks"]] == ["ended"]
        targets = {dead["target"]: dead["kind"] for dead in client.query("dead")}
        assert targets["model:smollm2"] == targets["weather/today"] == targets["trip"] == "cancelled"


def test_the_program_on_the_page_of_the_protocol_gets_its_answers(up: Any, run_dir: Path, tmp_path: Path) -> None:
    """Goal: the page is enough to write a producer. Method: run it twice; the second run submits nothing new."""
    page = (Path(__file__).parents[2] / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
    program = tmp_path / "producer.py"
    program.write_text(page.rpartition("```python\n")[2].partition("```")[0], encoding="utf-8")
    for _ in range(2):
        command = [sys.executable, str(program), str(run_dir)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert ended.stdout == "1 b'hello'\n2 b'world'\n"


@pytest.fixture
def asking(up: Any, run_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """`rota ask desk/a wait`, which waits."""
    command = [sys.executable, "-m", "rota.cli", "ask", "desk/a", "wait", "--dir", str(run_dir)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        with Client(run_dir) as client:
            until_open(client, "desk/a")
        yield process
        process.kill()


def test_the_command_line_asks(asking: subprocess.Popen[str], run_dir: Path) -> None:
    """Goal: a user gets the answer, or is told how to get it. Method: each command, and Ctrl-C while one waits."""
    found = rota(run_dir, "asks")
    assert found.returncode == ExitCode.OK
    title, row, *_ = found.stdout.splitlines()
    assert title.split() == ["seq", "turn", "asker", "owner", "state", "age", "due", "waits", "for"]
    assert row.split()[:5] == ["1", "1", "outside", "desk/a", "postponed"]
    assert rota(run_dir, "asks", "--older", "1h").stderr == "no asks are open in lane main for so long\n"
    assert json.loads(rota(run_dir, "asks", "--json").stdout)["open"] == 1
    early = rota(run_dir, "result", "1")
    assert (early.returncode, early.stderr) == (
        ExitCode.TRY_LATER,
        "error: task 1 is pending, owed by desk/a: no outcome yet; --wait waits for it\n",
    )
    assert asking.stderr is not None
    assert asking.stderr.readline() == "waiting: desk/a owes the answer of task 1: `rota asks` says since when\n"
    asking.send_signal(signal.SIGINT)
    assert asking.wait(60) == ExitCode.INTERRUPTED
    assert "`rota result 1 --wait` waits for it" in asking.stderr.read()
    idle = rota(run_dir, "lane", "wait", "main")
    assert "lane main is idle with 1 ask open: `rota asks` says who owes them" in idle.stderr
    answered = rota(run_dir, "ask", "desk/a", "answer")
    assert (answered.returncode, answered.stdout) == (ExitCode.OK, "answered")
    late = rota(run_dir, "result", "1", "--json", "--wait")
    assert (late.returncode, json.loads(late.stdout)["value"]) == (ExitCode.OK, {"waited": 1})
    expired = rota(run_dir, "ask", "desk/b", "wait", "--deadline", "100ms")
    assert (expired.returncode, expired.stdout) == (ExitCode.FAILED, "")
    assert expired.stderr == "error: task 3 failed with expired: its deadline passed before its answer came\n"
    seq = rota(run_dir, "ask", "desk/b", "--file", "-", "--no-wait")
    assert (seq.returncode, seq.stdout) == (ExitCode.OK, "4\n")
    again = rota(run_dir, "dead", "retry", "3", "--wait", "--wait-timeout", "0.1")
    assert again.returncode == ExitCode.TRY_LATER
    assert "error: task 7 has no outcome yet: `rota result 7 --wait` waits for it\n" in again.stderr
    assert rota(run_dir, "cancel", "1").stderr == "the outcome of task 1 is final; it cannot be cancelled\n"
