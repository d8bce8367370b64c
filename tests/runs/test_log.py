"""A bounded line for every kind of record, and filters that select the right ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from eventful import MemoryRun, eventful

from rota.broker import records
from rota.broker.notes import Notes
from rota.cli.output import plain
from rota.common.digests import digest
from rota.common.messages import LaneSettings, TaskRun
from rota.common.work import AGENT, Code, Done, Failed
from rota.runs.log import KINDS, Concern, entry
from rota.runs.walk import Step, Walk

WHO = records.Origin("alice", 7, digest(b"request"))
AT = ("main", 3, 1_000)
CODE = Code(digest(b"code"), AGENT)
DONE = Done(b"1", None, (), (), 1, ())
FOLD = records.CompletedFold("counter/a", (1, 2), (DONE, Failed("trap", "no", (), 1)), None, None)
D = digest(b"x")

SAID: list[tuple[Any, str]] = [
    (records.Epoch(2, 5, (("rota", "1"), ("system", "Linux"))), "broker started, boot 2: rota 1, system Linux"),
    (
        records.Opened("main", 1, WHO, LaneSettings(seed=D), True, (("a", CODE),)),
        "derived lane, window 1024, paused, with a, by alice #7",
    ),
    (
        records.Submitted(*AT, WHO, 5, (TaskRun.of(("a", "b", "c", "d"), 0, (b"",) * 4, None),), None),
        "4 tasks, seq 5-8, to a, b, c and 1 more, by alice #7",
    ),
    (records.Submitted(*AT, WHO, 5, (), 2), "1 task, seq 5, dead task 2 again, by alice #7"),
    (records.Deployed(*AT, WHO, "a", CODE), f"a is agent {CODE.digest.hex()[:12]}, by alice #7"),
    (records.Cancelled(*AT, WHO, 9), "task 9 cancelled, by alice #7"),
    (records.Verdict(*AT, 9, "timeout", "too long", ()), "task 9 timeout: too long: --timeout-ms allows more"),
    (records.Verdict(*AT, 9, "faulted", "no", ("first", "no memory")), "task 9 faulted: no: no memory"),
    (records.TimerFired(*AT, 9, 1), "timer of turn 9, emit 1"),
    (records.WindowSet(*AT, WHO, 64), "window 64, by alice #7"),
    (records.PauseSet(*AT, WHO, True), "paused, by alice #7"),
    (records.PauseSet(*AT, WHO, False), "released, by alice #7"),
    (records.DeadDropped(*AT, WHO, ()), "dead tasks forgotten: all, by alice #7"),
    (records.DeadDropped(*AT, WHO, (1, 2, 3, 5, 7, 9)), "dead tasks forgotten: 1-3, 5, 7 and 1 more, by alice #7"),
    (
        records.Completion("main", 1, "w1", 1_500, 2, (FOLD,)),
        "1 ok, 1 trap of counter/a; by w1 in 1.5 ms, fingerprint 2",
    ),
    (records.Mark("main", 4_096, D), f"4096 retired, digest {D.hex()[:12]}, met"),
    (
        records.Diverged("main", 4, "counter/a", D, D, "w1"),
        "turn 4 of counter/a came out differently at w1; the first outcome stands",
    ),
    (records.Fingerprint(2, "gpu", (("device", "none"),)), "fingerprint 2, pool gpu: device none"),
    (records.Snapshotted(9, D, D, 100), "snapshot of the state after record 9, 100 bytes"),
    (records.SeedSet(*AT, WHO, D), f"seed {D.hex()[:12]}, by alice #7"),
]


@pytest.mark.parametrize(("record", "said"), SAID, ids=[type(record).__name__ for record, _ in SAID])
def test_every_kind_has_its_line(record: Any, said: str) -> None:
    """Goal: each record says what it is about. Method: one of each kind, alone."""
    line = entry(Step(1, record, None, 0, Notes()))
    assert line.text == said
    assert line.alarm == isinstance(record, records.Cancelled | records.Verdict | records.Diverged)
    assert json.dumps(plain(line._asdict()))


def test_no_kind_is_forgotten() -> None:
    """Goal: a new kind of record gets a line. Method: the kinds above against all kinds."""
    assert sorted({entry(Step(1, record, None, 0, Notes())).kind for record, _ in SAID}) == sorted(KINDS)


def test_lines_are_bounded() -> None:
    """Goal: no record floods a terminal. Method: many targets, facts and seqs, long names."""
    many: list[Any] = [
        records.Epoch(1, 1, tuple((f"name{place}", "v" * 100) for place in range(100))),
        records.Submitted(
            *AT, WHO, 1, (TaskRun.of(tuple(f"a/{place}" for place in range(5_000)), 0, (b"",) * 5_000, None),), None
        ),
        records.DeadDropped(*AT, WHO, tuple(range(1, 10_000, 2))),
        records.Verdict(*AT, 1, "refused", "x" * 2_000, ("y" * 2_000,) * 3),
    ]
    assert all(len(entry(Step(1, record, None, 0, Notes())).text) < 400 for record in many)


def test_concern_follows_a_task_and_an_agent() -> None:
    """Goal: filters miss nothing and add nothing. Method: record numbers for each task against what the run did."""

    def concerned(address: str | None, seq: int | None) -> list[int]:
        concern = Concern(address, seq)
        return [step.number for step in Walk(MemoryRun(eventful())).steps() if concern(step)]

    assert concerned(None, 1) == [5, 6]
    assert concerned(None, 6) == [10, 12]
    assert concerned(None, 9) == [14, 15]
    assert concerned(None, 11) == [19, 21]
    assert concerned(None, 3) == [6, 8, 22]
    assert concerned("nobody", None) == [11, 13], "it is stamped, and retires behind others"
    assert concerned("counter/c", None) == [3, 6, 8, 22], "its name is deployed in record 3"
    assert concerned("counter/z", 12) == [20]
    assert concerned("counter/z", 1) == []
