"""Flows in Python in the sandbox: with a guest that was kept and one that is made again, what a step finds, what an
author does wrong. test_python_flow.py has the language's side.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from call_kit import LANE_SEED
from flow_kit import FlowCall
from python_sandbox import NOW_MS, PythonSandbox

from rota.common.digests import entropy
from rota.common.work import Code, Done

EXAMPLES = Path(__file__).resolve().parents[2] / "sdk" / "python" / "examples"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PythonSandbox]:
    made = PythonSandbox(tmp_path_factory.mktemp("flows"))
    yield made
    made.executor.close()


@pytest.fixture(scope="module")
def runs_again(sandbox: PythonSandbox) -> Iterator[Any]:
    """An executor that keeps no guest of a call."""
    made = sandbox.new_executor(live_calls=0)
    yield made
    made.close()


@pytest.fixture(scope="module")
def evaluator(sandbox: PythonSandbox) -> Code:
    """A flow that runs its payload as the body of a coroutine, with `ctx` and some modules."""
    source = (
        "import asyncio, os, random, time\n"
        "async def flow(ctx):\n"
        "    names = dict(globals(), ctx=ctx)\n"
        "    body = ctx.message.text.replace('\\n', '\\n    ')\n"
        "    exec(compile('async def body():\\n    ' + body, '/body.py', 'exec'), names)\n"
        "    return await names['body']()\n"
    )
    return sandbox.deploy(source, flow=True)


def trip(executor: Any, code: Code) -> FlowCall:
    """Run the example: an answer out of order, a desk that refuses, a timer."""
    call = FlowCall(executor, code, b"Rome")
    call.answer(b"Ritz", 1).answer(b"sun").answer(msgpack.packb({"generate": {"text": "Walk."}}))
    call.fail("error", "full", 1).wake()
    return call.answer(b"\x93\x01\x02\x03", 1)


def test_a_call_is_the_same_kept_or_made_again(sandbox: PythonSandbox, runs_again: Any) -> None:
    """Goal: outcomes, log, places and fuel of each step are a function of the messages. Method: the example on an
    executor that keeps guests, and on one that keeps none and runs all messages again at each step.
    """
    code = sandbox.deploy({"trip.py": (EXAMPLES / "trip.py").read_bytes()}, flow=True)
    kept, again = trip(sandbox.executor, code), trip(runs_again, code)
    assert kept.outcomes == again.outcomes
    assert kept.value == {"weather": "sun", "plan": "Walk.", "booked": [1, 2, 3]}
    waits = [one.waits for one in kept.outcomes if isinstance(one, Done)]
    assert waits == ["trip.py:11", "trip.py:11", "trip.py:11", "trip.py:19", "trip.py:21", "trip.py:22", None]
    assert kept.outcomes[0].log == ("a trip to Rome",)
    assert not any(one.log for one in kept.outcomes[1:])


def test_what_a_step_finds(sandbox: PythonSandbox, runs_again: Any, evaluator: Code) -> None:
    """Goal: chance is each message's own, time goes on, files and globals stay. Method: all of them in three steps."""
    source = b"""found = []
open('/kept', 'w').write('x')
for step in range(3):
    found.append([time.time_ns(), random.random(), os.urandom(4), open('/kept').read()])
    await asyncio.sleep(60)
return found"""
    calls = [FlowCall(executor, evaluator, source).wake().wake().wake() for executor in (sandbox.executor, runs_again)]
    found = calls[0].value
    assert found == calls[1].value
    for step, (time_ns, _, _, kept) in enumerate(found):
        assert 0 <= time_ns - (NOW_MS + 60_000 * step) * 10**6 < 10**9
        assert kept == "x"
        seed = int.from_bytes(entropy(LANE_SEED, calls[0].messages[step].turn), "big")
        assert found[step][1] == random.Random(seed).random()
    assert len({one[2] for one in found}) == 3


def test_large_answers_use_the_same_room(sandbox: PythonSandbox, evaluator: Code) -> None:
    """Goal: a call does not grow by each answer that it has forgotten. Method: more bytes in all than the guest may
    have, in growing and falling sizes.
    """
    limits = evaluator.limits._replace(call_bytes=32 << 20, memory_bytes=31 << 20)
    source = b"sizes = [len((await ctx.ask('a', b'')).payload) for _ in range(25)]\nreturn sizes"
    call = FlowCall(sandbox.executor, evaluator._replace(limits=limits), source)
    sizes = [100_000 * (step % 10) for step in range(24)] + [10]
    for size in sizes:
        call.answer(bytes(size))
    assert call.value == sizes


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("time.sleep(1)", "error", "RuntimeError: time.sleep does not wait in a flow: await ctx.sleep(milliseconds)"),
        ("import threading; threading.Thread(target=int).start()", "error", "several asks of a flow go on together"),
        ("await asyncio.to_thread(int)", "error", "the sandbox has no threads"),
        ("asyncio.run(asyncio.sleep(1))", "error", "RuntimeError: asyncio.run() cannot be called from a running"),
        ("await asyncio.Event().wait()", "error", "waits_for_nothing: the flow waits for nothing that can come: await"),
        ("await ctx.ask('a', kept=1)", "error", "TypeError: "),
        ("await ctx.ask(1)", "error", "TypeError: a target is a str like name/key, not int"),
        (
            "await asyncio.gather(*[ctx.ask('a') for _ in range(65)])",
            "overflow",
            "emits (asks are, too), and one for the call that waits: 66, at most 64 (emits_max)",
        ),
        ("return ctx.ask('a')", "error", "(await it first, as in: answer = await ctx.ask(...))"),
        ("return ctx.ask('a').text", "error", "(await it first"),
        ("await ctx.ask('a b')", "error", "ValueError: 'a b' is no target: use name/key, name or model:NAME"),
        ("ctx.state = 1", "error", "a flow has no state"),
        ("ctx.fail('no', 'text')", "error", "no: text"),
        ("return {1, 2}", "error", "TypeError: "),
        ("while True: pass", "fuel", "out of fuel"),
        ("ctx.emit('trip/~9')", "bad_output", "'trip/~9' is a call of a flow"),
    ],
)
def test_what_an_author_does_wrong_has_a_text(
    sandbox: PythonSandbox, evaluator: Code, source: str, kind: str, text: str
) -> None:
    """Goal: each mistake fails the call with what to do, and nothing hangs. Method: one each, in the first step."""
    failure = FlowCall(sandbox.executor, evaluator, source.encode()).failure
    assert failure.startswith(f"{kind}: ")
    assert text in failure
    assert "/rota/agent" not in failure


def test_a_failure_in_a_later_step_says_where(sandbox: PythonSandbox, evaluator: Code) -> None:
    """Goal: the author's own lines only, also behind an ask. Method: an exception, and an ask that fails."""
    call = FlowCall(sandbox.executor, evaluator, b"answer = await ctx.ask('a')\nreturn answer.value").answer(b"\xc1")
    assert call.failure.startswith("error: ValueError: ")
    assert 'File "/body.py", line 3, in body' in call.failure
    assert "/rota/agent" not in call.failure
    call = FlowCall(sandbox.executor, evaluator, b"await ctx.ask('nobody')").fail("unknown_agent", "nobody")
    assert call.failure.startswith('error: AskFailed: unknown_agent: nobody (asked nobody)\n  File "')
    assert call.last.log == ()


def test_tensors_over_a_call(sandbox: PythonSandbox, runs_again: Any, evaluator: Code) -> None:
    """Goal: tensors of all messages, and those that a step made, are read and sent on at any step. Method: one of the
    call's message, one of an answer, and new ones, of which one is used after the flow has waited.
    """
    first, second = (sandbox.tensors.put(np.arange(size, dtype=np.uint8)) for size in (3, 4))
    source = b"""made = ctx.tensor('uint8', [1], b'm')
answer = await ctx.ask('a', tensors=[made, ctx.message.tensors[0]])
new = ctx.tensor('uint8', [1], b'n')
all = [*ctx.message.tensors, *answer.tensors, new, made]
ctx.emit('b', tensors=[made])
ctx.reply([tensor.read() for tensor in all], tensors=all[1:])"""
    for executor in (sandbox.executor, runs_again):
        call = FlowCall(executor, evaluator, source, tensors=(first,))
        (asked,) = call.waiting
        made, sent = asked.emit.tensors
        assert (sandbox.tensors.open(made).tolist(), sent) == ([ord("m")], first)
        call.answer(tensors=(second,))
        assert call.value == [bytes(range(3)), bytes(range(4)), b"n", b"m"]
        assert isinstance(call.last, Done)
        assert (call.last.tensors[0], call.last.tensors[2]) == (second, made)
        assert call.last.emits[0].tensors == (made,)


def test_one_file_may_be_an_agent_and_a_flow(sandbox: PythonSandbox) -> None:
    """Goal: the deploy decides which is called. Method: a file with both, and files without the one that is wanted."""
    both = "def agent(ctx): ctx.reply('agent')\nasync def flow(ctx): return 'flow'\n"
    call = FlowCall(sandbox.executor, sandbox.deploy(both, flow=True))
    assert isinstance(call.last, Done)
    assert call.last.result == b"flow"
    outcome = sandbox.run(sandbox.deploy(both))
    assert isinstance(outcome, Done)
    assert outcome.result == b"agent"
    agent = sandbox.deploy("def agent(ctx): ...\n", flow=True)
    assert (
        "no_flow: agent.py is deployed as a flow (--flow) and has no function `flow`"
        in FlowCall(sandbox.executor, agent).failure
    )
    outcome = sandbox.run(sandbox.deploy("def flow(ctx): ...\n"))
    assert "no_agent: agent.py is deployed as an agent and has no function `agent`" in str(outcome)
