"""The texts of running tasks that a client follows. PURE.

The broker publishes what a generate task has produced so far under a topic of the task (`TextStreamed`); to a new
subscriber it sends the text from the start. Pieces are advisory: one that is lost makes the client subscribe again,
and what has not come when the result is there is read from the result. So what is shown is always the start of the
result's text, unless the task was executed again by a model whose results are not repeatable.
"""

from __future__ import annotations

from typing import NamedTuple

from rota.client.session import Key
from rota.common.chat import generated
from rota.common.errors import ProtocolError, TextReplaced
from rota.common.events import TextStreamed, Watching, text_topic
from rota.common.messages import Event
from rota.common.results import Result
from rota.common.wire import decode


class Subscription(NamedTuple):
    """A topic to subscribe to, or to unsubscribe from."""

    wanted: bool
    topic: str


class _Followed:
    """The text of one task: its length so far, and the pieces that were not taken yet."""

    __slots__ = ("asked", "end", "pieces")

    def __init__(self, end: int) -> None:
        self.end = end
        self.pieces: list[str] = []
        self.asked = True  # for the text from the start, which has not come yet


class Texts:
    """Turns frames of the event socket into new text of the tasks that are followed."""

    def __init__(self) -> None:
        self._followed: dict[int, _Followed] = {}
        self._changes: list[Subscription] = []
        self._news: list[Key] = []

    def follow(self, seq: int, shown: int) -> None:
        """Follow a task, of whose text the first `shown` characters are known. May be called again."""
        if seq not in self._followed:
            self._followed[seq] = _Followed(shown)
            self._changes.append(Subscription(True, text_topic(seq)))

    def unfollow(self, seq: int) -> None:
        """Drop a task and what has come of it."""
        if self._followed.pop(seq, None) is not None:
            self._changes.append(Subscription(False, text_topic(seq)))

    def take(self, seq: int) -> str:
        """Return and remove the new text of a task that is followed; empty if there is none."""
        followed = self._followed[seq]
        text = "".join(followed.pieces)
        followed.pieces.clear()
        return text

    def begin_again(self) -> None:
        """Subscribe to everything that is followed, on a new connection."""
        self._changes = [Subscription(True, text_topic(seq)) for seq in self._followed]
        for followed in self._followed.values():
            followed.asked = True

    def receive(self, frame: bytes) -> None:
        """Process one frame of the event socket."""
        try:
            event = decode(frame, frozenset({Event}))
        except ProtocolError:
            return  # a broker of another version: the connection for requests says so
        assert isinstance(event, Event)
        what = event.what
        if not isinstance(what, TextStreamed):
            assert isinstance(what, Watching), what
            return
        followed = self._followed.get(what.seq)
        if followed is None:
            return  # it was on its way when the task was dropped
        if what.offset > followed.end:
            self._ask_again(what.seq, followed)
            return
        followed.asked = False
        new = what.text[followed.end - what.offset :]
        if new:
            followed.pieces.append(new)
            followed.end += len(new)
            self._news.append(("result", what.seq))  # who waits for the outcome of a task waits for its text too

    def changes(self) -> list[Subscription]:
        """Return and clear the changes of subscriptions that the shell must make now, in order."""
        changes, self._changes = self._changes, []
        return changes

    def take_news(self) -> list[Key]:
        """Return the keys that arrived since the last call."""
        news, self._news = self._news, []
        return news

    @property
    def is_busy(self) -> bool:
        """Whether a task is followed."""
        return bool(self._followed)

    def _ask_again(self, seq: int, followed: _Followed) -> None:
        """Subscribe again after a lost piece, for the text from the start; once until it comes."""
        if not followed.asked:
            followed.asked = True
            self._changes += [Subscription(False, text_topic(seq)), Subscription(True, text_topic(seq))]


class TextSoFar:
    """What a caller has been shown of one generate task, and its outcome."""

    def __init__(self) -> None:
        self.outcome: Result | None = None
        self.is_done = False  # all of the text was shown
        self._shown: list[str] = []
        self._chars = 0

    @property
    def chars(self) -> int:
        """How many characters were shown."""
        return self._chars

    def show(self, text: str) -> str:
        """Note text that is shown, and return it."""
        self._shown.append(text)
        self._chars += len(text)
        return text

    def show_rest(self, outcome: Result) -> str:
        """Return what is left of the text when the outcome is there. Raises `TaskFailed` and `TextReplaced`."""
        self.outcome = outcome
        text = generated(outcome).text
        shown = "".join(self._shown)
        self.is_done = True
        if not text.startswith(shown):
            raise TextReplaced(
                f"task {outcome.seq} was executed again and gave another text than what was shown of it, since its "
                "model's results are not repeatable; the result has the whole text",
                seq=outcome.seq,
            )
        return text[len(shown) :]
