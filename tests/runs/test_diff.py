"""Two runs compared: the exact first turn that differs, what differs in it, the cause, and what followed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eventful import MemoryRun
from hypothesis import given
from hypothesis import strategies as st
from run_kit import Broker, counting, program, records_of, scripted, write_run

from rota import local
from rota.broker import records
from rota.common.errors import JournalError, UnknownLane
from rota.common.work import Done
from rota.proof.changed import ChangePlan
from rota.proof.continuation import Change
from rota.proof.fork import fork
from rota.runs.diff import Diff, compare
from rota.runs.differing import first_byte
from rota.runs.open import open_run

AGENTS = Path(__file__).resolve().parents[2] / "examples" / "agents"
CHANGED = program(["add", 99], ["tell", "counter/sum1", [["add", 1]]], ["log", "task 5"])


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., Diff]:
    """Write two journals as runs and compare them."""

    def of(one: Any, other: Any, lane: str = "main") -> Diff:
        found = [records_of(run) if isinstance(run, Broker) else run for run in (one, other)]
        paths = [write_run(tmp_path / f"run{number}", each) for number, each in enumerate(found, 1)]
        with open_run(paths[0]) as first, open_run(paths[1]) as second:
            return compare(first, second, lane)

    return of


def started(**lane: Any) -> tuple[Broker, Any]:
    """A broker with a worker, the agent `counter`, and the lane `a`."""
    broker = Broker()
    producer = broker.producer()
    broker.worker()
    producer.open_lane("a", **lane)
    producer.deploy("counter", lane="a")
    return broker, producer


def test_equal_runs_are_equal(compared: Callable[..., Diff]) -> None:
    """Goal: no difference is made up. Method: the same tasks, one run with two workers and a restart in between."""
    other = counting(6)
    other.worker("second")
    other.restart()
    for place in range(6, 12):
        told = ["tell", f"counter/sum{place % 2}", [["add", 1]]]
        payload = program(["add", place + 1], told, ["log", f"task {place}"])
        next(iter(other.producers.values())).submit(f"counter/a{place % 3}", payload)
        other.run()
    found = compared(counting(), other)
    assert found.first is None
    assert found.later is None
    assert found.shared == 24
    assert found.ends[0] == found.ends[1]
    assert found.agents.differ == []


def test_another_input(compared: Callable[..., Diff]) -> None:
    """Goal: an input that differs is found at its turn, with all that it changed there and later. Method: one payload
    of twelve is another; its agent gets no task after it but one.
    """
    found = compared(counting(), counting(change={5: CHANGED}))
    first, later = found.first, found.later
    assert first is not None
    assert later is not None
    assert (first.position, first.cause, found.shared) == (11, "input", 10)
    assert [part.name for part in first.parts] == ["payload", "result", "state digest", "state"]
    assert [part.first.at for part in first.parts if part.first is not None and part.name != "state digest"] == [
        8,
        1,
        0,
    ]
    side = first.sides[1]
    assert side is not None
    assert side.input is not None
    assert (side.input.kind, side.input.producer, side.state, side.chain) == ("Submitted", "alice", b"102", ())
    # Turns 11 and, three submits later, 17 and 23 are those of agent a2; what they told others is the same.
    assert (later.differ, later.same, later.only) == (3, 11, (0, 0))
    assert later.tasks_only == (1, 1)
    assert later.samples[0][0] == (11, "counter/a2")
    assert (found.agents.differ, found.agents.same) == (["counter/a2"], 4)


def test_a_dropped_input(compared: Callable[..., Diff]) -> None:
    """Goal: a task that is missing does not make every later one new. Method: drop the last but one of twelve."""
    last = program(["add", 12], ["tell", "counter/sum1", [["add", 1]]], ["log", "task 11"])
    dropped = counting(10)
    next(iter(dropped.producers.values())).submit("counter/a2", last)
    dropped.run()
    found = compared(counting(), dropped)
    assert found.first is not None
    assert found.later is not None
    assert (found.first.position, found.first.cause) == (21, "input")
    assert found.later.only == (2, 0)
    assert found.later.tasks_only == (2, 0)
    assert [sample.turn for sample in found.later.samples[0]] == [21, 22]


def test_one_run_ends_before(compared: Callable[..., Diff]) -> None:
    """Goal: a run that goes on is not equal to its beginning. Method: ten tasks against twelve, both ways round."""
    found = compared(counting(10), counting(12))
    assert found.first is not None
    assert found.later is not None
    assert (found.first.position, found.first.cause, found.shared) == (21, "end", 20)
    assert found.first.sides[0] is None
    assert found.first.sides[1] is not None
    assert found.later.only == (0, 4)
    assert "run 1 ends here" in found.first.why


def test_other_code(compared: Callable[..., Diff]) -> None:
    """Goal: a deploy is named as the cause. Method: deploy other code in the middle, in one run twice."""

    def run(code: Any) -> Broker:
        broker, producer = started()
        for bound in (scripted.COUNTER, code):
            producer.deploy("counter", bound, lane="a")
            producer.submit("counter/x", lane="a")
            broker.run()
        return broker

    found = compared(run(scripted.COUNTER), run(scripted.code("other")), "a")
    assert found.first is not None
    assert (found.first.position, found.first.cause) == (2, "code")
    assert [part.name for part in found.first.parts] == ["code digest", "result"]
    deploys = [side.deploy for side in found.first.sides if side is not None]
    assert [type(records_of(run(scripted.COUNTER))[number - 1]) for number in deploys if number] == [
        records.Deployed
    ] * 2


def test_a_decision(compared: Callable[..., Diff]) -> None:
    """Goal: a cancel is named as the cause. Method: cancel the second of two tasks before it is computed."""

    def run(cancel: bool) -> Broker:
        broker, producer = started()
        producer.submit("counter/x", program(["add", 1]), program(["add", 2]), lane="a")
        if cancel:
            assert producer.cancel(2)
        broker.run()
        return broker

    found = compared(run(False), run(True), "a")
    assert found.first is not None
    assert (found.first.position, found.first.cause) == (2, "decision")
    assert ("outcome", ("ok", "failed cancelled: cancelled on request")) in [part[:2] for part in found.first.parts]


@pytest.mark.parametrize(("change", "name"), [({"now_ms": 7}, "now ms"), ({"seed": bytes(32)}, "entropy")])
def test_what_a_task_saw(compared: Callable[..., Diff], change: dict[str, Any], name: str) -> None:
    """Goal: time and chance, which no digest covers, are named when they made the difference. Method: change one."""

    def run(now_ms: int = 6, seed: bytes | None = None) -> Broker:
        broker, producer = started(seed=seed)
        producer.submit("counter/x", lane="a", now_ms=now_ms)
        broker.run()
        return broker

    found = compared(run(), run(**change), "a")
    assert found.first is not None
    assert (found.first.position, found.first.cause) == (1, "circumstances")
    assert name in [part.name for part in found.first.circumstances]
    assert name in found.first.why


def test_another_result_of_the_same(compared: Callable[..., Diff]) -> None:
    """Goal: if nothing else differs, code or record is to blame. Method: change one byte of one recorded result."""
    honest = records_of(counting())
    changed = []
    for record in honest:
        if isinstance(record, records.Completion) and record.folds[0].turns == (9,):
            (fold,) = record.folds
            (outcome,) = fold.outcomes
            assert isinstance(outcome, Done)
            assert outcome.result is not None
            flipped = outcome._replace(result=outcome.result[:3] + b"X" + outcome.result[4:])
            record = record._replace(folds=(fold._replace(outcomes=(flipped,)),))
        changed.append(record)
    found = compared(honest, changed)
    assert found.first is not None
    assert (found.first.position, found.first.cause) == (9, "code or record")
    assert [(part.name, part.first and part.first.at) for part in found.first.parts] == [("result", 3)]
    assert found.later is not None
    assert found.later.differ == 1


def test_another_worker(compared: Callable[..., Diff]) -> None:
    """Goal: a worker with other facts is named where it made the difference. Method: other facts, other result."""
    honest = records_of(counting(1))
    changed: list[Any] = []
    for record in honest:
        if isinstance(record, records.Fingerprint):
            record = record._replace(facts=(("engine", "newer"),))
        if isinstance(record, records.Completion) and record.folds[0].turns == (1,):
            (fold,) = record.folds
            outcome = fold.outcomes[0]
            assert isinstance(outcome, Done)
            record = record._replace(folds=(fold._replace(outcomes=(outcome._replace(result=b"?"),)),))
        changed.append(record)
    found = compared(honest, changed)
    assert found.first is not None
    assert (found.first.position, found.first.cause) == (1, "worker")
    assert ("worker engine", ("scripted", "newer")) in [part[:2] for part in found.first.circumstances]


def test_another_order(compared: Callable[..., Diff]) -> None:
    """Goal: the same tasks in another order are told from other tasks. Method: two priorities, submitted while the
    lane is paused in one run and one by one in the other.
    """

    def run(paused: bool) -> Broker:
        broker, producer = started(paused=paused, window=1)
        producer.submit("counter/low", lane="a")
        producer.submit("counter/high", lane="a", priority=3)
        if paused:
            producer.release("a")
        broker.run()
        return broker

    found = compared(run(False), run(True), "a")
    assert found.first is not None
    assert found.later is not None
    assert (found.first.position, found.first.cause) == (1, "order")
    assert "turn 1 retires here in run 1, turn 2 in run 2" in found.first.why
    assert found.later.tasks_only == (0, 0)


def test_the_chain_leads_to_the_input(compared: Callable[..., Diff]) -> None:
    """Goal: a difference deep in a cascade leads back to what came from outside. Method: a task tells a task tells a
    task, and only the last one fails, in one run, by a verdict.
    """

    def run(cancel: bool) -> Broker:
        broker, producer = started()
        deep = [["tell", "counter/b", [["tell", "counter/c", [["add", 1]]]]]]
        producer.submit("counter/a", program(*deep), lane="a")
        for _ in range(2):
            next(iter(broker.workers.values())).finish()
        if cancel:
            assert producer.cancel(3)
        broker.run()
        return broker

    found = compared(run(False), run(True), "a")
    assert found.first is not None
    side = found.first.sides[0]
    assert side is not None
    assert (found.first.position, side.trace.target) == (3, "counter/c")
    assert [(one.turn, one.target) for one in side.chain] == [(2, "counter/b"), (1, "counter/a")]
    assert side.input is not None
    assert side.input.kind == "Submitted"


def test_runs_whose_first_records_were_cut(tmp_path: Path) -> None:
    """Goal: what was cut is compared by the digest that stands for it. Method: one run whole, the other one cut before
    and behind the place where they differ; cut both.
    """
    whole, changed = records_of(counting()), records_of(counting(change={5: CHANGED}))
    retired = [sum(len(fold.turns) for record in whole[:place] if isinstance(record, records.Completion)
                   for fold in record.folds) for place in range(len(whole))]  # fmt: skip
    cases = (
        (0, retired.index(4), 10),
        (retired.index(4), retired.index(8), 10),
        (retired.index(8), 0, 10),
        (0, retired.index(12), None),
    )
    for number, (one_cut, other_cut, shared) in enumerate(cases):
        one = write_run(tmp_path / f"one{number}", whole, cut_after=one_cut)
        other = write_run(tmp_path / f"other{number}", changed, cut_after=other_cut)
        same = write_run(tmp_path / f"same{number}", whole, cut_after=other_cut)
        with open_run(one) as first, open_run(other) as second, open_run(same) as third:
            assert compare(first, third, "main").first is None
            if shared is None:
                with pytest.raises(JournalError, match="before position 12"):
                    compare(first, second, "main")
                continue
            found = compare(first, second, "main")
            assert found.first is not None
            assert (found.shared, found.first.position, found.first.cause) == (shared, shared + 1, "input")


def test_what_cannot_be_compared(compared: Callable[..., Diff], tmp_path: Path) -> None:
    """Goal: a lane that is not there and a journal that breaks off are errors, not differences. Method: both."""
    with pytest.raises(UnknownLane, match="has no lane 'nowhere'"):
        compared(counting(1), counting(1), "nowhere")
    broken = write_run(tmp_path / "broken", [*records_of(counting(1)), records.Epoch(9, 0, ())])
    with open_run(broken) as one, open_run(tmp_path / "run1") as other, pytest.raises(JournalError, match="epoch 9"):
        compare(one, other, "main")


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(1, 30))
def test_the_first_byte_that_differs(one: bytes, other: bytes, context: int) -> None:
    """Goal: the place is right for all bytes. Method: against the obvious loop; both windows show the place."""
    found = first_byte(one, other, context)
    places = [at for at in range(max(len(one), len(other))) if one[at : at + 1] != other[at : at + 1]]
    assert (found is None) == (not places)
    if found is not None:
        assert found.at == places[0]
        for data, window in zip((one, other), found.windows, strict=True):
            assert data[found.window_at :].startswith(window)
        assert found.windows[0] != found.windows[1]


def test_a_fork_parts_where_it_was_changed(tmp_path: Path) -> None:
    """Goal: a fork and its run are compared like any two. Method: real agents; drop one submit and edit another; both
    find the same first turn, the same end, and the shared prefix.
    """
    with local.open_lane(keep=tmp_path / "run", window=16) as lane:
        lane.deploy("counter", AGENTS / "counter.wasm")
        for key in "abcab":
            lane.submit(f"counter/{key}", b"1")
            lane.run()
    with open_run(tmp_path / "run") as source:
        number = [number for number, record in source.records() if isinstance(record, records.Submitted)][3]
        cases = {"same": Change(), "dropped": Change(dropped=(number,)), "edited": Change(edited=((number, 0, b"7"),))}
        for name, change in cases.items():
            came = fork(source, ChangePlan("main", 2, change), [], tmp_path / name, name, device="cpu")
            with open_run(tmp_path / name) as forked:
                found = compare(source, forked, "main")
            assert (came.first is None) == (found.first is None) == (name == "same")
            if came.first is not None and found.first is not None:
                assert (found.first.position, found.first.cause) == (came.first.position, "input") == (4, "input")
            assert found.ends[1].digest == came.digest


def with_calls(*settles: int) -> Broker:
    """A run with two calls of a flow, each of which waits for an agent that answers later; so many are answered."""
    broker, producer = started()
    producer.deploy("order", scripted.FLOW, lane="a")
    for _ in range(2):
        asks = ["await", [["ask", "counter/desk", [["postpone"]]]], 1]
        producer.submit("order", program(asks, ["log", "got it"]), lane="a", kind="ask")
        broker.run()
    for text in settles:
        producer.submit("counter/desk", program(["settle", -len(settles), text]), lane="a")
        broker.run()
    return broker


def test_calls_that_go_on_are_compared() -> None:
    """Goal: what is open is part of where a run ends. Method: equal runs with open calls; one that answered one of them
    more; two that answered with different things.
    """
    same = compare(MemoryRun(with_calls(7)), MemoryRun(with_calls(7)), "a")
    assert (same.first, same.ends[0], same.ends[0].open) == (None, same.ends[1], 2)
    assert same.agents.differ == []
    more = compare(MemoryRun(with_calls()), MemoryRun(with_calls(7)), "a")
    assert more.first is not None
    assert (more.first.cause, more.first.why) == ("end", "run 1 ends here, with 4 open asks and calls")
    assert more.agents.only == (["order/~3"], [])
    other = compare(MemoryRun(with_calls(7)), MemoryRun(with_calls(8)), "a")
    assert other.first is not None
    assert (other.first.cause, [part.name for part in other.first.parts]) == ("input", ["payload", "emit 0 payload"])


def test_a_step_that_goes_on_is_another_outcome(compared: Callable[..., Diff]) -> None:
    """Goal: postponed or not is a difference of its own. Method: the same task, and code that answers at once."""
    runs = []
    for steps in ([["postpone"]], []):
        broker, producer = started()
        producer.submit("counter/a", program(*steps), lane="a")
        broker.run()
        runs.append(broker)
    found = compared(*runs, "a")
    assert found.first is not None
    (outcome,) = [part for part in found.first.parts if part.name == "outcome"]
    assert outcome.values == ("postponed", "ok")


def test_an_ask_that_an_input_ended_is_a_difference() -> None:
    """Goal: how a producer's ask ended is in the digest, at once and for good. Method: the same turns, with the ask
    settled, cancelled before that, or expired; and cut off before the turn that settles it.
    """
    digests, cut, whole = {}, {}, {}
    for how in ("settled", "cancelled", "expired"):
        broker, alice = started()
        asked = alice.submit("counter/b", program(["postpone"]), lane="a", kind="ask", deadline_ms=500).first_seq
        broker.run()
        if how == "cancelled":
            assert alice.cancel(asked)
        broker.live(1_000 if how == "expired" else 0)
        cut[how] = MemoryRun(broker)
        alice.submit("counter/b", program(["settle", -1, 7]), lane="a", now_ms=5_000)
        broker.run()
        digests[how], whole[how] = broker.lane("a").digest, MemoryRun(broker)
    assert len(set(digests.values())) == 3
    for how in ("cancelled", "expired"):
        for runs in (cut, whole):
            found = compare(runs["settled"], runs[how], "a")
            assert found.first is not None
            assert (found.shared, found.first.cause) == (1, "decision")
            assert found.first.why == f"a cancel or deadline ends asks here: none in run 1, turn 1 {how} in run 2"
            assert found.ends[0].digest != found.ends[1].digest
        shorter = compare(cut[how], whole[how], "a")
        assert shorter.first is not None
        assert (shorter.shared, shorter.first.cause) == (1, "end")
