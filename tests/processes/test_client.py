"""Both clients and the command line against real processes: a broker, a CPU worker, and their deaths."""

from __future__ import annotations

import asyncio
import io
import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
from wasi_programs import CAT

from rota import local
from rota.cli.__main__ import main
from rota.client import (
    AsyncClient,
    Busy,
    Client,
    Draining,
    Expired,
    Missed,
    NumberReused,
    TaskFailed,
    TaskRow,
    UnknownLane,
    UnknownTask,
)
from rota.common.errors import CodeError, LocalError
from rota.common.events import LanePaused
from rota.common.messages import Event

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).resolve().parent.parent.parent
AGENTS = REPOSITORY / "examples" / "agents"

Start = Callable[..., Any]


@pytest.fixture
def rota(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> Callable[..., str]:
    """Run a `rota` command line, check its exit code, and return what it printed."""
    monkeypatch.setenv("ROTA_DIR", str(run_dir))

    def run(*arguments: str, text: str = "", code: int = 0) -> str:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capfd.readouterr()
        assert end.value.code == code, (arguments, out, err)
        return out

    return run


def test_tasks_there_and_back(rota_up: Start, run_dir: Path) -> None:
    """Goal: every way to submit gives the right results. Method: the blocking client, one worker, echo and counter."""
    rota_up(run_dir)
    with Client(run_dir) as client:
        assert client.deploy("echo", AGENTS / "echo.wasm")["call"] == "rota_step"
        client.deploy("counter", (AGENTS / "counter.wasm").read_bytes(), number=500)
        assert client.submit("echo", b"hello").result(30).payload == b"hello"
        value = {"n": [1, None, "x"], "array": numpy.arange(5)}
        back = client.submit("echo", value).result(30).value
        assert back["n"] == value["n"]
        assert numpy.array_equal(back["array"], value["array"])

        batch = client.submit_many("echo", (b"%d" % index for index in range(1_000)))
        assert len(batch) == 1_000
        assert [result.payload for result in batch.results(30)] == [b"%d" % index for index in range(1_000)]
        assert batch[-1].result(30).payload == b"999"  # once more, from what the broker keeps
        assert sorted(result.seq for result in client.as_completed(batch[:50])) == batch.seqs[:50]

        runs = [TaskRow(("counter/a", "counter/b"), (b"1", b"2"), priority=3), TaskRow("counter/a", (b"3",))]
        mixed = client.submit_runs(runs)
        assert [result.ok for result in mixed.outcomes(30)] == [True, True, True]
        assert mixed.seqs == list(range(mixed.seqs[0], mixed.seqs[0] + 3))

        seen: list[tuple[int, int]] = []
        mapped = client.map("echo", (b"%d" % index for index in range(700)), in_flight=300, batch=100,
                            progress=lambda done, submitted: seen.append((done, submitted)))  # fmt: skip
        assert [result.payload for result in mapped] == [b"%d" % index for index in range(700)]
        assert seen[-1] == (700, 700)
        assert max(submitted - done for done, submitted in seen) <= 300
        unordered = client.map("echo", [b"%d" % index for index in range(300)], ordered=False)
        assert len({result.payload for result in unordered}) == 300
        first = batch.seqs[0]
        assert [result.seq for result in client.results(first, 3, 30)] == [first, first + 1, first + 2]
        idle = client.wait_idle(timeout_s=30)
        assert idle["retired"] == idle["stamped"] == client.status()["next_seq"] - 1
        assert client.digest()["digest"] == idle["digest"]


def test_a_command_is_sent_with_its_program(rota_up: Start, run_dir: Path) -> None:
    """Goal: a bundle reaches a worker through a real broker, and what is there is not sent again. Method: a command, a
    second binding of the same program, and its digest beside that of a local lane.
    """
    rota_up(run_dir)
    with Client(run_dir) as client:
        assert client.deploy("cat", CAT)["kind"] == "command"
        client.deploy("also", CAT, args=["more"])
        assert client.submit("cat", b"hello").result(30).payload == b"hello"
        assert client.submit("also", b"again").result(30).payload == b"again"
        with pytest.raises(CodeError, match="reuse is not for kind command"):
            client.deploy("cat", CAT, reuse=True)
        found = client.digest()["digest"]
    assert sorted(path.suffix for path in (run_dir / "modules").iterdir()) == [".bundle", ".bundle", ".wasm"]
    with local.open_lane() as lane:
        lane.deploy("cat", CAT)
        lane.deploy("also", CAT, args=["more"])
        lane.submit("cat", b"hello")
        lane.submit("also", b"again")
        lane.run()
        assert lane.digest == found


def test_errors_are_typed(rota_up: Start, run_dir: Path) -> None:
    """Goal: programs can tell errors apart. Method: cause each one that a broker can give."""
    rota_up(run_dir)
    with Client(run_dir, producer="errors") as client:
        with pytest.raises(TaskFailed) as failed:
            client.submit("nobody", b"").result(30)
        assert failed.value.fields["kind"] == "unknown_agent"
        with pytest.raises(TaskFailed):
            list(client.map("nobody", [b"1", b"2"]))
        outcomes = list(client.map("nobody", [b"1", b"2"], return_failures=True))
        assert [outcome.kind for outcome in outcomes] == ["unknown_agent"] * 2
        with pytest.raises(CodeError, match="no export"):
            client.deploy("broken", b"\0asm\1\0\0\0")
        with pytest.raises(UnknownLane):
            client.submit("nobody", b"", lane="nowhere")
        with pytest.raises(UnknownTask):
            client.result(1_000_000, 30)
        with pytest.raises(UnknownTask):
            client.cancel(1_000_000)
        seq = client.submit("nobody", b"x", number=7).seq
        assert client.submit("nobody", b"x", number=7).seq == seq
        with pytest.raises(NumberReused):
            client.submit("nobody", b"y", number=7)
        client.open_lane("small", paused=True, tasks_max=3)
        client.submit_many("nobody", [b""] * 3, lane="small", wait=False)
        with pytest.raises(Busy) as busy:
            client.submit("nobody", b"", lane="small")
        assert busy.value.fields["accepted"] == []
        with pytest.raises(Busy):
            client.submit("nobody", b"", lane="small", block=True, timeout_s=0.3)
        client.drain()
        with pytest.raises(Draining):
            client.submit("nobody", b"")
        client.drain(False)
        client.release("small")
        assert client.submit("nobody", b"", lane="small", block=True).outcome(30).kind == "unknown_agent"
        client.pause("small")
        held = client.submit("nobody", b"", lane="small")
        with pytest.raises(TimeoutError, match="no outcome yet"):
            held.result(0.05)
        with Client(run_dir, timeout_s=0.2) as hasty:  # and without a time of the call's own, the client's
            for wait in (hasty.result, hasty.outcome):
                with pytest.raises(TimeoutError, match="no outcome yet"):
                    wait(held.seq)
            with pytest.raises(TimeoutError, match="no outcome yet"):
                list(hasty.as_completed([held]))
            with pytest.raises(TimeoutError, match="no outcome yet"):
                list(hasty.map("nobody", [b""], lane="small"))
        with Client(run_dir, timeout_s=math.inf) as patient:  # and without an end, where that is wanted
            assert patient.submit("nobody", b"").outcome().kind == "unknown_agent"
            assert patient.submit("nobody", b"").outcome(math.inf).kind == "unknown_agent"
        assert client.cancel(held) is True  # by its handle; what is paused is told at once
        assert client.outcome(held).kind == "cancelled"


def test_results_that_are_no_longer_kept(rota_up: Start, run_dir: Path) -> None:
    """Goal: asking too late is an error of its own, not a wait without end. Method: a broker that keeps ten results."""
    rota_up(run_dir, cpu_workers=0, ROTA_RESULTS_KEPT="10")
    with Client(run_dir) as client:
        batch = client.submit_many("nobody", [b""] * 50, wait=False)
        client.wait_idle(timeout_s=30)
        assert batch[-1].outcome(30).kind == "unknown_agent"
        with pytest.raises(Expired):
            batch[0].outcome(30)


def test_dead_tasks_and_cancelling(rota_up: Start, run_dir: Path) -> None:
    """Goal: failures can be looked at, run again and dropped. Method: a task whose agent is deployed too late."""
    rota_up(run_dir)
    with Client(run_dir) as client:
        dead = client.submit("echo", b"again")
        assert dead.outcome(30).kind == "unknown_agent"
        client.deploy("echo", AGENTS / "echo.wasm")
        assert client.retry(dead.seq).result(30).payload == b"again"
        assert client.submit("nobody", b"").outcome(30).ok is False
        assert client.dead_drop() == 1
        client.pause()
        waiting = client.submit("echo", b"x")
        assert waiting.cancel() is True
        assert waiting.outcome(30).kind == "cancelled"
        client.release()
        assert waiting.cancel() is False


@pytest.mark.parametrize("rounds", [3])
def test_a_client_outlives_its_broker(rota_up: Start, run_dir: Path, rounds: int) -> None:
    """Goal: a killed broker costs time, nothing else. Method: kill it while results are outstanding; each must come,
    once, and each submit count once.
    """
    up = rota_up(run_dir)
    with Client(run_dir) as client:
        client.deploy("counter", AGENTS / "counter.wasm")
        total = 0
        for killed in range(rounds):
            batch = client.submit_many(f"counter/{killed}", [b"1"] * 2_000)
            up.kill_child("broker")
            after = client.submit_many(f"counter/{killed}", [b"1"] * 10, block=True)
            results = [*batch.results(60), *after.results(60)]
            assert [result.seq for result in results] == list(range(total + 1, total + 2_011))
            total += 2_010
        idle = client.wait_idle(timeout_s=60)
        assert idle["retired"] == total
        assert idle["failed"] == 0


def test_many_coroutines_share_a_client(rota_up: Start, run_dir: Path) -> None:
    """Goal: the asyncio client does what the blocking one does. Method: coroutines side by side, a broker's death among
    them, one cancelled wait, streams.
    """
    up = rota_up(run_dir)

    async def ask(client: AsyncClient, number: int) -> bytes | None:
        handle = await client.submit("echo", b"%d" % number)
        return (await handle.result(60)).payload

    async def scenario() -> None:
        async with AsyncClient(run_dir) as client:
            await client.deploy("echo", AGENTS / "echo.wasm")
            assert await asyncio.gather(*(ask(client, number) for number in range(200))) == [
                b"%d" % number for number in range(200)
            ]
            await client.open_lane("held", paused=True)
            held = await client.submit("echo", b"held", lane="held")
            waiting = asyncio.create_task(held.result())
            with pytest.raises(TimeoutError):
                await held.outcome(0.05)
            up.kill_child("broker")
            assert await ask(client, 5) == b"5"
            await client.release("held")
            assert (await waiting).payload == b"held"
            assert [result.payload async for result in client.map("echo", [b"a", b"b"])] == [b"a", b"b"]
            batch = await client.submit_many("echo", [b"c"] * 3)
            assert {result.seq async for result in batch.as_completed()} == set(batch.seqs)
            assert (await client.wait_idle(timeout_s=30))["line"] == 0
            assert (await (await client.submit("echo", b"c")).result(math.inf)).payload == b"c"

    asyncio.run(scenario())


def test_events_are_followed(rota_up: Start, run_dir: Path) -> None:
    """Goal: watchers see what happens. Method: a second thread pauses and releases a lane until both clients saw it."""
    rota_up(run_dir, cpu_workers=0)
    seen = threading.Event()

    def keep_changing() -> None:
        with Client(run_dir) as client:
            client.open_lane("seen")
            while not seen.is_set():
                client.pause("seen")
                client.release("seen")

    async def watch() -> Event | Missed:
        async with AsyncClient(run_dir) as client:
            return await anext(client.events(["lane"], timeout_s=60))

    changing = threading.Thread(target=keep_changing)
    changing.start()
    try:
        with Client(run_dir) as client:
            events = [next(client.events(["lane"], timeout_s=60)), asyncio.run(watch())]
            assert list(client.events(["divergence"], timeout_s=0.1)) == []  # other topics do not count
    finally:
        seen.set()
        changing.join()
    for event in events:
        assert isinstance(event, Event)
        assert (event.topic, event.lane) == ("lane", "seen")


def test_what_is_read_is_followed_without_a_gap(rota_up: Start, run_dir: Path) -> None:
    """Goal: read, then follow: nothing in between is missed or told twice. Method: another client pauses and releases a
    lane without a pause of its own; whoever begins to follow at any moment sees the next event, and it is the one that
    changes what the status said. Blocking and asyncio.
    """
    rota_up(run_dir, cpu_workers=0)
    enough = threading.Event()

    def keep_changing() -> None:
        with Client(run_dir) as client:
            client.open_lane("seen")
            while not enough.is_set():
                client.pause("seen")
                client.release("seen")

    async def follow() -> tuple[dict[str, Any], list[Any]]:
        async with AsyncClient(run_dir) as client:
            status, stream = await client.follow(timeout_s=60)
            return status, [await anext(stream) for _ in range(3)]

    changing = threading.Thread(target=keep_changing)
    changing.start()
    try:
        with Client(run_dir) as client:
            next(client.events(["lane"], timeout_s=60))  # it has begun
            for _ in range(10):
                status, stream = client.follow(timeout_s=60)
                for told, events in ((status, [next(stream) for _ in range(3)]), asyncio.run(follow())):
                    # Numbers skip a Watching, by which another subscriber learns that it is live; a loss is a Missed.
                    assert all(isinstance(event, Event) for event in events)
                    assert told["event"] < events[0].event < events[1].event < events[2].event
                    (lane,) = [lane for lane in told["lanes"] if lane["lane"] == "seen"]
                    paused = [event.what.paused for event in events if isinstance(event.what, LanePaused)]
                    assert paused == [not lane["paused"], lane["paused"], not lane["paused"]]
    finally:
        enough.set()
        changing.join()


def test_models_are_added_and_used(rota_up: Start, run_dir: Path, tmp_path: Path, rota: Callable[..., str]) -> None:
    """Goal: arrays to a model and back, inline and through the tensor store. Method: y = x + 1 on the CPU."""
    declared = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    one = onnx.helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "one"], ["y"])], "plus", declared[:1], declared[1:], [one]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "plus.onnx")
    rota_up(run_dir, cpu_workers=0, gpu_workers=1, ROTA_REQUIRE="cpu")
    added = json.loads(rota("model", "add", "plus", str(tmp_path / "plus.onnx"), "--json"))
    assert (added["deployed"], added["provider"]) == (True, "cpu")
    with Client(run_dir) as client:
        for rows in (2, 100_000):
            result = client.submit("model:plus", {"x": numpy.ones((rows, 3), numpy.float32)}).result(60)
            assert numpy.array_equal(result.arrays["y"], numpy.full((rows, 3), 2, numpy.float32))
            assert len(result.tensors) == (rows > 2)
            assert result.provenance is not None


def test_a_closed_client_says_so(run_dir: Path) -> None:
    """Goal: a use after the end is an error, and does not wait for ever. Method: close both kinds."""
    client = Client(run_dir)
    client.close()
    with pytest.raises(LocalError, match="closed"):
        client.submit("echo", b"")

    async def scenario() -> None:
        async with AsyncClient(run_dir) as client:
            waiting = asyncio.create_task(client.submit("echo", b""))
            await asyncio.sleep(0)
        with pytest.raises(LocalError, match="closed"):
            await waiting

    asyncio.run(scenario())


def test_a_client_keeps_to_its_thread(run_dir: Path) -> None:
    """Goal: a rule that would break silently breaks loudly. Method: use a client in another thread."""

    async def elsewhere() -> None:
        await asyncio.to_thread(client.status)

    with Client(run_dir, timeout_s=0.1) as client, pytest.raises(LocalError, match="belongs to the thread"):
        asyncio.run(elsewhere())


def test_the_command_line(rota_up: Start, run_dir: Path, rota: Callable[..., str]) -> None:
    """Goal: what docs/CLI.md shows works. Method: a session as a user would have it."""
    rota_up(run_dir)
    deployed = json.loads(rota("deploy", "echo", str(AGENTS / "echo.wasm"), "--json", "--fuel", "1000000"))
    assert deployed["name"] == "echo"
    assert rota("submit", "echo", "hello", "--wait") == "hello"
    lines = '{"target": "echo", "payload": "a"}\n{"target": "echo/x", "payload": {"base64": "/w=="}}\nplain\n'
    assert rota("submit", "--jsonl", "-", text=lines, code=2) == ""
    lines = lines.replace("plain", '"line"')
    seqs = json.loads(rota("submit", "echo", "--jsonl", "-", "--json", text=lines))
    assert seqs == {"seqs": [[2, 3]], "tasks": 3}
    assert json.loads(rota("result", "3", "--wait", "30", "--json"))["result"] == {"base64": "/w=="}
    assert rota("result", "4", "--wait", "30") == '"line"'
    first = rota("submit", "echo", "once", "--producer", "me", "--number", "1")
    assert rota("submit", "echo", "once", "--producer", "me", "--number", "1") == first
    rota("submit", "echo", "twice", "--producer", "me", "--number", "1", code=76)

    rota("submit", "nobody", "x", "--wait", code=1)
    dead = json.loads(rota("dead", "ls", "--json"))[0]["seq"]
    assert "unknown_agent" in rota("dead", "show", str(dead))
    assert json.loads(rota("dead", "retry", str(dead), "--json"))["retry_of"] == dead
    rota("lane", "wait", "main")
    rota("dead", "drop", "--all")
    assert json.loads(rota("dead", "ls", "--json")) == []

    rota("lane", "open", "two", "--paused", "--window", "4", "--seed", "07" * 32)
    waiting = rota("submit", "echo", "x", "--lane", "two").strip()
    rota("result", waiting, code=75)
    assert json.loads(rota("tasks", "--lane", "two", "--state", "waiting", "--json"))[0]["seq"] == int(waiting)
    rota("cancel", waiting)
    rota("release", "two")
    assert json.loads(rota("result", waiting, "--wait", "30", "--json", code=1))["kind"] == "cancelled"
    rota("cancel", waiting, code=1)
    rota("lane", "window", "two", "8")
    assert [lane["window"] for lane in json.loads(rota("lanes", "--json"))] == [1024, 8]
    assert rota("lane", "wait", "two").strip() == json.loads(rota("digest", "--lane", "two", "--json"))["digest"]

    rota("drain", "--wait")
    rota("submit", "echo", "x", code=75)
    rota("drain", "--off")
    for shown in (("status",), ("workers",), ("agents",), ("agents", "--deploys"), ("tasks",), ("digest",)):
        assert rota(*shown)
        json.loads(rota(*shown, "--json"))
    findings = json.loads(rota("doctor", "--json"))
    assert [one["level"] for one in findings if one["check"] in ("broker", "workers")] == ["ok", "ok"]


def test_the_example_producers_run(rota_up: Start, run_dir: Path, tmp_path: Path) -> None:
    """Goal: examples that work. Method: run each as its head says, with `echo` deployed."""
    rota_up(run_dir)
    with Client(run_dir) as client:
        client.deploy("echo", AGENTS / "echo.wasm")
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\n", encoding="utf-8")

    def run(name: str) -> str:
        script = REPOSITORY / "examples" / "producers" / f"{name}.py"
        return subprocess.run(
            [sys.executable, str(script), str(lines)], env={"ROTA_DIR": str(run_dir)}, capture_output=True, text=True,
            timeout=60, check=True,
        ).stdout  # fmt: skip

    first = run("safe_repeat")
    assert first == "1\n2\n"
    assert run("hello") == "b'hello'\n"
    assert run("many").startswith("88890 bytes back")
    assert run("many_at_once") == "19900\n"
    assert run("safe_repeat") == first
