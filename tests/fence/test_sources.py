"""Sources that attack: what Python and JavaScript reach of the host, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attacks
import pytest
from runtime_kit import javascript_runtime, python_runtime
from sandbox_kit import World, make_task

from rota.broker.modules import ModuleStore
from rota.common.bundle import encode_bundle
from rota.common.digests import digest
from rota.common.work import SOURCE, Code, Done, Failed, Fold, Limits, Outcome
from rota.cpu_worker.tensor_access import StoreTensors
from rota.runtimes.bundles import source_bundle
from rota.runtimes.content import runtime_bytes
from rota.tensors.store import TensorStore

SEED = bytes(range(32))

PYTHON = """
import os, sys
seen = []

def agent(ctx):
    what = ctx.message.text
    seen.append(what)
    ctx.log("began " + what)
    if what == "spin":
        while True: pass
    if what == "deep":
        def down(n): return down(n + 1) + 1
        down(0)
    if what == "memory":
        held = []
        while True: held.append(bytearray(1 << 20))
    if what == "print":
        while True: print("x" * 1000)
    if what == "exit":
        sys.exit(3)
    if what == "abort":
        os.abort()
    if what == "kept":
        ctx.reply(str(len(seen)))
        return
    if what == "host":
        found = [repr(dict(os.environ)), repr(sys.argv), os.getcwd(), repr(sorted(os.listdir("/")))]
        attempts = (
            lambda: open("/etc/passwd"), lambda: open("../../etc/passwd"), lambda: os.system("id"),
            lambda: __import__("subprocess").run(["id"]), lambda: __import__("ctypes").CDLL(None),
            lambda: __import__("socket").create_connection(("127.0.0.1", 1)),
            lambda: open("/rota/agent/boot.py", "w"),
        )
        for attempt in attempts:
            try:
                attempt()
                found.append("reached")
            except BaseException as error:
                found.append(type(error).__name__)
        ctx.reply("\\n".join(found))
        return
    if what == "large":
        ctx.reply(b"z" * (3 << 20))
        return
    ctx.reply(what)
"""

JAVASCRIPT = """
let seen = 0;
export function agent(ctx) {
  const what = ctx.message.text;
  seen++;
  ctx.log("began " + what);
  if (what === "spin") for (;;) {}
  if (what === "deep") { const down = (n) => down(n + 1) + 1; down(0); }
  if (what === "memory") { const held = []; for (;;) held.push(new Uint8Array(1 << 20)); }
  if (what === "print") for (;;) console.log("x".repeat(1000));
  if (what === "kept") { ctx.reply(String(seen)); Object.prototype.toString = () => "changed"; return; }
  if (what === "host") {
    const names = ["std", "os", "process", "require", "Deno", "fetch", "WebAssembly", "SharedArrayBuffer", "Worker"];
    ctx.reply(names.map((name) => typeof globalThis[name]).join());
    return;
  }
  if (what === "large") { ctx.reply(new Uint8Array(3 << 20).fill(122)); return; }
  ctx.reply(what);
}
"""


@pytest.fixture(params=["python", "javascript"])
def ask(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Any:
    """Runs one message through the source and returns its outcome; a neighbour gives the same before and after."""
    runtime = {"python": python_runtime, "javascript": javascript_runtime}[request.param]()
    file = tmp_path / ("agent.py" if request.param == "python" else "agent.js")
    file.write_text(PYTHON if request.param == "python" else JAVASCRIPT)
    bundle = encode_bundle(source_bundle(file).bundle)
    store = ModuleStore(world.modules_dir)
    for content in (bundle, runtime_bytes(runtime)):
        store.keep(digest(content), content)
    executor = world.executor(tensors=StoreTensors(TensorStore(tmp_path / "tensors")))
    neighbour = world.agent(attacks.NEIGHBOUR)
    before = attacks.run(executor, neighbour, b"")

    def ask_it(what: str, **limits: int) -> Outcome:
        code = Code(digest(bundle), SOURCE, limits=Limits(**{"fuel": 200_000_000, "result_bytes": 16 << 20, **limits}))
        result = executor.run(Fold(SEED, code, "a/b", None, (make_task(what.encode()),)))
        assert result.stopped is None, result.reason
        return result.outcomes[0]

    ask_it.language = request.param  # type: ignore[attr-defined]
    yield ask_it
    assert attacks.run(executor, neighbour, b"") == before


def test_ways_to_end(ask: Callable[..., Outcome]) -> None:
    """Goal: each end is the language's own error or a derived failure, with the log before it; the next task sees
    nothing of it. Method: one way after the other in one worker, twice each.
    """
    is_python = ask.language == "python"  # type: ignore[attr-defined]
    ends: dict[str, tuple[str, str]] = {
        "spin": ("fuel", "out of fuel"),
        "print": ("fuel", "out of fuel"),
        "deep": ("error", "RecursionError: " if is_python else "RangeError: "),
        "memory": ("error", "MemoryError" if is_python else "InternalError: out of memory"),
    }
    for what, (kind, message) in ends.items():
        first, second = ask(what), ask(what)
        assert first == second
        assert isinstance(first, Failed), what
        assert first.kind == kind, (what, first)
        assert message in first.message, (what, first)
        assert first.log[0] == f"began {what}", first.log
    assert isinstance(ask("hello"), Done)


def test_nothing_is_kept(ask: Callable[..., Outcome]) -> None:
    """Goal: no task sees another, though all begin in one image. Method: a global that counts, thrice."""
    assert [ask("kept").result for _ in range(3)] == [b"1"] * 3  # type: ignore[union-attr]


def test_the_host_is_out_of_reach(ask: Callable[..., Outcome]) -> None:
    """Goal: the language's ways to the host lead nowhere. Method: what its library offers for that."""
    outcome = ask("host")
    assert isinstance(outcome, Done), outcome
    assert outcome.result is not None
    found = outcome.result.decode()
    assert "reached" not in found
    if ask.language == "python":  # type: ignore[attr-defined]
        lines = found.split("\n")
        assert "PATH" not in lines[0]
        assert "usr" not in lines[3]
    else:
        assert "object" not in found, found
    large = ask("large")
    assert isinstance(large, Done)
    assert (large.result, large.tensors[-1].shape) == (b"", (3 << 20,))
