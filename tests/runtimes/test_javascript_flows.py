"""Flows in JavaScript, and the verbs of answers that come later, on the real executor and the fetched runtime."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy
import pytest
from flow_kit import FIRST_TURN, TURNS_BETWEEN, FlowCall
from runtime_kit import put_source
from sdk_cases import task
from target_cases import target_cases

from rota.common.targets import is_target
from rota.common.work import Code, Done, Failed, Fold, Limits, Outcome
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.tensor_access import StoreTensors
from rota.runtimes.bundles import source_bundle
from rota.runtimes.javascript_language import LANGUAGE
from rota.tensors.store import TensorStore

# A flow and an agent whose messages are their bodies, which saves a deploy for each test.
BODIES: Final = """
import * as rota from "rota";
const Body = (async () => {}).constructor;
export async function flow(ctx) { return new Body("ctx", "rota", ctx.message.text)(ctx, rota); }
export async function agent(ctx) { return new Body("ctx", ctx.state)(ctx); }
"""

Begin = Callable[..., FlowCall]


@pytest.fixture(scope="module")
def bodies(executor: WasmExecutor, modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Code:
    return deployed(executor, modules, tmp_path_factory.mktemp("bodies") / "trip.js", BODIES)


@pytest.fixture
def begin(executor: WasmExecutor, bodies: Code) -> Begin:
    """Begins a call of a flow with this body."""
    return lambda body, **fields: FlowCall(executor, bodies, body.encode(), **fields)


@pytest.fixture
def run_agent(executor: WasmExecutor, bodies: Code) -> Callable[..., Outcome]:
    """Runs the body of an agent's handler."""

    def run(body: str, **fields: Any) -> Outcome:
        fold = Fold(bytes(32), bodies._replace(flow=False), "agent/x", msgpack.packb(body), (task(b"", **fields),))
        result = executor.run(fold._replace(open=(3,)))
        assert result.stopped is None, result.reason
        return result.outcomes[0]

    return run


def deployed(executor: WasmExecutor, modules: Path, path: Path, source: str) -> Code:
    path.write_text(source, encoding="utf-8")
    return put_source(executor, modules, source_bundle(path), flow=True)


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_flow_waits_and_goes_on_where_it_stopped(begin: Begin) -> None:
    """Goal: variables stay while it waits, and answers have what came. Method: two asks, one after the other."""
    call = begin("""
        let steps = 1;
        const first = await ctx.ask("a/x", "one", { priority: 3, deadline_ms: 500 });
        steps++;
        const second = await ctx.ask("b/x", first.payload);
        return [steps, ctx.message.turn, first.text, first.turn, first.sender, second.value];
    """)
    (emit,) = call.emits
    assert (emit.target, emit.payload, emit.priority, emit.kind, emit.delay_ms) == ("a/x", b"one", 3, "ask", 500)
    call.answer(b"1")
    assert call.emits[0].payload == b"1"
    call.answer(msgpack.packb({"b": 2}))
    assert call.value == [2, FIRST_TURN, "1", FIRST_TURN + TURNS_BETWEEN, "a/x", {"b": 2}]


def test_many_are_gathered_in_order_raced_and_taken_as_they_come(begin: Begin) -> None:
    """Goal: what is asked at once may be answered in any order. Method: the last one first."""
    ask = '[..."abc"].map((name) => ctx.ask(`${name}/x`, ""))'
    gathered = begin(f"return (await Promise.all({ask})).map((one) => one.text);")
    assert gathered.sent == [("ask", "a/x"), ("ask", "b/x"), ("ask", "c/x")]
    assert gathered.answer(b"C", 2).answer(b"A", 0).answer(b"B").value == ["A", "B", "C"]
    assert begin(f"return (await Promise.race({ask})).text;").answer(b"C", 2).result == b"C"
    settled = begin(f"return (await Promise.allSettled({ask})).map((one) => one.reason?.kind ?? one.value.text);")
    assert settled.fail("expired", place=1).answer(b"A").answer(b"C").value == ["A", "expired", "C"]
    either = begin(f"return await Promise.any({ask});")
    assert either.fail().fail().answer(b"C").result == b"C"
    coming = begin(f"const all = []; for await (const one of rota.asCompleted({ask})) all.push(one.text); return all;")
    assert coming.answer(b"B", 1).answer(b"C", 1).answer(b"A").value == ["B", "C", "A"]
    failing = begin(f"for await (const one of rota.asCompleted({ask})) ctx.log(one.text);").answer(b"A")
    assert failing.fail("trap", "unreachable").failure.startswith("error: AskFailed: trap: unreachable (asked ")


def test_timers_take_time_in_a_flow(begin: Begin) -> None:
    """Goal: sleep, setTimeout and setInterval are messages; what has no delay goes on at once; a timer that was cleared
    is forgotten.
    """
    call = begin("""
        const seen = [];
        const cleared = setTimeout(() => seen.push("cleared"), 5);
        setTimeout(() => seen.push("at once"), 0);
        await ctx.sleep(0);
        const begun = Date.now();
        await ctx.sleep(249.5);
        clearTimeout(cleared);
        const id = setInterval((text) => seen.push(text) === 3 && clearInterval(id), 10, "again");
        await new Promise((resolve) => setTimeout(resolve, 100));
        return [seen, Math.floor((Date.now() - begun) / 50) * 50];
    """)
    assert [(emit.payload, emit.delay_ms) for emit in call.emits] == [(b"\0", 5), (b"\1", 250)]
    call.wake(1)
    assert [emit.delay_ms for emit in call.emits] == [10, 100]
    call.wake(0)  # the one that was cleared
    assert call.sent == []
    call.wake(0).wake(1)  # of the interval
    call.wake(0)
    assert call.value == [["at once", "again", "again"], 350]


def test_a_delay_counts_from_the_clock_of_the_call(begin: Begin) -> None:
    """Goal: an answer to an old ask makes no later timer fire at once. Method: a timer comes before the answer."""
    call = begin("""
        const asked = ctx.ask("a/x", "");
        await ctx.sleep(1000);
        await asked;
        ctx.ask("b/x", "", { deadline_ms: 70 });
        await ctx.sleep(50);
    """)
    call.wake().answer()
    assert [emit.delay_ms for emit in call.emits] == [1070, 1050]


def test_models_are_asked_and_their_answers_are_read(begin: Begin, tensors: TensorStore) -> None:
    """Goal: the payloads are those of docs/PROTOCOL.md and docs/MODELS.md. Method: play the part of the models."""
    call = begin("""
        const sent = ctx.tensor("float32", [2], [1, 2]);
        const [written, vectors, labels, { y, big }] = await Promise.all([
          ctx.generate("smollm2", { prompt: "Once", max_tokens: 4, priority: 2, deadline_ms: 9 }),
          ctx.embed("model:minilm", ["a", "b"], { truncate: true }),
          ctx.classify("mood", "a", { top: 1 }),
          ctx.model("net", { x: sent, z: { dtype: "int64", shape: [1], data: [7] } }, { outputs: ["y", "big"] }),
        ]);
        return [written.text, vectors.map((one) => [...one]), labels, [...y.array()], [...big.array()]];
    """)
    emits = call.emits
    assert [(emit.target, emit.priority, emit.delay_ms) for emit in emits] == [
        ("model:smollm2", 2, 9), ("model:minilm", 0, 0), ("model:mood", 0, 0), ("model:net", 0, 0),
    ]  # fmt: skip
    assert [msgpack.unpackb(emit.payload) for emit in emits] == [
        {"generate": {"prompt": "Once", "max_tokens": 4}},
        {"embed": {"texts": ["a", "b"], "truncate": True}},
        {"classify": {"texts": ["a"], "top": 1}},
        {"inputs": {"x": ["float32", [2], 0], "z": ["int64", [1], (7).to_bytes(8, "little")]}, "outputs": ["y", "big"]},
    ]
    assert [ref.shape for ref in emits[3].tensors] == [(2,)]
    floats = numpy.array([1, 2, 3, 4], "<f4")
    big = tensors.put(numpy.array([5], "uint8"))
    call.answer(msgpack.packb({"generate": {"text": " upon"}}))
    call.answer(msgpack.packb({"embed": {"vectors": ["float32", [2, 2], floats.tobytes()], "usage": {}}}))
    call.answer(msgpack.packb({"classify": {"labels": [[["good", 0.75]]], "usage": {}}}))
    outputs = {"y": ["float32", [4], floats.tobytes()], "big": ["uint8", [1], 0]}
    call.answer(msgpack.packb({"outputs": outputs}), tensors=(big,))
    assert call.value == [" upon", [[1, 2], [3, 4]], [[["good", 0.75]]], [1, 2, 3, 4], [5]]
    odd = begin('await ctx.generate("smollm2", { prompt: "x" })').answer(b"\xc1")
    assert odd.failure.startswith(
        "error: AskFailed: bad_answer: what model:smollm2 answered cannot be read: RangeError"
    )


def test_tensors_stay_over_the_steps_of_a_call(begin: Begin, tensors: TensorStore) -> None:
    """Goal: tensors of all messages, and those that an earlier step made, can be read, sent and returned."""
    first, second = tensors.put(numpy.array([1], "uint8")), tensors.put(numpy.array([2], "uint8"))
    call = begin(
        """
        const made = ctx.tensor("uint8", [1], [9]);
        const answer = await ctx.ask("a/x", "", { tensors: [made] });
        const both = [...ctx.message.tensors, ...answer.tensors];
        await ctx.ask("b/x", both.map((one) => one.array()[0]), { tensors: [made, ...both] });
        ctx.reply("x", { tensors: [answer.tensors[0], made] });
        """,
        tensors=(first,),
    )
    made = call.emits[0].tensors[0]
    call.answer(tensors=(second,))
    (emit,) = call.emits
    assert (msgpack.unpackb(emit.payload), emit.tensors) == ([1, 2], (made, first, second))
    call.answer()
    assert isinstance(call.last, Done)
    assert call.last.tensors == (second, made)


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ('return "text";', b"text"),
        ("return 5;", b"\x05"),
        ("return { a: [1] };", b"\x81\xa1a\x91\x01"),
        ('ctx.reply("said"); return null;', b"said"),
        ('ctx.reply("said"); return "last";', b"last"),
        ("", None),
        ('ctx.ask("a/x", ""); return "at once";', b"at once"),
    ],
)
def test_what_a_flow_returns_is_its_answer(begin: Begin, body: str, result: bytes | None) -> None:
    call = begin(body)
    assert (call.result, call.waits) == (result, None)


def test_an_answer_is_given_on_as_it_came(begin: Begin, tensors: TensorStore) -> None:
    sent = tensors.put(numpy.array([1], "uint8"))
    call = begin('return await ctx.ask("a/x", "");').answer(b"\xff", tensors=(sent,))
    assert isinstance(call.last, Done)
    assert (call.result, call.last.tensors) == (b"\xff", (sent,))


NOTHING: Final = "error: waits_for_nothing: the flow waits for nothing that can come: await ctx.ask(...)"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("await new Promise(() => {});", NOTHING),
        ("clearTimeout(setTimeout(() => {}, 5)); await new Promise(() => {});", NOTHING),
        ("throw new TypeError('no');", "error: TypeError: no\n    at "),
        ("ctx.fail('mine', 'as I like');", "error: mine: as I like"),
        ("try { ctx.fail('mine', 'x'); } catch {} await ctx.ask('a/x', '');", "error: mine: x"),
        ("Promise.reject(new Error('lost')); await ctx.ask('a/x', '');", "error: Error: lost"),
        ("setTimeout(() => { throw new Error('late'); }, 0); await ctx.ask('a/x', '');", "error: Error: late"),
        ("ctx.state;", "error: TypeError: a flow has no ctx.state: its variables stay while it waits"),
        ("ctx.state = 1;", "error: TypeError: a flow has no ctx.state"),
        ("ctx.timer(5);", "error: TypeError: a flow has no ctx.timer: await ctx.sleep(...)"),
        ("ctx.postpone();", "error: TypeError: a flow has no ctx.postpone: each call is answered once, by what it ret"),
        ("ctx.handOn('a/x', '');", "error: TypeError: a flow has no ctx.handOn: return await ctx.ask(...)"),
        ("await ctx.sleep('soon');", "error: TypeError: sleep: soon is no number of milliseconds"),
        ("await ctx.ask('a/x', '', { deadline_ms: '1s' });", "error: TypeError: ask: the deadline is 1s, not an i"),
        ("await ctx.generate('smollm2', 'Once');", "error: TypeError: generate: give { prompt: ... } or { messages"),
        ("await ctx.generate(5, {});", "error: TypeError: the model is 5, not a text"),
        ("return ctx.ask('a/x', '').text;", "error: TypeError: what ctx.ask(...) gives is a promise: await it first"),
        ("return `got ${ctx.ask('a/x', '')}`;", "error: TypeError: what ctx.ask(...) gives is a promise"),
        ("ctx.emit('b', ctx.ask('a/x', ''));", "error: TypeError: a promise cannot be stored or sent: await it"),
        ("await ctx.ask('cook anna!', '');", "error: TypeError: ask: cook anna! is no target: use name/key, name or"),
        ("return () => 1;", "error: TypeError: a function cannot be stored or sent"),
        ("for (let i = 0; i < 65; i++) ctx.ask('a/x', ''); await ctx.sleep(1);", "overflow: "),
    ],
)  # fmt: skip
def test_failures_say_what_happened(begin: Begin, body: str, text: str) -> None:
    assert begin(body).failure.startswith(text)


def test_what_an_answer_is_not_says_what_it_is(begin: Begin) -> None:
    """Goal: whoever takes `text` for `value` reads of the other. Method: both, of a message that is the other."""
    failure = begin("return (await ctx.ask('a', '')).text;").answer(b"\x82").failure
    assert "what was sent as another value than text or bytes is in .value\n" in failure
    failure = begin("return (await ctx.ask('a', '')).value;").answer(b"many words").failure
    assert "what was sent as text is in .text, as bytes in .payload\n" in failure


def test_targets_are_those_of_the_broker(begin: Begin) -> None:
    """Goal: the SDK refuses what a worker would, and no more. Method: both on the edges of each part."""
    targets = target_cases()
    body = f"""
        return {json.dumps(targets)}.map((target) => {{
            try {{ return ctx.emit(target, "") >= 0; }} catch (error) {{ return false; }}
        }});
    """
    assert begin(body).value == [is_target(target) for target in targets]


def test_a_failed_ask_is_thrown_where_it_is_awaited(begin: Begin) -> None:
    """Goal: who waits can catch it; what nobody awaits fails nothing; what nobody catches fails the call."""
    caught = begin("""
        try { await ctx.ask("a/x", ""); }
        catch (error) { return [error.kind, error.message, error.target, error instanceof rota.AskFailed]; }
    """)
    assert caught.fail("expired", "too late").value == ["expired", "too late", "a/x", True]
    unseen = begin('ctx.ask("a/x", ""); return (await ctx.ask("b/x", "")).text;')
    assert unseen.fail().answer(b"B").result == b"B"
    later = begin('const one = ctx.ask("a/x", ""); await ctx.ask("b/x", ""); await one;').fail("trap", "unreachable")
    assert later.waits is not None
    assert later.answer().failure.startswith("error: AskFailed: trap: unreachable (asked a/x)\n    at ")
    model = begin('ctx.generate("smollm2", { prompt: "x" }); return (await ctx.ask("b/x", "")).text;')
    assert model.fail("unknown_model").answer(b"B").result == b"B"


def test_a_source_lacks_what_it_is_deployed_as(executor: WasmExecutor, modules: Path, tmp_path: Path) -> None:
    code = deployed(executor, modules, tmp_path / "one.js", "export function agent() {}")
    assert FlowCall(executor, code).failure == (
        "error: no_flow: one.js is deployed as a flow (--flow) and exports no function flow"
    )
    code = deployed(executor, modules, tmp_path / "two.js", "export function flow() {}")
    (outcome,) = executor.run(Fold(bytes(32), code._replace(flow=False), "agent/x", None, (task(b""),))).outcomes
    assert isinstance(outcome, Failed)
    assert outcome.message == "no_agent: two.js is deployed as an agent and exports no function agent"


# --- where it waits, and again ----------------------------------------------------------------------------------------

LINES: Final = """export async function flow(ctx) {
  const asked = ctx.ask("a/x", "");
  const more = [ctx.ask("b/x", ""),
    ctx.ask("c/x", "")];
  await asked;
  const sleep = async () => {
    await ctx.sleep(5);
  };
  await sleep();
  return [Math.random(), crypto.randomUUID(), Date.now(), await Promise.all(more)];
}
"""


def test_it_says_at_which_lines_it_waits(executor: WasmExecutor, modules: Path, tmp_path: Path) -> None:
    """Goal: what a person sees is a place in the source. What was begun last comes first."""
    call = FlowCall(executor, deployed(executor, modules, tmp_path / "lines.js", LINES))
    assert call.waits == "lines.js:2, lines.js:3 and 1 more"
    assert call.answer(b"").waits == "lines.js:7, lines.js:3 and 1 more"
    assert call.wake().waits == "lines.js:3, lines.js:4"
    long_name = "x" * 150 + ".js"
    call = FlowCall(executor, deployed(executor, modules, tmp_path / long_name, LINES))
    assert call.waits == f"{long_name[-98:]}:2, {long_name[-98:]}:3 and 1 more"


@pytest.fixture
def forgetful(modules: Path, tensors: TensorStore, tmp_path: Path) -> Iterator[WasmExecutor]:
    """An executor that keeps no guests, so each step runs all before it again."""
    made = WasmExecutor(modules, tmp_path, StoreTensors(tensors), lambda: time.monotonic() * 1000, live_calls=0)
    yield made
    made.close()


def test_a_call_that_is_made_again_does_the_same(
    executor: WasmExecutor, forgetful: WasmExecutor, modules: Path, tmp_path: Path
) -> None:
    """Goal: outcomes, fuel and chance do not depend on who kept the guest. Method: with and without kept ones."""
    code = deployed(executor, modules, tmp_path / "lines.js", LINES)
    kept, again = [
        FlowCall(one, code, sender="b/x").answer(b"x").wake().answer(b"y").fail() for one in (executor, forgetful)
    ]
    assert kept.outcomes == again.outcomes
    assert kept.failure.startswith("error: AskFailed: error: no (asked c/x)\n    at flow (lines.js:4:")


def test_steps_leave_nothing_behind(executor: WasmExecutor, bodies: Code) -> None:
    """Goal: a long call does not fill its memory. Method: 60 answers of 1 MB in 16 MiB."""
    body = """
        let size = 0;
        for (let step = 0; step < 60; step++) size += (await ctx.ask("a/x", { step })).text.length;
        return size;
    """
    code = bodies._replace(limits=Limits(memory_bytes=16 << 20, call_bytes=64 << 20))
    call = FlowCall(executor, code, body.encode())
    for _ in range(60):
        assert call.waits is not None, call.failure
        call.answer("ü".encode() * 500_000)
    assert call.value == 60 * 500_000


# --- agents -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "emits"),
    [
        ("ctx.postpone();", []),
        ('ctx.handOn("b/x", "on", { priority: 2 });', [("b/x", b"on", "ask", 7)]),
    ],
)
def test_an_agent_postpones_what_it_was_asked(
    run_agent: Callable[..., Outcome], body: str, emits: list[tuple[str, bytes, str, int]]
) -> None:
    outcome = run_agent(body, kind="ask")
    assert isinstance(outcome, Done), outcome
    assert (outcome.result, outcome.waits) == (None, "")
    assert [(emit.target, emit.payload, emit.kind, emit.answers) for emit in outcome.emits] == emits


def test_what_is_handed_on_may_have_a_deadline(run_agent: Callable[..., Outcome]) -> None:
    outcome = run_agent('ctx.handOn("b/x", "on", { deadline_ms: 500 });', kind="ask")
    assert isinstance(outcome, Done), outcome
    assert [(emit.kind, emit.delay_ms) for emit in outcome.emits] == [("ask", 500)]


@pytest.mark.parametrize(
    ("body", "emit"),
    [
        ('ctx.settle(3, "it");', ("agent/x", b"it", "reply", 3)),
        ('ctx.settleFailure(3, "mine", "why");', ("agent/x", b"\x92\xa4mine\xa3why", "failure", 3)),
        ('ctx.handOn("b/x", "on", { turn: 3 });', ("b/x", b"on", "ask", 3)),
    ],
)
def test_an_agent_settles_what_it_has_postponed(
    run_agent: Callable[..., Outcome], body: str, emit: tuple[str, bytes, str, int]
) -> None:
    outcome = run_agent(body)
    assert isinstance(outcome, Done), outcome
    (found,) = outcome.emits
    assert outcome.waits is None
    assert found.answers == 3
    assert (found.target, found.kind) == (emit[0], emit[2])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("ctx.settle(4, '');", "bad_settle: turn 4 is none that agent/x has postponed and not settled"),
        ("ctx.settle();", "error: TypeError: settle: the turn is undefined, not an integer"),
        (
            "ctx.postpone(); ctx.reply('x');",
            "error: TypeError: the task is postponed, so it has no result: ctx.settle(",
        ),
    ],
)
def test_what_an_agent_may_not_settle(run_agent: Callable[..., Outcome], body: str, text: str) -> None:
    outcome = run_agent(body, kind="ask")
    assert isinstance(outcome, Failed), outcome
    assert f"{outcome.kind}: {outcome.message}".startswith(text)


# --- which files are flows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "is_flow"),
    [
        ("export async function flow(ctx) {}", True),
        ("  export const flow = async (ctx) => {};", True),
        ("const run = 1;\nexport { run as flow, other };", True),
        ("let a;export{a as flow}", True),
        ("exports.flow = async () => {};", True),
        ("module.exports = {\n  async flow(ctx) { return {}; },\n};", True),
        ("export async function flow(ctx) {}\nexport function agent(ctx) {}", False),
        ("module.exports = { flow(ctx) { if (ctx) {} }, agent };", False),
        ("// export async function flow(ctx) {}", False),
        ("export const overflow = 1;", False),
        ("export default function (ctx) {}", False),
        ("\xff", False),
    ],
)
def test_a_file_with_a_flow_and_no_agent_is_a_flow(source: str, is_flow: bool) -> None:
    assert LANGUAGE.is_flow(source.encode("latin-1")) is is_flow
