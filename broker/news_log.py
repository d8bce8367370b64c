"""Lines of the broker's log for events that concern operators: workers that join and leave. PURE.

They are made of events, so a line says what watchers are told, and only when it is durable.
"""

from __future__ import annotations

from typing import NamedTuple

from rota.common.events import WorkerDraining, WorkerJoined, WorkerLeft
from rota.common.messages import Event


class LogLine(NamedTuple):
    """A line of the log, and whether it is a warning."""

    text: str
    is_warning: bool = False


def line_of(event: Event) -> LogLine | None:
    """Return the log line for an event; None for events that are only for watchers."""
    match event.what:
        case WorkerJoined(name, _, facts):
            return LogLine(f"worker {name} joined{_about(dict(facts))}")
        case WorkerLeft(name, reason, None):  # a worker that says goodbye holds nothing
            return LogLine(f"worker {name} left: {reason}")
        case WorkerLeft(name, reason, held):
            again = f"; {held} tasks that it held run again" if held else ""
            return LogLine(f"worker {name} is lost: {reason}{again}", is_warning=True)
        case WorkerDraining(name):
            return LogLine(f"worker {name} takes no more and leaves when it is done")
        case _:
            return None


def _about(facts: dict[str, str]) -> str:
    """Return the part of a fingerprint that affects results: where models run, and why not elsewhere."""
    if "provider" not in facts:
        return ""
    reason = facts.get("reason")
    return f", models on {facts['provider']}" + (f" ({reason})" if reason else "")
