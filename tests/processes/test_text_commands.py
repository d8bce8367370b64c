"""`rota generate`, `chat`, `embed` and `classify` with real processes and a worker that speaks by script."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from rota.cli.__main__ import main
from rota.cli.exits import ExitCode
from rota.client import Client

pytestmark = pytest.mark.processes

WAIT_SECONDS = 60.0

Start = Callable[..., Any]
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
    assert out == "0: Why so blue? "
    assert err == (
        "7 tokens of prompt, 4 tokens generated; on script (no device speaks by script), certificate A, bitwise\n"
    )
    assert rota("generate", "script", "-", "--raw", "--no-stream", text="from stdin")[0] == "from stdin "
    out, _ = rota("generate", "script", "a b", "--json", "--logprobs", "0", "--conversation", "new", "--system", "c")
    facts = json.loads(out)
    assert (facts["text"], facts["finish"], facts["usage"]) == ("1: a b ", "stop", {"prompt": 7, "generated": 3})
    assert "result" not in facts, "each field once"
    assert facts["logprobs"] == [{"chosen": -0.5, "top": []}] * 3
    assert facts["provenance"]["certificate"] == "A"
    out, err = rota("generate", "script", "more", "--conversation", facts["conversation"])
    assert out == "3: more "
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


def test_an_answer_that_lost_its_form_is_a_failure(rota: Run) -> None:
    """Goal: no program takes broken JSON for an answer. Method: texts that were cut off, with a form and without."""
    form = ("--regex", "[a-z]+")
    _, err = rota("generate", "script", "a [cut]", *form, code=ExitCode.FAILED)
    assert err.endswith("error: the answer was cut off (--max-tokens), so it is not what it had to be\n")
    out, _ = rota("generate", "script", "a [cut]", "--json", *form, code=ExitCode.FAILED)
    assert json.loads(out)["finish"] == "length"
    rota("generate", "script", "a [cut]")
    rota("generate", "script", "a", *form)


def test_an_interrupt_cancels_the_answer(speaker: Path, start_process: Start) -> None:
    """Goal: nothing goes on for nobody. Method: Ctrl-C while the answer is held; the task is then cancelled. One that
    comes before the command knows its task, which may run already, cannot cancel it; then once more.
    """
    with Client(speaker) as client:
        events = client.events(("task",), timeout_s=60)
        for seq in range(1, 20):
            command = start_process("-m", "rota.cli", "generate", "script", "a [gate]", "--dir", str(speaker))
            while not any((task["seq"], task["state"]) == (seq, "running") for task in client.query("tasks")):
                pass
            command.send(signal.SIGINT)
            assert command.wait() == ExitCode.INTERRUPTED
            if f"task {seq} is cancelled" in command.text:
                break
            assert client.cancel(seq), "nobody else cancelled it"
            next(events)
        event = next(events)
        assert (event.what.seq, event.what.kind) == (seq, "cancelled")  # type: ignore[union-attr]


def test_a_dialogue_from_a_pipe(rota: Run) -> None:
    """Goal: each line is a message, each answer a line. Method: turns, commands, a failed turn, an unknown command."""
    lines = "one\n\ntwo\n/head\n/fork\nthree\n/fork 9\n/reset\nfour\n/nothing\na [fail]\nfive\n/quit\nsix\n"
    out, err = rota("chat", "script", "--system", "Be brief.", text=lines, code=ExitCode.FAILED)
    said = [line for line in out.splitlines() if line not in ("3: ", "3: a ")]  # of the answer that failed, if in time
    assert said == ["1: one ", "3: two ", "3: three ", "1: four ", "3: five "]
    assert err.count("rota chat script --conversation ") == 2
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
    assert json.loads(rota("embed", "script", "ab", "--json")[0])["vectors"] == [[2, 1]]
    out, err = rota("classify", "script", "a", "b" * 90)
    assert [line.split() for line in out.splitlines()][:2] == [["score", "label", "text"], ["0.9900", "short", "a"]]
    assert err.startswith("2 texts; on script (no device ")
    assert json.loads(rota("classify", "script", "a", "--top", "2", "--json")[0])["labels"] == [
        [["short", 0.99], ["long", 0.01]]
    ]
    err = rota("embed", "nobody", "a", "--output", str(tmp_path / "no" / "v.npy"), code=ExitCode.CONFIG)[1]
    assert f"there is no folder {tmp_path / 'no'}" in err  # before a model is asked
    assert "there is no text" in rota("embed", "script", "-", code=ExitCode.USAGE)[1]
