"""World.tensors_in_use: a tensor that anything may still read is not collected."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import Broker

from rota.broker import records
from rota.broker.recovery import fold
from rota.broker.world import World
from rota.common.messages import LaneSettings, TaskRun
from rota.common.work import AGENT, TIMER, Code, Done, Emit, TensorRef

REF = TensorRef(b"\1" * 32, "int8", (3,))
OTHER = TensorRef(b"\2" * 32, "int8", (3,))
ORIGIN = records.NOBODY
BEGIN = [
    records.Epoch(1, 0, ()),
    records.Opened("main", 0, ORIGIN, LaneSettings(window=1, seed=bytes(32)), False, (("a", Code(bytes(32), AGENT)),)),
    records.Fingerprint(1, "cpu", ()),
    records.Submitted(
        "main", 0, 0, ORIGIN._replace(number=2), 1, (TaskRun.of("a", 0, (b"", b""), ((), (REF,))),), None
    ),
]


def world_of(*more: Any, **settings: int) -> World:
    world = World(**settings)
    fold(world, [*BEGIN, *more])
    world.check_invariants()
    return world


def completed(turn: int, *emits: Emit, tensors: tuple[TensorRef, ...] = ()) -> records.Completion:
    outcome = Done(b"", None, emits, (), 0, tensors)
    return records.Completion("main", 0, "w1", 0, 1, (records.CompletedFold("a", (turn,), (outcome,), None, None),))


def test_of_a_task_that_waits() -> None:
    """Goal: a stamped task finds its tensors when it is issued. Method: a window of one, the second task has one."""
    assert world_of().tensors_in_use() == {REF.digest: None}


def test_of_a_task_in_the_line_and_of_its_result() -> None:
    """Goal: a running task and a kept result hold theirs. Method: the first completes, then the second as well."""
    assert world_of(completed(1)).tensors_in_use() == {REF.digest: None}
    found = world_of(completed(1), completed(2, tensors=(OTHER,))).tensors_in_use()
    assert found == {REF.digest: None, OTHER.digest: None}


def test_of_a_timer() -> None:
    """Goal: what a timer will send is there when it fires. Method: no result is kept, only the timer names it."""
    timer = Emit("a", b"", 0, TIMER, (OTHER,), 50)
    found = world_of(completed(1), completed(2, timer), results_max=0).tensors_in_use()
    assert found == {OTHER.digest: None}
    fired = records.TimerFired("main", 2, 60, 2, 0)
    assert world_of(completed(1), completed(2, timer), fired, results_max=0).tensors_in_use() == {OTHER.digest: None}


def test_of_a_dead_letter() -> None:
    """Goal: a dead task can be retried with its tensors. Method: it is judged; no result is kept."""
    judged = records.Verdict("main", 1, 0, 2, "timeout", "it ran longer than 10000 ms", ())
    world = world_of(completed(1), judged, results_max=0)
    assert world.tensors_in_use() == {REF.digest: None}
    fold(world, [records.DeadDropped("main", 2, 0, ORIGIN._replace(number=3), ())])
    assert world.tensors_in_use() == {}


@pytest.mark.parametrize("kept", [0, 1])
def test_of_nothing_any_more(kept: int) -> None:
    """Goal: an unreadable tensor is not kept. Method: everything retired; the newest result is kept or not."""
    found = world_of(completed(1), completed(2), results_max=kept).tensors_in_use()
    assert found == ({REF.digest: None} if kept else {})


def test_the_live_broker_says_the_same(broker: Broker) -> None:
    """Goal: the answer does not depend on how the world came about. Method: a submit through the core."""
    broker.producer().submit_runs(TaskRun.of("counter/a", 0, (b"[]",), ((REF,),)))
    assert broker.core.world.tensors_in_use() == {REF.digest: None}
