"""Idempotent requests: the answers by producer and number. PURE.

A producer numbers its requests, and the journal keeps producer and number with the input. So a request sent again
(after a lost reply, a reconnect, a restart of the broker) gets its old answer and has no second effect.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from rota.broker.records import Origin
from rota.common.errors import JournalError, NumberReused, StaleNumber
from rota.common.limits import NUMBERS_KEPT_MAX, PRODUCERS_MAX
from rota.common.messages import Accepted, Answer


class _Answered(NamedTuple):
    request: bytes
    reply: Accepted | Answer


class Producers:
    """Remembers the answers to the newest requests of each producer."""

    def __init__(self, producers_max: int = PRODUCERS_MAX) -> None:
        """0: remember nobody."""
        self._max = producers_max
        self._answers: OrderedDict[str, OrderedDict[int, _Answered]] = OrderedDict()
        self._dropped: dict[str, int] = {}  # the highest number whose answer is no longer kept

    def __len__(self) -> int:
        return len(self._answers)

    def old_answer(self, origin: Origin) -> Accepted | Answer | None:
        """Return the earlier answer to this request; None if it is new.

        Raises `NumberReused` if the number came with another request, `StaleNumber` if its answer is no longer kept.
        """
        if not origin.producer:
            return None
        answers = self._answers.get(origin.producer)
        if answers is None:
            return None
        answered = answers.get(origin.number)
        if answered is None:
            if origin.number <= self._dropped.get(origin.producer, -1):
                raise StaleNumber(
                    f"request {origin.number} of producer {origin.producer!r} is too old: "
                    f"the answers to the last {NUMBERS_KEPT_MAX} requests are kept",
                    number=origin.number,
                )
            return None
        if answered.request != origin.request:
            raise NumberReused(
                f"request {origin.number} of producer {origin.producer!r} came before with other content: "
                "use a new number",
                number=origin.number,
            )
        return answered.reply

    def is_new(self, origin: Origin) -> bool:
        """Return whether the number was not used before, as far as that is known; nobody's always is."""
        if not origin.producer:
            return True
        answers: Mapping[int, _Answered] = self._answers.get(origin.producer, {})
        return origin.number not in answers and origin.number > self._dropped.get(origin.producer, -1)

    def image(self) -> list[tuple[str, int | None, list[tuple[bytes, Accepted | Answer]]]]:
        """Return each producer, the longest silent first: name, highest dropped number, requests with answers."""
        return [
            (name, self._dropped.get(name), [(one.request, one.reply) for one in answers.values()])
            for name, answers in self._answers.items()
        ]

    def restore(self, name: str, dropped: int | None, answers: list[tuple[bytes, Accepted | Answer]]) -> None:
        """Restore a row of an image; call it in the order of the image."""
        self._answers[name] = OrderedDict((reply.number, _Answered(request, reply)) for request, reply in answers)
        if dropped is not None:
            self._dropped[name] = dropped

    def remember(self, origin: Origin, reply: Accepted | Answer) -> None:
        """Keep the answer to a request that took effect. Raises `JournalError` if its number was used before."""
        if not origin.producer or not self._max:
            return
        if not self.is_new(origin):
            raise JournalError(f"request {origin.number} of producer {origin.producer!r} takes effect twice")
        answers = self._answers.setdefault(origin.producer, OrderedDict())
        self._answers.move_to_end(origin.producer)
        answers[origin.number] = _Answered(origin.request, reply)
        if len(answers) > NUMBERS_KEPT_MAX:
            number, _ = answers.popitem(last=False)
            self._dropped[origin.producer] = max(number, self._dropped.get(origin.producer, -1))
        if len(self._answers) > self._max:
            silent, _ = self._answers.popitem(last=False)
            self._dropped.pop(silent, None)
