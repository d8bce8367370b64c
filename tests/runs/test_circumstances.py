"""What a journal says about one turn: who asked, who computed it, what happened around it."""

from __future__ import annotations

import pytest
from eventful import MemoryRun, eventful, records_of

from rota.broker import records
from rota.common.digests import digest
from rota.runs.circumstances import circumstances


def test_a_reply_is_told_up_to_its_submit() -> None:
    """Goal: parents, input and worker of a turn. Method: the reply at the bottom of an ask."""
    seen = circumstances(MemoryRun(eventful()), "main", 4)
    assert seen.task is not None
    assert (seen.task.turn, seen.task.address, seen.stamped) == (4, "counter/a", 7)
    assert [(above.turn, above.target) for above in seen.parents] == [(2, "counter/b"), (1, "counter/a")]
    assert seen.origin is not None
    assert (seen.origin.record, seen.origin.kind, seen.origin.producer) == (5, "Submitted", "alice")
    assert seen.worker is not None
    assert (seen.worker.name, seen.worker.number, seen.worker.pool) == ("w1", 1, "cpu")
    before, after = seen.same_agent()
    assert ([task.turn for task in before], [task.turn for task in after]) == ([1], [10])


def test_only_the_last_change_of_a_fold_has_its_state() -> None:
    """Goal: a state is not taken for that of a turn inside its fold. Method: turns of one fold, one of no agent."""
    run = MemoryRun(eventful())
    seen = {turn: circumstances(run, "main", turn) for turn in (5, 6, 8)}
    fold = seen[6].fold
    assert fold is not None
    assert fold == seen[5].fold, "or the run no longer has the fold that this is about"
    assert (seen[5].state, seen[6].state) == (None, b"8")
    assert seen[6].task is not None
    assert seen[6].task.state_digest == digest(b"8")
    assert (seen[8].fold, seen[8].worker, seen[8].record) == (None, None, seen[8].stamped)


def test_decisions_are_known_by_turn() -> None:
    """Goal: what was decided and not computed. Method: the cancel of a task that waits."""
    broker = eventful()
    number = next(place for place, one in enumerate(records_of(broker), 1) if type(one) is records.Cancelled)
    assert circumstances(MemoryRun(broker), "main", 10).decisions == {11: number}


@pytest.mark.parametrize("turn", [12, 99])
def test_a_turn_that_has_not_retired_has_no_task(turn: int) -> None:
    """Goal: what is not there is not guessed. Method: a turn that waits, and one that never was."""
    seen = circumstances(MemoryRun(eventful()), "main", turn)
    assert (seen.task, seen.parents, seen.around, seen.state) == (None, (), (), None)
    assert (seen.stamped is None) == (turn == 99)
