"""Calls of flows: one instance from the first message to the end, made again from the messages when it is needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from call_kit import (
    DIARY,
    GROW,
    LOOP,
    READ,
    SPIN,
    TRAP,
    answers,
    call_fold,
    diary_source,
    goes_on,
    numbered,
    past_of,
    returns,
    run_grouped,
)  # fmt: skip

from rota.common.limits import LIVE_CALLS_DEFAULT
from rota.common.work import (
    AFTER_END,
    NO_STEPS,
    CallStep,
    CallSteps,
    Code,
    Done,
    Failed,
    FoldResult,
    Past,
    TaskInput,
    failure_text,
)
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.guest_memory import WatchedMemories
from rota.cpu_worker.tensor_access import BAD_INDEX, StoreTensors
from rota.tensors.store import TensorStore

GROUPINGS = [(7,), (1,) * 7, (2, 1, 3, 1), (1, 5, 1)]
WAYS = ["raw", "public", "source"]


class Way:
    """One of the ways in which the same flow runs: by both call paths, and as a source."""

    def __init__(self, world: Any, way: str) -> None:
        self._world = world
        self._way = way

    def code(self, **limits: int) -> Code:
        if self._way == "source":
            return diary_source(self._world, **limits)
        return self._world.agent(DIARY, flow=True, **limits)

    def executor(self, **settings: Any) -> WasmExecutor:
        return self._world.executor(raw_calls=self._way != "public", **settings)


@pytest.fixture(params=WAYS)
def way(world: Any, request: pytest.FixtureRequest) -> Way:
    return Way(world, request.param)


def outcomes_of(results: Sequence[FoldResult]) -> list[Any]:
    assert {(result.stopped, result.reason, result.state) for result in results} == {(None, "", None)}
    return [outcome for result in results for outcome in result.outcomes]


def seen(outcome: Any) -> bytes:
    """Return what a step has seen, from its ask or its result."""
    text = outcome.emits[0].payload if outcome.emits else outcome.result
    assert text.startswith(b"seen")
    return text[4:]


def count(outcome: Any) -> int:
    return int.from_bytes(seen(outcome)[:4], "little")


def with_path(past: Past, place: int, path: str) -> Past:
    """Return a past whose step at a place has another path."""
    steps = list(past.steps)
    steps[place] = steps[place]._replace(path=path)
    return past._replace(steps=CallSteps.of(steps))


def with_step(past: Past, task: TaskInput, path: str) -> Past:
    """Return a past with one more step."""
    return past._replace(steps=CallSteps.of([*past.steps, CallStep(task, path)]))


# --- a function of the messages ---------------------------------------------------------------------------------------


def test_outcomes_do_not_depend_on_how_a_call_is_run(world: Any) -> None:
    """Goal: outcomes, fuel and bytes follow from the messages alone.

    Method: one call with steps that count, grow memory, take fuel by what they keep and read chance and clock: by each
    call path and as a source, with and without kept guests, in four groupings into folds.
    """
    steps = [goes_on(), goes_on(GROW), goes_on(SPIN), goes_on(GROW), goes_on(SPIN), goes_on(), returns(SPIN)]
    messages = numbered(steps)
    found = []
    for way in [Way(world, name) for name in WAYS]:
        code = way.code()
        for live in (0, 8):
            executor = way.executor(live_calls=live)
            found.append([outcomes_of(run_grouped(executor, code, messages, sizes)) for sizes in GROUPINGS])
            assert all(one == found[-1][0] for one in found[-1])
    assert all(one == found[0] for one in found[:4])
    calls = [by_grouping[0] for by_grouping in found]
    for call in calls:
        assert [count(outcome) for outcome in call] == [1, 2, 3, 4, 5, 6, 7]
        assert call[4].fuel - call[2].fuel > 1_000  # it depends on what the guest kept
        assert len({seen(outcome)[16:24] for outcome in call}) == 7  # chance is of the message
        times = [int.from_bytes(seen(outcome)[24:], "little") // 1_000_000 for outcome in call]
        assert times == [message.now_ms for message in messages]
        assert [outcome.waits for outcome in call] == ["x:1"] * 6 + [None]
    assert [seen(one) for one in calls[0]] == [seen(one) for one in calls[-1]]


# --- the end of a call ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (returns(), None),
        (answers(b"\x95\x01\x01\xa3bad\xa4luck\x90"), ("error", "bad: luck")),
        (goes_on(TRAP), ("trap", "unreachable in ")),
        (answers(b"\x94\x02\x00\xc0\xc0"), ("bad_output", "version: 2, not 1")),
    ],
)
def test_messages_behind_the_end_are_not_run(way: Way, end: TaskInput, expected: tuple[str, str] | None) -> None:
    """Goal: a step that returns or fails ends the call. Method: each end between two steps; the next fold is new."""
    messages = numbered([goes_on(), end, goes_on(), goes_on()])
    (result,) = run_grouped(way.executor(), way.code(), messages, (4,))
    first, last, *rest = result.outcomes
    assert (first.waits, rest) == ("x:1", [AFTER_END] * 2)  # type: ignore[union-attr]
    if expected is None:
        assert (count(last), last.waits) == (2, None)  # type: ignore[union-attr]
    else:
        assert isinstance(last, Failed)
        assert (last.kind, last.message.removesuffix("own").removesuffix("rota_step")) == expected


def test_messages_behind_an_end_that_the_worker_is_told_of(way: Way) -> None:
    """Goal: `alive` says how many tasks come before an end from outside. Method: two of three; none at all."""
    executor, code = way.executor(), way.code()
    messages = numbered([goes_on(), goes_on(), goes_on()])
    two = executor.run(call_fold(code, messages, Past(NO_STEPS, 2, 0)))
    assert [count(outcome) for outcome in two.outcomes[:2]] == [1, 2]
    assert two.outcomes[2] == AFTER_END
    none = executor.run(call_fold(code, messages[2:], past_of(messages[:2], two.outcomes[:2], alive=0)))
    assert none.outcomes == (AFTER_END,)


# --- kept guests ------------------------------------------------------------------------------------------------------


def test_a_kept_guest_runs_nothing_again(way: Way) -> None:
    """Goal: guests are kept from fold to fold, and without that each fold runs everything again. Method: the count."""
    messages = numbered([goes_on()] * 4 + [returns()])
    kept, fresh = way.executor(live_calls=1), way.executor(live_calls=0)
    run_grouped(kept, way.code(), messages, (1,) * 5)
    run_grouped(fresh, way.code(), messages, (1,) * 5)
    assert (kept.steps_again, fresh.steps_again) == (0, 1 + 2 + 3 + 4)


@pytest.mark.parametrize("what", ["payload", "address", "seed", "fuel", "path", "fewer", "more"])
def test_a_kept_guest_is_for_exactly_its_history(way: Way, what: str) -> None:
    """Goal: a kept guest continues its own call only. Method: a past that differs in one thing is run again, and its
    outcome is that of a worker that kept nothing.
    """
    code, messages = way.code(), numbered([goes_on(), goes_on(), goes_on()])
    kept = way.executor()
    done = outcomes_of(run_grouped(kept, code, messages, (1, 1)))
    fold = call_fold(code, messages[2:], past_of(messages[:2], done, alive=1))
    assert fold.past is not None
    if what == "payload":
        other = numbered([goes_on(), goes_on(GROW)])
        fold = fold._replace(past=past_of(other, outcomes_of(run_grouped(way.executor(), code, other, (2,)))))
    elif what == "address":
        fold = fold._replace(address="diary/~6")
    elif what == "seed":
        fold = fold._replace(lane_seed=bytes(32))
        (begun,) = outcomes_of(
            [way.executor().run(fold._replace(tasks=tuple(messages[:1]), past=Past(NO_STEPS, 1, 0)))]
        )
        fold = fold._replace(tasks=tuple(messages[1:2]), past=past_of(messages[:1], [begun]))
    elif what == "fuel":
        fold = fold._replace(past=fold.past._replace(fuel=fold.past.fuel + 1))
    elif what == "path":
        fold = fold._replace(past=with_path(fold.past, 1, "ask a/b 00000000"))
    elif what == "fewer":
        fold = call_fold(code, messages[1:], past_of(messages[:1], done[:1]))
    else:
        more = outcomes_of([way.executor().run(fold)])
        fold = call_fold(code, messages[:1], past_of(messages, [*done, *more]))
    result = kept.run(fold)
    assert kept.steps_again > 0
    assert result == way.executor().run(fold)


def test_kept_guests_are_bounded(way: Way) -> None:
    """Goal: a call for which there is no room runs again when it goes on. Method: room for two of three calls."""
    executor, code = way.executor(live_calls=2), way.code()
    messages = numbered([goes_on(), goes_on()])
    begun = {f"diary/~{turn}": run_grouped(executor, code, messages, (1,), f"diary/~{turn}") for turn in (1, 2, 3)}
    again = []
    for address, (result,) in reversed(begun.items()):
        executor.run(call_fold(code, messages[1:], past_of(messages[:1], result.outcomes), address))
        again.append(executor.steps_again)
    assert again == [0, 0, 1]


def test_calls_that_take_turns(way: Way) -> None:
    """Goal: of calls that are more than can be kept, those that are stay until it is their turn, and yet nothing stays
    that is not used. Method: twelve calls step by step where eight may be kept, then as many others; who is there?
    """
    executor, code, messages = way.executor(live_calls=8), way.code(), numbered([goes_on()] * 6)

    def step(turn: int, done: list[Any]) -> bool:
        """Run the next message of a call; return whether its guest was there."""
        before = executor.steps_again
        past = past_of(messages[: len(done)], done) if done else None
        done += executor.run(call_fold(code, messages[len(done) :][:1], past, f"diary/~{turn}")).outcomes
        return executor.steps_again == before

    calls: dict[int, list[Any]] = {turn: [] for turn in range(12)}
    rounds = [[step(turn, done) for turn, done in calls.items()] for _ in messages]
    assert [sum(found) >= 6 for found in rounds[1:]] == [True] * 5
    others: dict[int, list[Any]] = {turn: [] for turn in range(100, 124)}
    assert all(step(turn, done) for turn, done in others.items() for _ in messages)  # one after the other
    late: dict[int, list[Any]] = {turn: [] for turn in range(200, 212)}
    for _ in messages:
        there = [step(turn, done) for turn, done in late.items()]
    assert sum(there) >= 2


def test_as_many_guests_as_the_setting_allows(way: Way) -> None:
    """Goal: there is room in memory for all calls that may be kept, beside a task. Method: that many, and one more; all
    of them but that one go on.
    """
    most = LIVE_CALLS_DEFAULT
    executor, code = way.executor(), way.code()
    messages = numbered([goes_on(), goes_on()])
    begun = {
        address: outcomes_of(run_grouped(executor, code, messages, (1,), address))
        for address in [f"diary/~{turn}" for turn in range(most + 1)]
    }
    for address, done in begun.items():
        executor.run(call_fold(code, messages[1:], past_of(messages[:1], done), address))
    assert executor.steps_again <= 2


def test_kept_guests_go_when_the_host_is_short_of_memory(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: memory that kept guests hold fails no task. Method: a refusal of the host at the first growth."""
    monkeypatch.setattr("rota.cpu_worker.executor.guest_memories", WatchedMemories)
    executor, code = world.executor(), world.agent(DIARY, flow=True)
    messages = numbered([goes_on(), goes_on(GROW)])
    (begun,) = run_grouped(executor, code, messages, (1,), "diary/~1")
    run_grouped(executor, code, messages, (1,), "diary/~2")
    grow, refusals = WatchedMemories._on_grow, iter([True])

    def refuse_once(memories: WatchedMemories, base: int, size: int) -> int:
        return memories._refuse() if next(refusals, False) else grow(memories, base, size)

    monkeypatch.setattr(WatchedMemories, "_on_grow", refuse_once)
    refused = world.executor()
    refused.run(call_fold(code, messages[:1], None, "diary/~2"))
    result = refused.run(call_fold(code, messages, None, "diary/~1"))
    assert result.outcomes[0] == begun.outcomes[0]
    assert count(result.outcomes[1]) == 2
    assert refused.steps_again == 1


# --- what is no outcome -----------------------------------------------------------------------------------------------


def test_another_path_is_a_fault_that_names_both(way: Way) -> None:
    """Goal: a re-run that emits something else gives no outcome. Method: a past that tells of another ask."""
    code, messages = way.code(), numbered([goes_on(), goes_on(target="c/d"), goes_on()])
    done = outcomes_of(run_grouped(way.executor(), code, messages[:2], (2,)))
    past = past_of(messages[:2], done)
    wrong = with_path(past, 1, "nothing")
    result = way.executor().run(call_fold(code, messages[2:], wrong))
    assert (result.outcomes, result.stopped) == ((), "faulted")
    assert result.reason == f'diary/~5 takes another path at turn 8: "nothing" before, "{past.steps[1].path}" now'


@pytest.mark.parametrize(
    ("step", "now"),
    [(returns(), "returned"), (goes_on(TRAP), "failed: trap: unreachable in ")],
)
def test_a_re_run_that_ends_is_another_path(way: Way, step: TaskInput, now: str) -> None:
    """Goal: a step that went on has to go on. Method: a past with a step that returns, and one that traps."""
    messages = numbered([goes_on(), step, goes_on()])
    past = past_of(messages[:1], run_grouped(way.executor(), way.code(), messages[:1], (1,))[0].outcomes)
    past = with_step(past, messages[1], "nothing")
    result = way.executor().run(call_fold(way.code(), messages[2:], past))
    assert result.stopped == "faulted"
    assert f'"nothing" before, "{now}' in result.reason


def test_other_fuel_is_a_fault(way: Way) -> None:
    """Goal: the fuel of a call is the same again, or the worker says so. Method: a past that has used one unit less."""
    code, messages = way.code(), numbered([goes_on(), goes_on()])
    past = past_of(messages[:1], run_grouped(way.executor(), code, messages[:1], (1,))[0].outcomes)
    result = way.executor().run(call_fold(code, messages[1:], past._replace(fuel=past.fuel - 1)))
    assert (result.outcomes, result.stopped) == ((), "faulted")
    assert f"takes {past.fuel} units of fuel for the 1 messages" in result.reason
    assert result.reason.endswith(f"took {past.fuel - 1} before")


def test_a_past_that_cannot_be_read(way: Way) -> None:
    """Goal: bytes that are no steps are a fault with the reason. Method: a byte less, a step more, another value."""
    code, messages = way.code(), numbered([goes_on(), goes_on()])
    past = past_of(messages[:1], run_grouped(way.executor(), code, messages[:1], (1,))[0].outcomes)
    for steps in (CallSteps(past.steps.data[:-1], 1), CallSteps(past.steps.data, 2), CallSteps(b"\xc0", 1)):
        result = way.executor().run(call_fold(code, messages[1:], past._replace(steps=steps)))
        assert (result.outcomes, result.stopped) == ((), "faulted")
        assert result.reason.startswith(f"diary/~5: its past cannot be read: not {steps.count} steps of a call: ")


def test_a_step_that_times_out(way: Way) -> None:
    """Goal: each step has its time, its task is the one that timed out, and the call goes on without its guest.

    Method: an endless step between two; what was before it stands, and then runs again.
    """
    executor, code = way.executor(), way.code(timeout_ms=150, fuel=1 << 50)
    messages = numbered([goes_on(), goes_on(LOOP), goes_on()])
    result = executor.run(call_fold(code, messages))
    assert (len(result.outcomes), result.stopped) == (1, "timeout")
    patient = code._replace(limits=code.limits._replace(timeout_ms=60_000))
    (last,) = outcomes_of([executor.run(call_fold(patient, messages[2:], past_of(messages[:1], result.outcomes)))])
    assert count(last) == 2
    assert executor.steps_again == 1


def test_a_re_run_that_takes_too_long_is_a_fault_of_the_host(way: Way) -> None:
    """Goal: what was in time before may not time out a later message. Method: a past with a step that never ends."""
    code, messages = way.code(timeout_ms=100, fuel=1 << 50), numbered([goes_on(), goes_on(LOOP), goes_on()])
    past = past_of(messages[:1], run_grouped(way.executor(), way.code(), messages[:1], (1,))[0].outcomes)
    past = with_step(past, messages[1], past.steps[0].path)
    result = way.executor().run(call_fold(code, messages[2:], past))
    assert (result.outcomes, result.stopped) == ((), "faulted")
    assert result.reason == "diary/~5: turn 8 took longer than timeout_ms when it was run again"


@pytest.mark.parametrize("again", [False, True])
def test_an_interrupted_call(way: Way, again: bool) -> None:
    """Goal: a step, and a step that runs again, can be interrupted; the worker then runs the call as if nothing was.

    Method: an endless step, interrupted from another thread until it has stopped.
    """
    executor, code = way.executor(), way.code(fuel=1 << 50, timeout_ms=60_000)
    messages = numbered([goes_on(), goes_on(LOOP), goes_on()])
    done = outcomes_of(run_grouped(executor, code, messages[:1], (1,)))
    past = past_of(messages[:1], done)
    if again:
        past = with_step(past, messages[1], past.steps[0].path)
    stopped = threading.Event()

    def interrupt() -> None:
        while not stopped.wait(0.02):
            executor.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        result = executor.run(call_fold(code, messages[2:] if again else messages[1:], past))
    finally:
        stopped.set()
        thread.join()
    assert (result.outcomes, result.stopped) == ((), "interrupted")
    (last,) = outcomes_of([executor.run(call_fold(code, messages[2:], past_of(messages[:1], done)))])
    assert count(last) == 2


def test_a_guest_that_was_kept_while_others_were_stopped(way: Way) -> None:
    """Goal: stopping a task stops no guest that is kept. Method: another call times out between two steps of one."""
    executor, code = way.executor(), way.code(timeout_ms=100, fuel=1 << 50)
    messages = numbered([goes_on(), goes_on()])
    (begun,) = outcomes_of(run_grouped(executor, code, messages[:1], (1,)))
    other = executor.run(call_fold(code, numbered([goes_on(LOOP)]), None, "diary/~9"))
    assert other.stopped == "timeout"
    (went_on,) = outcomes_of([executor.run(call_fold(code, messages[1:], past_of(messages[:1], [begun])))])
    assert (count(went_on), executor.steps_again) == (2, 0)


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_the_messages_of_a_call_are_bounded(way: Way) -> None:
    """Goal: the message past `steps_max` fails the call, in whichever fold it comes. Method: three of two."""
    messages = numbered([goes_on()] * 4)
    for sizes in ((4,), (2, 2), (1, 1, 2)):
        outcomes = outcomes_of(run_grouped(way.executor(), way.code(steps_max=2), messages, sizes))
        assert outcomes[2:] == [Failed("overflow", "a call of over 2 messages (steps_max)", (), 0), AFTER_END]


def test_the_bytes_of_a_call_are_bounded(way: Way) -> None:
    """Goal: the message whose content would pass `call_bytes` fails the call. Method: exactly as much, and one less."""
    messages = numbered([goes_on()] * 3)
    size = sum(len(message.payload) for message in messages)
    full = outcomes_of(run_grouped(way.executor(), way.code(call_bytes=size), messages, (1, 2)))
    assert [type(outcome) for outcome in full] == [Done] * 3
    over = outcomes_of(run_grouped(way.executor(), way.code(call_bytes=size - 1), messages, (1, 2)))
    text = f"a call whose messages have over {size - 1} bytes (call_bytes)"
    assert over == [*full[:2], Failed("overflow", text, (), 0)]


def test_the_fuel_of_a_call_is_bounded(way: Way) -> None:
    """Goal: a step has what is left of `call_fuel`, to the unit, and never more than `fuel`.

    Method: exactly what three steps take, and one less; in one fold, and with guests that are made again.
    """
    messages = numbered([goes_on(), goes_on(SPIN), goes_on(SPIN)])
    usual = outcomes_of(run_grouped(way.executor(), way.code(), messages, (3,)))
    fuel = sum(outcome.fuel for outcome in usual)
    for sizes in ((3,), (1, 1, 1)):
        executor = way.executor(live_calls=0)
        assert outcomes_of(run_grouped(executor, way.code(call_fuel=fuel), messages, sizes)) == usual
        *before, last = outcomes_of(run_grouped(executor, way.code(call_fuel=fuel - 1), messages, sizes))
        assert before == usual[:2]
        assert (last.kind, last.fuel) == ("fuel", usual[2].fuel - 1)
        assert last.message.startswith("out of fuel in all in ")
        assert failure_text(last.kind, last.message, ()).endswith("all steps of a call; --call-fuel gives more")
    alone = outcomes_of(run_grouped(way.executor(), way.code(fuel=usual[2].fuel - 1), messages, (3,)))[2]
    assert alone.message.startswith("out of fuel in ")
    assert failure_text(alone.kind, alone.message, ()).endswith("a task; --fuel gives more")


# --- tensors and time -------------------------------------------------------------------------------------------------


def test_indices_of_tensors_count_over_a_call(way: Way, tmp_path: Path) -> None:
    """Goal: a step reads and sends on the tensors of all messages so far, by the same indices when it runs again.

    Method: messages with two tensors, none and one; each step reads one and sends others, which it has or has not yet.
    """
    store = TensorStore(tmp_path / "tensors")
    refs = [store.put(np.array([number], np.uint32)) for number in (7, 8, 9)]
    messages = numbered([
        goes_on(READ, 1, sends=[1, 0], tensors=tuple(refs[:2])), goes_on(READ, 0, sends=[1]),
        goes_on(READ, 2, sends=[2, 0], tensors=(refs[2],)), goes_on(READ, 3), goes_on(sends=[3]),
    ])  # fmt: skip
    for live in (0, 1):
        for sizes in ((5,), (1,) * 5):
            executor = way.executor(tensors=StoreTensors(store), live_calls=live)
            outcomes = outcomes_of(run_grouped(executor, way.code(), messages, sizes))
            read = [seen(outcome)[8:16] for outcome in outcomes[:4]]
            numbers = [int.from_bytes(one[4:], "little") for one in read]
            assert numbers == [8, 7, 9, 0]
            assert int.from_bytes(read[3][:4], "little", signed=True) == BAD_INDEX
            sent = [list(outcome.emits[0].tensors) for outcome in outcomes[:3]]
            assert sent == [[refs[1], refs[0]], [refs[1]], [refs[2], refs[0]]]
            assert outcomes[4].message == "emits[0].tensors: 3, not an index into the task's 3 tensors"


def test_no_clock_of_a_call_goes_back(way: Way) -> None:
    """Goal: a call has one clock, which goes on to the time of each message. Method: the same time twice, then an
    earlier one, then a later one; in one fold, and made again.
    """
    start = 1_700_000_000_000
    messages = [
        message._replace(now_ms=start + late)
        for message, late in zip(numbered([goes_on()] * 4), (0, 0, -5_000, 7_000), strict=True)
    ]
    for live, sizes in ((1, (4,)), (0, (1,) * 4)):
        outcomes = outcomes_of(run_grouped(way.executor(live_calls=live), way.code(), messages, sizes))
        times = [int.from_bytes(seen(outcome)[24:], "little") - start * 1_000_000 for outcome in outcomes]
        assert times == [1_000, 2_000, 3_000, 7_000_001_000]
