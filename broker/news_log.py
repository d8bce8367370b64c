"""Lines of the broker's log for what operators look for there: workers that come and go. PURE.

They are made of events, so a line says what watchers are told, and only once it is durable.
"""

from __future__ import annotations

from typing import NamedTuple

from rota.common.messages import Event


class Line(NamedTuple):
    """A line of the log, and whether it is a warning."""

    text: str
    is_warning: bool = False


def line_of(event: Event) -> Line | None:
    """Return the line for an event, None for those that are only for watchers."""
    fields = event.fields
    if event.topic != "worker":
        return None
    name = fields.get("worker", "?")
    if fields.get("joined"):
        return Line(f"worker {name} joined{_about(fields.get('fingerprint'))}")
    if fields.get("left"):
        if "held" not in fields:  # who says goodbye holds nothing
            return Line(f"worker {name} left: {fields.get('reason', '')}")
        again = f"; {fields['held']} tasks that it held run again" if fields["held"] else ""
        return Line(f"worker {name} is lost: {fields.get('reason', '')}{again}", is_warning=True)
    if fields.get("draining"):
        return Line(f"worker {name} takes no more and leaves when it is done")
    return None


def _about(fingerprint: object) -> str:
    """What of a fingerprint shows in results: where models run, and why not elsewhere."""
    if not isinstance(fingerprint, dict) or "provider" not in fingerprint:
        return ""
    reason = fingerprint.get("reason")
    return f", models on {fingerprint['provider']}" + (f" ({reason})" if reason else "")
