"""Flows in Rust and C on the real executor: what the example trip leaves out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
from flow_kit import FlowCall
from sandbox_kit import make_task
from sdk_languages import SDK

from rota.common.work import AGENT, Fold
from rota.cpu_worker.tensor_access import StoreTensors
from rota.tensors.store import TensorStore

Begin = Callable[..., FlowCall]

KEEPER: Final = """
#define ROTA_FLOW
#include "rota.h"

enum { PARTS = 12 };

static rota_bytes kept[PARTS];
static rota_value whole;
static uint32_t count;

/* Memory of the step, full of something else. */
static void fill(uint32_t size) { __builtin_memset(rota_new(size), 0xaa, size); }

static void flow(rota_context *ctx) {
    if (ctx->message.kind == ROTA_FAILURE) rota_fail_as_asked(ctx);
    fill(50000);
    if (ctx->message.kind == ROTA_TELL) whole = rota_keep(rota_bin(ctx->message.payload));
    else kept[count++] = rota_keep(ctx->message.payload);
    fill(150000);
    if (count == PARTS) rota_reply(ROTA_LIST(whole, rota_join(kept, PARTS)));
    else {
        rota_ask("a/b", (int64_t)__builtin_wasm_memory_size(0));
        rota_wait();
    }
}
"""


HANDING: Final = """
#include "rota.h"
static void agent(rota_context *ctx) { rota_hand_on("b/c", ctx->message.payload, .deadline_ms = 500); }
"""


@pytest.fixture(params=[8, 0], ids=["kept", "again"])
def live_calls(request: pytest.FixtureRequest) -> Any:
    """How many guests a worker keeps: with none, each message runs all those before it again."""
    return request.param


@pytest.fixture
def begin(world: Any, tmp_path: Path, live_calls: int) -> Begin:
    """Begins a call of the example waits in Rust; tensors go into a store."""
    code = world.deploy((SDK / "rust" / "examples" / "waits.wasm").read_bytes(), AGENT, flow=True)
    executor = world.executor(tensors=StoreTensors(TensorStore(tmp_path / "tensors")), live_calls=live_calls)
    return lambda what, **fields: FlowCall(executor, code, what.encode(), **fields)


def test_join_all_is_in_order(begin: Begin) -> None:
    """Goal: what each gave, a failure too. Method: answers from the last to the first, the second a failure."""
    call = begin("all").answer(b"third", 2).fail("error", "full: no", 1).answer(b"first")
    assert call.value == ["first", "error: full: no", "third"]


def test_as_completed_is_by_turn(begin: Begin) -> None:
    """Goal: each as it comes. Method: answers in another order than the asks, and what the flow logs at each."""
    call = begin("as they come").answer(b"", 1).answer(b"", 1).answer(b"")
    assert (call.value, [outcome.log for outcome in call.outcomes[1:]]) == (
        [1, 2, 0],
        [("place 1",), ("place 2",), ("place 0",)],
    )


def test_where_it_waits(begin: Begin) -> None:
    """Goal: the lines of the asks, of many the first and how many more. Method: three on one line; two on others."""
    assert begin("all").waits == begin("all").answer().waits
    first = begin("all").waits
    assert first is not None
    assert first.startswith("waits.rs:")
    assert "," not in first


def test_generate(begin: Begin) -> None:
    """Goal: the map of the answer. Method: what it asks, and an answer of a model."""
    call = begin("generate")
    assert call.sent == [("ask", "model:smollm2")]
    assert msgpack.unpackb(call.emits[0].payload) == {"generate": {"prompt": "Once", "max_tokens": 4}}
    assert call.answer(msgpack.packb({"generate": {"text": "upon"}})).result == b"upon"


def test_an_answer_is_given_on(begin: Begin, tensor: Any) -> None:
    """Goal: an answer that is returned goes on as it came. Method: one with a tensor, behind a message with one."""
    own, other = tensor(b"own"), tensor(b"other")
    call = begin("give on", tensors=(own,)).answer(b"\xff", tensors=(other,))
    assert (call.result, call.last.tensors) == (b"\xff", (other,))  # type: ignore[union-attr]


def test_a_reply_waits_for_the_end(begin: Begin) -> None:
    """Goal: reply says the answer whenever it is called. Method: a flow that replies, waits, and returns nothing."""
    call = begin("reply early")
    assert call.waits is not None
    assert call.wake().result == b"early"


def test_answers_are_kept_until_they_are_awaited(begin: Begin) -> None:
    """Goal: an answer that comes early is kept, one that nobody awaits is not. Method: both, then a timer."""
    call = begin("keep").answer(b"kept").answer(b"dropped")
    assert call.waits is not None
    assert call.wake().result == b"kept"


def test_the_clock_never_goes_back(begin: Begin) -> None:
    """Goal: a delay counts from the latest time of the call. Method: a deadline after a timer, then a reply from before
    it.
    """
    call = begin("clock").wake().answer()
    assert call.emits[0].payload == msgpack.packb(1_000)
    assert call.emits[0].delay_ms == 1_500


def test_tensors_of_a_step(begin: Begin, tensor: Any) -> None:
    """Goal: a tensor that a step makes can be read and replied beside one that came earlier. Method: one of each."""
    given = tensor(b"given")
    call = begin("tensor", tensors=(tensor(b"first"),)).answer(tensors=(given,))
    made, again = call.last.tensors  # type: ignore[union-attr]
    assert (call.value, made.shape, again) == ([7, 8], (2,), given)


@pytest.mark.parametrize(
    ("what", "failure"),
    [
        ("nothing", "error: waits_for_nothing: no ask and no timer of this call is on its way"),
        ("old tensor", "error: old_tensor: the call has waited since it made this tensor"),
        ("unknown", "error: unknown: there is no such way"),
    ],
)
def test_how_it_fails(begin: Begin, what: str, failure: str) -> None:
    """Goal: each mistake has its text. Method: a wait that nothing ends, a tensor of an earlier step, fail."""
    call = begin(what)
    assert (call.wake() if call.waiting else call).failure.startswith(failure)


def test_memory_that_is_kept_in_c(world: Any, tmp_path: Path, live_calls: int) -> None:
    """Goal: rota_keep lasts until the call ends, in any sizes, and a step's memory is used again. Method: parts from
    nothing to several pages, each between memory of the step that is overwritten, and how large the memory is.
    """
    pytest.importorskip("ziglang", reason="the compiler is in the extra `dev`")
    code = world.deploy(_compiled(tmp_path, KEEPER), AGENT, flow=True)
    parts = [bytes([65 + place]) * size for place, size in enumerate([0, 1, 7, 8, 65_520, 65_521, 65_536, 200_000, 3])]
    parts += [b"x" * 40_000] * 3
    call = FlowCall(world.executor(live_calls=live_calls), code, b"whole" * 20_000, kind="tell")
    for part in parts[:-1]:
        call.answer(part)
    pages = msgpack.unpackb(call.emits[0].payload)
    assert call.answer(parts[-1]).value == [b"whole" * 20_000, b"".join(parts)]
    assert 14 < pages < 26  # 13 for what is kept and 6 for a step, and what is lost at ends of pages


def test_a_deadline_of_what_is_handed_on_in_c(world: Any, tmp_path: Path) -> None:
    """Goal: handing on takes a deadline as asking does. Method: an agent that hands everything on with one."""
    pytest.importorskip("ziglang", reason="the compiler is in the extra `dev`")
    code = world.deploy(_compiled(tmp_path, HANDING), AGENT)
    (outcome,) = world.executor().run(Fold(bytes(32), code, "desk/a", None, (make_task(b"it"),))).outcomes
    assert outcome.waits == ""
    (emit,) = outcome.emits
    assert (emit.target, emit.payload, emit.kind, emit.delay_ms, emit.answers) == ("b/c", b"it", "ask", 500, 1)


def _compiled(folder: Path, text: str) -> bytes:
    (folder / "keeper.c").write_text(text, encoding="utf-8")
    words = [
        sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-freestanding", "-std=c11", "-Os", "-nostdlib",
        "-Wl,--no-entry", "-Wl,-z,stack-size=65536", "-I", str(SDK / "c"), "keeper.c", "-o", "keeper.wasm",
    ]  # fmt: skip
    cache = str(SDK.parent / ".cache" / "zig")
    environment = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, "PATH": "/usr/bin:/bin"}
    subprocess.run(words, cwd=folder, env=environment, check=True, timeout=120)
    return (folder / "keeper.wasm").read_bytes()
