"""Memory by bytes: what a lane may hold, and what agents, producers and operators see at its bounds.

Each test ends with `make_broker`'s check: the invariants (no lane is past its budget), and the journal folded again.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from core_kit import Broker
from scripted import COUNTER, FUNCTION_CODE, code, program

from rota.broker import records, snapshot
from rota.broker.replies import reply
from rota.broker.tasks import Run
from rota.common import limits
from rota.common.budget import content_bytes
from rota.common.columns import Blobs
from rota.common.errors import Busy
from rota.common.messages import Accepted, Refused
from rota.common.work import ASK, FAILURE, Failed

MIB = 1 << 20


def open_small(broker: Broker, bytes_max: int, *, growth: int = 0, **settings: Any) -> Any:
    """A producer with a lane `l` of so many bytes, with a counter and a function, and a worker."""
    alice = broker.producer()
    assert isinstance(alice.open_lane("l", bytes_max=bytes_max, **settings), Accepted)
    alice.deploy("counter", code("counter", growth_bytes=growth), lane="l")
    alice.deploy("function", FUNCTION_CODE._replace(limits=COUNTER.limits._replace(growth_bytes=growth)), lane="l")
    broker.worker()
    return alice


def kinds(producer: Any) -> list[str]:
    """How the tasks ended, in the order of their numbers."""
    return [producer.results[seq].kind or "done" for seq in sorted(producer.results)]


# --- what tasks add ---------------------------------------------------------------------------------------------


def test_a_flood_of_emits_stays_within_the_budget(broker: Broker) -> None:
    """Goal: one small submit cannot fill the broker. Method: an agent that sends five messages of 64 KiB to new keys,
    each of which does the same again, for ever; the lane stays within its 2 MiB and tells the agents by `overflow`.
    """
    alice = open_small(broker, 2 * MIB, growth=5 * (64 << 10))
    lane, most = broker.lane("l"), 0
    alice.submit("counter/a", program(["flood", 5, 64 << 10]), lane="l")
    for _ in range(40):
        broker.workers[b"w-w1"].finish()
        most = max(most, lane.budget.held_bytes)
    assert MIB < most <= 2 * MIB
    assert {dead.failure.kind for dead in lane.dead.values()} == {"overflow"}


def test_by_default_a_task_grows_its_lane_by_128_kib(broker: Broker) -> None:
    """Goal: an unbounded flood needs a deploy that allows it. Method: an emit of the limit and of what the task itself
    brought, then one of a byte more.
    """
    alice = broker.producer()
    alice.deploy("counter")
    worker = broker.worker()
    most = limits.GROWTH_BYTES_DEFAULT + len(program(["flood", 1, 100_000]))
    for size in (most, most + 1):
        alice.submit("counter/a", program(["flood", 1, size]))
    for _ in range(4):
        worker.finish()
    assert kinds(alice) == ["done", "overflow"]


def test_states_count_and_new_ones_overflow(broker: Broker) -> None:
    """Goal: states are in the budget. Method: agents that keep 100 kB each in a lane of 1 MiB; later ones fail, and
    producers learn what fills the lane.
    """
    alice = open_small(broker, MIB, growth=120_000)
    for n in range(20):
        alice.submit(f"counter/{n}", program(["grow", 100_000]), lane="l")
        broker.run()
    found = kinds(alice)
    assert found.index("overflow") >= 8
    assert set(found[found.index("overflow") :]) == {"overflow"}
    lane = broker.lane("l")
    assert lane.budget.state_bytes == sum(len(agent.state or b"") for agent in lane.agents.values())
    busy = alice.submit("counter/x", bytes(100_000), lane="l")
    assert isinstance(busy, Refused)
    assert (busy.code, busy.fields["bytes_max"]) == (Busy.code, MIB)
    assert f"{lane.budget.state_bytes} in states" in busy.message
    alice.submit("counter/0", program(["add", 1]), lane="l")
    broker.run()
    assert kinds(alice)[-1] == "done", "who does not grow goes on"


def test_a_state_that_shrinks_gives_room_back(broker: Broker) -> None:
    """Goal: what counts is what is there. Method: fill, shrink, fill again."""
    alice = open_small(broker, 400_000, growth=300_000)
    for grow, kind in ((250_000, "done"), (250_000, "overflow"), (-250_000, "done"), (250_000, "done")):
        alice.submit("counter/a", program(["grow", grow], ["add", 1]), lane="l")
        broker.run()
        assert kinds(alice)[-1] == kind


def test_what_a_task_brought_it_may_hand_on(broker: Broker) -> None:
    """Goal: a relay needs no growth. Method: growth 0, a message of 10 kB whose content is sent on."""
    alice = open_small(broker, MIB)
    inner = ["log", "x" * 10_000]
    alice.submit(
        "counter/a", program(["tell", "counter/b", [inner]]), program(["tell", "counter/b", [inner] * 3]), lane="l"
    )
    broker.run()
    assert [task.address for task in broker.core.world.results.kept()].count("counter/b") == 1 + 1


def test_room_is_kept_from_issue_on_so_a_large_growth_shortens_the_line(broker: Broker) -> None:
    """Goal: `overflow` is known when a task runs, because nothing that is issued can take another's room. Method: a
    lane with room for three growths; a fourth task waits although the window is not full.
    """
    alice = open_small(broker, 1_000_000, growth=300_000)
    alice.pause("l")
    for n in range(6):
        alice.submit(f"counter/{n}", program(["grow", 290_000]), lane="l")
    alice.release("l")
    lane = broker.lane("l")
    assert (lane.line_count, lane.waiting_count) == (3, 3)
    broker.run()
    assert kinds(alice) == ["done"] * 3 + ["overflow"] * 3


# --- asking -----------------------------------------------------------------------------------------------------


def test_a_reply_has_its_room_or_comes_back_as_overflow(broker: Broker) -> None:
    """Goal: no answer pushes a lane past its budget. Method: a function whose result is larger than what may be
    added; who asked gets a failure of kind overflow, and the function's own result stands.
    """
    alice = open_small(broker, MIB, growth=1_000)
    alice.submit("counter/a", program(["ask", "function", [["size", 5_000]]]), lane="l")
    alice.submit("counter/b", program(["ask", "function", [["size", 500]]]), lane="l")
    broker.run()
    tasks = broker.core.world.results.kept()
    assert {task.run.kind: task.address for task in tasks if task.run.kind in ("reply", "failure")} == {
        "failure": "counter/a",
        "reply": "counter/b",
    }
    (failure,) = [msgpack.unpackb(task.payload) for task in tasks if task.run.kind == "failure"]
    assert failure[0] == "overflow"
    assert "growth_bytes" in failure[1]


@pytest.mark.parametrize("left", [0, 1, 100, 10_000])
def test_a_failure_always_comes_back_if_cut(left: int) -> None:
    """Goal: who asked hears of it even in a full lane. Method: a long message with little room: its text is cut
    between two characters, and what the reply counts is no more than the room.
    """
    run = Run(
        lane="l", first_seq=1, first_turn=1, targets="function", priority=0, kind=ASK, sender="counter/a", now_ms=0,
        parent=(1, 0), reply_to=None, payloads=Blobs.of((b"",)), tensors=(),
    )  # fmt: skip
    text = "é" * 1_000
    answer = reply(run, Failed("error", text, (), 0), left)
    kind, said = msgpack.unpackb(answer.payload)
    assert (kind, answer.target) == ("error", "counter/a")
    assert text.startswith(said)
    assert len(said.encode()) + 1 >= 256
    assert content_bytes(FAILURE, len(answer.payload), ()) <= left
    assert (said == text) == (left == 10_000)


# --- agents -----------------------------------------------------------------------------------------------------


def test_the_number_of_agents_is_bounded(broker: Broker) -> None:
    """Goal: new keys are not free. Method: two agents fit, a task for a third fails without a worker, functions and
    agents that are there go on; the same after a restart.
    """
    alice = open_small(broker, MIB, agents_max=2)
    for target in ("counter/a", "counter/b", "counter/c", "function", "counter/a"):
        alice.submit(target, lane="l")
    broker.run()
    assert kinds(alice) == ["done", "done", "overflow", "done", "done"]
    assert "agents_max" in alice.results[3].message
    broker.restart()
    alice.submit("counter/d", lane="l")
    assert kinds(alice)[-1] == "overflow"


# --- dead letters and results -------------------------------------------------------------------------------------


def test_dead_letters_are_bounded_in_bytes(broker: Broker) -> None:
    """Goal: a thousand failures of a megabyte are not a gigabyte. Method: an eighth of the budget, the oldest go."""
    alice = open_small(broker, 8 * MIB)
    for _ in range(12):
        alice.submit("counter/a", program(["fail", "no"]).ljust(200_000), lane="l")
        broker.run()
    lane = broker.lane("l")
    assert list(lane.dead) == [8, 9, 10, 11, 12]
    assert lane.dead.bytes <= MIB
    assert isinstance(alice.submit_runs(lane="l", retry_of=12), Accepted)
    assert isinstance(alice.submit_runs(lane="l", retry_of=1), Refused)
    broker.run()
    assert alice.drop_dead(lane="l").value == {"dropped": 5}
    assert lane.dead.bytes == 0


def test_a_retry_needs_room_like_a_submit(broker: Broker) -> None:
    """Goal: one door. Method: fill the producers' half, then retry."""
    alice = open_small(broker, 2 * MIB)
    alice.submit("counter/a", program(["fail", "no"]).ljust(200_000), lane="l")
    broker.run()
    alice.pause("l")
    alice.submit("counter/a", bytes(900_000), lane="l")
    busy = alice.submit_runs(lane="l", retry_of=1)
    assert isinstance(busy, Refused)
    assert busy.code == Busy.code


def test_logs_count_among_kept_results(make_broker: Any) -> None:
    """Goal: kept results are bounded with all that they hold. Method: results that are nothing but log lines."""
    broker = make_broker(results_bytes=100_000)
    alice = broker.producer()
    alice.deploy("counter")
    broker.worker()
    for _ in range(20):
        alice.submit("counter/a", program(["log", "x" * 10_000]))
        broker.run()
    results = broker.core.world.results
    assert len(results) == 4, "each is 10 kB of payload and as much of log"
    assert results.bytes <= 100_000


# --- producers and operators ----------------------------------------------------------------------------------------


def test_producers_fill_half_of_what_states_leave(broker: Broker) -> None:
    """Goal: a flood from outside is Busy, not `overflow` inside. Method: payloads up to the half and one more; what
    can never fit is told from what does not fit now.
    """
    alice = open_small(broker, 4_000)
    alice.pause("l")
    never = alice.submit("counter/a", bytes(1_745), lane="l")
    assert (never.code, never.fields) == ("bad_payload", {"bytes": 2_001, "bytes_max": 4_000})
    assert isinstance(alice.submit("counter/a", bytes(1_000), lane="l"), Accepted)
    assert isinstance(alice.submit("counter/a", bytes(488), lane="l"), Accepted)
    busy = alice.submit("counter/a", lane="l")
    assert (busy.code, busy.fields["lane"], busy.fields["held_bytes"]) == ("busy", "l", 2_000)
    alice.release("l")
    broker.run()
    assert isinstance(alice.submit("counter/a", lane="l"), Accepted)


def test_the_budgets_of_all_lanes_are_bounded(make_broker: Any) -> None:
    """Goal: what all lanes may hold is bounded, at the door only. Method: lanes until one does not fit; a smaller one
    does.
    """
    broker = make_broker()
    alice = broker.producer()
    for n in range(63):
        assert isinstance(alice.open_lane(f"l{n}"), Accepted)
    busy = alice.open_lane("one-more")
    assert busy.code == "busy"
    assert (busy.fields["promised_bytes"], busy.fields["lanes_bytes"]) == (16 << 30, 16 << 30)
    assert "--lanes-bytes" in busy.message


def test_operators_see_who_fills_a_lane(broker: Broker) -> None:
    """Goal: status and lanes say what is there. Method: a task that waits, a timer, a state and a dead letter."""
    alice = open_small(broker, MIB, growth=1_000)
    alice.submit("counter/a", program(["grow", 500], ["timer", 100_000, []]), lane="l")
    alice.submit("counter/a", program(["fail", "no"]), lane="l")
    broker.run()
    alice.pause("l")
    alice.submit("counter/a", b"123", lane="l")
    (facts,) = [row for row in broker.ask("lanes") if row["lane"] == "l"]
    sizes = {name: facts[name] for name in ("task_bytes", "timer_bytes", "state_bytes", "reserved_bytes", "bytes_max")}
    assert sizes == {
        "task_bytes": 259, "timer_bytes": 258, "state_bytes": 501, "reserved_bytes": 0, "bytes_max": MIB,
    }  # fmt: skip
    assert facts["dead_bytes"] == 256 + len(program(["fail", "no"])) + 2
    status = broker.ask("status")
    assert status["held_bytes"] == 259 + 258 + 501
    assert status["promised_bytes"] == MIB + limits.LANE_BYTES_DEFAULT
    assert status["results_kept_bytes"] > 0


# --- what is kept -------------------------------------------------------------------------------------------------


def test_counts_survive_a_snapshot_in_the_middle_of_a_fold(broker: Broker) -> None:
    """Goal: a completed task that has not retired has changed its agent, but not the budget. Method: two agents, the
    second completes first; load the snapshot and compare, then finish in both worlds.
    """
    alice = open_small(broker, MIB, growth=10_000)
    first, second = broker.workers[b"w-w1"], broker.worker("w2")
    alice.submit("counter/a", program(["grow", 10]), lane="l")
    alice.submit("counter/b", program(["grow", 2_000]), lane="l")
    assert [first.turns(), second.turns()] == [[1], [2]]
    second.finish()
    lane = broker.lane("l")
    assert (len(lane.agents["counter/b"].state or b""), lane.budget.state_bytes) == (2_001, 0)
    again = snapshot.clone(broker.core.world).lanes["l"]
    assert again.budget == lane.budget
    first.finish()
    assert lane.budget.state_bytes == 2_001 + 11
    assert [record.settings.bytes_max for record in broker.recorded(records.Opened)][-1] == MIB
