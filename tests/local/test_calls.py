"""Answers that come later, and calls of flows, in a lane of this process: step by step, what is open, how it ends."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import msgpack
import pytest

from rota import local
from rota.common.work import Done, Failed
from rota.local import LocalLane
from rota.proof.changed import ChangePlan
from rota.proof.continuation import Change
from rota.proof.fork import fork
from rota.proof.verification import IN_PROCESS, prove
from rota.proof.verify import VerifyOptions
from rota.runs.open import open_run

EXAMPLES = Path(__file__).parents[2] / "sdk" / "c" / "examples"
MINUTE_MS = 60_000


@pytest.fixture
def lane(rota_lane: LocalLane, agents: Path, callers: ModuleType) -> LocalLane:
    """A lane with `echo`, an agent `desk` that asks it and answers later, a `keeper` that never answers, and flows."""
    rota_lane.deploy("echo", agents / "echo.wasm")
    rota_lane.deploy("desk", callers.by_hand("desk", "echo", 2))
    rota_lane.deploy("keeper", callers.keeper_of_asks())
    rota_lane.deploy("trip", callers.flow("echo", 2), flow=True)
    rota_lane.deploy("stuck", callers.flow("keeper", 1), flow=True)
    rota_lane.deploy("outer", callers.flow("stuck", 1), flow=True)
    return rota_lane


def test_the_result_is_the_answer_in_the_end(lane: LocalLane) -> None:
    """Goal: whoever asks gets the answer, not what the first turn did. Method: an agent that asks twice before it
    answers; the handle, the turn and the batch; nothing is run behind the answer.
    """
    handle, behind = lane.ask("desk", b"now"), lane.submit("echo", b"later")
    turn = lane.step()
    assert turn is not None
    assert (turn.kind, turn.waits, turn.answer, turn.call) == ("ask", "", None, None)
    assert [(ask.turn, ask.owner, ask.owes, ask.asker) for ask in lane.asks] == [(handle.turn, "desk", 1, None)]
    assert "1 open asks" in repr(lane)
    assert handle.result().payload == b"done"
    assert lane.turn(handle).text == "done"
    assert isinstance(turn.answer, Done)
    assert not lane.asks
    assert behind.result().payload == b"later"
    assert [result.payload for result in lane.ask_many("desk", [b"", b""]).results()] == [b"done", b"done"]


def test_the_result_of_what_is_never_answered_is_an_error(lane: LocalLane) -> None:
    """Goal: nobody waits for ever in a lane in which nothing can happen. Method: the result right after the ask, where
    turns have just been run: of an agent that keeps what it is asked, and of a call that waits for it.
    """
    for target in ("keeper", "outer"):
        with pytest.raises(local.LocalError, match="has no answer, and nothing is left to run"):
            lane.ask(target).result()


def test_states_inside_a_fold_that_postpones_and_settles_are_known(rota_lane: LocalLane) -> None:
    """Goal: fast runs hide no state of an agent that answers later. Method: a desk that keeps the turn it owes, in one
    fold with its answers.
    """
    rota_lane.deploy("desk", EXAMPLES / "desk.wasm")
    rota_lane.submit_many("desk/a", [b"wait", b"answer", b"wait", b"wait", b"answer"])
    turns = rota_lane.run()
    assert [turn.waits for turn in turns] == ["", None, "", "", None]
    assert [turn.state for turn in turns] == [msgpack.packb(owed) for owed in (1, None, 3, 4, None)]


def test_a_flow_is_stepped_through_wait_by_wait(lane: LocalLane) -> None:
    """Goal: `step` stops where the flow waits, and says of which call. Method: every step of a call of two awaits, and
    what the lane says of the call meanwhile and at its end.
    """
    handle = lane.ask("trip")
    seen = []
    while (turn := lane.step()) is not None:
        seen.append((turn.target, turn.call, turn.waits))
    call = "trip/~1"
    assert seen == [(call, 1, ""), ("echo", None, None), (call, 1, ""), ("echo", None, None), (call, 1, None)]
    assert handle.result().payload == b"done"
    told = lane.call(lane.turns[2])
    assert (told.address, told.flow, told.turn, told.ended, told.waits_at) == (call, "trip", 1, True, None)
    assert [turn.turn for turn in told.messages] == [1, 3, 5]
    assert [(wait.step.turn, wait.emit.target, wait.answer.turn) for wait in told.waits] == [
        (1, "echo", 3),
        (3, "echo", 5),
    ]
    assert told.fuel == sum(turn.fuel for turn in told.messages)
    assert isinstance(told.outcome, Done)
    assert lane.state(call) is None
    assert call not in lane.agents


def test_a_call_that_goes_on_says_what_it_waits_for(lane: LocalLane) -> None:
    """Goal: one sees where a call hangs. Method: a call that waits for one that waits for an agent that never answers;
    their views, and the error of whoever wants the result.
    """
    handle = lane.ask("outer")
    lane.run()
    outer, stuck = lane.call(handle), lane.call(2)
    assert [wait.emit.target for wait in outer.open] == ["stuck"]
    assert repr(stuck) == f"<call stuck/~2: 1 messages, {stuck.fuel} fuel, waits for keeper>"
    assert (stuck.outcome, stuck.ended, stuck.waits_at) == (None, False, "")
    assert "open asks:" in lane.report()
    with pytest.raises(local.LocalError) as caught:
        handle.result()
    assert str(caught.value).endswith(
        "turn 1 has no answer, and nothing is left to run: outer/~1 has not answered; it waits for stuck/~2, turn 2; "
        "stuck/~2 has not answered; it waits for keeper, turn 3; keeper has postponed turn 3"
    )
    with pytest.raises(local.LocalError, match="turn 3 is a message to keeper, which is no flow"):
        lane.call(3)


def test_a_cancel_ends_a_call_and_what_it_asked(lane: LocalLane) -> None:
    """Goal: nothing goes on for nobody. Method: cancel the outermost of three that wait for each other."""
    handle = lane.ask("outer")
    lane.run()
    assert handle.cancel()
    assert not handle.cancel()
    lane.run()
    assert not lane.asks
    assert lane.agents == ("keeper",)
    outcomes = [handle.outcome(), *lane.outcomes([2, 3])]
    assert [outcome.kind for outcome in outcomes] == ["cancelled"] * 3
    assert [dead.turn for dead in lane.dead] == [1, 2, 3]
    assert isinstance(lane.call(1).outcome, Failed)


def test_what_comes_after_the_end_of_a_call_is_no_message_of_it(lane: LocalLane) -> None:
    """Goal: a call is told as it was. Method: it is cancelled while an answer to it is in the line."""
    handle = lane.ask("trip")
    lane.step()
    lane.step()
    assert [task.target for task in lane.line] == ["trip/~1"]
    assert handle.cancel()
    (late,) = lane.run()
    assert late.target == "trip/~1"
    told = lane.call(late)
    assert [turn.turn for turn in told.messages] == [1]
    assert (told.ended, len(told.open)) == (True, 0)
    assert repr(told).endswith("failed cancelled: cancelled on request>")
    assert not lane.asks


def test_a_deadline_is_passed_by_the_clock(lane: LocalLane) -> None:
    """Goal: deadlines are inputs of the lane's clock, as timers are. Method: one that passes while its task is open,
    one while it waits in a paused lane, and one that is met.
    """
    met = lane.ask("trip", deadline_ms=MINUTE_MS)
    late = lane.ask("outer", deadline_ms=MINUTE_MS)
    assert met.result().payload == b"done"
    lane.run()
    assert lane.asks[0].due_ms == MINUTE_MS
    assert lane.advance(MINUTE_MS - 1) == 0
    assert lane.advance(1) == 1
    assert late.outcome().kind == "expired"
    assert not lane.asks
    lane.pause()
    waits = lane.ask("echo", b"", deadline_ms=5)
    lane.run_for(10)
    assert waits.outcome().kind == "expired"


def test_what_is_kept_is_proved_again(lane: LocalLane, tmp_path: Path) -> None:
    """Goal: the records of calls are those of a broker. Method: a run with all of it, saved, and verified."""
    lane.ask("trip")
    lane.ask("desk", b"x")
    ended = lane.ask("outer", deadline_ms=5)
    lane.run_for(10)
    assert ended.outcome().kind == "expired"
    lane.ask("stuck")
    left = lane.ask("keeper")
    lane.run()
    assert left.cancel()  # behind the last turn
    with open_run(lane.save(tmp_path / "run")) as source:
        (found,) = prove(source, [IN_PROCESS], VerifyOptions()).rounds
    assert found.report.equal, found.report
    assert [one.digest for one in found.report.lanes] == [lane.digest]


def test_a_fork_leaves_an_overdue_ask_that_the_run_answered(lane: LocalLane, tmp_path: Path) -> None:
    """Goal: which comes first, an answer or the end by a deadline that was past when it was stamped, is in the journal.
    Method: an old input makes an agent ask with a deadline, another input comes, then the answer; fork the run.
    """
    lane.deploy("desk", EXAMPLES / "desk.wasm")
    lane.submit("desk/a", b"ask for me")
    lane.advance(31_000)
    asked = lane.step()
    assert asked is not None
    assert asked.emits[0].delay_ms == 30_000
    lane.submit("echo/9", b"y")
    turns = lane.run()
    assert all(turn.ok for turn in turns)
    with open_run(lane.save(tmp_path / "run")) as source:
        came = fork(source, ChangePlan("main", 1, Change()), [], tmp_path / "fork", "no", device="cpu")
    assert came.same, (came.first, came.left_out)
