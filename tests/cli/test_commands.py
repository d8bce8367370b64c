"""The command line without a broker: its output, imports and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from onnx import TensorProto, helper
from smallest_model import SMALLEST_MODEL

from rota.cli.__main__ import rota
from rota.cli.common_options import ByteCount, Duration
from rota.cli.exits import ExitCode, error_lines, exit_code_of
from rota.cli.output import cell, counted
from rota.cli.run import _source
from rota.cli.submit import _rest, _tasks, print_outcome, submit
from rota.cli.waiting import not_there_yet
from rota.common import errors
from rota.common.messages import ResultItem
from rota.common.results import Result
from rota.runtimes.catalog import runtime_named
from rota.tensors.payloads import Payloads

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(call: Run, monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> Run:
    """Call the command line on a run folder of this test."""
    monkeypatch.setenv("ROTA_DIR", str(run_dir))
    return call


def commands(command: click.Command, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, name
            found += commands(child, (*path, name))
    return found


def test_the_commands_are_those_of_the_manual() -> None:
    """Goal: no command gets lost or a wrong name. Method: the whole tree."""
    names = [" ".join(path) for path, _ in commands(rota, ())]
    assert names[1:] == [
        "up", "broker", "cpu-worker", "gpu-worker", "deploy", "runtime",
        "runtime fetch", "runtime ls", "runtime rm", "runtime show",
        "model", "model add", "model deploy", "model fetch",
        "model ls", "model probe", "model rm", "model show", "new", "new agent", "new flow", "build", "dev",
        "submit", "ask", "asks", "run", "result", "cancel", "tasks",
        "dead", "dead drop", "dead ls", "dead retry", "dead show",
        "generate", "chat", "embed", "classify",
        "lanes", "lane", "lane open", "lane wait", "lane window", "pause", "release", "digest", "verify", "log", "show",
        "story", "state", "tree", "conversation", "conversation ls",
        "conversation show", "fork", "check-upgrade", "bisect", "diff", "export", "import", "compact", "status",
        "agents", "workers", "drain", "events", "doctor", "version", "completion",
    ]  # fmt: skip


def test_every_command_shows_an_example(run: Run) -> None:
    """Goal: help that helps. Method: `--help` of every command; those of processes have none to show."""
    for path, command in commands(rota, ())[1:]:
        code, out, _ = run(*path, "--help")
        assert code == ExitCode.OK
        assert "Usage: rota " + " ".join(path) in out
        if path[0] not in ("up", "broker", "cpu-worker", "gpu-worker"):
            assert f"rota {' '.join(path)}" in out.split("Options:")[0].split("\n", 1)[1], path
        assert command.help


def test_every_option_has_a_variable() -> None:
    """Goal: everything can be set from the environment, the run folder everywhere by ROTA_DIR. Method: click's tree."""
    for path, command in commands(rota, ())[1:]:
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert all(one.show_envvar for one in options), path
        assert [one.envvar for one in options if "--dir" in one.opts] in ([], ["ROTA_DIR"])
        assert all((one.metavar or one.is_flag or one.type) for one in options)


@pytest.mark.parametrize(
    ("variable", "arguments", "option"),
    [
        ("ROTA_EVENTS_FOR", ("events",), "--for"),
        ("ROTA_STORY_FROM", ("story", "counter/a"), "--from"),
        ("ROTA_LANE_WAIT_WAIT_TIMEOUT", ("lane", "wait", "main"), "--wait-timeout"),
    ],
)
def test_a_variable_has_the_name_of_its_option(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, arguments: tuple[str, ...], option: str
) -> None:
    """Goal: the manual's rule for variables holds. Method: options whose parameter has another name, a wrong value."""
    monkeypatch.setenv(variable, "x")
    code, _, err = run(*arguments)
    assert code == ExitCode.USAGE
    assert f"Invalid value for '{option}': 'x'" in err


def test_variables_are_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: ROTA_COMMAND_OPTION sets an option. Method: a value that the option refuses."""
    monkeypatch.setenv("ROTA_SUBMIT_PRIORITY", "99")
    code, _, err = run("submit", "echo")
    assert code == ExitCode.USAGE
    assert "99" in err


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        (["submit", "--help"], ("wasmtime", "onnxruntime", "numpy", "asyncio", "rota.broker", "rota.gpu_worker")),
        (["model", "ls"], ("wasmtime", "onnxruntime", "numpy")),
        (["up", "--help"], ("wasmtime", "onnxruntime", "numpy", "rota.client")),
    ],
)
def test_a_command_loads_only_what_it_needs(arguments: list[str], modules: tuple[str, ...], tmp_path: Path) -> None:
    """Goal: a command line that answers at once. Method: what a fresh interpreter has loaded at its end."""
    loaded = f"[name for name in {modules!r} if name in sys.modules]"
    script = (
        "import sys\nfrom rota.cli.__main__ import main\n"
        f"try:\n    main({arguments!r})\nfinally:\n    print({loaded}, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",), ("lanes",), ("workers",), ("agents",), ("tasks",), ("digest",), ("result", "1"), ("cancel", "1"),
        ("submit", "echo", "hi"), ("ask", "echo", "hi"), ("asks",),
        ("dead", "ls"), ("dead", "retry", "1"), ("dead", "drop", "--all"), ("pause", "main"),
        ("release", "main"), ("drain",), ("lane", "open", "two"),
    ],
)  # fmt: skip
def test_without_a_broker_a_command_says_what_to_do(run: Run, arguments: tuple[str, ...]) -> None:
    """Goal: the most common mistake has a remedy and a code of its own. Method: each kind of command, no broker."""
    code, out, err = run(*arguments, "--timeout", "0.01")
    assert code == ExitCode.NOT_REACHABLE
    assert out == ""
    assert err.startswith("error: no broker answers at ipc://")
    assert "rota up --dir" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("result", "abc"), "'abc' is not a valid whole number"),
        (("result", "1", "--wait", "soon"), "'soon' is not a valid number"),
        (("lane", "open", "x", "--bytes-max", "64mb"), "number of bytes, such as 65536, 64KiB"),
        (("nonsense",), "No such command 'nonsense'"),
        (("submit",), "TARGET"),
        (("submit", "echo", "a", "--file", __file__), "one of PAYLOAD, --file and --jsonl"),
        (("submit", "echo", "--number", "3"), "--producer"),
        (("submit", "not a target", "x"), "is no target"),
        (("submit", "echo", "x", "--lane", "no/lane"), "cannot name a lane"),
        (("submit", "echo", "x", "--producer", "p" * 65), "producer id"),
        (("dead", "drop"), "--all"),
        (("drain", "--off", "--wait"), "exclude"),
        (("lane", "open", "two", "--seed", "12"), "64 hex digits"),
        (("deploy", "echo", __file__, "--export", "memory=x"), "ROLE one of alloc, call, output_ptr, output_len"),
        (("result", "0"), "x>=1"),
        (("model", "show", "nothing"), "there is no model 'nothing'"),
        (("model", "add", "bad/name", __file__), "cannot name a model"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_sent(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """Goal: mistakes are told at once, on stderr. Method: one of each kind, with no broker to ask."""
    code, out, err = run(*arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert said in " ".join(err.split())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "no line with a task"),
        ("not json\n", "line 1 is no JSON"),
        ('\n{"payload": 1}\n', 'line 2 names no "target"'),
        ('{"target": "echo", "payload": {"base64": "?"}}', "no base64"),
        ('{"target": "echo", "payload": "\\ud800"}', "line 1: the payload cannot be sent"),
        ('{"target": "echo", "payload": ["\\ud800"]}', "line 1: the payload cannot be sent"),
        ('{"target": "echo/\\ud800"}', "line 1: 'echo/\\ud800' is no target"),
        ("[" * 100_000, "line 1 is nested too deeply"),
        ('\n{"target": "echo", "payload": NaN}', "line 2 is no JSON: NaN"),
        ('{"target": "echo", "payload": 1e999}', "line 1: the payload cannot be sent"),
        ('{"target": "echo", "payloud": 1}', "line 1: unknown key 'payloud'"),
        ('{"target": 7}', "line 1: the target is no text"),
    ],
)
def test_wrong_lines_are_named(run: Run, tmp_path: Path, lines: str, said: str) -> None:
    """Goal: one knows which line of a --jsonl file is wrong. Method: files with one wrong line."""
    path = tmp_path / "lines.jsonl"
    path.write_text(lines, encoding="utf-8")
    code, _, err = run("submit", "--jsonl", str(path))
    assert code == ExitCode.USAGE
    assert said in " ".join(err.split())


def test_payloads_are_the_bytes_that_were_typed() -> None:
    """Goal: text of any encoding can be sent, and - is stdin. Method: what becomes of such arguments."""
    assert _tasks("echo", os.fsdecode(b"\xff"), (), None) == ("echo", [b"\xff"])
    (files,) = (one for one in submit.params if one.name == "files")
    assert files.type.convert("-", files, None) == Path("-")


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo terminal is needed")
def test_progress_leaves_nothing_behind() -> None:
    """Goal: results never stand beside a progress line. Method: what a terminal gets while both are written."""
    import pty

    ours, theirs = pty.openpty()
    script = (
        "from rota.cli.output import Progress, write_bytes\n"
        "with Progress(None, 'done') as bar:\n    bar(1, 2)\n    bar.clear()\n    write_bytes(b'one')\n    bar(2, 2)\n"
        "write_bytes(b'two')"
    )
    try:
        subprocess.run([sys.executable, "-c", script], stdout=theirs, stderr=theirs, timeout=60, check=True)
        shown = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown == "done 1 of 2\r\x1b[Kone\r\ndone 2 of 2\r\x1b[Ktwo\r\n"


def test_a_bind_address_must_be_local(run: Run) -> None:
    """Goal: a setting that cannot be used has its own code. Method: an address of another host."""
    code, _, err = run("status", "--bind", "tcp://192.0.2.1:5000")
    assert code == ExitCode.CONFIG
    assert "CURVE" in err


@pytest.mark.parametrize("kind", [error for error in vars(errors).values() if isinstance(error, type)])
def test_every_error_has_an_exit_code(kind: type) -> None:
    """Goal: no error ends as a traceback. Method: all error classes."""
    if issubclass(kind, errors.RotaError):
        code = exit_code_of(kind("words"))
        assert code not in (ExitCode.OK, ExitCode.BUG)
        assert (code == ExitCode.TRY_LATER) == (kind in (errors.Busy, errors.Draining, errors.StorageFull))


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65_536), ("64KiB", 65_536), ("64 MiB", 64 << 20), ("4GiB", 4 << 30), ("0TiB", 0)]
)
def test_sizes_take_units(text: str, size: int) -> None:
    """Goal: nobody counts zeros. Method: numbers of bytes with and without a unit."""
    assert ByteCount(0, 1 << 40).convert(text, None, None) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("500ms", 0.5), ("1.5h", 5_400), ("15 m", 900), ("7d", 604_800)]
)
def test_times_take_units(text: str, seconds: float) -> None:
    """Goal: nobody converts hours. Method: times with and without a unit, and what is none."""
    assert Duration(0).convert(text, None, None) == seconds
    for wrong in ("1w", "s", "-5m", "5 m s", "5e400d"):
        with pytest.raises(click.BadParameter):
            Duration(0, 1e9).convert(wrong, None, None)


def test_numbers_are_counted_as_people_do() -> None:
    """Goal: no "1 turns". Method: none, one and many."""
    said = [counted(number, what) for number, what in ((0, "turn"), (1, "turn"), (1_234, "turn"), (2, "process"))]
    assert said == ["0 turns", "1 turn", "1,234 turns", "2 processes"]


def test_a_program_in_typescript_runs_without_its_types(tmp_path: Path) -> None:
    """Goal: `rota run` takes what `rota deploy` takes. Method: a file, as it is sent."""
    pytest.importorskip("quickjs_rs")
    (tmp_path / "t.ts").write_text("const x: number = 5", encoding="utf-8")
    source, name = _source(tmp_path / "t.ts", runtime_named("javascript"))
    assert (name, "number" in source, "x = 5" in source) == ("t.js", False, True)


def test_a_result_is_readable_on_a_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: no raw bytes on a terminal, only those bytes in a pipe, and the log of a task that went well is seen.
    Method: MessagePack, text and other bytes, on a stdout that says what it is.
    """

    def printed(data: bytes, *, terminal: bool, as_json: bool = False) -> tuple[str, str]:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
        item = ResultItem(7, "main", 1, 1, True, data, (), "", "", ("said",), None)
        assert print_outcome(Result(item, Payloads(None)), as_json)
        out, err = capfd.readouterr()
        return out, err

    assert printed(b"\xcd\x03\x84", terminal=True)[0] == "900\n"
    assert "(MessagePack, 3 bytes;" in printed(b"\xcd\x03\x84", terminal=True)[1]
    assert printed(b"\xff\xfe\xfd", terminal=True)[0] == "fffefd\n"
    assert printed(b"a\nb", terminal=True) == ("a\nb\n", "  log: said\n")
    assert printed(b"a\nb", terminal=False) == ("a\nb", "  log: said\n")
    facts = json.loads(printed(b"\x81\xa1a\x01", terminal=False, as_json=True)[0])
    assert facts["value"] == {"a": 1}
    assert "value" not in json.loads(printed(b"text", terminal=False, as_json=True)[0])
    assert cell("two\nlines") == "two\\nlines"


def test_a_failed_task_shows_its_log() -> None:
    """Goal: one sees why. Method: the lines of a TaskFailed."""
    error = errors.TaskFailed("task 3 failed with trap: x", log=["one", "two"])
    assert error_lines(error) == ["error: task 3 failed with trap: x", "  log: one", "  log: two"]
    assert exit_code_of(TimeoutError("late")) == ExitCode.TRY_LATER


def test_version_names_what_a_bug_report_needs(run: Run) -> None:
    """Goal: `rota version --json` is complete. Method: its keys."""
    code, out, _ = run("version", "--json")
    facts = json.loads(out)
    assert code == ExitCode.OK
    assert facts["rota"]
    assert {"protocol", "python", "pyzmq", "msgspec", "wasmtime", "onnxruntime", "platform"} <= set(facts)


def test_version_is_an_option_as_well(run: Run) -> None:
    """Goal: the first thing that users try works. Method: `rota --version`."""
    code, out, _ = run("--version")
    assert (code, out.split()[0], len(out.split())) == (ExitCode.OK, "rota", 2)


def test_an_interrupted_wait_says_what_goes_on() -> None:
    """Goal: one can come back for the results. Method: the lines for one task and for several."""
    assert not_there_yet([7]) == "task 7 has no outcome yet: `rota result 7 --wait` waits for it"
    assert not_there_yet([7, 8, 12]) == (
        "3 tasks from 7 to 12 have no outcome yet: `rota result SEQ --wait` waits for one"
    )
    assert _rest(((1, 3), (9, 2)), 1) == ((2, 2), (9, 2))
    assert _rest(((1, 3), (9, 2)), 4) == ((10, 1),)
    assert _rest(((1, 3),), 3) == ()


def test_completion_knows_the_shells(run: Run) -> None:
    """Goal: completion scripts for the usual shells. Method: print them."""
    for shell in ("zsh", "fish"):  # bash itself is asked for its version, and may not be there
        code, out, _ = run("completion", shell)
        assert code == ExitCode.OK
        assert "_ROTA_COMPLETE" in out


def test_models_live_without_a_broker(run: Run, tmp_path: Path) -> None:
    """Goal: the repository can be filled before anything runs. Method: add, ls and show, with --no-deploy."""
    path = tmp_path / "tiny.onnx"
    path.write_bytes(SMALLEST_MODEL)
    code, out, _ = run("model", "add", "tiny", str(path), "--no-deploy", "--json")
    assert code == ExitCode.OK
    added = json.loads(out)
    assert (added["name"], added["version"], added["deployed"]) == ("tiny", 1, False)
    _, out, _ = run("model", "ls", "--json")
    assert json.loads(out)[0]["digest"] == added["digest"]
    _, out, _ = run("model", "show", "tiny", "--json")
    assert json.loads(out)["files"][0]["path"] == "model.onnx"


def test_a_model_is_shown_with_what_it_takes(run: Run, tmp_path: Path) -> None:
    """Goal: `rota model show` tells how to call a model. Method: one input and output; text and JSON."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert run("model", "add", "m", str(tmp_path / "m.onnx"), "--no-deploy")[0] == ExitCode.OK
    _, out, _ = run("model", "show", "m")
    assert [line.split() for line in out.splitlines() if "float32" in line] == [
        ["x", "float32", "[n,", "4]"], ["y", "float32", "[n,", "4]"],
    ]  # fmt: skip
    _, out, _ = run("model", "show", "m", "--json")
    assert json.loads(out)["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["n", 4]}]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("generate", "m", "a", "--logprobs", "3"), ExitCode.USAGE, "--logprobs needs --json"),
        (("generate", "m", " "), ExitCode.USAGE, "the prompt is empty"),
        (("generate", "m", "a", "--raw", "--system", "b"), ExitCode.USAGE, "--raw has no messages"),
        (("generate", "m", "a", "--choice", "b", "--regex", "c"), ExitCode.USAGE, "give one of --schema, --regex"),
        (("generate", "m", "a", "--template", "b"), ExitCode.USAGE, "is not NAME=VALUE"),
        (
            ("generate", "m", "a", "--conversation", "b"),
            ExitCode.USAGE,
            "is no head: give its first 6 to 64 hex digits",
        ),
        (("generate", "m", "a", "--schema", __file__), ExitCode.USAGE, "is no JSON"),
        (("generate", "m", "a", "--temperature", "-1"), ExitCode.USAGE, "--temperature"),
        (("chat", "m", "--conversation", "b"), ExitCode.USAGE, "is no head"),
        (("classify", "m", "a", "--top", "0"), ExitCode.USAGE, "--top"),
    ],
)
def test_options_of_text_that_cannot_be_are_named(
    run: Run, arguments: tuple[str, ...], code: ExitCode, words: str
) -> None:
    """Goal: a wrong option is found before a broker is asked. Method: one wrong option at a time, and no broker."""
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert words in err


def test_dev_waits_only_for_a_project(run: Run, tmp_path: Path) -> None:
    """Goal: a wrong folder is said at once, also without `--once`. Method: a folder without rota.toml."""
    code, out, err = run("dev", tmp_path)
    assert (code, out) == (ExitCode.CONFIG, "")
    assert err.startswith("error: ")
    assert "is no project of an agent" in err
