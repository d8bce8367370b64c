"""Where code is still needed: the names bound to it, unfinished tasks issued with it, and calls that go on. PURE.

For whoever removes code: compaction and archives, and `rota model rm` through a query while a broker runs, else from
the run file.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from rota.broker.lane import Lane
from rota.broker.world import World
from rota.common.work import Code


def codes_in_use(world: World) -> dict[Code, None]:
    """Return all code that a lane binds, that a task in a line was issued with, or that a call began with."""
    return dict.fromkeys(chain.from_iterable(_codes(lane) for lane in world.lanes.values()))


def code_uses(world: World, digest: bytes) -> list[dict[str, Any]]:
    """Return a map for each lane that needs the code with this digest: `lane`, `names` bound to it, `tasks` issued, and
    `calls` that have not ended.
    """
    found = [
        {
            "lane": lane.name,
            "names": _names(lane, digest),
            "tasks": _issued(lane, digest),
            "calls": sum(code.digest == digest for code in _of_calls(lane)),
        }
        for lane in world.lanes.values()
    ]
    return [use for use in found if use["names"] or use["tasks"] or use["calls"]]


def _codes(lane: Lane) -> Iterator[Code]:
    yield from lane.deploys.values()
    yield from [task.code for task in lane.line() if task.code is not None]
    yield from _of_calls(lane)


def _of_calls(lane: Lane) -> list[Code]:
    """Return the code of each call that has not ended: it is bound when the call begins, and a deploy changes nothing.

    What is left of an ended one is in the line.
    """
    return [agent.call.code for agent in lane.agents.values() if agent.call is not None]


def _names(lane: Lane, digest: bytes) -> list[str]:
    return sorted([name for name, code in lane.deploys.items() if code.digest == digest])


def _issued(lane: Lane, digest: bytes) -> int:
    """Return how many tasks are bound to the code and have no outcome; a window bounds the search."""
    line = lane.line_by_turn.values()
    return sum(task.outcome is None and task.code is not None and task.code.digest == digest for task in line)
