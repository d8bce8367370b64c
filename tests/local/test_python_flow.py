"""Flows in Python in a lane of this process: they ask agents and each other, wait, and give one digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from runtime_kit import python_runtime

from rota import local

ORDER = """
import asyncio
from rota.agent import AskFailed

async def flow(ctx):
    desk, text, part = await asyncio.gather(
        ctx.ask("desk", "wait"), ctx.ask("echo/a", "x"), ctx.ask("part", [ctx.message.text])
    )
    try:
        await ctx.ask("nobody")
    except AskFailed as failed:
        refused = failed.kind
    try:
        await ctx.ask("desk", "never", deadline_ms=500)
    except AskFailed as failed:
        late = failed.kind
    await ctx.sleep(1_000)
    return [desk.text, text.text, part.value, refused, late]
"""
PART = """
async def flow(ctx):
    answers = [await ctx.ask("echo/b", word) for word in (*ctx.message.value, "two")]
    ctx.emit("desk", "open")
    return [answer.text for answer in answers]
"""
DESK = """
def agent(ctx):
    if ctx.message.kind == "tell":
        ctx.settle(ctx.state.pop(0), "at last")
    else:
        ctx.state = [*(ctx.state or []), ctx.postpone()]
"""
ECHO = "def agent(ctx): ctx.reply(ctx.message.payload)\n"


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """The sources by the names that they are deployed under."""
    python_runtime()
    found = {}
    for name, text in (("order", ORDER), ("part", PART), ("desk", DESK), ("echo", ECHO)):
        found[name] = tmp_path / f"{name}.py"
        found[name].write_text(text, encoding="utf-8")
    return found


def test_a_flow_asks_agents_and_flows(
    rota_lane_factory: Callable[..., local.LocalLane], sources: dict[str, Path]
) -> None:
    """Goal: a call waits for answers that come at once, later, never and not at all, and the digest is that of any
    schedule. Method: two calls that interleave, in lanes of two windows.
    """
    digests = []
    for window in (1, 8):
        lane = rota_lane_factory(window=window)
        for name, path in sources.items():
            lane.deploy(name, path)
        calls = lane.submit_many("order", ["one", "uno"])
        lane.run_for(10_000)
        found = [call.value for call in calls.results()]
        assert found == [["at last", "x", [first, "two"], "unknown_agent", "expired"] for first in ("one", "uno")]
        digests.append(lane.digest)
    assert digests[0] == digests[1]
