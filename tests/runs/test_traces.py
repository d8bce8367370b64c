"""Traces and ancestors: they say what happened to a task, whatever the order of records."""

from __future__ import annotations

import pytest
from eventful import Broker, MemoryRun, eventful, program, records_of

from rota.common.digests import digest, entropy, lane_seed
from rota.common.errors import JournalError, UnknownLane, UnknownTask
from rota.common.work import Done, Failed
from rota.runs.questions import family, story
from rota.runs.traces import Trace, Tracer, waiting_timers
from rota.runs.walk import Walk


def traced(broker: Broker, **wanted: object) -> dict[int, Trace]:
    """Walk over a whole journal and return the traces by seq."""
    tracer, walk = Tracer(**wanted), Walk(MemoryRun(broker))  # type: ignore[arg-type]
    tracer.begin(walk.world)
    for step in walk.steps():
        tracer.after(step)
    tracer.end(walk.world)
    return tracer.by_seq


def test_a_task_is_told_from_stamp_to_retire() -> None:
    """Goal: every fact of a trace. Method: the asked task of a run whose records and positions are known."""
    trace = traced(eventful(), seqs=[2])[2]
    assert (trace.lane, trace.turn, trace.target, trace.kind, trace.sender) == (
        "main",
        2,
        "counter/b",
        "ask",
        "counter/a",
    )
    assert (trace.parent, trace.reply_to, trace.payload) == ((1, 0), None, program(["add", 5]))
    assert (trace.stamped, trace.stamped_at) == (6, 1), "stamped when its parent retired, not when the record began"
    assert (trace.issued, trace.issued_at, trace.place) == (6, 1, 1)
    assert trace.entropy == entropy(lane_seed("main"), 2)
    assert trace.completion is not None
    assert (trace.completion.number, trace.completion.worker, trace.completion.elapsed_us) == (7, "w1", 1_000)
    assert (trace.state_before, trace.state_after) == (None, digest(b"5"))
    assert (trace.retired, trace.retired_at, trace.stage, trace.mark) == (7, 2, "retired", "ok")
    assert [(child.seq, child.kind, child.emit) for child in trace.children] == [(4, "reply", 0)]


def test_digests_of_states_go_on_inside_a_fold() -> None:
    """Goal: "state before" of a task in the middle of a fold. Method: two tasks that travelled in one fold."""
    found = traced(eventful(), seqs=[5, 6, 7])
    assert found[5].completion == found[6].completion, "or the run no longer has the fold that this is about"
    assert (found[5].state_before, found[5].state_after) == (digest(b"5"), digest(b"6"))
    assert (found[6].state_before, found[6].state_after) == (digest(b"6"), digest(b"8"))
    assert (found[7].state_before, found[7].state_after) == (digest(b"8"), digest(b"8")), "it left the state alone"


def test_the_lane_digest_is_that_of_the_retire() -> None:
    """Goal: digests are not off by one. Method: traces of all tasks against the digest of the live lane."""
    broker = eventful()
    found = traced(broker, seqs=range(1, 14))
    last = max(found.values(), key=lambda trace: trace.retired_at or 0)
    assert last.digest == broker.lane().digest
    assert [trace.retired_at for trace in found.values()] == [*range(1, 11), None, None, None]


def test_decisions_retries_and_timers() -> None:
    """Goal: what did not come from a worker. Method: the cancelled, the unknown, the retried and the timer's tasks."""
    found = traced(eventful(), seqs=[3, 6, 8, 9, 10, 11, 12, 13], depth_max=1)
    assert type(found[3].outcome) is Failed
    assert (found[3].retried_as, found[13].retry_of) == ([13], 3)
    assert (found[8].mark, found[8].completion, found[8].completed) == ("unknown_agent", None, found[8].stamped)
    assert [child.seq for child in found[6].children] == [9]
    assert waiting_timers(found[6]) == []
    assert waiting_timers(found[10]) == [0]
    assert (found[9].kind, found[9].parent, found[9].stamped_at) == ("timer", (6, 0), 8)
    assert found[11].decision is not None
    assert (found[11].decision.kind, found[11].stage) == ("cancelled", "waiting")
    assert (found[12].stage, found[12].mark, found[12].bound) == ("waiting", "waiting", False)


def test_only_what_is_asked_for_is_kept() -> None:
    """Goal: memory follows the question. Method: the traces of one agent, one task, and descendants to a depth."""
    broker = eventful()
    assert sorted(traced(broker, address="counter/b", lane="main")) == [2, 5, 6, 7, 9]
    assert sorted(traced(broker, address="counter/b", lane="other")) == []
    assert sorted(traced(broker, seqs=[1])) == [1]
    assert sorted(traced(broker, seqs=[1], depth_max=1)) == [1, 2, 3]
    assert sorted(traced(broker, seqs=[1], depth_max=2)) == [1, 2, 3, 4]
    assert sorted(traced(broker, seqs=[1], depth_max=9, traces_max=2)) == [1, 2]


def test_priorities_do_not_confuse_turn_and_position() -> None:
    """Goal: turn and retire order are kept apart. Method: a later task of higher priority overtakes."""
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    alice.pause()
    alice.submit("counter/low", priority=-1)
    alice.submit("counter/high", priority=5)
    alice.release()
    broker.worker()
    broker.run()
    found = traced(broker, seqs=[1, 2])
    assert [(found[seq].place, found[seq].retired_at) for seq in (1, 2)] == [(2, 2), (1, 1)]


# --- families and stories -------------------------------------------------------------------------


def test_a_family_goes_up_to_the_submit_and_down() -> None:
    """Goal: causality both ways. Method: the reply at the bottom of an ask, and the fired timer."""
    run = MemoryRun(eventful())
    found = family(run, 4, depth_max=5)
    assert [(above.seq, above.target, above.kind, above.ok) for above in found.root.chain] == [
        (2, "counter/b", "ask", True), (1, "counter/a", "tell", True)
    ]  # fmt: skip
    assert found.origin is not None
    assert (found.origin.record, found.origin.producer, found.origin.number) == (5, "alice", 2)
    timer = family(run, 9)
    assert [above.seq for above in timer.root.chain] == [6]
    assert timer.worker is not None
    assert (timer.worker.pool, timer.worker.facts) == ("cpu", {"engine": "scripted"})


def test_a_failed_ask_shows_in_the_chain() -> None:
    """Goal: an ancestor that failed is told from one that did not. Method: an ask that comes back as a failure."""
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    broker.worker()
    alice.submit("counter/a", program(["ask", "counter/b", [["fail", "no"]]]))
    broker.run()
    found = family(MemoryRun(broker), 3)
    assert [(above.seq, above.ok) for above in found.root.chain] == [(2, False), (1, True)]
    assert (found.trace.kind, found.trace.reply_to) == ("failure", (2, 1, 0))


def test_a_story_is_in_the_order_of_effect() -> None:
    """Goal: what the agent saw, in its order, then what is still to come. Method: the agents of the eventful run."""
    run = MemoryRun(eventful())
    assert [trace.seq for trace in story(run, "counter/b", "main", (None, None))] == [2, 5, 6, 7, 9]
    assert [trace.seq for trace in story(run, "counter/b", "main", (5, 6))] == [5, 6]
    assert [(trace.seq, trace.stage) for trace in story(run, "counter/z", "main", (None, None))] == [
        (11, "waiting"), (12, "waiting")
    ]  # fmt: skip
    (alone,) = story(run, "nobody", "main", (None, None))
    assert alone.mark == "unknown_agent"


def test_what_is_not_there_is_refused_with_what_is() -> None:
    """Goal: an error that helps. Method: a task, lane, agent and turn that the run has not got."""
    run = MemoryRun(eventful())
    with pytest.raises(UnknownTask, match="tasks 1 to 13"):
        family(run, 14)
    with pytest.raises(UnknownLane, match="lanes: main"):
        family(run, 1, lane="other")
    with pytest.raises(UnknownLane, match="lanes: main"):
        list(story(run, "counter/a", "other", (None, None)))
    with pytest.raises(UnknownTask, match="counter/a"):
        list(story(run, "counter/A", "main", (None, None)))
    with pytest.raises(UnknownTask, match="turns 1 to 13"):
        list(story(run, "counter/a", "main", (20, None)))
    assert list(story(run, "counter/a", "main", (5, 5))) == [], "a turn that is another agent's is no mistake"


def test_names_that_are_not_shown_are_counted() -> None:
    """Goal: a list of some is not taken for all. Method: an unknown agent in a lane with 30 of them."""
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    broker.worker()
    for place in range(30):
        alice.submit(f"counter/{place:02}")
    broker.run()
    with pytest.raises(UnknownTask, match=r"agents there: counter/00, .*, counter/07 and 22 more"):
        list(story(MemoryRun(broker), "zzz", "main", (None, None)))


def test_a_task_of_another_lane_is_not_shown_for_this_one() -> None:
    """Goal: --lane is checked. Method: two lanes, a task in one of them."""
    broker = Broker()
    alice = broker.producer()
    alice.open_lane("side")
    alice.submit("nobody", lane="side")
    assert family(MemoryRun(broker), 1, lane="side").trace.lane == "side"
    with pytest.raises(UnknownTask, match="task 1 is in lane 'side', not in 'main'"):
        family(MemoryRun(broker), 1, lane="main")


def test_records_that_do_not_follow_are_named() -> None:
    """Goal: a journal that breaks off says where. Method: leave one record out."""
    found = list(enumerate(records_of(eventful()), 1))
    del found[4]
    with pytest.raises(JournalError, match="record 6"):
        list(Walk(MemoryRun(Broker())).steps(found))


def test_outcomes_stay_as_they_are_written() -> None:
    """Goal: traces show the journal's outcome, not a guess. Method: result and log of the first task."""
    outcome = traced(eventful(), seqs=[1])[1].outcome
    assert type(outcome) is Done
    assert (outcome.log, len(outcome.emits)) == (("hello",), 2)


@pytest.mark.parametrize("cut_after", range(1, 22))
def test_a_compacted_journal_tells_what_it_has(cut_after: int) -> None:
    """Goal: after a compaction nothing is told otherwise. Method: every task of every cut against the whole run."""
    broker = eventful()
    whole, rest = MemoryRun(broker), MemoryRun(broker, cut_after=cut_after)
    told = 0
    for seq in range(1, 14):
        expected = family(whole, seq, depth_max=3)
        try:
            found = family(rest, seq, depth_max=3)
        except UnknownTask:
            assert expected.trace.retired is not None
            assert expected.trace.retired <= cut_after
            continue
        told += 1
        assert found.missing == cut_after
        for name in ("lane", "turn", "target", "kind", "payload", "parent", "mark", "outcome", "retired_at", "digest"):
            assert getattr(found.trace, name) == getattr(expected.trace, name), name
        for name in ("stamped", "issued", "issued_at", "place", "completed", "retired", "state_before", "state_after"):
            assert getattr(found.trace, name) in (None, getattr(expected.trace, name)), name
        above = [ancestor.seq for ancestor in expected.root.chain]
        assert [ancestor.seq for ancestor in found.root.chain] == above[: len(found.root.chain)]
        assert found.origin in (None, expected.origin)
    assert told >= 1, "what waits at the end is there after every cut"
    if expected_gone := [seq for seq in range(1, 14) if family(whole, seq).trace.retired in range(1, cut_after + 1)]:
        with pytest.raises(UnknownTask, match="compacted up to there"):
            family(rest, expected_gone[0])
