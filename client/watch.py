"""The events of the broker as a watcher sees them: in order, with the gaps named. PURE.

Events are advisory: a slow watcher loses some. They are numbered densely per boot of the broker, over all topics, so
whoever takes in all of them knows what is missing. That is why a watcher subscribes to every topic and picks here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rota.common.errors import BadTarget
from rota.common.events import TOPIC_OF, TOPICS, Watching
from rota.common.messages import Event
from rota.common.wire import decode


class Missed(NamedTuple):
    """Events were lost here: so many, or None if the broker was started anew and nobody can say."""

    boot: int
    events: int | None


class Watch:
    """Turns frames of the event socket into events of the wanted topics and the gaps between them."""

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics = tuple(topics) or TOPICS
        for topic in self._topics:
            if topic not in TOPICS:
                raise BadTarget(f"{topic!r} is no topic of events; there are {', '.join(TOPICS)}", topic=topic)
        self.is_live = False
        self._boot = 0
        self._last = 0

    def begin_at(self, boot: int, event: int) -> None:
        """Give nothing of what an answer takes account of; what follows it and was lost is a gap."""
        self._boot, self._last = boot, event

    def receive(self, frame: bytes) -> tuple[Event | Missed, ...]:
        """Return what a frame tells: nothing, an event, or a gap before it.

        `is_live` from the moment when the subscription is in force.
        """
        event = decode(frame, frozenset({Event}))
        assert isinstance(event, Event)
        self.is_live = self.is_live or type(event.what) is Watching
        if (event.boot, event.event) <= (self._boot, self._last):
            return ()
        gap = self._gap_before(event)
        self._boot, self._last = event.boot, event.event
        shown = (event,) if TOPIC_OF.get(type(event.what)) in self._topics else ()
        return shown if gap is None else (gap, *shown)

    def _gap_before(self, event: Event) -> Missed | None:
        if not self._boot:
            return None
        if event.boot != self._boot:
            return Missed(event.boot, None)
        missed = event.event - self._last - 1
        return Missed(event.boot, missed) if missed > 0 else None
