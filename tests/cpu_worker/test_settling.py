"""Postpone, settle and hand on: what an agent may do with the turns that it owes, as its worker judges it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import pytest

from rota.common.digests import pack
from rota.common.limits import DELAY_MS_MAX, NOW_MS_MAX
from rota.common.work import Done, Emit, Failed, Fold, Limits, TaskInput
from rota.cpu_worker import abi
from rota.cpu_worker.open_turns import OpenTurns
from rota.cpu_worker.task_log import TaskLog

ME = "desk/a"
ASKED = TaskInput(7, "ask", "other/x", b"", 0, None, (), 8, 4_000)
FROM_OUTSIDE = ASKED._replace(kind="tell", sender=None)
TOLD = ASKED._replace(kind="tell")


def end(
    emits: Sequence[Any] = (),
    waits: Any = None,
    *,
    task: TaskInput = ASKED,
    turns: Sequence[int] = (3, 5),
    **limits: int,
) -> Any:
    """Return the outcome of an agent that owes `turns` and ends its task with these emits."""
    data = msgpack.packb([1, 0, None, None, list(emits), [], [], waits])
    outcome, _ = abi.decode_output(
        data, address=ME, state=None, task=task, limits=Limits(**limits), fuel=1, log=TaskLog(0),
        open_turns=OpenTurns(turns),
    )  # fmt: skip
    return outcome


def settle(turn: Any, payload: bytes = b"r", **changes: Any) -> list[Any]:
    fields = {"target": ME, "payload": payload, "priority": 0, "kind": "reply", "tensors": [], "delay_ms": 0}
    return [*{**fields, **changes}.values(), turn]


def settle_failure(turn: int, code: Any = "late", message: Any = "no", **changes: Any) -> list[Any]:
    return settle(turn, msgpack.packb([code, message]), kind="failure", **changes)


def hand_on(turn: int, **changes: Any) -> list[Any]:
    return settle(turn, kind="ask", target="other/y", **changes)


def why(*given: Any, **more: Any) -> tuple[str, str]:
    outcome = end(*given, **more)
    assert isinstance(outcome, Failed)
    return outcome.kind, outcome.message


# --- what is allowed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [ASKED, FROM_OUTSIDE, FROM_OUTSIDE._replace(kind="ask")])
@pytest.mark.parametrize("waits", ["", "desk.py:12"])
def test_a_task_that_somebody_waits_for_may_be_postponed(task: TaskInput, waits: str) -> None:
    """Goal: an ask, and any task from outside. Method: each, with and without a place where it waits."""
    assert end((), waits, task=task) == Done(None, None, (), (), 1, (), 0, waits)


def test_a_place_to_wait_is_cut() -> None:
    """Goal: a long text fails nothing, since it is for people. Method: more than is kept."""
    assert end((), "x" * 1_000).waits == "x" * abi.WAITS_CHARS_MAX


def test_settle_and_hand_on() -> None:
    """Goal: what is settled and handed on travels as emits do. Method: a result, a failure, an ask with a deadline."""
    assert end([settle(3), settle_failure(5)]).emits == (
        Emit(ME, b"r", 0, "reply", (), 0, 3),
        Emit(ME, pack(["error", "late: no"]), 0, "failure", (), 0, 5),
    )
    assert end([hand_on(5, delay_ms=DELAY_MS_MAX)]).emits == (Emit("other/y", b"r", 0, "ask", (), DELAY_MS_MAX, 5),)


def test_the_own_turn_is_handed_on_by_a_task_that_waits() -> None:
    """Goal: a desk that only passes an ask on needs no second message. Method: with `waits`, and without."""
    assert end([hand_on(7)], "").emits[0].answers == 7
    assert why([hand_on(7)]) == ("bad_output", "emits[0].answers: 7, the task's own turn, but the task is over (waits)")


# --- what is not ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emits", "turn"),
    [
        ([settle(4)], 4),
        ([settle(3), settle(3)], 3),
        ([settle(5), hand_on(5)], 5),
        ([hand_on(8)], 8),
        ([settle(NOW_MS_MAX)], NOW_MS_MAX),
    ],
)
def test_a_turn_that_the_agent_does_not_owe(emits: list[Any], turn: int) -> None:
    """Goal: only what is open is settled, and once. Method: a turn of others, each pair in one task, one to come."""
    text = f"turn {turn} is none that desk/a has postponed and not settled"
    assert why(emits) == ("bad_settle", text)
    assert why(emits, "") == ("bad_settle", text)


def test_the_own_turn_is_not_settled_by_its_own_task() -> None:
    """Goal: a task that knows its answer has a result. Method: settle and failure of the own turn, postponed or not."""
    text = "turn 7 is none that desk/a has postponed and not settled"
    for emit in (settle(7), settle_failure(7)):
        for waits in (None, ""):
            assert why([emit], waits) == ("bad_settle", text)
    assert why([hand_on(7), hand_on(7)], "") == ("bad_settle", text)


@pytest.mark.parametrize("kind", ["tell", "reply", "failure", "timer"])
def test_what_nobody_waits_for_is_not_postponed(kind: str) -> None:
    """Goal: there is no answer to postpone. Method: each message of another agent, or of the agent itself."""
    text = "turn 7 asked for nothing: only an ask, or a task from outside, can be postponed"
    assert why((), "", task=TOLD._replace(kind=kind)) == ("bad_settle", text)
    assert why([hand_on(7)], "", task=TOLD._replace(kind=kind)) == ("bad_settle", text)
    assert end([settle(3)], task=TOLD._replace(kind=kind)).emits[0].answers == 3


def test_open_turns_are_bounded() -> None:
    """Goal: past `asks_max` the outcome is `overflow`. Method: the bound, one less; room made by the same task."""
    assert type(end((), "", asks_max=3)) is Done
    assert why((), "", asks_max=2) == ("overflow", "over 2 postponed turns open (asks_max)")
    assert type(end([settle(3)], "", asks_max=2)) is Done
    assert type(end([hand_on(7)], "", asks_max=2)) is Done
    assert type(end([settle(3)], asks_max=0)) is Done


def test_what_is_postponed_counts_as_an_emit() -> None:
    """Goal: it takes room of the lane as an emit does. Method: as many emits as may be, with and without."""
    emits = [hand_on(3, **{}), ["a/b", b""], ["a/b", b""]]
    assert type(end(emits, emits_max=3)) is Done
    assert type(end(emits[:2], "", emits_max=3)) is Done
    text = "emits (asks are, too), and one for what is postponed: 4, at most 3 (emits_max)"
    assert why(emits, "", emits_max=3) == ("overflow", text)
    assert why((), "", task=ASKED._replace(emits_max=0))[0] == "overflow"


@pytest.mark.parametrize(
    ("emit", "text"),
    [
        (settle(0), "answers: 0, but a reply names the postponed turn that it settles"),
        (settle_failure(0), "answers: 0, but a failure names the postponed turn that it settles"),
        (settle(-1), "answers: -1, not a turn"),
        (settle(True), "answers: True, not a turn"),
        (settle(NOW_MS_MAX + 1), f"answers: {NOW_MS_MAX + 1}, not a turn"),
        (settle(3, target="desk/b"), "target: 'desk/b', but a reply goes to the agent itself, desk/a"),
        (settle(3, priority=1), "priority: 1, but a reply has that of the turn that it settles"),
        (settle(3, delay_ms=1), "delay_ms: 1, but a reply has no delay"),
        (settle_failure(3, tensors=[]), None),
        (settle(3, b"no list", kind="failure"), "payload: not MessagePack [code, message]"),
        (settle(3, b"\x92\xa1a", kind="failure"), "payload: not MessagePack [code, message]"),
        (settle(3, b"\x91" * 5_000, kind="failure"), "payload: not MessagePack [code, message]"),
        (settle(3, b"\x91\xa1a", kind="failure"), "payload: not MessagePack [code, message]"),
        (settle_failure(3, ""), "payload: code: '', not a str that is not empty"),
        (settle_failure(3, "a", b"b"), "payload: message: bin of 1 bytes, not a str"),
        (settle(3, kind="tell"), "answers: 3, but a tell answers nothing"),
        (settle(3, kind="timer"), "answers: 3, but a timer answers nothing"),
        (["order/~12", b""], "target: 'order/~12' is a call of a flow, to which nobody else can send"),
        (["order/~12", b"", 0, "ask"], "target: 'order/~12' is a call of a flow, to which nobody else can send"),
    ],
)
def test_an_emit_that_breaks_a_rule(emit: list[Any], text: str | None) -> None:
    """Goal: each breach is `bad_output` and names field, value and remedy. Method: one wrong emit per rule."""
    if text is None:
        assert type(end([emit])) is Done
        return
    kind, message = why([["ok/1", b""], emit])
    assert kind == "bad_output"
    assert message.startswith(f"emits[1].{text}")


def test_a_call_settles_nothing_and_has_no_state() -> None:
    """Goal: a flow answers by returning. Method: a settle and a hand-on, and a state; its waits need no asker."""

    def step(state: Any, emits: Any, waits: Any) -> Any:
        data = msgpack.packb([1, 0, state, None, emits, [], [], waits])
        return abi.decode_output(
            data, address=ME, state=None, task=TOLD, limits=Limits(), fuel=1, log=TaskLog(0), call=()
        )[0]

    for emit in (settle(3), hand_on(7), hand_on(3)):
        text = "a flow postpones nothing that it could settle: it answers by returning"
        assert step(None, [emit], "")[:2] == ("bad_settle", text)
    text = "state: bin of 1 bytes, but a call of a flow has none: what it keeps stays in its memory"
    assert step(b"s", [], "")[:2] == ("bad_output", text)
    assert step(b"s", [], None)[:2] == ("bad_output", text)
    assert step(None, [["a/b", b""]], "").waits == ""


# --- along a fold -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
def test_open_turns_follow_the_tasks_of_a_fold(world: Any, guests: Any, task: Any, lane_seed: bytes, raw: bool) -> None:
    """Goal: what a task postpones the next one may settle, once; a task that fails changes nothing.

    Method: an agent that returns its payload, in one fold and in folds of one.
    """
    code, executor = world.agent(guests["mirror"], asks_max=2), world.executor(raw_calls=raw)

    def answer(turn: int, emits: Sequence[Any] = (), waits: str | None = None) -> TaskInput:
        return task(msgpack.packb([1, 0, None, None, list(emits), [], [], waits]), turn=turn)

    tasks = [
        answer(1, (), ""), answer(2, (), ""), answer(3, (), ""), answer(4, [settle(1), settle(9)]),
        answer(5, [settle(1)], ""), answer(6, [settle(1)]), answer(7, [settle(2), hand_on(5)]), answer(8, (), ""),
    ]  # fmt: skip
    kinds = ["", "", "overflow", "bad_settle", "", "bad_settle", "", ""]
    result = executor.run(Fold(lane_seed, code, ME, None, tuple(tasks)))
    assert [getattr(outcome, "kind", "") for outcome in result.outcomes] == kinds
    opens = [(), (1,), (1, 2), (1, 2), (1, 2), (2, 5), (2, 5), ()]
    for given, turns, outcome in zip(tasks, opens, result.outcomes, strict=True):
        assert executor.run(Fold(lane_seed, code, ME, None, (given,), turns)).outcomes == (outcome,)
