"""`rota show`, `story`, `tree`, `state`, `log` of calls of flows and of asks that are answered later.

The golden texts are of the run in tests/kits/later_run.py. If they change, check that the change is an improvement.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eventful import records_of, write_run
from later_run import answered_later

from rota.cli.exits import ExitCode
from rota.runs.export import export_run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the run with calls."""
    return write_run(tmp_path_factory.mktemp("run") / "r", records_of(answered_later()))


@pytest.fixture
def call(call: Call, monkeypatch: pytest.MonkeyPatch, run: Path) -> Call:
    """Call the command line on that run, in lines of 100 columns."""
    monkeypatch.setenv("ROTA_DIR", str(run))
    monkeypatch.setattr("rota.cli.inspect_views.columns", lambda *_: 100)
    return call


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in textwrap.dedent(text).strip("\n").splitlines()]


def printed(call: Call, *arguments: object) -> list[str]:
    code, out, err = call(*arguments)
    assert (code, err) == (ExitCode.OK, "")
    return [line.rstrip() for line in out.splitlines()]


def value(call: Call, *arguments: object) -> Any:
    (line,) = printed(call, *arguments, "--json")
    return json.loads(line)


def section(shown: list[str], title: str) -> list[str]:
    """Return the lines below a title of `rota show`."""
    start = shown.index(title) + 1
    return flush(shown[start : shown.index("", start)])


def flush(shown: list[str]) -> list[str]:
    """Return lines without the indentation that all of them have, as golden texts are compared."""
    return lines("\n".join(shown))


def test_a_call_is_shown_as_one_thing(call: Call) -> None:
    """Goal: one look at the first task tells the whole call. Method: golden text of its section; every other message
    names the call; the open one says what it waits for.
    """
    shown = printed(call, "show", 1)
    assert shown[0] == "task 1  order/~1  ask  ok  (lane main, turn 1)"
    assert section(shown, "call") == lines(CALL)
    assert "outcome of its first step" in shown
    assert printed(call, "show", 8)[:2] == lines(MESSAGE)
    assert section(printed(call, "show", 12), "call") == lines(OPEN)


CALL = """
      call            order/~1, 4 messages, 7 fuel in all; returned in turn 9
      answer          [222, 4, "36cbdf5044a8d86b", "3be6"] (json, 36 bytes)
      turn 1  task 1  ask of outside: [["log","began"],["await",[["ask","counter/b",[["add",5]]],["ask"…
        asks counter/b, task 2: reply in turn 4, 2 turns, 0 ms later
        asks desk/a, task 3: reply in turn 8, 6 turns, 0 ms later
        log: began
        waits at order/~1 after 1
      turn 4  task 4  reply of counter/b: [5, 2, "ask", "order/~1", null, 1000000, "8f8d", "eaf1a483"]
        waits at order/~1 after 2
      turn 8  task 8  reply of clerk/x: [7]
        sleeps 500 ms: turn 9, 0 turns, 500 ms later
        waits at order/~1 after 3
      turn 9  task 9  timer of order/~1: []
        returned in turn 9
"""

MESSAGE = """
    task 8  order/~1  reply  waits  (lane main, turn 8)
    message 3, which task 1 began, of call order/~1, 4 messages, 7 fuel in all; returned in turn 9
"""

OPEN = """
      call            order/~12, 1 message, 2 fuel in all; waits at order/~12 after 1 for desk/b (task 13)
      turn 12  task 12  ask of outside: [["await",[["ask","desk/b",[["postpone"]],0,60000]],1]]
        asks desk/b, task 13 within 60,000 ms: not answered, desk/b owes it
        waits at order/~12 after 1
"""


def test_an_ask_is_shown_with_everybody_who_had_it(call: Call) -> None:
    """Goal: who owed the answer, and who gave it. Method: golden text of a postponed task, and of one that a cancel
    ended; the emits that handed it on and settled it.
    """
    shown = printed(call, "show", 3)
    assert shown[0] == "task 3  desk/a  ask  postponed  (lane main, turn 3)"
    assert section(shown, "answered later") == lines(LATER)
    assert section(printed(call, "show", 10), "answered later") == lines(CANCELLED)
    assert "  handed on       its outcome is the answer of turn 3" in printed(call, "show", 6)
    assert '  emit 0          ask clerk/x, as the answer of turn 3, task 6: [["postpone"]] (json, 14 bytes)' in printed(
        call, "show", 5
    )
    assert "  emit 0          reply clerk/x, as the answer of turn 6, task 8: [7] (json, 3 bytes)" in printed(
        call, "show", 7
    )


LATER = """
      postponed       turn 3 of desk/a, task 3, position 2
      handed on       turn 5 of desk/a, task 5, position 5
      postponed       turn 6 of clerk/x, task 6, position 6
      answered        turn 7 of clerk/x, task 7, position 7: ok [7] (json, 3 bytes)
"""

CANCELLED = """
      postponed       turn 10 of desk/a, task 10, position 10
      ended           record 23, position 10: cancelled: cancelled on request
"""


def test_story_tree_and_state_know_calls(call: Call) -> None:
    """Goal: the other views agree. Method: golden texts of a call's story, two trees, and a call at a turn."""
    assert flush([line[:100] for line in printed(call, "story", "order/~1")]) == lines(STORY)
    calls = [line[69:89].rstrip() for line in printed(call, "story", "order")[1:]]
    assert calls == CALLS
    told = [json.loads(line) for line in printed(call, "story", "order", "--json")]
    assert [[later["what"] for later in one["later"]][1:] for one in told] == [["answered"], [], ["answered"], []]
    assert printed(call, "tree", 1) == lines(TREE)
    assert printed(call, "tree", 12)[1:] == lines(OPEN_TREE)
    assert flush(printed(call, "state", "order/~1", "--at", 6)) == lines(STATE)


STORY = """
        turn       seq  kind     sender            payload               outcome               state
           1         1  ask      -                 [["log","began"],["…  waits order/~1 afte…  =
           4         4  reply    counter/b         [5, 2, "ask", "orde…  waits order/~1 afte…  =
           8         8  reply    clerk/x           [7]                   waits order/~1 afte…  =
           9         9  timer    order/~1          []                    ok [222, 4, "36cbdf…  =
"""

CALLS = ['ok [222, 4, "36cbdf…', "error: no good", 'ok [1000, 2, "54871…', "waits order/~12 aft…"]

TREE = """
    submit 5 of alice, 1970-01-01 00:16:40.000, record 8
    1  order/~1  ask  waits, answered by 9: ok
    ├─ 2  counter/b  ask  ok
    │  └─ 4  order/~1  reply  waits
    └─ 3  desk/a  ask  postponed, handed on by 5, answered by 7: ok
"""

OPEN_TREE = """
    12  order/~12  ask  waits, goes on
    └─ 13  desk/b  ask  postponed, desk/b owes the answer
"""

STATE = """
      call            order/~1, 2 messages, 4 fuel in all; waits at order/~1 after 2 for desk/a (task 3)
      turn 1  task 1  ask of outside: [["log","began"],["await",[["ask","counter/b",[["add",5]]],["ask"…
        asks counter/b, task 2: reply in turn 4, 2 turns, 0 ms later
        asks desk/a, task 3: not answered, clerk/x owes it
        log: began
        waits at order/~1 after 1
      turn 4  task 4  reply of counter/b: [5, 2, "ask", "order/~1", null, 1000000, "8f8d", "eaf1a483"]
        waits at order/~1 after 2
"""


def test_calls_in_json(call: Call) -> None:
    """Goal: programs get fields. Method: those that docs/INSPECT.md names, of a call that ended, one that goes on, and
    of a task that was answered later.
    """
    told = value(call, "show", 1)["call"]
    assert [message["turn"] for message in told["messages"]] == [1, 4, 8, 9]
    assert told["waits"][1] == {
        "turn": 1, "emit": 1, "kind": "ask", "target": "desk/a", "delay_ms": 0, "task": {"seq": 3, "turn": 3},
        "answer": {"seq": 8, "turn": 8, "kind": "reply"}, "turns": 6, "ms": 0,
    }  # fmt: skip
    assert (told["end"]["kind"], told["end"]["turn"], told["waits_at"]) == ("ok", 9, None)
    assert told["messages"][0]["outcome"]["waits"] == "order/~1 after 1"
    assert value(call, "show", 4)["call"] == told
    assert value(call, "show", 2)["call"] is None
    state = value(call, "state", "order/~12")
    assert (state["address"], state["at"], state["end"], state["waits_at"]) == (
        "order/~12", None, None, "order/~12 after 1"
    )  # fmt: skip
    later = value(call, "show", 3)["later"]
    assert [(one["what"], one["owner"]) for one in later] == [
        ("postponed", "desk/a"), ("handed_on", "clerk/x"), ("postponed", "clerk/x"), ("answered", None)
    ]  # fmt: skip
    assert later[-1]["outcome"]["ok"] is True


def test_a_packed_run_tells_the_same(call: Call, run: Path, tmp_path: Path) -> None:
    """Goal: an ended call is in what `rota export` packs. Method: the same question to the packed run."""
    packed = tmp_path / "packed.rota.zip"
    export_run(run, packed)
    assert printed(call, "show", 1, "--run", packed) == printed(call, "show", 1)


def test_what_cannot_be_shown_is_said(call: Call) -> None:
    """Goal: wrong questions get a remedy. Method: a call that is none, and the bytes of one."""
    code, _, err = call("state", "order/~2")
    assert code == ExitCode.REFUSED
    assert "no task in lane 'main'" in err
    code, _, err = call("state", "order")
    assert code == ExitCode.REFUSED
    assert "'order' is a flow, whose calls have no state: name a call" in err
    code, _, err = call("state", "order/~1", "--raw", "-")
    assert code == ExitCode.USAGE
    assert "leave --raw out" in err
