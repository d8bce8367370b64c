"""The broker's events for a watcher: in order, with gaps reported. PURE.

Events are advisory: a slow watcher loses some. Their numbers are dense per boot of the broker over all topics, so gaps
show only to a subscriber of all topics; therefore a watcher subscribes to all and filters here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rota.common.errors import BadTarget
from rota.common.events import TOPIC_OF, TOPICS, Watching
from rota.common.messages import Event
from rota.common.wire import decode


class Missed(NamedTuple):
    """Events were lost here: how many, or None if the broker was restarted and the number is unknown."""

    boot: int
    events: int | None


class EventFilter:
    """Turns frames of the event socket into events of the wanted topics and the gaps between them."""

    def __init__(self, topics: Iterable[str]) -> None:
        self._topics = tuple(topics) or TOPICS
        for topic in self._topics:
            if topic not in TOPICS:
                raise BadTarget(f"{topic!r} is not a topic of events; there are {', '.join(TOPICS)}", topic=topic)
        self.is_live = False
        self._boot = 0
        self._last = 0

    def begin_at(self, boot: int, event: int) -> None:
        """Skip events that an answer already includes; lost events after it are a gap."""
        self._boot, self._last = boot, event

    def receive(self, frame: bytes) -> tuple[Event | Missed, ...]:
        """Return the content of a frame: nothing, an event, or a gap and an event.

        `is_live` is true once the subscription is active.
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
