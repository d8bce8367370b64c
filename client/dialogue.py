"""What the next message of a dialogue sends: the head of the chain so far and the new messages, never the history.
PURE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rota.client.texts import generated
from rota.common.errors import BadPayload
from rota.common.results import Result
from rota.common.shown import shown
from rota.common.text_calls import DIGEST_BYTES, NEW_CONVERSATION


class Dialogue:
    """A head that moves with each answer. `system` is sent as the first message of a new chain."""

    def __init__(self, head: bytes | None, system: str | None, options: Mapping[str, Any]) -> None:
        if head is not None and (not isinstance(head, bytes) or len(head) != DIGEST_BYTES):
            raise BadPayload(f"conversation={shown(head)}: a head has {DIGEST_BYTES} bytes")
        if head is not None and system is not None:
            raise BadPayload("system: the conversation has its first messages already")
        self.head = head
        self._system = system
        self._options = dict(options)

    def turn(self, content: str | Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the named arguments of the generate task that says this."""
        said = [{"role": "user", "content": content}] if isinstance(content, str) else list(content)
        if self.head is None and self._system is not None:
            said = [{"role": "system", "content": self._system}, *said]
        head = NEW_CONVERSATION if self.head is None else self.head
        return {**self._options, **options, "messages": said, "conversation": head}

    def settle(self, outcome: Result) -> None:
        """Move the head behind an answer. After a failure it stays."""
        if outcome.ok:
            self.head = generated(outcome).conversation or self.head

    def fork(self) -> Dialogue:
        """Return a dialogue that goes on from here."""
        return Dialogue(self.head, None if self.head else self._system, self._options)
