"""A tested agent, to copy: the counter of examples/agents, driven message by message in this process.

`rota_lane` is a fixture of Rota's pytest plugin: a fresh lane with the real sandbox, no broker, no sockets, no clock.
Run it with `pytest examples/tests`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rota.local import LocalLane, TaskFailed

COUNTER = Path(__file__).resolve().parents[1] / "agents" / "counter.wasm"


@pytest.fixture
def lane(rota_lane: LocalLane) -> LocalLane:
    """A lane in which `counter` is bound to the module under test."""
    rota_lane.deploy("counter", COUNTER)
    return rota_lane


def test_each_message_adds_one(lane: LocalLane) -> None:
    """Goal: it counts, and every key has a count of its own. Method: messages to two keys, then the results."""
    to_alice = lane.submit_many("counter/alice", [b"+", b"+", b"+"])
    to_bob = lane.submit("counter/bob", b"+")
    assert [result.payload for result in to_alice.results()] == [b"1", b"2", b"3"]
    assert to_bob.result().payload == b"1"


def test_get_reads_and_changes_nothing(lane: LocalLane) -> None:
    """Goal: `get` leaves the state as it is. Method: step turn by turn and compare the state before and after."""
    lane.submit_many("counter/alice", [b"+", b"get"])
    plus, get = lane.step(), lane.step()
    assert plus is not None
    assert get is not None
    assert plus.state == b"\x01"
    assert get.result == b"1"
    assert get.state_before == get.state == plus.state


def test_without_fuel_it_fails_and_keeps_its_state(lane: LocalLane) -> None:
    """Goal: a failure costs its task and nothing else. Method: count, deploy again with no fuel to speak of, count."""
    lane.submit("counter/alice", b"+").result()
    lane.deploy("counter", COUNTER, fuel=10)
    with pytest.raises(TaskFailed, match="fuel"):
        lane.submit("counter/alice", b"+").result()
    assert lane.state("counter/alice") == b"\x01"
    assert [dead.failure.kind for dead in lane.dead] == ["fuel"]


def test_the_same_inputs_give_the_same_digest(lane: LocalLane) -> None:
    """Goal: any change of the agent is seen, in its bytes too. Method: compare the lane digest with one from before."""
    lane.submit_many("counter/alice", [b"+", b"get", b"+"])
    lane.run()
    assert lane.digest.hex() == "e0dccfccab1c7676aa0afebcf107e9c28bb9d0c37a3c3e6cc6643562d088b894"
