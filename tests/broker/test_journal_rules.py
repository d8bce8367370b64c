"""Invalid journals: records that decode and are in a valid chain, but do not follow from those before them."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import Broker
from scripted import program

from rota.broker import records
from rota.broker.recovery import fold
from rota.broker.world import World
from rota.common.digests import digest
from rota.common.errors import JournalError
from rota.common.messages import LaneSettings, TaskRun
from rota.common.work import AGENT, MODEL, TIMER, Code, Done, Emit, Failed

ORIGIN = records.NOBODY
ALICE = records.Origin("alice", 1, bytes([1]) * 32)
PAUSED = records.PauseSet("main", 0, 0, ORIGIN, True)
MODEL_BOUND = records.Deployed("main", 0, 0, ORIGIN, "model:m", Code(bytes(32), MODEL))
BEGIN = [
    records.Epoch(1, 0, ()),
    records.Opened("main", 0, ORIGIN, LaneSettings(seed=bytes(32)), False, (("a", Code(bytes(32), AGENT)),)),
    records.Fingerprint(1, "cpu", ()),
]


def submitted(position: int, first_seq: int, target: str = "a") -> records.Submitted:
    return records.Submitted("main", position, 0, ORIGIN, first_seq, (TaskRun.of(target, 0, (b"", b""), None),), None)


def completed(*turns: int, result: bytes = b"", fingerprint: int = 1) -> records.Completion:
    outcomes = tuple(Done(result, None, (), (), 0, ()) for _ in turns)
    return records.Completion(
        "main", 0, "w1", 0, fingerprint, (records.CompletedFold("a", turns, outcomes, None, None),)
    )


def failed(kind: str, target: str = "a") -> records.Completion:
    fold_of_one = records.CompletedFold(target, (1,), (Failed(kind, "", (), 0),), None, None)
    return records.Completion("main", 0, "w1", 0, 1, (fold_of_one,))


def dropped(seq: int, position: int = 0) -> records.DeadDropped:
    return records.DeadDropped("main", position, 0, ORIGIN, (seq,))


def timer_set(turn: int) -> records.Completion:
    outcome = Done(b"", None, (Emit("a", b"", 0, TIMER, (), 5),), (), 0, ())
    return records.Completion("main", 0, "w1", 0, 1, (records.CompletedFold("a", (turn,), (outcome,), None, None),))


def left(turn: int, state: bytes | None, said_bytes: int) -> records.Completion:
    """A completion that leaves a state and says that it has this size."""
    outcome = Done(b"", None if state is None else digest(state), (), (), 0, (), state_bytes=said_bytes)
    return records.Completion("main", 0, "w1", 0, 1, (records.CompletedFold("a", (turn,), (outcome,), state, None),))


CASES: dict[str, tuple[list[Any], str]] = {
    "a position that was not reached": ([submitted(1, 1)], "position 1, but 0 tasks"),
    "a position that has passed": ([submitted(0, 1), completed(1), submitted(0, 3)], "position 0, but 1 tasks"),
    "a number again": ([submitted(0, 1), submitted(0, 1)], "stamped 1, the next number is 3"),
    "a number that is left out": ([submitted(0, 2)], "stamped 2, the next number is 1"),
    "a second completion in the line": ([submitted(0, 1), completed(2, result=b"1")], "overtakes"),
    "a second completion": ([submitted(0, 1), completed(1), completed(1, result=b"2")], "but it has retired"),
    "a completion twice in one record": ([submitted(0, 1), completed(1, 1)], "completes twice"),
    "a completion of nothing": ([completed(1)], "turn 1 of lane 'main' completes, but it was never stamped"),
    "a completion in no lane": ([completed(1)._replace(lane="x")], "names lane 'x', which was never opened"),
    "a retry of nothing": (
        [records.Submitted("main", 0, 0, ORIGIN, 1, (), 7)], "task 7 is retried, which is no dead letter of lane",
    ),
    "a state of another size": ([submitted(0, 1), left(1, b"state", 6)], "of 'a' has 5 bytes, its outcome says 6"),
    "a size without a state": ([submitted(0, 1), left(1, None, 6)], "'a' has the size of a state without its digest"),
    "a worker that never came": ([submitted(0, 1), completed(1, fingerprint=2)], "fingerprint 2 of 1"),
    "a timer that is not there": ([records.TimerFired("main", 0, 0, 1, 0)], r"a timer of turn 1 \(emit 0\) fires"),
    "a timer again": (
        [submitted(0, 1), timer_set(1), *[records.TimerFired("main", 1, 9, 1, 0)] * 2], "record 7: a timer of turn 1 ",
    ),
    "an epoch again": ([records.Epoch(1, 0, ())], "epoch 1 follows epoch 1"),
    "a lane again": ([BEGIN[1]], "opened twice"),
    "a verdict on what has completed": (
        [submitted(0, 1), completed(1), records.Verdict("main", 1, 0, 1, "timeout", "", ())], "record 6",
    ),
    "a verdict in other words": (
        [submitted(0, 1), records.Verdict("main", 0, 0, 1, "timeout", "late", ())], "no broker gives",
    ),
    "a verdict on what waits": (
        [PAUSED, submitted(0, 1), records.Verdict("main", 0, 0, 1, "timeout", "it ran longer than 10000 ms", ())],
        "no broker gives",
    ),
    "a failure that agents do not have": ([submitted(0, 1), failed("bad_input")], "cannot end as 'bad_input'"),
    "a decision from a worker": ([submitted(0, 1), failed("lost")], "cannot end as 'lost'"),
    "a failure that models do not have": (
        [MODEL_BOUND, submitted(0, 1, "model:m"), failed("trap", "model:m")], "cannot end as 'trap'",
    ),
    "a drop of what is not dead": ([submitted(0, 1), dropped(1)], "no dead letter"),
    "a drop of what was dropped": ([submitted(0, 1), failed("trap"), dropped(1, 1), dropped(1, 1)], "no dead letter"),
    "a request again": (
        [submitted(0, 1)._replace(origin=ALICE), records.PauseSet("main", 0, 0, ALICE, True)], "takes effect twice",
    ),
    "a cancel on what has completed": (
        [submitted(0, 1), completed(1), records.Cancelled("main", 1, 0, ORIGIN, 1)], "record 6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_follow_is_refused(case: str) -> None:
    """Goal: a journal of other rules, or with a hole, is not gone on with. Method: one wrong record each at its end."""
    wrong, told = CASES[case]
    with pytest.raises(JournalError, match=told) as refused:
        fold(World(), [*BEGIN, *wrong])
    assert "Error" not in refused.value.message, "no class of Python's, but words"


def test_the_right_ones_are_taken() -> None:
    """Goal: the cases above are refused for what they name. Method: the same records, right."""
    world = World()
    fold(world, [*BEGIN, submitted(0, 1), completed(1), submitted(1, 3), completed(2, 3)])
    bound = [MODEL_BOUND._replace(position=3, origin=ALICE), submitted(3, 5)]
    judged = records.Verdict("main", 4, 0, 5, "timeout", "it ran longer than 10000 ms", ())
    again = submitted(5, 7)._replace(runs=(), retry_of=5, origin=ALICE._replace(number=2))
    fold(world, [*bound, completed(4), judged, again, completed(6), dropped(5, 6)._replace(seqs=())])
    world.check_invariants()
    assert (world.next_seq, world.lanes["main"].retired) == (8, 6)
    assert world.lanes["main"].digest != digest(b"")


def test_a_timer_that_fired_does_not_come_back(broker: Broker) -> None:
    """Goal: once, whatever happens after. Method: a timer fires; time passes, the broker starts again, time passes."""
    producer = broker.producer()
    broker.worker()
    producer.submit("counter/a", program(["timer", 50, [["add", 1]]]))
    broker.run()
    for _ in range(2):
        broker.live(1_000)
        broker.run()
        broker.restart()
    broker.live(1_000)
    broker.run()
    assert broker.counter("counter/a") == 1
    assert len(broker.recorded(records.TimerFired)) == 1
    assert broker.lane().timers == {}
