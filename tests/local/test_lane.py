"""A lane in this process: deploy, submit, step, inspect, close, and clear errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import attacks
import msgpack
import numpy as np
import pytest
from wasmtime import wat2wasm

from rota import local
from rota.broker.verdicts import verdict_text
from rota.common.digests import lane_seed
from rota.common.limits import INLINE_BYTES_MAX, PAYLOAD_BYTES_MAX
from rota.common.work import Code

Factory = Callable[..., local.LocalLane]

# Payload "!": recurse without end. Anything else comes back.
RECURSE = """(module (memory (export "memory") 1)
    (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
    (func $down (param i32) (result i32) (i32.add (call $down (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
    (func (export "rota_call") (param $at i32) (param $size i32) (result i64)
        (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33)) (then (drop (call $down (i32.const 0)))))
        (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $size)))))"""


def count(number: int) -> bytes:
    return msgpack.packb(number)


def test_a_step_is_one_turn(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: one sees all of a turn. Method: a relay that tells three children; the first two turns, field by field."""
    lane = rota_lane
    lane.deploy("relay", agents / "relay.wasm")
    handle = lane.submit("relay/1", b"1 3")
    assert [(task.turn, task.target, task.sender) for task in lane.line] == [(1, "relay/1", None)]
    first = lane.step()
    assert first is not None
    assert (first.turn, first.target, first.sender, first.parent, first.kind) == (1, "relay/1", None, None, "tell")
    assert (first.payload, first.ok, first.result, first.failure, first.log) == (b"1 3", True, b"1", None, ())
    assert [emit.payload for emit in first.emits] == [b"0 3 16"] * 3
    assert first.fuel > 0
    assert first.state_before is None
    assert first.state == lane.state("relay/1") != None  # noqa: E711
    assert first.digest == lane.digest
    assert first.code == lane.deploys["relay"].digest
    second = lane.step()
    assert second is not None
    assert (second.turn, second.sender, second.parent) == (2, "relay/1", 1)
    assert lane.retired == 2
    assert lane.turn(handle) is first
    assert len(lane.run()) == 2
    assert lane.step() is None
    assert [turn.turn for turn in lane.turns] == [1, 2, 3, 4]


def test_states_inside_a_fold_are_known(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: fast runs hide nothing. Method: 300 messages in folds; each state before and after, and a failed turn's."""
    lane = rota_lane
    lane.deploy("counter", agents / "counter.wasm")
    lane.submit_many("counter/a", [b"+"] * 300)
    turns = lane.run()
    assert [turn.state for turn in turns] == [count(number) for number in range(1, 301)]
    assert [turn.state_before for turn in turns] == [None, *map(count, range(1, 300))]
    lane.deploy("counter", agents / "counter.wasm", fuel=1)
    lane.submit("counter/a")
    failed = lane.step()
    assert failed is not None
    assert not failed.ok
    assert failed.state_before == failed.state == count(300)


def test_results_are_those_of_the_client(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: values go in and out as with the client. Method: bytes, a packed value and an array through the store."""
    lane = rota_lane
    lane.deploy("echo", agents / "echo_function.wasm", "function", reuse=True)
    lane.deploy("sum", agents / "tensor_sum.wasm", fuel=10**10)
    assert lane.submit("echo", b"hello").result().payload == b"hello"
    assert lane.submit("echo", {"a": [1, 2.5, None]}).result().value == {"a": [1, 2.5, None]}
    array = np.arange(INLINE_BYTES_MAX + 1, dtype=np.uint8)
    small = lane.tensors.put(array[:10])
    assert lane.submit("sum", array).result().payload is not None
    assert lane.submit("sum", b"", tensors=[small]).result().payload == b"45"
    with pytest.raises(local.RotaError, match="not in the store"):
        lane.submit("sum", b"", tensors=[small._replace(digest=bytes(32))])
    with pytest.raises(local.BadPayload, match="tensors of its own"):
        lane.submit("sum", array, tensors=[small])


def test_a_large_result_is_a_tensor(rota_lane: local.LocalLane) -> None:
    """Goal: a result of any size comes back, and is in the store of the lane. Method: two bytes over the bound."""
    size = PAYLOAD_BYTES_MAX + 2
    text = attacks.module(f"(call $pack (i32.const 0) (i32.const {size}))", pages=32, more='(data (i32.const 9) "end")')
    rota_lane.deploy("large", bytes(wat2wasm(text)), "function")
    result = rota_lane.submit("large").result()
    assert (result.payload, [ref.shape for ref in result.tensors]) == (b"", [(size,)])
    assert result.data == bytes(9) + b"end" + bytes(size - 12)


def test_a_failure_tells_all(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: what failed is understood from the error. Method: an agent that refuses; its result, outcome and retry."""
    lane = rota_lane
    lane.deploy("reminder", agents / "reminder.wasm")
    handle = lane.submit("reminder/a", b"nonsense")
    with pytest.raises(local.TaskFailed, match="failed with error: bad_payload") as caught:
        handle.result()
    assert caught.value.fields["kind"] == "error"
    outcome = handle.outcome()
    assert (outcome.ok, outcome.kind) == (False, "error")
    assert [dead.turn for dead in lane.dead] == [handle.turn]
    again = lane.retry(handle)
    assert lane.dead == []
    assert again.outcome().kind == "error"
    assert lane.drop_dead() == 1


def test_timers_follow_the_lanes_clock(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: time is what the test says. Method: two timers; `advance` fires them at their time, `run_for` both."""
    lane = rota_lane
    lane.deploy("reminder", agents / "reminder.wasm")
    lane.submit_many("reminder/a", [b"500 later", b"200 soon"])
    lane.run()
    assert lane.step() is None
    assert [timer.due_ms for timer in lane.timers] == [200, 500]
    assert lane.advance(199) == 0
    assert lane.advance(1) == 1
    fired = lane.step()
    assert fired is not None
    assert (fired.kind, fired.payload, fired.now_ms, fired.parent) == ("timer", b"soon", 200, 2)
    assert [turn.payload for turn in lane.run_for(1_000)] == [b"later"]
    assert lane.now_ms == 1_200
    assert lane.state("reminder/a") == msgpack.packb("0 2 later")
    lane.submit("reminder/a", b"0 now")
    assert [turn.payload for turn in lane.run()] == [b"0 now", b"now"], "a timer that is due fires without a push"
    with pytest.raises(local.LocalError, match="goes forward"):
        lane.advance(-1)


def test_a_pause_a_cancel_and_a_window(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: the lane's controls work as in the broker. Method: pause, cancel one of five, a window of two, release."""
    lane = rota_lane
    lane.deploy("counter", agents / "counter.wasm")
    lane.pause()
    batch = lane.submit_many("counter/a", [b"+"] * 5)
    assert (len(lane.waiting), len(lane.line), lane.paused) == (5, 0, True)
    with pytest.raises(local.LocalError, match="the lane is paused: release it"):
        batch[0].result()
    assert batch[1].cancel()
    assert not batch[1].cancel()
    lane.set_window(2)
    lane.release()
    assert [task.turn for task in lane.line] == [1, 2]
    assert [result.kind or result.payload for result in batch.outcomes()] == [b"1", "cancelled", b"2", b"3", b"4"]
    assert not batch[0].cancel()


def test_a_cancelled_task_of_a_paused_lane_has_its_outcome(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: what is cancelled has an outcome, also where nothing is issued. Method: cancel in a paused lane, ask; the
    outcome is the same after the release.
    """
    lane = rota_lane
    lane.deploy("counter", agents / "counter.wasm")
    lane.pause()
    waiting, other = lane.submit_many("counter/a", [b"+", b"+"])
    assert waiting.cancel() is True
    early = waiting.outcome()
    assert (early.seq, early.turn, early.kind) == (1, 1, "cancelled")
    with pytest.raises(local.LocalError, match="the lane is paused"):
        other.outcome()
    lane.release()
    assert other.result().payload == b"1"
    assert waiting.outcome() == early


def test_wrong_values_are_refused_by_name(rota_lane: local.LocalLane, agents: Path, tmp_path: Path) -> None:
    """Goal: no error from inside reaches a caller. Method: every public method with values that it cannot take."""
    lane = rota_lane
    lane.deploy("counter", agents / "counter.wasm")
    lane.submit("counter/a", b"+")
    wrong_turns = [(None,), ("x",), (0,), (-1,), (1.5,), (True,), (object(),)]
    wrong: dict[str, list[tuple[object, ...]]] = {
        "submit": [(None,), (5,), (["counter"],), ("a b",), ("counter/a", object()), ("counter/a", 1 << 64)],
        "submit_many": [(None, [b""]), ("counter", None), ("counter", b"bytes"), ("counter", 5), (5, [b""])],
        **dict.fromkeys(("result", "outcome", "cancel", "retry", "turn", "drop_dead"), wrong_turns),
        "outcomes": [(None,), (5,), ("text",), ([None],)],
        "set_window": [(None,), ("1",), (0,), (1.5,)],
        "advance": [(None,), ("1",), (-1,), (1.5,)],
        "run_for": [(None,), ("1",), (-1,)],
        "run": [("1",), (-1,), (1.5,)],
        "save": [(None,), (5,)],
        "state": [(None,), (5,), ("a b",)],
        "report": [(None,), ("x",), (-1,)],
        "deploy": [(None, b""), (5, b""), ("a", 5), ("a", None), ("a", b"", 5), ("a", "zero\0byte"), ("model:m", 5)],
    }
    for method, calls in wrong.items():
        for arguments in calls:
            with pytest.raises(local.RotaError):
                getattr(lane, method)(*arguments)
    for named in ({"priority": "1"}, {"priority": 9}, {"tensors": 5}, {"tensors": [5]}):
        with pytest.raises(local.LocalError):
            lane.submit("counter/a", b"", **named)  # type: ignore[arg-type]
    for options in ({"limits": 5}, {"exports": 5}, {"reuse": 5}, {"fuel": "x"}, {"nothing": 1}):
        with pytest.raises(local.LocalError):
            lane.deploy("a", agents / "counter.wasm", **options)  # type: ignore[arg-type]
    settings = ({"name": 5}, {"seed": "x"}, {"policy": 5}, {"window": None}, {"paused": 5}, {"now_ms": "x"},
                {"models": 5}, {"keep": 5}, {"history": "x"})  # fmt: skip
    for setting in settings:
        with pytest.raises(local.LocalError):
            local.LocalLane(**setting)  # type: ignore[arg-type]


def test_a_task_that_runs_too_long_gets_a_verdict(rota_lane: local.LocalLane, spin: bytes) -> None:
    """Goal: as in the broker, the wall clock ends what fuel does not. Method: a loop with fuel for days and 50 ms."""
    rota_lane.deploy("spin", spin, "function", fuel=1 << 60, timeout_ms=50)
    outcome = rota_lane.submit("spin").outcome()
    assert (outcome.kind, outcome.message) == ("timeout", "it ran longer than 50 ms")


@pytest.mark.rota_lane(name="other", seed=7, window=3, now_ms=5_000, policy="recorded")
def test_options_by_the_marker(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: options reach the lane. Method: all of them by the marker; the recorded policy runs to an end too."""
    lane = rota_lane
    assert (lane.name, lane.seed, lane.window, lane.now_ms) == ("other", (7).to_bytes(32, "big"), 3, 5_000)
    lane.deploy("relay", agents / "relay.wasm")
    lane.submit("relay/1", b"2 3")
    assert len(lane.run()) == 13


def test_the_seed_is_that_of_the_name(rota_lane_factory: Factory, agents: Path) -> None:
    """Goal: a lane here and one in a broker begin alike. Method: the seed, and the digests of two seeds."""
    digests = []
    for options in ({}, {"seed": lane_seed("main")}, {"seed": 1}):
        lane = rota_lane_factory(**options)
        lane.deploy("relay", agents / "relay.wasm")
        lane.submit("relay/1", b"2 3")
        lane.run()
        digests.append(lane.digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_task_that_cannot_be_done_here_fails_alone(rota_lane_factory: Factory) -> None:
    """Goal: as in a broker, one failure of a fixed text, however tasks are grouped, and the reason at hand. Method: 20
    tasks of which one recurses without end, run at once and turn by turn; and the same text as a broker's verdict.
    """
    module = bytes(wat2wasm(RECURSE))
    digests = []
    for steps in (False, True):
        lane = rota_lane_factory(f"steps{steps}", seed=b"s" * 32)
        lane.deploy("f", module, "function", fuel=1 << 40)
        handles = lane.submit_many("f", [b"!" if index == 7 else b"%d" % index for index in range(20)])
        while steps and lane.step() is not None:
            pass
        lane.run()
        outcomes = [handle.outcome() for handle in handles]
        failed = [(place, one.kind, one.message) for place, one in enumerate(outcomes) if not one.ok]
        assert failed == [(7, "faulted", verdict_text("faulted", Code(bytes(32), "function")))]
        digests.append(lane.digest)
    assert digests[0] == digests[1]


def test_wrong_calls_are_refused_in_words(rota_lane_factory: Factory, agents: Path, tmp_path: Path) -> None:
    """Goal: a typed error that names the thing, and no trace in the lane. Method: one wrong call of each kind."""
    lane = rota_lane_factory(tasks_max=10)
    lane.deploy("counter", agents / "counter.wasm")
    lane.submit("counter/a")
    before = repr(lane)
    text = tmp_path / "module.wat"
    text.write_text("(module)")
    for error, match, call in (
        (local.BadTarget, "is no target", lambda: lane.submit("a/b\n", b"")),
        (local.BadPayload, "priority=9", lambda: lane.submit("a", b"", priority=9)),
        (local.BadPayload, "at most|can never fit", lambda: lane.submit_many("a", [b""] * 11)),
        (local.Busy, "holds 1 tasks of at most 10", lambda: lane.submit_many("counter/a", [b""] * 10)),
        (local.CodeError, "cannot be read", lambda: lane.deploy("x", tmp_path / "none.wasm")),
        (local.CodeError, "text, not a module", lambda: lane.deploy("x", text)),
        (local.CodeError, "no export 'rota_call'", lambda: lane.deploy("x", agents / "counter.wasm", "function")),
        (local.CodeError, "give a file, a folder", lambda: lane.deploy("x")),
        (local.CodeError, "kind .python.: code is one of", lambda: lane.deploy("x", b"", "python")),
        (local.CodeError, "there is no model 'x'", lambda: lane.deploy("model:x")),
        (local.ConfigError, "limit timeout_ms: wants", lambda: lane.deploy("x", agents / "echo.wasm", timeout_ms=0)),
        (local.ConfigError, "no limit 'gas'", lambda: lane.deploy("x", b"", gas=1)),  # type: ignore[call-arg]
        (local.BadTarget, "cannot name an agent", lambda: lane.deploy("a/b", b"")),
        (local.UnknownTask, "no turn 99", lambda: lane.result(99)),
        (local.UnknownTask, "no dead task 1", lambda: lane.retry(1)),
        (local.LocalError, "wants an integer", lambda: lane.set_window(0)),
        (local.ConfigError, "no option 'wndow': use name, seed", lambda: rota_lane_factory(wndow=3)),
        (local.ConfigError, "history=0", lambda: rota_lane_factory(history=0)),
        (local.LocalError, "goes forward", lambda: rota_lane_factory(now_ms=-1)),
        (local.ConfigError, "seed -1", lambda: rota_lane_factory(seed=-1)),
        (local.ConfigError, "wants one of", lambda: rota_lane_factory(policy="random")),
        (local.ConfigError, "no such folder", lambda: rota_lane_factory(models=tmp_path / "none")),
    ):
        with pytest.raises(error, match=match):
            call()
    assert repr(lane) == before


def test_history_is_bounded(rota_lane_factory: Factory, agents: Path) -> None:
    """Goal: a long run does not fill the memory. Method: remember three of ten turns; the others are told apart."""
    lane = rota_lane_factory(history=3)
    lane.deploy("counter", agents / "counter.wasm")
    batch = lane.submit_many("counter/a", [b"+"] * 10)
    assert [turn.turn for turn in lane.run()] == [8, 9, 10] == [turn.turn for turn in lane.turns]
    assert batch[9].result().payload == b"10"
    with pytest.raises(local.Expired, match="turn 1 is forgotten"):
        batch[0].result()


def test_tables_and_reprs_are_for_people(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: a lane reads well at a prompt and in a notebook. Method: look at a table as text and as HTML."""
    lane = rota_lane
    lane.deploy("echo", agents / "echo.wasm")
    lane.submit_many("echo", [b"<b>", b"x" * 100])
    lane.submit("nobody", b"")
    turns = lane.run()
    lines = repr(turns).splitlines()
    assert [line.split()[0] for line in lines] == ["turn", "1", "2", "3"]
    assert "failed unknown_agent" in lines[3]
    html = turns._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert repr(turns[0]) == f"<turn 1: tell b'<b>' to echo -> ok b'<b>', {turns[0].fuel} fuel>"
    assert repr(lane).startswith("<lane main: 3 retired (1 failed), 0 in line")
    assert repr(turns[:0]) == "(none)"
    assert "nobody" in lane.report()
    lane.pause()
    lane.submit_many("echo", [b""] * 30)
    assert repr(lane.waiting).splitlines()[1].split()[0] == "4", "of what is to come the first is shown"
    assert repr(lane.waiting).endswith("(10 more)")
    lane.release()
    lane.run()
    assert repr(lane.turns).startswith("(13 before)")


def test_a_closed_lane_says_so(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: what was computed stays readable, and nothing else is done. Method: close, look, submit."""
    rota_lane.deploy("echo", agents / "echo.wasm")
    rota_lane.deploy("counter", agents / "counter.wasm")
    rota_lane.submit_many("counter/a", [b"+"] * 3)
    rota_lane.submit("echo", b"x").result()
    rota_lane.close()
    rota_lane.close()
    assert rota_lane.turns[-1].result == b"x"
    assert rota_lane.turns[2].state == rota_lane.state("counter/a") == count(3)
    with pytest.raises(local.ConfigError, match="is closed"):
        rota_lane.turns[0].state  # noqa: B018 - inside a fold, it would have to run again
    with pytest.raises(local.ConfigError, match="is closed"):
        rota_lane.submit("echo", b"x")


def test_lanes_work_in_any_thread(rota_lane_factory: Factory, agents: Path) -> None:
    """Goal: a notebook's thread or a test's is as good as the main one. Method: one lane, three threads at once, and a
    lane of its own in each.
    """
    shared = rota_lane_factory()
    shared.deploy("counter", agents / "counter.wasm")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with local.open_lane() as lane:
                lane.deploy("counter", agents / "counter.wasm")
                assert len(lane.submit_many("counter/a", [b"+"] * 50).results()) == 50
            for _ in range(20):
                shared.submit(f"counter/{number}", b"+").result()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [shared.state(f"counter/{number}") for number in range(3)] == [count(20)] * 3


def test_an_agent_asks_and_hears(rota_lane: local.LocalLane, agents: Path) -> None:
    """Goal: a conversation can be followed. Method: an asker and whom it asks; the chain of parents."""
    lane = rota_lane
    lane.deploy("asker", agents / "asker.wasm")
    lane.deploy("counter", agents / "counter.wasm")
    lane.submit_many("asker/a", [b"counter/x +", b"nobody +"])
    assert [(turn.turn, turn.kind, turn.parent) for turn in lane.run()] == [
        (1, "tell", None), (2, "tell", None), (3, "ask", 1), (4, "ask", 2), (5, "reply", 3), (6, "failure", 4),
    ]  # fmt: skip
    assert msgpack.unpackb(lane.turn(6).payload)[0] == "unknown_agent"
    assert lane.turn(5).reply_to == (3, 1, 0)
