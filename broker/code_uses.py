"""Where code is still needed: the names bound to it, and the unfinished tasks that were issued with it. PURE.

For whoever removes code, such as `rota model rm`: through a query while a broker runs, else from the run file.
"""

from __future__ import annotations

from typing import Any

from rota.broker.lane import Lane
from rota.broker.world import World


def code_uses(world: World, digest: bytes) -> list[dict[str, Any]]:
    """Return a map for each lane that needs the code with this digest: `lane`, `names` bound to it, `tasks` issued."""
    found = [
        {"lane": lane.name, "names": _names(lane, digest), "tasks": _issued(lane, digest)}
        for lane in world.lanes.values()
    ]
    return [use for use in found if use["names"] or use["tasks"]]


def _names(lane: Lane, digest: bytes) -> list[str]:
    return sorted([name for name, code in lane.deploys.items() if code.digest == digest])


def _issued(lane: Lane, digest: bytes) -> int:
    """Return how many tasks are bound to the code and have no outcome; a window bounds the search."""
    line = lane.line_by_turn.values()
    return sum(task.outcome is None and task.code is not None and task.code.digest == digest for task in line)
