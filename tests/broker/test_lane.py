"""Lanes, through the whole core: stamp, issue, retire, and what tasks see."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgpack
import pytest
from core_kit import Broker
from scripted import COMMAND_CODE, FUNCTION_CODE, MODEL_CODE, code, program

from rota.common.code_kinds import KINDS
from rota.common.messages import TaskRun
from rota.common.work import AGENT, COMPONENT, SOURCE, Code, Limits

MakeBroker = Callable[..., Broker]
ADD = program(["add", 1])


def retire_order(broker: Broker, lane: str = "main") -> list[int]:
    """The turns that finished so far, in the order in which they did."""
    return [task.turn for task in broker.core.world.results.kept() if task.run.lane == lane]


def logs_of(broker: Broker, lane: str = "main") -> list[str]:
    return [line for task in broker.core.world.results.kept() if task.run.lane == lane for line in task.outcome.log]


# --- stamping -------------------------------------------------------------------------------------


def test_numbers_are_dense_over_lanes_and_turns_within_them(broker: Broker) -> None:
    """Goal: seq is dense over all lanes, turn within one. Method: submit to two lanes in turns, emits included."""
    alice = broker.producer()
    alice.open_lane("side", deploys_from="main")
    alice.submit("counter/a", program(["spawn", 2, "counter/b"]), ADD)
    alice.submit("counter/a", ADD, lane="side")
    broker.worker()
    broker.run()
    alice.submit("counter/c", lane="side")
    broker.run()
    found = sorted((item.seq, item.lane, item.turn) for item in alice.results.values())
    assert found == [(1, "main", 1), (2, "main", 2), (3, "side", 1), (6, "side", 2)]
    kept = sorted((task.seq, task.run.lane, task.turn) for task in broker.core.world.results.kept())
    assert kept[3:5] == [(4, "main", 3), (5, "main", 4)]
    assert [seq for seq, _, _ in kept] == list(range(1, 7))


def test_emits_are_stamped_when_their_parent_retires(broker: Broker) -> None:
    """Goal: numbers come from the start of work, not from its end. Method: the second of two parents completes first;
    the emits of the first one get the lower turns all the same.
    """
    alice = broker.producer()
    first, second = broker.worker("w1", slots=1), broker.worker("w2", slots=1)
    alice.submit("counter/a", program(["tell", "counter/x", [["log", "of a"]]]))
    alice.submit("counter/b", program(["tell", "counter/x", [["log", "of b"]]]))
    second.finish()
    assert broker.lane().retired == 0
    first.finish()
    broker.run()
    assert logs_of(broker) == ["of a", "of b"]


def test_a_submit_takes_effect_as_a_whole_in_batch_order(broker: Broker) -> None:
    """Goal: turns follow the batch, run by run, target by target. Method: three runs, one with many targets."""
    alice = broker.producer()
    alice.pause()
    alice.submit_runs(
        TaskRun.of("counter/a", 0, (ADD, ADD), None),
        TaskRun.of(("counter/b", "counter/c"), 0, (ADD, ADD), None),
        TaskRun.of("counter/a", 0, (ADD,), None),
    )
    alice.release()
    targets = [task.address for task in broker.lane().line()]
    assert targets == ["counter/a", "counter/a", "counter/b", "counter/c", "counter/a"]


# --- issue ----------------------------------------------------------------------------------------


def test_priority_then_turn(broker: Broker) -> None:
    """Goal: the highest priority is issued first, within it the lowest turn. Method: three levels behind a pause."""
    alice = broker.producer()
    alice.pause()
    for priority in (0, 5, -1, 5, 0):
        alice.submit("counter/a", priority=priority)
    alice.release()
    assert broker.line() == [2, 4, 1, 5, 3]


def test_starvation_bound(broker: Broker) -> None:
    """Goal: a level that was passed over N times is served next. Method: bound 2, many of high priority, two low."""
    alice = broker.producer()
    alice.open_lane("l", paused=True, deploys_from="main", starvation_passes=2)
    alice.submit("counter/a", *[ADD] * 2, lane="l", priority=-3)
    alice.submit("counter/a", *[ADD] * 6, lane="l", priority=3)
    alice.release("l")
    assert broker.line("l") == [3, 4, 1, 5, 6, 2, 7, 8]


def test_of_starved_levels_the_oldest_task_goes_first(broker: Broker) -> None:
    """Goal: of several starved levels the one with the lowest turn is served. Method: bound 1, three levels."""
    alice = broker.producer()
    alice.open_lane("l", paused=True, deploys_from="main", starvation_passes=1)
    alice.submit_runs(
        TaskRun.of("counter/a", 0, (ADD,) * 3, None),
        TaskRun.of("counter/a", -1, (ADD,) * 2, None),
        TaskRun.of("counter/a", 5, (ADD,) * 5, None),
        lane="l",
    )
    alice.release("l")
    assert broker.line("l") == [6, 1, 4, 7, 2, 5, 8, 3, 9, 10]


def test_a_level_that_was_served_alone_starts_to_count_anew(broker: Broker) -> None:
    """Goal: passes count since the last service. Method: bound 2; low is passed once, then served while it is alone."""
    alice = broker.producer()
    alice.open_lane("l", window=1, deploys_from="main", starvation_passes=2)
    worker = broker.worker()
    alice.submit("counter/a", lane="l")
    alice.submit("counter/a", *[ADD] * 3, lane="l", priority=-1)
    alice.submit("counter/a", lane="l", priority=1)
    worker.finish()  # turn 5 is issued: low is passed over once
    worker.finish()  # turn 2 is issued, alone
    alice.submit("counter/a", *[ADD] * 3, lane="l", priority=1)
    order = []
    while worker.orders:
        order += worker.turns()
        worker.finish()
    assert order == [2, 6, 7, 3, 8, 4]


def test_the_window_bounds_the_line(broker: Broker) -> None:
    """Goal: the line holds as many tasks as the window says, and a change takes effect at once. Method: count it."""
    alice = broker.producer()
    alice.open_lane("l", window=3, deploys_from="main")
    alice.submit("counter/a", *[ADD] * 9, lane="l")
    assert broker.line("l") == [1, 2, 3]
    alice.window(5, "l")
    assert broker.line("l") == [1, 2, 3, 4, 5]
    alice.window(1, "l")
    worker = broker.worker(slots=1)
    worker.finish()
    assert broker.line("l") == [2, 3, 4, 5]
    broker.run()
    assert broker.lane("l").retired == 9


def test_pause_and_release(broker: Broker) -> None:
    """Goal: a paused lane issues nothing, what is in the line goes on. Method: pause between two submits."""
    alice = broker.producer()
    alice.submit("counter/a", ADD)
    alice.pause()
    alice.submit("counter/a", ADD)
    broker.worker()
    broker.run()
    assert broker.lane().retired == 1
    alice.release()
    broker.run()
    assert broker.lane().retired == 2


def test_code_is_bound_at_issue(broker: Broker) -> None:
    """Goal: a task that waits gets the code of the moment when it joins the line; one in the line keeps its own.
    Method: window 1, redeploy while two tasks are stamped.
    """
    alice = broker.producer()
    alice.open_lane("l", window=1, deploys_from="main")
    alice.submit("counter/a", ADD, ADD, lane="l")
    alice.deploy("counter", code("new"), lane="l")
    broker.worker()
    broker.run()
    used = [json.loads(item.result)[6] for item in alice.results.values()]
    assert used == [code("counter").digest.hex()[:4], code("new").digest.hex()[:4]]


def test_what_is_not_deployed_fails_as_itself(broker: Broker) -> None:
    """Goal: unknown_agent and unknown_model are derived outcomes. Method: they fail without a worker."""
    alice = broker.producer()
    alice.submit("ghost/1")
    alice.submit("model:ghost")
    assert [(item.kind, item.ok) for item in alice.results.values()] == [
        ("unknown_agent", False), ("unknown_model", False)
    ]  # fmt: skip
    assert broker.lane().retired == 2


# --- what tasks see -------------------------------------------------------------------------------


def test_the_tasks_of_one_agent_run_in_line_order(broker: Broker) -> None:
    """Goal: one agent's messages never overtake each other or run twice at a time. Method: eight workers, one agent
    with many tasks and others around it; at any time at most one worker holds tasks of the agent.
    """
    alice = broker.producer()
    for name in range(8):
        broker.worker(f"w{name}", slots=2)
    for _ in range(30):
        alice.submit_runs(TaskRun.of(("counter/one", "counter/other"), 0, (ADD, ADD), None))
    seen = []
    while broker.lane().line_count:
        holders = [
            w for w in broker.workers.values() if any(f.address == "counter/one" for o in w.orders for f in o.folds)
        ]
        assert len(holders) <= 1
        for worker in list(broker.workers.values())[::-1]:
            worker.finish()
    seen = [json.loads(item.result)[0] for item in alice.results.values() if item.turn % 2]
    assert sorted(seen) == list(range(1, 31))
    by_turn = [json.loads(alice.results[seq].result)[0] for seq in range(1, 61, 2)]
    assert by_turn == list(range(1, 31))


def test_ask_reply_and_failure(broker: Broker) -> None:
    """Goal: the outcome of an ask comes back to who asked, with the ask that it answers. Method: ask two agents, one
    of which fails; the results hold kind, sender and reply_to.
    """
    alice = broker.producer()
    alice.submit(
        "counter/a",
        program(["tell", "counter/t", []], ["ask", "counter/b", [["add", 7]]], ["ask", "counter/c", [["fail", "no"]]]),
    )
    broker.worker()
    broker.run()
    assert broker.counter("counter/a") == 100 + 7 + 1000
    kept = {task.turn: task for task in broker.core.world.results.kept()}
    reply, failure = kept[5].run, kept[6].run
    assert (reply.kind, reply.sender, tuple(reply.reply_to)) == ("reply", "counter/b", (3, 1, 1))
    assert (failure.kind, failure.sender, tuple(failure.reply_to)) == ("failure", "counter/c", (4, 1, 2))
    assert msgpack.unpackb(failure.payloads[0]) == ["error", "no"]


def test_asking_what_is_not_there_is_answered(broker: Broker) -> None:
    """Goal: every ask is answered. Method: ask an agent that is not deployed, and cancel another ask."""
    alice = broker.producer()
    worker = broker.worker(slots=1)
    alice.submit("counter/a", program(["ask", "ghost", []], ["ask", "counter/slow", []]))
    worker.finish()
    assert alice.cancel(3) is True
    broker.run()
    assert broker.counter("counter/a") == 2000
    assert logs_of(broker) == ["unknown_agent", "cancelled"]


def test_a_failure_leaves_no_trace(broker: Broker) -> None:
    """Goal: on failure state stays and emits are dropped. Method: add and tell, then trap."""
    alice = broker.producer()
    alice.submit(
        "counter/a", program(["add", 1]), program(["add", 5], ["tell", "counter/b", []], ["trap"]), program(["add", 1])
    )
    broker.worker()
    broker.run()
    assert broker.counter("counter/a") == 2
    assert [alice.results[seq].kind for seq in (1, 2, 3)] == ["", "trap", ""]
    assert broker.lane().next_turn == 4


def test_timers_wait_for_their_time(broker: Broker) -> None:
    """Goal: a timer's message is stamped when its time has come, to its own agent. Method: two timers, time passes."""
    alice = broker.producer()
    broker.worker()
    alice.submit("counter/a", program(["timer", 2_000, [["add", 10]]], ["timer", 500, [["add", 1]]]))
    broker.run()
    assert broker.core.next_timer_ms() == broker.now_ms + 500
    assert broker.lane().load == 2
    broker.live(500)
    broker.run()
    assert broker.counter("counter/a") == 1
    broker.live(1_500)
    broker.run()
    assert broker.counter("counter/a") == 11
    assert broker.core.next_timer_ms() is None
    fired = broker.core.world.results.kept()[-1].run
    assert (fired.kind, fired.sender, fired.now_ms) == ("timer", "counter/a", broker.now_ms)


def test_timers_survive_a_restart(broker: Broker) -> None:
    """Goal: a waiting timer is part of the run. Method: kill the broker between setting and firing."""
    alice = broker.producer()
    broker.worker()
    alice.submit("counter/a", program(["timer", 2_000, [["add", 10]]]))
    broker.run()
    broker.restart()
    broker.live(2_000)
    broker.run()
    assert broker.counter("counter/a") == 10


def test_a_task_sees_the_time_of_its_input(broker: Broker) -> None:
    """Goal: `now` is the arrival of the input that a task descends from, or what the producer pinned. Method: let time
    pass between submit and execution; pin another one.
    """
    alice = broker.producer()
    start = broker.now_ms
    alice.submit("counter/a", program(["tell", "counter/b", []]))
    alice.submit("counter/a", now_ms=42)
    broker.worker()
    broker.live(1_000)
    broker.run()
    seen = {task.turn: json.loads(task.outcome.result)[5] for task in broker.core.world.results.kept()}
    assert seen == {1: start, 2: 42, 3: start}


# --- the lane's bound -----------------------------------------------------------------------------


def test_overflow_is_known_when_a_task_runs(broker: Broker) -> None:
    """Goal: no emit pushes a lane past its bound, and how many may be emitted is bound at issue. Method: a lane of 5
    tasks; the allowance of an only task is what is left.
    """
    alice = broker.producer()
    alice.open_lane("l", tasks_max=5, deploys_from="main")
    broker.worker()
    alice.submit("counter/a", program(["spawn", 5, "counter/b"]), lane="l")
    broker.run()
    alice.submit("counter/a", program(["spawn", 4, "counter/b"]), lane="l")
    broker.run()
    assert [item.kind for item in alice.results.values()] == ["overflow", ""]
    assert broker.lane("l").retired == 6


def test_the_line_waits_for_room_that_others_may_need(broker: Broker) -> None:
    """Goal: what the line may still emit is kept free. Method: tasks that emit 4 in a lane of 12: the second joins the
    line, the third waits although the window has room, and gets what is left when nothing is before it: 3.
    """
    alice = broker.producer()
    alice.open_lane("l", tasks_max=12)
    alice.deploy("counter", code("counter", emits_max=4), lane="l")
    alice.submit("counter/a", *[program(["spawn", 4, "counter/b"])] * 3, lane="l")
    assert broker.line("l") == [1, 2]
    worker = broker.worker()
    while broker.lane("l").line_count:
        assert broker.lane("l").load <= 12
        worker.finish()
    assert [alice.results[seq].kind for seq in (1, 2, 3)] == ["", "", "overflow"]


def test_a_deploy_that_needs_less_room_lets_the_next_task_in(broker: Broker) -> None:
    """Goal: issue runs after every input, deploys included. Method: the third waits for room."""
    alice = broker.producer()
    alice.open_lane("l", tasks_max=12)
    alice.deploy("counter", code("counter", emits_max=4), lane="l")
    alice.submit("counter/a", *[ADD] * 3, lane="l")
    alice.deploy("counter", code("modest", emits_max=1), lane="l")
    assert broker.line("l") == [1, 2, 3]


@pytest.mark.parametrize("kind", [AGENT, SOURCE, COMPONENT])
def test_an_address_has_its_state_and_order_in_every_kind_of_agent(kind: str, broker: Broker) -> None:
    """Goal: a source and a component are agents to the lane. Method: tasks of one address with two workers, emits, and
    another kind bound to the name in between, which leaves the state alone.
    """
    alice = broker.producer()
    alice.deploy("other", code("other", kind))
    first, second = broker.worker("w1", slots=1), broker.worker("w2", slots=1)
    alice.submit("other/a", *[ADD] * 3, program(["add", 1], ["tell", "other/b", [["add", 7]]]))
    assert [bool(worker.orders) for worker in (first, second)] == [True, False]
    broker.run()
    assert [json.loads(alice.results[seq].result)[0] for seq in range(1, 5)] == [1, 2, 3, 4]
    assert broker.counter("other/b") == 7
    alice.deploy("other", code("counter", AGENT))
    alice.submit("other/a", ADD)
    broker.run()
    assert broker.counter("other/a") == 5


@pytest.mark.parametrize("bound", [FUNCTION_CODE, COMMAND_CODE, MODEL_CODE])
def test_functions_and_models_keep_no_state_and_emit_nothing(bound: Code, broker: Broker) -> None:
    """Goal: what keeps no state has no order and no emits. Method: tasks of one target run on two workers at a time."""
    alice = broker.producer()
    name = "model:net" if bound is MODEL_CODE else "function"
    alice.deploy(name, bound)
    pool = "gpu" if bound is MODEL_CODE else "cpu"
    first, second = broker.worker("w1", pool=pool, slots=1), broker.worker("w2", pool=pool, slots=1)
    alice.submit(name, ADD, program(["spawn", 1, "counter/a"]))
    assert first.orders
    assert second.orders
    second.finish()
    first.finish()
    assert [alice.results[seq].kind for seq in (1, 2)] == ["", KINDS[bound.kind].failures[0]]
    assert not broker.lane().agents


def test_a_name_can_change_its_kind(broker: Broker) -> None:
    """Goal: a redeploy from agent to function and back leaves the agent's state alone. Method: one address, both."""
    alice = broker.producer()
    worker = broker.worker()
    alice.submit("counter/a", ADD)
    worker.finish()
    alice.deploy("counter", FUNCTION_CODE)
    alice.submit("counter/a", ADD)
    alice.deploy("counter", code("counter", AGENT))
    alice.submit("counter/a", ADD)
    broker.run()
    assert broker.counter("counter/a") == 2


# --- lanes together -------------------------------------------------------------------------------


def digest_beside(broker: Broker, traffic: int) -> bytes:
    """The digest of lane `a` after fixed work, with so much traffic in lane `b` around it."""
    alice, bob = broker.producer("alice"), broker.producer("bob")
    for lane in "ab":
        alice.open_lane(lane, deploys_from="main", window=2, paused=lane == "a")
    worker = broker.worker(slots=2)
    for number in range(6):
        steps = [["add", number], ["tell", "counter/z", [["log", "hi"]]], ["ask", "counter/z", []]]
        alice.submit("counter/x", program(*steps), lane="a", now_ms=5)
        bob.submit("counter/x", *[program(["add", 1], ["spawn", 2, "counter/y"])] * traffic or [ADD], lane="b")
    alice.release("a")
    while worker.finish():
        for _ in range(traffic):
            if broker.lane("b").retired < 60:
                bob.submit("counter/x", program(["add", 1], ["spawn", 2, "counter/y"]), lane="b")
    assert broker.lane("a").retired == 6 * 4
    return broker.lane("a").digest


def test_lanes_do_not_see_each_other(make_broker: MakeBroker) -> None:
    """Goal: one lane's digest does not depend on another's traffic. Method: the same work beside 0, 1 and 3 times as
    much in another lane.
    """
    digests = []
    for traffic in (0, 1, 3):
        broker = make_broker()
        broker.producer("setup").deploy("counter")
        digests.append(digest_beside(broker, traffic))
    assert len(set(digests)) == 1


def test_the_seed_of_a_lane_reaches_its_tasks(broker: Broker) -> None:
    """Goal: entropy comes from the lane's seed and the turn. Method: two lanes of one seed, one of its name's."""
    alice = broker.producer()
    alice.open_lane("x", deploys_from="main", seed=bytes(32))
    alice.open_lane("y", deploys_from="main", seed=bytes(32))
    alice.open_lane("z", deploys_from="main")
    broker.worker()
    for lane in "xyz":
        alice.submit("counter/a", lane=lane)
    broker.run()
    assert len({json.loads(item.result)[7] for item in alice.results.values()}) == 2
    assert broker.lane("x").digest == broker.lane("y").digest != broker.lane("z").digest


def test_a_recorded_lane_retires_as_completed(broker: Broker) -> None:
    """Goal: in a recorded lane a slow head blocks no other. Method: the second agent completes first and retires."""
    alice = broker.producer()
    alice.open_lane("l", policy="recorded", deploys_from="main")
    first, second = broker.worker("w1", slots=1), broker.worker("w2", slots=1)
    alice.submit_runs(TaskRun.of(("counter/a", "counter/b"), 0, (ADD, ADD), None), lane="l")
    second.finish()
    assert broker.lane("l").retired == 1
    first.finish()
    assert retire_order(broker, "l") == [2, 1]


def test_limits_travel_with_the_code(broker: Broker) -> None:
    """Goal: a worker gets the limits of the deploy that was in force at issue. Method: look into the order."""
    alice = broker.producer()
    worker = broker.worker()
    alice.deploy("counter", code("counter", fuel=77, emits_max=3))
    alice.submit("counter/a")
    order = worker.orders[0]
    assert order.codes[0].limits == Limits(fuel=77, emits_max=3)
    assert order.folds[0].segments[0].emits_max == 3
