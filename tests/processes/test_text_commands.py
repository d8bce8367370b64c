"""`rota generate`, `chat`, `embed` and `classify` with real processes and a worker that speaks by script."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy
import pytest
from smallest_model import SMALLEST_MODEL

from rota.cli.__main__ import main
from rota.cli.exits import ExitCode
from rota.client import Client
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import RunFolder

pytestmark = pytest.mark.processes

WAIT_SECONDS = 60.0

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def rota(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, speaker: Path) -> Run:
    """Run a `rota` command line, check its exit code, and return what it printed on stdout and stderr."""
    monkeypatch.setenv("ROTA_DIR", str(speaker))

    def run(*arguments: str, text: str = "", code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        out, err = capfd.readouterr()
        assert end.value.code == code, (arguments, out, err)
        return out, err

    return run


def test_an_answer_and_what_it_took(rota: Run) -> None:
    """Goal: the text alone on stdout, the rest on stderr. Method: as a message, raw, from stdin, at once, as JSON."""
    out, err = rota("generate", "script", "Why so blue?")
    assert out == "0: Why so blue? \n"
    assert err == (
        "7 tokens of prompt, 4 tokens generated; on script (no device speaks by script), certificate A, bitwise\n"
    )
    assert rota("generate", "script", "-", "--raw", "--no-stream", text="from stdin")[0] == "from stdin \n"
    out, _ = rota("generate", "script", "a b", "--json", "--logprobs", "0", "--conversation", "new", "--system", "c")
    facts = json.loads(out)
    assert (facts["text"], facts["finish"], facts["usage"]) == ("1: a b ", "stop", {"prompt": 7, "generated": 3})
    assert facts["logprobs"] == [{"chosen": -0.5, "top": []}] * 3
    assert facts["provenance"]["certificate"] == "A"
    assert "result" not in facts, "every field stands once"
    out, err = rota("generate", "script", "more", "--conversation", facts["conversation"][:8])
    assert out == "3: more \n"
    assert err.startswith("conversation ")
    out, err = rota("result", str(facts["seq"]))
    assert (out, "certificate A, bitwise" in err) == ("1: a b ", True)
    assert json.loads(rota("result", str(facts["seq"]), "--json")[0])["result"]["text"] == "1: a b "
    _, err = rota("generate", "script", "a [fail]", code=ExitCode.FAILED)
    assert "failed with bad_input: told to fail" in err
    out, _ = rota("generate", "script", "a [fail]", "--json", code=ExitCode.FAILED)
    assert json.loads(out)["kind"] == "bad_input"
    _, err = rota("generate", "script", "a [gate]", "--wait-timeout", "0.2", code=ExitCode.TRY_LATER)
    assert "has no outcome yet: `rota result" in err


def test_an_answer_that_does_not_end_is_not_waited_for(rota: Run) -> None:
    """Goal: --wait-timeout bounds the whole wait, also while text comes. Method: an answer that goes on and on."""
    out, err = rota("generate", "script", "a [tick]", "--wait-timeout", "0.5", code=ExitCode.TRY_LATER)
    assert out.startswith("0: a [tick] ")
    assert "has no outcome yet: `rota result" in err


def test_a_cut_off_answer_is_no_success_where_it_had_to_be_whole(rota: Run, tmp_path: Path) -> None:
    """Goal: a script does not take half a JSON for one. Method: each rule, a tool, as JSON; and none of them."""
    (tmp_path / "s.json").write_text('{"type": "object"}')
    (tmp_path / "t.json").write_text('[{"name": "look"}]')
    tools = ("--tools", str(tmp_path / "t.json"), "--tool-choice")
    said = ("generate", "script", "half [cut]")
    for rule in (("--schema", str(tmp_path / "s.json")), ("--regex", "a*"), ("--choice", "half"), (*tools, "required")):
        option = "--tool-choice required" if "required" in rule else rule[0]
        expected = f"error: cut off before it was complete, as {option} needs it: raise --max-tokens"
        out, err = rota(*said, *rule, code=ExitCode.FAILED)
        assert (out, expected in err) == ("0: half \n", True)
        out, err = rota(*said, *rule, "--json", code=ExitCode.FAILED)
        assert (json.loads(out)["finish"], expected in err) == ("length", True)
    assert ", cut off by --max-tokens" in rota(*said)[1]
    rota(*said, *tools, "auto")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--schema", "{list}"), "--schema must be a JSON object, as text or as a map, got [1]"),
        (("--tools", "{list}"), "--tools[0] must be a map, got 1"),
        (("--choice", ""), "--choice must be text of 1 to"),
        (("--temperature", "200"), "--temperature must be a number from 0 to 100, got 200.0"),
        (("--conversation", "00"), "'00' is no head: give its first 6 to 64 hex digits"),
        (("--conversation", "0" * 64), "no conversation in"),
        (("--conversation", "0" * 64, "--system", "a"), "--system: the conversation has its first messages already"),
    ],
)
def test_what_is_wrong_is_named_as_on_the_command_line(
    rota: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Goal: errors name options, not fields of the payload. Method: wrong values, before anything is sent."""
    (tmp_path / "list.json").write_text("[1]")
    given = [one.replace("{list}", str(tmp_path / "list.json")) for one in arguments]
    assert message in rota("generate", "script", "a", *given, code=ExitCode.USAGE)[1]


def test_a_failed_call_was_computed_nowhere(rota: Run, tmp_path: Path) -> None:
    """Goal: no provider is named for a result that is not there. Method: a failed task and a good one, with `submit`;
    the failed one is dead, and its payload is shown as text.
    """
    for word, code, told in (("[fail]", ExitCode.FAILED, False), ("good", ExitCode.OK, True)):
        (tmp_path / "call").write_bytes(msgpack.packb({"generate": {"prompt": f"a {word}"}}))
        _, err = rota("submit", "model:script", "--file", str(tmp_path / "call"), "--wait", code=code)
        assert ("computed on" in err) is told, err
    assert '{"generate": {"prompt": "a [fail]"}}' in rota("dead", "show", "1")[0]


def test_a_dialogue_does_not_begin_at_an_unknown_head(rota: Run) -> None:
    """Goal: known before the first message. Method: a head that the store has not."""
    assert (
        "no conversation in" in rota("chat", "script", "--conversation", "0" * 64, text="a\n", code=ExitCode.USAGE)[1]
    )


def test_a_version_that_is_not_deployed(rota: Run, speaker: Path, tmp_path: Path) -> None:
    """Goal: the remedy is the command to give. Method: a version of the repository, one that it lacks, no model."""
    (tmp_path / "m.onnx").write_bytes(SMALLEST_MODEL)
    Repository(RunFolder(speaker).models).add(tmp_path / "m.onnx", "small")
    for name, remedy in (
        ("small@1", "`rota model deploy small@1` binds it"),
        ("small@7", "The repository has version 1 of small"),
        ("nope", "`rota model add nope PATH` adds one"),
    ):
        assert remedy in rota("embed", name, "a", code=ExitCode.USAGE)[1]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, None])
def test_an_answer_that_nobody_reads_is_cancelled(speaker: Path, end: signal.Signals | None) -> None:
    """Goal: nothing goes on for nobody. Method: a signal while the answer is held; or the pipe is closed after the
    first word, and then another word comes.
    """
    words = [sys.executable, "-m", "rota.cli", "generate", "script", "a [gate] b [hold]", "--dir", str(speaker)]
    with Client(speaker) as client, subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        events = client.events(("task",), timeout_s=60)
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.read(1) == b"0"
        if end is None:
            command.stdout.close()
            (speaker / "gate").touch()
        else:
            command.send_signal(end)
        assert b"task 1 is cancelled" in command.stderr.read()
        assert command.wait(WAIT_SECONDS) == (0 if end is None else 128 + end)
        assert next(iter(events)).what.kind == "cancelled"  # type: ignore[union-attr]


def test_a_dialogue_from_a_pipe(rota: Run) -> None:
    """Goal: each line is a message, each answer a line. Method: turns, commands, a failed turn, an unknown command."""
    lines = "one\n\ntwo\n/head\n/fork\nthree\n/fork 9\n/reset\nfour\n/nothing\na [fail]\nfive\n/quit\nsix\n"
    out, err = rota("chat", "script", "--system", "Be brief.", text=lines, code=ExitCode.FAILED)
    said = [line for line in out.splitlines() if line not in ("3: ", "3: a ")]  # of the answer that failed, if in time
    assert said == ["1: one ", "3: two ", "3: three ", "1: four ", "3: five "]
    assert err.count("rota chat script --conversation ") == 3, "/head, /fork and /reset"
    for words in ("after answer 1;", "/fork takes", "a new conversation", "no command /nothing", "told to fail"):
        assert words in err
    head = err.split("--conversation ")[1].split()[0]
    assert rota("chat", "script", "--conversation", head, text="on")[0] == "5: on \n"


def test_a_dialogue_at_a_terminal(speaker: Path) -> None:
    """Goal: Ctrl-C ends an answer, not the dialogue; Ctrl-D ends that and says how to go on. Method: a
    pseudo-terminal, an answer that is held.
    """
    pid, terminal = pty.fork()
    if pid == 0:  # the child, which must not run this test's own ends
        os.execv(sys.executable, [sys.executable, "-m", "rota.cli", "chat", "script", "--dir", str(speaker)])
    said = b""

    def until(words: str) -> None:
        nonlocal said
        while words.encode() not in said:
            assert select.select([terminal], [], [], WAIT_SECONDS)[0], f"no {words!r} came after {said!r}"
            said += os.read(terminal, 4096)
        said = said.split(words.encode(), 1)[1]

    try:
        until("/help lists the commands")
        until("> ")
        os.write(terminal, b"one\n")
        until("0: one")
        until("certificate A")
        until("> ")
        os.write(terminal, b"two [gate] more\n")
        until("2: two")
        os.write(terminal, b"\x03")
        until("the answer is cancelled; the conversation is as before it")
        until("> ")
        (speaker / "gate").touch()
        os.write(terminal, b"\x03")
        until("/quit or Ctrl-D ends")
        os.write(terminal, b"three\n")
        until("2: three")
        until("> ")
        os.write(terminal, b"\x04")
        until("rota chat script --conversation ")
        _, status = os.waitpid(pid, 0)
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == ExitCode.OK


def test_vectors_and_labels(rota: Run, tmp_path: Path) -> None:
    """Goal: numbers that programs read, tables for people. Method: arguments, stdin, a file, JSON."""
    assert rota("embed", "script", "ab", "a b c")[0] == "2.0 1.0\n5.0 3.0\n"
    out, err = rota("embed", "script", "-", "--output", str(tmp_path / "v.npy"), text="ab\na b c\n")
    assert (out, err[:13]) == ("", "2 vectors of ")
    numpy.testing.assert_array_equal(numpy.load(tmp_path / "v.npy"), [[2, 1], [5, 3]])
    facts = json.loads(rota("embed", "script", "ab", "--json")[0])
    assert (facts["vectors"], facts["seqs"], facts["usage"]) == ([[2, 1]], [3], {"prompt": 2})
    out, err = rota("classify", "script", "a", "b" * 90)
    assert [line.split() for line in out.splitlines()][:2] == [["score", "label", "text"], ["0.9900", "short", "a"]]
    assert err.startswith("2 texts; on script (no device ")
    assert json.loads(rota("classify", "script", "a", "--top", "2", "--json")[0])["labels"] == [
        [["short", 0.99], ["long", 0.01]]
    ]
    err = rota("embed", "nobody", "a", "--output", str(tmp_path / "no" / "v.npy"), code=ExitCode.CONFIG)[1]
    assert f"there is no folder {tmp_path / 'no'}" in err  # before a model is asked
    assert "there is no text" in rota("embed", "script", "-", code=ExitCode.USAGE)[1]
