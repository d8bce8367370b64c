"""The state of an agent at a turn: read where the journal has it, executed again where it has only a digest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from eventful import Broker, MemoryRun, RealWorker, eventful, program, scripted

from rota.common.digests import digest
from rota.common.errors import JournalError, UnknownLane, UnknownTask
from rota.common.work import AGENT, Code, Done, Fold, FoldResult
from rota.engine.executors import Executors, Folders
from rota.runs.states import state_at

COUNTER = Path(__file__).resolve().parents[2] / "examples" / "agents" / "counter.wasm"


def execute_scripted(fold: Fold) -> FoldResult:
    return scripted.run_fold(fold)


def never(fold: Fold) -> FoldResult:
    raise AssertionError("nothing is to be executed here")


@pytest.fixture
def executors(tmp_path: Path) -> Iterator[Executors]:
    modules = tmp_path / "modules"
    modules.mkdir()
    shutil.copy(COUNTER, modules / f"{digest(COUNTER.read_bytes()).hex()}.wasm")
    parts = {part: tmp_path / part for part in ("artefacts", "models", "tensors")}
    with Executors(Folders(modules=modules, **parts)) as made:
        yield made


def test_a_real_agent_is_executed_again_inside_a_fold(executors: Executors) -> None:
    """Goal: states that the journal does not have. Method: a fold of real WASM; every turn against the count there."""
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter", Code(digest(COUNTER.read_bytes()), AGENT, reuse=False))
    worker = RealWorker(broker.worker(), executors.run)
    alice.submit("counter/a", *[b"get" if place % 4 == 0 else b"x" for place in range(9)])
    broker.run()
    assert max(len(fold.tasks) for fold in worker.folds) > 2, "or the fold that this is about was not made"
    run, count, hows = MemoryRun(broker), 0, []
    for turn in range(1, 10):
        count += (turn - 1) % 4 != 0
        found = state_at(run, "counter/a", "main", turn, executors.run)
        assert found.state == (msgpack.packb(count) if count else None)
        assert found.digest == (None if found.state is None else digest(found.state))
        hows.append(found.how)
    assert "executed" in hows
    assert hows[-1] == "recorded"


def test_states_follow_the_turns() -> None:
    """Goal: the state just after a turn, of any agent. Method: the eventful run, turn by turn."""
    run = MemoryRun(eventful())
    states = [state_at(run, "counter/b", "main", turn, execute_scripted).state for turn in range(1, 11)]
    assert states == [None, b"5", b"5", b"5", b"6", b"8", b"8", b"8", b"15", b"15"]
    end = state_at(run, "counter/b", "main", None, never)
    assert (end.state, end.turn, end.position, end.tasks, end.how) == (b"15", 10, 10, 5, "recorded")
    assert end.left_by is not None
    assert end.left_by.seq == 9


def test_a_state_is_of_its_retire_not_of_its_completion() -> None:
    """Goal: what has completed and not retired does not count. Method: the head of the line is not done."""
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    alice.deploy("model:m", scripted.MODEL_CODE)
    alice.submit("model:m", program())
    alice.submit("counter/a", program(["add", 1]))
    broker.worker()
    broker.run()
    assert broker.counter("counter/a") == 1
    found = state_at(MemoryRun(broker), "counter/a", "main", None, never)
    assert (found.state, found.turn, found.position) == (None, None, 0)
    broker.worker("gpu", pool="gpu")
    broker.run()
    assert state_at(MemoryRun(broker), "counter/a", "main", None, never).state == b"1"


def test_a_failed_task_leaves_the_state() -> None:
    """Goal: failures change nothing. Method: a failed task between two that count, all in one fold."""
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    broker.worker()
    alice.submit("counter/a")
    broker.run()  # the first one goes alone: its pace is not known
    alice.submit("counter/a", program(["add", 1]), program(["add", 5], ["trap"]), program(["add", 2]))
    broker.run()
    run = MemoryRun(broker)
    assert [state_at(run, "counter/a", "main", turn, execute_scripted).state for turn in (1, 2, 3, 4)] == [
        None, b"1", b"1", b"3"
    ]  # fmt: skip


def test_another_state_is_refused() -> None:
    """Goal: nothing is shown that the journal contradicts. Method: an executor that lies, and one that gives up."""
    run = MemoryRun(eventful())
    lie = FoldResult((Done(None, digest(b"9"), (), (), 0, ()),), b"9")
    with pytest.raises(JournalError, match="rota verify"):
        state_at(run, "counter/b", "main", 5, lambda fold: lie)
    with pytest.raises(JournalError, match="no such device"):
        state_at(run, "counter/b", "main", 5, lambda fold: FoldResult((), None, "refused", "no such device"))


def test_what_is_not_there_is_refused_with_what_is() -> None:
    """Goal: an error that helps. Method: an agent, a lane and turns that the run has not got, or not yet."""
    run = MemoryRun(eventful())
    with pytest.raises(UnknownTask, match=r"agents there: .*counter/a"):
        state_at(run, "counter/q", "main", None, never)
    with pytest.raises(UnknownLane, match="lanes: main"):
        state_at(run, "counter/a", "side", None, never)
    with pytest.raises(UnknownTask, match="turns 1 to 13"):
        state_at(run, "counter/a", "main", 14, never)
    with pytest.raises(UnknownTask, match=r"has not retired.* turn 10"):
        state_at(run, "counter/a", "main", 12, never)


@pytest.mark.parametrize("cut_after", range(1, 22))
def test_a_compacted_journal_tells_the_same_or_nothing(cut_after: int) -> None:
    """Goal: no wrong state after a compaction. Method: every cut, agent and turn against the whole."""
    broker = eventful()
    whole, rest = MemoryRun(broker), MemoryRun(broker, cut_after=cut_after)
    last = state_at(rest, "counter/b", "main", None, execute_scripted) if cut_after > 2 else None
    assert last is None or last.state == b"15"
    told = 0
    for address in ("counter/a", "counter/b", "counter/c", "nobody"):
        for turn in range(1, 11):
            try:
                found = state_at(rest, address, "main", turn, execute_scripted)
            except (UnknownTask, JournalError):
                continue
            told += 1
            expected = state_at(whole, address, "main", turn, execute_scripted)
            assert (found.state, found.digest, found.position) == (expected.state, expected.digest, expected.position)
    assert told or cut_after >= 17, "the last retire is in record 17"
