"""The text that running tasks have generated so far, for those who follow it. PURE.

Advisory and volatile: nothing of it is recorded, and the result of a task is what counts. A piece replaces everything
from its offset on, since a task that runs again begins at 0 again. What is kept is bounded: of a task that generates
more than STREAM_CHARS_MAX characters, or while all together have STREAMS_CHARS_MAX, later pieces are published and not
kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rota.broker.tasks import Task
from rota.common.events import TextStreamed
from rota.common.limits import STREAM_CHARS_MAX, STREAMS_CHARS_MAX, STREAMS_FOLLOWED_MAX

_PARTS_MAX: Final = 1_024  # pieces of one text, before they are joined


class _Text:
    """The beginning of a task's text, in parts, so that adding a piece does not copy it."""

    __slots__ = ("chars", "parts", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.parts: list[str] = []
        self.chars = 0

    def cut(self, chars: int) -> None:
        """Keep this many characters from the start."""
        self.parts = [self.whole()[:chars]]
        self.chars = chars

    def add(self, text: str) -> None:
        self.parts.append(text)
        self.chars += len(text)
        if len(self.parts) > _PARTS_MAX:
            self.parts = [self.whole()]

    def whole(self) -> str:
        return "".join(self.parts)


class Streams:
    """What running tasks have generated, and which of them somebody follows."""

    def __init__(self) -> None:
        self._texts: dict[int, _Text] = {}  # by seq
        self._chars = 0
        self._followed: dict[int, None] = {}  # the one that was subscribed to last is last

    def add(self, task: Task, offset: int, text: str) -> TextStreamed | None:
        """Keep a piece; return the event to publish, None if nobody follows the task."""
        kept = self._texts.get(task.seq)
        if kept is None:
            kept = self._texts[task.seq] = _Text(task)
        if offset < kept.chars:
            self._chars -= kept.chars - offset
            kept.cut(offset)
        fits = kept.chars + len(text) <= STREAM_CHARS_MAX and self._chars + len(text) <= STREAMS_CHARS_MAX
        if offset == kept.chars and fits:  # else it would leave a hole
            kept.add(text)
            self._chars += len(text)
        return TextStreamed(task.seq, task.turn, offset, text) if task.seq in self._followed else None

    def follow(self, seq: int) -> TextStreamed | None:
        """Publish a task's text from now on; return the event with its text so far, None without one."""
        self._followed.pop(seq, None)
        self._followed[seq] = None
        if len(self._followed) > STREAMS_FOLLOWED_MAX:
            del self._followed[next(iter(self._followed))]
        kept = self._texts.get(seq)
        return None if kept is None else TextStreamed(seq, kept.task.turn, 0, kept.whole())

    def unfollow(self, seq: int) -> None:
        """Note that nobody follows a task any more."""
        self._followed.pop(seq, None)

    def end(self, finished: Iterable[Task]) -> None:
        """Forget the texts of tasks that have their outcomes."""
        for task in finished if self._texts else ():
            kept = self._texts.pop(task.seq, None)
            self._chars -= 0 if kept is None else kept.chars

    def lane_of(self, seq: int) -> str:
        """Return the lane of a task with a text."""
        return self._texts[seq].task.run.lane

    def check_invariants(self) -> None:
        """Assert that the counts are right, and that only unfinished tasks have a text."""
        assert self._chars == sum(kept.chars for kept in self._texts.values()) <= STREAMS_CHARS_MAX
        for kept in self._texts.values():
            assert kept.chars == len(kept.whole()) <= STREAM_CHARS_MAX
            assert kept.task.outcome is None, f"task {kept.task.seq} has an outcome, and its text is still kept"
        assert len(self._followed) <= STREAMS_FOLLOWED_MAX
