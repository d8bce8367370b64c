"""The one walk: what a step says about a record, its lane alone, and the states before a completion."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from eventful import Broker, MemoryRun, eventful, program, records_of

from rota.broker import records
from rota.broker.world import World
from rota.common.digests import ZERO_DIGEST, digest
from rota.common.errors import JournalError
from rota.common.work import Done
from rota.runs.walk import FoundState, Step, Walk, retire_order


def steps_of(run: MemoryRun) -> list[Step]:
    return list(Walk(run).steps())


class CountedRun(MemoryRun):
    """Counts how often the world before its first record is made."""

    begun = 0

    def begin(self) -> World:
        self.begun += 1
        return super().begin()


def lanes_in_turn(lanes: int) -> Broker:
    """A run whose lanes come by turns, so that a task's seq is not its turn in any but the first."""
    broker = Broker()
    alice = broker.producer()
    broker.worker()
    for lane in range(lanes):
        alice.open_lane(f"lane{lane}")
        alice.deploy("counter", lane=f"lane{lane}")
    for place in range(4):
        for lane in range(lanes):
            alice.submit(f"counter/a{place % 2}", program(["add", lane + 1]), lane=f"lane{lane}")
    broker.run()
    for lane in range(lanes):
        alice.pause(lane=f"lane{lane}")
        first = alice.submit("counter/z", program(["add", 1]), lane=f"lane{lane}").first_seq
        assert alice.cancel(first)
    return broker


def test_positions_count_the_retires_before() -> None:
    """Goal: every step says where its lane stood. Method: add up the retires of a run with one lane."""
    retired = 0
    for step in steps_of(MemoryRun(eventful())):
        assert step.position == retired
        retired += len(step.retired("main"))
        assert step.retired("other") == []
    assert retired == 10


def test_inputs_of_a_lane_have_turns_for_seqs() -> None:
    """Goal: a lane alone. Method: cancels in lanes that share the numbering; each lane's names its own turn."""
    cancels = [step for step in steps_of(MemoryRun(lanes_in_turn(3))) if isinstance(step.record, records.Cancelled)]
    assert len(cancels) == 3
    for step in cancels:
        assert isinstance(step.record, records.Cancelled)
        assert isinstance(step.lane_input, records.Cancelled)
        assert (step.lane_input.seq, step.named_target) == (5, "counter/z")
    assert len({step.record.seq for step in cancels}) == 3, "or the seqs of the run are the turns of its lanes"


def test_a_completion_says_what_its_folds_found() -> None:
    """Goal: the state before each fold. Method: follow the states that the folds before left, by agent."""
    states: dict[str, FoundState] = {}
    completions = 0
    for step in steps_of(MemoryRun(lanes_in_turn(1))):
        if not isinstance(step.record, records.Completion):
            assert step.found == ()
            continue
        for fold, found in zip(step.record.folds, step.found, strict=True):
            assert found == states.get(fold.address, FoundState(None, None))
            if fold.state is not None:
                states[fold.address] = FoundState(fold.state, digest(fold.state))
            completions += 1
    assert completions >= 2


def test_two_folds_of_an_agent_in_one_record_follow_each_other() -> None:
    """Goal: the second fold finds what the first left. Method: one record with both, as another broker may write it."""
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    alice.submit("counter/a", b"", b"")
    folds = []
    for turn, state in ((1, b"1"), (2, b"2")):
        outcome = Done(None, digest(state), (), (), 1, (), state_bytes=len(state))
        folds.append(records.CompletedFold("counter/a", (turn,), (outcome,), state, None))
    before = records_of(broker)
    written = [records.Fingerprint(1, "cpu", ()), records.Completion("main", 1, "w1", 1, 1, tuple(folds))]
    walk = Walk(MemoryRun(Broker()))
    *_, last = walk.steps(enumerate([*before, *written], 1))
    assert last.found == (FoundState(None, None), FoundState(b"1", digest(b"1")))


def test_workers_are_known_by_their_number() -> None:
    """Goal: a completion's fingerprint leads to pool and facts. Method: of a whole run, and of one that was cut."""
    broker = lanes_in_turn(1)
    for cut_after in (0, len(records_of(broker)) - 1):
        walk = Walk(MemoryRun(broker, cut_after=cut_after))
        for _ in walk.steps():
            pass
        assert walk.worker(1) == ("cpu", (("engine", "scripted"),))


@pytest.mark.parametrize("lanes", [1, 5])
def test_a_snapshot_is_read_once_for_all_lanes(lanes: int) -> None:
    """Goal: many lanes of a compacted run cost no more than one. Method: count how often its beginning is made, and
    look that the worlds are what the lanes were: equal digests, turns for seqs, none of the other lanes.
    """
    broker = lanes_in_turn(lanes)
    run = CountedRun(broker, cut_after=len(records_of(broker)))
    walk = Walk(run)
    for name in [f"lane{lane}" for lane in range(lanes)]:
        world = walk.lane_world(name)
        assert world is not None
        assert list(world.lanes) == [name]
        assert (world.lanes[name].retired, world.lanes[name].digest) == walk.begin_of(name)
        assert world.next_seq == world.lanes[name].next_turn
        world.check_invariants()
        notes = world.apply(records.PauseSet(name, 4, 1, records.Origin("", 0, ZERO_DIGEST), False))
        assert [(task.seq, task.turn) for task in notes.retired] == [(5, 5)], "it was cancelled while it waited"
        assert walk.world.lanes[name].retired == 4, "and in no other"
    assert run.begun == 2
    assert walk.lane_world("none") is None


def test_a_note_of_a_lane_that_is_not_there_breaks_off() -> None:
    """Goal: a typed error for what no broker writes. Method: a divergence noted in a lane that was never opened."""
    note = records.Diverged("none", 1, "counter/a", ZERO_DIGEST, ZERO_DIGEST, "w1")
    with pytest.raises(JournalError, match=r"record 1: .*'none', which was never opened"):
        list(Walk(MemoryRun(Broker())).steps([(1, note)]))


def test_the_order_of_retires_begins_where_the_records_do() -> None:
    """Goal: turns up to one, in retire order. Method: a whole run and one that was cut."""
    broker = eventful()
    whole = retire_order(MemoryRun(broker), "main", 10)
    assert whole == list(range(1, 11))
    assert retire_order(MemoryRun(broker, cut_after=6), "main", 10) == whole[1:]
    assert retire_order(MemoryRun(broker), "main", 0) == []


@pytest.mark.parametrize("folder", ["runs", "proof", "cli"])
def test_nobody_else_applies_the_records_of_a_run(folder: str) -> None:
    """Goal: there is one walk. Method: who else names what applies records; a replay has an Engine."""
    root = Path(__file__).resolve().parents[2]
    words = re.compile(r"\bapply_numbered\b|\bfold\(|\bworld\.apply\(")
    found = {path.relative_to(root).as_posix(): words.search(path.read_text()) for path in (root / folder).glob("*.py")}
    assert [name for name, match in found.items() if match] == (["runs/walk.py"] if folder == "runs" else [])
