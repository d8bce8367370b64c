"""Flows in Python under the host's Python: waiting, order, bounds of an author's mistakes, models, the verbs of agents
that answer later. test_python_sandbox.py has them in the sandbox.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from target_cases import target_cases

from rota.agent import Array, AskFailed, Context, FlowContext, pack, unpack
from rota.agent.flow import FlowCall, is_call
from rota.agent.testing import Emit, FlowTest, call, run_flow
from rota.common.targets import is_target

ROOT = Path(__file__).resolve().parents[2]
NOTHING = "waits_for_nothing"


def kinds(emits: list[Emit]) -> list[tuple[str, str]]:
    return [(emit.kind, emit.target) for emit in emits]


async def trip(ctx: FlowContext) -> Any:
    weather, hotel = await asyncio.gather(
        ctx.ask("weather/today", ctx.message.payload),
        ctx.ask("hotel/best", {"nights": 2}, priority=2, deadline_ms=30_000),
    )
    ctx.emit("log/main", ["found", hotel.text])
    try:
        booked = await next(asyncio.as_completed([ctx.ask(f"booking/{desk}") for desk in ("a", "b")]))
    except AskFailed as failed:
        await ctx.sleep(250)
        booked = await ctx.ask("booking/c", [failed.kind, failed.message, failed.target])
    return [weather.text, booked.value, booked.sender, booked.turn]


def test_a_flow_goes_on_with_each_answer() -> None:
    """Goal: gather gives answers in the order of the asks, as_completed as they come; the rest is dropped. Method: the
    answers of a flow in another order than it asked, one of which fails.
    """
    with FlowTest(trip, "Rome") as test:
        hotel = test.asks[1]
        assert (hotel.target, hotel.priority, hotel.delay_ms, hotel.value) == ("hotel/best", 2, 30_000, {"nights": 2})
        test.answer("Ritz", 1)
        assert [ask.target for ask in test.asks] == ["weather/today"]
        test.answer("sun")
        test.fail("no room", 1)
        test.wake()
        assert test.now_ms == 250
        assert unpack(test.asks[1].payload) == ["error", "no room", "booking/b"]
        test.answer(["room", 7], 1)
    assert test.end is not None
    assert test.end.value == ["sun", ["room", 7], "booking/c", 6]
    assert kinds(test.end.emits)[2:] == [
        ("tell", "log/main"), ("ask", "booking/a"), ("ask", "booking/b"), ("timer", "test/~1"), ("ask", "booking/c"),
    ]  # fmt: skip


def test_asks_of_tasks_and_time_limits() -> None:
    """Goal: asyncio works as ever: tasks, groups, sleeps, timeouts. Method: children that sleep and ask, and a timeout
    that comes first.
    """

    async def child(ctx: FlowContext, number: int) -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(2.007)
        return int((await ctx.ask(f"echo/{number}", number)).value)

    async def flow(ctx: FlowContext) -> list[int]:
        async with asyncio.timeout(5.002), asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(ctx, number)) for number in range(3)]
        return [task.result() for task in tasks]

    end = run_flow(flow, now_ms=1_700_000_000_123)
    assert end.value == [0, 1, 2]
    assert [emit.delay_ms for emit in end.emits if emit.kind == "timer"] == [5_002, 2_007, 2_007, 2_007]

    async def of_asks(ctx: FlowContext) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.ask("echo", word)) for word in ("a", "b")]  # type: ignore[arg-type]
        return [task.result().text for task in tasks]

    assert run_flow(of_asks).value == ["a", "b"]

    async def late(ctx: FlowContext) -> str:
        try:
            async with asyncio.timeout(5):
                await ctx.ask("slow")
        except TimeoutError:
            return f"late at {asyncio.get_running_loop().time()}"
        return "in time"

    with FlowTest(late, now_ms=1_000) as test:
        test.wake()
    assert test.end is not None
    assert test.end.text == "late at 6.0"
    assert run_flow(late).text == "in time"


def test_delays_count_from_the_clock_of_the_call() -> None:
    """Goal: a reply to an old ask, which has the time of that, makes later sleeps and deadlines no shorter. Method: a
    reply that comes after a timer.
    """

    async def flow(ctx: FlowContext) -> float:
        old = ctx.ask("slow")
        await ctx.sleep(10_000)
        await old
        await asyncio.gather(ctx.sleep(7), ctx.ask("a", deadline_ms=5), ctx.ask("b"))
        return asyncio.get_running_loop().time()

    with FlowTest(flow, now_ms=1_000) as test:
        test.wake()
        test.answer()
        assert test.now_ms == 1_000
        assert [emit.delay_ms for emit in test.emits] == [0, 10_000, 10_007, 10_005, 0]
        test.answer()
        test.answer()
        test.wake()
    assert test.end is not None
    assert test.end.value == 11.007


def test_a_timer_that_is_cancelled_at_once_is_not_sent() -> None:
    """Goal: no message for a timeout that was not needed, and answers find their asks. Method: one before an ask."""

    async def flow(ctx: FlowContext) -> str:
        async with asyncio.timeout(1):
            await asyncio.sleep(0)
        return (await ctx.ask("echo", "found")).text

    end = run_flow(flow)
    assert (end.text, kinds(end.emits)) == ("found", [("ask", "echo")])


async def _forever(ctx: FlowContext) -> None:
    await asyncio.get_running_loop().create_future()


async def _after_all(ctx: FlowContext) -> None:
    await ctx.ask("a")
    await asyncio.Event().wait()


async def _cancels_its_ask(ctx: FlowContext) -> None:
    asked = ctx.ask("a")
    asked.cancel()
    await asyncio.Event().wait()


async def _raises_in_one(ctx: FlowContext) -> None:
    async def broken() -> None:
        await ctx.ask("a")
        raise ValueError("broken")

    await asyncio.gather(broken(), ctx.ask("b"))


async def _group(ctx: FlowContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_swallows_fail(ctx))
        group.create_task(_raises_in_one(ctx))


async def _swallows_fail(ctx: FlowContext) -> str:
    await ctx.ask("a")
    try:
        ctx.fail("no", "not now")
    except BaseException:
        return "went on"


async def _fails_beside(ctx: FlowContext) -> None:
    beside = asyncio.create_task(_swallows_fail(ctx))
    await asyncio.Event().wait()
    await beside


async def _wraps(value: Any) -> Any:
    return value


async def _waits(value: Any) -> None:
    await value


async def _cancelled(ctx: FlowContext) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await ctx.ask("a")


@pytest.mark.parametrize(
    ("flow", "code", "text"),
    [
        (_forever, NOTHING, "test_python_flow.py:"),
        (_after_all, NOTHING, "await ctx.ask"),
        (_cancels_its_ask, NOTHING, "await ctx.ask"),
        (_raises_in_one, "ValueError", "in broken"),
        (_swallows_fail, "no", "not now"),
        (_fails_beside, "no", "not now"),
        (_group, "no", "not now"),
        (_cancelled, "CancelledError", "in _cancelled"),
        (lambda ctx: asyncio.sleep(-1, {1}), "TypeError", "set"),
        (lambda ctx: 1 // 0, "ZeroDivisionError", "in <lambda>"),
        (lambda ctx: ctx.ask("a").text, "AttributeError", "(await it first, as in: answer = await ctx.ask(...))"),
        (lambda ctx: ctx.ask("a")["x"], "TypeError", "(await it first"),
        (lambda ctx: "got " + ctx.ask("a"), "TypeError", "(await it first"),
        (lambda ctx: list(ctx.ask("a")), "RuntimeError", "(await it first"),
        (lambda ctx: ctx.emit("b", ctx.ask("a")), "TypeError", "(await it first"),
        (lambda ctx: _wraps(ctx.ask("a")), "TypeError", "(await it first"),
        (lambda ctx: _wraps(f"got {ctx.ask('a')}"), "TypeError", "(await it first"),
        (lambda ctx: asyncio.run(ctx.ask("a")), "RuntimeError", "(await what you would run)"),
        (lambda ctx: _wraps(ctx.state), "AttributeError", "a flow has no state: its variables stay"),
        (lambda ctx: ctx.postpone(), "AttributeError", "a flow is answered once, by what it returns"),
        (lambda ctx: ctx.hand_on("a"), "AttributeError", "return await ctx.ask(...)"),
        (lambda ctx: _wraps(ctx.text), "AttributeError", "it is in ctx.message"),
        (lambda ctx: _waits(ctx.emit("a")), "TypeError", "only what `async def flow(ctx)` asks can be awaited"),
        (
            lambda ctx: time.sleep(1),
            "RuntimeError",
            "time.sleep does not wait in a flow: await ctx.sleep(milliseconds)",
        ),
        (lambda ctx: ctx.sleep(0.5), "TypeError", "delay_ms is a whole number of milliseconds, an int, not 0.5"),
        (
            lambda ctx: ctx.ask("cook anna!"),
            "ValueError",
            "'cook anna!' is no target: use name/key, name or model:NAME",
        ),
    ],
)
def test_ways_to_fail(flow: Any, code: str, text: str) -> None:
    """Goal: each mistake of a flow has an end with a text that helps. Method: one of each; no test hangs."""
    end = run_flow(flow)
    assert end.failure is not None
    assert end.failure[0] == code
    assert text in end.failure[1]


def test_what_an_answer_is_not_says_what_it_is() -> None:
    """Goal: whoever takes `text` for `value` reads of the other. Method: both, of a message that is the other."""
    with pytest.raises(UnicodeDecodeError, match=r"than text or bytes is in \.value"):
        Emit("a", b"\x82", 0, "ask", []).text  # noqa: B018
    for name, payload, other in (("text", [[1], 2], ".value"), ("value", "many words", ".text")):
        failure = run_flow(_reads(name), answer=lambda ask, payload=payload: payload).failure
        assert failure is not None
        assert other in failure[1]


def test_an_answer_is_given_on_with_its_tensors() -> None:
    """Goal: returning an answer needs no words. Method: one with a tensor, returned as it came."""

    async def flow(ctx: FlowContext) -> Any:
        return await ctx.ask("a")

    with FlowTest(flow) as test:
        test.answer(b"\x01", tensors=[(bytes(32), "uint8", (4,))])
    assert test.end is not None
    assert test.end.result == b"\x01"


def test_the_verbs_of_flows_in_an_agent() -> None:
    """Goal: who writes a flow in an agent reads what to write instead. Method: a verb of flows, and an await."""

    async def waits(ctx: Any) -> None:
        await ctx.ask("a")

    for handler, text in (
        (lambda ctx: ctx.sleep(1), "write `async def flow(ctx)`"),
        (waits, "`async def flow(ctx)` asks"),
    ):
        failure = call(handler).failure
        assert failure is not None
        assert text in failure[1]


def test_targets_are_those_of_the_broker() -> None:
    """Goal: the SDK refuses what a worker would, and no more. Method: both on the edges of each part."""

    def agent(ctx: Context) -> None:
        ctx.emit(ctx.message.text)

    for target in target_cases():
        assert (call(agent, target).failure is None) == is_target(target), target


def _reads(name: str) -> Any:
    async def flow(ctx: FlowContext) -> None:
        getattr(await ctx.ask("a"), name)

    return flow


def test_a_failed_ask_that_nobody_catches() -> None:
    """Goal: the failure of a call names that of the ask. Method: one alone, and one in a group."""

    def refuse(ask: Emit) -> bytes:
        raise AskFailed("unknown_agent", "nobody")

    async def flow(ctx: FlowContext) -> None:
        await ctx.ask("nobody")

    async def group(ctx: FlowContext) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flow(ctx))

    failure = run_flow(flow, answer=refuse).failure
    assert failure is not None
    assert failure[0] == "AskFailed"
    assert failure[1].startswith("unknown_agent: nobody (asked nobody)\n")
    failure = run_flow(group, answer=refuse).failure
    assert failure is not None
    assert "the first is AskFailed: unknown_agent: nobody (asked nobody)" in failure[1]
    assert str(AskFailed("error", "no: broken\n  line 7", "a")) == "error: no: broken (asked a)\n  line 7"
    assert str(AskFailed("error", "no")) == "error: no"


def test_what_a_flow_may_leave_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Goal: returning before answers have come is no mistake, and what runs beside it is ended. Method: an ask whose
    answer nobody awaits, which fails, and a task in the background, which still sends something.
    """

    async def background(ctx: FlowContext) -> None:
        try:
            await ctx.sleep(1_000)
        finally:
            ctx.emit("log/main", "ended")

    async def flow(ctx: FlowContext) -> bytes:
        ctx.ask("nobody")
        kept = asyncio.create_task(background(ctx))
        answer = await ctx.ask("echo", b"x")
        assert not kept.done()
        return answer.payload

    with FlowTest(flow) as test:
        test.fail("gone")
        test.answer(b"y")
    assert test.end is not None
    assert test.end.result == b"y"
    assert kinds(test.emits)[-1] == ("tell", "log/main")
    gc.collect()
    assert not caplog.records


@pytest.mark.parametrize(
    ("answer", "wanted"), [(b"x", b"x"), ("t", b"t"), ([1], b"\x91\x01"), (None, None), (0, b"\x00")]
)
def test_what_a_flow_returns_is_its_answer(answer: Any, wanted: bytes | None) -> None:
    """Goal: bytes, text and values as for payloads; nothing is no result. Method: one of each; reply without return."""

    async def flow(ctx: FlowContext) -> Any:
        return answer

    assert run_flow(flow).result == wanted

    async def replies(ctx: FlowContext) -> None:
        ctx.reply(b"said", tensors=ctx.message.tensors)

    one = FlowCall(replies)
    output = unpack(one.step((None, "ask", None, b"", 1, 0, bytes(32), None, [(bytes(32), "uint8", [1])], "t/~1")))
    one.close()
    assert output == [1, 0, None, b"said", [], [], [0]]


def test_where_a_flow_waits() -> None:
    """Goal: the lines at which it waits, the flow's own first. Method: an ask in a helper, and many tasks."""

    async def helper(ctx: FlowContext) -> None:
        await ctx.sleep(10)

    async def flow(ctx: FlowContext) -> None:
        await helper(ctx)
        await asyncio.gather(*[asyncio.create_task(helper(ctx)) for _ in range(4)])

    first = helper.__code__.co_firstlineno + 1
    with FlowTest(flow) as test:
        assert test.waits == f"test_python_flow.py:{first}"
        test.wake()
        assert test.waits == f"test_python_flow.py:{first + 4}, test_python_flow.py:{first} and 3 more"


def test_tensors_of_all_messages_are_counted_together() -> None:
    """Goal: an index means one tensor of a call. Method: tensors of the first message and of an answer are sent on."""
    given = [(bytes([number]) * 32, "uint8", (4,)) for number in range(3)]

    async def flow(ctx: FlowContext) -> None:
        answer = await ctx.ask("a", tensors=ctx.message.tensors[1:])
        ctx.emit("b", tensors=[answer.tensors[0], ctx.message.tensors[0]])
        ctx.reply(tensors=answer.tensors)

    with FlowTest(flow, tensors=given[:2]) as test:
        assert test.asks[0].tensors == [1]
        test.answer(tensors=given[2:])
    assert test.emits[1].tensors == [2, 0]


def test_asks_of_models_are_values_both_ways() -> None:
    """Goal: no maps of the protocol in a flow. Method: each kind of model, with answers as models give them, one of
    which is another model's.
    """
    vectors = ["float32", [2, 2], Array("float32", [4], [1, 2, 3, 4]).read()]
    answers = {
        "generate": {"generate": {"text": "Hi", "tokens": [1], "finish": "stop", "usage": {"prompt": 1}}},
        "embed": {"embed": {"vectors": vectors}},
        "classify": {"classify": {"labels": [[["happy", 0.5]]]}},
        "inputs": {"outputs": {"y": ["int8", [2], b"\x01\x02"]}},
    }

    async def flow(ctx: FlowContext) -> Any:
        text = await ctx.generate("smollm2", "Hello", max_tokens=4, seed=None)
        turns = [{"role": "user", "content": "Hello"}]
        more = await ctx.generate("model:smollm2", messages=turns, conversation=None, deadline_ms=9)
        found = await ctx.embed("minilm", ["a", "b"])
        labels = await ctx.classify("mood", ["a"], top=1)
        out = await ctx.model("net", {"x": ("float32", [1], [1.5]), "z": Array("bool", [2], [True, False])})
        y = out["y"]
        return [text.text, more.finish, [list(one) for one in found], labels, y.dtype, list(y.view())]

    asked: list[Any] = []

    def answer(ask: Emit) -> Any:
        asked.append(ask)
        return answers[next(iter(ask.value))]

    end = run_flow(flow, answer=answer)
    assert end.value == ["Hi", "stop", [[1.0, 2.0], [3.0, 4.0]], [[["happy", 0.5]]], "int8", [1, 2]]
    assert [ask.target for ask in asked] == ["model:smollm2"] * 2 + ["model:minilm", "model:mood", "model:net"]
    assert asked[0].value == {"generate": {"prompt": "Hello", "max_tokens": 4}}
    assert asked[1].value["generate"] == {"messages": [{"role": "user", "content": "Hello"}], "conversation": None}
    assert asked[1].delay_ms == 9
    assert asked[4].value["inputs"]["z"] == ["bool", [2], b"\x01\x00"]
    failure = run_flow(flow, answer=lambda ask: answers["embed"]).failure
    assert failure is not None
    assert "bad_answer: what model:smollm2 answered" in failure[1]
    assert 'a model answers {"generate": {"text": ..., "finish": ...}}' in failure[1]


def _desk(ctx: Context) -> None:
    match ctx.message.text:
        case "wait":
            ctx.state = ctx.postpone()
        case "answer":
            ctx.settle(ctx.state, {"waited": 1}, tensors=ctx.message.tensors)
        case "refuse":
            ctx.settle_failure(ctx.state, "closed", "come back")
        case "pass":
            ctx.hand_on("echo/y", b"it", turn=ctx.state, priority=3, deadline_ms=500)
        case "transfer":
            ctx.hand_on("echo/x")
        case "ask":
            ctx.ask("echo/x", deadline_ms=30_000)
        case "bad":
            ctx.settle("7")  # type: ignore[arg-type]


def test_an_agent_that_answers_later() -> None:
    """Goal: postpone, settle and hand on are emits as docs/AGENTS.md has them. Method: each verb, and a wrong turn."""
    waited = call(_desk, "wait", turn=7)
    assert (waited.state, waited.postponed, waited.emits) == (7, True, [])
    own = "test/main"
    for payload, emit, postponed in (
        ("answer", Emit(own, pack({"waited": 1}), 0, "reply", [], 0, 7), False),
        ("refuse", Emit(own, pack(["closed", "come back"]), 0, "failure", [], 0, 7), False),
        ("pass", Emit("echo/y", b"it", 3, "ask", [], 500, 7), False),
        ("transfer", Emit("echo/x", b"", 0, "ask", [], 0, 9), True),
        ("ask", Emit("echo/x", b"", 0, "ask", [], 30_000), False),
    ):
        done = call(_desk, payload, state=7, turn=9)
        assert (done.emits, done.postponed) == ([emit], postponed), payload
    assert call(_desk, "bad").failure is not None

    def both(ctx: Context) -> None:
        verbs = [ctx.reply, ctx.postpone]
        for verb in verbs if ctx.message.text == "reply first" else reversed(verbs):
            verb()

    for payload in ("reply first", "postpone first"):
        failure = call(both, payload).failure
        assert failure is not None
        assert failure[1].startswith("a message gets a reply, or is postponed")


def test_the_address_of_a_call() -> None:
    """Goal: one file may be agent and flow, and the address says which is meant. Method: addresses of both."""
    assert is_call("trip/~12")
    assert not any(map(is_call, ("trip", "trip/12", "trip/~", "trip/~1x", "trip/a/~1", "trip/~1/~2")))


def test_the_flow_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: docs/SDK.md shows what works. Method: its flow, and its tests of that."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "SDK.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    trip_page, tests = ModuleType("trip"), ModuleType("test_trip")
    exec(next(block for block in blocks if "async def flow" in block), trip_page.__dict__)
    monkeypatch.setitem(sys.modules, "trip", trip_page)
    exec(next(block for block in blocks if "import trip" in block), tests.__dict__)
    found = [test for name, test in vars(tests).items() if name.startswith("test_")]
    assert len(found) == 2
    for test in found:
        test()
