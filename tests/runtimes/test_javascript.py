"""Agents in JavaScript, on the real executor and the fetched runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy
import pytest
from runtime_kit import javascript_runtime, put_source
from sdk_cases import task
from sdk_languages import SDK

from rota.common.bundle import new_bundle
from rota.common.errors import CodeError
from rota.common.limits import LOG_LINES_MAX
from rota.common.work import Code, Done, Failed, Fold, Limits, Outcome
from rota.cpu_worker.executor import WasmExecutor
from rota.runtimes.bundles import SourceBundle, source_bundle
from rota.runtimes.programs import decode_program_end
from rota.tensors.store import TensorStore

SEED: Final = bytes(range(32))

EVAL: Final = """
const Body = (async () => {}).constructor;
export function agent(ctx) { return new Body("ctx", ctx.state)(ctx); }
"""

Deploy = Callable[..., Code]
Call = Callable[..., Outcome]


@pytest.fixture
def deploy(executor: WasmExecutor, modules: Path, tmp_path: Path) -> Deploy:
    """Deploys agent.js with files beside it; returns the code. Raises `CodeError` as a deploy does."""

    def deploy_files(source: str, more: dict[str, str] | None = None, entry: str = "agent.js") -> Code:
        folder = tmp_path / f"agent{len(list(tmp_path.iterdir()))}"
        for path, text in {entry: source, **(more or {})}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        return put_source(executor, modules, source_bundle(folder, args=["one", "two"], env={"MOOD": "good"}))

    return deploy_files


@pytest.fixture
def call(executor: WasmExecutor) -> Call:
    """Runs one task; returns its outcome."""

    def run(code: Code, payload: bytes = b"", state: bytes | None = None, **changes: Any) -> Outcome:
        fold = Fold(SEED, code, "agent/x", state, (task(payload, **changes),))
        result = executor.run(fold)
        assert result.stopped is None, result.reason
        (outcome,) = result.outcomes
        return outcome

    return run


@pytest.fixture(scope="module")
def eval_code(executor: WasmExecutor, modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Code:
    """An agent that runs its state as the body of its handler, which saves a deploy for each test."""
    path = tmp_path_factory.mktemp("eval") / "agent.js"
    path.write_text(EVAL, encoding="utf-8")
    return put_source(executor, modules, source_bundle(path), Limits(fuel=300_000_000))


@pytest.fixture
def run_body(eval_code: Code, call: Call) -> Call:
    """Runs the body of a handler; returns its outcome."""
    return lambda body, payload=b"", **changes: call(eval_code, payload, msgpack.packb(body), **changes)


@pytest.fixture
def value(run_body: Call) -> Callable[..., Any]:
    """Returns the value that the body of a handler replies."""
    return lambda body, payload=b"": value_of(run_body(body, payload))


def value_of(outcome: Outcome) -> Any:
    assert isinstance(outcome, Done), outcome
    assert outcome.result is not None
    return msgpack.unpackb(outcome.result, strict_map_key=False)


def failure(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed), outcome
    return f"{outcome.kind}: {outcome.message}"


# --- modules ----------------------------------------------------------------------------------------------------------


def test_files_import_each_other_data_and_packages(deploy: Deploy, call: Call) -> None:
    """Goal: what Node.js finds is found. Method: circular files, JSON, text, and packages of each form."""
    head = """
        import { forty } from "./lib/a.js";
        import data from "./data.json";
        import note from "./note.txt";
        import common, { four, mode } from "common";
        import { deep } from "@scope/esm/deep";
        import { args, env, readText } from "rota";
        const { late } = await import("./late.js");
    """
    more = {
        "lib/a.js": 'import { two } from "../b.js"; export const forty = 38 + two; export const one = 1;',
        "b.js": 'import { one } from "./lib/a.js"; export const two = 2; export const lazy = () => one;',
        "data.json": '{"a": [1, 2]}',
        "note.txt": "a note\n",
        "late.js": "export const late = await Promise.resolve(5);",
        "node_modules/common/package.json": '{"main": "./dist/index.js"}',
        "node_modules/common/dist/index.js": """"use strict";
            Object.defineProperty(exports, "__esModule", { value: true });
            exports.four = () => require("./more").four;
            exports.mode = process.env.NODE_ENV + process.env.MOOD;
            exports.paths = [__filename, __dirname];""",
        "node_modules/common/dist/more.js": 'module.exports = { four: require("conditional").four };',
        "node_modules/conditional/package.json": '{"exports": {".": {"import": "./no.mjs", "require": "./yes.cjs"}}}',
        "node_modules/conditional/yes.cjs": "exports.four = 4;",
        "node_modules/@scope/esm/package.json": '{"type": "module", "exports": {"./*": "./src/*.js"}}',
        "node_modules/@scope/esm/src/deep.js": "export const deep = true;",
    }
    body = "ctx.reply([forty, data, note, common.paths, four(), mode, deep, late, args, env, readText('note.txt')]);"
    paths = ["node_modules/common/dist/index.js", "node_modules/common/dist"]
    common = [paths, 4, "productiongood"]
    code = deploy(f"{head}\nexport function agent(ctx) {{ {body} }}", more)
    assert value_of(call(code)) == [
        40, {"a": [1, 2]}, "a note\n", *common, True, 5, ["one", "two"], {"MOOD": "good"}, "a note\n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('import fs from "node:fs"; export const agent = fs;', 'imports "node:fs", a module of Node.js'),
        ('import x from "./no.js"; export const agent = x;', 'agent.js imports "./no.js", which is not in what was'),
        ('import x from "./rota/host.js"; export const agent = x;', "which is not in what was deployed"),
        ("export const x = 1;", "agent.js exports no function agent, only x"),
        ("export const agent =\n  ;", "SyntaxError: unexpected token in expression: ';'\n    at agent.js:2:3"),
        ('import "./b.js"; export function agent() {}', "TypeError: at load\n    at <anonymous> (b.js:1:"),
        ("await new Promise(() => {}); export function agent() {}", "agent.js: it awaits what nothing resolves"),
        ("Promise.reject(new Error('lost')); export function agent() {}", "Error: lost"),
    ],
)  # fmt: skip
def test_a_source_that_does_not_load_says_why_at_the_deploy(deploy: Deploy, source: str, text: str) -> None:
    with pytest.raises(CodeError) as caught:
        deploy(source, {"b.js": 'throw new TypeError("at load");'})
    assert text in caught.value.message


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, "the bundle has no rota/boot.js: let `source_bundle`"),
        (
            {"rota/boot.js": b"import './lost.js';"},
            "rota/boot.js: ReferenceError: could not load module 'rota/lost.js'",
        ),
        ({"rota/boot.js": b"throw new TypeError('no');"}, "rota/boot.js: TypeError: no"),
        ({"rota/boot.js": b"export const begin = 1;"}, "rota/boot.js is of another version of Rota: deploy"),
    ],
)
def test_a_bundle_whose_own_files_are_wrong_is_refused(
    executor: WasmExecutor, modules: Path, files: dict[str, bytes], text: str
) -> None:
    """Goal: a bundle that somebody made himself does no harm."""
    runtime = javascript_runtime()
    bundle = new_bundle(runtime.digest, entry="agent.js", files={"agent.js": b"", **files})
    with pytest.raises(CodeError) as caught:
        put_source(executor, modules, SourceBundle(bundle, runtime))
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize(
    "source",
    ["export default (ctx) => ctx.reply('hi');", "module.exports = { agent(ctx) { ctx.reply('hi'); } };"],
)
def test_other_ways_to_export_a_handler(deploy: Deploy, call: Call, source: str) -> None:
    assert call(deploy(source)).result == b"hi"  # type: ignore[union-attr]


def test_typescript_is_deployed_without_its_types(deploy: Deploy, call: Call) -> None:
    pytest.importorskip("quickjs_rs", reason="pip install quickjs-rs takes the types out of TypeScript")
    source = """
        import type { Context } from "rota";
        import { add } from "./add.ts";
        enum Mood { Good = 1 }
        export function agent(ctx: Context<number>): void { ctx.reply(String(add(Mood.Good as number, 2))); }
    """
    code = deploy(source, {"add.ts": "export const add = (a: number, b: number): number => a + b;"}, "agent.ts")
    assert call(code).result == b"3"  # type: ignore[union-attr]
    for text, said in (
        ("export const add = (a: number", "but found `EOF` at add.ts:1:29"),
        ("const a: number = 1;\n\nconst b = (a;\nconst c = 2;\n", "but found `;` at add.ts:3:13"),
    ):
        with pytest.raises(CodeError) as caught:
            deploy(source, {"add.ts": text}, "agent.ts")
        assert "add.ts is no TypeScript: Expected " in caught.value.message
        assert said in caught.value.message
    with pytest.raises(CodeError, match=r"add\.ts is nested too deep"):
        deploy(source, {"add.ts": "let x: " + "(" * 5_000}, "agent.ts")


# --- values -----------------------------------------------------------------------------------------------------------


def test_values_of_messagepack_come_and_go(value: Any) -> None:
    """Goal: each value has one form in JavaScript, and goes out as it came."""
    sent = [2**63, 2**53 + 1, -(2**63), 2**53, -(2**53), 1.5, {"__proto__": 1, "b": None}, {1: [b"x"]}, "ü" * 40, b"\0"]
    packed = msgpack.packb(sent)
    assert value("ctx.reply(ctx.message.value);", payload=packed) == sent
    kinds = "ctx.reply(ctx.message.value.map((one) => typeof one === 'object' ? one.constructor.name : typeof one));"
    names = ["bigint", "bigint", "bigint", *["number"] * 3, "Object", "Map", "string", "Uint8Array"]
    assert value(kinds, payload=packed) == names


def test_what_javascript_has_more_is_written_in_one_way(value: Any) -> None:
    body = """ctx.reply([-0, 5n, new Date(0), new Set([1]), undefined, { a: undefined, b: 1 }, Object("boxed"),
        new Float32Array([1]), new ArrayBuffer(2), { toJSON: () => "own" }, "\\ud800", 1e300, 2 ** 60]);"""
    assert value(body) == [
        -0.0, 5, "1970-01-01T00:00:00.000Z", [1], None, {"b": 1}, "boxed",
        b"\0\0\x80?", b"\0\0", "own", "\ufffd", 1e300, float(2**60),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return 'x'", "error: TypeError: the handler returned string; use ctx.reply(...), and return nothing"),
        ("await null; return { a: 1 }", "error: TypeError: the handler returned Object; use ctx.reply(...)"),
        (
            "let s = 'x'; for (let i = 0; i < 25; i++) s += s; ctx.reply(s)",
            "error: RangeError: a text of 33554432 chara",
        ),
        ("ctx.state = () => 1;", "error: TypeError: a function cannot be stored or sent"),
        ("ctx.state = { a: Promise.resolve() };", "error: TypeError: a promise cannot be stored or sent: await it"),
        ("ctx.reply(2n ** 64n);", "error: RangeError: a BigInt that needs more than 64 bits"),
        ("const a = []; a.push(a); ctx.reply(a);", "error: TypeError: circular reference"),
        (
            "ctx.message.value;",
            "error: RangeError: the MessagePack value ends too early; what was sent as text is in .text, as bytes in ",
        ),
        ("ctx.message.text;", "error: TypeError: byte 0 of 2: not UTF-8"),
        (
            "const answer = await ctx.ask('a/x', ''); ctx.reply(answer.text);",
            "error: TypeError: undefined cannot be sent: give '' for nothing. (The answer to an ask comes",
        ),
        ("ctx.emit(5, 1);", "error: TypeError: tell: the target is 5, not a text"),
        ("ctx.timer('soon');", "error: TypeError: timer: soon is no number of milliseconds"),
    ],
)
def test_what_cannot_be_done_is_an_error(run_body: Call, body: str, text: str) -> None:
    assert failure(run_body(body, b"\x93\xff")).startswith(text)


def test_a_value_that_is_nested_deep_goes_around_the_host(value: Any) -> None:
    """Goal: values that the host leaves to JavaScript are the same. Method: deeper than plain_values.py goes."""
    body = "let a = 'x'; for (let i = 0; i < 100; i++) a = [a]; ctx.reply([a, 'y']);"
    found = value(body)
    assert found[1] == "y"
    for _ in range(100):
        (found,) = found[:1]
    assert found == ["x"] or found == "x"
    assert value("ctx.reply(ctx.message.value);", payload=msgpack.packb(value(body))) == value(body)


def test_text_is_converted_as_the_encoding_standard_says(value: Any) -> None:
    body = """
        const bytes = new Uint8Array([0x61, 0xff, 0xe2, 0x82, 0x62, 0xf0, 0x9f, 0x8e, 0x89, 0xed, 0xa0, 0x80]);
        const stream = new TextDecoder();
        const parts = [stream.decode(bytes.slice(5, 7), { stream: true }), stream.decode(bytes.slice(7, 9))];
        ctx.reply([new TextDecoder().decode(bytes), new TextEncoder().encode("aü🎉\\ud800"), parts]);
    """
    decoded, encoded, parts = value(body)
    assert decoded == bytes.fromhex("61ffe28262f09f8e89eda080").decode(errors="replace")
    assert encoded == "aü🎉\ufffd".encode()
    assert parts == ["", "🎉"]


# --- time, chance and order -------------------------------------------------------------------------------------------


def test_chance_is_the_tasks_own_and_time_is_its_input(deploy: Deploy, call: Call) -> None:
    """Goal: chance differs from task to task and is the same in each replay; clocks begin at now_ms."""
    body = "ctx.reply([Math.random(), crypto.randomUUID(), Date.now(), new Date(0).getTimezoneOffset()]);"
    code = deploy(f"const early = Math.random();\nexport function agent(ctx) {{ {body} }}")
    first, again, other = call(code), call(code), call(code, turn=8)
    assert first == again
    values = [msgpack.unpackb(one.result) for one in (first, other) if isinstance(one, Done)]  # type: ignore[arg-type]
    assert values[0][:2] != values[1][:2]
    assert 0 <= values[0][0] < 1
    assert values[0][1][14] == "4"
    assert abs(values[0][2] - task(b"").now_ms) < 1000
    assert values[0][3] == 0


def test_promises_and_timers_are_run_to_their_end(value: Any) -> None:
    body = """
        const seen = [];
        setTimeout(() => { seen.push("20"); ctx.reply(seen); }, 20);
        setTimeout(async () => { await null; seen.push("10"); }, 10);
        const ticks = setInterval(() => { if (seen.push("tick") > 3) clearInterval(ticks); }, 4);
        queueMicrotask(() => seen.push("micro"));
        await null;
        seen.push("main");
    """
    assert value(body) == ["micro", "main", "tick", "tick", "10", "20"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("await null; throw new RangeError('late')", "error: RangeError: late\n    at anonymous ("),
        ("Promise.reject(new TypeError('nobody'))", "error: TypeError: nobody"),
        ("Promise.reject(1).catch(() => ctx.fail('mine', 'x'))", "error: mine: x"),
        ("setTimeout(() => { throw new Error('tick') })", "error: Error: tick"),
        ("await new Promise(() => {})", "error: Error: the handler awaits what nothing resolves"),
        ("throw 'a text'", "error: Error: a text was thrown, which is no Error"),
        ("class Mine extends Error {} throw new Mine('m', { cause: new Error('c') })", "error: Mine: m\n"),
        ("try { ctx.fail('no', 'why') } catch {} ctx.reply('yes')", "error: no: why"),
        ("const f = () => f() + 1; f()", "error: RangeError: Maximum call stack size exceeded\n    at f ("),
        ("(0, eval)('('.repeat(50000) + ')'.repeat(50000))", "error: RangeError: Maximum call"),
        ("(0, eval)('`${'.repeat(50000) + '1' + '}`'.repeat(50000))", "error: RangeError: Maximum call"),
        ("new Uint8Array(7e7)", "error: InternalError: out of memory"),
        ("const a = []; for (;;) a.push(new Uint8Array(1e6).fill(1))", "error: InternalError: out of memory"),
        ("for (;;);", "fuel: out of fuel"),
        ("for (;;) console.log('x'.repeat(1000))", "fuel: out of fuel"),
        ("Uint8Array.prototype.slice = () => 1; ctx.emit('a/b', 'x')", "bad_output: output: "),
        ("Array.prototype.push = null; ctx.emit('a/b', 1)", "error: TypeError: "),
    ],
)  # fmt: skip
def test_failures_say_what_happened(run_body: Call, body: str, text: str) -> None:
    assert failure(run_body(body)).startswith(text)


@pytest.mark.parametrize(
    "spoil",
    [
        """const s = '\\\\"'.repeat(200000); JSON.stringify = () => s;""",
        "const s = '[true,true,[' + '[],'.repeat(3e5) + '[]],[]]'; JSON.stringify = () => s;",
        r'const s = `[\0"\0"\x01"\0,\0"+"[\0`.repeat(3000); JSON.stringify = () => s;',
        "JSON.stringify = () => '[['; Object.prototype.toJSON = () => '[1, 2';",
        "JSON.stringify = () => '9'.repeat(1e6);",
    ],
)
def test_a_json_that_an_agent_replaced_changes_no_answer(run_body: Call, spoil: str) -> None:
    """Goal: the host reads nothing of what an agent can put in the way of the answer but as bytes, and takes from
    JSON only what is small and well-formed. (Where it read more, these did not end, or ended by the host's bounds.)
    """
    outcome = run_body(f"{spoil} ctx.emit('a/b', [1]); ctx.reply(new Map([[1, 2]])); ctx.state = new Map();")
    assert value_of(outcome) == {1: 2}
    assert isinstance(outcome, Done)
    assert [emit.payload for emit in outcome.emits] == [b"\x91\x01"]


def test_an_answer_costs_its_bytes_and_is_bounded(run_body: Call) -> None:
    small, large = (run_body(f"ctx.reply(new Uint8Array({size}));") for size in (10_000, 1_010_000))
    assert 1_000_000 < large.fuel - small.fuel < 20_000_000
    assert failure(run_body("ctx.reply(new Uint8Array(20e6));")) == (
        "bad_output: javascript: more than 16777216 bytes returned"
    )
    outcome = run_body("ctx.emit('a/b', new Uint8Array(5000)); ctx.emit('a/b', 'x'); ctx.reply(new Uint8Array(5000));")
    assert isinstance(outcome, Done), outcome
    assert [len(emit.payload) for emit in outcome.emits] == [5000, 1]
    assert outcome.result == bytes(5000)


def test_an_agent_keeps_nothing_between_tasks(deploy: Deploy, executor: WasmExecutor) -> None:
    code = deploy(
        "let n = 0; export function agent(ctx) { n++; globalThis.m = (globalThis.m ?? 0) + 1; ctx.reply([n, m]); }"
    )
    result = executor.run(Fold(SEED, code, "agent/x", None, (task(b""), task(b""))))
    assert [outcome.result for outcome in result.outcomes] == [msgpack.packb([1, 1])] * 2  # type: ignore[union-attr]
    assert len({outcome.fuel for outcome in result.outcomes}) == 1


def test_the_console_writes_to_the_log_whatever_happens_next(run_body: Call) -> None:
    body = """
        console.log("%s is %d", "x", 5, { a: [1, "t"], m: new Map([["k", 1n]]) });
        console.error(null, undefined, () => 1, class A {}, [new Date(0)], new Uint8Array(2));
        const loop = {}; loop.self = loop; console.log(loop, { get bad() { throw new TypeError(); } });
        console.group("in"); console.log("a\\nb"); console.groupEnd(); console.assert(false, "not so");
        throw new RangeError("end");
    """
    outcome = run_body(body)
    assert failure(outcome).startswith("error: RangeError: end")
    assert outcome.log == (
        'x is 5 { a: [1, "t"], m: Map(1) {"k" => 1n} }',
        "null undefined [function (anonymous)] [class A] [1970-01-01T00:00:00.000Z] Uint8Array(2) [0, 0]",
        "{ self: [circular] } { bad: [throws TypeError] }",
        "in", "  a", "  b", "Assertion failed: not so",
    )  # fmt: skip


def test_a_log_of_millions_of_lines_is_cut(run_body: Call) -> None:
    outcome = run_body("console.log('a\\n'.repeat(3e5)); console.log('x'.repeat(3e5)); ctx.reply('done');")
    assert isinstance(outcome, Done), outcome
    assert outcome.log == ("a",) * LOG_LINES_MAX


def test_tensors_are_read_made_and_passed_on(run_body: Call, tensors: TensorStore) -> None:
    given = numpy.arange(6, dtype="float32").reshape(2, 3)
    ref = tensors.put(given)
    body = """
        const [first] = ctx.message.tensors;
        const sums = [0, 1, 2].map((column) => first.array()[column] + first.array()[column + 3]);
        const made = ctx.tensor("float32", [3], sums);
        const wide = ctx.tensor("int64", [2], [-1n, 2n ** 40n]);
        ctx.emit("next/x", first.read(4, 8), { tensors: [made, first] });
        const facts = [first.dtype, first.shape, first.length, first.digest];
        ctx.reply([...facts, first.read(20, 99), ...made.array()], { tensors: [wide] });
    """
    outcome = run_body(body, tensors=(ref,))
    assert value_of(outcome) == ["float32", [2, 3], 6, ref.digest.hex(), given.tobytes()[20:], 3, 5, 7]
    assert isinstance(outcome, Done)
    (emit,) = outcome.emits
    assert emit.payload == given.tobytes()[4:12]
    assert tensors.open(emit.tensors[0]).tolist() == [3.0, 5.0, 7.0]
    assert emit.tensors[1] == ref
    assert tensors.open(outcome.tensors[0]).tolist() == [-1, 2**40]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("ctx.tensor('float32', [3], [1, 2])", "RangeError: tensor: float32 of shape [3] and 8 bytes: dtype, "),
        ("ctx.tensor('text', [1], new Uint8Array(1))", "RangeError: tensor: text of shape [1] and 1 bytes: dtype, "),
        ("ctx.tensor('float32', [1], 'a')", "TypeError: tensor: the data are a, not a typed array or"),
        ("ctx.reply('', { tensors: ['a'] })", "TypeError: a is no tensor"),
        ("new ctx.message.tensors[0].constructor(-(2 ** 53), '', 'int8', [9]).read(0)", "RangeError: tensor -9007"),
        ("ctx.message.tensors[0].read(25)", "RangeError: tensor 0: the offset is behind its end"),
    ],
)  # fmt: skip
def test_what_is_no_tensor_is_an_error(run_body: Call, tensors: TensorStore, body: str, text: str) -> None:
    ref = tensors.put(numpy.arange(6, dtype="float32"))
    assert failure(run_body(body, tensors=(ref,))).startswith(f"error: {text}")


# --- programs as data -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(executor: WasmExecutor, modules: Path) -> Code:
    return put_source(executor, modules, source_bundle(SDK / "javascript" / "programs" / "program.js"))


def reply(**changes: Any) -> dict[str, Any]:
    return {"stdout": "", "stderr": "", "value": None, "error": None, "exit": 0, **changes}


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ({"source": "console.log(args, stdin); console.error('bad'); value.n * 7", "args": ["a"], "stdin": b"in",
          "value": {"n": 6}}, {"stdout": '["a"] in\n', "stderr": "bad\n", "value": 42}),
        ({"source": "import h from './h.js'; export default h", "files": {"h.js": "export default 1"}}, {"value": 1}),
        ({"source": "require('./h.cjs').h", "files": {"h.cjs": b"exports.h = 2;"}}, {"value": 2}),
        ({"source": "await null; process.stdout.write('x'); () => 1"},
         {"stdout": "x", "value": "[function (anonymous)]"}),
        ({"source": "console.log(1); exit(3); console.log(2)"}, {"stdout": "1\n", "exit": 3}),
        ({"source": "setTimeout(() => { console.log('late'); process.exit(4); }, 5); null"},
         {"stdout": "late\n", "exit": 4}),
    ],
)  # fmt: skip
def test_programs_run_and_reply_what_came_of_them(
    programs: Code, call: Call, program: dict[str, Any], expected: dict[str, Any]
) -> None:
    outcome = call(programs, msgpack.packb(program))
    assert isinstance(outcome, Done), outcome
    assert msgpack.unpackb(outcome.result or b"") == reply(**expected)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("function f() { throw new TypeError('no') }\nf()", "TypeError", "no"),
        ("not a program", "SyntaxError", "expecting ';'"),
        ("Promise.reject(new RangeError('lost')); 5", "RangeError", "lost"),
        ("await new Promise(() => {})", "Error", "the program awaits what nothing resolves"),
        ("setTimeout(() => { throw new Error('t') })", "Error", "t"),
        ("const f = () => f() + 1; f()", "RangeError", "Maximum call stack size exceeded"),
        ("throw 'text'", "Error", "text"),
    ],
)
def test_an_error_of_a_program_is_a_value(programs: Code, call: Call, source: str, kind: str, message: str) -> None:
    outcome = call(programs, source.encode())
    assert isinstance(outcome, Done), outcome
    found = msgpack.unpackb(outcome.result or b"")
    assert (found["error"]["type"], found["error"]["message"], found["exit"]) == (kind, message, 1)
    assert found["error"]["traceback"].startswith(f"{kind}: {message}")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"\xff\xff", "the payload is neither a MessagePack map nor a program in UTF-8"),
        (msgpack.packb({"no": 1}), 'unknown field "no"; known: source, args, files, stdin, value, name'),
        (msgpack.packb({"source": 1}), "source: not a str"),
        (msgpack.packb({"source": "1", "args": [1]}), "args: not an array of str"),
        (msgpack.packb({"source": "1", "files": {"a": 1}}), "files[a]: neither bin nor str"),
    ],
)  # fmt: skip
def test_what_is_no_program_is_refused_with_the_field(programs: Code, call: Call, payload: bytes, text: str) -> None:
    assert failure(call(programs, payload)) == f"error: bad_program: {text}"


def test_a_value_with_keys_that_python_lacks_is_read_as_pairs(programs: Code, call: Call) -> None:
    outcome = call(programs, b"console.log('seen'); new Map([[{ a: 1 }, 2], ['b', 3]])")
    assert isinstance(outcome, Done), outcome
    assert outcome.result is not None
    end = decode_program_end(outcome.result)
    assert (end.stdout, end.value, end.error) == ("seen\n", [({"a": 1}, 2), ("b", 3)], None)
