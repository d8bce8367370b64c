"""Flows that attack: steps and calls without end, memory that is kept, turns of others. Neighbours are unharmed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attacks
import msgpack
import pytest
from call_kit import DIARY, GROW, LOOP, answers, call_fold, diary_source, goes_on, numbered, past_of, run_grouped
from sandbox_kit import World

from rota.common.limits import LIVE_CALLS_DEFAULT
from rota.common.work import NO_STEPS, Code, Past
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.host_limits import LIVE_GUEST_BYTES


class Attacked:
    """A worker, and the flow of call_kit.py deployed in one of the ways it can be."""

    def __init__(self, world: World, way: str) -> None:
        self._world = world
        self._way = way
        self.executor: WasmExecutor = world.executor(raw_calls=way != "public")

    def code(self, **limits: int) -> Code:
        if self._way == "source":
            return diary_source(self._world, **limits)
        return self._world.agent(DIARY, flow=True, **limits)

    def run(self, code: Code, *messages: Any, address: str = "diary/~5") -> list[Any]:
        """Run the messages of a call, one fold for each."""
        results = run_grouped(self.executor, code, messages, (1,) * len(messages), address)
        assert {(result.stopped, result.reason) for result in results} == {(None, "")}
        return [outcome for result in results for outcome in result.outcomes]


@pytest.fixture(params=["raw", "public", "source"])
def attacked(world: World, request: pytest.FixtureRequest) -> Iterator[Attacked]:
    """The worker; tasks and a call of neighbours give the same before and after."""
    made = Attacked(world, request.param)
    neighbour, call = world.agent(attacks.NEIGHBOUR), numbered([goes_on(), goes_on(GROW)])

    def neighbours() -> Any:
        return attacks.run(made.executor, neighbour, b""), made.run(made.code(), *call, address="diary/~1")

    before = neighbours()
    yield made
    assert neighbours() == before


def test_a_step_that_never_returns(attacked: Attacked) -> None:
    """Goal: each step has its fuel, and all of them what the call has. Method: a loop in the first or second step."""
    code = attacked.code(fuel=1_000_000)
    (outcome,) = attacked.run(code, *numbered([goes_on(LOOP)]))
    assert (outcome.kind, outcome.fuel) == ("fuel", 1_000_000)
    first, second = attacked.run(
        attacked.code(fuel=1_000_000, call_fuel=600_000), *numbered([goes_on(), goes_on(LOOP)])
    )
    assert (second.kind, first.fuel + second.fuel) == ("fuel", 600_000)
    assert second.message.startswith("out of fuel in all in ")


def test_a_call_that_never_ends(attacked: Attacked) -> None:
    """Goal: a flow that wakes itself again and again ends at `steps_max`. Method: a timer in each step."""
    wakes = answers(msgpack.packb([1, 0, None, None, [["diary/~5", b"", 0, "timer", [], 1]], [], [], ""]))
    outcomes = attacked.run(attacked.code(steps_max=4), *numbered([wakes] * 5))
    assert [getattr(outcome, "kind", "") for outcome in outcomes] == ["", "", "", "", "overflow"]


def test_memory_that_a_call_keeps(attacked: Attacked) -> None:
    """Goal: a call has the memory of one task, however many steps it takes. Method: growth by a page in each step."""
    outcomes = attacked.run(attacked.code(memory_bytes=4 << 16), *numbered([goes_on(GROW)] * 5))
    pages = [int.from_bytes(outcome.emits[0].payload[8:12], "little") for outcome in outcomes]
    assert pages == [3, 4, 4, 4, 4]


def test_memory_that_many_calls_keep(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the guests that a worker keeps are bounded in bytes and number, whatever they take.

    Method: four calls with three pages each where there is room for three, on a host that does not tell what of it they
    have written; the one that goes is that which the last displaced. Then more small ones than may be kept.
    """
    monkeypatch.setattr("rota.cpu_worker.own_memory._PAGEMAP", "/nowhere")
    monkeypatch.setattr("rota.cpu_worker.live_calls.LIVE_BYTES_MAX", 3 * (LIVE_GUEST_BYTES + (3 << 16)))
    code, messages = attacked.code(), numbered([goes_on(GROW), goes_on()])
    begun = {turn: attacked.run(code, messages[0], address=f"diary/~{turn}") for turn in (11, 12, 13, 14)}
    for turn in (14, 12, 11, 13):
        fold = call_fold(code, messages[1:], past_of(messages[:1], begun[turn]), f"diary/~{turn}")
        attacked.executor.run(fold)
        assert attacked.executor.steps_again == (turn == 13)
    monkeypatch.undo()
    for turn in range(LIVE_CALLS_DEFAULT + 2):
        attacked.run(code, messages[0], address=f"diary/~{turn}")


@pytest.mark.parametrize(("table", "kept"), [("1 8 funcref", 2), ("1 20000 funcref", 1), ("1 funcref", 1)])
def test_tables_that_calls_keep(world: World, monkeypatch: pytest.MonkeyPatch, table: str, kept: int) -> None:
    """Goal: what a call can put into its tables counts as its memory does. Method: room for two small calls or one
    that has a table of 20,000 elements, or may have the largest.
    """
    monkeypatch.setattr("rota.cpu_worker.live_calls.LIVE_BYTES_MAX", 4 * LIVE_GUEST_BYTES)
    executor = world.executor()
    code = world.agent(DIARY.replace("(memory", f"(table {table}) (memory", 1), flow=True)
    messages = numbered([goes_on(), goes_on()])
    addresses = ("diary/~1", "diary/~2")
    begun = [run_grouped(executor, code, messages, (1,), address)[0].outcomes for address in addresses]
    for address, outcomes in zip(reversed(addresses), reversed(begun), strict=True):
        executor.run(call_fold(code, messages[1:], past_of(messages[:1], outcomes), address))
    assert executor.steps_again == 2 - kept


def test_asks_without_end(attacked: Attacked) -> None:
    """Goal: what a step sends is bounded as a task's is. Method: as many asks as may be, where waiting is one too."""
    asks = answers(msgpack.packb([1, 0, None, None, [["a/b", b"", 0, "ask"]] * 8, [], [], ""]))
    (many,) = attacked.run(attacked.code(emits_max=8), *numbered([asks]))
    assert many.kind == "overflow"
    assert many.message.startswith("emits (asks are, too), and one for the call that waits: 9, at most 8 (emits_max)")


@pytest.mark.parametrize(
    ("emit", "kind", "message"),
    [
        (["diary/~6", b"r", 0, "reply", [], 0, 6], "bad_output", "a reply goes to the agent itself"),
        (["diary/~5", b"r", 0, "reply", [], 0, 6], "bad_settle", "a flow postpones nothing"),
        (["diary/~6", b"r"], "bad_output", "'diary/~6' is a call of a flow"),
        (["diary/~6", b"r", 0, "timer"], "bad_output", "a timer goes to the agent itself"),
    ],
)
def test_answers_and_messages_to_other_calls(attacked: Attacked, emit: list[Any], kind: str, message: str) -> None:
    """Goal: a call can neither answer for others nor write to them. Method: each way to try."""
    (outcome,) = attacked.run(
        attacked.code(), *numbered([answers(msgpack.packb([1, 0, None, None, [emit], [], [], ""]))])
    )
    assert outcome.kind == kind
    assert message in outcome.message


def test_one_call_sees_nothing_of_another(attacked: Attacked) -> None:
    """Goal: memory is of one call. Method: two calls of one flow, step by step in turns, both kept."""
    code, messages = attacked.code(), numbered([goes_on(GROW), goes_on(GROW)])
    done: dict[str, list[Any]] = {"diary/~5": [], "diary/~8": []}
    for place, message in enumerate(messages):
        for address, outcomes in done.items():
            past = past_of(messages[:place], outcomes) if place else Past(NO_STEPS, 1, 0)
            outcomes += attacked.executor.run(call_fold(code, [message], past, address)).outcomes
    first, second = done.values()
    assert [outcome.emits[0].payload[4:12] for outcome in first] == [one.emits[0].payload[4:12] for one in second]
    assert attacked.executor.steps_again == 0
