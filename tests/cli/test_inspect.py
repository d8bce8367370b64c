"""`rota log`, `show`, `story`, `state`, `tree`: their output for one eventful run, as text, JSON, and errors.

The golden texts are of the run in tests/kits/eventful.py. If they change, check that the change is an improvement.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from eventful import Broker, eventful, program, records_of, scripted, write_run

from rota.broker import records, snapshot
from rota.broker.journal import Journal
from rota.broker.recovery import fold, load_world
from rota.broker.snapshot_store import SnapshotStore
from rota.cli import inspect
from rota.cli.exits import ExitCode
from rota.common.digests import digest
from rota.common.messages import TaskRun
from rota.common.work import Provenance, TensorRef
from rota.host.endpoints import RunFolder
from rota.runs.export import export_run
from rota.runs.log import KINDS

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the eventful run."""
    return write_run(tmp_path_factory.mktemp("run") / "r", records_of(eventful()))


@pytest.fixture
def call(call: Call, monkeypatch: pytest.MonkeyPatch, run: Path) -> Call:
    """Call the command line on the eventful run."""
    monkeypatch.setenv("ROTA_DIR", str(run))
    return call


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in textwrap.dedent(text).strip("\n").splitlines()]


def printed(call: Call, *arguments: object) -> list[str]:
    code, out, err = call(*arguments)
    assert (code, err) == (ExitCode.OK, "")
    return [line.rstrip() for line in out.splitlines()]


def values(call: Call, *arguments: object) -> list[Any]:
    return [json.loads(line) for line in printed(call, *arguments, "--json")]


# --- rota log -------------------------------------------------------------------------------------


def test_the_log_is_readable(call: Call) -> None:
    """Goal: a run can be read from top to bottom. Method: golden text of the whole log."""
    shown = printed(call, "log")
    texts = [line[71:] for line in shown]
    assert shown[0].split() == ["record", "time", "(UTC)", "kind", "lane", "position", "what"]
    assert shown[6].startswith(
        "       6  1970-01-01 00:16:40.000  completion    main               0  1 ok of counter/a;"
    )
    assert texts[1:] == lines(LOG)


LOG = """
      broker started, boot 1: rota test
      derived lane, window 1024
      counter is agent 8f8d724ea76b, by alice #1
      fingerprint 1, pool cpu: engine scripted
      1 task, seq 1, to counter/a, by alice #2
      1 ok of counter/a; retires 1 to position 1; stamps 2-3 for counter/b, counter/c; by w1 in 1.0 ms, fingerprint 1
      1 ok of counter/b; retires 2 to position 2; stamps 4 for counter/a; by w1 in 1.0 ms, fingerprint 1
      1 error of counter/c; retires 3 to position 3; by w1 in 1.0 ms, fingerprint 1
      1 ok of counter/a; retires 4 to position 4; by w1 in 1.0 ms, fingerprint 1
      3 tasks, seq 5-7, to counter/b, by alice #3
      1 task, seq 8, to nobody, by alice #4; completes 8: 1 unknown_agent
      2 ok of counter/b; retires 5-6 to position 6; sets 1 timer; by w1 in 1.0 ms, fingerprint 1
      1 ok of counter/b; retires 7-8 to position 8; by w1 in 1.0 ms, fingerprint 1
      timer of turn 6, emit 0; stamps 9 for counter/b
      1 ok of counter/b; retires 9 to position 9; by w1 in 1.0 ms, fingerprint 1
      1 task, seq 10, to counter/a, by alice #5
      1 ok of counter/a; retires 10 to position 10; sets 1 timer; by w1 in 1.0 ms, fingerprint 1
      paused, by alice #6
      1 task, seq 11, to counter/z, by alice #7
      1 task, seq 12, to counter/z, by alice #8
      task 11 cancelled, by alice #9
      1 task, seq 13, dead task 3 again, by alice #10
"""


def test_filters_narrow_each_other(call: Call) -> None:
    """Goal: one finds what one looks for. Method: record numbers under each filter and some together."""

    def numbers(*arguments: object) -> list[int]:
        return [entry["number"] for entry in values(call, "log", *arguments)]

    everything = numbers()
    assert everything == list(range(1, len(everything) + 1))
    assert numbers("--from", 5, "--to", 7) == [5, 6, 7]
    assert numbers("--tail", 2) == everything[-2:]
    assert numbers("--kind", "deployed", "--kind", "timer_fired") == [3, 14]
    assert numbers("--kind", "completion", "--agent", "counter/c") == [6, 8]
    assert numbers("--seq", 3) == [6, 8, everything[-1]], "stamped and issued, completed, retried"
    assert numbers("--seq", 11) == [19, 21]
    assert numbers("--agent", "counter/z", "--kind", "cancelled") == [21]
    assert numbers("--lane", "main", "--kind", "epoch") == []


def test_every_kind_can_be_asked_for() -> None:
    """Goal: the command and the records name the same kinds. Method: compare the lists."""
    assert inspect.KINDS == KINDS


def test_log_in_json(call: Call) -> None:
    """Goal: programs get fields, not prose. Method: the record that completes the first task."""
    (entry,) = values(call, "log", "--from", 6, "--to", 6)
    assert (entry["kind"], entry["lane"], entry["position"], entry["alarm"]) == ("completion", "main", 0, False)
    facts = entry["facts"]
    assert facts["retired"] == [1]
    assert facts["completed"] == [{"seq": 1, "turn": 1, "target": "counter/a", "outcome": "ok"}]
    assert [run["first_seq"] for run in facts["stamped"]] == [2, 3]
    assert len(facts["digest"]) == 64


def test_runs_in_every_form(call: Call, run: Path, tmp_path: Path) -> None:
    """Goal: a run folder, a run file and a packed file are the same run. Method: the log of each."""
    packed = tmp_path / "packed.rota.zip"
    export_run(run, packed, models=False, tensors=False, progress=lambda *_: None)
    expected = printed(call, "log")
    assert printed(call, "log", run / "run.rota") == expected
    assert printed(call, "log", packed) == expected
    assert printed(call, "tree", 1, "--run", packed) == printed(call, "tree", 1)
    assert call("log", packed, "--follow")[0] == ExitCode.CONFIG


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be sent Ctrl-C there")
def test_a_log_is_followed(tmp_path: Path) -> None:
    """Goal: one can look on. Method: a journal that grows under `--follow`; lines arrive; Ctrl-C ends it with 130."""
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    folder = write_run(tmp_path / "live", records_of(broker))
    journal = Journal.open(RunFolder(folder).journal)
    written = len(list(journal.read()))
    command = [sys.executable, "-m", "rota.cli", "log", str(folder), "--follow", "--tail", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "ROTA_DIR"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().split()[0] == "record"
            assert int(process.stdout.readline().split()[0]) == written
            broker.worker()
            alice.submit("counter/a", program(["add", 1]))
            broker.run()
            journal.append(records_of(broker)[written:])
            heard = [process.stdout.readline() for _ in range(3)]
            assert [line.split()[0] for line in heard] == [str(written + 1), str(written + 2), str(written + 3)]
            assert "1 ok of counter/a; retires 1 to position 1" in heard[2]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == ExitCode.INTERRUPTED
        finally:
            process.kill()
            journal.close()


@pytest.mark.parametrize("asked", [
    ("--from", 15), ("--tail", 3), ("--from", 15, "--lane", "main"), ("--from", 15, "--to", 18),
    ("--kind", "completion", "--from", 15), ("--to", 18, "--tail", 2),
])  # fmt: skip
def test_late_records_are_told_from_a_snapshot(call: Call, tmp_path: Path, asked: tuple[object, ...]) -> None:
    """Goal: the end of a long run is told without reading all of it, and told alike. Method: a run with a snapshot in
    it; then one whose beginning cannot be read any more, which shows that it is not.
    """
    path = write_run(tmp_path / "r", records_of(eventful()), snapshot_after=12)
    whole = {entry["number"]: entry for entry in values(call, "log", path)}
    told = values(call, "log", path, *asked)
    assert told
    assert told == [whole[entry["number"]] for entry in told]
    with closing(sqlite3.connect(path / "run.rota")) as connection, connection:
        connection.execute("UPDATE records SET body = x'00' WHERE number = 3")
    assert values(call, "log", path, *asked) == told
    assert call("log", path, "--agent", "counter/a", *asked)[0] == ExitCode.STORAGE, "that may begin anywhere"


# --- rota show ------------------------------------------------------------------------------------


def test_show_says_everything(call: Call) -> None:
    """Goal: one look at a task is enough. Method: golden text of an asked task in the middle of a run."""
    assert printed(call, "show", 2) == lines(SHOW)


SHOW = """
    task 2  counter/b  ask  ok  (lane main, turn 2)

    came from
      parent          task 1 counter/a, turn 1, emit 0
      input           record 5, submit 2 of alice, arrived 1970-01-01 00:16:40.000
      sender          counter/a
      now             1970-01-01 00:16:40.000 (1000000 ms), as the task sees it
      priority        0
      payload         [["add",5]] (json, 11 bytes)

    schedule
      stamped         record 6 at position 1
      issued          record 6 at position 1, place 1 in the line
      code            agent 8f8d724ea76b395adc279aae76ae922b8d74bdb5c7d105a8e55bd8c67d8066b4
      limits          fuel 1,000,000,000, memory 64.0 MiB, 10,000 ms
                      result 16.0 MiB, state 1.0 MiB, log 16.0 KiB, new tensors 64.0 MiB, 64 emits
      emits allowed   64
      entropy         eaf1a4830ebf2b062e7f6f3cf14eb341848d61cf8e1269427b8c8dab0174f77c

    execution
      completed       record 7 at 1970-01-01 00:16:40.000, 0 ms after its now
      worker          w1
      elapsed         1.000 ms
      fingerprint     1, pool cpu: engine scripted
      attempts        not in the journal

    outcome
      ok              [5, 2, "ask", "counter/a", null, 1000000, "8f8d", "eaf1a483"] (json, 61 bytes)
      fuel            1
      state before    none
      state after     b3372b584dc0df6ce757fa43f459ca1f0c4180a08762cbfa41d022ca24f63d9f

    effect
      retired         record 7 at position 2
      lane digest     7bdb189ef49a3be1e43dc9376d1224eb5b69fcf7ae9578693dcb423423149f05

    children (1)
      task 4  turn 4  counter/a  reply  ok
"""


def test_show_in_json(call: Call) -> None:
    """Goal: programs get everything. Method: fields of a task with children, of one that failed, of one that waits."""
    (first,) = values(call, "show", 1)
    asked = {"record": 5, "kind": "Submitted", "now_ms": 1_000_000, "producer": "alice", "number": 2, "retry_of": None}
    assert first["input"] == {**asked, "deadline_ms": None}
    assert [(child["seq"], child["outcome"]) for child in first["children"]] == [(2, "ok"), (3, "error")]
    assert first["outcome"]["log"] == ["hello"]
    assert first["fingerprint"] == {"number": 1, "pool": "cpu", "facts": {"engine": "scripted"}}
    (failed,) = values(call, "show", 3)
    assert (failed["outcome"]["ok"], failed["outcome"]["kind"], failed["retried_as"]) == (False, "error", [13])
    (waiting,) = values(call, "show", 12)
    assert (waiting["stage"], waiting["issued"], waiting["outcome"], waiting["retired"]) == (
        "waiting", None, None, None
    )  # fmt: skip


@pytest.mark.parametrize("seq", range(1, 14))
def test_every_task_can_be_shown(call: Call, seq: int) -> None:
    """Goal: no task is too odd to be shown. Method: all tasks of the eventful run, as text, JSON and tree."""
    assert printed(call, "show", seq)[0].startswith(f"task {seq}  ")
    assert values(call, "show", seq)[0]["seq"] == seq
    assert printed(call, "tree", seq)
    assert [node["seq"] for node in values(call, "tree", seq) if node["depth"] == 0] == [seq]


# --- rota story, state, tree ----------------------------------------------------------------------


def test_a_story_is_a_table(call: Call) -> None:
    """Goal: a life at a glance. Method: golden text, and the same in JSON."""
    shown = printed(call, "story", "counter/b")
    assert ["|".join(re.split("  +", line.strip())) for line in shown] == lines(STORY)
    assert [line.index("counter/a") for line in shown if "counter/a" in line] == [29], "columns are aligned"
    life = values(call, "story", "counter/b", "--from", 6)
    assert [(message["seq"], message["kind"]) for message in life] == [(6, "tell"), (7, "tell"), (9, "timer")]
    assert (
        life[0]["children"] == [{"emit": 0, "seq": 9, "turn": 9, "target": "counter/b", "kind": "timer"}]
        or not (life[0]["children"])
    )


STORY = """
    turn|seq|kind|sender|payload|outcome|state|emits
    2|2|ask|counter/a|[["add",5]]|ok [5, 2, "ask", "counter/a", nu…|-→b3372b58
    5|5|tell|-|[["add",1]]|ok [6, 5, "tell", null, null, 10…|b3372b58→b748b4eb
    6|6|tell|-|[["add",2],["timer",500,[["add"…|ok [8, 6, "tell", null, null, 10…|b748b4eb→658325b1|1: counter/b
    7|7|tell|-|[]|ok [8, 7, "tell", null, null, 10…|=
    9|9|timer|counter/b|[["add",7]]|ok [15, 9, "timer", "counter/b",…|658325b1→b3ea367b
"""


def test_a_tree_is_drawn(call: Call) -> None:
    """Goal: causality at a glance. Method: golden texts of a tree, of its upper part, of bounded ones."""
    assert printed(call, "tree", 1) == lines("""
        submit 2 of alice, 1970-01-01 00:16:40.000, record 5
        1  counter/a  tell  ok
        ├─ 2  counter/b  ask  ok
        │  └─ 4  counter/a  reply  ok
        └─ 3  counter/c  tell  error  no good
    """)
    assert printed(call, "tree", 4, "--up") == lines("""
        submit 2 of alice, 1970-01-01 00:16:40.000, record 5
        1  counter/a  tell  ok
        └─ 2  counter/b  ask  ok
           └─ 4  counter/a  reply  ok
    """)
    assert printed(call, "tree", 1, "--depth", 1)[3] == "│  └─ 4  counter/a  reply  (rota tree 4)"
    assert printed(call, "tree", 1, "--limit", 2)[-1] == "(more below: --limit shows more)"
    assert printed(call, "tree", 10)[-1] == "└─ (timer, emit 0, has not fired)"
    assert [(node["seq"], node["depth"]) for node in values(call, "tree", 2)] == [(1, -1), (2, 0), (4, 1)]


def test_a_deep_tree_stays_in_sight(call: Call, tmp_path: Path) -> None:
    """Goal: a chain of two hundred is drawn too. Method: an agent that tells the next one, seen from both ends."""
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    broker.worker()
    step: list[Any] = []
    for place in range(40, 0, -1):
        step = [["tell", f"counter/{place}", step]]
    alice.submit("counter/0", program(*step))
    broker.run()
    folder = write_run(tmp_path / "deep", records_of(broker))
    down = printed(call, "tree", 1, "--run", folder, "--depth", 100)
    assert len(down) == 42
    assert down[-1] == "    40 deep  41  counter/40  tell  ok"
    up = printed(call, "tree", 41, "--run", folder, "--depth", 5)
    assert [line.strip("└─ ") for line in up[1:4]] == [
        "1  counter/0  tell  ok", "(35 between: --depth shows more)", "37  counter/36  tell  ok"
    ]  # fmt: skip
    cut = printed(call, "tree", 1, "--run", folder, "--depth", 3)
    assert cut[-1].endswith("5  counter/4  tell  (rota tree 5)")


def test_states_as_text_bytes_and_file(call: Call, tmp_path: Path) -> None:
    """Goal: a state can be read and saved. Method: the state at a turn and at the end, raw to a file and to stdout."""
    assert printed(call, "state", "counter/b")[-1] == "(text) 15"
    (found,) = values(call, "state", "counter/b", "--at", 6)
    assert (found["state"], found["from"], found["left_by"], found["position"]) == (
        "8", "recorded", {"seq": 6, "turn": 6}, 6
    )  # fmt: skip
    assert printed(call, "state", "counter/b", "--at", 1)[-1] == "(no state)"
    assert call("state", "counter/b", "--raw", "-")[1] == "15"
    file = tmp_path / "state.bin"
    assert call("state", "counter/b", "--raw", file) == (ExitCode.OK, "", "")
    assert file.read_bytes() == b"15"
    assert call("state", "counter/b", "--raw", tmp_path / "no" / "state.bin")[0] == ExitCode.CONFIG


# --- what is not there ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", 99), ExitCode.REFUSED, "no task 99: it has tasks 1 to 13"),
        (("tree", 99), ExitCode.REFUSED, "no task 99: it has tasks 1 to 13"),
        (("log", "--seq", 99), ExitCode.REFUSED, "no task 99: it has tasks 1 to 13"),
        (("log", "--agent", "x"), ExitCode.REFUSED, "was for 'x'"),
        (("log", "--lane", "x"), ExitCode.REFUSED, "(lanes: main)"),
        (("story", "counter/b", "--lane", "x"), ExitCode.REFUSED, "(lanes: main)"),
        (("story", "counter/q"), ExitCode.REFUSED, "agents there: counter/c, counter/b, counter/a"),
        (("story", "counter/b", "--from", 99), ExitCode.REFUSED, "turns 1 to 13"),
        (("state", "counter/b", "--at", 99), ExitCode.REFUSED, "turns 1 to 13"),
        (("state", "counter/b", "--at", 12), ExitCode.REFUSED, "has not retired"),
        (("state", "counter/b", "--at", 5), ExitCode.STORAGE, "cannot be executed again"),
        (("log", "nowhere"), ExitCode.CONFIG, "is not there"),
        (("log", "--follow", "--to", 3), ExitCode.USAGE, "exclude each other"),
        (("log", "--from", 8, "--to", 7), ExitCode.USAGE, "no record from 8 to 7"),
        (("log", "--from", 23), ExitCode.USAGE, "records 1 to 22"),
        (("story", "counter/b", "--from", 8, "--to", 7), ExitCode.USAGE, "no turn from 8 to 7"),
    ],
)
def test_errors_name_what_there_is(call: Call, arguments: tuple[object, ...], code: int, said: str) -> None:
    """Goal: a mistake costs one look. Method: each kind of name that is not there."""
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert said in err


def test_a_damaged_journal_is_refused(call: Call, tmp_path: Path) -> None:
    """Goal: nothing is told of a journal that cannot be trusted. Method: records that do not follow each other."""
    found = records_of(eventful())
    folder = write_run(tmp_path / "bad", [record for record in found if not isinstance(record, records.Fingerprint)])
    code, _, err = call("show", 1, "--run", folder)
    assert code == ExitCode.STORAGE
    assert "record 5" in err


def test_a_compacted_run_says_so(call: Call, tmp_path: Path) -> None:
    """Goal: a cut journal is not taken for a whole one. Method: each command on a file whose first records are gone."""
    found = records_of(eventful())
    folder = tmp_path / "cut"
    with closing(Journal.open(RunFolder(folder).prepare().journal)) as journal:
        world = load_world(journal)
        assert list(journal.read()) == []
        journal.append(found[:12])
        fold(world, found[:12])
        store = SnapshotStore(journal)
        named = store.write(12, snapshot.encode(snapshot.take(world)), journal.chain)
        journal.append([named, *found[12:]])
        store.cut(named)
        assert store.drop_cut(100)
    note = "records 1 to 12 were compacted away: what happened before is not known\n"
    code, out, err = call("log", folder)
    assert (code, err) == (ExitCode.OK, note)
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["record", "13", "14"]
    code, out, err = call("show", 7, "--run", folder)
    assert (code, err) == (ExitCode.OK, note)
    assert "  stamped         before the records that are kept" in out
    assert "  retired         record 14 at position 7" in out
    code, _, err = call("show", 2, "--run", folder)
    assert code == ExitCode.REFUSED
    assert "had retired before record 13" in err
    assert call("story", "counter/b", "--run", folder)[2] == note
    assert call("state", "counter/b", "--run", folder)[1].endswith("(text) 15\n")
    assert "(what is above was compacted away)" in call("tree", 7, "--run", folder)[1]


def test_models_verdicts_and_recorded_lanes(call: Call, tmp_path: Path) -> None:
    """Goal: rare things are told too. Method: a model's provenance, a tensor, a verdict, a lane that retires as it
    completes.
    """
    broker = Broker()
    alice = broker.producer()
    alice.open_lane("side", policy="recorded")
    for name, code in (("counter", scripted.COUNTER), ("model:m", scripted.MODEL_CODE)):
        alice.deploy(name, code, lane="side")
    ref = TensorRef(digest(b"t"), "float32", (2, 3))
    alice.submit_runs(TaskRun.of("model:m", 3, (program(),), ((ref,),)), lane="side")
    alice.submit("counter/a", program(["add", 1]), lane="side")
    alice.submit("counter/b", program(["fault"]), lane="side")
    broker.worker("w1")
    broker.run()
    gpu = broker.worker("g1", pool="gpu")
    gpu.lie(provenance=Provenance("bitwise", "cpu", digest(b"f"), "B", "no driver"))
    broker.run()
    folder = write_run(tmp_path / "odd", records_of(broker))
    shown = "\n".join(printed(call, "show", 1, "--run", folder))
    assert "on cpu (no driver), certificate B, bitwise" in shown
    assert digest(b"f").hex() in shown
    assert f"tensor          float32 [2, 3] {ref.digest.hex()}" in shown
    assert "priority        3" in shown
    assert "fingerprint     2, pool gpu: " in shown
    assert values(call, "show", 1, "--run", folder)[0]["outcome"]["provenance"]["result_class"] == "bitwise"
    assert [
        message["retired"]["position"]
        for message in values(call, "story", "model:m", "--lane", "side", "--run", folder)
    ] == [3]
    faulted = "\n".join(printed(call, "show", 3, "--run", folder))
    assert "decided         faulted in record" in faulted
    assert "completed       no execution gave an outcome" in faulted
    assert "faulted         no worker could do it, in 3 tries: out of memory" in faulted
    assert "in the line" not in shown, "a place decides nothing where completions do"
    log = printed(call, "log", folder, "--lane", "side", "--kind", "verdict")
    assert "task 3 faulted: no worker could do it, in 3 tries: out of memory" in log[1]
