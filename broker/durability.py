"""Which messages may leave before and after records are durable. PURE.

It implements the order of effects.py: orders to workers leave at once, records are written in one block, and every
message that depends on them waits until the block is on the disk. While the journal cannot be written, these messages
are kept and the same records are retried: inputs are refused, results wait, and nothing acknowledged is affected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rota.broker.effects import FRONTEND, QUERY, Effects, News, Send
from rota.broker.records import Record
from rota.common.errors import StorageFull
from rota.common.messages import Accepted, Answer, Event, Refused, Results

RESULTS_HELD_MAX: Final = 1_000  # messages with results waiting for the journal
NEWS_HELD_MAX: Final = 10_000  # events waiting for the journal; beyond this watchers see a gap
STORAGE_RETRY_MS: Final = 200
_SAME_NUMBER: Final = "free some space and send it again under the same number, which answers whether it did"


class Durability:
    """Holds what waits for the disk. After `take`, write `unwritten`, then call `written` or `failed`."""

    def __init__(self) -> None:
        self.unwritten: Sequence[Record] = ()
        self.full = False  # the last try to write failed
        self._sends: list[Send] = []
        self._news: list[News] = []
        self._next_try_ms = 0

    def take(self, effects: Effects) -> None:
        """Keep the records of a step, and what waits for them. Its `now` and `watches` do not wait."""
        self.unwritten = [*self.unwritten, *effects.records] if self.unwritten else effects.records
        self._sends += effects.after
        self._news += effects.news
        del self._news[:-NEWS_HELD_MAX]

    def may_try(self, mono_ms: int) -> bool:
        """Return whether to write now: always, except shortly after a failure."""
        return not self.full or mono_ms >= self._next_try_ms

    def written(self, boot: int, now_ms: int) -> tuple[list[Send], list[Event]]:
        """Note that everything so far is durable; return what may leave now."""
        self.unwritten = ()
        self.full = False
        sends, self._sends = self._sends, []
        news, self._news = self._news, []
        return sends, [Event(boot, number, now_ms, lane, what) for number, lane, what in news]

    def failed(self, reason: str, mono_ms: int) -> list[Send]:
        """Note that writing failed; return what may leave nevertheless, and keep the rest for the next try."""
        first = not self.full
        self.full = True
        self._next_try_ms = mono_ms + STORAGE_RETRY_MS
        return self.refuse(reason, first=first)

    def refuse(self, reason: str, *, first: bool = False) -> list[Send]:
        """Refuse the inputs whose records are not durable, send answers that depend on none, keep results.

        `first`: in the turn in which writing began to fail, answers to queries were made before the core knew, so a
        crash could contradict them. A refused input has taken effect in memory. If its record is written later, the
        same request sent again gets its answer; if the broker ends first, it never happened. Both agree with what the
        producer was told.
        """
        leaving: list[Send] = []
        kept: list[Send] = []
        for send in self._sends:
            message = send.message
            if isinstance(message, Results):
                kept.append(send)
            elif send.socket == FRONTEND and isinstance(message, Accepted | Answer):
                text = f"the journal cannot be written ({reason}): this request may still take effect; {_SAME_NUMBER}"
                leaving.append(_refused(send, message.number, text, {"reason": reason, "pending": True}))
            elif send.socket == QUERY and first and isinstance(message, Answer):
                text = f"the journal cannot be written ({reason}): ask again"
                leaving.append(_refused(send, message.number, text, {"reason": reason}))
            else:
                leaving.append(send)
        # Producers await dropped results again, since nothing says that they were sent.
        self._sends = kept[-RESULTS_HELD_MAX:]
        return leaving


def _refused(send: Send, number: int, text: str, fields: dict[str, object]) -> Send:
    return send._replace(message=Refused(number, StorageFull.code, text, fields))
